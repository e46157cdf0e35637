"""WebSockets as Chromium sees them: what the security headers let through, and whom the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest
import trio
from playwright.sync_api import Browser

from tests.support.browser import browser
from tests.support.websocket_app import Recorders, serving

TALK = """
(url) => new Promise((resolve) => {
  const heard = [];
  document.addEventListener("securitypolicyviolation", ({ effectiveDirective }) => {
    resolve({ heard, violated: effectiveDirective });
  });
  const socket = new WebSocket(url, ["montana.1"]);
  socket.onopen = () => { socket.send("Привет"); socket.send("x".repeat(100000)); };
  socket.onmessage = ({ data }) => {
    heard.push(data);
    if (heard.length === 2) socket.close(3000, "enough");
  };
  socket.onclose = ({ code, wasClean }) => resolve({
    heard, code, wasClean, protocol: socket.protocol, extensions: socket.extensions,
  });
})
"""


@contextmanager
def served(recorders: Recorders) -> Iterator[int]:
    """The port of a server that runs in a thread, since Playwright has this one to itself."""
    begun: SimpleQueue[tuple[int, trio.lowlevel.TrioToken, trio.CancelScope]] = SimpleQueue()

    async def run() -> None:
        with trio.CancelScope() as scope:
            async with serving(recorders) as server:
                begun.put((server.addresses[0].port, trio.lowlevel.current_trio_token(), scope))
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=[run])
    thread.start()
    port, token, scope = begun.get(timeout=20)
    try:
        yield port
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


def talk(chromium: Browser, page_url: str, websocket_url: str) -> Any:
    """What a page hears."""
    page = chromium.new_page()
    try:
        page.goto(page_url)
        return page.evaluate(TALK, websocket_url)
    finally:
        page.close()


def test_a_page_of_the_node_talks_to_it(chromium: Browser) -> None:
    recorders = Recorders()
    with served(recorders) as port:
        for host in ("127.0.0.1", "localhost"):
            heard = talk(chromium, f"http://{host}:{port}/", f"ws://{host}:{port}/ws")
            assert heard == {
                "heard": ["Привет", "x" * 100_000],
                "code": 3000,
                "wasClean": True,
                "protocol": "montana.1",
                "extensions": "",
            }
    assert [one.websocket.origin for one in recorders.all] == [
        f"http://{host}:{port}" for host in ("127.0.0.1", "localhost")
    ]
    assert [one.closed_count for one in recorders.all] == [1, 1]


def test_a_page_of_somebody_else_does_not(chromium: Browser) -> None:
    recorders = Recorders()
    with served(recorders) as port:
        # No policy of a page forbids it here: it is for the server to refuse.
        heard = talk(chromium, "data:text/html,stranger", f"ws://127.0.0.1:{port}/ws")
        assert (heard["heard"], heard["code"], heard["wasClean"]) == ([], 1006, False)
    with served(recorders) as port, served(Recorders()) as other_port:
        # Here it is the node's own policy that keeps its pages from connecting to others.
        heard = talk(chromium, f"http://127.0.0.1:{port}/", f"ws://127.0.0.1:{other_port}/ws")
        assert heard == {"heard": [], "violated": "connect-src"}
    assert recorders.all == []
