"""A call between two browser pages, relay only: the node counts what the browsers count."""

from __future__ import annotations

import functools
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.support.browser import FAKE_DEVICES, browser
from tests.support.node import running_node

CALL_S = 8
SILENCE_S = 0.5
TIMEOUT_MS = 30_000


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder's files over HTTP on localhost, which browsers trust with a camera."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def connect(caller: Page, callee: Page, server: dict[str, Any]) -> int:
    """Have them call each other; returns how many relayed addresses they have."""
    relayed = 0
    for page in (caller, callee):
        page.evaluate("(server) => start(server)", server)
    callee.evaluate("(offer) => accept(offer)", caller.evaluate("() => describe()"))
    caller.evaluate("(answer) => accept(answer)", callee.evaluate("() => describe()"))
    for near, far in ((caller, callee), (callee, caller)):
        found = near.evaluate("() => gathered()")
        assert found
        relayed += len(found)
        assert all(" typ relay " in candidate["candidate"] for candidate in found)
        far.evaluate("(all) => add(all)", found)
    for page in (caller, callee):
        page.wait_for_function(
            "() => connection.connectionState === 'connected'", timeout=TIMEOUT_MS
        )
    return relayed


def test_a_call_is_counted_alike_by_the_node_and_by_the_browsers() -> None:
    with (
        running_node() as node,
        served(Path(__file__).parent) as url,
        browser(*FAKE_DEVICES) as chromium,
    ):
        made = node.credentials("grace")
        server = {
            "urls": [f"turn:{node.turn[0]}?transport=udp"],
            "username": made.username,
            "credential": made.password,
        }
        # Two contexts: two browsers' worth of everything but the process.
        pages = [chromium.new_context().new_page() for _ in range(2)]
        for page in pages:
            page.goto(f"{url}/call.html")
        relayed = connect(pages[0], pages[1], server)
        time.sleep(CALL_S)
        # What comes while the figures are read would be counted by one of them alone.
        for page in pages:
            page.evaluate("() => fallSilent()")
        time.sleep(SILENCE_S)
        sides = [page.evaluate("() => figures()") for page in pages]
        status = node.status()
        for page in pages:
            page.evaluate("() => connection.close()")
    assert status["allocations"] == relayed
    for side in sides:
        # ICE may have nominated one pair after another.
        assert set(side["kinds"]) == {"relay"}
        assert side["audio"] > 50 * CALL_S * 0.8
        assert side["video"] > 20 * CALL_S
    sent = sum(side["sent"] for side in sides)
    received = sum(side["received"] for side in sides)
    assert abs(status["packets"]["to_peer"] - sent) <= 0.02 * sent
    assert abs(status["packets"]["to_client"] - received) <= 0.02 * received
    lost = {cause: count for cause, count in status["drops"].items() if count}
    # A check may come before the far side's permission; nothing else is dropped.
    assert set(lost) <= {"no_permission"}
