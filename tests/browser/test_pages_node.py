"""The pages against a real node: a room and a call of two, from the first click to the receipt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Page

from tests.support.browser import FAKE_DEVICES, browser, take_picture
from tests.support.node import RunningNode, running_node

TIMEOUT_S = 30
TOKEN = "a token of enough letters"
CONFIG = f"""
[billing]
turn = "metered"
[signaling]
rooms = "free"
room_token = "{TOKEN}"
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser(*FAKE_DEVICES) as running:
        yield running


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node(more=CONFIG) as running:
        yield running


@pytest.fixture
def pages(chromium: Browser) -> Iterator[list[Page]]:
    """Two people's, each with a browser profile of their own."""
    contexts: list[BrowserContext] = [chromium.new_context(locale="en-GB") for _ in range(2)]
    opened = [context.new_page() for context in contexts]
    problems: list[str] = []
    for page in opened:
        page.on("pageerror", lambda error: problems.append(str(error)))
    yield opened
    for context in contexts:
        context.close()
    assert not problems


def wait_until(page: Page, condition: str) -> None:
    """Wait until the script `condition` is true of `state`. (What Playwright itself polls with
    is what the pages' security policy forbids.)"""
    script = f"() => {{ const {{ state }} = montana.meeting; return Boolean({condition}); }}"
    end_s = time.monotonic() + TIMEOUT_S
    while not page.evaluate(script):
        assert time.monotonic() < end_s, condition
        page.wait_for_timeout(50)


def peer(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        """() => {
          const [{ name, camera, microphone, path, verification }] = montana.meeting.state.peers;
          return { name, camera, microphone, path, verification };
        }"""
    )
    return found


def test_a_room_of_two_from_its_making_to_its_end(node: RunningNode, pages: list[Page]) -> None:
    host, guest = pages
    host.goto(f"{node.http}/")
    host.click("#create")
    host.wait_for_selector(".preview video:not([hidden])")
    host.fill("[name=name]", "Alice")
    host.click("#go")
    host.wait_for_selector("#token-line:not([hidden])")
    host.fill("[name=token]", TOKEN)
    host.check("[name=lobby]")
    host.click("#go")
    host.wait_for_selector("html[data-phase=in]")
    host.keyboard.press("p")
    guest.goto(host.input_value(".invite input"))
    guest.wait_for_selector(".preview video:not([hidden])")
    guest.fill("[name=name]", "Борис")
    guest.click("#go")
    guest.wait_for_selector("[data-view=wait]")
    host.click(".knocks button:has-text('Let in')")
    for page in pages:
        wait_until(page, "state.peers[0]?.verification && state.peers[0].camera")
    ours, theirs = peer(host), peer(guest)
    assert (ours["name"], theirs["name"]) == ("Борис", "Alice")
    assert ours["verification"]["emoji"] == theirs["verification"]["emoji"]
    host.click("[data-tool=verify]")
    host.click(".pair button:has-text('They match')")
    wait_until(host, "state.peers[0].verification.identity === 'verified'")
    take_picture(host, "pages-node-room")

    guest.keyboard.press("c")
    guest.keyboard.type("Привет!")
    guest.keyboard.press("Enter")
    host.click("[data-tool=chat]")
    host.wait_for_selector(".message:has-text('Привет!')")
    content = bytes(range(256)) * 400
    guest.set_input_files(
        ".chat input[type=file]",
        FilePayload(name="papers.bin", mimeType="application/octet-stream", buffer=content),
    )
    host.click("[data-act=acceptFile]")
    host.wait_for_selector(".file a")
    with host.expect_download() as download:
        host.click(".file a")
    assert download.value.suggested_filename == "papers.bin"
    assert download.value.path().read_bytes() == content

    # A page that is loaded anew finds its room and its devices again.
    guest.reload()
    guest.wait_for_selector("html[data-phase=in]")
    for page in pages:
        wait_until(page, "state.peers[0]?.connection === 'connected' && state.peers[0].camera")
    host.click("[data-tool=people]")
    host.on("dialog", lambda dialog: dialog.accept())
    host.click(".people button[aria-label='Send away']:visible")
    guest.wait_for_selector("[data-view=over]")
    assert guest.inner_text(".over h1") == "The host has sent you away"
    wait_until(host, "state.peers.length === 0")
    host.click("[data-tool=hang_up]")
    host.wait_for_selector("[data-view=over]")


def test_a_call_between_accounts_rings_and_leaves_a_receipt(
    node: RunningNode, pages: list[Page]
) -> None:
    caller, callee = pages
    for page in pages:
        page.goto(f"{node.http}/me")
        page.click("#make")
        page.wait_for_selector("html[data-phase=in]")
    node.command("account", "credit", caller.inner_text("#address"), "500")
    caller.wait_for_selector("#balance:has-text('500')")
    caller.fill("#call-form [name=to]", callee.inner_text("#address"))
    caller.click("#call-form [type=submit]")
    caller.wait_for_selector("html[data-phase=ringing]")
    callee.click("#rings a")
    callee.wait_for_selector("#answer")
    take_picture(callee, "pages-node-ringing")
    callee.click("#answer")
    for page in pages:
        wait_until(page, "state.phase === 'in' && state.peers[0]?.connection === 'connected'")
    wait_until(caller, "state.call.seconds >= 2")
    assert peer(caller)["path"] == "relayed"
    assert "spent" in caller.inner_text(".money")
    assert not callee.locator(".money").is_visible()
    take_picture(caller, "pages-node-call")
    caller.click("[data-tool=hang_up]")
    caller.wait_for_selector(".receipt")
    callee.wait_for_selector("[data-view=over]")
    receipt = caller.evaluate("() => montana.meeting.state.receipt")
    assert float(receipt["cost"]) == receipt["call"]["seconds"] >= 2
    assert float(receipt["balance"]) == 500 - float(receipt["cost"])
    take_picture(caller, "pages-node-receipt")
    caller.click("a:has-text('Call again')")
    caller.wait_for_selector("html[data-phase=in]")
    assert receipt["call"]["id"] in caller.inner_text("#calls")
    assert caller.input_value("#call-form [name=to]") == callee_address(receipt)


def callee_address(receipt: dict[str, Any]) -> str:
    return str(receipt["call"]["other"])
