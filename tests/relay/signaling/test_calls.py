"""Calls from the first ring to the receipt, in virtual time, over a ledger that is real."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from billing.audit import verify
from billing.ledger import NODE
from billing.money import J
from billing.tariff import Line
from core.clock import VirtualClock
from core.errors import OperationError, SignalingError
from core.units import DAY_S, MINUTE_S
from relay import metering
from relay.call_activity import HOLDING_S
from relay.payers import NO_MONEY
from relay.signaling import call_making
from relay.signaling.call_billing import UNSTARTED_MEDIA_S
from relay.signaling.call_events import CallEvent, CallReceipt, CallUpdated, MoneyLow
from relay.signaling.call_heartbeats import Side
from relay.signaling.call_making import LIVING_OF_A_CALLER
from relay.signaling.call_records import CallRecords
from relay.signaling.call_states import Status
from relay.signaling.calls import CONNECTING_S, PENDING_S, RINGING_S, SILENT_S
from relay.signaling.descriptions import Kind
from tests.support.call_world import (
    HOME,
    MARKER,
    RELAY,
    World,
    candidate,
    description,
    open_world,
)

pytestmark = pytest.mark.trio


async def alice_and_bob(world: World, amount: int = 1_000) -> tuple[int, int]:
    return await world.account("user:alice", amount), await world.account("user:bob", 0)


def balance(world: World, account: int) -> int:
    """In micro-J; nothing is held any more."""
    found = world.ledger.balance(account, J)
    assert found.held == 0
    return found.posted


def refusal(caught: pytest.ExceptionInfo[SignalingError]) -> str:
    return caught.value.code


# ------------------------------------------------------------ from ring to receipt


async def test_a_call_is_charged_from_both_connected_to_the_end(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        alice, bob = await alice_and_bob(world)
        info = await world.calls.create("user:alice", "user:bob")
        assert (info.status, info.caller, info.callee) == (Status.PENDING, alice, bob)
        call = info.id
        await world.calls.set_present(call, Side.CALLER)
        assert world.call(call).status is Status.PENDING
        await world.calls.set_present(call, Side.CALLEE)
        assert world.call(call).status is Status.RINGING
        await world.seconds(5)
        world.calls.set_offer(call, description())
        await world.calls.answer_call(call, description())
        assert world.call(call).status is Status.ACTIVE
        assert not world.calls.start_call(call, is_from=False)
        await world.seconds(3, call)
        assert world.call(call).cost == 0
        assert world.calls.start_call(call, is_from=True)
        assert not world.calls.start_call(call, is_from=True), "it has begun once"
        await world.seconds(30, call)
        assert (world.call(call).seconds, world.call(call).cost) == (30, 30 * J.unit)
        has_ended, ended = await world.end(call, Side.CALLEE)
        assert has_ended
        assert (ended.status, ended.reason) == (Status.ENDED, "hung-up")
        assert (ended.duration_seconds, ended.cost_coins) == (30, "30.000000")
        assert balance(world, alice) == 970 * J.unit
        assert balance(world, NODE) == 30 * J.unit
        assert world.told(CallReceipt) == [CallReceipt(ended, 970 * J.unit)]
        statuses = [event.call.status for event in world.told(CallUpdated)]
        assert list(dict.fromkeys(statuses)) == [Status.RINGING, Status.ACTIVE, Status.ENDED]
        lefts = [event.left for event in world.told(CallUpdated) if event.left is not None]
        assert lefts == [(1_000 - second) * J.unit for second in range(31)]
        # It is no more in memory, and still there.
        assert world.calls.living() == []
        assert world.call(call) == ended
        assert world.calls.page_untrusted(bob, None, 10).calls == [ended]
        report = await verify(world.ledger)
        assert report.ok, report.problems


async def test_the_seeds_names_say_what_they_said(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.account("tg:123456789", 59)
        refused = await world.calls.initiate_call("tg:123456789", "tg:987654321")
        assert refused == (
            False,
            "a call takes 60.000000 Ɉ on the account, for its first minute",
            None,
        )
        await world.account("tg:5", 60)
        success, message, call = await world.calls.initiate_call("tg:5", "tg:987654321")
        assert success
        assert call is not None
        assert call in message
        assert world.call(call).callee is None


async def test_both_hang_up_at_once(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world)
        call = await world.talking()
        await world.seconds(4, call)
        ended = []

        async def hang_up(by: Side) -> None:
            ended.append((await world.end(call, by))[0])

        async with trio.open_nursery() as nursery:
            for side in Side:
                nursery.start_soon(hang_up, side)
        assert sorted(ended) == [False, True]
        assert len(world.told(CallReceipt)) == 1
        assert balance(world, alice) == 996 * J.unit
        assert await world.end(call, Side.CALLER) == (False, world.call(call))
        assert world.call(call).reason == "hung-up"


async def test_a_caller_who_goes_while_it_rings_takes_it_back(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world)
        call = await world.ringing()
        assert world.ledger.balance(alice, J).held
        # The callee may come back within the time of a ring.
        world.calls.set_absent(call, Side.CALLEE)
        await world.seconds(1)
        assert world.call(call).status is Status.RINGING
        world.calls.set_absent(call, Side.CALLER)
        assert (world.call(call).status, world.call(call).reason) == (Status.MISSED, "missed")
        await world.seconds(1)
        assert balance(world, alice) == 1_000 * J.unit
        assert world.told(CallReceipt) == [], "it was never answered"
        with pytest.raises(SignalingError) as caught:
            await world.calls.answer_call(call, description())
        assert refusal(caught) == "wrong-state"


@pytest.mark.parametrize(
    ("by", "status", "reason"),
    [
        (Side.CALLER, Status.MISSED, "missed"),
        (Side.CALLEE, Status.REJECTED, "rejected"),
        (None, Status.FAILED, "failed"),
    ],
)
async def test_who_ends_a_call_that_rings_decides_what_it_was(
    tmp_path: Path, by: Side | None, status: Status, reason: str
) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.ringing()
        has_ended, info = await world.end(call, by)
        assert has_ended
        assert (info.status, info.reason, info.cost) == (status, reason, 0)


async def test_a_call_is_declined_where_it_was_not_opened(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        info = await world.calls.create("user:alice", "user:bob")
        assert world.calls.ring(info.id)
        assert not world.calls.ring(info.id), "it rings already"
        assert (await world.ticking(world.calls.reject_call, info.id))[1].status is Status.REJECTED
        call = await world.active()
        with pytest.raises(SignalingError) as caught:
            await world.calls.reject_call(call)
        assert refusal(caught) == "wrong-state"
        assert world.call(call).status is Status.ACTIVE, "another page has it"


async def test_nobody_answers_and_the_ring_ends(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world)
        call = await world.ringing()
        await world.seconds(RINGING_S - 1)
        assert world.call(call).status is Status.RINGING
        await world.seconds(1)
        assert (world.call(call).status, world.call(call).reason) == (Status.MISSED, "missed")
        assert balance(world, alice) == 1_000 * J.unit
        for late in (
            lambda: world.calls.set_offer(call, description()),
            lambda: world.calls.add_ice_candidate(call, "", True),
        ):
            with pytest.raises(SignalingError) as caught:
                late()
            assert refusal(caught) == "wrong-state"
        assert not world.calls.start_call(call, is_from=True)
        assert await world.end(call, Side.CALLEE) == (False, world.call(call))


async def test_a_link_waits_for_a_day(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        info = await world.calls.create("user:alice", None)
        assert (info.callee, info.to_address) == (None, None)
        await world.calls.set_present(info.id, Side.CALLER)
        world.calls.set_absent(info.id, Side.CALLER)
        world.clock.advance_s(PENDING_S - 1)
        await world.ticking(world.calls.tick)
        assert world.call(info.id).status is Status.PENDING
        world.clock.advance_s(1)
        await world.ticking(world.calls.tick)
        assert world.call(info.id).status is Status.MISSED


async def test_who_answers_and_never_connects_has_failed(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world)
        call = await world.active()
        assert not world.calls.start_call(call, is_from=True)
        await world.seconds(CONNECTING_S - 1)
        assert world.call(call).status is Status.ACTIVE
        await world.seconds(1)
        assert (world.call(call).status, world.call(call).reason) == (Status.FAILED, "failed")
        assert balance(world, alice) == 1_000 * J.unit
        assert [receipt.call.cost for receipt in world.told(CallReceipt)] == [0]


async def test_an_answer_comes_once_and_what_follows_negotiates_anew(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        info = await world.calls.create("user:alice", "user:bob")
        with pytest.raises(SignalingError) as caught:
            await world.calls.answer_call(info.id, description())
        assert refusal(caught) == "wrong-state"
        assert world.calls.ring(info.id)
        with pytest.raises(SignalingError) as caught:
            await world.calls.answer_call(info.id, description(), is_from=True)
        assert refusal(caught) == "wrong-state", "the caller answered for the callee"
        with pytest.raises(SignalingError) as caught:
            await world.calls.answer_call(info.id, "no description")
        assert refusal(caught) == "bad-description"
        assert world.call(info.id).status is Status.RINGING

        async def answer() -> None:
            world.calls.set_offer(info.id, description())
            await world.calls.answer_call(info.id, description())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            nursery.start_soon(answer)
        first = world.call(info.id)
        assert first.status is Status.ACTIVE
        await world.seconds(1)
        world.calls.set_offer(info.id, description(), is_from=False)
        await world.calls.answer_call(info.id, description(), is_from=True)
        assert world.call(info.id).answered_ns == first.answered_ns
        told = [event.call.status for event in world.told(CallUpdated)]
        assert told.count(Status.ACTIVE) == 1


async def test_a_caller_who_hangs_up_while_the_callee_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world)
        info = await world.calls.create("user:alice", "user:bob")
        assert world.calls.ring(info.id)
        world.calls.set_offer(info.id, description())
        open_call = world.metering.open_call

        async with trio.open_nursery() as nursery:

            async def open_while_the_caller_goes(name: str, **options: Any) -> bool:
                is_open = await open_call(name, **options)
                nursery.start_soon(world.end, name, Side.CALLER)
                await trio.testing.wait_all_tasks_blocked()
                return is_open

            monkeypatch.setattr(world.metering, "open_call", open_while_the_caller_goes)
            with pytest.raises(SignalingError) as caught:
                await world.calls.answer_call(info.id, description())
        assert refusal(caught) == "wrong-state"
        assert world.call(info.id).status is Status.MISSED
        assert not await world.takes_allocations(info.id)
        assert balance(world, alice) == 1_000 * J.unit


# ------------------------------------------------------------ who may call whom


async def test_who_can_not_be_called_and_who_can_not_call(tmp_path: Path) -> None:
    async with open_world(tmp_path, region="RU") as world:
        alice, _ = await alice_and_bob(world, 60)
        await world.account("user:poor", 59)
        frozen = await world.account("user:frozen", 60)
        await world.ledger.freeze(frozen, True)
        key = "key:" + "a" * 52
        for caller, callee, kind, code in [
            ("user:nobody", "user:bob", Kind.VOICE, "no-account"),
            ("no address", "user:bob", Kind.VOICE, "no-account"),
            ("node", "user:bob", Kind.VOICE, "no-account"),
            ("#4", "user:bob", Kind.VOICE, "no-account"),
            ("user:poor", "user:bob", Kind.VOICE, "no-money"),
            ("user:frozen", "user:bob", Kind.VOICE, "no-money"),
            ("user:alice", "user:bob", Kind.VIDEO, "no-money"),
            ("user:alice", "user:bob", Kind.SCREEN, "no-money"),
            ("user:alice", "no address", Kind.VOICE, "no-account"),
            ("user:alice", "user:alice", Kind.VOICE, "blocked"),
            ("user:alice", "node", Kind.VOICE, "blocked"),
            ("user:alice", key, Kind.VOICE, "blocked"),
        ]:
            with pytest.raises(SignalingError) as caught:
                await world.calls.create(caller, callee, kind)
            assert refusal(caught) == code, (caller, callee, kind)
        assert world.calls.living() == []
        # A bridge may reach these, though they have no account.
        for callee, written in [
            ("user:somebody", "user:somebody"),
            ("tg:77", "tg:77"),
            ("8 916 123-45-67", "+79161234567"),
        ]:
            info = await world.calls.create(f"#{alice}", callee)
            assert (info.callee, info.to_address, info.from_address) == (
                None,
                written,
                f"#{alice}",
            )


async def test_who_is_in_a_call_is_busy(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        await world.account("user:carol")
        # A link that waits keeps nobody from anything.
        link = await world.calls.create("user:alice", None)
        again = await world.calls.create("user:carol", "user:bob")
        call = await world.ringing()
        for status in (Status.RINGING, Status.ACTIVE):
            assert world.call(call).status is status
            for caller, callee in [
                ("user:carol", "user:alice"),
                ("user:carol", "user:bob"),
                ("user:alice", "user:carol"),
            ]:
                with pytest.raises(SignalingError) as caught:
                    await world.calls.create(caller, callee)
                assert refusal(caught) == "busy"
            # Nor does what was made before ring meanwhile.
            assert not world.calls.ring(again.id)
            for side in Side:
                await world.calls.set_present(link.id, side)
            await world.seconds(1)
            assert world.call(link.id).status is Status.PENDING
            if status is Status.RINGING:
                world.calls.set_offer(call, description())
                await world.calls.answer_call(call, description())
        await world.end(call, Side.CALLER)
        assert world.calls.ring(again.id)
        await world.seconds(1)
        assert world.call(link.id).status is Status.RINGING, "they have waited for it"
        assert await world.takes_allocations(link.id)


async def test_a_blocked_caller_hears_what_a_stranger_to_the_node_hears(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        _, bob = await alice_and_bob(world)
        await world.calls.blocks.set_untrusted(bob, "user:alice", True)
        said = set()
        for callee in ("user:bob", "key:" + "b" * 52):
            with pytest.raises(SignalingError) as caught:
                await world.calls.create("user:alice", callee)
            said.add((refusal(caught), str(caught.value), tuple(caught.value.values)))
        assert len(said) == 1
        await world.calls.blocks.set_untrusted(bob, "user:alice", False)
        await world.calls.create("user:alice", "user:bob")


async def test_calls_and_blocks_follow_whoever_takes_an_account_over(tmp_path: Path) -> None:
    phone = "+4915112345678"
    async with open_world(tmp_path) as world:
        _, bob = await alice_and_bob(world)
        number = await world.account(phone, 0)
        await world.bench.credit(bob, 100)
        made = []
        for caller in ("user:alice", "user:bob"):
            world.clock.advance_s(1)
            made.append(await world.calls.create(caller, phone))
            await world.end(made[-1].id, Side.CALLER)
        waiting = await world.calls.create("user:alice", phone)
        await world.calls.blocks.set_untrusted(number, "user:alice", True)
        await world.ledger.link(bob, phone)
        assert [info.id for info in world.calls.living(bob)] == [waiting.id]
        # The call between the two is listed once.
        pages, before = [], None
        while True:
            page = world.calls.page_untrusted(bob, before, 2)
            pages.append([info.id for info in page.calls])
            if (before := page.next) is None:
                break
        assert pages == [[waiting.id, made[1].id], [made[0].id]]
        assert world.calls.page_untrusted(number, None, 1).calls == [waiting]
        for owner in (bob, number):
            assert world.calls.blocks.addresses(owner) == ["user:alice"]
        with pytest.raises(SignalingError) as caught:
            await world.calls.create("user:alice", "user:bob")
        assert refusal(caught) == "blocked"
        await world.calls.blocks.set_untrusted(bob, "user:alice", False)
        assert world.calls.blocks.addresses(bob) == []
        await world.calls.create("user:alice", "user:bob")


async def test_one_account_does_not_take_the_room_of_all_calls(tmp_path: Path) -> None:
    async with open_world(tmp_path, calls_per_minute=1_000) as world:
        await alice_and_bob(world)
        await world.account("user:carol", 100)
        made = [await world.calls.create("user:alice", None) for _ in range(LIVING_OF_A_CALLER)]
        with pytest.raises(SignalingError) as caught:
            await world.calls.create("user:alice", None)
        assert refusal(caught) == "too-many"
        await world.calls.create("user:carol", None)
        await world.calls.end_call(made[0].id)
        await world.calls.create("user:alice", None)


async def test_calls_that_live_are_listed_page_by_page(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        made = []
        for _ in range(3):
            # Two at the same moment: pages end between them as well.
            made += [(await world.calls.create("user:alice", None)).id for _ in range(2)]
            world.clock.advance_s(1)
        over = made.pop(1)
        await world.calls.end_call(over)
        for limit in range(1, len(made) + 2):
            listed = []
            page = world.calls.living_page_untrusted(None, limit)
            while True:
                assert len(page.calls) <= limit
                listed += page.calls
                if page.next is None:
                    break
                page = world.calls.living_page_untrusted(page.next, limit)
            assert sorted(info.id for info in listed) == sorted(made)
            created = [info.created_ns for info in listed]
            assert created == sorted(created, reverse=True)
        with pytest.raises(SignalingError) as caught:
            world.calls.living_page_untrusted("no place", 10)
        assert refusal(caught) == "malformed"


async def test_calls_of_a_minute_are_counted_for_each_account(tmp_path: Path) -> None:
    async with open_world(tmp_path, calls_per_minute=3) as world:
        await alice_and_bob(world)
        await world.account("user:carol")
        for _ in range(3):
            await world.calls.create("user:alice", None)
            world.clock.advance_s(10)
        with pytest.raises(SignalingError) as caught:
            await world.calls.create("user:alice", None)
        assert refusal(caught) == "too-many"
        await world.calls.create("user:carol", None)
        world.clock.advance_s(MINUTE_S - 30)
        await world.calls.create("user:alice", None)
        with pytest.raises(SignalingError):
            await world.calls.create("user:alice", None)


async def test_no_more_calls_live_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_making, "LIVING_MAXIMUM", 3)
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        codes = []

        async def create() -> None:
            try:
                await world.calls.create("user:alice", None)
            except SignalingError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(create)
        assert codes == ["full", "full"]
        living = world.calls.living()
        assert len({info.id for info in living}) == 3
        await world.end(living[0].id)
        await create()
        assert len(world.calls.living()) == 3


async def test_a_secret_opens_the_side_that_it_belongs_to(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        info = await world.calls.create("user:alice", None)
        other = await world.calls.create("user:alice", None)
        for_caller, for_callee = world.calls.secrets_of(info.id)
        assert world.calls.open_side_untrusted(info.id, for_caller) is Side.CALLER
        assert world.calls.open_side_untrusted(info.id, for_callee) is Side.CALLEE
        for call, secret in [
            (other.id, for_caller),
            (info.id, for_caller[:-1]),
            (info.id, ""),
            (info.id, "\udcff"),
            # A call that there never was.
            ("CALL-AAAAAAAA", world.calls.secrets_of("CALL-AAAAAAAA")[0]),
        ]:
            with pytest.raises(SignalingError) as caught:
                world.calls.open_side_untrusted(call, secret)
            assert refusal(caught) == "bad-secret"
        for act in (world.calls.ring, lambda call: world.calls.set_offer(call, description())):
            with pytest.raises(SignalingError) as caught:
                act("CALL-AAAAAAAA")
            assert refusal(caught) == "no-call"


# ------------------------------------------------------------ what passes


async def test_of_a_relayed_call_nothing_passes_but_relays(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.ringing()
        offer = world.calls.set_offer(call, description())
        answer = await world.calls.answer_call(call, description())
        for passed in (offer, answer):
            assert HOME not in passed
            assert RELAY in passed
        assert world.calls.add_ice_candidate(call, candidate(HOME, "host"), True) is None
        relay = world.calls.add_ice_candidate(call, candidate(RELAY, "relay"), False)
        assert relay is not None
        assert RELAY in relay


async def test_a_direct_call_hides_the_side_that_wants_it(tmp_path: Path) -> None:
    async with open_world(tmp_path, direct_calls=True) as world:
        await alice_and_bob(world)
        call = await world.ringing()
        assert not world.call(call).relayed
        assert world.calls.set_offer(call, description()) == description()
        host = candidate(HOME, "host")
        assert world.calls.add_ice_candidate(call, host, True) == host
        with pytest.raises(SignalingError) as caught:
            world.calls.add_ice_candidate(call, "x" * 2_000, True)
        assert refusal(caught) == "too-large"
        # The money is held for a direct one already: what this side says is stripped all the same.
        await world.calls.set_present(call, Side.CALLEE, relay_only=True)
        assert world.calls.add_ice_candidate(call, host, False) is None
        assert world.calls.add_ice_candidate(call, host, True) == host
        world.calls.set_offer(call, description())
        assert HOME not in await world.calls.answer_call(call, description())
        await world.end(call, Side.CALLER)
        relayed = await world.ringing(relay_only=True)
        assert world.call(relayed).relayed
        assert HOME not in world.calls.set_offer(relayed, description())


async def test_of_descriptions_and_candidates_nothing_is_kept(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.talking(kind=Kind.VIDEO)
        for side in Side:
            world.calls.add_ice_candidate(call, candidate(RELAY, "relay"), side is Side.CALLER)
        world.calls.set_offer(call, description(), is_from=False)
        await world.calls.answer_call(call, description(Kind.VOICE), is_from=True)
        await world.seconds(3, call)
        secrets = world.calls.secrets_of(call)
        live = pickle.dumps((world.calls.living(), world.events))
        await world.end(call, Side.CALLER)
        live += pickle.dumps(world.events)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    stored = b"".join(path.read_bytes() for path in files)
    assert call.encode() in stored
    for word in (MARKER, RELAY, HOME, *secrets):
        assert word.encode() not in stored
        assert word.encode() not in live


# ------------------------------------------------------------ money


async def test_what_flows_decides_what_it_costs(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world)
        call = await world.talking()
        await world.seconds(5, call)
        world.calls.set_offer(call, description(), is_from=False)
        await world.calls.answer_call(call, description(Kind.VIDEO), is_from=True)
        info = world.call(call)
        assert (info.kind, info.price_second) == (Kind.VIDEO, 2 * J.unit)
        await world.seconds(7, call)
        world.calls.set_offer(call, description())
        await world.calls.answer_call(call, description(Kind.SCREEN))
        await world.seconds(2, call)
        world.calls.set_offer(call, description())
        await world.calls.answer_call(call, description(Kind.VOICE))
        await world.seconds(3, call)
        _, info = await world.end(call, Side.CALLER)
        assert (info.seconds, info.cost) == (17, (5 + 14 + 4 + 3) * J.unit)
        assert balance(world, alice) == (1_000 - 26) * J.unit
        lines = await world.ledger.history(alice)
        records = [line.record for line in lines if line.record is not None]
        assert [(one.kind, one.seconds) for one in records] == [
            ("voice", 3),
            ("screen", 2),
            ("video", 7),
            ("voice", 5),
        ]
        assert {one.name for one in records} == {call}
        report = await verify(world.ledger)
        assert report.ok, report.problems


async def test_an_answer_to_no_offer_changes_no_price(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.talking(kind=Kind.VIDEO)
        for is_from in (True, False):
            with pytest.raises(SignalingError) as caught:
                await world.calls.answer_call(call, description(Kind.VOICE), is_from=is_from)
            assert refusal(caught) == "wrong-state"
        # Both have offered at once: who answers has taken their own offer back.
        world.calls.set_offer(call, description(Kind.VIDEO), is_from=True)
        world.calls.set_offer(call, description(Kind.VIDEO), is_from=False)
        await world.calls.answer_call(call, description(Kind.VIDEO), is_from=False)
        with pytest.raises(SignalingError) as caught:
            await world.calls.answer_call(call, description(Kind.VOICE), is_from=True)
        assert refusal(caught) == "wrong-state"
        assert world.call(call).kind is Kind.VIDEO


async def test_a_call_that_is_cut_while_its_kind_changes_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.talking()
        await world.seconds(3, call)
        change_call = world.metering.change_call

        async def change_while_it_is_cut(name: str, line: Line) -> None:
            await change_call(name, line)
            world.calls.billing_cut(name, NO_MONEY)

        monkeypatch.setattr(world.metering, "change_call", change_while_it_is_cut)
        world.calls.set_offer(call, description(Kind.VIDEO))
        with pytest.raises(SignalingError) as caught:
            await world.calls.answer_call(call, description(Kind.VIDEO))
        assert refusal(caught) == "no-money"
        await world.ticking(world.calls.tick)
        info = world.call(call)
        assert (info.kind, info.price_second) == (Kind.VOICE, J.unit)
        assert (info.status, info.reason, info.cost) == (Status.ENDED, "no-money", 3 * J.unit)
        (receipt,) = world.told(CallReceipt)
        assert receipt.call == info


async def test_the_first_answer_decides_whatever_was_asked_for(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.ringing(kind=Kind.VOICE)
        world.calls.set_offer(call, description())
        await world.calls.answer_call(call, description(Kind.VIDEO))
        world.connect(call)
        await world.seconds(3, call)
        assert (world.call(call).kind, world.call(call).cost) == (Kind.VIDEO, 6 * J.unit)


async def test_the_money_runs_out_after_two_warnings(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world, 65)
        call = await world.talking()
        await world.seconds(4, call)
        assert world.told(MoneyLow) == []
        await world.seconds(1, call)
        assert [event.left_s for event in world.told(MoneyLow)] == [60]
        await world.seconds(50, call)
        assert [event.left_s for event in world.told(MoneyLow)] == [60, 10]
        await world.bench.credit(alice, 53)
        await world.seconds(1, call)
        await world.seconds(52, call)
        assert [event.left_s for event in world.told(MoneyLow)] == [60, 10, 60, 10]
        await world.seconds(10, call)
        info = world.call(call)
        assert (info.status, info.reason) == (Status.ENDED, "no-money")
        assert (info.seconds, info.cost) == (118, 118 * J.unit)
        assert [receipt.balance for receipt in world.told(CallReceipt)] == [0]
        assert [event.left_s for event in world.told(MoneyLow)] == [60, 10, 60, 10]


async def test_an_account_that_is_frozen_ends_its_call(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world)
        call = await world.talking()
        await world.seconds(3, call)
        await world.ledger.freeze(alice, True)
        await world.seconds(40, call)
        info = world.call(call)
        assert (info.status, info.reason) == (Status.ENDED, "account-frozen")


async def test_who_can_not_pay_any_more_when_it_rings_has_failed(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world, 60)
        info = await world.calls.create("user:alice", "user:bob")
        await world.ledger.freeze(alice, True)
        for side in Side:
            await world.calls.set_present(info.id, side)
        failed = world.call(info.id)
        assert (failed.status, failed.reason) == (Status.FAILED, "no-money")
        # The same where the callee answers before anything was held.
        await world.ledger.freeze(alice, False)
        info = await world.calls.create("user:alice", "user:bob")
        assert world.calls.ring(info.id)
        await world.ledger.freeze(alice, True)
        world.calls.set_offer(info.id, description())
        with pytest.raises(SignalingError) as caught:
            await world.calls.answer_call(info.id, description())
        assert refusal(caught) == "no-money"
        assert world.call(info.id).reason == "no-money"


async def test_calls_that_cost_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world, 0)
        world.prices = dict.fromkeys(Kind, 0)
        call = await world.talking()
        await world.seconds(20, call)
        _, info = await world.end(call, Side.CALLER)
        assert (info.status, info.seconds, info.cost) == (Status.ENDED, 20, 0)
        assert world.told(MoneyLow) == []
        assert balance(world, alice) == 0
        report = await verify(world.ledger)
        assert report.ok, report.problems


async def test_the_caller_pays_though_the_account_is_merged_meanwhile(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world, 100)
        heir = await world.account("user:heir", 50)
        info = await world.calls.create("user:alice", "user:bob")
        await world.ledger.link(heir, "user:alice")
        for side in Side:
            await world.calls.set_present(info.id, side)
        world.calls.set_offer(info.id, description())
        await world.calls.answer_call(info.id, description())
        world.connect(info.id)
        await world.seconds(7, info.id)
        await world.end(info.id, Side.CALLEE)
        assert balance(world, heir) == 143 * J.unit
        assert balance(world, alice) == 0
        assert [receipt.balance for receipt in world.told(CallReceipt)] == [143 * J.unit]


# ------------------------------------------------------------ silence


@pytest.mark.parametrize("gone", Side)
async def test_a_call_whose_page_and_media_are_gone_ends(tmp_path: Path, gone: Side) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.talking()
        await world.seconds(5, call)
        world.calls.set_absent(call, gone)
        await world.seconds(40, call)
        assert world.call(call).status is Status.ACTIVE, "media flows on"
        await world.seconds(HOLDING_S)
        assert world.call(call).status is Status.ACTIVE
        await world.seconds(1)
        info = world.call(call)
        assert (info.status, info.reason, info.seconds) == (Status.ENDED, "silence", 45)


async def test_a_silent_call_goes_on_while_both_pages_are_there(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.talking()
        await world.seconds(5, call)
        await world.seconds(SILENT_S - 2)
        await world.calls.set_present(call, Side.CALLEE)
        await world.seconds(5, call)
        info = world.call(call)
        assert (info.status, info.seconds) == (Status.ACTIVE, 10)
        # Not for ever: what flows one way meanwhile is charged to nobody.
        await world.seconds(SILENT_S + 2)
        info = world.call(call)
        assert (info.status, info.reason, info.seconds) == (Status.ENDED, "silence", 10)


async def test_a_direct_call_is_charged_by_what_its_pages_say(tmp_path: Path) -> None:
    async with open_world(tmp_path, direct_calls=True) as world:
        alice, _ = await alice_and_bob(world)
        call = await world.talking()

        async def seconds(count: int, *beating: Side) -> None:
            await world.seconds(count, call, beating=beating)

        await seconds(20, *Side)
        await seconds(5, Side.CALLER)
        await seconds(5, *Side)
        await seconds(30, Side.CALLER)
        await seconds(5, *Side)
        world.calls.set_absent(call, Side.CALLEE)
        await seconds(HOLDING_S + 1, Side.CALLER)
        info = world.call(call)
        assert (info.status, info.reason) == (Status.ENDED, "silence")
        # Gaps count for 10 seconds: one was shorter, one longer, and one was the end.
        # The second of one in which they are heard of again is still a part of it.
        assert info.seconds == 30 + 10 + 4 + 10
        assert balance(world, alice) == (1_000 - info.seconds) * J.unit


async def test_a_direct_call_has_no_second_that_is_paid_in_part(tmp_path: Path) -> None:
    async with open_world(tmp_path, direct_calls=True) as world:
        alice, _ = await alice_and_bob(world, 185)
        world.prices = dict.fromkeys(Kind, 3 * J.unit)
        call = await world.talking()
        await world.seconds(65, call, beating=tuple(Side))
        info = world.call(call)
        assert (info.status, info.reason) == (Status.ENDED, "no-money")
        assert (info.seconds, info.cost) == (61, 183 * J.unit)
        assert balance(world, alice) == 2 * J.unit


async def test_beats_of_a_relayed_call_count_for_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.talking()
        for _ in range(5):
            for side in Side:
                world.calls.beat(call, side is Side.CALLER)
            await world.seconds(1)
        assert world.call(call).seconds == 0


async def test_media_that_flows_unsaid_is_charged_or_ended(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.active()
        await world.seconds(UNSTARTED_MEDIA_S, call)
        assert not world.call(call).started_ns
        await world.seconds(11, call)
        assert world.call(call).started_ns
        assert world.call(call).seconds == 10
        await world.end(call, Side.CALLER)
        call = await world.ringing()
        await world.seconds(UNSTARTED_MEDIA_S + 1, call)
        assert world.call(call).status is Status.FAILED


# ------------------------------------------------------------ what goes wrong


def killed(folder: Path, to: Path) -> Path:
    """What a kill leaves of an open ledger, in another folder."""
    shutil.copytree(folder, to)
    return to


async def test_a_call_goes_on_after_the_node_was_killed(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with open_world(tmp_path / "before", clock) as world:
        await alice_and_bob(world)
        call = await world.talking(kind=Kind.VIDEO)
        secrets = world.calls.secrets_of(call)
        await world.seconds(5, call)
        world.calls.set_offer(call, description())
        await world.calls.answer_call(call, description(Kind.VOICE))
        await world.seconds(6, call)
        after = killed(tmp_path / "before", tmp_path / "after")
    clock.advance_s(20)
    async with open_world(after, clock) as world:
        info = world.call(call)
        assert (info.status, info.seconds, info.cost) == (Status.ACTIVE, 11, 16 * J.unit)
        assert world.calls.open_side_untrusted(call, secrets[1]) is Side.CALLEE
        with pytest.raises(SignalingError) as caught:
            await world.calls.create("user:bob", "user:alice")
        assert refusal(caught) == "no-money"
        await world.account("user:carol")
        with pytest.raises(SignalingError) as caught:
            await world.calls.create("user:carol", "user:bob")
        assert refusal(caught) == "busy"
        await world.calls.set_present(call, Side.CALLEE)
        await world.seconds(CONNECTING_S - 1)
        assert not await world.takes_allocations(call)
        await world.calls.set_present(call, Side.CALLER)
        assert await world.takes_allocations(call)
        with pytest.raises(SignalingError) as caught:
            await world.calls.reject_call(call)
        assert refusal(caught) == "wrong-state"
        await world.seconds(CONNECTING_S - 1)
        world.connect(call)
        await world.seconds(4, call)
        assert (world.call(call).seconds, world.call(call).cost) == (15, 20 * J.unit)
        _, ended = await world.end(call, Side.CALLEE)
        assert (ended.seconds, ended.cost, ended.reason) == (15, 20 * J.unit, "hung-up")
        assert balance(world, ended.caller) == 980 * J.unit
        assert [receipt.balance for receipt in world.told(CallReceipt)] == [980 * J.unit]
        report = await verify(world.ledger)
        assert report.ok, report.problems
    async with open_world(after, clock) as world:
        assert world.call(call) == ended
        assert world.calls.living() == []


@pytest.mark.parametrize("back", [(), (Side.CALLER,), tuple(Side)])
async def test_a_call_that_does_not_come_back_ends_by_what_was_charged(
    tmp_path: Path, back: tuple[Side, ...]
) -> None:
    clock = VirtualClock()
    async with open_world(tmp_path / "before", clock) as world:
        await alice_and_bob(world)
        call = await world.talking()
        await world.seconds(6, call)
        after = killed(tmp_path / "before", tmp_path / "after")
    async with open_world(after, clock) as world:
        for side in back:
            await world.calls.set_present(call, side)
        await world.seconds(CONNECTING_S)
        info = world.call(call)
        assert (info.status, info.reason) == (Status.ENDED, "silence")
        assert (info.seconds, info.cost) == (6, 6 * J.unit)
        assert balance(world, info.caller) == 994 * J.unit


async def test_calls_that_were_not_answered_outlive_a_kill_within_their_time(
    tmp_path: Path,
) -> None:
    clock = VirtualClock()
    async with open_world(tmp_path / "before", clock) as world:
        await alice_and_bob(world)
        link = await world.calls.create("user:alice", None)
        ringing = await world.ringing()
        await world.seconds(5)
        after = killed(tmp_path / "before", tmp_path / "after")
    clock.advance_s(30)
    async with open_world(after, clock) as world:
        assert world.call(ringing).status is Status.RINGING
        for side in Side:
            await world.calls.set_present(ringing, side)
        world.calls.set_offer(ringing, description())
        await world.calls.answer_call(ringing, description())
        assert world.call(ringing).status is Status.ACTIVE
        await world.end(ringing, Side.CALLER)
        late = await world.ringing()
        await world.seconds(1)
        last = killed(after, tmp_path / "last")
    clock.advance_s(DAY_S - 37)
    async with open_world(last, clock) as world:
        await world.ticking(world.calls.tick)
        assert world.call(late).status is Status.MISSED
        assert world.call(link.id).status is Status.PENDING
        await world.seconds(2)
        assert world.call(link.id).status is Status.MISSED


async def test_a_ledger_that_stores_nothing_loses_no_end_of_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world)
        call = await world.talking()
        await world.seconds(5, call)
        finish = CallRecords.finish

        async def fail(*_: object) -> None:
            raise OperationError("the disk is full")

        monkeypatch.setattr(CallRecords, "finish", fail)
        has_ended, info = await world.end(call, Side.CALLER)
        assert (has_ended, info.status) == (True, Status.ENDED)
        await world.ticking(world.calls.tick)
        assert world.told(CallReceipt) == []
        assert world.call(call).reason == "hung-up"
        monkeypatch.setattr(CallRecords, "finish", finish)
        await world.ticking(world.calls.tick)
        (receipt,) = world.told(CallReceipt)
        assert (receipt.call.id, receipt.call.seconds) == (call, 5)
        assert balance(world, alice) == 995 * J.unit


async def test_a_kind_that_can_not_be_charged_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.ringing()
        world.calls.set_offer(call, description(Kind.VIDEO))

        async def fail(*_: object, **__: object) -> None:
            raise OperationError("the disk is full")

        monkeypatch.setattr(world.ledger.store, "write", fail)
        with pytest.raises(SignalingError) as caught:
            await world.calls.answer_call(call, description(Kind.VIDEO))
        assert refusal(caught) == "unavailable"
        assert world.call(call).kind is Kind.VOICE
        assert world.call(call).status is Status.RINGING
        monkeypatch.undo()
        await world.calls.answer_call(call, description(Kind.VIDEO))
        assert world.call(call).kind is Kind.VIDEO


@pytest.mark.parametrize("comes_again", [False, True])
async def test_a_page_that_can_not_come_takes_no_newer_one_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comes_again: bool
) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = (await world.calls.create("user:alice", "user:bob")).id
        await world.calls.set_present(call, Side.CALLER)
        open_call = world.metering.open_call
        is_full = trio.Event()

        async def fail_once(*_: object, **__: object) -> bool:
            monkeypatch.setattr(world.metering, "open_call", open_call)
            await is_full.wait()
            raise OperationError("the disk is full")

        monkeypatch.setattr(world.metering, "open_call", fail_once)

        async def come_in_vain() -> None:
            with pytest.raises(SignalingError) as caught:
                await world.calls.set_present(call, Side.CALLEE)
            assert refusal(caught) == "unavailable"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_in_vain)
            await trio.testing.wait_all_tasks_blocked()
            if comes_again:
                nursery.start_soon(world.calls.set_present, call, Side.CALLEE)
                await trio.testing.wait_all_tasks_blocked()
            is_full.set()
        world.calls.set_offer(call, description())
        await world.calls.answer_call(call, description())
        world.connect(call)
        await world.seconds(1, call)
        # Two who are there may be silent for longer.
        await world.seconds(HOLDING_S + 1)
        assert world.call(call).status is (Status.ACTIVE if comes_again else Status.ENDED)


@pytest.mark.parametrize("is_closed_meanwhile", [False, True])
async def test_an_end_that_could_not_be_charged_is_charged_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_closed_meanwhile: bool
) -> None:
    monkeypatch.setattr(metering, "CLOSE_S", 0.01)
    async with open_world(tmp_path) as world:
        alice, _ = await alice_and_bob(world)
        call = await world.talking()
        await world.seconds(2, call)

        async def fail(*_: object) -> None:
            raise OperationError("the disk is full")

        with monkeypatch.context() as full:
            full.setattr(world.bench.charging, "tick", fail)
            has_ended, _ = await world.calls.end_call(call, Side.CALLER)
        assert has_ended
        assert world.told(CallReceipt) == []
        if is_closed_meanwhile:
            await world.tick()
        await world.calls.tick()
        assert not await world.takes_allocations(call)
        assert balance(world, alice) == 998 * J.unit
        (receipt,) = world.told(CallReceipt)
        assert (receipt.call.seconds, receipt.call.cost) == (2, 2 * J.unit)


async def test_a_node_that_stops_still_stores_who_has_hung_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "CLOSE_S", 0.01)
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.talking()
        await world.seconds(2, call)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.calls.end_call, call, Side.CALLER)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    async with open_world(tmp_path) as world:
        info = world.call(call)
        assert (info.status, info.reason, info.seconds) == (Status.ENDED, "hung-up", 2)


async def test_it_runs_by_itself(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = await world.ringing()
        is_over = trio.Event()

        def tell(event: CallEvent) -> None:
            if event.call.status is Status.MISSED:
                is_over.set()

        world.on_event = tell
        world.clock.advance_s(RINGING_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.calls.run)
            await is_over.wait()
            nursery.cancel_scope.cancel()
        assert world.call(call).status is Status.MISSED
