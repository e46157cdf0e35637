"""What clients do with peers: CreatePermission, ChannelBind and Send (RFC 8656 sections 9-12)."""

from __future__ import annotations

from collections.abc import Sequence

from core.config import TurnLimits
from core.errors import StunError
from core.stun.address import Address
from core.stun.attributes import decode_channel_number_untrusted, decode_xor_address_untrusted
from core.stun.constants import Attribute
from core.stun.message import Message
from core.units import NS_PER_S
from relay.dataplane.interface import OWN_NO, OWN_RELAYS_ONLY
from relay.turn import replies
from relay.turn.allocation import (
    CHANNEL_LIFETIME_NS,
    PERMISSION_LIFETIME_NS,
    Allocation,
    Channel,
)
from relay.turn.allocation_table import AllocationTable
from relay.turn.authentication import Proof
from relay.turn.effects import Effect, InstallChannel, InstallPermission, RelayData, Reply
from relay.turn.peer_policy import FORBIDDEN, PeerPolicy


class Peers:
    """Opens ways between allocations and peers.

    Args:
        listening: where the node listens itself, as it is bound.

    Attributes:
        limits, policy: the present ones.
    """

    def __init__(
        self,
        limits: TurnLimits,
        policy: PeerPolicy,
        table: AllocationTable,
        listening: Sequence[Address],
    ) -> None:
        self.limits = limits
        self.policy = policy
        self._table = table
        self._listening = listening

    def create_permission_untrusted(
        self, message: Message, allocation: Allocation, proof: Proof, now_ns: int
    ) -> list[Effect]:
        """Install or refresh a permission for each peer, or none at all (RFC 8656 section 10.2).

        Raises:
            StunError: 400, 403, 443, 508.
        """
        values = message.all(Attribute.XOR_PEER_ADDRESS)
        if not values:
            raise StunError("XOR-PEER-ADDRESS is missing")
        asked = dict.fromkeys(
            self._read_peer_untrusted(value, message, allocation).ip for value in values
        )
        # Counted first: to judge an address may cost a system call.
        new = sum(ip not in allocation.permissions for ip in asked)
        if len(allocation.permissions) + new > self.limits.permissions_per_allocation:
            raise StunError("the allocation has as many permissions as it may", 508)
        wanted = {ip: self._judge(ip, now_ns) for ip in asked}
        effects: list[Effect] = [
            self._install_permission(allocation, ip, own, now_ns) for ip, own in wanted.items()
        ]
        effects.append(Reply(allocation.five_tuple, replies.success(message, [], proof)))
        return effects

    def bind_channel_untrusted(
        self, message: Message, allocation: Allocation, proof: Proof, now_ns: int
    ) -> list[Effect]:
        """Bind a channel or refresh it, with the permission for its peer (RFC 8656 section 12.2).

        Raises:
            StunError: 400, 403, 443, 508.
        """
        number_value = message.first(Attribute.CHANNEL_NUMBER)
        peer_value = message.first(Attribute.XOR_PEER_ADDRESS)
        if number_value is None or peer_value is None:
            raise StunError("CHANNEL-NUMBER or XOR-PEER-ADDRESS is missing")
        number = decode_channel_number_untrusted(number_value)
        peer = self._read_peer_untrusted(peer_value, message, allocation)
        if not peer.port:
            raise StunError("nobody has port 0")
        channel = allocation.channels.get(number)
        if channel is not None and channel.peer != peer:
            raise StunError("the channel is bound to another peer")
        if allocation.channel_of.get(peer, number) != number:
            raise StunError("the peer is bound to another channel")
        limits = self.limits
        if (channel is None and len(allocation.channels) >= limits.channels_per_allocation) or (
            peer.ip not in allocation.permissions
            and len(allocation.permissions) >= limits.permissions_per_allocation
        ):
            raise StunError("the allocation has as many channels as it may", 508)
        own = self._judge(peer.ip, now_ns)
        if not self._is_reachable(peer, own):
            raise StunError("the peer is the node itself", 403)
        permission = self._install_permission(allocation, peer.ip, own, now_ns)
        expires_ns = now_ns + CHANNEL_LIFETIME_NS
        if channel is None:
            allocation.channels[number] = Channel(peer, expires_ns)
            allocation.channel_of[peer] = number
        else:
            channel.expires_ns = expires_ns
        self._table.schedule(allocation, expires_ns)
        return [
            permission,
            InstallChannel(allocation.number, number, peer, expires_ns),
            Reply(allocation.five_tuple, replies.success(message, [], proof)),
        ]

    def send_untrusted(
        self, message: Message, allocation: Allocation, peer_value: bytes, data: bytes, now_ns: int
    ) -> RelayData | None:
        """What a Send indication asks for (RFC 8656 section 11.2); None without a permission.

        Raises:
            StunError: 400, 403, 443, which nobody is told.
        """
        peer = self._read_peer_untrusted(peer_value, message, allocation)
        if not peer.port:
            raise StunError("nobody has port 0")
        if not allocation.has_permission(peer.ip, now_ns):
            return None
        if not self._is_reachable(peer, self._judge(peer.ip, now_ns)):
            raise StunError("the peer is the node itself", 403)
        dont_fragment = message.first(Attribute.DONT_FRAGMENT) is not None
        return RelayData(allocation.number, peer, data, dont_fragment)

    def judge_anew(self, now_ns: int) -> list[Effect]:
        """Have the present rules hold for the permissions that stand already."""
        now_s = now_ns // NS_PER_S
        effects: list[Effect] = []
        for allocation in self._table.by_number.values():
            effects += allocation.drop_peers(lambda ip: self.policy.judge(ip, now_s) == FORBIDDEN)
            effects += [
                InstallPermission(allocation.number, ip, expires_ns, self.policy.judge(ip, now_s))
                for ip, expires_ns in allocation.permissions.items()
                if expires_ns > now_ns
            ]
        return effects

    def _read_peer_untrusted(
        self, value: bytes, message: Message, allocation: Allocation
    ) -> Address:
        """A peer as the node is bound to it; its family must be one of the allocation's."""
        peer = self.policy.inner(decode_xor_address_untrusted(value, message.transaction_id))
        if len(peer.ip) not in allocation.families:
            raise StunError("the allocation can't reach this address family", 443)
        return peer

    def _judge(self, ip: bytes, now_ns: int) -> int:
        own = self.policy.judge(ip, now_ns // NS_PER_S)
        if own == FORBIDDEN:
            raise StunError("the peer is forbidden", 403)
        return own

    def _is_reachable(self, peer: Address, own: int) -> bool:
        """Of the node's own addresses, relays are reached, its listeners are not, and the other
        ports only where the operator allows the address."""
        if own == OWN_NO or peer in self._table.live_relays:
            return True
        return own != OWN_RELAYS_ONLY and not any(
            peer.port == listening.port
            and len(peer.ip) == len(listening.ip)
            and (peer.ip == listening.ip or not any(listening.ip))
            for listening in self._listening
        )

    def _install_permission(
        self, allocation: Allocation, ip: bytes, own: int, now_ns: int
    ) -> InstallPermission:
        expires_ns = now_ns + PERMISSION_LIFETIME_NS
        allocation.permissions[ip] = expires_ns
        self._table.schedule(allocation, expires_ns)
        return InstallPermission(allocation.number, ip, expires_ns, own)
