"""The TURN server (RFC 8656): what arrives and the time go in, effects come out.

It does no I/O. Whoever drives it carries the effects out in their order and tells the outcome of
each `OpenRelay` by `relay_opened` or `relay_failed`; an Allocate is answered only then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from core.config import TurnConfig
from core.errors import StunError
from core.stun.address import Address, FiveTuple
from core.stun.attributes import (
    decode_address_family_untrusted,
    decode_channel_number_untrusted,
    decode_uint32_untrusted,
    decode_xor_address_untrusted,
    encode_address_error_code,
    encode_uint32,
    encode_xor_address,
)
from core.stun.constants import (
    ERROR_REASONS,
    IPV4_FAMILY,
    IPV6_FAMILY,
    Attribute,
    MessageClass,
    Method,
)
from core.stun.message import Message, decode_message_untrusted
from core.units import NS_PER_S
from relay.dataplane.interface import OWN_NO, OWN_RELAYS_ONLY
from relay.turn import replies
from relay.turn.allocating import (
    PORT_TRIES,
    RESERVATION_LIFETIME_NS,
    Pending,
    Quotas,
    Relay,
    Reservation,
    read_wish_untrusted,
)
from relay.turn.allocation import (
    CHANNEL_LIFETIME_NS,
    PERMISSION_LIFETIME_NS,
    Allocation,
    Channel,
)
from relay.turn.authentication import STALE_NONCE, UNAUTHENTICATED, Authenticator, Proof
from relay.turn.credentials import CredentialBook
from relay.turn.effects import (
    CloseAllocation,
    CloseRelay,
    Effect,
    InstallChannel,
    InstallPermission,
    OpenAllocation,
    OpenRelay,
    RefreshAllocation,
    RelayData,
    RemoveChannel,
    RemovePermission,
    Reply,
)
from relay.turn.nonce import NonceMint
from relay.turn.peer_policy import FORBIDDEN, PeerPolicy
from relay.turn.ports import RelayPorts
from relay.turn.reply_cap import ReplyCap

_KNOWN = frozenset(
    {
        Attribute.USERNAME,
        Attribute.USERHASH,
        Attribute.REALM,
        Attribute.NONCE,
        Attribute.PASSWORD_ALGORITHM,
        Attribute.MESSAGE_INTEGRITY,
        Attribute.MESSAGE_INTEGRITY_SHA256,
        Attribute.REQUESTED_TRANSPORT,
        Attribute.LIFETIME,
        Attribute.REQUESTED_ADDRESS_FAMILY,
        Attribute.EVEN_PORT,
        Attribute.RESERVATION_TOKEN,
        Attribute.DONT_FRAGMENT,
        Attribute.XOR_PEER_ADDRESS,
        Attribute.CHANNEL_NUMBER,
        Attribute.DATA,
    }
)
_BINDING_KNOWN = frozenset(
    {
        Attribute.USERNAME,
        Attribute.REALM,
        Attribute.NONCE,
        Attribute.MESSAGE_INTEGRITY,
        Attribute.MESSAGE_INTEGRITY_SHA256,
    }
)
_ICMP_TYPES = {4: frozenset({3, 11}), 16: frozenset({1, 2, 3})}
"""What RFC 8656 section 11.5 has told: unreachable, too big, out of time."""
_ICMP_INTERVAL_NS = NS_PER_S // 100
_FAMILY = {4: IPV4_FAMILY, 16: IPV6_FAMILY}
_TOKEN_BYTES = 8
_STALE_DEADLINES = 256
_CLOSED_ANSWERS = 256
"""Answers to Refresh requests that closed an allocation, kept for their retransmissions."""


class Server:
    """A TURN server over datagrams.

    Args:
        config: with the ports that are really listened on in `listen`.
        random: gives as many bytes of the operating system's randomness as asked for.
        unix_time_s: the wall clock, for the expiry of credentials.
        is_local: whether a packed IP address is one of this machine's.
    """

    def __init__(
        self,
        config: TurnConfig,
        *,
        random: Callable[[int], bytes],
        unix_time_s: Callable[[], float],
        is_local: Callable[[bytes], bool],
    ) -> None:
        self._random = random
        self._unix_time_s = unix_time_s
        self._is_local = is_local
        self._nonce_key = random(32)
        self._cap_key = random(16)
        self._listening = [endpoint.address for endpoint in config.listen]
        self._ports = RelayPorts(config.relay_addresses, config.relay_ports, random)
        self._quotas = Quotas()
        self._draining = False
        self._next_number = 1
        self._allocations: dict[FiveTuple, Allocation] = {}
        self._by_number: dict[int, Allocation] = {}
        self._live_relays: set[Address] = set()
        self._pending: dict[FiveTuple, Pending] = {}
        self._waiting: dict[int, Pending] = {}
        self._reservations: OrderedDict[bytes, Reservation] = OrderedDict()
        self._closed: OrderedDict[FiveTuple, tuple[bytes, bytes]] = OrderedDict()
        self._deadlines: list[tuple[int, int]] = []
        self._handlers = {
            Method.REFRESH: self._refresh,
            Method.CREATE_PERMISSION: self._create_permission,
            Method.CHANNEL_BIND: self._bind_channel,
        }
        self._take_over(config)

    def _take_over(self, config: TurnConfig) -> None:
        book = CredentialBook(config.realm, config.users, config.secrets)
        self._config = config
        self._book = book
        mint = NonceMint(
            self._nonce_key, config.nonce_lifetime_s, user_anonymity=self._book.knows_hashes
        )
        self._authenticator = Authenticator(config.realm, self._book, mint)
        self._cap = ReplyCap(
            config.limits.error_replies_per_second,
            config.limits.error_replies_exempt,
            self._cap_key,
        )
        listening = [address.ip for address in self._listening]
        self._policy = PeerPolicy(
            config.peers,
            [*config.relay_addresses, *listening, *config.external],
            config.relay_addresses,
            config.external,
            self._is_local,
        )

    # ------------------------------------------------------------ what the node asks

    @property
    def allocation_count(self) -> int:
        """Allocations that live now."""
        return len(self._by_number)

    @property
    def next_deadline_ns(self) -> int | None:
        """When `expire` has something to do."""
        deadline_ns = self._deadlines[0][0] if self._deadlines else None
        if self._reservations:
            first_ns = next(iter(self._reservations.values())).expires_ns
            if deadline_ns is None or first_ns < deadline_ns:
                return first_ns
        return deadline_ns

    def drain(self) -> list[Effect]:
        """Answer 508 to every new Allocate: the client is to try another server."""
        self._draining = True
        return []

    def reconfigure(self, config: TurnConfig) -> list[Effect]:
        """Take over users, secrets, peer rules and limits; allocations of users that are gone, or
        have another password, end."""
        self._take_over(config)
        ending = []
        for allocation in self._by_number.values():
            if not allocation.static:
                continue
            if not self._still_fits(allocation):
                ending.append(allocation)
        return [self._close(allocation, "user removed") for allocation in ending]

    def _still_fits(self, allocation: Allocation) -> bool:
        identity = self._book.look_up_untrusted(allocation.username)
        if identity is None:
            return False
        try:
            keys = self._book.keys(allocation.username, identity, allocation.algorithm)
        except StunError:
            # A password of which no key can be made lets nobody in.
            return False
        return allocation.key in keys

    def close_session(self, session: str, reason: str) -> list[Effect]:
        """End every allocation of a session: a hang-up, an empty balance, the operator's wish."""
        ending = [one for one in self._by_number.values() if one.session == session]
        return [self._close(allocation, reason) for allocation in ending]

    # ------------------------------------------------------------ what arrives

    def receive(self, datagram: bytes, five_tuple: FiveTuple, now_ns: int) -> list[Effect]:
        """A datagram from a client that is not relayed data."""
        try:
            message = decode_message_untrusted(datagram)
        except StunError:
            # Without a transaction there is nobody to answer.
            return []
        # What has expired and only waits to be removed stands in nobody's way.
        effects: list[Effect] = []
        allocation = self._allocations.get(five_tuple)
        if allocation is not None and allocation.deadline_ns <= now_ns:
            self._expire_parts(allocation, now_ns, effects)
        effects += self._handle(message, five_tuple, now_ns)
        return effects

    def _handle(self, message: Message, five_tuple: FiveTuple, now_ns: int) -> list[Effect]:
        if message.message_class == MessageClass.REQUEST:
            if message.method == Method.BINDING:
                return self._binding(message, five_tuple, now_ns)
            if message.method == Method.ALLOCATE or message.method in self._handlers:
                return self._request(message, five_tuple, now_ns)
        elif message.message_class == MessageClass.INDICATION and message.method == Method.SEND:
            return self._send(message, five_tuple, now_ns)
        return []

    def relay_opened(self, relay: int, now_ns: int) -> list[Effect]:
        """The relay that `OpenRelay` has wished for is bound."""
        pending = self._waiting.pop(relay)
        opened = pending.waiting_for
        assert opened is not None
        assert opened.number == relay
        pending.waiting_for = None
        if pending.wish.reserve and len(pending.relays) == 1:
            pending.sibling = opened
            return self._advance(pending, now_ns)
        pending.relays.append(opened)
        if pending.wish.reserve:
            sibling = Address(opened.address.ip, opened.address.port + 1)
            return [self._wish(pending, sibling)]
        pending.families.pop(0)
        pending.tries = 0
        return self._advance(pending, now_ns)

    def relay_failed(self, relay: int, now_ns: int) -> list[Effect]:
        """The relay that `OpenRelay` has wished for can't be had; another port is tried."""
        pending = self._waiting.pop(relay)
        failed = pending.waiting_for
        assert failed is not None
        assert failed.number == relay
        pending.waiting_for = None
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

    def icmp_received(
        self,
        allocation: int,
        peer: Address,
        icmp_type: int,
        icmp_code: int,
        data: int,
        now_ns: int,
    ) -> list[Effect]:
        """A packet to `peer` drew an ICMP error; the client is told (RFC 8656 section 11.5), not
        more often than some hundred times a second."""
        owner = self._by_number.get(allocation)
        if (
            owner is None
            or icmp_type not in _ICMP_TYPES[len(peer.ip)]
            or not owner.has_permission(peer.ip, now_ns)
            or now_ns < owner.icmp_after_ns
        ):
            return []
        owner.icmp_after_ns = now_ns + _ICMP_INTERVAL_NS
        payload = replies.icmp_indication(
            self._random(12), self._policy.outer(peer), icmp_type, icmp_code, data
        )
        return [Reply(owner.five_tuple, payload)]

    def expire(self, now_ns: int) -> list[Effect]:
        """End what has come to its end by `now_ns`."""
        effects: list[Effect] = []
        while self._reservations:
            token, reservation = next(iter(self._reservations.items()))
            if reservation.expires_ns > now_ns:
                break
            del self._reservations[token]
            self._quotas.remove(reservation.account)
            self._ports.release(reservation.relay.address)
            effects.append(CloseRelay(reservation.relay.number))
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            deadline_ns, number = heappop(self._deadlines)
            allocation = self._by_number.get(number)
            # An entry that is not the allocation's newest is left over from an earlier end.
            if allocation is not None and allocation.deadline_ns == deadline_ns:
                self._expire_parts(allocation, now_ns, effects)
        return effects

    # ------------------------------------------------------------ requests

    def _binding(self, message: Message, five_tuple: FiveTuple, now_ns: int) -> list[Effect]:
        unknown = message.unknown_required(_BINDING_KNOWN)
        if unknown:
            if not self._cap.allows(five_tuple.client.ip, now_ns // NS_PER_S):
                return []
            return [Reply(five_tuple, replies.error(message, 420, None, unknown=unknown[:8]))]
        mapped = encode_xor_address(five_tuple.client, message.transaction_id)
        return [
            Reply(
                five_tuple,
                replies.success(message, [(Attribute.XOR_MAPPED_ADDRESS, mapped)], None),
            )
        ]

    def _request(self, message: Message, five_tuple: FiveTuple, now_ns: int) -> list[Effect]:
        """Authenticate a request, check it, and have it done; refusals become error answers."""
        repeated = self._repeated(message, five_tuple)
        if repeated is not None:
            return repeated
        allocation = self._allocations.get(five_tuple)
        proof: Proof | None = None
        try:
            proof = self._authenticator.authenticate(
                message, five_tuple.client, allocation, now_ns // NS_PER_S
            )
            unknown = message.unknown_required(_KNOWN)
            if unknown:
                payload = replies.error(message, 420, proof, unknown=unknown)
                return [Reply(five_tuple, payload)]
            if message.method == Method.ALLOCATE:
                return self._allocate(message, five_tuple, proof, now_ns)
            if allocation is None:
                raise StunError("there is no allocation", 437)
            if proof.username != allocation.username:
                raise StunError("the allocation is another user's", 441)
            return self._handlers[Method(message.method)](message, allocation, proof, now_ns)
        except StunError as refusal:
            return self._refuse(message, five_tuple, refusal.code, proof, now_ns)

    def _repeated(self, message: Message, five_tuple: FiveTuple) -> list[Effect] | None:
        """The answer that a retransmitted request has had already; None for a new one. Who
        repeats a transaction ID of 96 random bits has sent or seen the first."""
        if message.method == Method.ALLOCATE:
            allocation = self._allocations.get(five_tuple)
            if allocation is not None and allocation.transaction_id == message.transaction_id:
                return [Reply(five_tuple, allocation.answer)]
            pending = self._pending.get(five_tuple)
            if pending is not None and pending.message.transaction_id == message.transaction_id:
                return []
        elif message.method == Method.REFRESH:
            closed = self._closed.get(five_tuple)
            if closed is not None and closed[0] == message.transaction_id:
                return [Reply(five_tuple, closed[1])]
        return None

    def _refuse(
        self,
        message: Message,
        five_tuple: FiveTuple,
        code: int,
        proof: Proof | None,
        now_ns: int,
    ) -> list[Effect]:
        now_s = now_ns // NS_PER_S
        client = five_tuple.client
        if proof is not None and code != UNAUTHENTICATED:
            return [Reply(five_tuple, replies.error(message, code, proof))]
        if not self._cap.allows(client.ip, now_s):
            return []
        challenge = (
            self._authenticator.challenge(client, now_s)
            if code in (UNAUTHENTICATED, STALE_NONCE)
            else []
        )
        return [Reply(five_tuple, replies.error(message, code, None, challenge))]

    def _lifetime_s(self, message: Message) -> int:
        """RFC 8656 section 7.2: what is asked for, between the default and the maximum."""
        value = message.first(Attribute.LIFETIME)
        default_s = self._config.default_lifetime_s
        if value is None:
            return default_s
        asked_s = decode_uint32_untrusted(value)
        return max(default_s, min(asked_s, self._config.max_lifetime_s))

    # ------------------------------------------------------------ Allocate

    def _allocate(
        self, message: Message, five_tuple: FiveTuple, proof: Proof, now_ns: int
    ) -> list[Effect]:
        if five_tuple in self._allocations or five_tuple in self._pending:
            raise StunError("the five-tuple has an allocation", 437)
        identity = proof.identity
        assert identity is not None
        expires_unix_s = identity.expires_unix_s
        if expires_unix_s is not None and expires_unix_s <= self._unix_time_s():
            raise StunError("the credential has expired", UNAUTHENTICATED)
        wish = read_wish_untrusted(message, self._ports)
        lifetime_s = self._lifetime_s(message)
        if self._draining:
            raise StunError("the node is about to stop", 508)
        reservation: Reservation | None = None
        if wish.token is not None:
            reservation = self._reservations.get(wish.token)
            if reservation is None or reservation.account != identity.account:
                raise StunError("nothing is reserved under this token", 508)
        else:
            more = 2 if wish.reserve else 1
            self._quotas.check(identity.account, self._config.limits, more)
            for _ in range(more):
                self._quotas.add(identity.account)
        allocation = Allocation(
            self._new_number(),
            five_tuple,
            proof.username,
            proof.key,
            proof.algorithm,
            identity.account,
            identity.session,
            static=expires_unix_s is None,
        )
        pending = Pending(allocation, message, proof, wish, lifetime_s)
        self._pending[five_tuple] = pending
        if reservation is not None:
            assert wish.token is not None
            del self._reservations[wish.token]
            pending.relays.append(reservation.relay)
        return self._advance(pending, now_ns)

    def _new_number(self) -> int:
        number = self._next_number
        self._next_number += 1
        return number

    def _wish(self, pending: Pending, address: Address) -> OpenRelay:
        relay = Relay(self._new_number(), address)
        pending.waiting_for = relay
        self._waiting[relay.number] = pending
        return OpenRelay(relay.number, address)

    def _advance(self, pending: Pending, now_ns: int) -> list[Effect]:
        """Wish for the next relay of a pending Allocate, or answer it."""
        wish = pending.wish
        if pending.sibling is not None:
            pending.families.clear()
        while pending.families:
            ip_bytes = pending.families[0]
            ip = self._ports.choose_ip(ip_bytes, pending.allocation.five_tuple.server.ip)
            if pending.tries < PORT_TRIES:
                address = self._ports.take(ip, even=wish.even, pair=wish.reserve)
                if address is not None:
                    return [self._wish(pending, address)]
            pending.families.pop(0)
            pending.tries = 0
            pending.refused.append((_FAMILY[ip_bytes], 508))
        del self._pending[pending.allocation.five_tuple]
        return self._finish(pending, now_ns) if pending.relays else self._give_up(pending, now_ns)

    def _give_up(self, pending: Pending, now_ns: int) -> list[Effect]:
        allocation = pending.allocation
        for _ in range(2 if pending.wish.reserve else 1):
            self._quotas.remove(allocation.account)
        return self._refuse(pending.message, allocation.five_tuple, 508, pending.proof, now_ns)

    def _finish(self, pending: Pending, now_ns: int) -> list[Effect]:
        allocation = pending.allocation
        message = pending.message
        addresses = tuple(relay.address for relay in pending.relays)
        attributes: list[tuple[int, bytes]] = [
            (
                Attribute.XOR_RELAYED_ADDRESS,
                encode_xor_address(self._policy.outer(address), message.transaction_id),
            )
            for address in addresses
        ]
        attributes.append((Attribute.LIFETIME, encode_uint32(pending.lifetime_s)))
        if pending.sibling is not None:
            token = self._random(_TOKEN_BYTES)
            self._reservations[token] = Reservation(
                pending.sibling, allocation.account, now_ns + RESERVATION_LIFETIME_NS
            )
            attributes.append((Attribute.RESERVATION_TOKEN, token))
        attributes.append(
            (
                Attribute.XOR_MAPPED_ADDRESS,
                encode_xor_address(allocation.five_tuple.client, message.transaction_id),
            )
        )
        attributes += [
            (
                Attribute.ADDRESS_ERROR_CODE,
                encode_address_error_code(family, code, ERROR_REASONS[code]),
            )
            for family, code in pending.refused
        ]
        answer = replies.success(message, attributes, pending.proof)
        allocation.relayed = addresses
        allocation.families = tuple(len(address.ip) for address in addresses)
        allocation.transaction_id = message.transaction_id
        allocation.answer = answer
        allocation.expires_ns = now_ns + pending.lifetime_s * NS_PER_S
        self._allocations[allocation.five_tuple] = allocation
        self._by_number[allocation.number] = allocation
        self._live_relays.update(addresses)
        self._closed.pop(allocation.five_tuple, None)
        self._schedule(allocation, allocation.expires_ns)
        return [
            OpenAllocation(
                allocation.number,
                allocation.five_tuple,
                tuple(relay.number for relay in pending.relays),
                allocation.session,
                allocation.expires_ns,
            ),
            Reply(allocation.five_tuple, answer),
        ]

    # ------------------------------------------------------------ Refresh

    def _refresh(
        self, message: Message, allocation: Allocation, proof: Proof, now_ns: int
    ) -> list[Effect]:
        family: int | None = None
        value = message.first(Attribute.REQUESTED_ADDRESS_FAMILY)
        if value is not None:
            number = decode_address_family_untrusted(value)
            family = {IPV4_FAMILY: 4, IPV6_FAMILY: 16}.get(number)
            if family not in allocation.families:
                raise StunError("the allocation has no address of this family", 443)
        asked = message.first(Attribute.LIFETIME)
        if asked is None or decode_uint32_untrusted(asked) != 0:
            lifetime_s = self._lifetime_s(message)
            allocation.expires_ns = now_ns + lifetime_s * NS_PER_S
            self._schedule(allocation, allocation.expires_ns)
            answer = replies.success(
                message, [(Attribute.LIFETIME, encode_uint32(lifetime_s))], proof
            )
            return [
                RefreshAllocation(allocation.number, allocation.expires_ns),
                Reply(allocation.five_tuple, answer),
            ]
        answer = replies.success(message, [(Attribute.LIFETIME, encode_uint32(0))], proof)
        reply = Reply(allocation.five_tuple, answer)
        if family is not None and len(allocation.families) > 1:
            return [*self._drop_family(allocation, family), reply]
        self._closed[allocation.five_tuple] = (message.transaction_id, answer)
        if len(self._closed) > _CLOSED_ANSWERS:
            self._closed.popitem(last=False)
        return [self._close(allocation, "client"), reply]

    def _drop_family(self, allocation: Allocation, ip_bytes: int) -> list[Effect]:
        """One address of two is given up: nothing goes to or comes from its family any more."""
        allocation.families = tuple(size for size in allocation.families if size != ip_bytes)
        effects: list[Effect] = []
        for number, channel in list(allocation.channels.items()):
            if len(channel.peer.ip) == ip_bytes:
                effects.append(self._remove_channel(allocation, number))
        for ip in list(allocation.permissions):
            if len(ip) == ip_bytes:
                del allocation.permissions[ip]
                effects.append(RemovePermission(allocation.number, ip))
        return effects

    # ------------------------------------------------------------ permissions and channels

    def _read_peer(self, value: bytes, message: Message, allocation: Allocation) -> Address:
        """A peer as the node is bound to it; its family must be one of the allocation's."""
        peer = self._policy.inner(decode_xor_address_untrusted(value, message.transaction_id))
        if len(peer.ip) not in allocation.families:
            raise StunError("the allocation can't reach this address family", 443)
        return peer

    def _judge(self, ip: bytes, now_ns: int) -> int:
        own = self._policy.judge(ip, now_ns // NS_PER_S)
        if own == FORBIDDEN:
            raise StunError("the peer is forbidden", 403)
        return own

    def _create_permission(
        self, message: Message, allocation: Allocation, proof: Proof, now_ns: int
    ) -> list[Effect]:
        values = message.all(Attribute.XOR_PEER_ADDRESS)
        if not values:
            raise StunError("XOR-PEER-ADDRESS is missing")
        wanted: dict[bytes, int] = {}
        for value in values:
            peer = self._read_peer(value, message, allocation)
            if peer.ip not in wanted:
                wanted[peer.ip] = self._judge(peer.ip, now_ns)
        new = sum(ip not in allocation.permissions for ip in wanted)
        if len(allocation.permissions) + new > self._config.limits.permissions_per_allocation:
            raise StunError("the allocation has as many permissions as it may", 508)
        effects: list[Effect] = [
            self._install_permission(allocation, ip, own, now_ns) for ip, own in wanted.items()
        ]
        effects.append(Reply(allocation.five_tuple, replies.success(message, [], proof)))
        return effects

    def _install_permission(
        self, allocation: Allocation, ip: bytes, own: int, now_ns: int
    ) -> InstallPermission:
        expires_ns = now_ns + PERMISSION_LIFETIME_NS
        allocation.permissions[ip] = expires_ns
        self._schedule(allocation, expires_ns)
        return InstallPermission(allocation.number, ip, expires_ns, own)

    def _bind_channel(
        self, message: Message, allocation: Allocation, proof: Proof, now_ns: int
    ) -> list[Effect]:
        number_value = message.first(Attribute.CHANNEL_NUMBER)
        peer_value = message.first(Attribute.XOR_PEER_ADDRESS)
        if number_value is None or peer_value is None:
            raise StunError("CHANNEL-NUMBER or XOR-PEER-ADDRESS is missing")
        number = decode_channel_number_untrusted(number_value)
        peer = self._read_peer(peer_value, message, allocation)
        if peer.port == 0:
            raise StunError("nobody has port 0")
        channel = allocation.channels.get(number)
        if channel is not None and channel.peer != peer:
            raise StunError("the channel is bound to another peer")
        if allocation.channel_of.get(peer, number) != number:
            raise StunError("the peer is bound to another channel")
        own = self._judge(peer.ip, now_ns)
        if not self._is_reachable(peer, own):
            raise StunError("the peer is the node itself", 403)
        limits = self._config.limits
        if (channel is None and len(allocation.channels) >= limits.channels_per_allocation) or (
            peer.ip not in allocation.permissions
            and len(allocation.permissions) >= limits.permissions_per_allocation
        ):
            raise StunError("the allocation has as many channels as it may", 508)
        permission = self._install_permission(allocation, peer.ip, own, now_ns)
        expires_ns = now_ns + CHANNEL_LIFETIME_NS
        if channel is None:
            allocation.channels[number] = Channel(peer, expires_ns)
            allocation.channel_of[peer] = number
        else:
            channel.expires_ns = expires_ns
        self._schedule(allocation, expires_ns)
        return [
            permission,
            InstallChannel(allocation.number, number, peer, expires_ns),
            Reply(allocation.five_tuple, replies.success(message, [], proof)),
        ]

    def _is_reachable(self, peer: Address, own: int) -> bool:
        """Of the node's own addresses, relays are reached, its listeners are not, and the other
        ports only where the operator allows the address."""
        if own == OWN_NO or peer in self._live_relays:
            return True
        return own != OWN_RELAYS_ONLY and not any(
            peer.port == listening.port
            and len(peer.ip) == len(listening.ip)
            and (peer.ip == listening.ip or not any(listening.ip))
            for listening in self._listening
        )

    def _remove_channel(self, allocation: Allocation, number: int) -> RemoveChannel:
        channel = allocation.channels.pop(number)
        del allocation.channel_of[channel.peer]
        return RemoveChannel(allocation.number, number)

    # ------------------------------------------------------------ Send

    def _send(self, message: Message, five_tuple: FiveTuple, now_ns: int) -> list[Effect]:
        """A Send indication that the data plane has left to us; indications are never answered."""
        allocation = self._allocations.get(five_tuple)
        peer_value = message.first(Attribute.XOR_PEER_ADDRESS)
        data = message.first(Attribute.DATA)
        if allocation is None or peer_value is None or data is None:
            return []
        if message.unknown_required(_KNOWN):
            return []
        try:
            peer = self._read_peer(peer_value, message, allocation)
            own = self._judge(peer.ip, now_ns)
        except StunError:
            return []
        if not peer.port or not allocation.has_permission(peer.ip, now_ns):
            return []
        if not self._is_reachable(peer, own):
            return []
        dont_fragment = message.first(Attribute.DONT_FRAGMENT) is not None
        return [RelayData(allocation.number, peer, data, dont_fragment)]

    # ------------------------------------------------------------ ends

    def _schedule(self, allocation: Allocation, end_ns: int) -> None:
        """Have `expire` look at the allocation at `end_ns`, if it would not look earlier."""
        if not allocation.deadline_ns or end_ns < allocation.deadline_ns:
            allocation.deadline_ns = end_ns
            heappush(self._deadlines, (end_ns, allocation.number))
            if len(self._deadlines) > 2 * len(self._by_number) + _STALE_DEADLINES:
                # What was closed early has left entries that would stay until its time.
                self._deadlines = [
                    (one.deadline_ns, one.number) for one in self._by_number.values()
                ]
                heapify(self._deadlines)

    def _expire_parts(self, allocation: Allocation, now_ns: int, effects: list[Effect]) -> None:
        if allocation.expires_ns <= now_ns:
            effects.append(self._close(allocation, "expired"))
            return
        for number, channel in list(allocation.channels.items()):
            if channel.expires_ns <= now_ns:
                effects.append(self._remove_channel(allocation, number))
        for ip, expires_ns in list(allocation.permissions.items()):
            if expires_ns <= now_ns:
                del allocation.permissions[ip]
                effects.append(RemovePermission(allocation.number, ip))
        allocation.deadline_ns = 0
        self._schedule(allocation, allocation.first_end_ns())

    def _close(self, allocation: Allocation, reason: str) -> CloseAllocation:
        del self._allocations[allocation.five_tuple]
        del self._by_number[allocation.number]
        self._quotas.remove(allocation.account)
        for address in allocation.relayed:
            self._live_relays.discard(address)
            self._ports.release(address)
        return CloseAllocation(allocation.number, reason)
