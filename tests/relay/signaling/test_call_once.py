"""A call that is asked for again under the same id is the one that was made."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import msgspec
import pytest
import trio

from core.api.bridge_messages import effect_id
from core.errors import OperationError, SignalingError
from relay.signaling.call_names import CallNames
from relay.signaling.call_records import CallRecords
from relay.signaling.call_states import Status
from relay.signaling.descriptions import Kind
from tests.support.call_world import World, open_world

pytestmark = pytest.mark.trio

EFFECT = effect_id("telegram", "17", "call")


async def alice_and_bob(world: World) -> None:
    await world.account("user:alice", 1_000)
    await world.account("user:bob", 0)


async def test_the_same_id_makes_one_call_and_another_id_another(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        first = await world.calls.create_once(EFFECT, "user:alice", "user:bob", Kind.VIDEO)
        assert await world.calls.create_once(EFFECT, "user:alice", "user:bob", Kind.VIDEO) == first
        other = await world.calls.create_once(effect_id("other"), "user:alice", "user:bob")
        assert other.id != first.id
        assert len(world.calls.living()) == 2


async def test_those_who_ask_at_once_get_one_call(tmp_path: Path) -> None:
    async with open_world(tmp_path, calls_per_minute=1) as world:
        await alice_and_bob(world)
        made = []

        async def ask() -> None:
            made.append((await world.calls.create_once(EFFECT, "user:alice", None)).id)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert len(made) == 5
        assert len(set(made)) == 1


async def test_it_is_known_after_a_start_and_when_it_is_over(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        call = (await world.calls.create_once(EFFECT, "user:alice", "user:bob")).id
    async with open_world(tmp_path) as world:
        info = await world.calls.create_once(EFFECT, "user:alice", "user:bob")
        assert (info.id, info.status) == (call, Status.PENDING)
        await world.end(call)
    async with open_world(tmp_path) as world:
        info = await world.calls.create_once(EFFECT, "user:alice", "user:bob")
        assert info.id == call
        assert info.status.is_over
        assert not world.calls.living()


async def test_an_id_of_a_call_that_is_taken_leads_to_the_next(tmp_path: Path) -> None:
    """Ids of calls are short: two effects may come upon the same."""
    async with open_world(tmp_path) as world:
        await alice_and_bob(world)
        first, second = islice(CallNames(bytes(32), world.clock).ids_of(EFFECT), 2)
        other = await world.calls.create_once(effect_id("other"), "user:alice", None)
        records = CallRecords(world.ledger.store)
        assert await records.create(msgspec.structs.replace(other, id=first))
        info = await world.calls.create_once(EFFECT, "user:alice", None)
        assert info.id == second
        assert await world.calls.create_once(EFFECT, "user:alice", None) == info


async def test_who_was_refused_may_ask_again_under_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path) as world:
        await world.account("user:alice", 0)
        for _ in range(2):
            with pytest.raises(SignalingError) as caught:
                await world.calls.create_once(EFFECT, "user:alice", None)
            assert caught.value.code == "no-money"
        await world.account("user:bob", 1_000)

        async def full(_records: object, _info: object) -> bool:
            raise OperationError("the disk is full")

        with monkeypatch.context() as broken:
            broken.setattr(CallRecords, "create", full)
            with pytest.raises(SignalingError):
                await world.calls.create_once(EFFECT, "user:bob", None)
        info = await world.calls.create_once(EFFECT, "user:bob", None)
        assert world.calls.find(info.id) == info
