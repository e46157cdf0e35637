"""Random lives of pages: rooms, calls and accounts together, any message in any state, over a
ledger and a metering that are real, and over kills of the node. Each is answered or refused by a
code that there is; nothing is left of anybody in the end, and no money has come from nowhere, gone,
or stayed held."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import tempfile
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, get_args

import hypothesis.strategies as st
import msgspec
import trio
import trio.testing
from hypothesis import given, settings
from nacl.signing import SigningKey

from billing.audit import verify
from billing.charging import Charging
from billing.desk import Desk
from billing.ledger import ISSUE, NODE, LmdbLedger
from billing.money import J
from billing.notices import Notices
from billing.outbox import Outbox
from core.api.messages import VoucherCreateRequest, VouchersReply
from core.clock import VirtualClock
from core.config import BillingConfig, NodeConfig, SignalingConfig, TurnConfig
from core.identity import Identity
from core.stun.address import Address
from core.units import MINUTE_S, NS_PER_S
from relay.credential_issuer import CredentialIssuer
from relay.event_source import EventSource
from relay.signaling.account_desk import REDEEM_A_MINUTE
from relay.signaling.calls import PENDING_S, RINGING_S, SILENT_S
from relay.signaling.descriptions import Kind
from relay.signaling.hub import KEEP_S, Hub
from relay.signaling.messages import Error, PageMessage
from relay.signaling.proof import signed_text
from relay.signaling.service import Signaling
from tests.support.call_world import HOME, RELAY, candidate, description
from tests.support.fake_dataplane import FakeDataPlane
from tests.support.metering import Bench
from tests.support.signaling_channel import FakeChannel
from tests.support.small_ledger import open_small

PAGES: Final = 5
ACCOUNTS: Final = 3
"""The first two have money: enough, and for a minute's voice."""
AMOUNTS: Final = (1_000, 60, 0)
VOUCHERS: Final = 3
VOUCHER: Final = 30
FLOOD: Final = 40
CODES: Final = str(Error.__doc__)
SHAPES: Final = {one.__struct_config__.tag: one for one in get_args(PageMessage)}
FITTING: Final = {
    "": ("create", "join", "open_call", "sign_in", "resume"),
    "room": (
        *("signal", "admit", "deny", "kick", "set_room", "invite"),
        *("hang_up", "refresh_ice", "ping"),
    ),
    "call": ("signal", "answer", "connected", "beat", "hang_up", "refresh_ice", "ping"),
    "account": (
        *("account", "history", "calls", "redeem", "call", "decline", "set_blocked"),
        *("blocked", "hang_up", "ping"),
    ),
}
"""What pages say that are nowhere, or in one of these."""
ODD: Final[tuple[Any, ...]] = (
    *("", "0000", "x" * 43, "y" * 200, "\ud800", "CALL-AAAAAAAA", "#17", "#1"),
    *(-1, 0, 7, 2**53, None, True, [], {}, [{"candidate": 5}], 1.5),
)


class Picks:
    """What a random life chooses by, in turns."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = deque(numbers)

    def of(self, things: Sequence[Any]) -> Any:
        self._numbers.rotate(-1)
        return things[self._numbers[-1] % len(things)]

    def rarely(self) -> bool:
        return bool(self.of(range(12)) == 11)


class Guest:
    """A page, over all its connections.

    Attributes:
        said: its last messages, as they were.
        seq: of the last one.
        place: where it is, see `FITTING`.
        account: by whose key it has signed in.
    """

    def __init__(self, number: int) -> None:
        self.channel: FakeChannel | None = None
        self.client = f"192.0.2.{number % 2}"
        self.said: list[bytes] = []
        self.seq = 0
        self.place = ""
        self.account: int | None = None


class Lives:
    """A node's signaling, which may be killed and started again, and its pages."""

    def __init__(self, clock: VirtualClock, config: SignalingConfig) -> None:
        self.clock = clock
        self.config = config
        self.keys = [SigningKey(bytes([number]) * 32) for number in range(ACCOUNTS)]
        self.addresses = [f"key:{text_of(key)}" for key in self.keys]
        self.guests = [Guest(number) for number in range(PAGES)]
        self.codes: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.invitations: list[str] = []
        self.sessions: dict[str, Guest] = {}
        self.begun_ns: dict[int, list[int]] = defaultdict(list)
        self.redeemed_ns: list[int] = []
        self.paid = 0
        self.heard: Counter[str] = Counter()
        self.ledger: LmdbLedger
        self.bench: Bench
        self.desk: Desk
        self.signaling: Signaling
        self.hub: Hub

    async def start(self, ledger: LmdbLedger) -> None:
        """As a node starts."""
        clock = self.clock
        self.ledger = ledger
        self.bench = Bench(ledger, FakeDataPlane(clock), clock, None)
        self.desk = Desk(ledger, clock, BillingConfig())
        relay = ip_address(RELAY).packed
        outbox = Outbox(ledger.store, clock)
        events = EventSource(outbox, clock)
        self.signaling = Signaling(
            NodeConfig(
                data_dir=Path(),
                turn=TurnConfig(listen=(), relay_addresses=(relay,)),
                signaling=self.config,
            ),
            Identity(bytes(32)),
            clock,
            ledger,
            self.desk,
            self.bench.metering,
            CredentialIssuer(["a secret of the tests"], [Address(relay, 3478)], clock),
            outbox,
            Notices(outbox, ledger, telegram=False),
            lambda body, timeout_s: events.ask("telegram", body, timeout_s),
            lambda: "https://node.example",
        )
        self.hub = self.signaling.hub
        await Charging(ledger).recover()
        await self.signaling.recover()

    def killed(self) -> None:
        """What pages and limits know no more."""
        for guest in self.guests:
            self.listen(guest)
            guest.channel = None
            guest.place = ""
        self.begun_ns.clear()
        self.redeemed_ns.clear()

    async def open_accounts(self) -> None:
        for address, amount in zip(self.addresses, AMOUNTS, strict=True):
            number = await self.ledger.open_account([address])
            if amount:
                await self.bench.credit(number, amount)
        reply = await self.desk.answer(VoucherCreateRequest(str(VOUCHER), VOUCHERS))
        assert isinstance(reply, VouchersReply)
        self.codes = list(reply.codes)

    # ------------------------------------------------------------ what pages say

    def message(self, guest: Guest, kind: str, picks: Picks) -> dict[str, Any]:
        """One of this kind that may make sense here, but for what is odd in it."""
        made: dict[str, Any] = {"type": kind}
        link = picks.of([*self.links[-4:], ("CALL-AAAAAAAA", "x" * 43)])
        for one in msgspec.structs.fields(SHAPES[kind]):
            name = one.encode_name
            if name == "seq" or (not one.required and picks.of(range(3)) == 2):
                continue
            made[name] = (
                picks.of(ODD) if picks.rarely() else self._value(guest, kind, name, link, picks)
            )
        return made

    def _value(
        self, guest: Guest, kind: str, name: str, link: tuple[str, str], picks: Picks
    ) -> Any:
        match name:
            case "to" if kind == "call":
                return picks.of([*self.addresses, None, "user:nobody"])
            case "to" | "peer":
                return picks.of(["1", "0", "0001", "0000", "0002", "0003"])
            case "call":
                return link[0]
            case "secret":
                return link[1]
            case "address":
                return picks.of([*self.addresses, "user:nobody"])
            case "invitation":
                return picks.of([*self.invitations[-3:], "x" * 43])
            case "session":
                return picks.of([*list(self.sessions)[-4:], "x" * 43])
            case "proof":
                return self.proof(guest, picks.of(range(ACCOUNTS)))
            case "description":
                kinds = picks.of(["offer", "answer"])
                return {"type": kinds, "sdp": picks.of([*map(description, Kind), "v=0\r\n"])}
            case "candidates":
                texts = [candidate(RELAY, "relay"), candidate(HOME, "host"), "", "rubbish"]
                return [{"candidate": picks.of(texts), "sdpMid": "0"}]
            case "connection":
                return "one"
            case "code":
                return picks.of([*self.codes, "AAAAA-BBBBB-CCCCC-DDDDD"])
            case "kind":
                return picks.of([kind.value for kind in Kind])
            case "uses" | "limit" | "before":
                return picks.of([None, 1, 2, 50])
            case "ttl_s":
                return picks.of([60, 3600])
            case "name" | "token":
                return picks.of(["", "Ann"])
            case _:
                return picks.of([False, True])

    def proof(self, guest: Guest, number: int) -> dict[str, str]:
        """That this page has the key of that account."""
        channel = self.connected(guest)
        text = signed_text(channel.origin, channel.welcome["challenge"])
        signed = self.keys[number].sign(text).signature
        signature = base64.urlsafe_b64encode(signed).decode().rstrip("=")
        return {"key": text_of(self.keys[number]), "signature": signature}

    def say(self, guest: Guest, message: dict[str, Any]) -> None:
        """Say it with the next number."""
        channel = self.connected(guest)
        owner = self.sessions.get(str(message.get("session")))
        if owner is not None:
            channel.seq = max(channel.seq, owner.seq)
        channel.seq += 1
        guest.seq = channel.seq
        self.say_raw(guest, json.dumps({**message, "seq": channel.seq}).encode())

    def say_raw(self, guest: Guest, data: bytes) -> None:
        guest.said = [*guest.said[-20:], data]
        channel = self.connected(guest)
        if channel.closed is None:
            channel.say_raw(data)

    def connected(self, guest: Guest) -> FakeChannel:
        if guest.channel is None or guest.channel.closed is not None:
            guest.channel = FakeChannel(self.hub, guest.client)
            guest.place = ""
        return guest.channel

    def cut(self, guest: Guest) -> None:
        if guest.channel is not None and guest.channel.closed is None:
            guest.channel.cut()
        self.listen(guest)
        guest.channel = None
        guest.place = ""

    # ------------------------------------------------------------ what they hear

    async def settle(self) -> None:
        """Until all is done that the ledger alone was waited for."""
        for _ in range(2):
            await self.ledger.balances([0])
            await trio.testing.wait_all_tasks_blocked()
        for guest in self.guests:
            self.listen(guest)
        self.check()

    def listen(self, guest: Guest) -> None:
        """Take in what a page was told."""
        if guest.channel is None:
            return
        heard, guest.channel.heard = guest.channel.heard, []
        now_ns = self.clock.monotonic_ns()
        for message in heard:
            kind = message["type"]
            self.heard[kind] += 1
            if message.get("session"):
                self.sessions[message["session"]] = guest
                guest.place = next((one for one in ("call", "room") if message.get(one)), "account")
                if kind == "waiting":
                    guest.place = "room"
            match kind:
                case "error":
                    assert f"``{message['code']}``" in CODES, message
                    self.heard[message["code"]] += 1
                    if message.get("last") is not None:
                        guest.channel.seq = guest.seq = message["last"]
                case "entered" | "invitation":
                    if message.get("invitation"):
                        self.invitations.append(message["invitation"])
                case "calling":
                    self.links.append((message["call"], message["secret"]))
                    if message["callee_secret"]:
                        self.links.append((message["call"], message["callee_secret"]))
                    assert guest.account is not None
                    self.begun_ns[guest.account].append(now_ns)
                case "ringing":
                    self.links.append((message["call"], message["secret"]))
                case "signed_in":
                    guest.account = self.addresses.index(message["address"])
                case "account":
                    if message["redeemed"]:
                        self.redeemed_ns.append(now_ns)
                case "ended":
                    guest.place = ""

    def check(self) -> None:
        """What holds at any time."""
        open_now = [one for one in self.guests if one.channel and one.channel.closed is None]
        assert self.hub.connections == len(open_now)
        connected = [one for one in self.hub._sessions.values() if one.channel is not None]
        assert len({id(one.channel) for one in connected}) == len(connected) <= len(open_now)
        for begun_ns in self.begun_ns.values():
            assert most_within(begun_ns, MINUTE_S) <= self.config.calls_per_minute
        # A window's end and the next one's beginning may meet; there are two networks.
        assert most_within(self.redeemed_ns, MINUTE_S) <= 2 * 2 * REDEEM_A_MINUTE
        posted = {
            info.number: self.ledger.balance(info.number, J).posted
            for info in self.ledger.accounts(0, 1_000)
        }
        assert sum(posted.values()) == 0
        redeemed = -posted[ISSUE] // J.unit - sum(AMOUNTS)
        assert redeemed in range(0, VOUCHERS * VOUCHER + 1, VOUCHER)
        assert all(amount >= 0 for number, amount in posted.items() if number != ISSUE)
        self.paid = posted[NODE] // J.unit

    # ------------------------------------------------------------ time

    async def seconds(self, duration_s: int, *, beating: bool = False) -> None:
        for _ in range(duration_s):
            self.clock.advance_s(1)
            if beating:
                for guest in self.guests:
                    if guest.place == "call":
                        self.say(guest, {"type": "beat"})
            await self._tick()
            await self._ticking(self.signaling.calls.tick)
            await self._ticking(self.signaling.rooms.tick)
            self.hub.sweep()
            await self.settle()

    async def _tick(self) -> None:
        self.bench.collect()
        self.bench.metering._stop_all(await self.bench.metering.tick())

    async def _ticking(self, act: Callable[[], Awaitable[None]]) -> None:
        """Have something done that waits for the metering, which ticks until it is."""
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await act()
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            while True:
                await trio.testing.wait_all_tasks_blocked()
                await self._tick()

    # ------------------------------------------------------------ whole stories

    async def meet(self, one: Guest, other: Guest, picks: Picks) -> None:
        """A room of two."""
        for guest in (one, other):
            self.cut(guest)
        proof = self.proof(one, 0)
        self.say(one, {"type": "create", "lobby": picks.rarely(), "proof": proof})
        await self.settle()
        if self.invitations:
            self.say(other, {"type": "join", "invitation": self.invitations[-1]})
            await self.settle()

    async def talk(self, one: Guest, other: Guest, picks: Picks) -> None:
        """A call that goes as calls go, until somebody does something else."""
        for guest in (one, other):
            self.cut(guest)
        known = len(self.links)
        self.say(one, {"type": "sign_in", "proof": self.proof(one, picks.of([0, 1]))})
        await self.settle()
        kind = picks.of(list(Kind))
        self.say(one, {"type": "call", "to": None, "kind": kind.value})
        await self.settle()
        self.cut(one)
        if len(self.links) < known + 2:
            return
        relay_only = picks.of([False, False, True])
        for guest, (call, secret) in zip((one, other), self.links[-2:], strict=True):
            message = {"type": "open_call", "call": call, "secret": secret}
            self.say(guest, {**message, "relay_only": relay_only})
            await self.settle()
        offer = {"type": "offer", "sdp": description(kind)}
        self.say(one, {"type": "signal", "to": "1", "connection": "one", "description": offer})
        answer = {"type": "answer", "sdp": description(kind)}
        self.say(other, {"type": "answer", "connection": "one", "description": answer})
        await self.settle()
        for guest in (one, other):
            self.say(guest, {"type": "connected"})
        await self.settle()

    async def carry_out(self, number: int, act: str, picks: Picks) -> None:
        """One step of a life."""
        guest = self.guests[number]
        other = self.guests[(number + 1) % PAGES]
        match act:
            case "sign in":
                self.cut(guest)
                self.say(guest, {"type": "sign_in", "proof": self.proof(guest, number % ACCOUNTS)})
            case "meet":
                await self.meet(guest, other, picks)
            case "talk":
                await self.talk(guest, other, picks)
            case "cut":
                self.cut(guest)
            case "pass":
                await self.seconds(picks.of([1, 2, 5, 12]), beating=picks.of([True, False]))
            case "pass long":
                await self.seconds(picks.of([31, 46]), beating=picks.of([True, False]))
            case "replay" if guest.said:
                self.say_raw(guest, picks.of(guest.said))
            case "skip":
                self.connected(guest).seq += picks.of([1, 5])
            case "raw":
                self.say_raw(guest, picks.of([b"", b"[", b"{}", b'{"type":"fly"}', b"\xff", b"1"]))
            case "fitting":
                self.connected(guest)
                fitting = picks.of(FITTING[guest.place])
                self.say(guest, self.message(guest, fitting, picks))
            case "flood":
                message = self.message(guest, picks.of(list(SHAPES)), picks)
                for _ in range(FLOOD):
                    self.say(guest, message)
            case _ if act in SHAPES:
                self.connected(guest)
                self.say(guest, self.message(guest, act, picks))
        # What comes at once is said at once.
        if picks.of(range(3)):
            await self.settle()

    async def end(self) -> None:
        """All pages go for good; then nothing is left of them."""
        for guest in self.guests:
            self.cut(guest)
        await self.seconds(KEEP_S + 2)
        assert len(self.hub) == self.hub.connections == len(self.signaling.rooms) == 0
        await self.seconds(RINGING_S + SILENT_S - KEEP_S)
        calls = self.signaling.calls
        # A link that nobody has opened yet waits on.
        assert {info.status.value for info in calls.living()} <= {"pending"}
        self.assert_nothing_is_held()
        self.clock.advance_s(PENDING_S)
        await self.seconds(2)
        assert calls.living() == []
        table = calls._table
        kept = (
            *(table.calls, table.ending, table._occupied, table._made),
            *(calls._unstored, calls.admission._begun_ns),
        )
        assert not any(kept), kept
        call_desk = calls._tell.__self__  # type: ignore[attr-defined]
        assert not call_desk._sessions
        assert not call_desk._left
        assert not call_desk.ring.__self__._by_account
        assert len(self.bench.metering) == 0
        assert (await verify(self.ledger)).problems == []

    def assert_nothing_is_held(self) -> None:
        for info in self.ledger.accounts(0, 1_000):
            balance = self.ledger.balance(info.number, J)
            assert (balance.held, balance.reserved, balance.incoming) == (0, 0, 0), info


def text_of(key: SigningKey) -> str:
    """The public key as proofs name it."""
    return base64.b32encode(bytes(key.verify_key)).decode().lower().rstrip("=")


def most_within(times_ns: list[int], duration_s: int) -> int:
    """How many of them there are at most in so long a time."""
    end_ns = duration_s * NS_PER_S
    return max(
        (sum(first <= one < first + end_ns for one in times_ns) for first in times_ns), default=0
    )


class Mistakes(logging.Handler):
    """What is logged of exceptions that nobody has foreseen."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(self.format(record))


@contextmanager
def no_mistakes() -> Iterator[None]:
    """Nothing may be logged as one."""
    mistakes = Mistakes()
    logger = logging.getLogger("montana")
    logger.addHandler(mistakes)
    try:
        yield
    finally:
        logger.removeHandler(mistakes)
    assert not mistakes.told, "\n".join(mistakes.told)


async def live(
    folder: Path, config: SignalingConfig, steps: Sequence[tuple[int, str, list[int]]]
) -> Lives:
    """A life from its beginning to its end, over the node's kills."""
    clock = VirtualClock()
    # As a tick comes just before a second's end.
    clock.advance_ns(NS_PER_S * 9 // 10)
    lives = Lives(clock, config)
    runs: list[list[tuple[int, str, list[int]]]] = [[]]
    for step in steps:
        if step[1] == "kill":
            runs.append([])
        else:
            runs[-1].append(step)
    for number, run in enumerate(runs):
        with open_small(folder / str(number), clock) as ledger:
            await lives.start(ledger)
            if not number:
                await lives.open_accounts()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lives.hub.run)
                await trio.testing.wait_all_tasks_blocked()
                for page, act, numbers in run:
                    await lives.carry_out(page, act, Picks(numbers))
                await lives.settle()
                if run is runs[-1]:
                    await lives.end()
                else:
                    # What a kill leaves: nothing of it is closed.
                    shutil.copytree(folder / str(number), folder / str(number + 1))
                nursery.cancel_scope.cancel()
        lives.killed()
    return lives


_ACTS = st.one_of(
    st.sampled_from(["talk", "meet", "sign in", "pass", "pass long", "cut", "kill"]),
    st.sampled_from(["flood", "replay", "skip", "raw", *FITTING[""]]),
    st.sampled_from(sorted(SHAPES)),
    *[st.just("fitting")] * 3,
)
_STEPS = st.lists(
    st.tuples(
        st.integers(0, PAGES - 1), _ACTS, st.lists(st.integers(0, 1_000), min_size=3, max_size=12)
    ),
    min_size=5,
    max_size=50,
)
_CONFIGS = st.builds(
    SignalingConfig,
    rooms=st.sampled_from(["host", "free"]),
    direct_calls=st.booleans(),
    relay_only=st.booleans(),
    calls_per_minute=st.sampled_from([2, 5]),
    messages_per_second=st.just(10),
    message_burst=st.just(30),
)


@settings(max_examples=25, deadline=None)
@given(config=_CONFIGS, steps=_STEPS)
def test_whatever_is_said_is_answered_or_refused(
    config: SignalingConfig, steps: list[tuple[int, str, list[int]]]
) -> None:
    with no_mistakes(), tempfile.TemporaryDirectory() as folder:
        trio.run(live, Path(folder), config, steps)
