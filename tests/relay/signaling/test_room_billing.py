"""Who pays for rooms: hosts by the minute on a real ledger, the node within its quota."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from billing.audit import verify
from billing.desk import Desk
from billing.ledger import ISSUE, NODE, LmdbLedger, open_ledger
from billing.money import J
from billing.tariff import Line, tariff_line
from billing.transfers import Code, Result, Transfer, new_id
from core.clock import VirtualClock
from core.config import BillingConfig
from core.errors import OperationError, SignalingError
from core.units import DAY_S, NS_PER_S
from relay import cli, cli_statement
from relay.signaling.messages import HangUp
from relay.signaling.room_billing import (
    FreeQuota,
    HostBilling,
    Payment,
    Stop,
    Verdict,
    Warn,
)
from relay.signaling.rooms import Rooms
from tests.support.room_pages import Page, Pages, no_quota

LINE = Line("room", 0, 0, NODE, price_minute=J.unit)


@dataclass
class House:
    """Rooms, hosts with accounts, and the ledger that they pay from."""

    ledger: LmdbLedger
    clock: VirtualClock
    pages: Pages
    billing: HostBilling

    def account(self, amount: int) -> int:
        number = trio.run(self.ledger.open_account)
        self.give(number, amount)
        return number

    def give(self, account: int, amount: int) -> None:
        if amount:
            given = Transfer(new_id(self.clock), ISSUE, account, amount, code=Code.CREDIT)
            assert self.do(given) is Result.DONE

    def do(self, transfer: Transfer) -> Result:
        (result,) = trio.run(self.ledger.transfer, [transfer])
        assert isinstance(result, Result)
        return result

    def create(self, account: int) -> Page:
        payment = self.billing.payment(account, self.pages.now_ns)
        host = self.pages.create(payment)
        trio.run(self.billing.begin, payment)
        return host

    def tick(self) -> list[Verdict]:
        verdicts: list[Verdict] = trio.run(
            self.billing.tick, list(self.pages.rooms), self.pages.now_ns
        )
        return verdicts

    def live(self, seconds: int) -> list[tuple[int, Verdict]]:
        """Time passes; what was said, by the second."""
        said = []
        for second in range(1, seconds + 1):
            self.pages.advance(1)
            for verdict in self.tick():
                said.append((second, verdict))
                if isinstance(verdict, Stop):
                    self.pages.carry_out(self.pages.rooms.end(verdict.room, verdict.reason))
                else:
                    self.pages.carry_out(self.pages.rooms.warn(verdict.room, verdict.left_s))
        return said

    def has(self, account: int) -> int:
        return self.ledger.balance(account, J).posted

    def restart(self) -> None:
        """Everything in memory is gone."""
        self.pages.kill(Rooms(self.clock, no_quota), host_pays=True)
        self.billing = HostBilling(self.ledger, LINE, self.clock)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    clock = VirtualClock()
    with open_ledger(tmp_path / "ledger", clock, map_bytes=1 << 26) as ledger:
        pages = Pages(Rooms(clock, no_quota), clock)
        yield House(ledger, clock, pages, HostBilling(ledger, LINE, clock))
        assert trio.run(verify, ledger).problems == []


# ------------------------------------------------------------ the host pays


def test_each_minute_that_begins_costs_the_host(house: House) -> None:
    alice = house.account(10 * J.unit)
    room = house.create(alice).seat.room
    assert house.has(alice) == 9 * J.unit
    assert house.live(59) == []
    assert house.has(alice) == 9 * J.unit
    assert house.live(1) == []
    assert house.has(alice) == 8 * J.unit
    house.live(8 * 60 - 1)
    assert house.has(alice) == J.unit
    assert house.live(61) == [
        (1, Warn(room, 60)),
        (51, Warn(room, 10)),
        (61, Stop(room, "no-money")),
    ]
    assert house.has(alice) == 0
    assert house.has(NODE) == 10 * J.unit
    assert len(house.pages.rooms) == 0


def test_a_room_that_is_refilled_in_its_last_minute_goes_on(house: House) -> None:
    alice = house.account(J.unit)
    room = house.create(alice).seat.room
    assert house.live(30) == [(1, Warn(room, 59))]
    house.give(alice, J.unit)
    assert house.live(29) == []
    assert house.live(1) == [(1, Warn(room, 60))]


def test_what_is_spent_elsewhere_is_told_at_once(house: House) -> None:
    alice = house.account(5 * J.unit)
    room = house.create(alice).seat.room
    house.live(30)
    assert house.do(Transfer(new_id(house.clock), alice, NODE, 4 * J.unit)).is_done
    assert house.live(1) == [(1, Warn(room, 29))]


def test_who_has_nothing_makes_no_room(house: House) -> None:
    poor = house.account(J.unit - 1)
    payment = house.billing.payment(poor, house.pages.now_ns)
    with pytest.raises(SignalingError) as refused:
        trio.run(house.billing.begin, payment)
    assert refused.value.code == "no-money"
    assert house.has(poor) == J.unit - 1


def test_a_frozen_host_s_room_ends_and_says_why(house: House) -> None:
    alice = house.account(5 * J.unit)
    room = house.create(alice).seat.room
    trio.run(house.ledger.freeze, alice, True)
    assert house.live(60) == [(60, Stop(room, "account-frozen"))]
    assert house.has(alice) == 4 * J.unit


def test_nobody_pays_while_no_connection_stands(house: House) -> None:
    alice = house.account(5 * J.unit)
    host = house.create(alice)
    house.live(55)
    house.pages.lose(host)
    assert house.live(10) == []
    assert house.has(alice) == 4 * J.unit
    house.pages.resume(host)
    house.live(1)
    assert house.has(alice) == 3 * J.unit


def test_when_the_host_leaves_the_minute_that_is_paid_for_is_the_last(house: House) -> None:
    alice = house.account(5 * J.unit)
    host = house.create(alice)
    guest = house.pages.join(host.invitations[0])
    house.live(20)
    house.pages.act(host, HangUp(1))
    room = guest.seat.room
    assert house.live(40) == [
        (1, Warn(room, 39)),
        (30, Warn(room, 10)),
        (40, Stop(room, "no-money")),
    ]
    assert guest.ended == "no-money"
    assert house.has(alice) == 4 * J.unit


@pytest.mark.parametrize("host_left", [False, True])
def test_a_restart_charges_no_minute_twice(house: House, host_left: bool) -> None:
    alice = house.account(5 * J.unit)
    host = house.create(alice)
    guest = house.pages.join(host.invitations[0])
    house.live(70)
    assert house.has(alice) == 3 * J.unit
    if host_left:
        house.pages.act(host, HangUp(1))
    house.restart()
    # The second minute lasts for 50 seconds more.
    room = guest.seat.room
    assert house.live(5) == ([(1, Warn(room, 49))] if host_left else [])
    for page in (guest, host):
        if page.ended is None:
            house.pages.resume(page)
    assert house.live(34) == []
    assert house.has(alice) == 3 * J.unit
    said = house.live(11)
    assert said == ([(1, Warn(room, 10)), (11, Stop(room, "no-money"))] if host_left else [])
    assert house.has(alice) == (3 if host_left else 2) * J.unit
    assert (guest.ended is not None) == host_left


def test_minutes_in_which_the_node_was_down_cost_nothing(house: House) -> None:
    alice = house.account(9 * J.unit)
    host = house.create(alice)
    house.clock.advance_s(600)
    house.restart()
    house.pages.resume(host)
    house.live(1)
    assert house.has(alice) == 7 * J.unit


def test_an_account_that_is_merged_pays_on(house: House) -> None:
    alice, other = house.account(5 * J.unit), house.account(0)
    trio.run(house.ledger.link, alice, "user:alice")
    house.create(alice)
    trio.run(house.ledger.link, other, "user:alice")
    assert house.live(60) == []
    assert house.has(other) == 3 * J.unit
    # The same minute once more, now from another account, is the same minute.
    house.billing = HostBilling(house.ledger, LINE, house.clock)
    assert house.tick() == []
    assert house.has(other) == 3 * J.unit


@pytest.mark.parametrize("into_own", [False, True])
def test_who_owes_nothing_is_not_charged(house: House, into_own: bool) -> None:
    alice = house.account(0)
    line = Line("room", 0, 0, alice if into_own else NODE, price_minute=J.unit * into_own)
    house.billing = HostBilling(house.ledger, line, house.clock)
    house.create(alice)
    assert house.live(130) == []
    assert trio.run(house.ledger.history, alice) == []


def test_rooms_outlive_no_whole_minute_that_can_t_be_charged(house: House) -> None:
    class Full:
        """The ledger, whose disk has no room."""

        def __getattr__(self, name: str) -> Any:
            return getattr(house.ledger, name)

        async def transfer(self, *_: object) -> list[Result]:
            raise OperationError("the disk is full")

    alice = house.account(9 * J.unit)
    room = house.create(alice).seat.room
    house.live(30)
    whole = house.billing._ledger
    house.billing._ledger = Full()
    # A minute and some: when it can be written again, what is due is charged.
    assert house.live(80) == []
    house.billing._ledger = whole
    assert house.live(1) == []
    assert house.has(alice) == 7 * J.unit
    house.billing._ledger = Full()
    assert house.live(80)[0] == (69, Stop(room, "failed"))
    payment = house.billing.payment(alice, house.pages.now_ns)
    with pytest.raises(SignalingError) as refused:
        trio.run(house.billing.begin, payment)
    assert refused.value.code == "unavailable"


def test_many_rooms_are_charged_at_once(house: House) -> None:
    alice = house.account(1_000 * J.unit)
    for _ in range(100):
        house.create(alice)
    head = house.ledger.head
    assert house.live(60) == []
    assert house.has(alice) == 800 * J.unit
    assert house.ledger.head == head + 1


def test_ids_of_payments_can_t_be_made_beforehand(house: House) -> None:
    alice = house.account(9 * J.unit)
    first, second = (house.billing.payment(alice, house.pages.now_ns) for _ in range(2))
    assert first.key != second.key
    assert len(first.key) == 16


@pytest.mark.parametrize(
    ("locale", "words"), [("en_US.UTF-8", "minute of a room"), ("ru_RU.UTF-8", "минута комнаты")]
)
def test_a_statement_says_what_was_paid_for(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    locale: str,
    words: str,
) -> None:
    alice = house.account(5 * J.unit)
    house.create(alice)
    desk = Desk(house.ledger, house.clock, BillingConfig())
    monkeypatch.setenv("LC_ALL", locale)
    monkeypatch.setattr(cli_statement, "answer", lambda request, *_: trio.run(desk.answer, request))
    with pytest.raises(SystemExit) as exited:
        cli.main(["account", "statement", str(alice)])
    assert exited.value.code == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert words in line
    assert "-1" in line
    assert "node" in line


def test_the_price_is_the_tariff_s(house: House) -> None:
    line = tariff_line("room", BillingConfig(), house.ledger)
    assert (line.price_minute, line.price_second, line.into) == (J.unit, 0, NODE)


# ------------------------------------------------------------ the node pays


@dataclass
class Room:
    """What billing looks at."""

    id: str
    payment: Payment | None = None
    is_occupied: bool = True


ROOMS = [Room("a"), Room("b")]
NOON_NS = (20_000 * DAY_S + DAY_S // 2) * NS_PER_S


def quota(minutes: int = 10, people: int = 5, stored: bytes | None = None) -> FreeQuota:
    return FreeQuota(minutes_per_day=minutes, people=people, now_ns=NOON_NS, stored=stored)


def at(second: int) -> int:
    return NOON_NS + second * NS_PER_S


def refused(one: FreeQuota, people: int, now_ns: int) -> bool:
    try:
        one.check(people, now_ns)
    except SignalingError as error:
        return error.code == "quota"
    return False


def test_so_many_people_at_once() -> None:
    one = quota(people=5)
    assert [refused(one, people, at(0)) for people in (0, 4, 5, 6)] == [False, False, True, True]


def test_minutes_of_all_people_together() -> None:
    one = quota(minutes=10)
    said = []
    # Three people have used ten minutes up after 200 seconds.
    for second in range(201):
        said += [(second, verdict) for verdict in one.tick(ROOMS, 3, at(second))]
    assert said == [
        (140, Warn("a", 60)),
        (140, Warn("b", 60)),
        (190, Warn("a", 10)),
        (190, Warn("b", 10)),
        (200, Stop("a", "quota")),
        (200, Stop("b", "quota")),
    ]
    assert refused(one, 0, at(200))


def test_nobody_in_uses_nothing() -> None:
    one = quota(minutes=1)
    assert one.tick([], 0, at(3600)) == []
    assert not refused(one, 0, at(3600))
    assert one.tick(ROOMS, 1, at(3630)) == [Warn("a", 30), Warn("b", 30)]


def test_who_leaves_leaves_more_time_to_the_others() -> None:
    one = quota(minutes=5)
    assert one.tick(ROOMS[:1], 4, at(0)) == []
    assert one.tick(ROOMS[:1], 4, at(20)) == [Warn("a", 55)]
    assert one.tick(ROOMS[:1], 1, at(21)) == []
    assert one.tick(ROOMS[:1], 1, at(180)) == [Warn("a", 60)]


def test_a_new_day_begins_at_midnight_utc() -> None:
    one = quota(minutes=10)
    one.tick(ROOMS, 1, at(0))
    one.tick(ROOMS, 1, at(600))
    midnight = DAY_S // 2
    assert refused(one, 0, at(midnight - 1))
    assert not refused(one, 0, at(midnight))
    one.tick(ROOMS, 0, at(midnight - 300))
    # Of ten minutes that one tick stands for, five were yesterday.
    assert one.tick(ROOMS, 1, at(midnight + 300)) == []
    assert one.tick(ROOMS, 1, at(midnight + 540)) == [Warn("a", 60), Warn("b", 60)]


def test_nobody_is_warned_of_an_end_that_midnight_prevents() -> None:
    one = quota(minutes=1)
    midnight = DAY_S // 2
    one.tick(ROOMS, 0, at(midnight - 30))
    assert one.tick(ROOMS, 1, at(midnight - 20)) == []
    assert one.tick(ROOMS, 1, at(midnight + 1)) == [Warn("a", 59), Warn("b", 59)]


def test_what_was_used_outlives_a_restart_of_the_same_day() -> None:
    one = quota(minutes=2)
    one.tick(ROOMS, 1, at(90))
    again = quota(minutes=2, stored=one.export())
    assert again.tick(ROOMS, 1, at(0)) == [Warn("a", 30), Warn("b", 30)]
    tomorrow = FreeQuota(minutes_per_day=2, people=5, now_ns=at(DAY_S), stored=one.export())
    assert tomorrow.tick(ROOMS, 1, at(DAY_S + 30)) == []
    assert quota(minutes=2, stored=b"nonsense").tick(ROOMS, 1, at(1)) == []


def test_nothing_stands_for_no_limit() -> None:
    assert not refused(quota(minutes=0, people=0), 1_000, at(0))
    assert quota(minutes=0).tick(ROOMS, 5, at(DAY_S // 4)) == []


def test_time_that_goes_back_counts_for_nothing() -> None:
    one = quota(minutes=2)
    one.tick(ROOMS, 1, at(30))
    one.tick(ROOMS, 1, at(0))
    assert one.tick(ROOMS, 1, at(60)) == [Warn("a", 60), Warn("b", 60)]
