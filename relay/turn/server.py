"""The TURN server (RFC 8656): what arrives and the time go in, effects come out.

It does no I/O. Whoever drives it carries the effects out in their order and tells the outcome of
each `OpenRelay` by `relay_opened` or `relay_failed`; an Allocate is answered only then.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from core.config import TurnConfig
from core.errors import StunError
from core.stun.address import Address, FiveTuple
from core.stun.attributes import (
    decode_address_family_untrusted,
    decode_uint32_untrusted,
    encode_uint32,
    encode_xor_address,
)
from core.stun.constants import Attribute, MessageClass, Method
from core.stun.message import Message, decode_message_untrusted
from core.units import NS_PER_S
from relay.turn import replies
from relay.turn.allocating import Allocator
from relay.turn.allocation import Allocation, lifetime_s_untrusted
from relay.turn.allocation_table import AllocationTable
from relay.turn.authentication import STALE_NONCE, UNAUTHENTICATED, Authenticator, Proof
from relay.turn.credentials import CredentialBook
from relay.turn.effects import Effect, RefreshAllocation, Reply
from relay.turn.nonce import NonceMint
from relay.turn.peer_policy import PeerPolicy
from relay.turn.peers import Peers
from relay.turn.ports import RelayPorts
from relay.turn.quotas import Quotas
from relay.turn.reply_cap import ReplyCap
from relay.turn.wish import IP_BYTES

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
_UNKNOWN_LISTED = 8
"""To a stranger, whose answer is kept small."""
_FORBIDDEN = 403
DROP_CAUSES = ("error_replies", "forbidden", "malformed", "no_allocation", "no_permission")
_ICMP_TYPES = {4: frozenset({3, 11}), 16: frozenset({1, 2, 3})}
"""What RFC 8656 section 11.5 has told: unreachable, too big, out of time."""
_ICMP_INTERVAL_NS = NS_PER_S // 100
_CLOSED_ANSWERS = 256
"""Answers to Refresh requests that gave something up, kept for their retransmissions."""


class Server:
    """A TURN server over datagrams.

    Args:
        config: with the ports that are really listened on in `listen`.
        random: gives as many bytes of the operating system's randomness as asked for.
        unix_time_s: the wall clock, for the expiry of credentials.
        is_local: whether a packed IP address is one of this machine's.
        metered: whether somebody has to pay for each allocation; else calls alone are asked for,
            see `JoinSession`.

    Attributes:
        drops: what got no answer and was not relayed, by cause.
    """

    def __init__(
        self,
        config: TurnConfig,
        *,
        random: Callable[[int], bytes],
        unix_time_s: Callable[[], float],
        is_local: Callable[[bytes], bool],
        metered: bool = False,
    ) -> None:
        self._random = random
        self._is_local = is_local
        self._nonce_key = random(32)
        self._cap_key = random(16)
        self._listening = [endpoint.address for endpoint in config.listen]
        self._take_over(config)
        ports = RelayPorts(config.relay_addresses, config.relay_ports, random)
        quotas = Quotas()
        self._table = AllocationTable(ports, quotas)
        self._allocator = Allocator(
            config,
            self._policy,
            self._table,
            ports,
            quotas,
            random=random,
            unix_time_s=unix_time_s,
            metered=metered,
        )
        self._peers = Peers(config.limits, self._policy, self._table, self._listening)
        self._closed: OrderedDict[FiveTuple, tuple[bytes, bytes]] = OrderedDict()
        self._handlers = {
            Method.REFRESH: self._refresh,
            Method.CREATE_PERMISSION: self._peers.create_permission_untrusted,
            Method.CHANNEL_BIND: self._peers.bind_channel_untrusted,
        }
        self.drops = Counter(dict.fromkeys(DROP_CAUSES, 0))

    def _take_over(self, config: TurnConfig) -> None:
        # First what may raise ConfigError: then nothing has changed.
        self._book = CredentialBook(config.realm, config.users, config.secrets, config.payers)
        self._config = config
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
        return len(self._table)

    @property
    def next_deadline_ns(self) -> int | None:
        """When `expire` has something to do."""
        first_ns = self._table.next_deadline_ns
        second_ns = self._allocator.next_deadline_ns
        if first_ns is None or (second_ns is not None and second_ns < first_ns):
            return second_ns
        return first_ns

    def drain(self) -> None:
        """Answer 508 to every new Allocate: the client is to try another server."""
        self._allocator.draining = True

    def reconfigure(self, config: TurnConfig, now_ns: int) -> list[Effect]:
        """Take over users, secrets, peer rules, limits and lifetimes; allocations of users that
        are gone, or have another password, end, and so do ways to peers that are forbidden now.

        Raises:
            ConfigError: a user's name can't be part of a key; nothing has changed.
        """
        self._take_over(config)
        self._allocator.config = config
        self._allocator.policy = self._policy
        self._peers.limits = config.limits
        self._peers.policy = self._policy

        def is_removed(allocation: Allocation) -> bool:
            if not allocation.static:
                return False
            identity = self._book.look_up_untrusted(allocation.username)
            if identity is None:
                return True
            try:
                keys = self._book.keys(allocation.username, identity, allocation.algorithm)
            except StunError:
                # A password of which no key can be made lets nobody in.
                return True
            return allocation.key not in keys

        effects = self._table.close_where(is_removed, "user removed")
        return effects + self._peers.judge_anew(now_ns)

    def close_sessions(self, sessions: AbstractSet[str], reason: str) -> list[Effect]:
        """End every allocation of some sessions: a hang-up, an empty balance."""
        return self._table.close_where(lambda one: one.session in sessions, reason)

    def close_account(self, account: str, reason: str) -> list[Effect]:
        """End every allocation of an account: the operator's wish."""
        return self._table.close_where(lambda one: one.account == account, reason)

    # ------------------------------------------------------------ what arrives

    def receive(self, datagram: bytes, five_tuple: FiveTuple, now_ns: int) -> list[Effect]:
        """A datagram from a client that is not relayed data."""
        try:
            message = decode_message_untrusted(datagram)
        except StunError:
            # Without a transaction there is nobody to answer.
            self.drops["malformed"] += 1
            return []
        allocation = self._table.by_five_tuple.get(five_tuple)
        if allocation is None or allocation.deadline_ns > now_ns:
            return self._handle(message, five_tuple, now_ns)
        # What has expired and only waits to be removed stands in nobody's way.
        effects = self._table.expire_parts(allocation, now_ns)
        return effects + self._handle(message, five_tuple, now_ns)

    def relay_opened(self, relay: int, now_ns: int) -> list[Effect]:
        """The relay that `OpenRelay` has wished for is bound."""
        return self._allocator.relay_opened(relay, now_ns)

    def relay_failed(self, relay: int, now_ns: int) -> list[Effect]:
        """The relay that `OpenRelay` has wished for can't be had; another port is tried."""
        return self._allocator.relay_failed(relay, now_ns)

    def session_joined(self, allocation: int, now_ns: int) -> list[Effect]:
        """Somebody pays for what `JoinSession` has asked for."""
        return self._allocator.session_joined(allocation, now_ns)

    def session_refused(self, allocation: int, code: int) -> list[Effect]:
        """Nobody pays for it; the client is told `code`: 403, or 508 when nobody can say."""
        return self._allocator.session_refused(allocation, code)

    def allocation_failed(self, allocation: int) -> None:
        """What `OpenAllocation` has wished for can't be had."""
        self._table.remove(self._table.by_number[allocation])

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
        owner = self._table.by_number.get(allocation)
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
        return self._allocator.expire(now_ns) + self._table.expire(now_ns)

    # ------------------------------------------------------------ dispatch

    def _handle(self, message: Message, five_tuple: FiveTuple, now_ns: int) -> list[Effect]:
        if message.message_class == MessageClass.REQUEST:
            if message.method == Method.BINDING:
                return self._binding(message, five_tuple, now_ns)
            if message.method == Method.ALLOCATE or message.method in self._handlers:
                return self._request(message, five_tuple, now_ns)
        elif message.message_class == MessageClass.INDICATION and message.method == Method.SEND:
            return self._send(message, five_tuple, now_ns)
        return []

    def _request(self, message: Message, five_tuple: FiveTuple, now_ns: int) -> list[Effect]:
        """Authenticate a request, check it, and have it done; refusals become error answers."""
        repeated = self._repeated(message, five_tuple)
        if repeated is not None:
            return repeated
        allocation = self._table.by_five_tuple.get(five_tuple)
        proof: Proof | None = None
        try:
            proof = self._authenticator.authenticate_untrusted(
                message, five_tuple.client, allocation, now_ns // NS_PER_S
            )
            unknown = message.unknown_required(_KNOWN)
            if unknown:
                payload = replies.error(message, 420, proof, unknown=unknown)
                return [Reply(five_tuple, payload)]
            if message.method == Method.ALLOCATE:
                return self._allocator.allocate_untrusted(message, five_tuple, proof, now_ns)
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
            allocation = self._table.by_five_tuple.get(five_tuple)
            if allocation is not None and allocation.transaction_id == message.transaction_id:
                return [Reply(five_tuple, allocation.answer)]
            if self._allocator.is_pending(message, five_tuple):
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
        if proof is not None and code != UNAUTHENTICATED:
            return [Reply(five_tuple, replies.error(message, code, proof))]
        now_s = now_ns // NS_PER_S
        client = five_tuple.client
        if not self._may_refuse(client, now_s):
            return []
        challenge = (
            self._authenticator.challenge(client, now_s)
            if code in (UNAUTHENTICATED, STALE_NONCE)
            else []
        )
        return [Reply(five_tuple, replies.error(message, code, None, challenge))]

    def _may_refuse(self, client: Address, now_s: int) -> bool:
        """Whether a stranger has not been sent too many error answers in this second."""
        allowed = self._cap.allows(client.ip, now_s)
        if not allowed:
            self.drops["error_replies"] += 1
        return allowed

    # ------------------------------------------------------------ Binding, Refresh, Send

    def _binding(self, message: Message, five_tuple: FiveTuple, now_ns: int) -> list[Effect]:
        unknown = message.unknown_required(_BINDING_KNOWN)
        if unknown:
            if not self._may_refuse(five_tuple.client, now_ns // NS_PER_S):
                return []
            payload = replies.error(message, 420, None, unknown=unknown[:_UNKNOWN_LISTED])
            return [Reply(five_tuple, payload)]
        mapped = encode_xor_address(five_tuple.client, message.transaction_id)
        payload = replies.success(message, [(Attribute.XOR_MAPPED_ADDRESS, mapped)], None)
        return [Reply(five_tuple, payload)]

    def _refresh(
        self, message: Message, allocation: Allocation, proof: Proof, now_ns: int
    ) -> list[Effect]:
        """Move an allocation's end, or that of one of its two families; LIFETIME 0 gives it up
        (RFC 8656 section 8)."""
        families = list(allocation.families)
        family_value = message.first(Attribute.REQUESTED_ADDRESS_FAMILY)
        if family_value is not None:
            ip_bytes = IP_BYTES.get(decode_address_family_untrusted(family_value), 0)
            if ip_bytes not in allocation.families:
                raise StunError("the allocation has no address of this family", 443)
            families = [ip_bytes]
        asked = message.first(Attribute.LIFETIME)
        if asked is not None and decode_uint32_untrusted(asked) == 0:
            return self._give_up(message, allocation, proof, families)
        lifetime_s = lifetime_s_untrusted(message, self._config)
        for ip_bytes in families:
            allocation.families[ip_bytes] = now_ns + lifetime_s * NS_PER_S
        self._table.schedule(allocation, allocation.first_end_ns())
        answer = replies.success(message, [(Attribute.LIFETIME, encode_uint32(lifetime_s))], proof)
        return [
            RefreshAllocation(allocation.number, allocation.expires_ns),
            Reply(allocation.five_tuple, answer),
        ]

    def _give_up(
        self, message: Message, allocation: Allocation, proof: Proof, families: list[int]
    ) -> list[Effect]:
        answer = replies.success(message, [(Attribute.LIFETIME, encode_uint32(0))], proof)
        self._closed[allocation.five_tuple] = (message.transaction_id, answer)
        self._closed.move_to_end(allocation.five_tuple)
        if len(self._closed) > _CLOSED_ANSWERS:
            self._closed.popitem(last=False)
        effects: list[Effect]
        if len(families) < len(allocation.families):
            effects = self._table.drop_family(allocation, families[0])
            effects.append(RefreshAllocation(allocation.number, allocation.expires_ns))
        else:
            effects = [self._table.close(allocation, "client")]
        effects.append(Reply(allocation.five_tuple, answer))
        return effects

    def _send(self, message: Message, five_tuple: FiveTuple, now_ns: int) -> list[Effect]:
        """A Send indication that the data plane has left to us; indications are never answered."""
        allocation = self._table.by_five_tuple.get(five_tuple)
        peer_value = message.first(Attribute.XOR_PEER_ADDRESS)
        data = message.first(Attribute.DATA)
        if allocation is None:
            self.drops["no_allocation"] += 1
            return []
        if peer_value is None or data is None or message.unknown_required(_KNOWN):
            self.drops["malformed"] += 1
            return []
        try:
            relayed = self._peers.send_untrusted(message, allocation, peer_value, data, now_ns)
        except StunError as refusal:
            self.drops["forbidden" if refusal.code == _FORBIDDEN else "malformed"] += 1
            return []
        if relayed is None:
            self.drops["no_permission"] += 1
            return []
        return [relayed]
