"""A Bot API that fails in each way that it can, a bridge that is killed: every command has its
effects once, and is answered at least once."""

from __future__ import annotations

import json

from core.api.bridge_messages import CallStartRequest
from core.api.messages import CallLinkReply, CallListReply, CallListRequest
from tests.support.bot_api import BURST, BotApi, FakePerson, wait_until
from tests.support.node import RunningNode
from tests.support.telegram_bridge import ask, balance, bridge_of, credit, kill_bridge, started


def start(api: BotApi, number: int, name: str) -> FakePerson:
    return started(api, number, name, f"{name.lower()}_x", "en")


def test_an_api_that_fails_is_asked_again(api: BotApi, node: RunningNode) -> None:
    anna, ben, cleo = start(api, 21, "Anna"), start(api, 22, "Ben"), start(api, 31, "Cleo")
    cleo.write("/help")
    shown = cleo.wait_for("What I can do")
    # Carried out, but the answer got lost: it is said twice rather than not at all.
    api.fail("sendMessage", "lost")
    ben.write("/help")
    ben.wait_for("What I can do")
    api.fail("answerCallbackQuery", "nothing")
    api.fail("sendMessage", "502", "429", "502", "nothing")
    api.fail("getUpdates", "502", "429")
    cleo.press(shown, "Русский")
    anna.write("/balance")
    anna.wait_for("You have", 2)
    ben.wait_for("What I can do", 2)
    wait_until(lambda: "Теперь по-русски." in api.shown.values())
    cleo.write("/help")
    cleo.wait_for("Что я умею", 2)
    assert not any(api.faults.values())
    assert sum("You have" in text and "Montana" not in text for text in anna.texts()) == 1
    assert bridge_of(node)["restarts"] == 0


def test_what_is_asked_at_once_is_answered_at_telegrams_pace(
    api: BotApi, node: RunningNode
) -> None:
    hugo = start(api, 28, "Hugo")
    with api.together():
        for _ in range(BURST + 3):
            hugo.write("/calls")
    hugo.wait_for("no calls yet", BURST + 3)
    assert api.slowed == 0


def test_an_update_that_comes_twice_is_one(api: BotApi, node: RunningNode) -> None:
    carl, _dora = start(api, 23, "Carl"), start(api, 24, "Dora")
    credit(node, "tg:23", 100)
    had = float(balance(node, "tg:24"))
    carl.write("/send @dora_x 5")
    offer = carl.wait_for("Send 5 Ɉ")
    press = carl.press(offer, "Send")
    for _ in range(3):
        api.repeat(press)
    carl.wait_for("Sent 5 Ɉ to Dora")
    wait_until(lambda: not api.waiting)
    api.repeat(press)
    wait_until(lambda: not api.waiting)
    carl.write("/help")
    carl.wait_for("What I can do")
    assert carl.wait_for("Sent 5 Ɉ").edits == 1
    assert float(balance(node, "tg:24")) == had + 5


def test_who_blocks_the_bot_is_not_written_to(api: BotApi, node: RunningNode) -> None:
    emil, finn = start(api, 25, "Emil"), start(api, 26, "Finn")
    credit(node, "tg:25", 100)
    # Nobody has told yet that Finn wants nothing of the bot any more.
    finn.has_blocked = True
    emil.write("/send @finn_x 5")
    emil.press(emil.wait_for("Send 5 Ɉ"), "Send")
    emil.wait_for("Sent 5 Ɉ")
    wait_until(lambda: "a notice was not taken" in node.log(), node.log)
    emil.write("/call @finn_x")
    emil.wait_for("Finn (@finn_x) has blocked this bot")
    finn.block(False)
    finn.write("/start")
    finn.wait_for("money by the second", 2)
    emil.write("/call @finn_x")
    emil.wait_for("Call Finn (@finn_x)?")


def test_what_is_asked_while_the_bridge_is_away_is_done_when_it_is_back(
    api: BotApi, node: RunningNode
) -> None:
    gina = start(api, 27, "Gina")
    (code,) = json.loads(node.command("voucher", "create", "25", "--json"))["codes"]
    before = float(balance(node, "tg:27"))
    api.fail("sendMessage", "502", "502")
    kill_bridge(node)
    gina.write(f"/redeem {code}")
    gina.wait_for("Redeemed: 25")
    assert float(balance(node, "tg:27")) == before + 25


def test_who_hangs_up_ends_one_call_whatever_is_killed(api: BotApi, node: RunningNode) -> None:
    ida, _jan = start(api, 29, "Ida"), start(api, 30, "Jan")
    credit(node, "tg:29", 1000)

    def living() -> list[str]:
        listed = ask(node, CallListRequest("tg:29"))
        assert isinstance(listed, CallListReply)
        return [call.id for call in listed.calls if call.status == "pending"]

    ida.write("/call @jan_x")
    ida.press(ida.wait_for("Call Jan (@jan_x)?"), "Voice")
    ida.wait_for("Call to Jan")
    assert len(living()) == 1
    # The call is over, and nobody was told when the bridge is killed.
    api.fail("sendMessage", "nothing")
    ida.write("/hangup")
    wait_until(lambda: not api.faults["sendMessage"])
    assert living() == []
    following = ask(node, CallStartRequest("tg:29", "tg:30"))
    assert isinstance(following, CallLinkReply)
    assert kill_bridge(node)
    ida.wait_for("The call has ended")
    assert living() == [following.call_id]
