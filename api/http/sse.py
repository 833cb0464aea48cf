"""Server-sent events as every client tested accepts them: ``data: `` and one line of JSON, then an empty line."""

import struct

import msgspec

KEEP_ALIVE = b":\n\n"  # a comment
KEEP_ALIVE_S = 15.0  # of silence, until one is sent

_FLOAT32 = struct.Struct("<f")
_SPARSE = 2.0**-9  # below, 32-bit floats may lie farther apart than numbers of 7 digits
_encoder = msgspec.json.Encoder()


def encode_event(event: msgspec.Struct) -> bytes:
    """One event. Line separators beyond ASCII are escaped: Python clients split lines at them, even inside a string."""
    return event_of(_encoder.encode(event))


def event_of(payload: bytes) -> bytes:
    """The event of JSON that was encoded elsewhere."""
    if not payload.isascii():
        # These byte sequences occur only inside JSON strings.
        payload = (
            payload.replace(b"\xe2\x80\xa8", b"\\u2028")
            .replace(b"\xe2\x80\xa9", b"\\u2029")
            .replace(b"\xc2\x85", b"\\u0085")
        )
    return b"data: " + payload + b"\n\n"


def named_event(name: bytes, payload: bytes) -> bytes:
    """The event of JSON that was encoded elsewhere, with a name of its own."""
    return b"event: " + name + b"\n" + event_of(payload)


def encode_named_event(event: msgspec.Struct) -> bytes:
    """One event, named by its tag."""
    name = event.__struct_config__.tag
    assert isinstance(name, str), "an event with a name is tagged with it"
    return named_event(name.encode(), _encoder.encode(event))


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
    short = float(f"{value:.7g}")  # without zeros at its end
    if _FLOAT32.pack(short) == packed:
        if -_SPARSE < value < _SPARSE and _FLOAT32.pack(shorter := float(f"{value:.6g}")) == packed:
            return shorter
        return short
    short = float(f"{value:.8g}")
    return short if _FLOAT32.pack(short) == packed else float(f"{value:.9g}")
