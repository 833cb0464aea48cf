"""Server-sent events as every client tested accepts them: ``data: `` and one line of JSON, then an empty line."""

import struct

import msgspec

KEEP_ALIVE = b":\n\n"  # a comment

_FLOAT32 = struct.Struct("<f")
_encoder = msgspec.json.Encoder()


def encode_event(event: msgspec.Struct) -> bytes:
    """One event. Line separators beyond ASCII are escaped: Python clients split lines at them, even inside a string."""
    payload = _encoder.encode(event)
    if not payload.isascii():
        # These byte sequences occur only inside JSON strings.
        payload = (
            payload.replace(b"\xe2\x80\xa8", b"\\u2028")
            .replace(b"\xe2\x80\xa9", b"\\u2029")
            .replace(b"\xc2\x85", b"\\u0085")
        )
    return b"data: " + payload + b"\n\n"


def shortest_float32(value: float) -> float:
    """The number whose shortest decimal form is the shortest one that names the same 32-bit float.

    -0.34 as a 32-bit float is -0.3400000035762787; JSON should say -0.34. Not finite: returned as is (null in JSON).
    Below 1.2e-38, and at a few powers of two, the form may have more digits than it needs.
    """
    try:
        packed = _FLOAT32.pack(value)
    except OverflowError:
        return value
    (value,) = _FLOAT32.unpack(packed)
    for digits in (7, 8):  # seldom fewer than 7
        short = float(f"{value:.{digits}g}")
        if _FLOAT32.pack(short) == packed:
            shorter = float(f"{value:.6g}") if digits == 7 else short
            return shorter if _FLOAT32.pack(shorter) == packed else short
    return float(f"{value:.9g}")
