"""People in a node's calls and rooms: real pages in Chromium, each with a profile of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from playwright.sync_api import Browser, Page

from tests.support.browser import FAKE_DEVICES, browser
from tests.support.node import RunningNode

PATIENCE_S = 45
FLAGS = (
    *FAKE_DEVICES,
    # A shared screen is the page's own tab: a headless browser has no other.
    "--auto-accept-this-tab-capture",
    "--auto-select-desktop-capture-source=Entire screen",
)
# Chromium slows the timers and pictures of pages that are not in front; people's are in front.
AWAKE = (
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
)

_FLOWS = """async () => {
  const flows = {};
  for (const { view, peer } of montana.meeting.people.values()) {
    const flow = { audio_bytes: 0, frames: 0, samples_energy: 0 };
    (await peer.pc.getStats()).forEach((one) => {
      if (one.type !== "inbound-rtp") return;
      if (one.kind === "audio") {
        flow.audio_bytes += one.bytesReceived;
        flow.samples_energy += one.totalAudioEnergy ?? 0;
      } else flow.frames += one.framesDecoded ?? 0;
    });
    flows[view.id] = flow;
  }
  return flows;
}"""


@contextmanager
def call_browser() -> Iterator[Browser]:
    """A browser whose devices are Chromium's: a beep, a moving picture, its own tab."""
    with browser(*FLAGS, *AWAKE) as running:
        yield running


@contextmanager
def people(chromium: Browser, count: int, **look: Any) -> Iterator[list[Page]]:
    """That many people's pages; none of them may have had an error in the end."""
    contexts = [chromium.new_context(**{"locale": "en-GB", **look}) for _ in range(count)]
    problems: list[str] = []
    pages = [context.new_page() for context in contexts]
    for page in pages:
        page.on("pageerror", lambda error: problems.append(str(error)))
    try:
        yield pages
    finally:
        for context in contexts:
            context.close()
    assert not problems


def wait_until(page: Page, condition: str) -> None:
    """Wait until the script `condition` is true of the meeting's `state`. (What Playwright itself
    polls with is what the pages' security policy forbids.)"""
    script = f"() => {{ const {{ state }} = montana.meeting; return Boolean({condition}); }}"
    end_s = time.monotonic() + PATIENCE_S
    while not page.evaluate(script):
        assert time.monotonic() < end_s, (condition, state_of(page))
        page.wait_for_timeout(50)


def state_of(page: Page) -> dict[str, Any]:
    """What of the meeting's state tells where it stands."""
    found: dict[str, Any] = page.evaluate(
        """() => {
          const { phase, over, online, call, failure, peers } = montana.meeting.state;
          return { phase, over, online, call, failure, peers: peers.map((peer) => ({
            id: peer.id, connection: peer.connection, path: peer.path, camera: peer.camera,
            screen: peer.screen, verification: peer.verification?.failed })) };
        }"""
    )
    return found


def flows(page: Page) -> dict[str, dict[str, float]]:
    """By the other's id: bytes of sound, frames that were decoded, loudness that was played."""
    found: dict[str, dict[str, float]] = page.evaluate(_FLOWS)
    return found


def wait_for_flow(page: Page, kind: str, others: int = 1) -> None:
    """Wait until more of `kind` (of `flows`) has come from each of the others than had by now."""
    before = flows(page)
    assert len(before) == others
    end_s = time.monotonic() + PATIENCE_S
    while True:
        now = flows(page)
        if all(now[other][kind] > before[other][kind] for other in before):
            return
        assert time.monotonic() < end_s, (kind, before, now)
        page.wait_for_timeout(100)


def call_link(node: RunningNode, caller: str, callee: str, kind: str = "voice") -> dict[str, str]:
    """What `montana call link --json` prints."""
    arguments = ("call", "link", "--from", caller, "--to", callee, "--kind", kind, "--json")
    link: dict[str, str] = json.loads(node.command(*arguments))
    return link


def begin_call(caller: Page, callee: Page, link: dict[str, str], *, video: bool = False) -> None:
    """Open both links, answer, and wait until both are connected."""
    caller.goto(link["caller_url"])
    caller.wait_for_selector("html[data-phase=ringing]")
    callee.goto(link["callee_url"])
    callee.click("#answer-video" if video else "#answer")
    for page in (caller, callee):
        wait_until(page, "state.phase === 'in' && state.peers[0]?.connection === 'connected'")


def hang_up(page: Page) -> dict[str, Any]:
    """Hang up; the receipt as the page has it."""
    page.click("[data-tool=hang_up]")
    return receipt(page)


def receipt(page: Page) -> dict[str, Any]:
    """What the call has come to, as soon as the page is told."""
    page.wait_for_selector(".receipt", timeout=PATIENCE_S * 1000)
    found: dict[str, Any] = page.evaluate("() => montana.meeting.state.receipt")
    return found


def records_of(node: RunningNode, call_id: str) -> list[dict[str, Any]]:
    """The ledger's records of a call, one of each kind that it was in turn."""
    exported = node.command("ledger", "export", "--format", "jsonl").splitlines()
    return [one for one in map(json.loads, exported) if one["name"] == call_id]


def statement(node: RunningNode, account: str) -> list[dict[str, Any]]:
    """What `montana account statement --json` prints."""
    printed = node.command("account", "statement", account, "--json").splitlines()
    return [json.loads(line) for line in printed]


def listed_call(node: RunningNode, account: str, call_id: str) -> dict[str, Any]:
    """A call as `montana call list` has it."""
    listed = json.loads(node.command("call", "list", "--account", account, "--json"))
    (found,) = [one for one in listed["calls"] if one["id"] == call_id]
    return dict(found)


def amount(text: Any) -> Decimal:
    """Ɉ as it is written."""
    return Decimal(str(text))


def verify(node: RunningNode) -> None:
    """`montana ledger verify` finds nothing wrong."""
    assert json.loads(node.command("ledger", "verify", "--json"))["ok"]
