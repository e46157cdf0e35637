"""The README's first command, in a clean clone: `make up`; two people talk by the links that it
prints, and the check page is green. Then `montana up --lan`: both have the same fixed ports, and
tests of one file run one after the other."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import FAKE_DEVICES, browser
from tests.support.fixed_ports import fixed_ports
from tests.support.node import running_node
from tests.support.programs import need_program

ROOT = Path(__file__).parents[2]
SET_UP_TIMEOUT_S = 600
STOP_TIMEOUT_S = 30
TALK_TIMEOUT_S = 30
HEARS = """() => {
  const [peer] = montana.meeting.state.peers;
  return peer?.connection === "connected" && peer.stats?.in_kbps > 0;
}"""


def read_until(process: subprocess.Popen[str], output: list[str], pattern: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        output.append(line)
        found = re.search(pattern, line)
        if found:
            return found.group()
    raise AssertionError("make up has ended:\n" + "".join(output[-60:]))


def make_clone(clone: Path) -> None:
    """A clean clone; of an unpacked archive, a copy without what a build makes."""
    if (ROOT / ".git").exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        return
    made = shutil.ignore_patterns(
        ".venv", "build", "*.so", "*.egg-info", "__pycache__", ".*_cache", "data", "test-artifacts"
    )
    shutil.copytree(ROOT, clone, ignore=made)


def talk(chromium: Browser, room: list[str]) -> None:
    """One opens the first link and another the second: each hears the other."""
    first, second = room
    pages = [chromium.new_context().new_page() for _ in room]
    for page, link in zip(pages, (first, second), strict=True):
        page.goto(link)
        page.get_by_role("button", name="Join", exact=True).click()
    for page in pages:
        end_s = time.monotonic() + TALK_TIMEOUT_S
        while not page.evaluate(HEARS):
            assert time.monotonic() < end_s, page.evaluate("() => montana.meeting.state")
            page.wait_for_timeout(100)
        page.close()


def verdict(page: Page) -> str:
    """Of the check page, when it is over."""
    page.wait_for_selector(
        "html:is([data-verdict=pass],[data-verdict=fail],[data-verdict=untested])",
        timeout=60_000,
    )
    return str(page.evaluate("() => window.montanaCheck.verdict"))


def test_a_clean_clone_is_up_with_one_command(tmp_path: Path) -> None:
    need_program("chromium")
    with fixed_ports():
        up_and_down(tmp_path)


def up_and_down(tmp_path: Path) -> None:
    clone = tmp_path / "montana"
    make_clone(clone)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    }
    # What is built here is not measured, and a compiler that optimizes takes three times as long.
    environment["CFLAGS"] = "-O0"
    # What it prints is read here.
    environment["LC_ALL"] = "C.UTF-8"
    process = subprocess.Popen(
        ["make", "up"],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    watchdog = threading.Timer(SET_UP_TIMEOUT_S, process.kill)
    watchdog.start()
    output: list[str] = []
    try:
        url = read_until(process, output, r"https?://\S+/check")
        room = re.findall(r"https?://\S+/#\S+", "".join(output))
        with browser(*FAKE_DEVICES) as chromium:
            talk(chromium, room)
            page = chromium.new_page()
            page.goto(url)
            assert verdict(page) == "pass"
        # Ctrl-C in a terminal; make itself then ends by the signal.
        os.killpg(process.pid, signal.SIGINT)
        if read_until(process, output, r"Ctrl-C again|Stopped\.") != "Stopped.":
            # Pages that were closed have left allocations behind, for which the node waits.
            os.killpg(process.pid, signal.SIGINT)
            read_until(process, output, r"Stopped\.")
        assert process.wait(STOP_TIMEOUT_S) in (0, -signal.SIGINT), "".join(output)
        assert process.stdout is not None
        output.append(process.stdout.read())
        assert "Traceback" not in "".join(output)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_the_local_network_is_served_over_https() -> None:
    with browser() as chromium, running_node(arguments=["--lan"]) as node:
        found = re.fullmatch(r"https://(.+):(\d+)", node.http)
        assert found is not None
        page = chromium.new_context(ignore_https_errors=True).new_page()
        page.goto(f"{node.http}/check")
        assert verdict(page) == "pass"
        host, port = found.groups()
        pem = ssl.get_server_certificate((host.strip("[]"), int(port)))
        assert "BEGIN CERTIFICATE" in pem


@pytest.mark.parametrize("name", ["README.md", "README.ru.md"])
def test_the_readme_names_the_command(name: str) -> None:
    assert "$ make up" in (ROOT / name).read_text()
