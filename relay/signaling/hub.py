"""Where connections of pages come in: greets them, takes their first message to a desk, and then
has the desk carry out what they say.

    hub = Hub(config.signaling, clock, entering={...}, restored=...)
    receiver = hub.opened(websocket)

What a page says is carried out in its order: while one message waits for the ledger, those behind
it wait too. What can't be carried out is answered by `Error` and has no effect.
"""

from __future__ import annotations

import logging
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import trio

from core.clock import Clock
from core.config import SignalingConfig
from core.errors import OperationError, SignalingError
from core.units import NS_PER_S
from relay.signaling.messages import (
    PROTOCOL_VERSION,
    Error,
    PageMessage,
    Ping,
    Pong,
    Resume,
    Welcome,
    decode_untrusted,
    encode,
)
from relay.signaling.room import RESUME_S, digest_of
from relay.signaling.sessions import (
    QUEUE_MAXIMUM,
    Channel,
    Desk,
    SequenceError,
    Session,
    assert_newer_untrusted,
)
from relay.signaling.token_bucket import TokenBucket

ENTER_S: Final = 15
"""How long a connection may take to say what it wants."""
ERRORS_MAXIMUM: Final = 200
"""Of one connection: a page of ours makes none, and a program that makes so many is of no use."""
SESSIONS_MAXIMUM: Final = 20_000
CHALLENGE_BYTES: Final = 24
KEEP_S: Final = RESUME_S + 2
"""For how long a session is kept whose connection is lost. Desks that keep the time themselves end
it a little earlier."""
POLICY_VIOLATION: Final = 1008
"""RFC 6455 section 7.4.1."""
SWEEP_S: Final = 1.0

_log = logging.getLogger("montana.signaling")


class Entering(Protocol):
    """What takes a page's first message; enters a session, or raises SignalingError."""

    async def __call__(self, guest: Guest, message: Any) -> None: ...


class Guest:
    """What a desk is given to let a page in.

    Attributes:
        channel: the page's connection.
        challenge: what the page signs to prove its account.
    """

    __slots__ = ("_connection", "_hub", "_seq", "challenge", "channel")

    def __init__(self, hub: Hub, connection: _Connection, seq: int) -> None:
        self._hub = hub
        self._connection = connection
        self._seq = seq
        self.channel: Channel = connection.channel
        self.challenge = connection.challenge

    def enter(self, desk: Desk, secret: str, *, relay_only: bool = False) -> Session:
        """Give the page a session, which it resumes by `secret`.

        Raises:
            SignalingError: the page has gone meanwhile, or there are too many.
        """
        session = self._hub.enter(self._connection, desk, secret, relay_only)
        session.last_seq = self._seq
        return session


class _Connection:
    """A page's connection, and its session as soon as it has one."""

    __slots__ = ("challenge", "channel", "errors", "hub", "is_entering", "opened_ns", "session")

    def __init__(self, hub: Hub, channel: Channel, challenge: str, now_ns: int) -> None:
        self.hub = hub
        self.channel = channel
        self.challenge = challenge
        self.opened_ns = now_ns
        self.session: Session | None = None
        self.is_entering = False
        self.errors = 0

    def received(self, data: bytes) -> None:
        """Carry out a message."""
        re = None
        session = self.session
        if session is not None and session.ended:
            session = self.session = None
        try:
            message = decode_untrusted(data)
            re = message.seq
            if session is None:
                self.hub.begin(self, message)
                return
            if not session.bucket.take(self.hub.clock.monotonic_ns()):
                session.take_seq(re)
                raise SignalingError("too-many", "too many messages; wait a little")
            session.take_seq(re)
            if session.queue is None:
                self.hub.carry_out(session, message)
            elif len(session.queue) < QUEUE_MAXIMUM:
                session.queue.append(message)
            else:
                raise SignalingError("too-many", "too many messages wait for an earlier one")
        except SignalingError as error:
            self.refuse(re, error)
        except OperationError as error:
            self.refuse(re, _unavailable(error))

    def refuse(self, re: int | None, error: SignalingError) -> None:
        """Say why a message was not carried out."""
        last = error.last_seq if isinstance(error, SequenceError) else None
        self.channel.send(encode(Error(re, error.code, str(error), error.values, last)))
        self.errors += 1
        if self.errors >= ERRORS_MAXIMUM:
            self.channel.close(POLICY_VIOLATION, "too many messages that can't be used")

    def closed(self) -> None:
        """The connection is gone."""
        self.hub.forget(self)


class Hub:
    """All connections and sessions of a node.

    Args:
        config: limits and who may make rooms.
        entering: who takes each kind of first message but `Resume`.
        restored: enters, by their secret, somebody who was in a room before the node was started
            anew; raises SignalingError where nobody was, or the message was said before.
    """

    def __init__(
        self,
        config: SignalingConfig,
        clock: Clock,
        entering: Mapping[type[PageMessage], Entering],
        restored: Callable[[Guest, Resume], Session],
    ) -> None:
        self.config = config
        self.clock = clock
        self._entering = entering
        self._restored = restored
        self._connections: set[_Connection] = set()
        self._sessions: dict[bytes, Session] = {}
        self._lost: dict[Session, None] = {}
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def connections(self) -> int:
        """How many pages are connected."""
        return len(self._connections)

    def opened(self, channel: Channel) -> _Connection:
        """A page has connected: greet it."""
        challenge = urlsafe_b64encode(self.clock.random_bytes(CHALLENGE_BYTES)).decode()
        connection = _Connection(self, channel, challenge, self.clock.monotonic_ns())
        self._connections.add(connection)
        config = self.config
        channel.send(
            encode(
                Welcome(
                    versions=[PROTOCOL_VERSION],
                    challenge=challenge,
                    rooms="free" if config.rooms == "free" else "host",
                    token_needed=bool(config.room_token),
                    relay_only=config.relay_only,
                )
            )
        )
        return connection

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as self._nursery:
            while True:
                await trio.sleep(SWEEP_S)
                self.sweep()

    def sweep(self) -> None:
        """End what has taken too long."""
        now_ns = self.clock.monotonic_ns()
        for connection in list(self._connections):
            if connection.session is not None and connection.session.ended:
                connection.session = None
                connection.opened_ns = now_ns
            if (
                connection.session is None
                and not connection.is_entering
                and now_ns - connection.opened_ns > ENTER_S * NS_PER_S
            ):
                connection.channel.close(POLICY_VIOLATION, "nothing was entered in time")
        # In the order in which they were lost.
        while self._lost:
            session = next(iter(self._lost))
            if now_ns - session.lost_ns <= KEEP_S * NS_PER_S:
                break
            self.end(session)
            session.desk.over(session)

    # ------------------------------------------------------------ coming and going

    def begin(self, connection: _Connection, message: PageMessage) -> None:
        """Take a connection's first message.

        Raises:
            SignalingError: it is none that begins anything.
        """
        if connection.is_entering:
            raise SignalingError("wrong-state", "wait for the answer to the first message")
        if isinstance(message, Resume):
            self._resume(connection, message)
            return
        enter = self._entering.get(type(message))
        if enter is None:
            raise SignalingError("wrong-state", "first a room, a call or an account is entered")
        connection.is_entering = True
        self.start(self._enter, connection, enter, message)

    async def _enter(self, connection: _Connection, enter: Entering, message: PageMessage) -> None:
        try:
            await enter(Guest(self, connection, message.seq), message)
        except SignalingError as error:
            connection.refuse(message.seq, error)
        except OperationError as error:
            connection.refuse(message.seq, _unavailable(error))
        finally:
            connection.is_entering = False
            # What was refused may be tried once more on the same connection.
            connection.opened_ns = self.clock.monotonic_ns()

    def enter(self, connection: _Connection, desk: Desk, secret: str, relay_only: bool) -> Session:
        """See `Guest.enter`."""
        if connection not in self._connections:
            raise SignalingError("wrong-state", "the page has gone")
        assert connection.session is None
        if len(self._sessions) >= SESSIONS_MAXIMUM:
            raise SignalingError("full", "the node has as many guests as it can have")
        bucket = TokenBucket(
            self.config.messages_per_second,
            self.config.message_burst,
            self.clock.monotonic_ns(),
        )
        session = Session(digest_of(secret), desk, bucket, connection.channel)
        session.relay_only = relay_only or self.config.relay_only
        self._sessions[session.secret_hash] = session
        connection.session = session
        return session

    def _resume(self, connection: _Connection, message: Resume) -> None:
        secret_hash = digest_of(message.session)
        session = self._sessions.get(secret_hash)
        if session is None:
            session = self._restored(Guest(self, connection, message.seq), message)
        else:
            assert_newer_untrusted(message.seq, session.last_seq)
            self._attach(session, connection)
        session.last_seq = message.seq
        session.desk.back(session, message)

    def _attach(self, session: Session, connection: _Connection) -> None:
        """The session goes on with this connection; an earlier one that is still there ends."""
        if session.channel is not None:
            earlier = next(one for one in self._connections if one.session is session)
            earlier.session = None
            earlier.channel.close(POLICY_VIOLATION, "resumed elsewhere")
            session.desk.lost(session)
        self._lost.pop(session, None)
        session.channel = connection.channel
        connection.session = session

    def forget(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        session = connection.session
        if session is None or session.ended:
            return
        connection.session = None
        session.channel = None
        session.lost_ns = self.clock.monotonic_ns()
        self._lost[session] = None
        session.desk.lost(session)

    def end(self, session: Session) -> None:
        """A session is over: what its page says from now on is a connection's first message."""
        if session.ended:
            return
        session.ended = True
        del self._sessions[session.secret_hash]
        self._lost.pop(session, None)
        session.channel = None

    # ------------------------------------------------------------ messages

    def carry_out(self, session: Session, message: PageMessage) -> None:
        """Carry out a message; what comes meanwhile waits behind it.

        Raises:
            SignalingError: it can't be.
        """
        waiting = self._act(session, message)
        if waiting is not None:
            session.queue = deque()
            self.start(self._wait, session, message.seq, waiting)

    def _act(self, session: Session, message: PageMessage) -> Awaitable[None] | None:
        """Carry out a message; returns what is still to be waited for."""
        if type(message) is Ping:
            session.tell(Pong(message.seq))
            return None
        handler = session.desk.handlers.get(type(message))
        if handler is None:
            raise SignalingError("wrong-state", "this can't be said here")
        return handler(session, message)

    async def _wait(self, session: Session, seq: int, waiting: Awaitable[None]) -> None:
        """Wait for what a message has begun, then carry out those behind it."""
        queue = session.queue
        assert queue is not None
        try:
            following: Awaitable[None] | None = waiting
            while True:
                try:
                    if following is not None:
                        await following
                except (SignalingError, OperationError) as error:
                    self._refuse(session, seq, error)
                while True:
                    if not queue or session.ended:
                        return
                    message = queue.popleft()
                    seq = message.seq
                    try:
                        following = self._act(session, message)
                    except (SignalingError, OperationError) as error:
                        self._refuse(session, seq, error)
                        continue
                    break
        finally:
            session.queue = None

    @staticmethod
    def _refuse(session: Session, re: int, error: SignalingError | OperationError) -> None:
        refusal = error if isinstance(error, SignalingError) else _unavailable(error)
        session.tell(Error(re, refusal.code, str(refusal), refusal.values))

    def start(self, act: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Have something done that takes its time; what fails of it is logged."""
        assert self._nursery is not None, "run() comes first"
        self._nursery.start_soon(self._guard, act, arguments)

    async def _guard(
        self, act: Callable[..., Awaitable[None]], arguments: tuple[object, ...]
    ) -> None:
        try:
            await act(*arguments)
        except Exception:
            # A mistake of ours in one page's business must not end the others'.
            _log.exception("a page's message could not be carried out")


def _unavailable(error: OperationError) -> SignalingError:
    """What a page is told of what the node itself can't do."""
    code = error.code.replace("_", "-") or "unavailable"
    return SignalingError(code, str(error), **error.values)
