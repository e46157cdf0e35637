"""How messages are cut out of the byte stream: a big-endian 32-bit length, then that many bytes."""

from __future__ import annotations

import struct

from core.errors import ApiError

REQUEST_BYTES_MAX = 64 * 1024
"""The longest message that the node takes from a client."""
REPLY_BYTES_MAX = 4 * 1024 * 1024
"""The longest message that a client takes from the node."""
IN_FLIGHT_MAX = 128
"""How many requests of one connection the node carries out beside each other. It reads no further
while there are so many, and a client sends no more."""

_LENGTH = struct.Struct("!I")


def encode_frame(payload: bytes) -> bytes:
    """Put a length before `payload` (1 to `REPLY_BYTES_MAX` bytes)."""
    assert 0 < len(payload) <= REPLY_BYTES_MAX
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Gathers received bytes and gives back whole frames; holds less than one frame more than
    what one call of `feed_untrusted` was given."""

    __slots__ = ("_buffer", "_payload_bytes_max")

    def __init__(self, payload_bytes_max: int) -> None:
        assert 0 < payload_bytes_max <= REPLY_BYTES_MAX
        self._payload_bytes_max = payload_bytes_max
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """How much of an unfinished frame is held."""
        return len(self._buffer)

    def feed_untrusted(self, data: bytes) -> list[bytes]:
        """Take `data` and return the payloads that are whole now, in order.

        Raises:
            ApiError: a length of zero or above the limit; the stream can't be read further.
        """
        buffer = self._buffer
        buffer += data
        payloads: list[bytes] = []
        position = 0
        while len(buffer) - position >= _LENGTH.size:
            (payload_bytes,) = _LENGTH.unpack_from(buffer, position)
            if not 0 < payload_bytes <= self._payload_bytes_max:
                buffer.clear()
                raise ApiError(
                    f"a message of {payload_bytes} bytes; 1 to {self._payload_bytes_max} are taken"
                )
            end = position + _LENGTH.size + payload_bytes
            if end > len(buffer):
                break
            payloads.append(bytes(buffer[position + _LENGTH.size : end]))
            position = end
        del buffer[:position]
        return payloads
