"""A Bot API that fails in each way that it can, a bridge and a node that are killed: every command
has its effects once, and is answered at least once."""

from __future__ import annotations

import json
import random
import time

from tests.support.bot_api import BotApi, FakePerson, wait_until
from tests.support.node import RunningNode
from tests.support.telegram_bridge import balance, bridge_of, credit, kill_bridge, started

PEOPLE = 15
COMMANDS = 5
"""Of each, at least: commands and the buttons under what they show."""
KILLS = 3


def start(api: BotApi, number: int, name: str) -> FakePerson:
    return started(api, number, name, f"{name.lower()}_x", "en")


def test_an_api_that_fails_is_asked_again(api: BotApi, node: RunningNode) -> None:
    anna, ben = start(api, 21, "Anna"), start(api, 22, "Ben")
    api.fail("sendMessage", "502", "429", "502", "nothing")
    api.fail("getUpdates", "502", "429")
    anna.write("/balance")
    wait_until(lambda: not api.faults["sendMessage"])
    # Carried out, but the answer got lost: it is said twice rather than not at all.
    api.fail("sendMessage", "lost")
    ben.write("/help")
    anna.wait_for("You have", 2)
    ben.wait_for("What I can do", 2)
    assert sum("You have" in text and "Montana" not in text for text in anna.texts()) == 1
    assert bridge_of(node)["restarts"] == 0


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


def test_what_is_asked_while_the_node_is_away_is_done_when_it_is_back(
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


def test_kills_at_any_moment_double_no_effect_and_lose_no_answer(
    api: BotApi, node: RunningNode
) -> None:
    draw = random.Random(5)
    people = [start(api, 100 + number, f"Person{number}") for number in range(PEOPLE)]
    for person in people:
        credit(node, f"tg:{person.number}", 1000)
    had = {person.number: float(balance(node, f"tg:{person.number}")) for person in people}
    received = dict.fromkeys(had, 0)
    spent = dict.fromkeys(had, 0)
    pending: dict[int, str] = {}
    moment = time.monotonic() + 1
    kills = 0

    def finish() -> None:
        """Press what is shown, for whoever has been shown it."""
        for person in people:
            label = pending.get(person.number)
            if label is None:
                continue
            shown = [one for one in person.messages if one.text.startswith(label) and one.buttons]
            if shown:
                person.press(shown[-1], "Send")
                del pending[person.number]

    commands = 0
    while commands < COMMANDS or kills < KILLS:
        commands += 1
        for person in people:
            other = draw.choice([one for one in people if one is not person])
            person.write(f"/send @{other.username} {commands}")
            pending[person.number] = f"Send {commands} Ɉ to"
            received[other.number] += commands
            spent[person.number] += commands + 1
        deadline = time.monotonic() + 120
        while pending:
            assert time.monotonic() < deadline, pending
            if kills < KILLS and time.monotonic() > moment and kill_bridge(node):
                kills += 1
                moment = time.monotonic() + draw.uniform(1, 4)
            finish()
            time.sleep(0.05)
    for person in people:
        for amount in range(1, commands + 1):
            person.wait_for(f"Sent {amount} Ɉ")
    for person in people:
        expected = had[person.number] + received[person.number] - spent[person.number]
        assert float(balance(node, f"tg:{person.number}")) == expected
        told = sum(
            float(text.partition("has sent you ")[2].split()[0])
            for text in set(person.texts())
            if "has sent you" in text
        )
        assert told <= received[person.number]
    answers = sum("Send " in text or "Sent " in text for one in people for text in one.texts())
    doubled = answers - PEOPLE * commands
    # At most what was on its way in each chat when the bridge was killed.
    assert 0 <= doubled <= KILLS * PEOPLE
    print(f"{PEOPLE * commands * 2} commands, {kills} kills, {doubled} answers doubled")
