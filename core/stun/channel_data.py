"""ChannelData messages (RFC 8656 section 12.4): a channel number, a length, the data."""

from __future__ import annotations

from core.errors import StunError

from .constants import MAXIMUM_CHANNEL, MINIMUM_CHANNEL

_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def encode_channel_data(channel: int, payload: bytes, *, padded: bool = False) -> bytes:
    """`payload` on `channel` (0x4000-0x7FFF), with zero bytes up to a multiple of four where
    `padded`: over a stream that is required, over UDP it is needless (RFC 8656 section 12.5).

    Raises:
        StunError: `payload` has more than 65,535 bytes.
    """
    assert MINIMUM_CHANNEL <= channel <= MAXIMUM_CHANNEL, "a channel is in 0x4000-0x7FFF"
    size = len(payload)
    if size > 0xFFFF:
        raise StunError("the payload exceeds what ChannelData can hold")
    message = (channel << 16 | size).to_bytes(4, "big") + payload
    if padded and size & 3:
        message += _PADDING[size & 3]
    return message


def decode_channel_data_untrusted(datagram: bytes) -> tuple[int, bytes]:
    """The channel number and the data of one ChannelData message. What follows the data (padding,
    and over UDP anything else) is ignored.

    Raises:
        StunError: too short, a channel outside of 0x4000-0x7FFF, or a length that exceeds
            what is there (RFC 8656 section 12.6: discarded silently).
    """
    size = len(datagram)
    if size < 4:
        raise StunError("shorter than a ChannelData header")
    channel = datagram[0] << 8 | datagram[1]
    if channel < MINIMUM_CHANNEL or channel > MAXIMUM_CHANNEL:
        raise StunError("the channel number is not one")
    end = 4 + (datagram[2] << 8 | datagram[3])
    if end > size:
        raise StunError("ChannelData is longer than its datagram")
    return channel, datagram[4:end]
