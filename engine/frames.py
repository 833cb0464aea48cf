"""Frames on the Unix socket: 4-byte big-endian length, then one msgpack document. Used by both ends."""

import struct
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

_LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 256 << 20

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


class FrameError(Exception):
    """The peer sent something that is no frame of ours; the connection must be closed."""


def encode_frame(message: Any) -> bytes:
    """Encode one Struct of messages.py as a frame."""
    buffer = bytearray(_LENGTH.size)
    _encoder.encode_into(message, buffer, _LENGTH.size)
    _LENGTH.pack_into(buffer, 0, len(buffer) - _LENGTH.size)
    return bytes(buffer)


class FrameReader(Generic[T]):
    """Turns received bytes, cut anywhere, into messages of the given union."""

    def __init__(self, union: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(union)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """Yield every message that ``data`` completes. Raises FrameError."""
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, start)
                if length > MAX_FRAME_BYTES:
                    raise FrameError(f"frame of {length} bytes")
                end = start + _LENGTH.size + length
                if len(self._buffer) < end:
                    break
                try:
                    message = self._decoder.decode(memoryview(self._buffer)[start + _LENGTH.size : end])
                except msgspec.DecodeError as error:
                    raise FrameError(str(error)) from error
                start = end
                yield message
        finally:
            del self._buffer[:start]
