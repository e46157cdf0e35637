"""Bridges as processes: the node starts them, starts them again, shows them, and they end with it.

The bridge is `webhook`, which needs nothing from outside.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from bridges import process as bridge_process
from bridges.process import BridgeContext, main
from bridges.spool import SpoolFull
from bridges.webhook import bridge as webhook
from core.errors import ConfigError
from tests.support.fixed_ports import fixed_ports
from tests.support.node import (
    RunningNode,
    montana_command,
    montana_environment,
    run_montana,
    running_node,
    write_config,
)

SMS = """
[sms]
forward_secret = "a secret long enough"
[sms.owners]
"*" = "https://127.0.0.1:1/sms"
"""
FREE_ROOMS = """
[signaling]
rooms = "free"
"""
ROOM_TOKEN = "a token for the tests' rooms"
WAIT_S = 20


@pytest.fixture
def node() -> Iterator[RunningNode]:
    with running_node(more=SMS) as running:
        yield running


def bridge_of(node: RunningNode) -> dict[str, Any]:
    (item,) = node.status()["bridges"]
    assert item["name"] == "webhook"
    return dict(item)


def wait_until(check: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not check():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_bridge_that_is_killed_is_started_again(node: RunningNode) -> None:
    wait_until(lambda: bridge_of(node)["connected"])
    first = bridge_of(node)
    assert first["restarts"] == 0
    os.kill(first["pid"], signal.SIGKILL)
    wait_until(lambda: bridge_of(node)["restarts"] == 1)
    wait_until(lambda: bridge_of(node)["connected"] and bridge_of(node)["pid"] != first["pid"])
    with urllib.request.urlopen(f"{node.metrics}/metrics") as response:  # noqa: S310
        metrics = response.read().decode()
    assert 'montana_bridge_connected{bridge="webhook"} 1.0' in metrics
    assert 'montana_bridge_restarts_total{bridge="webhook"} 1.0' in metrics
    assert "bridge webhook" in node.command("status")


def test_bridges_end_with_a_node_that_is_killed(node: RunningNode) -> None:
    wait_until(lambda: bridge_of(node)["connected"])
    pid = bridge_of(node)["pid"]
    node.kill()
    wait_until(lambda: not is_alive(pid))


def test_a_second_one_of_the_same_name_is_refused(node: RunningNode) -> None:
    wait_until(lambda: bridge_of(node)["connected"])
    second = run_montana("bridge", "webhook", "--config", str(node.config), check=False)
    assert second.returncode == 3
    assert f"({bridge_of(node)['pid']})" in second.stderr
    assert "running already" in second.stderr


def test_what_the_node_is_told_in_secret_its_bridges_are_not() -> None:
    variables = {"ROOM_TOKEN": ROOM_TOKEN, "ALLOWED_ORIGINS": "https://a.example"}
    with running_node(more=FREE_ROOMS + SMS, variables=variables) as node:
        wait_until(lambda: bridge_of(node)["connected"])
        environ = Path(f"/proc/{bridge_of(node)['pid']}/environ").read_text().split("\0")
        assert "ALLOWED_ORIGINS=https://a.example" in environ
        assert not any(ROOM_TOKEN in one or one.startswith("ROOM_TOKEN") for one in environ)
        assert bridge_of(node)["restarts"] == 0


def test_by_hand_it_outlives_the_node_and_comes_back_to_the_next(tmp_path: Path) -> None:
    config = write_config(tmp_path, more="[bridges]\nstart = false\n" + FREE_ROOMS + SMS)
    process = subprocess.Popen(
        montana_command("bridge", "webhook", "--config", str(config)),
        env=montana_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(2):
            # Who makes rooms is nothing to the bridge, which wasn't told.
            with running_node(config=config, variables={"ROOM_TOKEN": ROOM_TOKEN}) as node:
                node.socket = tmp_path / "data" / "node.sock"
                assert bridge_of(node)["pid"] is None
                wait_until(lambda: bridge_of(node)["connected"])
        process.terminate()
        _, log = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Traceback" not in log
    assert log.count("connected to the node") == 2


def test_what_can_not_be_run_says_why(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    result = run_montana("bridge", "telegram", "--config", str(config), check=False)
    assert result.returncode == 2
    assert "has no [bridges.telegram]" in result.stderr
    result = run_montana("bridge", "fax", "--config", str(config), check=False)
    assert result.returncode == 2
    assert "telegram, twilio, gsm, webhook" in result.stderr
    result = run_montana("bridge", "gsm", check=False)
    assert result.returncode == 2
    assert "--config" in result.stderr


def test_an_error_of_a_task_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, more="[bridges]\nstart = false\n" + SMS)

    async def fail(_context: BridgeContext) -> None:
        raise SpoolFull("the disk is full; make room in its data_dir")

    async def err(_context: BridgeContext) -> None:
        raise ZeroDivisionError

    async def misread(_context: BridgeContext) -> None:
        raise ConfigError("bridges.webhook: its file can't be read")

    # The rest of the tests have their own.
    monkeypatch.setattr(bridge_process, "set_up_logging", lambda *_args, **_options: None)
    monkeypatch.setattr(webhook, "run", misread)
    assert main("webhook", config) == 2
    sentence = "montana bridge webhook: bridges.webhook: its file can't be read"
    assert capsys.readouterr().err.splitlines()[-1] == sentence
    monkeypatch.setattr(webhook, "run", fail)
    assert main("webhook", config) == 1
    sentence = "montana bridge webhook: the disk is full; make room in its data_dir"
    assert capsys.readouterr().err.splitlines()[-1] == sentence
    # A mistake of ours keeps the trace by which it is found.
    monkeypatch.setattr(webhook, "run", err)
    with pytest.raises(ExceptionGroup):
        main("webhook", config)


@pytest.mark.parametrize("arguments", [("--config", "node.toml"), ("--dev",)])
def test_a_node_without_bridges_says_how_to_add_one(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    config = write_config(tmp_path)
    with fixed_ports() if "--dev" in arguments else nullcontext():
        process = subprocess.Popen(
            montana_command("up", *arguments),
            cwd=config.parent,
            env=montana_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        try:
            said = [process.stdout.readline()]
            while "Ctrl" not in said[-1] and said[-1]:
                said.append(process.stdout.readline())
            process.terminate()
            process.wait(WAIT_S)
        finally:
            process.kill()
    # By `--dev` there is no file yet: it is told which one shows what belongs there.
    (sentence,) = [line for line in said if "Bridges" in line]
    assert sentence.startswith("Bridges: none. ")
    for word in ("Telegram", "SMS", "deploy/node.toml", "[bridges]"):
        assert word in sentence


def test_a_node_that_was_given_none_has_none() -> None:
    with running_node() as node:
        assert node.events[0]["bridges"] == []
        assert json.loads(node.command("status", "--json"))["bridges"] == []
