"""From an Allocate request to an allocation (RFC 8656 section 7.2).

The relay is bound by somebody else, whose answer comes back as an event: until then the request
waits as a `Pending`. A port that can't be had leads to another, a few times.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from core.config import TurnConfig
from core.errors import StunError
from core.stun.address import Address, FiveTuple
from core.stun.attributes import encode_address_error_code, encode_uint32, encode_xor_address
from core.stun.constants import ERROR_REASONS, IPV4_FAMILY, IPV6_FAMILY, Attribute
from core.stun.message import Message
from core.units import NS_PER_S
from relay.turn import replies
from relay.turn.allocation import Allocation, lifetime_s_untrusted
from relay.turn.allocation_table import AllocationTable
from relay.turn.authentication import UNAUTHENTICATED, Proof
from relay.turn.effects import (
    CloseRelay,
    Effect,
    JoinSession,
    LeaveSession,
    OpenAllocation,
    OpenRelay,
    Reply,
)
from relay.turn.peer_policy import PeerPolicy
from relay.turn.ports import RelayPorts
from relay.turn.quotas import Quotas
from relay.turn.wish import Wish, read_wish_untrusted

PORT_TRIES = 10
RESERVATION_LIFETIME_NS = 30 * NS_PER_S
"""RFC 8656 section 7.2: at least 30 seconds."""

_FAMILY = {4: IPV4_FAMILY, 16: IPV6_FAMILY}
_TOKEN_BYTES = 8


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
        has_joined: whether somebody has been asked who pays, and has not refused.
        tries: how many ports of the present family have been tried.
    """

    __slots__ = (
        "allocation",
        "families",
        "has_joined",
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
        self.has_joined = False
        self.tries = 0


class Reservation(NamedTuple):
    """A port that EVEN-PORT has put by; it is bound already, so that nobody else gets it. It
    counts as an allocation of its account's."""

    relay: Relay
    account: str
    expires_ns: int


class Allocator:
    """Answers Allocate requests.

    Args:
        random: gives as many random bytes as asked for.
        unix_time_s: the wall clock, for the expiry of credentials.
        metered: whether somebody has to pay for every allocation, not only for those of calls.

    Attributes:
        config, policy: the present ones.
        draining: whether new allocations are refused.
    """

    def __init__(
        self,
        config: TurnConfig,
        policy: PeerPolicy,
        table: AllocationTable,
        ports: RelayPorts,
        quotas: Quotas,
        *,
        random: Callable[[int], bytes],
        unix_time_s: Callable[[], float],
        metered: bool,
    ) -> None:
        self.config = config
        self.policy = policy
        self.draining = False
        self._table = table
        self._ports = ports
        self._quotas = quotas
        self._random = random
        self._unix_time_s = unix_time_s
        self._metered = metered
        self._joining: dict[int, Pending] = {}
        self._next_number = 1
        self._pending: dict[FiveTuple, Pending] = {}
        self._waiting: dict[int, Pending] = {}
        self._reservations: OrderedDict[bytes, Reservation] = OrderedDict()

    @property
    def next_deadline_ns(self) -> int | None:
        """When `expire` has something to do."""
        if not self._reservations:
            return None
        return next(iter(self._reservations.values())).expires_ns

    def expire(self, now_ns: int) -> list[Effect]:
        """Give up the reservations that nobody has claimed by `now_ns`."""
        effects: list[Effect] = []
        while self._reservations:
            token, reservation = next(iter(self._reservations.items()))
            if reservation.expires_ns > now_ns:
                break
            del self._reservations[token]
            self._quotas.remove(reservation.account)
            self._ports.release(reservation.relay.address)
            effects.append(CloseRelay(reservation.relay.number))
        return effects

    def is_pending(self, message: Message, five_tuple: FiveTuple) -> bool:
        """Whether the request waits for its relay already: its answer comes then."""
        pending = self._pending.get(five_tuple)
        return pending is not None and pending.message.transaction_id == message.transaction_id

    def allocate_untrusted(
        self, message: Message, five_tuple: FiveTuple, proof: Proof, now_ns: int
    ) -> list[Effect]:
        """Begin with an Allocate that has been authenticated.

        Raises:
            StunError: 400, 401, 437, 440, 442, 486, 508.
        """
        if five_tuple in self._table.by_five_tuple or five_tuple in self._pending:
            raise StunError("the five-tuple has an allocation", 437)
        identity = proof.identity
        assert identity is not None, "only an allocation's own key comes without an identity"
        expires_unix_s = identity.expires_unix_s
        if expires_unix_s is not None and expires_unix_s <= self._unix_time_s():
            raise StunError("the credential has expired", UNAUTHENTICATED)
        wish = read_wish_untrusted(message, self._ports)
        lifetime_s = lifetime_s_untrusted(message, self.config)
        if self.draining:
            raise StunError("the node is about to stop", 508)
        reserved: Relay | None = None
        if wish.token is not None:
            reserved = self._claim(wish.token, identity.account)
        else:
            count = 2 if wish.reserve else 1
            self._quotas.check(identity.account, self.config.limits, count)
            self._quotas.add(identity.account, count)
        # A name alone is no session: who has another secret can sign the same one.
        bound = proof.payer != identity.account and not identity.is_call
        session = f"{proof.payer} {identity.session}" if bound else identity.session
        allocation = Allocation(
            self._new_number(),
            five_tuple,
            proof.username,
            proof.key,
            proof.algorithm,
            identity.account,
            session,
            static=expires_unix_s is None,
        )
        pending = Pending(allocation, message, proof, wish, lifetime_s)
        self._pending[five_tuple] = pending
        if reserved is not None:
            pending.relays.append(reserved)
        if self._metered or identity.is_call:
            self._joining[allocation.number] = pending
            payer = None if identity.is_call else proof.payer
            return [JoinSession(allocation.number, session, payer)]
        return self._advance(pending, now_ns)

    def session_joined(self, allocation: int, now_ns: int) -> list[Effect]:
        """Somebody pays for what `JoinSession` has asked for."""
        pending = self._joining.pop(allocation)
        pending.has_joined = True
        return self._advance(pending, now_ns)

    def session_refused(self, allocation: int, code: int) -> list[Effect]:
        """Nobody does: the client is told `code`."""
        pending = self._joining.pop(allocation)
        # A relay that was reserved is given up with the rest of what the client had.
        effects: list[Effect] = [CloseRelay(relay.number) for relay in pending.relays]
        for relay in pending.relays:
            self._ports.release(relay.address)
        return effects + self._refuse(pending, code)

    def relay_opened(self, relay: int, now_ns: int) -> list[Effect]:
        """The relay that `OpenRelay` has wished for is bound."""
        pending, opened = self._take_waiting(relay)
        if pending.wish.reserve and len(pending.relays) == 1:
            pending.sibling = opened
            return self._advance(pending, now_ns)
        pending.relays.append(opened)
        if pending.wish.reserve:
            sibling = Address(opened.address.ip, opened.address.port + 1)
            return [self._wish_for(pending, sibling)]
        pending.families.pop(0)
        pending.tries = 0
        return self._advance(pending, now_ns)

    def relay_failed(self, relay: int, now_ns: int) -> list[Effect]:
        """The relay that `OpenRelay` has wished for can't be had; another port is tried."""
        pending, failed = self._take_waiting(relay)
        pending.tries += 1
        self._ports.release(failed.address)
        effects: list[Effect] = []
        if pending.wish.reserve:
            if pending.relays:
                even = pending.relays.pop()
                self._ports.release(even.address)
                effects.append(CloseRelay(even.number))
            else:
                self._ports.release(Address(failed.address.ip, failed.address.port + 1))
        return effects + self._advance(pending, now_ns)

    def _claim(self, token: bytes, account: str) -> Relay:
        """The relay that the token stands for; its place in the quotas passes on with it."""
        reservation = self._reservations.get(token)
        if reservation is None or reservation.account != account:
            raise StunError("nothing is reserved under this token", 508)
        del self._reservations[token]
        return reservation.relay

    def _new_number(self) -> int:
        number = self._next_number
        self._next_number += 1
        return number

    def _wish_for(self, pending: Pending, address: Address) -> OpenRelay:
        relay = Relay(self._new_number(), address)
        pending.waiting_for = relay
        self._waiting[relay.number] = pending
        return OpenRelay(relay.number, address)

    def _take_waiting(self, number: int) -> tuple[Pending, Relay]:
        pending = self._waiting.pop(number)
        relay = pending.waiting_for
        assert relay is not None
        assert relay.number == number
        pending.waiting_for = None
        return pending, relay

    def _advance(self, pending: Pending, now_ns: int) -> list[Effect]:
        """Wish for the next relay of a pending Allocate, or answer it."""
        wish = pending.wish
        preferred = pending.allocation.five_tuple.server.ip
        if pending.sibling is not None:
            pending.families.clear()
        while pending.families:
            ip_bytes = pending.families[0]
            if pending.tries < PORT_TRIES:
                address = self._ports.take(ip_bytes, preferred, even=wish.even, pair=wish.reserve)
                if address is not None:
                    return [self._wish_for(pending, address)]
            pending.families.pop(0)
            pending.tries = 0
            pending.refused.append((_FAMILY[ip_bytes], 508))
        if pending.relays:
            del self._pending[pending.allocation.five_tuple]
            return self._finish(pending, now_ns)
        effects = self._refuse(pending, 508)
        if pending.has_joined:
            effects.append(LeaveSession(pending.allocation.number))
        return effects

    def _refuse(self, pending: Pending, code: int) -> list[Effect]:
        """Answer a pending Allocate by an error."""
        allocation = pending.allocation
        del self._pending[allocation.five_tuple]
        self._quotas.remove(allocation.account, 2 if pending.wish.reserve else 1)
        return [Reply(allocation.five_tuple, replies.error(pending.message, code, pending.proof))]

    def _finish(self, pending: Pending, now_ns: int) -> list[Effect]:
        allocation = pending.allocation
        addresses = tuple(relay.address for relay in pending.relays)
        expires_ns = now_ns + pending.lifetime_s * NS_PER_S
        allocation.relayed = addresses
        allocation.families = {len(address.ip): expires_ns for address in addresses}
        allocation.transaction_id = pending.message.transaction_id
        allocation.answer = replies.success(
            pending.message, self._describe(pending, addresses, now_ns), pending.proof
        )
        self._table.add(allocation)
        return [
            OpenAllocation(
                allocation.number,
                allocation.five_tuple,
                tuple(relay.number for relay in pending.relays),
                allocation.session,
                allocation.account,
                expires_ns,
                allocation.answer,
            )
        ]

    def _describe(
        self, pending: Pending, addresses: tuple[Address, ...], now_ns: int
    ) -> list[tuple[int, bytes]]:
        """What the success answer holds; a port to be reserved gets its token here."""
        transaction_id = pending.message.transaction_id
        attributes: list[tuple[int, bytes]] = [
            (
                Attribute.XOR_RELAYED_ADDRESS,
                encode_xor_address(self.policy.outer(address), transaction_id),
            )
            for address in addresses
        ]
        attributes.append((Attribute.LIFETIME, encode_uint32(pending.lifetime_s)))
        if pending.sibling is not None:
            token = self._random(_TOKEN_BYTES)
            self._reservations[token] = Reservation(
                pending.sibling, pending.allocation.account, now_ns + RESERVATION_LIFETIME_NS
            )
            attributes.append((Attribute.RESERVATION_TOKEN, token))
        client = pending.allocation.five_tuple.client
        attributes.append(
            (Attribute.XOR_MAPPED_ADDRESS, encode_xor_address(client, transaction_id))
        )
        attributes += [
            (
                Attribute.ADDRESS_ERROR_CODE,
                encode_address_error_code(family, code, ERROR_REASONS[code]),
            )
            for family, code in pending.refused
        ]
        return attributes
