"""The pages of a call, as they come and go."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from core.api.bridge_messages import BridgeAnswerRequest, InitDataBody
from core.config import SignalingConfig
from core.stun.address import Address
from relay.call_activity import HOLDING_S
from relay.credential_issuer import CredentialIssuer
from relay.signaling.call_desk import CallDesk
from relay.signaling.call_states import Status
from relay.signaling.hub import KEEP_S, Guest, Hub
from relay.signaling.init_data import TelegramProof
from relay.signaling.messages import OpenCall, Resume
from relay.signaling.sessions import Session
from tests.support.call_world import World, description, open_world
from tests.support.signaling_channel import FakeChannel

pytestmark = pytest.mark.trio

ROUNDS = 8
"""What two tasks do at the same moment is done in a random order."""


def nobody_restored(_guest: Guest, _message: Resume) -> Session:
    raise AssertionError("nobody resumes here")


async def nobody_asked(_body: InitDataBody, _timeout_s: float) -> BridgeAnswerRequest:
    raise AssertionError("nobody asks Telegram here")


def open_hub(world: World) -> Hub:
    """A hub whose pages can come to the world's calls."""
    server = Address.from_text("127.0.0.1", 3478)
    desk = CallDesk(
        CredentialIssuer(["a secret of the tests"], [server], world.clock),
        TelegramProof(None, world.clock, nobody_asked),
    )
    desk.calls = world.calls
    world.on_event = desk.tell
    config = SignalingConfig(message_burst=10_000)
    desk.hub = Hub(config, world.clock, {OpenCall: desk.open}, nobody_restored)
    return desk.hub


async def test_who_comes_just_when_their_last_page_is_given_up_is_there(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, trio.open_nursery() as nursery:
        await world.account("user:alice")
        await world.account("user:bob")
        hub = open_hub(world)
        nursery.start_soon(hub.run)
        await trio.testing.wait_all_tasks_blocked()
        call = (await world.calls.create("user:alice", "user:bob")).id
        caller_secret, callee_secret = world.calls.secrets_of(call)
        caller, callee = FakeChannel(hub), FakeChannel(hub)
        await caller.ask("open_call", call=call, secret=caller_secret)
        await callee.ask("open_call", call=call, secret=callee_secret)
        world.calls.set_offer(call, description())
        await world.calls.answer_call(call, description())
        world.connect(call)
        for _ in range(ROUNDS):
            callee.cut()
            await world.seconds(KEEP_S + 1, call)
            hub.sweep()
            callee = FakeChannel(hub)
            assert (await callee.ask("open_call", call=call, secret=callee_secret))["peers"]
            # With both there it may be silent for longer than when one of the two has gone.
            await world.seconds(HOLDING_S + 2)
            assert world.call(call).status is Status.ACTIVE
        nursery.cancel_scope.cancel()
