"""Calls set up and ended one after another by many pairs of pages, on connections that stand.

A call is made by a signed-in page, opened by both sides, offered, answered, connected, and hung up;
each side says five candidates, each in a message of its own. What a browser offers and answers for
a call of voice is what Chromium says; no media flows.
"""

from __future__ import annotations

import base64
import select
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from nacl.signing import SigningKey

from bench.process import cpu_time_ns, waited_ns
from bench.signaling_client import Connection, client_frame, source_addresses
from bench.signaling_servers import SignalingServer
from bench.turn_client import ClientError
from core.stun.address import Address
from core.units import NS_PER_S
from relay.signaling.call_desk import PEER_OF
from relay.signaling.call_heartbeats import Side
from relay.signaling.proof import signed_text

CANDIDATES: Final = 5
"""Of each side."""
WARM_UP_S: Final = 3.0
END_S: Final = 30.0
_CONNECTION: Final = "bench"
_CALLER, _CALLEE = PEER_OF[Side.CALLER], PEER_OF[Side.CALLEE]

Message = dict[str, Any]


class Finished(NamedTuple):
    """What came of calling for a while.

    Attributes:
        calls: that were over while it was measured, receipts and all.
        cpu_ns: of the server's.
        busy: the share of its core that the server used.
        waited: the share of the time in which its threads waited for a core, for each other too.
    """

    calls: int
    elapsed_ns: int
    cpu_ns: int
    busy: float
    waited: float


def _description(kind: str) -> Message:
    """An offer or answer as Chromium has made it for a call of voice with these pages."""
    text = (Path(__file__).parent / f"signaling_{kind}.sdp").read_text()
    return {"type": kind, "sdp": text.replace("\n", "\r\n")}


def _candidate(number: int) -> Message:
    return {
        "candidate": f"candidate:{number} 1 udp 41885439 127.0.0.1 {20_000 + number} typ relay "
        "raddr 0.0.0.0 rport 9 generation 0 ufrag rHVy network-cost 999",
        "sdpMid": "0",
        "sdpMLineIndex": 0,
        "usernameFragment": "rHVy",
    }


def account_key(number: int) -> SigningKey:
    """The key of a caller, the same each time."""
    return SigningKey(number.to_bytes(32, "big"))


def account_name(key: SigningKey) -> str:
    """The part of an address behind ``key:``."""
    return base64.b32encode(key.verify_key.encode()).decode().lower().rstrip("=")


def account_addresses(pairs: int) -> list[str]:
    """Whose money so many pairs spend."""
    return [f"key:{account_name(account_key(number))}" for number in range(1, pairs + 1)]


class _Said(NamedTuple):
    """What a side sends, encoded once: its place is left for the number of the message."""

    before: bytes
    after: bytes

    def frame(self, seq: int) -> bytes:
        return client_frame(self.before + b"%d" % seq + self.after)


def _said(tag: str, **fields: Any) -> _Said:
    encoded = msgspec.json.encode({"type": tag, "seq": 0, **fields})
    head, tail = encoded.split(b'"seq":0', 1)
    return _Said(head + b'"seq":', tail)


def _candidates(to: str) -> list[_Said]:
    return [
        _said("signal", to=to, connection=_CONNECTION, candidates=[_candidate(number)])
        for number in range(1, CANDIDATES + 1)
    ]


_CALL: Final = _said("call", to=None)
_CONNECTED: Final = _said("connected")
_HANG_UP: Final = _said("hang_up")
_OFFER: Final = [
    _said("signal", to=_CALLEE, connection=_CONNECTION, description=_description("offer")),
    *_candidates(_CALLEE),
]
_ANSWER: Final = [
    _said("answer", connection=_CONNECTION, description=_description("answer")),
    *_candidates(_CALLER),
]


class _Pair:
    """Two who call: the account of one, and the two sides of the call, each on its connection."""

    def __init__(self, address: Address, sources: list[str], number: int) -> None:
        self.finished = 0
        self.is_calling = False
        self._ended = 0
        self._heard = {_CALLER: 0, _CALLEE: 0}
        self._has_started = False
        self._receipts: list[Message] = []
        self._callee_secret = ""
        self.connections: list[Connection] = []
        try:
            for source in sources:
                self.connections.append(Connection(address, source=source))
            self.account, self._caller, self._callee = self.connections
            self._sign_in(account_key(number))
        except BaseException:
            self.close()
            raise
        self.handlers: dict[Connection, Callable[[Message], None]] = {
            self.account: self._account_hears,
            self._caller: self._caller_hears,
            self._callee: self._callee_hears,
        }

    def close(self) -> None:
        for connection in self.connections:
            connection.close()

    def _sign_in(self, key: SigningKey) -> None:
        account = self.account
        text = signed_text(account.origin, account.welcome["challenge"])
        signature = base64.urlsafe_b64encode(key.sign(text).signature).decode().rstrip("=")
        account.ask("sign_in", proof={"key": account_name(key), "signature": signature})

    def begin(self) -> None:
        """Make the next call."""
        self.is_calling = True
        self._has_started = False
        self._ended = 0
        self._heard = {_CALLER: 0, _CALLEE: 0}
        self._receipts.clear()
        _send(self.account, [_CALL])

    def _account_hears(self, message: Message) -> None:
        if message["type"] == "calling":
            call = message["call"]
            self._callee_secret = message["callee_secret"]
            # One after the other, as people come.
            self._caller.say("open_call", call=call, secret=message["secret"])

    def _caller_hears(self, message: Message) -> None:
        kind = message["type"]
        if kind == "entered":
            self._callee.say("open_call", call=message["call"]["id"], secret=self._callee_secret)
        elif kind == "peer_joined":
            _send(self._caller, _OFFER)
        elif kind == "signal":
            self._hear(self._caller, _CALLER)
        elif kind == "call":
            call = message["call"]
            # What is left is told when it is charged: both sides are connected.
            if not self._has_started and call["status"] == "active" and call["left"] is not None:
                self._has_started = True
                _send(self._caller, [_HANG_UP])
        else:
            self._hear_end(message)

    def _callee_hears(self, message: Message) -> None:
        kind = message["type"]
        if kind == "signal":
            if message.get("description") is not None:
                _send(self._callee, _ANSWER)
            self._hear(self._callee, _CALLEE)
        elif kind not in ("entered", "call"):
            self._hear_end(message)

    def _hear(self, connection: Connection, side: str) -> None:
        """A description or a candidate has come: when all have, this side is connected."""
        self._heard[side] += 1
        if self._heard[side] == 1 + CANDIDATES:
            _send(connection, [_CONNECTED])

    def _hear_end(self, message: Message) -> None:
        if message["type"] == "receipt":
            self._receipts.append(message)
        elif message["type"] == "ended":
            self._ended += 1
            if self._ended == len(PEER_OF):
                self._check()
                self.finished += 1
                self.is_calling = False

    def _check(self) -> None:
        """Both were told of a call that was connected, and who pays what it has cost."""
        ours = [one["call"] for one in self._receipts]
        assert self._has_started
        assert len(ours) == len(PEER_OF)
        assert all(one["status"] == "ended" and one["started_s"] > 0 for one in ours), ours
        assert {one["cost"] is None for one in self._receipts} == {True, False}


def _send(connection: Connection, said: list[_Said]) -> None:
    first = connection.seq + 1
    connection.seq += len(said)
    connection.send(b"".join(one.frame(seq) for seq, one in enumerate(said, first)))


class Callers:
    """Pairs that call as fast as they can, each the next time when it is done.

    Args:
        pairs: whose accounts have money, see `account_addresses`. A call's end waits for the next
            second of the meter, so that each pair has about one call a second at most.
    """

    def __init__(self, server: SignalingServer, pairs: int) -> None:
        self._server = server
        self._pairs: list[_Pair] = []
        self._by_descriptor: dict[int, tuple[_Pair, Connection]] = {}
        self._poll = select.epoll()
        sources = iter(source_addresses())
        try:
            for number in range(1, pairs + 1):
                pair = _Pair(server.address, list(islice(sources, 3)), number)
                self._pairs.append(pair)
                for connection in pair.connections:
                    descriptor = connection.socket.fileno()
                    self._by_descriptor[descriptor] = pair, connection
                    self._poll.register(descriptor, select.EPOLLIN)
                # A page that enters nothing is sent away before all are there.
                pair.begin()
                self._serve(0.0)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Be gone, all of them."""
        for pair in self._pairs:
            pair.close()
        self._poll.close()

    def measure(self, seconds: float) -> Finished:
        """Call for `seconds` after a warm-up; every call that has begun comes to its end.

        Raises:
            ClientError: one has not, or something was refused.
        """
        pid = self._server.pid
        for pair in self._pairs:
            if not pair.is_calling:
                pair.begin()
        self._run(WARM_UP_S)
        finished = self._finished
        started_ns, cpu_ns, waited = time.monotonic_ns(), cpu_time_ns(pid), waited_ns(pid)
        self._run(seconds)
        elapsed_ns = time.monotonic_ns() - started_ns
        cpu_ns, waited = cpu_time_ns(pid) - cpu_ns, waited_ns(pid) - waited
        finished = self._finished - finished
        self._finish()
        return Finished(finished, elapsed_ns, cpu_ns, cpu_ns / elapsed_ns, waited / elapsed_ns)

    @property
    def _finished(self) -> int:
        return sum(pair.finished for pair in self._pairs)

    def _run(self, seconds: float) -> None:
        until_ns = time.monotonic_ns() + int(seconds * NS_PER_S)
        while time.monotonic_ns() < until_ns:
            for pair in self._serve(0.1):
                if not pair.is_calling:
                    pair.begin()

    def _finish(self) -> None:
        until_s = time.monotonic() + END_S
        while any(pair.is_calling for pair in self._pairs):
            if time.monotonic() > until_s:
                raise ClientError("a call has not come to its end")
            self._serve(0.1)

    def _serve(self, timeout_s: float) -> list[_Pair]:
        """Have pairs do what what has come asks for; whose turn it was."""
        turns = []
        for descriptor, _ in self._poll.poll(timeout_s, 256):
            pair, connection = self._by_descriptor[descriptor]
            hear = pair.handlers[connection]
            for message in connection.receive():
                if message["type"] == "error":
                    raise ClientError(f"refused: {message['code']}: {message['message']}")
                hear(message)
            turns.append(pair)
        return turns
