"""What is kept of calls."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from billing.audit import verify
from billing.tables import CALL_LISTS, CALLS, LIVING_CALLS
from core.clock import VirtualClock
from core.errors import SignalingError
from core.units import DAY_S, NS_PER_S
from relay.signaling import call_blocks
from relay.signaling.call_blocks import CallBlocks
from relay.signaling.call_records import KEEP_S, CallInfo, CallRecords
from relay.signaling.call_states import Status
from relay.signaling.descriptions import Kind
from tests.support.small_ledger import open_small

DAY_NS = DAY_S * NS_PER_S


def call(number: int, *, created_ns: int | None = None, callee: int | None = 7) -> CallInfo:
    return CallInfo(
        id=f"CALL-AAAAAA{'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'[number // 32 % 32]}"
        f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'[number % 32]}",
        caller=6,
        callee=callee,
        from_address="user:alice",
        to_address=None if callee is None else "user:bob",
        kind=Kind.VOICE,
        relayed=True,
        price_second=1_000_000,
        created_ns=400 * DAY_NS + number if created_ns is None else created_ns,
    )


def over(info: CallInfo) -> CallInfo:
    return msgspec.structs.replace(
        info, status=Status.ENDED, reason="hung-up", ended_ns=info.created_ns + 5, cost=3
    )


@pytest.mark.trio
async def test_a_call_is_found_while_it_lives_and_when_it_is_over(tmp_path: Path) -> None:
    with open_small(tmp_path, VirtualClock()) as ledger:
        records = CallRecords(ledger.store)
        assert await records.create(call(1))
        assert not await records.create(call(1)), "an id is given once"
        ringing = msgspec.structs.replace(call(1), status=Status.RINGING, rung_ns=5)
        await records.update([ringing])
        assert records.find(ringing.id) == ringing
        assert records.living() == [ringing]
        await records.finish(over(ringing))
        assert records.find(ringing.id) == over(ringing)
        assert records.living() == []
        assert not await records.create(call(1)), "nor is that of a call that is over"
        assert records.find(call(2).id) is None
        report = await verify(ledger)
        assert report.ok, report.problems
    with open_small(tmp_path, VirtualClock()) as ledger:
        assert CallRecords(ledger.store).find(ringing.id) == over(ringing)


@pytest.mark.trio
async def test_lists_are_paged_from_the_newest_for_both_sides(tmp_path: Path) -> None:
    with open_small(tmp_path, VirtualClock()) as ledger:
        records = CallRecords(ledger.store)
        made = [call(number, callee=7 if number % 2 else None) for number in range(25)]
        for info in made:
            assert await records.create(info)
        pages, before = [], None
        while True:
            page = records.page_untrusted([6], before, 10)
            pages.append(page.calls)
            if (before := page.next) is None:
                break
        assert [len(page) for page in pages] == [10, 10, 5]
        assert [info for page in pages for info in page] == made[::-1]
        assert records.page_untrusted([7], None, 100) == (made[1::2][::-1], None)
        assert records.page_untrusted([8], None, 100) == ([], None)
        # A page that is full to the end leads to an empty one.
        full = records.page_untrusted([6], None, 25)
        assert records.page_untrusted([6], full.next, 25) == ([], None)


@pytest.mark.trio
@pytest.mark.parametrize(
    "before", ["", "0", "z" * 25, "0" * 16 + "-AAAAAA1A", "0" * 16 + "AAAAAAAA"]
)
async def test_a_place_that_no_page_had_is_refused(tmp_path: Path, before: str) -> None:
    with open_small(tmp_path, VirtualClock()) as ledger:
        with pytest.raises(SignalingError) as caught:
            CallRecords(ledger.store).page_untrusted([6], before, 10)
        assert caught.value.code == "malformed"


@pytest.mark.trio
async def test_what_is_too_old_goes_when_new_calls_come(tmp_path: Path) -> None:
    with open_small(tmp_path, VirtualClock()) as ledger:
        records = CallRecords(ledger.store)
        old = [call(number, created_ns=DAY_NS + number) for number in range(8)]
        for info in old:
            await records.create(info)
            await records.finish(over(info))
        young_ns = DAY_NS + KEEP_S * NS_PER_S
        await records.create(call(40, created_ns=young_ns))
        assert [records.find(one.id) is None for one in old] == [False] * 8, "of age, not over it"
        await records.create(call(41, created_ns=young_ns + 100))
        await records.create(call(42, created_ns=young_ns + 101))
        assert [records.find(one.id) for one in old] == [None] * 8
        for account in (6, 7):
            assert len(records.page_untrusted([account], None, 100).calls) == 3
        with ledger.store.read() as tables:
            assert tables.count(CALLS) == 0
            assert tables.count(LIVING_CALLS) == 3
            assert tables.count(CALL_LISTS) == 9


@pytest.mark.trio
async def test_an_address_is_blocked_with_all_of_its_account(tmp_path: Path) -> None:
    clock = VirtualClock()
    with open_small(tmp_path, clock) as ledger:
        blocks = CallBlocks(ledger, "RU")
        alice = await ledger.open_account(["user:alice"])
        bob = await ledger.open_account(["user:bob", "tg:5"])
        carol = await ledger.open_account(["user:carol"])
        await blocks.set_untrusted(alice, "tg:5", True)
        await blocks.set_untrusted(alice, "tg:5", True)
        await blocks.set_untrusted(alice, "8 (916) 123-45-67", True)
        assert blocks.addresses(alice) == ["+79161234567", "tg:5"]
        assert blocks.has_blocked(alice, bob)
        assert not blocks.has_blocked(alice, carol)
        assert not blocks.has_blocked(bob, alice)
        # Neither without the address, nor under another account, does it ring again.
        await ledger.unlink(bob, "tg:5")
        assert blocks.has_blocked(alice, bob)
        await ledger.link(carol, "user:bob")
        assert blocks.has_blocked(alice, carol)
        await blocks.set_untrusted(alice, "tg:5", False)
        assert not blocks.has_blocked(alice, carol)
        # Nobody had it then.
        await ledger.link(carol, "+79161234567")
        assert blocks.has_blocked(alice, carol)
        report = await verify(ledger)
        assert report.ok, report.problems
    with open_small(tmp_path, clock) as ledger:
        assert CallBlocks(ledger).addresses(alice) == ["+79161234567"]


@pytest.mark.trio
async def test_no_more_are_blocked_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_blocks, "BLOCKED_MAXIMUM", 2)
    with open_small(tmp_path, VirtualClock()) as ledger:
        blocks = CallBlocks(ledger)
        for address in ("tg:1", "tg:2"):
            await blocks.set_untrusted(6, address, True)
        for address, code in (("tg:3", "full"), ("nobody", "no-account")):
            with pytest.raises(SignalingError) as caught:
                await blocks.set_untrusted(6, address, True)
            assert caught.value.code == code
        assert blocks.addresses(6) == ["tg:1", "tg:2"]
