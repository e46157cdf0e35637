"""The bridge as the node runs it: a telephone writes to an emulated modem and reads the node's
answer; the operator asks through the command line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.modem_emulator import sms_network
from tests.support.modem_sim import SimCard
from tests.support.node import RunningNode, running_node

pytestmark = pytest.mark.trio
PERSON = "+4915112345678"
WAIT_S = 300


def config(link: Path) -> str:
    return f"""
[billing]
welcome = "5"
[sms]
countries = ["DE"]
[[bridges.gsm.modems]]
name = "sim1"
device = "{link}"
pin = "1234"
number = "+4930123456"
pace_s = 0
balance_ussd = "*100#"
"""


def modem_figures(node: RunningNode) -> dict[str, Any]:
    (bridge,) = node.status()["bridges"]
    return dict(bridge["figures"])


async def run(function: Any, *arguments: Any) -> Any:
    """What blocks, beside the emulator."""
    return await trio.to_thread.run_sync(lambda: function(*arguments))


async def test_a_telephone_asks_for_its_balance_and_an_operator_for_the_sims(
    tmp_path: Path,
) -> None:
    with trio.fail_after(WAIT_S):
        async with sms_network() as network:
            sim = SimCard(number="+4930123456", pin="1234")
            modem = network.plug_in(tmp_path / "modem", sim)
            network.ussd["*100#"] = "Guthaben: 12,34 EUR"
            network.deliver(sim.number, PERSON, "BAL")
            with running_node(more=config(modem.link)) as node:
                (answer,) = await network.sent(1)
                assert answer.recipient == PERSON
                assert answer.text == "Balance: 4 J"
                told = await run(node.command, "gsm", "ussd", "sim1", "*100#", "--json")
                assert "Guthaben: 12,34 EUR" in json.dumps(json.loads(told), ensure_ascii=False)

                # One that is killed is started again, and nothing is handled twice.
                (bridge,) = (await run(node.status))["bridges"]
                os.kill(bridge["pid"], signal.SIGKILL)
                network.deliver(sim.number, PERSON, "BAL")
                await network.sent(2)
                while (await run(modem_figures, node)).get("modem.sim1.balance") != "12.34":
                    await trio.sleep(0.2)
                assert (await run(modem_figures, node))["modem.sim1.state"] == "ready"
                await run(node.command, "status")
                metrics = await run(node.figures)
                prefix = ("montana_bridge_figure", "gsm")
                assert metrics[*prefix, "modem.sim1.balance"] == 12.34
                assert metrics[*prefix, "modem.sim1.signal_dbm"] == 2 * modem.signal - 113
                assert (*prefix, "modem.sim1.state") not in metrics
                assert metrics["montana_bridge_connected", "gsm"] == 1
                assert len(network.messages) == 2
                assert sim.pin_entries == ["1234"]
                assert not any(sim.stores.values())
                assert PERSON not in node.log()
