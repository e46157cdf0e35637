"""Numbers of STUN and TURN, as IANA registered them.

Covers RFC 8489 (STUN), RFC 8656 (TURN), RFC 8445 (ICE), RFC 5780 (behaviour discovery),
RFC 6062 (TCP allocations), RFC 7635 (third-party authorization) and RFC 8016 (mobility).
"""

from __future__ import annotations

from enum import IntEnum

MAGIC_COOKIE = 0x2112A442
"""Bytes 4-7 of every STUN message (RFC 8489 section 5)."""

FINGERPRINT_XOR = 0x5354554E
"""What the CRC-32 of FINGERPRINT is XORed with (RFC 8489 section 14.7)."""

HEADER_BYTES = 20
"""The STUN header: type, length, magic cookie, transaction ID."""

TRANSACTION_ID_BYTES = 12

MAXIMUM_ATTRIBUTES = 256
"""Attributes that a received message may hold: more than any message that is meant, and an end
to the work that one datagram of empty attributes can ask for."""

MINIMUM_CHANNEL = 0x4000
MAXIMUM_CHANNEL = 0x7FFF
"""Channel numbers that are accepted. RFC 8656 section 12 ends them at 0x4FFF; clients of
RFC 5766 choose up to 0x7FFF."""

USERNAME_MAXIMUM_BYTES = 508
"""RFC 8489 section 14.3: fewer than 509 bytes."""

QUOTED_MAXIMUM_BYTES = 763
"""REALM, NONCE, SOFTWARE and the reason of ERROR-CODE, as received (RFC 8489 sections 14.8-14.10
and 14.14): fewer than 128 characters."""

DOMAIN_MAXIMUM_BYTES = 255
"""ALTERNATE-DOMAIN (RFC 8489 section 14.16)."""

IPV4_FAMILY = 0x01
IPV6_FAMILY = 0x02
"""Address families as the attributes write them (RFC 8489 section 14.1)."""

UDP_PROTOCOL = 17
TCP_PROTOCOL = 6
"""Values of REQUESTED-TRANSPORT (RFC 8656 section 18.8, RFC 6062 section 4.1)."""

CHANGE_IP_FLAG = 0x4
CHANGE_PORT_FLAG = 0x2
"""Bits of CHANGE-REQUEST (RFC 5780 section 7.2)."""


class Method(IntEnum):
    """STUN methods."""

    BINDING = 0x001
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009
    CONNECT = 0x00A
    CONNECTION_BIND = 0x00B
    CONNECTION_ATTEMPT = 0x00C


class MessageClass(IntEnum):
    """STUN classes (RFC 8489 section 5)."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Attribute(IntEnum):
    """STUN attribute types; those below 0x8000 must be understood (RFC 8489 section 14)."""

    MAPPED_ADDRESS = 0x0001
    CHANGE_REQUEST = 0x0003
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    REALM = 0x0014
    NONCE = 0x0015
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_ADDRESS_FAMILY = 0x0017
    EVEN_PORT = 0x0018
    REQUESTED_TRANSPORT = 0x0019
    DONT_FRAGMENT = 0x001A
    ACCESS_TOKEN = 0x001B
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    RESERVATION_TOKEN = 0x0022
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    PADDING = 0x0026
    RESPONSE_PORT = 0x0027
    CONNECTION_ID = 0x002A
    ADDITIONAL_ADDRESS_FAMILY = 0x8000
    ADDRESS_ERROR_CODE = 0x8001
    PASSWORD_ALGORITHMS = 0x8002
    ALTERNATE_DOMAIN = 0x8003
    ICMP = 0x8004
    SOFTWARE = 0x8022
    ALTERNATE_SERVER = 0x8023
    CACHE_TIMEOUT = 0x8027
    FINGERPRINT = 0x8028
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A
    RESPONSE_ORIGIN = 0x802B
    OTHER_ADDRESS = 0x802C
    THIRD_PARTY_AUTHORIZATION = 0x802E
    MOBILITY_TICKET = 0x8030


ATTRIBUTE_ALIASES: dict[int, int] = {
    0x8032: Attribute.ADDITIONAL_ADDRESS_FAMILY,
    0x8033: Attribute.ADDRESS_ERROR_CODE,
}
"""Numbers that coturn's tools of before RFC 8656 write, and what they mean."""


ERROR_REASONS: dict[int, str] = {
    300: "Try Alternate",
    400: "Bad Request",
    401: "Unauthenticated",
    403: "Forbidden",
    405: "Mobility Forbidden",
    420: "Unknown Attribute",
    437: "Allocation Mismatch",
    438: "Stale Nonce",
    440: "Address Family not Supported",
    441: "Wrong Credentials",
    442: "Unsupported Transport Protocol",
    443: "Peer Address Family Mismatch",
    446: "Connection Already Exists",
    447: "Connection Timeout or Failure",
    486: "Allocation Quota Reached",
    487: "Role Conflict",
    500: "Server Error",
    508: "Insufficient Capacity",
}
"""The registered error codes and the reason phrases that the RFCs give them."""
