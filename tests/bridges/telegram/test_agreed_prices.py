"""What a call's SMS may cost is what was shown when the call was offered."""

from __future__ import annotations

from pathlib import Path

import anyio

from bridges.spool import open_spool
from core.api.bridge_messages import CallQuoteReply, CallQuoteRequest, CallStartRequest
from core.api.messages import CallLinkReply, ReplyBody
from core.errors import OperationError
from tests.support.bot_api import BotApi, bot_api
from tests.support.telegram_desk import telegram_desk

PHONE = "+4915112345678"


def quote(sms_price: str) -> CallQuoteReply:
    return CallQuoteReply(
        reach="page" if sms_price == "0.000000" else "sms",
        price_second="1.000000",
        minimum="60.000000",
        available="100.000000",
        sms_price=sms_price,
    )


def is_dearer() -> ReplyBody:
    raise OperationError("this call takes an SMS, which costs 1 Ɉ", "sms-price")


def test_a_call_whose_sms_costs_more_than_was_shown_is_offered_anew(tmp_path: Path) -> None:
    async def main(api: BotApi) -> None:
        alice = api.person(11, "Alice", "alice_a", "en")
        with open_spool(tmp_path) as spool:
            async with telegram_desk(api, spool) as world:
                node = world.node
                node.replies[CallQuoteRequest] = lambda: quote("0.000000")
                node.replies[CallStartRequest] = is_dearer
                await world.receive(api, alice.write(f"/call {PHONE}"))
                (first,) = alice.messages
                assert first.text.startswith(f"Call {PHONE}?")
                assert "SMS" not in first.text
                node.replies[CallQuoteRequest] = lambda: quote("1.000000")
                data = first.button("Voice")["callback_data"]
                await world.receive(api, alice.press(first, "Voice"))
                assert first.text.startswith("Cancelled; nothing was done")
                assert not first.buttons
                second = alice.messages[-1]
                assert "it costs you 1 Ɉ" in second.text
                # The old one's button, which somebody may press still, does nothing more.
                await world.receive(api, alice.press_data(first, data))
                assert len(alice.messages) == 2
                node.replies[CallStartRequest] = lambda: CallLinkReply(
                    "CALL-AAAAAAAA", "https://node.example/call#1", "https://node.example/call#2"
                )
                await world.receive(api, alice.press(second, "Voice"))
                assert second.text.startswith(f"Call to {PHONE}")
                starts = [one for one in node.asked if isinstance(one, CallStartRequest)]
                assert [one.sms_price for one in starts] == ["0.000000", "1.000000"]
                assert len({one.id for one in starts}) == 2

    with bot_api() as api:
        anyio.run(main, api, backend="asyncio")
        assert api.problems == []
