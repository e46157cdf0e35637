"""The pages' engine in Chromium, without a page: two meetings that talk through a small server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import browser
from tests.support.signaling_server import (
    INVITATION,
    SignalingServer,
    signaling_server,
)

TIMEOUT_MS = 30_000
FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
_LOAD = """async () => {
  const [meeting, media] = await Promise.all([
    import("/static/meeting.js"), import("/static/media.js"),
  ]);
  window.media = media;
  window.meeting = new meeting.Meeting();
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser(*FLAGS) as running:
        yield running


@pytest.fixture
def server() -> Iterator[SignalingServer]:
    with signaling_server() as running:
        yield running


@contextmanager
def pages(chromium: Browser, server: SignalingServer, count: int = 2) -> Iterator[list[Page]]:
    """That many browsers' worth of everything but the process, each with a meeting."""
    contexts = [chromium.new_context(permissions=["camera", "microphone"]) for _ in range(count)]
    opened = []
    errors: list[str] = []
    for context in contexts:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{server.url}/test")
        page.evaluate(_LOAD)
        opened.append(page)
    yield opened
    for context in contexts:
        context.close()
    assert not errors


def until(page: Page, condition: str, argument: Any = None) -> None:
    """Wait until the meeting's state `s` is so."""
    page.wait_for_function(
        f"(argument) => {{ const s = meeting.state; return {condition}; }}",
        arg=argument,
        timeout=TIMEOUT_MS,
    )


def state(page: Page, expression: str) -> Any:
    return page.evaluate(f"() => {{ const s = meeting.state; return {expression}; }}")


def use_media(page: Page, *, camera: bool = False) -> None:
    page.evaluate(
        """async (camera) => meeting.useMedia({
          microphone: await media.openMicrophone(),
          camera: camera ? await media.openCamera() : null,
        })""",
        camera,
    )


def meet(opened: list[Page], *, camera: bool = False) -> None:
    """Have the first page make a room, and the others come."""
    for number, page in enumerate(opened):
        use_media(page, camera=camera)
        if number == 0:
            page.evaluate("() => meeting.createRoom({ name: 'Ada' })")
        else:
            page.evaluate(
                "(invitation) => meeting.joinRoom({ invitation, name: 'Bob' })", INVITATION
            )
    for page in opened:
        until(
            page,
            "s.peers.length === argument && s.peers.every((one) => "
            "one.connection === 'connected' && one.verification)",
            len(opened) - 1,
        )


def test_two_talk_and_see_the_same_string(chromium: Browser, server: SignalingServer) -> None:
    with pages(chromium, server) as opened:
        meet(opened)
        strings = [state(page, "s.peers[0].verification.emoji") for page in opened]
        assert strings[0] == strings[1]
        assert len(strings[0]) == 7
        assert [state(page, "s.peers[0].verification.failed") for page in opened] == [None, None]
        for page in opened:
            # A browser decodes what it plays, and nothing else.
            page.evaluate(
                """() => {
                  window.player = new Audio();
                  player.srcObject = meeting.state.peers[0].audioStream;
                  player.play();
                }"""
            )
            until(page, "s.peers[0].level > 0")
            until(page, "s.peers[0].stats?.in_kbps > 1 && s.peers[0].path === 'direct'")
    assert server.kinds
    assert set(server.kinds) == {"voice"}
    offers = [sdp for _, kind, sdp in server.descriptions if kind == "offer"]
    sections = [line.split()[0] for line in offers[0].splitlines() if line.startswith("m=")]
    assert sections == ["m=audio", "m=video", "m=video", "m=application"]
