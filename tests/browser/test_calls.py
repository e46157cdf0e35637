"""Calls of two in Chromium through a real node's relay: heard, seen and paid for to the second.

The README's pictures are made here: `pytest tests/browser/test_calls.py -k looks`, then copy
call-light.png and call-dark-phone.png from test-artifacts into docs.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.support.browser import take_picture
from tests.support.call_pages import (
    PATIENCE_S,
    amount,
    begin_call,
    call_browser,
    call_link,
    flows,
    hang_up,
    listed_call,
    people,
    receipt,
    records_of,
    state_of,
    statement,
    verify,
    wait_for_flow,
    wait_until,
)
from tests.support.node import RunningNode, running_node

CONFIG = """
[billing]
turn = "metered"
"""
DEAR = """
[billing.tariff.voice]
second = "5"
"""
PRICES = {"voice": 1, "video": 2, "screen": 2}
FILE_BYTES = 1_000_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with call_browser() as running:
        yield running


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    """A node whose books are right when all tests are over."""
    with running_node(more=CONFIG) as running:
        yield running
        verify(running)


def open_account(node: RunningNode, address: str, credit: str | None = None) -> None:
    node.command("account", "create", address)
    if credit:
        node.command("account", "credit", address, credit)


def hang_up_at(page: Page, seconds: int) -> None:
    """Have the page itself press the button as soon as it shows so many seconds."""
    page.evaluate(
        """(seconds) => {
          const { meeting } = montana;
          meeting.addEventListener("change", () => {
            if (meeting.state.phase === "in" && meeting.state.call.seconds >= seconds)
              document.querySelector("[data-tool=hang_up]").click();
          });
        }""",
        seconds,
    )


def check_books(node: RunningNode, caller: str, told: dict[str, Any]) -> list[dict[str, Any]]:
    """Receipt, records, statement and list of calls say the same; the records, in their order."""
    call = told["call"]
    records = records_of(node, call["id"])
    for one in records:
        assert amount(one["cost"]) == one["seconds"] * PRICES[one["kind"]]
    assert sum(one["seconds"] for one in records) == call["seconds"]
    assert sum(amount(one["cost"]) for one in records) == amount(told["cost"])
    (stated,) = statement(node, caller)
    lines = [one for one in stated["lines"] if (one["session"] or {}).get("name") == call["id"]]
    assert {one["id"] for one in lines} == {one["id"] for one in records}
    assert sum(one["session"]["seconds"] for one in lines) == call["seconds"]
    assert sum(amount(one["amount"]) for one in lines) == -amount(told["cost"])
    assert amount(stated["closing"]) == amount(told["balance"])
    listed = listed_call(node, caller, call["id"])
    assert (listed["seconds"], amount(listed["cost"])) == (call["seconds"], amount(told["cost"]))
    return records


def test_thirty_seconds_of_voice_cost_thirty(node: RunningNode, chromium: Browser) -> None:
    open_account(node, "user:alice", "1000")
    open_account(node, "user:bob")
    with people(chromium, 2) as (caller, callee):
        begin_call(caller, callee, call_link(node, "user:alice", "user:bob"))
        hang_up_at(caller, 30)
        for page in (caller, callee):
            wait_for_flow(page, "audio_bytes")
            wait_for_flow(page, "samples_energy")
            wait_until(page, "state.peers[0].path === 'relayed' && state.call.relayed")
        assert "spent" in caller.inner_text(".money")
        assert callee.locator(".money").is_hidden()
        told = receipt(caller)
        assert receipt(callee)["cost"] is None
        assert callee.inner_text(".over h1") == "The call is over"
    (record,) = check_books(node, "user:alice", told)
    assert record["kind"] == "voice"
    assert record["seconds"] in (30, 31)
    assert told["reason"] == "hung-up"


def test_the_price_changes_with_camera_and_screen(node: RunningNode, chromium: Browser) -> None:
    open_account(node, "user:carol", "1000")
    open_account(node, "user:dave")
    with people(chromium, 2) as (caller, callee):
        begin_call(caller, callee, call_link(node, "user:carol", "user:dave"))

        def spend(kind: str, seconds: int) -> None:
            wait_until(caller, f"state.call.kind === '{kind}'")
            wait_until(callee, f"state.call.kind === '{kind}'")
            assert amount(state_of(caller)["call"]["price_second"]) == PRICES[kind]
            charged = state_of(caller)["call"]["seconds"]
            wait_until(caller, f"state.call.seconds >= {charged + seconds}")

        spend("voice", 2)
        # Either side's picture makes it a video call, and the caller pays for it.
        callee.click("[data-tool=camera]")
        spend("video", 2)
        wait_for_flow(caller, "frames")
        assert flows(callee)["0"]["frames"] == 0
        callee.click("[data-tool=camera]")
        spend("voice", 2)
        caller.click("[data-tool=screen]")
        spend("screen", 2)
        wait_for_flow(callee, "frames")
        assert callee.locator(".tile.screen video").is_visible()

        caller.click("[data-tool=chat]")
        caller.fill(".chat textarea", "Can you read this?")
        caller.keyboard.press("Enter")
        callee.wait_for_selector("[data-tool=chat] .count:not([hidden])")
        callee.click("[data-tool=chat]")
        callee.wait_for_selector(".message:has-text('Can you read this?')")
        callee.fill(".chat textarea", "Да, прекрасно.")
        callee.keyboard.press("Enter")
        caller.wait_for_selector(".message:has-text('Да, прекрасно.')")
        content = random.Random(4).randbytes(FILE_BYTES)
        plan: FilePayload = {
            "name": "plan.bin",
            "mimeType": "application/octet-stream",
            "buffer": content,
        }
        caller.set_input_files(".chat input[type=file]", plan)
        callee.click("[data-act=acceptFile]")
        with callee.expect_download(timeout=PATIENCE_S * 1000) as download:
            callee.click(".file a", timeout=PATIENCE_S * 1000)
        received = hashlib.sha256(download.value.path().read_bytes()).digest()
        assert received == hashlib.sha256(content).digest()
        told = hang_up(callee)
        assert told["cost"] is None
        told = receipt(caller)
    records = check_books(node, "user:carol", told)
    assert [one["kind"] for one in records] == ["voice", "video", "voice", "screen"]
    assert all(one["seconds"] >= 2 for one in records)
    assert told["call"]["kind"] == "screen"


def test_a_video_call_and_its_looks(node: RunningNode, chromium: Browser) -> None:
    open_account(node, "user:erin", "1000")
    open_account(node, "user:frank")
    with people(chromium, 2, color_scheme="light") as (caller, callee):
        callee.emulate_media(color_scheme="dark")
        callee.set_viewport_size({"width": 390, "height": 844})
        link = call_link(node, "user:erin", "user:frank", "video")
        begin_call(caller, callee, link, video=True)
        for page in (caller, callee):
            wait_for_flow(page, "frames")
            wait_for_flow(page, "audio_bytes")
            wait_until(page, "state.peers[0].verification && state.peers[0].path === 'relayed'")
            page.click("[data-tool=verify]")
            page.wait_for_selector(".emoji li")
        emoji = [page.locator(".emoji").inner_text() for page in (caller, callee)]
        assert emoji[0] == emoji[1]
        wait_until(caller, "state.call.seconds >= 5")
        for page, name in ((caller, "call-light"), (callee, "call-dark-phone")):
            width = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
            assert width[0] <= width[1]
            take_picture(page, name)
        callee.click(".panel [aria-label='Close the panel']")
        take_picture(callee, "call-dark-phone-video")
        told = hang_up(caller)
        take_picture(caller, "call-receipt-light")
        receipt(callee)
        take_picture(callee, "call-receipt-dark-phone")
    assert {one["kind"] for one in check_books(node, "user:erin", told)} == {"video"}


def test_whoever_has_no_more_money_is_warned_and_cut(chromium: Browser) -> None:
    with running_node(more=CONFIG + DEAR) as node, people(chromium, 2) as (caller, callee):
        # There is a minute's worth when the call is made, and a fifth of it when it is answered.
        open_account(node, "user:alice", "303")
        open_account(node, "user:bob")
        link = call_link(node, "user:alice", "user:bob")
        node.command("account", "transfer", "user:alice", "user:bob", "240")
        caller.goto(link["caller_url"])
        caller.evaluate(
            """() => {
              window.warned = new Set();
              montana.meeting.addEventListener("change", () => {
                const { warning } = montana.meeting.state;
                if (warning) window.warned.add(warning.left_s);
              });
            }"""
        )
        callee.goto(link["callee_url"])
        callee.click("#answer")
        caller.wait_for_selector(".banner:has-text('Money for')", timeout=PATIENCE_S * 1000)
        told = receipt(caller)
        assert receipt(callee)["cost"] is None
        for page in (caller, callee):
            assert page.inner_text(".over h1") == "The money is used up"
        assert caller.evaluate("() => [...window.warned]") == [60, 10]
        assert told["reason"] == "no-money"
        assert (told["call"]["seconds"], told["cost"]) == (12, "60.000000")
        assert amount(told["balance"]) == 3
        (record,) = records_of(node, link["call_id"])
        assert (record["seconds"], record["cost"]) == (12, "60.000000")
        verify(node)


def test_calls_that_come_to_nothing_cost_nothing(node: RunningNode, chromium: Browser) -> None:
    open_account(node, "user:grace", "1000")
    open_account(node, "user:heidi")
    with people(chromium, 2) as (caller, callee):
        rejected = call_link(node, "user:grace", "user:heidi")
        caller.goto(rejected["caller_url"])
        callee.goto(rejected["callee_url"])
        callee.click("#reject")
        for page in (caller, callee):
            page.wait_for_selector("[data-view=over]")
            assert page.inner_text(".over h1") == "The call was rejected"

        missed = call_link(node, "user:grace", "user:heidi")
        caller.goto(missed["caller_url"])
        callee.goto(missed["callee_url"])
        callee.wait_for_selector("#answer:visible")
        caller.click("#take-back")
        for page in (caller, callee):
            page.wait_for_selector("[data-view=over]")
        assert callee.inner_text(".over h1") == "Nobody has answered"
    for link, status in ((rejected, "rejected"), (missed, "missed")):
        listed = listed_call(node, "user:grace", link["call_id"])
        assert (listed["status"], listed["seconds"]) == (status, 0)
        assert records_of(node, link["call_id"]) == []
    (stated,) = statement(node, "user:grace")
    assert amount(stated["closing"]) == 1000


def test_both_may_hang_up_at_once(node: RunningNode, chromium: Browser) -> None:
    open_account(node, "user:ivan", "1000")
    open_account(node, "user:judy")
    with people(chromium, 2) as (caller, callee):
        begin_call(caller, callee, call_link(node, "user:ivan", "user:judy"))
        wait_until(caller, "state.call.seconds >= 2")
        for page in (caller, callee):
            hang_up_at(page, state_of(caller)["call"]["seconds"] + 1)
        told = receipt(caller)
        receipt(callee)
    check_books(node, "user:ivan", told)


def make_account(node: RunningNode, page: Page) -> str:
    page.goto(f"{node.http}/me")
    page.click("#make")
    page.wait_for_selector("html[data-phase=in]")
    return page.inner_text("#address")


def check_account_page(node: RunningNode, page: Page) -> None:
    """The account's lines, its last calls and the plot of its month say what its statement does;
    all was spent today."""
    (stated,) = statement(node, page.inner_text("#address"))
    expect(page.locator("#history li")).to_have_count(
        len(stated["lines"]), timeout=PATIENCE_S * 1000
    )
    shown = page.evaluate(
        """() => [...document.querySelectorAll("#history li")].map((line) =>
          [line.dataset.key, line.querySelector("small").textContent,
           line.querySelector(".amount").textContent])"""
    )
    for (line_id, words, sum_), line in zip(shown, reversed(stated["lines"]), strict=True):
        assert line_id == line["id"]
        assert words.startswith(f"{line['kind']} · {line['purpose']} · ")
        assert amount(sum_.removesuffix("\xa0Ɉ")) == amount(line["amount"])
    spent = -sum(amount(line["amount"]) for line in stated["lines"] if line["session"])
    *before, today = page.locator("#spending title").all_text_contents()
    assert today.endswith(f": {spent:f}".rstrip("0").rstrip(".") + "\xa0Ɉ")
    assert len(before) == 29
    assert all(one.endswith(": 0\xa0Ɉ") for one in before)
    assert page.locator("#spending rect.spent").count() == bool(spent)
    assert amount(page.inner_text("#balance").removesuffix("\xa0Ɉ")) == amount(stated["closing"])
    for line in stated["lines"]:
        if line["session"]:
            (call,) = page.locator(f"#calls li[data-key={line['session']['name']}]").all()
            assert amount(call.locator(".amount").inner_text()[:-2]) == amount(line["amount"])


def test_an_account_page_tells_whom_one_has_called_and_what_was_spent(
    node: RunningNode, chromium: Browser
) -> None:
    voucher = json.loads(node.command("voucher", "create", "300", "--json"))["codes"][0]
    # Where it is noon, no day ends during the test.
    noon = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
    with people(chromium, 3, timezone_id=noon) as (caller, callee, guest):
        address, other = (make_account(node, page) for page in (caller, callee))
        assert caller.locator("#no-contacts").is_visible()
        assert caller.locator("#no-history").is_visible()
        caller.fill("#voucher-form [name=code]", voucher)
        caller.click("#voucher-form [type=submit]")
        caller.wait_for_selector("#history li :text('voucher')")
        check_account_page(node, caller)

        caller.fill("#call-form [name=to]", other)
        caller.click("#call-form [type=submit]")
        callee.click("#rings a", timeout=PATIENCE_S * 1000)
        callee.click("#answer")
        wait_until(caller, "state.call.seconds >= 2")
        first = hang_up(caller)
        receipt(callee)
        check_books(node, address, first)
        caller.goto(f"{node.http}/me")
        caller.wait_for_selector("html[data-phase=in]")
        check_account_page(node, caller)

        (contact,) = caller.locator("#contacts li").all()
        assert contact.locator(".who").get_attribute("title") == other
        assert not caller.locator("#no-contacts").is_visible()
        contact.locator("button:has-text('Call')").click()
        assert caller.input_value("#call-form [name=to]") == other
        contact.locator("[aria-label='Forget this contact']").click()
        for _ in range(2):
            expect(caller.locator("#contacts li")).to_have_count(0)
            assert caller.locator("#no-contacts").is_visible()
            caller.reload()
            caller.wait_for_selector("html[data-phase=in]")

        # A link is for somebody without an account; one's own side may be in another tab.
        caller.click("#get-link")
        caller.wait_for_selector("#made-code svg")
        own = caller.get_attribute("#made-acts a", "href")
        link = {"caller_url": str(own), "callee_url": caller.input_value("#made-url")}
        side = caller.context.new_page()
        begin_call(side, guest, link)
        wait_until(side, "state.call.seconds >= 2")
        second = hang_up(side)
        assert receipt(guest)["cost"] is None
        check_books(node, address, second)
        assert second["call"]["id"] in link["callee_url"]
        caller.bring_to_front()
        # The page that has stayed open tells of it without being loaded anew.
        caller.wait_for_selector(f"#calls li :text('{second['call']['id']}')")
        spent = amount(first["cost"]) + amount(second["cost"])
        today = caller.locator("#spending title").last
        expect(today).to_have_text(re.compile(rf": {int(spent)}\sɈ$"), timeout=PATIENCE_S * 1000)
        check_account_page(node, caller)
        assert caller.locator("#contacts li").count() == 0


def test_accounts_of_browsers_call_each_other(node: RunningNode, chromium: Browser) -> None:
    voucher = json.loads(node.command("voucher", "create", "300", "--json"))["codes"][0]
    with people(chromium, 3) as (caller, callee, third):
        address, other, stranger = (make_account(node, page) for page in (caller, callee, third))
        caller.fill("#voucher-form [name=code]", voucher)
        caller.click("#voucher-form [type=submit]")
        caller.wait_for_selector("#balance:has-text('300')")
        third.fill("#voucher-form [name=code]", voucher)
        third.click("#voucher-form [type=submit]")
        third.wait_for_selector("#notice:has-text('was paid in already')")
        node.command("account", "credit", stranger, "300")
        caller.fill("#call-form [name=to]", other)
        caller.click("#call-form [type=submit]")
        callee.click("#rings a", timeout=PATIENCE_S * 1000)
        callee.click("#answer")
        wait_until(caller, "state.call.seconds >= 3")

        # Whoever talks is busy; one may be called while one's account page is open elsewhere.
        third.fill("#call-form [name=to]", other)
        third.click("#call-form [type=submit]")
        third.wait_for_selector(":text('They are talking to somebody else')")

        told = hang_up(caller)
        receipt(callee)
        check_books(node, address, told)
        assert amount(told["balance"]) == 300 - amount(told["cost"])

        callee.goto(f"{node.http}/me")
        callee.wait_for_selector("html[data-phase=in]")
        assert told["call"]["id"] in callee.inner_text("#calls")
        callee.fill("#block-form [name=address]", address)
        callee.click("#block-form [type=submit]")
        callee.wait_for_selector("#blocked li")
        caller.click("a:has-text('Call again')")
        caller.wait_for_selector("html[data-phase=in]")
        caller.click("#call-form [type=submit]")
        caller.wait_for_selector(":text('They can')")
        assert callee.locator("#rings a").count() == 0
