"""The GSM bridge among emulated modems, its spool on a real disk; the node is a stand-in that takes
only what could be sent to a real one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import MockClock

from bridges.gsm import bridge
from bridges.node_link import NodeLink
from bridges.process import BridgeContext
from bridges.spool import Spool, open_spool
from core.api.bridge_messages import (
    AcknowledgeRequest,
    BridgeAnswerRequest,
    BridgeStatusRequest,
    CommandBody,
    DoneReply,
    Event,
    EventBody,
    SmsBody,
    SmsReceivedReply,
    SmsReceivedRequest,
    SmsStatusRequest,
    effect_id,
)
from core.api.messages import ReplyBody, Request, RequestBody
from core.clock import SystemClock
from core.config_file import validate_untrusted
from core.errors import OperationError
from core.units import NS_PER_S
from tests.support.modem_emulator import ZONE, EmulatedNetwork, ModemEmulator, sms_network
from tests.support.modem_sim import SimCard

STEP_S = 0.2
STEP_MAXIMUM_S = 1.0
STEPS_MAXIMUM = 6_000
PERSON = "+79991112233"
FAR_FUTURE_MS = 4_000_000_000_000


class WorldClock(SystemClock):
    """The time that trio has, so that what passes in a test passes for the bridge."""

    __slots__ = ("_zero_s",)

    def __init__(self) -> None:
        self._zero_s = time.time() - trio.current_time()

    def unix_s(self) -> float:
        """Seconds since 1970 UTC."""
        return self._zero_s + trio.current_time()

    def monotonic_ns(self) -> int:
        """Nanoseconds of trio's clock."""
        return round(trio.current_time() * NS_PER_S)


class NodeStandIn:
    """Where `NodeLink` is: answers as the node would, and remembers what it was told.

    Attributes:
        messages: SMS that were handed on, each once; `asked` has them as often as they were.
        reply: what a message is answered with; an exception is raised.
        refuses_status: of which events it takes no status.
        online: set while the node is there.
    """

    def __init__(self) -> None:
        self.messages: list[SmsReceivedRequest] = []
        self.asked: list[SmsReceivedRequest] = []
        self.statuses: list[tuple[str, str]] = []
        self.refuses_status: set[str] = set()
        self.outcomes: dict[str, str] = {}
        self.answers: dict[str, BridgeAnswerRequest] = {}
        self.reply: Callable[[SmsReceivedRequest], str | None] = lambda _: None
        self.online = trio.Event()
        self.online.set()
        self._status = BridgeStatusRequest("gsm", "", {})
        self._events: dict[str, Event] = {}
        self._send: trio.MemorySendChannel[Event] | None = None

    @property
    def figures(self) -> dict[str, str]:
        return dict(self._status.figures)

    @figures.setter
    def figures(self, figures: dict[str, str]) -> None:
        self._status = BridgeStatusRequest("gsm", self.state, figures)
        assert_wired(self._status)

    @property
    def state(self) -> str:
        return self._status.state

    @state.setter
    def state(self, state: str) -> None:
        self._status = BridgeStatusRequest("gsm", state, self.figures)
        assert_wired(self._status)

    async def request(self, body: RequestBody) -> ReplyBody:
        await self.online.wait()
        assert_wired(body)
        match body:
            case SmsReceivedRequest():
                self.asked.append(body)
                reply = self.reply(body)
                is_new = all(one.message_id != body.message_id for one in self.messages)
                if is_new:
                    self.messages.append(body)
                return SmsReceivedReply(reply, not is_new)
            case SmsStatusRequest():
                if body.event in self.refuses_status:
                    raise OperationError("the disk is full", "full")
                self.statuses.append((body.event, body.status))
            case BridgeAnswerRequest():
                self.answers[body.id] = body
            case AcknowledgeRequest():
                await self.acknowledge(body.id, body.outcome, body.detail)
            case _:
                raise OperationError(f"a GSM bridge asks for no {type(body).__name__}")
        return DoneReply()

    async def acknowledge(self, event: str, outcome: str = "done", detail: str = "") -> None:
        await self.online.wait()
        msgspec.json.decode(
            msgspec.json.encode(AcknowledgeRequest(event, cast(Any, outcome), detail[:128])),
            type=AcknowledgeRequest,
        )
        # What was not heard to be told is told again, and is the same.
        assert self.outcomes.setdefault(event, outcome) == outcome
        self._events.pop(event, None)

    async def events(self) -> AsyncIterator[Event]:
        self._send, receive = trio.open_memory_channel[Event](1000)
        for event in self._events.values():
            self._send.send_nowait(event)
        async for event in receive:
            yield event

    def tell(self, body: EventBody, to: str, name: str, expires_ms: int = FAR_FUTURE_MS) -> str:
        """An event; returns its id."""
        event = Event(id=effect_id(name), to=to, created_ms=0, expires_ms=expires_ms, body=body)
        self._events[event.id] = event
        if self._send is not None:
            self._send.send_nowait(event)
        return event.id

    def send_sms(self, to: str, text: str, name: str = "", **changes: int) -> str:
        """Have an SMS sent; returns the event's id."""
        return self.tell(SmsBody(text), to, name or text, **changes)

    def ask_ussd(self, modem: str, code: str) -> str:
        """An operator's question; returns its id."""
        return self.tell(CommandBody("ussd", (modem, code)), "", f"{modem} {code}")


def assert_wired(body: RequestBody) -> None:
    """Whether a node would read it as it was meant."""
    wired = msgspec.json.decode(msgspec.json.encode(Request(1, body)), type=Request)
    assert wired.body == body


class GsmWorld:
    """See `gsm_world`."""

    def __init__(
        self,
        folder: Path,
        network: EmulatedNetwork,
        modems: list[ModemEmulator],
        spools: ExitStack,
        settings: list[dict[str, Any]],
        clock: MockClock,
        nursery: trio.Nursery,
    ) -> None:
        self.clock = clock
        self.network = network
        self.modems = modems
        self.modem = modems[0]
        self.node = NodeStandIn()
        self._time = WorldClock()
        # A service centre's time passes as fast as the bridge's.
        network._now = lambda: datetime.fromtimestamp(self._time.unix_s(), ZONE)
        self.settings = settings
        self._folder = folder
        self._spools_open = spools
        self._spools: list[Path] = []
        self.spool: Spool
        self._open_spool(folder / "spool")
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._nursery = nursery

    def context(self) -> BridgeContext:
        """What `bridges.process` would give it."""
        document = {
            "turn": {"listen": ["udp://127.0.0.1:3478"], "secrets": ["a secret of the tests"]},
            "bridges": {"gsm": {"modems": self.settings}},
            "sms": {"countries": ["RU"]},
        }
        return BridgeContext(
            name="gsm",
            config=validate_untrusted(document, self._folder, "gsm"),
            node=cast(NodeLink, self.node),
            spool=self.spool,
            clock=self._time,
        )

    async def start(self) -> None:
        """Run the bridge; `stop` ends it."""
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._nursery.start_soon(self._run, self._scope, self._ended)

    async def _run(self, scope: trio.CancelScope, ended: trio.Event) -> None:
        with scope:
            await bridge.run(self.context())
        ended.set()

    def request_stop(self) -> None:
        """Have the bridge end, as SIGTERM does."""
        assert self._scope is not None
        self._scope.cancel()

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        return self._ended.is_set()

    async def stop(self) -> None:
        """End the bridge."""
        self.request_stop()
        await self._ended.wait()

    def ms_in(self, duration_s: float) -> int:
        """A moment that is so far away, as events have it."""
        return round(1000 * (self._time.unix_s() + duration_s))

    def crash(self) -> None:
        """What kill -9 leaves: a spool as it is now. The bridge that ran is told nothing more, and
        whatever it does goes nowhere."""
        folder = self._folder / f"spool{len(self._spools)}"
        folder.mkdir()
        self.spool._environment.copy(str(folder))
        self.node, dead = NodeStandIn(), self.node
        self.node.__dict__.update(dead.__dict__ | {"_send": None})
        dead.online = trio.Event()
        self._open_spool(folder)
        self.request_stop()

    def _open_spool(self, folder: Path) -> None:
        self.spool = self._spools_open.enter_context(open_spool(folder))
        self._spools.append(folder)

    async def restart(self) -> None:
        """End it and run it again, on the same spool."""
        await self.stop()
        await self.start()

    async def until(self, condition: Callable[[], object], *, fast: bool = True) -> None:
        """Wait for something to become true. Time passes `STEP_S` for each time that all tasks
        could do something, and more and more while lines are silent: what waits for nothing but
        time has not long to wait. While the disk writes none passes.

        Raises:
            AssertionError: it doesn't become true in `STEPS_MAXIMUM` of them.
        """
        step_s = STEP_S
        carried = self._carried
        for _ in range(STEPS_MAXIMUM):
            if condition():
                return
            if fast and not self._is_storing:
                self.clock.jump(step_s)
            await trio.sleep(0.005)
            before, carried = carried, self._carried
            step_s = STEP_S if carried != before else min(2 * step_s, STEP_MAXIMUM_S)
        raise AssertionError(f"it never came; {self.node.figures}")

    async def until_state(self, state: str, name: str = "sim0") -> None:
        """Wait for a modem's state."""
        await self.until(lambda: self.figure("state", name) == state)

    async def pass_s(self, duration_s: float) -> None:
        """Let time pass."""
        end = trio.current_time() + duration_s
        await self.until(lambda: trio.current_time() >= end)

    @property
    def _carried(self) -> int:
        return sum(modem.octets_carried for modem in self.modems)

    @property
    def _is_storing(self) -> bool:
        return self.spool._writing.locked()

    def figure(self, name: str, modem: str = "sim0") -> str | None:
        """A figure of a modem's, as the node is told it."""
        return self.node.figures.get(f"modem.{modem}.{name}")

    @property
    def number(self) -> str:
        """The first modem's."""
        return self.modem.sim.number

    @property
    def stored(self) -> int:
        """How many messages lie in the first modem."""
        return sum(len(store) for store in self.modem.sim.stores.values())

    def deliver(self, text: str, sender: str = PERSON, **changes: Any) -> None:
        """A message for the first modem."""
        self.network.deliver(self.number, sender, text, **changes)

    @property
    def texts(self) -> list[str]:
        """What was handed on, each message once."""
        return [one.body for one in self.node.messages]

    @property
    def asked(self) -> list[str]:
        """What was handed on, as often as it was."""
        return [one.body for one in self.node.asked]

    @staticmethod
    def logged(caplog: pytest.LogCaptureFixture) -> str:
        """All that was logged, with the fields that aren't in a message."""
        return repr([record.__dict__ for record in caplog.records])


@asynccontextmanager
async def gsm_world(
    folder: Path,
    clock: MockClock,
    count: int = 1,
    *,
    starts: bool = True,
    pin: str | None = None,
    configured_pin: str | None = None,
    slots: int = 20,
    prepare: Callable[[ModemEmulator], None] = lambda _: None,
    **changes: Any,
) -> AsyncIterator[GsmWorld]:
    """A bridge with `count` modems (`sim0`, ...), each with a SIM; `changes` are of the emulator or
    of the bridge's configuration (`pace_s`, `daily_cap`, `balance_ussd`).
    `clock` is the one that trio runs by."""
    clock.rate = 1.0
    ours = {
        key: changes.pop(key) for key in ("pace_s", "daily_cap", "balance_ussd") if key in changes
    }
    # The bridge ends before its spool is closed.
    with ExitStack() as spools:
        async with sms_network() as network, trio.open_nursery() as nursery:
            modems = []
            settings = []
            for number in range(count):
                sim = SimCard(number=f"+7999000{number:04d}", pin=pin, slots=slots)
                link = folder / f"modem{number}"
                modems.append(network.plug_in(link, sim, **changes))
                # Time passes faster than the disk writes.
                modems[-1].messages.acknowledge_within_s = 60.0
                prepare(modems[-1])
                one = {
                    "name": f"sim{number}",
                    "device": str(link),
                    "number": sim.number,
                    "pace_s": 0,
                }
                if configured_pin is not None:
                    one["pin"] = configured_pin
                settings.append(one | ours)
            world = GsmWorld(folder, network, modems, spools, settings, clock, nursery)
            if starts:
                await world.start()
            yield world
            nursery.cancel_scope.cancel()
