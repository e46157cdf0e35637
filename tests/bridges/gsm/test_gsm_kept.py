"""What is kept for an operator's eye can be looked at, as README says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bridges.gsm.pdu import encode_submit
from core.node_files import bridge_folder
from tests.support.gsm_world import PERSON, gsm_world
from tests.support.modem_sim import Status, StoredMessage

pytestmark = pytest.mark.trio
ROOT = Path(__file__).parents[3]
PYTHON = "sudo -u montana /opt/montana/.venv/bin/python"
FOLDER = str(bridge_folder(Path("/var/lib/montana"), "gsm"))


@pytest.mark.parametrize("readme", ["README.md", "README.ru.md"])
async def test_what_readme_says_prints_what_is_kept_while_the_bridge_runs(
    tmp_path: Path, mock_clock: MockClock, readme: str
) -> None:
    (command,) = re.findall(
        r"^```sh\n([^`]*lmdb\.open[^`]*)^```$", (ROOT / readme).read_text(), re.MULTILINE
    )
    assert PYTHON in command
    assert FOLDER in command
    command = command.replace(PYTHON, sys.executable).replace(FOLDER, str(tmp_path / "spool"))
    async with gsm_world(tmp_path, mock_clock, slots=2, starts=False) as world:
        sim = world.modem.sim
        sim.slots_me = 0
        (draft,) = encode_submit(PERSON, "a draft", reference=0, report=False, validity_s=0.0)
        for _ in range(2):
            message = StoredMessage(Status.STORED_UNSENT, bytes.fromhex(draft.line)[1:], "")
            assert sim.put("SM", message) is not None
        await world.start()
        await world.until(lambda: world.spool.items("written") and not world.stored)
        world.modem.faults.cut_pdu_octets = 3
        world.deliver("spoilt")
        await world.until(lambda: world.spool.items("broken") and not world.stored)
        ((_, broken),) = world.spool.items("broken")
        printed = await trio.run_process(["bash", "-c", command], capture_stdout=True)
    assert sorted(printed.stdout.decode().splitlines()) == [
        f"broken {broken.decode()}",
        f"written {draft.line}",
    ]
