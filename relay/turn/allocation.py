"""What the server remembers of an allocation (RFC 8656 section 3)."""

from __future__ import annotations

from core.stun.address import Address, FiveTuple

PERMISSION_LIFETIME_NS = 300 * 1_000_000_000
"""RFC 8656 section 9."""
CHANNEL_LIFETIME_NS = 600 * 1_000_000_000
"""RFC 8656 section 12."""


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
        relayed: its relayed transport addresses, as they are bound.
        families: lengths (4, 16) of the IP addresses that it may still send to.
        permissions: peer IP -> end.
        channels: number -> binding.
        channel_of: peer -> number.
        transaction_id, answer: the Allocate's, for its retransmissions.
        deadline_ns: the entry of the server's heap that counts; others are stale.
    """

    __slots__ = (
        "account",
        "algorithm",
        "answer",
        "channel_of",
        "channels",
        "deadline_ns",
        "expires_ns",
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
        self.families: tuple[int, ...] = ()
        self.permissions: dict[bytes, int] = {}
        self.channels: dict[int, Channel] = {}
        self.channel_of: dict[Address, int] = {}
        self.transaction_id = b""
        self.answer = b""
        self.expires_ns = 0
        self.deadline_ns = 0
        self.icmp_after_ns = 0

    def first_end_ns(self) -> int:
        """When the next thing of it ends."""
        end_ns = self.expires_ns
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
