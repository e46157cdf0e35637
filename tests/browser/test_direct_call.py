"""Calls of two in Chromium whose media flows past the relays: paid for by what both pages say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Error, Page

from relay.call_activity import HOLDING_S
from tests.support.call_pages import (
    PATIENCE_S,
    amount,
    begin_call,
    call_browser,
    call_link,
    hang_up,
    listed_call,
    people,
    receipt,
    records_of,
    statement,
    verify,
    wait_for_flow,
    wait_until,
)
from tests.support.node import RunningNode, running_node

CONFIG = """
[billing]
turn = "metered"
[signaling]
direct_calls = true
"""
TALK_S = 12
SECONDS_LEFT = 6
BEATS_BEFORE_SILENCE = 3
PATH = """async () => {
  const [{ peer }] = montana.meeting.people.values();
  const report = await peer.pc.getStats();
  const transport = [...report.values()].find(({ type }) => type === "transport");
  const pair = report.get(transport.selectedCandidatePairId);
  const ends = [pair.localCandidateId, pair.remoteCandidateId];
  return ends.map((id) => report.get(id).candidateType);
}"""


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


class Said:
    """What a page says to the node, and when by the browser's clock, which all pages share."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._times_s: dict[str, list[float]] = {}
        session = page.context.new_cdp_session(page)
        session.on("Network.webSocketFrameSent", self._take)
        session.send("Network.enable")

    def _take(self, event: dict[str, Any]) -> None:
        kind = json.loads(event["response"]["payloadData"])["type"]
        self._times_s.setdefault(kind, []).append(event["timestamp"])

    def times_s(self, kind: str) -> list[float]:
        """When it has said that."""
        return self._times_s.get(kind, [])

    def wait_for(self, kind: str, count: int) -> None:
        """Wait until it has said that so often."""
        for _ in range(PATIENCE_S * 20):
            if len(self.times_s(kind)) >= count:
                return
            self._page.wait_for_timeout(50)
        raise AssertionError((kind, count, self.times_s(kind)))


class SilentCall(NamedTuple):
    """A call whose callee's page is gone. Times are the browser's clock.

    Attributes:
        started_s: when both pages had said that they are connected.
        beaten_s: when the callee's page has last said that media comes in.
    """

    id: str
    caller: Page
    started_s: float
    beaten_s: float


def open_account(node: RunningNode, address: str, credit: str) -> None:
    node.command("account", "create", address)
    node.command("account", "credit", address, credit)


def started_s(*sides: Said) -> float:
    """When the later of the two has said that it is connected."""
    return max(said.times_s("connected")[0] for said in sides)


@pytest.fixture(scope="module")
def silent_call(node: RunningNode, chromium: Browser) -> Iterator[SilentCall]:
    """A page is killed in mid-call. It is waited for for half a minute, in which the other tests
    have their calls."""
    open_account(node, "user:erin", "1000")
    with people(chromium, 2) as (caller, callee):
        sides = Said(caller), Said(callee)
        link = call_link(node, "user:erin", "user:frank")
        begin_call(caller, callee, link)
        for said in sides:
            said.wait_for("beat", BEATS_BEFORE_SILENCE)
        # The renderer's process ends, and says nothing to anybody before.
        with callee.expect_event("crash"), suppress(Error):
            callee.goto("chrome://crash")
        beaten_s = sides[1].times_s("beat")[-1]
        yield SilentCall(link["call_id"], caller, started_s(*sides), beaten_s)


@pytest.mark.usefixtures("silent_call")
def test_a_direct_call_costs_what_both_pages_say(node: RunningNode, chromium: Browser) -> None:
    open_account(node, "user:alice", "1000")
    with people(chromium, 2) as (caller, callee):
        sides = Said(caller), Said(callee)
        link = call_link(node, "user:alice", "user:bob")
        begin_call(caller, callee, link)
        for page in (caller, callee):
            wait_for_flow(page, "audio_bytes")
            wait_for_flow(page, "samples_energy")
            wait_until(page, "state.peers[0].path === 'direct' && !state.call.relayed")
            assert page.evaluate(PATH) == ["host", "host"]
            assert page.inner_text(".tile .path:visible") == "direct"
        wait_until(caller, f"state.call.seconds >= {TALK_S}")
        assert "spent" in caller.inner_text(".money")
        assert callee.locator(".money").is_hidden()
        told = hang_up(caller)
        assert receipt(callee)["cost"] is None
        talked_s = sides[0].times_s("hang_up")[0] - started_s(*sides)
        for said in sides:
            # None is said before charging begins, and from then on one each second.
            assert abs(len(said.times_s("beat")) - talked_s) <= 2
    seconds = told["call"]["seconds"]
    # The second that has begun when somebody hangs up is not charged.
    assert abs(seconds + 0.5 - talked_s) <= 1
    assert told["reason"] == "hung-up"
    assert amount(told["cost"]) == seconds
    (record,) = records_of(node, link["call_id"])
    assert (record["kind"], record["seconds"]) == ("voice", seconds)
    assert amount(record["cost"]) == seconds
    (stated,) = statement(node, "user:alice")
    (line,) = [
        one for one in stated["lines"] if (one["session"] or {}).get("name") == link["call_id"]
    ]
    assert (line["id"], line["session"]["seconds"]) == (record["id"], seconds)
    assert amount(line["amount"]) == -seconds
    assert amount(stated["closing"]) == amount(told["balance"]) == 1000 - seconds
    listed = listed_call(node, "user:alice", link["call_id"])
    assert (listed["status"], listed["seconds"]) == ("ended", seconds)
    assert amount(listed["cost"]) == seconds


def test_a_direct_call_is_cut_when_the_money_is_used_up(
    node: RunningNode, chromium: Browser
) -> None:
    # There is a minute's worth when the call is made, and a tenth of it when it is answered.
    open_account(node, "user:carol", str(60 + SECONDS_LEFT))
    with people(chromium, 2) as (caller, callee):
        link = call_link(node, "user:carol", "user:dave")
        node.command("account", "transfer", "user:carol", "user:alice", "60")
        begin_call(caller, callee, link)
        told = receipt(caller)
        assert receipt(callee)["cost"] is None
        for page in (caller, callee):
            assert page.inner_text(".over h1") == "The money is used up"
            # Nothing but the pages themselves ends media that flows past the relays.
            assert page.evaluate("() => montana.meeting.people.size") == 0
    assert told["reason"] == "no-money"
    assert told["call"]["seconds"] == amount(told["cost"]) == SECONDS_LEFT
    assert amount(told["balance"]) == 0
    (record,) = records_of(node, link["call_id"])
    assert record["seconds"] == amount(record["cost"]) == SECONDS_LEFT


def test_silence_past_the_holding_time_is_not_charged(
    node: RunningNode, silent_call: SilentCall
) -> None:
    told = receipt(silent_call.caller)
    assert silent_call.caller.inner_text(".over h1") == "Nothing came through any more"
    assert told["reason"] == "silence"
    seconds = told["call"]["seconds"]
    told_of_s = silent_call.beaten_s - silent_call.started_s
    assert BEATS_BEFORE_SILENCE - 1 <= seconds <= told_of_s + HOLDING_S + 1
    (record,) = records_of(node, silent_call.id)
    assert (record["seconds"], amount(record["cost"])) == (seconds, seconds)
    (stated,) = statement(node, "user:erin")
    assert amount(stated["closing"]) == amount(told["balance"]) == 1000 - seconds
