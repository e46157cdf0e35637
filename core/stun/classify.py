"""What a datagram is, told by its first byte (RFC 7983 as updated by RFC 9443).

One departure: RFC 9443 gives first bytes 80-127 to QUIC, because RFC 8656 ended the channel
numbers at 0x4FFF. Clients of RFC 5766 choose channels up to 0x7FFF and no port of this node
carries QUIC, so here they are TURN channels.
"""

from __future__ import annotations

from enum import IntEnum


class PacketKind(IntEnum):
    """Protocols that share a port."""

    UNKNOWN = 0
    STUN = 1
    ZRTP = 2
    DTLS = 3
    TURN_CHANNEL = 4
    QUIC = 5
    RTP = 6


_KINDS: tuple[PacketKind, ...] = (
    (PacketKind.STUN,) * 4
    + (PacketKind.UNKNOWN,) * 12
    + (PacketKind.ZRTP,) * 4
    + (PacketKind.DTLS,) * 44
    + (PacketKind.TURN_CHANNEL,) * 64
    + (PacketKind.RTP,) * 64
    + (PacketKind.QUIC,) * 64
)
assert len(_KINDS) == 256


def classify(first_byte: int) -> PacketKind:
    """The protocol of a datagram whose first byte (0-255) is given. A STUN message is also
    known by its magic cookie, which this does not look at."""
    return _KINDS[first_byte]
