"""What an Allocate asks for (RFC 8656 section 7.2, the checks)."""

from __future__ import annotations

from typing import NamedTuple

from core.errors import StunError
from core.stun.attributes import (
    decode_address_family_untrusted,
    decode_even_port_untrusted,
    decode_requested_transport_untrusted,
    decode_reservation_token_untrusted,
)
from core.stun.constants import IPV4_FAMILY, IPV6_FAMILY, UDP_PROTOCOL, Attribute
from core.stun.message import Message
from relay.turn.ports import RelayPorts

IP_BYTES = {IPV4_FAMILY: 4, IPV6_FAMILY: 16}
"""An address family's number -> the length of its addresses."""


class Wish(NamedTuple):
    """What an Allocate asks for.

    Attributes:
        families: lengths (4, 16) of the relayed addresses, the first one required unless there
            are two, of which one is enough.
        refused: (family, code) of an additional address that can't be had.
        even, reserve: EVEN-PORT and its R bit.
        token: RESERVATION-TOKEN.
    """

    families: tuple[int, ...]
    refused: tuple[tuple[int, int], ...]
    even: bool
    reserve: bool
    token: bytes | None


def read_wish_untrusted(message: Message, ports: RelayPorts) -> Wish:
    """Read and check the attributes of an Allocate, in the RFC's order.

    Raises:
        StunError: 400, 440, 442.
    """
    transport = message.first(Attribute.REQUESTED_TRANSPORT)
    if transport is None:
        raise StunError("REQUESTED-TRANSPORT is missing")
    if decode_requested_transport_untrusted(transport) != UDP_PROTOCOL:
        raise StunError("only UDP is relayed", 442)
    token_value = message.first(Attribute.RESERVATION_TOKEN)
    even_value = message.first(Attribute.EVEN_PORT)
    family_value = message.first(Attribute.REQUESTED_ADDRESS_FAMILY)
    additional_value = message.first(Attribute.ADDITIONAL_ADDRESS_FAMILY)
    if token_value is not None:
        if even_value is not None or family_value is not None or additional_value is not None:
            raise StunError("RESERVATION-TOKEN goes with no other choice of an address")
        return Wish((), (), False, False, decode_reservation_token_untrusted(token_value))
    reserve = False
    if even_value is not None:
        reserve = decode_even_port_untrusted(even_value)
    refused: tuple[tuple[int, int], ...] = ()
    if additional_value is not None:
        if family_value is not None:
            raise StunError("two requests for an address family exclude each other")
        if reserve:
            raise StunError("a reserved port and an additional address exclude each other")
        if decode_address_family_untrusted(additional_value) != IPV6_FAMILY:
            raise StunError("the additional address family is not IPv6")
        families: tuple[int, ...] = (4, 16)
        if not ports.has_family(16):
            families, refused = (4,), ((IPV6_FAMILY, 440),)
        elif not ports.has_family(4):
            families, refused = (16,), ((IPV4_FAMILY, 440),)
    else:
        family = IPV4_FAMILY
        if family_value is not None:
            family = decode_address_family_untrusted(family_value)
        if family not in IP_BYTES:
            raise StunError("no such address family", 440)
        families = (IP_BYTES[family],)
    if not any(ports.has_family(ip_bytes) for ip_bytes in families):
        raise StunError("no relayed address is of this family", 440)
    return Wish(families, refused, even_value is not None, reserve, None)
