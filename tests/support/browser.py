"""Headless Chromium, driven by Playwright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.programs import need_program

ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"
CAMERA = "--use-fake-device-for-media-stream=fps=10"
"""Chromium's own camera and microphone. With as many pictures a second as cameras have, each page
takes a core: pages were late for no fault of theirs."""
FAKE_DEVICES = (CAMERA, "--use-fake-ui-for-media-stream")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Browsers leave the loopback interface out of WebRTC; a node of the tests has nothing else.
    "--allow-loopback-in-peer-connection",
    # Nobody is there to click before a tone may sound.
    "--autoplay-policy=no-user-gesture-required",
]


@contextmanager
def browser(*more: str) -> Iterator[Browser]:
    """A browser without a profile, with `more` arguments; the test is skipped where Chromium is
    not installed."""
    program = need_program("chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=program, args=[*ARGUMENTS, *more], headless=True
        )
        try:
            yield running
        finally:
            running.close()


def take_picture(page: Page, name: str) -> None:
    """Keep a screenshot of the whole page for people to look at."""
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=str(ARTIFACTS / f"{name}.png"), full_page=True)
