"""A page's session: what it is to the node, whether or not it is connected just now.

A session belongs to a desk, which carries out what its page says. Its connection may be lost and
come back; its place is kept for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from core.errors import SignalingError
from relay.signaling.messages import NodeMessage, PageMessage, Resume, encode
from relay.signaling.token_bucket import TokenBucket

QUEUE_MAXIMUM: Final = 256
"""Messages of one page that wait for an earlier one to be carried out."""


class SequenceError(SignalingError):
    """A message that is not the session's next one.

    Attributes:
        last_seq: of the session, from which its page goes on.
    """

    def __init__(self, code: str, message: str, last_seq: int) -> None:
        super().__init__(code, message)
        self.last_seq = last_seq


def assert_newer_untrusted(seq: int, last_seq: int) -> None:
    """Refuse a message that was said before.

    Raises:
        SequenceError: ``replayed``.
    """
    if seq <= last_seq:
        raise SequenceError("replayed", "this message was said before", last_seq)


Handler = Callable[["Session", Any], Awaitable[None] | None]
"""Carries out one kind of message; what waits for something is a coroutine function."""


class Channel(Protocol):
    """The connection of a page: `relay.web.websocket.WebSocket` is such."""

    client: str
    origin: str

    def send(self, message: bytes) -> None:
        """Queue a message; never blocks."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End it, after what was sent before."""


class Desk(Protocol):
    """Where a session belongs: a room's, a call's or an account's.

    Attributes:
        handlers: what carries out each kind of message.
    """

    handlers: Mapping[type[PageMessage], Handler]

    def lost(self, session: Session) -> None:
        """The page's connection is gone; it may come back."""

    def back(self, session: Session, message: Resume) -> None:
        """The page is back; it is to be told all that there is to know."""

    def over(self, session: Session) -> None:
        """The page has not come back in time. Not called for who has left by itself."""


class Session:
    """A page's session.

    Attributes:
        secret_hash: SHA-256 of what the page resumes by.
        desk, place: where it belongs, and what it has there.
        peer: its id in a room or call.
        last_seq: of its last message.
        channel: its connection; None while it is lost.
        lost_ns: since when, on the monotonic clock.
        queue: messages that wait for the one that is being carried out; None while none is.
        relay_only: whether its page wants its address hidden.
        ended: whether it is over, and nothing is said to it any more.
    """

    __slots__ = (
        "bucket",
        "channel",
        "desk",
        "ended",
        "last_seq",
        "lost_ns",
        "peer",
        "place",
        "queue",
        "relay_only",
        "secret_hash",
    )

    def __init__(
        self, secret_hash: bytes, desk: Desk, bucket: TokenBucket, channel: Channel
    ) -> None:
        self.secret_hash = secret_hash
        self.desk = desk
        self.bucket = bucket
        self.channel: Channel | None = channel
        self.place: Any = None
        self.peer = ""
        self.last_seq = 0
        self.lost_ns = 0
        self.queue: deque[PageMessage] | None = None
        self.relay_only = False
        self.ended = False

    def tell(self, message: NodeMessage) -> None:
        """Say something to the page, where it is connected; it hears all when it is back."""
        if self.channel is not None:
            self.channel.send(encode(message))

    def take_seq(self, seq: int) -> None:
        """Count a message.

        Raises:
            SequenceError: ``replayed``, ``out-of-order``.
        """
        assert_newer_untrusted(seq, self.last_seq)
        if seq > self.last_seq + 1:
            raise SequenceError(
                "out-of-order", "a message before this one is missing", self.last_seq
            )
        self.last_seq = seq
