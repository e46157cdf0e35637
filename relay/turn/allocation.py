"""What the server remembers of an allocation (RFC 8656 section 6)."""

from __future__ import annotations

from collections.abc import Callable

from core.config import TurnConfig
from core.stun.address import Address, FiveTuple
from core.stun.attributes import decode_uint32_untrusted
from core.stun.constants import Attribute
from core.stun.message import Message
from core.units import NS_PER_S
from relay.turn.effects import Effect, RemoveChannel, RemovePermission, RemoveRelay

PERMISSION_LIFETIME_NS = 300 * NS_PER_S
"""RFC 8656 section 9."""
CHANNEL_LIFETIME_NS = 600 * NS_PER_S
"""RFC 8656 section 12."""


def lifetime_s_untrusted(message: Message, config: TurnConfig) -> int:
    """How long an allocation is to live (RFC 8656 sections 7.2 and 8.2): what LIFETIME asks for,
    between the default and the maximum.

    Raises:
        StunError: 400.
    """
    value = message.first(Attribute.LIFETIME)
    if value is None:
        return config.default_lifetime_s
    asked_s = decode_uint32_untrusted(value)
    return max(config.default_lifetime_s, min(asked_s, config.max_lifetime_s))


class Channel:
    """A channel binding."""

    __slots__ = ("expires_ns", "peer")

    def __init__(self, peer: Address, expires_ns: int) -> None:
        self.peer = peer
        self.expires_ns = expires_ns


class Allocation:
    """A client's relay, its permissions and channels.

    Attributes:
        number: what effects call it.
        username: as the Allocate gave it; later requests must give the same (441).
        key: the long-term key that fitted, and its algorithm.
        account: whose quota it counts against.
        session: what it is charged to.
        static: whether the user stands in the configuration, and may be removed from it.
        relayed: its relayed transport addresses, as they are bound.
        families: length (4, 16) of the IP addresses that it may send to -> end; a dual
            allocation may have two ends, and lose one family before the other.
        permissions: peer IP -> end.
        channels: number -> binding.
        channel_of: peer -> number.
        transaction_id, answer: the Allocate's, for its retransmissions.
        deadline_ns: the entry among the table's deadlines that counts; others are stale.
        icmp_after_ns: when the client may be told of an ICMP error again.
    """

    __slots__ = (
        "account",
        "algorithm",
        "answer",
        "channel_of",
        "channels",
        "deadline_ns",
        "families",
        "five_tuple",
        "icmp_after_ns",
        "key",
        "number",
        "permissions",
        "relayed",
        "session",
        "static",
        "transaction_id",
        "username",
    )

    def __init__(
        self,
        number: int,
        five_tuple: FiveTuple,
        username: bytes,
        key: bytes,
        algorithm: int,
        account: str,
        session: str,
        static: bool,
    ) -> None:
        self.number = number
        self.five_tuple = five_tuple
        self.username = username
        self.key = key
        self.algorithm = algorithm
        self.account = account
        self.session = session
        self.static = static
        self.relayed: tuple[Address, ...] = ()
        self.families: dict[int, int] = {}
        self.permissions: dict[bytes, int] = {}
        self.channels: dict[int, Channel] = {}
        self.channel_of: dict[Address, int] = {}
        self.transaction_id = b""
        self.answer = b""
        self.deadline_ns = 0
        self.icmp_after_ns = 0

    @property
    def expires_ns(self) -> int:
        """When the last of it ends."""
        return max(self.families.values())

    def first_end_ns(self) -> int:
        """When the next thing of it ends."""
        end_ns = min(self.families.values())
        for permission_ns in self.permissions.values():
            if permission_ns < end_ns:
                end_ns = permission_ns
        for channel in self.channels.values():
            if channel.expires_ns < end_ns:
                end_ns = channel.expires_ns
        return end_ns

    def has_permission(self, ip: bytes, now_ns: int) -> bool:
        """Whether a permission for `ip` stands."""
        return self.permissions.get(ip, 0) > now_ns

    def drop_expired(self, now_ns: int) -> list[Effect]:
        """Forget channels and permissions that ended by `now_ns`."""
        effects: list[Effect] = []
        for number, channel in list(self.channels.items()):
            if channel.expires_ns <= now_ns:
                effects.append(self._drop_channel(number))
        for ip, expires_ns in list(self.permissions.items()):
            if expires_ns <= now_ns:
                effects.append(self._drop_permission(ip))
        return effects

    def drop_peers(self, is_gone: Callable[[bytes], bool]) -> list[Effect]:
        """Forget the permissions of IP addresses of which `is_gone` is true, and their channels."""
        effects: list[Effect] = [
            self._drop_channel(number)
            for number, channel in list(self.channels.items())
            if is_gone(channel.peer.ip)
        ]
        effects += [self._drop_permission(ip) for ip in list(self.permissions) if is_gone(ip)]
        return effects

    def drop_family(self, ip_bytes: int) -> list[Effect]:
        """Give up one family of two: its permissions, its channels and its relayed address, and
        nothing of the other's (RFC 8656 section 8.1)."""
        del self.families[ip_bytes]
        self.relayed = tuple(relay for relay in self.relayed if len(relay.ip) != ip_bytes)
        effects = self.drop_peers(lambda ip: len(ip) == ip_bytes)
        effects.append(RemoveRelay(self.number, ip_bytes))
        return effects

    def _drop_channel(self, number: int) -> RemoveChannel:
        channel = self.channels.pop(number)
        del self.channel_of[channel.peer]
        return RemoveChannel(self.number, number)

    def _drop_permission(self, ip: bytes) -> RemovePermission:
        del self.permissions[ip]
        return RemovePermission(self.number, ip)
