"""SMS that go out, in virtual time: until when each is of use is what carriers are told, nothing is
sent after that, and what was surely not sent is never called unknown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from bridges.node_link import NodeLink
from bridges.spool import Change, Spool, SpoolFull, open_spool
from bridges.twilio.advice import advice_on
from bridges.twilio.android import AndroidPhone
from bridges.twilio.carrier import Accepted, Again, Carrier, Outcome
from bridges.twilio.figures import Figures
from bridges.twilio.rest import TwilioRest
from bridges.twilio.sending import AT_ONCE_MAXIMUM, Sending
from bridges.twilio.statuses import Statuses
from core.api import bridge_messages
from core.api.bridge_messages import Event, SmsBody
from core.bridge_config import AndroidConfig, TwilioConfig
from core.clock import VirtualClock
from core.units import DAY_S
from tests.bridges.twilio.world import ACCOUNT, PHONE_SECRET, PUBLIC_URL, SENDER, TOKEN

pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("_at_once")]

WAIT_S = 60
LIFETIME_S = 600
TWILIO = TwilioConfig(public_url=PUBLIC_URL, account_sid=ACCOUNT, auth_token=TOKEN, sender=SENDER)
TOO_LATE = ("failed", "it could not be sent in time")


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridges.twilio.carrier.RETRY_FIRST_S", 0.01)
    monkeypatch.setattr("bridges.twilio.sending.RETRY_LAST_S", 0.01)
    monkeypatch.setattr("bridges.spool.FULL_RETRY_S", 0.01)


class Node(NodeLink):
    """Hands out SMS, and notes what it is told of them."""

    def __init__(self, folder: Path, clock: VirtualClock) -> None:
        super().__init__(folder / "nobody", "twilio")
        self._clock = clock
        self._tell, self._told = trio.open_memory_channel[Event](64)
        self.ended: dict[str, tuple[str, str]] = {}

    def tell(self, number: int, lifetime_s: int = LIFETIME_S) -> str:
        """Have an SMS sent; the event's id."""
        now_ms = round(self._clock.unix_s() * 1000)
        event = Event(
            id=f"{number:032x}",
            to=f"+7999555{number:04}",
            created_ms=now_ms,
            expires_ms=now_ms + lifetime_s * 1000,
            body=SmsBody("a code"),
        )
        self._tell.send_nowait(event)
        return event.id

    async def events(self) -> AsyncIterator[Event]:
        async for event in self._told:
            yield event

    async def acknowledge(
        self, event: str, outcome: bridge_messages.Outcome = "done", detail: str = ""
    ) -> None:
        self.ended[event] = (outcome, detail)

    async def end_of(self, event: str) -> tuple[str, str]:
        """What it is told of an SMS, when it is."""
        while event not in self.ended:
            await trio.sleep(0.005)
        return self.ended[event]


class FullSpool(Spool):
    """A spool on a disk that is full for a while when something is to be removed.

    Attributes:
        refusals: how many there are left.
    """

    def __init__(self, opened: Spool) -> None:
        super().__init__(opened._environment)
        self.refusals = 0

    async def change(self, *changes: Change) -> bool:
        if self.refusals and all(one.value is None for one in changes):
            self.refusals -= 1
            raise SpoolFull("the disk is full")
        return await super().change(*changes)


@asynccontextmanager
async def sending(
    folder: Path, carrier: Carrier, clock: VirtualClock
) -> AsyncIterator[tuple[Node, FullSpool]]:
    """A bridge that sends by a carrier what the node has."""
    node = Node(folder, clock)
    with open_spool(folder) as opened, trio.fail_after(WAIT_S):
        spool = FullSpool(opened)
        statuses = Statuses(node, spool, clock)
        made = Sending("twilio", node, spool, clock, carrier, statuses, Figures(node))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            yield node, spool
            nursery.cancel_scope.cancel()


class NotedCarrier:
    """Gives so many answers, then takes what it is given, when it may.

    Attributes:
        lifetimes_s: of what it was given.
    """

    def __init__(self, *answers: Outcome) -> None:
        self._answers = list(answers)
        self.may_answer = trio.Event()
        self.lifetimes_s: list[float] = []

    async def send(
        self,
        _number: str,
        _text: str,
        _event: str | None,
        *,
        lifetime_s: float,
        sim_number: int | None = None,
    ) -> Outcome:
        assert sim_number is None
        self.lifetimes_s.append(lifetime_s)
        await self.may_answer.wait()
        return self._answers.pop(0) if self._answers else Accepted("")


@pytest.mark.parametrize("by", ["twilio", "phone"])
async def test_carriers_are_told_what_is_left_of_an_sms(tmp_path: Path, by: str) -> None:
    clock = VirtualClock()
    lifetimes_s: list[int] = []

    def take(request: httpx.Request) -> httpx.Response:
        if by == "twilio":
            (told,) = parse_qs(request.content.decode())["ValidityPeriod"]
            lifetimes_s.append(int(told))
        else:
            lifetimes_s.append(json.loads(request.content)["ttl"])
        if len(lifetimes_s) == 2:
            clock.advance_s(100)
            return httpx.Response(429, json={"code": 20429})
        return httpx.Response(201, json={"sid": "SM1"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(take)) as client:
        phone = AndroidConfig(secret=PHONE_SECRET, url="http://phone.test")
        carrier: Carrier = (
            TwilioRest(TWILIO, client, "en") if by == "twilio" else AndroidPhone(phone, client)
        )
        async with sending(tmp_path, carrier, clock) as (node, _):
            for number, lifetime_s in enumerate((LIFETIME_S, LIFETIME_S, DAY_S)):
                assert await node.end_of(node.tell(number, lifetime_s)) == ("done", "")
    # The second had to wait. Twilio takes no more than four hours; who has a day has these.
    longest_s = 4 * 3600 if by == "twilio" else DAY_S
    assert lifetimes_s == [LIFETIME_S, LIFETIME_S, LIFETIME_S - 100, longest_s]


@pytest.mark.parametrize("code", [21624, 90007])
async def test_one_whose_time_twilio_refuses_waits_for_the_operator(
    tmp_path: Path, code: int
) -> None:
    clock = VirtualClock()
    states: list[str] = []

    def take(_request: httpx.Request) -> httpx.Response:
        states.append(node.state)
        if len(states) == 1:
            return httpx.Response(400, json={"code": code})
        return httpx.Response(201, json={"sid": "SM1"})

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(take)) as client,
        sending(tmp_path, TwilioRest(TWILIO, client, "en"), clock) as (node, _),
    ):
        assert await node.end_of(node.tell(1)) == ("done", "")
        states.append(node.state)
    before, meanwhile, after = states
    assert (before, after) == ("running", "running")
    assert meanwhile.startswith(f"{code}: a wrong validity period")
    # One whose time runs out there is told of as well as all else.
    assert "its time ran out" in advice_on(30036).english


async def test_what_has_waited_for_others_is_not_sent_after_its_end(tmp_path: Path) -> None:
    clock, carrier = VirtualClock(), NotedCarrier()
    async with sending(tmp_path, carrier, clock) as (node, spool):
        first = [node.tell(number) for number in range(AT_ONCE_MAXIMUM)]
        while len(carrier.lifetimes_s) < AT_ONCE_MAXIMUM:
            await trio.sleep(0.005)
        late = [node.tell(number, lifetime_s=10) for number in range(100, 103)]
        in_time = node.tell(200)
        await wait_all_tasks_blocked()
        clock.advance_s(10)
        carrier.may_answer.set()
        assert [await node.end_of(event) for event in first] == [("done", "")] * len(first)
        assert [await node.end_of(event) for event in late] == [TOO_LATE] * len(late)
        assert await node.end_of(in_time) == ("done", "")
        assert carrier.lifetimes_s == [LIFETIME_S] * AT_ONCE_MAXIMUM + [LIFETIME_S - 10]
        # Nobody will ever tell of them.
        assert {event for event, _ in spool.items("tracked")} == {*first, in_time}


@pytest.mark.parametrize("is_in_time", [True, False])
async def test_what_was_surely_not_sent_waits_for_the_disk_and_is_never_unknown(
    tmp_path: Path, is_in_time: bool
) -> None:
    clock, carrier = VirtualClock(), NotedCarrier(Again("too many requests"))
    async with sending(tmp_path, carrier, clock) as (node, spool):
        event = node.tell(1)
        while not carrier.lifetimes_s:
            await trio.sleep(0.005)
        spool.refusals = 3
        if not is_in_time:
            clock.advance_s(LIFETIME_S)
        carrier.may_answer.set()
        assert await node.end_of(event) == (("done", "") if is_in_time else TOO_LATE)
        assert not spool.refusals
        assert len(carrier.lifetimes_s) == 1 + is_in_time
