"""A Telegram bridge of the tests at a running node: what it may ask, is told and is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from urllib.parse import parse_qsl

import pytest
import trio

from core.api.bridge_messages import (
    BridgeAnswerRequest,
    CallHangUpRequest,
    CallSideReply,
    CallSideRequest,
    CallStartRequest,
    InitDataBody,
    LinkStartRequest,
    PingRequest,
    ReceiptBody,
    RingBody,
    RingOverBody,
    UserOpenRequest,
    UserTransferRequest,
    effect_id,
)
from core.api.client import ApiClient, connect
from core.api.messages import AccountReply, CallLinkReply
from core.errors import OperationError
from tests.support.node import RunningNode
from tests.support.signaling_client import Page
from tests.support.telegram_node import telegram_node
from tests.support.telegram_user import fields_of, hash_of, init_data, signed

pytestmark = pytest.mark.trio

ANN, BEN = 5, 6


async def in_thread(
    act: Callable[..., dict[str, object]], *arguments: object, **fields: object
) -> dict[str, object]:
    """Have a page do something that waits for the node."""
    return await trio.to_thread.run_sync(partial(act, *arguments, **fields))


async def telegram(client: ApiClient, heard: list[object]) -> None:
    """What the Telegram bridge does: keeps what it is told, and answers whose initData is."""
    async for event in client.events():
        heard.append(event.body)
        if isinstance(event.body, InitDataBody):
            fields = dict(parse_qsl(event.body.init_data))
            ok = fields["hash"] == hash_of(fields)
            answer = BridgeAnswerRequest(event.id, ok, str(ANN) if ok else "forged")
            await client.request(answer)
        else:
            await client.acknowledge(event.id, "done")


async def wait_for(heard: list[object], kind: type[object]) -> object:
    with trio.fail_after(30):
        while True:
            for body in heard:
                if isinstance(body, kind):
                    heard.remove(body)
                    return body
            await trio.sleep(0.02)


async def test_a_call_by_way_of_a_bridge_from_its_start_to_its_end() -> None:
    with telegram_node((ANN, BEN)) as node:
        async with connect(node.socket, software="a bridge of the tests") as client:
            await client.subscribe("telegram", 32)
            heard: list[object] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(telegram, client, heard)
                await see_a_call(node, client, heard)
                nursery.cancel_scope.cancel()


async def see_a_call(node: RunningNode, client: ApiClient, heard: list[object]) -> None:
    start = CallStartRequest("tg:5", "tg:6", "voice", effect_id("telegram", "1"))
    link = await client.request(start)
    assert isinstance(link, CallLinkReply)
    assert await client.request(start) == link
    now_s = int(time.time())
    caller, callee = [await trio.to_thread.run_sync(partial(Page, node.http)) for _ in range(2)]
    try:
        # Without a signature for third parties the bridge is asked, which has the token.
        forged = signed(fields_of(ANN, now_s), key=None, token="1:guessed")
        refused = await in_thread(caller.ask, "open_call", call=link.call_id, init_data=forged)
        assert refused["code"] == "bad-proof"
        shown = signed(fields_of(ANN, now_s), key=None)
        entered = await in_thread(caller.ask, "open_call", call=link.call_id, init_data=shown)
        assert entered["type"] == "entered"
        assert str(entered["secret"]) in link.caller_url
        ring = await wait_for(heard, RingBody)
        assert ring == RingBody(link.call_id, "tg:5", "voice", link.callee_url)
        side = await client.request(CallSideRequest(link.call_id, "tg:6"))
        assert isinstance(side, CallSideReply)
        assert (side.url, side.status) == (link.callee_url, "ringing")
        entered = await in_thread(
            callee.ask, "open_call", call=link.call_id, init_data=init_data(BEN, now_s)
        )
        assert entered["type"] == "entered"
        await client.request(CallHangUpRequest(None, "tg:6"))
        assert await wait_for(heard, RingOverBody) == RingOverBody(link.call_id, "rejected", 0)
        receipt = await wait_for(heard, ReceiptBody)
        assert isinstance(receipt, ReceiptBody)
        assert (receipt.call, receipt.reason) == (link.call_id, "rejected")
    finally:
        for page in (caller, callee):
            await trio.to_thread.run_sync(page.close)


async def test_bridges_speak_for_people_of_other_networks_alone() -> None:
    with telegram_node((ANN,)) as node:
        node.command("account", "create", "user:carl")
        async with connect(node.socket, software="a bridge of the tests") as client:
            await client.request(PingRequest())
            opened = await client.request(UserOpenRequest("tg:77"))
            assert isinstance(opened, AccountReply)
            for request, code in (
                (UserTransferRequest("user:carl", "tg:5", "1"), "not_admitted"),
                (UserTransferRequest("issue", "tg:5", "1"), "not_admitted"),
                (CallStartRequest("user:carl", "tg:5"), "not_admitted"),
                (CallHangUpRequest(None, "user:carl"), "not_admitted"),
                (LinkStartRequest("user:carl", "+4915112345678"), "not_admitted"),
                (UserOpenRequest("user:dora"), "no_telegram_user"),
            ):
                with pytest.raises(OperationError) as refused:
                    await client.request(request)
                assert refused.value.code == code, request
