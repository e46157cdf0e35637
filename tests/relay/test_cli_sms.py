"""`montana sms ...` beside a running node, and what a bridge is answered by it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import trio

from core.api.bridge_messages import SmsReceivedReply, SmsReceivedRequest
from core.api.client import connect
from core.api.messages import ReplyBody, RequestBody
from relay import cli, cli_shared
from tests.support.node import running_node
from tests.support.terminal import terminal

PHONE = "+79991234567"
CONFIG = """
[billing]
default_region = "RU"
[sms]
messages_per_day = 10
[bridges]
start = false
[[bridges.gsm.modems]]
name = "sim1"
device = "/dev/null"
"""


async def receive(socket: Path) -> ReplyBody:
    """The answer to an SMS that asks for the balance."""
    request = SmsReceivedRequest(
        bridge="gsm", sender=PHONE, recipient="sim1", body="БАЛ", message_id="1", received_ms=1
    )
    async with connect(socket, software="test") as client:
        return await client.request(request)


def test_operators_see_what_came_and_what_it_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_node(more=CONFIG) as node:
        for duplicate in (False, True):
            reply = trio.run(receive, node.socket)
            assert reply == SmsReceivedReply("Баланс: 0 J", duplicate)

        def run(*words: str, code: int = 0) -> str:
            with pytest.raises(SystemExit) as exited:
                cli.main([*words, "--socket", str(node.socket)])
            printed, complaint = capsys.readouterr()
            assert exited.value.code == code, complaint
            return printed + complaint

        (item,) = json.loads(run("sms", "list", "--json"))["messages"]
        assert (item["number"], item["action"], item["result"]) == (PHONE, "balance", "balance")
        sent = json.loads(run("sms", "send", PHONE, "The node is back", "--json"))
        assert sent["parts"] == 1
        assert json.loads(run("sms", "list", "--json"))["messages"][0]["id"] == sent["id"]
        # Whoever had no answer says it once more.
        again = run("sms", "send", PHONE, "The node is back", "--json", "--id", sent["id"].upper())
        assert json.loads(again) == sent
        assert len(json.loads(run("sms", "list", "--json"))["messages"]) == 2
        assert json.loads(run("sms", "budget", "--json"))["today"] == 2
        assert json.loads(run("status", "--json"))["sms"]["duplicates"] == 1
        for language, budget, refusal in (
            ("en_US.UTF-8", "2 of 10", "no SMS are sent to this country"),
            ("ru_RU.UTF-8", "2 из 10", "в эту страну SMS не отправляются"),
        ):
            monkeypatch.setenv("LC_ALL", language)
            assert budget in run("sms", "budget")
            listed = run("sms", "list", "--limit", "1")
            assert PHONE in listed
            assert sent["id"] in listed
            assert refusal in run("sms", "send", "+12125552671", "hello", code=1)
            run("sms", "list", "--before", "0", code=2)


@pytest.mark.trio
async def test_whoever_hears_nothing_is_told_how_to_send_it_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def be_silent(_body: RequestBody) -> ReplyBody:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(cli_shared, "ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setenv("LC_ALL", "C")
    made: set[str] = set()
    async with terminal(capsys, tmp_path, be_silent) as shell:
        for _ in range(2):
            code, printed, said = await shell.run("sms", "send", PHONE, "The node is back")
            assert (code, printed) == (1, "")
            # One that was made here: of the node's own nobody would have heard.
            made.update(re.findall("the same command with --id ([0-9a-f]{32}) does it once", said))
    assert len(made) == 2
