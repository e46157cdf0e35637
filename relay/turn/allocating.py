"""From an Allocate request to an allocation (RFC 8656 section 7.2).

The relay is bound by somebody else, whose answer comes back as an event: until then the request
waits as a `Pending`. A port that can't be had leads to another, a few times.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from core.config import TurnLimits
from core.errors import StunError
from core.stun.address import Address
from core.stun.attributes import (
    decode_address_family_untrusted,
    decode_even_port_untrusted,
    decode_requested_transport_untrusted,
    decode_reservation_token_untrusted,
)
from core.stun.constants import IPV4_FAMILY, IPV6_FAMILY, UDP_PROTOCOL, Attribute
from core.stun.message import Message
from core.units import NS_PER_S
from relay.turn.allocation import Allocation
from relay.turn.authentication import Proof
from relay.turn.ports import RelayPorts

PORT_TRIES = 10
RESERVATION_LIFETIME_NS = 30 * NS_PER_S
"""RFC 8656 section 7.2: at least 30 seconds."""

_IP_BYTES = {IPV4_FAMILY: 4, IPV6_FAMILY: 16}


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
        if family not in _IP_BYTES:
            raise StunError("no such address family", 440)
        families = (_IP_BYTES[family],)
    if not any(ports.has_family(ip_bytes) for ip_bytes in families):
        raise StunError("no relayed address is of this family", 440)
    return Wish(families, refused, even_value is not None, reserve, None)


class Relay(NamedTuple):
    """A relayed transport address, wished for or bound; `number` is what effects call it."""

    number: int
    address: Address


class Pending:
    """An Allocate that waits for its relays, which are opened one after another.

    Attributes:
        families: lengths (4, 16) of the addresses that are still to be opened.
        waiting_for: the relay that has been wished for.
        relays: those that are open, one a family.
        sibling: the next higher port, open and to be reserved.
        refused: (family, code) of addresses that can't be had.
        tries: how many ports of the present family have been tried.
    """

    __slots__ = (
        "allocation",
        "families",
        "lifetime_s",
        "message",
        "proof",
        "refused",
        "relays",
        "sibling",
        "tries",
        "waiting_for",
        "wish",
    )

    def __init__(
        self,
        allocation: Allocation,
        message: Message,
        proof: Proof,
        wish: Wish,
        lifetime_s: int,
    ) -> None:
        self.allocation = allocation
        self.message = message
        self.proof = proof
        self.wish = wish
        self.lifetime_s = lifetime_s
        self.families = list(wish.families)
        self.refused = list(wish.refused)
        self.relays: list[Relay] = []
        self.sibling: Relay | None = None
        self.waiting_for: Relay | None = None
        self.tries = 0


class Reservation(NamedTuple):
    """A port that EVEN-PORT has put by; it is bound already, so that nobody else gets it. It
    counts as an allocation of its account's."""

    relay: Relay
    account: str
    expires_ns: int


class Quotas:
    """How many allocations and reservations each account has, and all of them."""

    def __init__(self) -> None:
        self._by_account: Counter[str] = Counter()
        self.total = 0

    def check(self, account: str, limits: TurnLimits, more: int) -> None:
        """Whether `account` may have `more` of them.

        Raises:
            StunError: 486, 508.
        """
        if self._by_account[account] + more > limits.allocations_per_user:
            raise StunError("this user has as many allocations as it may", 486)
        if self.total + more > limits.allocations:
            raise StunError("the node has as many allocations as it may", 508)

    def add(self, account: str) -> None:
        """One more."""
        self._by_account[account] += 1
        self.total += 1

    def remove(self, account: str) -> None:
        """One less; an account that has none is forgotten."""
        self.total -= 1
        self._by_account[account] -= 1
        if not self._by_account[account]:
            del self._by_account[account]
