"""How long it takes from the click on "answer" to the first remote frame: the node's own pages in
two profiles of a headless Chromium, media through the node's relays alone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import trio
from playwright.sync_api import Browser, Error, Page

from core.api.client import connect
from core.api.messages import CallLinkReply, CallLinkRequest
from core.errors import OperationError
from core.version import VERSION
from tests.support.browser import browser

CHROMIUM: Final = "chromium"
CALLER: Final = "user:alice"
CALLEE: Final = "user:bob"
PATIENCE_S: Final = 30.0
HESITATION_S: Final = 0.5
"""Nobody answers sooner, and both pages have done by then what they can do beforehand."""
FAKE_DEVICES: Final = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


class Answered(NamedTuple):
    """What an answer took; milliseconds. `gather` and `signal` go on at the same time.

    Attributes:
        total: from the click to the first frame of the caller's camera.
        answer: from the click until the callee's page has made its answer.
        gather: from there to the callee's first relayed candidate; 0 where that was there already.
        signal: from the callee's answer to the caller's hearing of it.
        ice: from the caller's hearing of it to a way that works, at the callee.
        dtls: from there to a connection that stands.
        frame: from there to the first frame.
    """

    total: float
    answer: float
    gather: float
    signal: float
    ice: float
    dtls: float
    frame: float


def chromium_is_installed() -> bool:
    """Whether Debian's Chromium is there."""
    return shutil.which(CHROMIUM) is not None


def make_links(socket: Path, count: int) -> list[CallLinkReply]:
    """So many calls with video, by the node behind the socket."""

    async def ask() -> list[CallLinkReply]:
        found = []
        async with connect(socket, software=f"montana {VERSION}") as client:
            for _ in range(count):
                reply = await client.request(CallLinkRequest(CALLER, CALLEE, "video"))
                assert isinstance(reply, CallLinkReply)
                found.append(reply)
        return found

    return trio.run(ask)


def measure_answers(links: Sequence[CallLinkReply]) -> Iterator[Answered]:
    """Have each call answered, one after the other.

    Raises:
        OperationError: something has not come about.
    """
    with _all_cores(), browser(*FAKE_DEVICES) as chromium:
        for link in links:
            try:
                yield _answer(chromium, link)
            except Error as error:
                raise OperationError(f"a page does not do what it should: {error}") from error


def _answer(chromium: Browser, link: CallLinkReply) -> Answered:
    caller, callee = (_open_page(chromium) for _ in range(2))
    try:
        caller.goto(link.caller_url)
        # The offer has the camera already.
        caller.wait_for_selector(".preview video:not([hidden])")
        callee.goto(link.callee_url)
        _wait_until(callee, "benchMarks.took_offer")
        callee.wait_for_selector("#answer:not([disabled])")
        time.sleep(HESITATION_S)
        callee.click("#answer")
        _wait_until(callee, "benchMarks.frame")
        _wait_until(callee, "montana.meeting.state.peers[0]?.path === 'relayed'")
        theirs, ours = (page.evaluate("() => benchMarks") for page in (caller, callee))
        caller.evaluate("() => montana.meeting.hangUp()")
        # One who is in a call can't take another one.
        for page in (caller, callee):
            page.wait_for_selector("html[data-phase=over]")
    finally:
        for page in (caller, callee):
            page.context.close()
    return Answered(
        total=ours["frame"] - ours["clicked"],
        answer=ours["said_answer"] - ours["clicked"],
        gather=max(0.0, ours["gathered"] - ours["said_answer"]),
        signal=theirs["heard_answer"] - ours["said_answer"],
        ice=ours["ice"] - theirs["heard_answer"],
        dtls=ours["connected"] - ours["ice"],
        frame=ours["frame"] - ours["connected"],
    )


def _open_page(chromium: Browser) -> Page:
    """A page of a profile of its own."""
    page = chromium.new_context(locale="en-GB").new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    page.add_init_script(path=Path(__file__).parent / "signaling_answer.js")
    return page


def _wait_until(page: Page, condition: str) -> None:
    """Wait until a script says so. (What Playwright itself waits with is what the pages' security
    policy forbids.)"""
    until_s = time.monotonic() + PATIENCE_S
    while not page.evaluate(f"() => Boolean({condition})"):
        if time.monotonic() > until_s:
            raise OperationError(f"a page has waited too long: {condition}")
        page.wait_for_timeout(20)


@contextmanager
def _all_cores() -> Iterator[None]:
    """A browser that is started meanwhile may use all cores, as people's may."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)
