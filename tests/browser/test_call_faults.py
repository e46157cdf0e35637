"""Calls in the browser while something fails: the node, the way to it, a page."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page

from billing.money import J, parse_amount_untrusted
from tests.support.call_pages import call_browser
from tests.support.cut_proxy import cut_proxy
from tests.support.node import RunningNode, running_node, write_config

PATIENCE_S = 60
MONEY = 1_000
AWAY = ".banner:has-text('The connection to the node is lost')"
OVER = "[data-view=over]"
BEGUN_S = 2
"""A second is charged whole that has begun, in each of the two segments that a kill makes."""
HELD_S = 10
"""For so long one side's media alone is charged."""
PACKET_S = 0.02
"""Of sound that each packet carries (Opus, RFC 7587 section 4.2, as Chromium sends it)."""
AWAY_S = 8
"""A node that is killed is started again after that."""
PREPARED = """() => {
  window.flow = [];
  let before = 0;
  window.sampler = setInterval(async () => {
    let count = 0;
    for (const { peer } of montana.meeting.people.values()) {
      for (const one of (await peer.pc.getStats()).values()) {
        if (one.type === "inbound-rtp") count += one.packetsReceived;
      }
    }
    const packets = count < before ? count : count - before;
    flow.push({ at_ms: Date.now(), packets, flows: packets > 0 });
    before = count;
  }, 200);
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with call_browser() as running:
        yield running


class Call(NamedTuple):
    """A call of two pages."""

    id: str
    caller: Page
    callee: Page

    @property
    def pages(self) -> tuple[Page, Page]:
        return self.caller, self.callee


def config_on_fixed_ports(folder: Path) -> Path:
    """A node's that is found at the same place when it is started again."""
    folder.mkdir()
    listen = [f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"]
    path = write_config(
        folder,
        turn={"listen": json.dumps(listen), "relay_addresses": '["127.0.0.1"]'},
        more='[signaling]\nrooms = "host"\n',
    )
    text = path.read_text().replace(
        '[http]\nlisten = "127.0.0.1:0"',
        f'[http]\nlisten = "127.0.0.1:{free_port(socket.SOCK_STREAM)}"',
    )
    path.write_text(text)
    return path


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def no_page_errors(pages: list[Page]) -> Iterator[None]:
    """What no page may have: an error that nobody has caught."""
    errors: list[str] = []
    for page in pages:
        page.on("pageerror", lambda error: errors.append(str(error)))
    yield
    assert not errors


def open_page(chromium: Browser) -> Page:
    return chromium.new_context(locale="en-GB").new_page()


def begin_call(node: RunningNode, chromium: Browser, name: str, url: str | None = None) -> Call:
    """A call of which both pages hear the other; the caller has `MONEY`."""
    caller, callee = f"user:{name}", f"user:{name}-friend"
    node.command("account", "create", caller)
    node.command("account", "credit", caller, str(MONEY))
    node.command("account", "create", callee)
    printed = node.command(
        "call", "link", "--from", caller, "--to", callee, "--kind", "voice", "--json"
    )
    link = json.loads(printed)
    call = Call(link["call_id"], open_page(chromium), open_page(chromium))
    for page, side in zip(call.pages, ("caller_url", "callee_url"), strict=True):
        page.goto(link[side].replace(node.http, url or node.http))
        page.wait_for_selector("html[data-phase=ringing]")
        # Before anything flows: a page that is busy begins to look seconds after it is asked to.
        page.evaluate(PREPARED)
    call.callee.click("#answer")
    for page in call.pages:
        until(page, "state.phase === 'in' && state.peers[0]?.connection === 'connected'")
    until(call.caller, "state.call.seconds >= 2")
    for page in call.pages:
        until_media_flows(page)
    return call


def until(page: Page, condition: str) -> None:
    """Wait until `condition` is true of the meeting's `state`."""
    script = f"() => {{ const {{ state }} = montana.meeting; return Boolean({condition}); }}"
    end_s = time.monotonic() + PATIENCE_S
    while not page.evaluate(script):
        assert time.monotonic() < end_s, (condition, look(page))
        page.wait_for_timeout(50)


def look(page: Page) -> Any:
    return page.evaluate(
        """() => {
          const { phase, online, over, failure, peers, call } = montana.meeting.state;
          const connections = peers.map(({ connection, away }) => [connection, away]);
          return { phase, online, over, failure, connections, call };
        }"""
    )


def until_media_flows(page: Page, since_ms: float = 0) -> float:
    """Wait for media that comes in after that time; when it did."""
    return _until_flow(page, "flows", since_ms)


def until_media_stops(page: Page, since_ms: float = 0) -> float:
    return _until_flow(page, "!flows", since_ms)


def _until_flow(page: Page, condition: str, since_ms: float) -> float:
    script = f"""(since_ms) =>
      flow.find(({{ at_ms, flows }}) => at_ms > since_ms && ({condition}))?.at_ms ?? null"""
    end_s = time.monotonic() + PATIENCE_S
    while (found := page.evaluate(script, since_ms)) is None:
        assert time.monotonic() < end_s, (condition, look(page))
        page.wait_for_timeout(50)
    return float(found)


def now_ms(page: Page) -> float:
    return float(page.evaluate("() => Date.now()"))


def flowed_s(page: Page) -> float:
    """How much sound has come in.

    By the packets, not by the times at which they came: on a busy machine they come late and many
    at once, and a page that counts the moments in which some came finds less than has flowed."""
    packets: int = page.evaluate("() => flow.reduce((sum, { packets }) => sum + packets, 0)")
    return packets * PACKET_S


def longest_silence_s(page: Page) -> float:
    """Of media that had begun to come in, until now."""
    samples: list[dict[str, Any]] = page.evaluate("() => flow")
    times = [one["at_ms"] for one in samples if one["flows"]]
    ends = [*times[1:], samples[-1]["at_ms"]]
    return max(end - begin for begin, end in zip(times, ends, strict=True)) / 1_000


def record_of(node: RunningNode, name: str) -> dict[str, Any]:
    """Of the one call that this caller has made."""
    reply = json.loads(node.command("call", "list", "--account", f"user:{name}", "--json"))
    (found,) = reply["calls"]
    return dict(found)


def charged_s(node: RunningNode, folder: Path, call: str) -> int:
    """The seconds of a call by the ledger's records."""
    path = folder / f"records-{call}-{time.monotonic_ns()}.jsonl"
    node.command("ledger", "export", "--format", "jsonl", "--output", str(path))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return sum(one["seconds"] for one in records if one["name"] == call)


def account_of(node: RunningNode, name: str) -> dict[str, Any]:
    return dict(json.loads(node.command("account", "show", f"user:{name}", "--json")))


def is_held(node: RunningNode, name: str) -> bool:
    """Whether any of an account's money is held for a call."""
    shown = account_of(node, name)
    return bool(shown["available"] != shown["balance"])


def paid(node: RunningNode, name: str) -> int:
    assert not is_held(node, name)
    return MONEY * J.unit - parse_amount_untrusted(account_of(node, name)["balance"])


def assert_charged_for_what_flowed(
    node: RunningNode, folder: Path, name: str, call: Call, flowed: float, held_s: int = 0
) -> None:
    """The ledger's records of the call, its own record and the account say the same, and it is
    what has flowed."""
    seconds = charged_s(node, folder, call.id)
    record = record_of(node, name)
    assert record["status"] == "ended"
    assert (record["seconds"], paid(node, name)) == (seconds, seconds * J.unit)
    # Before both are known to be connected it is free.
    assert 0 < seconds <= flowed + BEGUN_S + held_s
    node.command("ledger", "verify")


def test_a_node_that_is_killed_and_started_again(
    chromium: Browser, tmp_path: Path, record_property: Any
) -> None:
    config = config_on_fixed_ports(tmp_path / "node")
    with running_node(config=config) as node:
        call = begin_call(node, chromium, "alice")
        node.kill()
        for page in call.pages:
            page.wait_for_selector(AWAY)
            until_media_stops(page, now_ms(page))
        # So long that charging for it would show.
        call.caller.wait_for_timeout(AWAY_S * 1_000)
    with running_node(config=config) as node, no_page_errors([*call.pages]):
        started_ms = now_ms(call.caller)
        before = call.caller.evaluate("() => montana.meeting.state.call.seconds")
        for page in call.pages:
            until(page, "state.online")
            back_ms = until_media_flows(page, started_ms)
            record_property("media_back_s", (back_ms - started_ms) / 1_000)
            until(page, "state.peers[0].connection === 'connected'")
            assert page.locator(AWAY).count() == 0
        until(call.caller, f"state.call.seconds >= {before} + 3")
        looked_s = time.monotonic()
        flowed = min(flowed_s(page) for page in call.pages)
        call.callee.click("[data-tool=hang_up]")
        for page in call.pages:
            page.wait_for_selector(OVER)
        flowed += time.monotonic() - looked_s
        until(call.caller, "state.receipt")
        assert_charged_for_what_flowed(node, tmp_path, "alice", call, flowed)
    close(call)


def test_a_node_that_comes_back_too_late(chromium: Browser, tmp_path: Path) -> None:
    config = config_on_fixed_ports(tmp_path / "node")
    with running_node(config=config) as node:
        call = begin_call(node, chromium, "alice")
        node.kill()
        for page in call.pages:
            page.wait_for_selector(AWAY)
    with no_page_errors([*call.pages]):
        for page in call.pages:
            page.wait_for_selector(OVER, timeout=PATIENCE_S * 1_000)
            assert page.inner_text(".over h1") == "The connection is lost"
        flowed = min(flowed_s(page) for page in call.pages)
        with running_node(config=config) as node:
            end_s = time.monotonic() + PATIENCE_S
            # Whoever sees that it is over may see its money held until the next second.
            while record_of(node, "alice")["status"] == "active" or is_held(node, "alice"):
                assert time.monotonic() < end_s
                call.caller.wait_for_timeout(200)
            assert_charged_for_what_flowed(node, tmp_path, "alice", call, flowed)
    close(call)


def test_the_way_to_the_node_is_cut(chromium: Browser, tmp_path: Path) -> None:
    cuts_s = (5, 20, 40)
    with ExitStack() as stack:
        node = stack.enter_context(running_node(more='[signaling]\nrooms = "host"\n'))
        proxies = [stack.enter_context(cut_proxy(node.http)) for _ in range(len(cuts_s) + 1)]
        calls = [
            begin_call(node, chromium, f"caller-{number}", proxy.url)
            for number, proxy in enumerate(proxies)
        ]
        *staying, leaving = calls
        stack.enter_context(no_page_errors([page for call in calls for page in call.pages]))
        for proxy in proxies:
            proxy.cut()
        begun_s = time.monotonic()
        for call in calls:
            for page in call.pages:
                page.wait_for_selector(AWAY)
        # Who has gone does not come back within the time in which one may.
        flowed = flowed_s(leaving.callee)
        leaving.callee.context.close()
        ways = [*zip(cuts_s, proxies, strict=False), (cuts_s[1], proxies[-1])]
        for cut_s, proxy in sorted(ways, key=lambda way: way[0]):
            leaving.caller.wait_for_timeout(max(0, begun_s + cut_s - time.monotonic()) * 1_000)
            proxy.mend()
        for number, call in enumerate(staying):
            for page in call.pages:
                until(page, "state.online && !state.peers[0].away")
                assert page.locator(AWAY).count() == 0
            seconds = call.caller.evaluate("montana.meeting.state.call.seconds")
            until(call.caller, f"state.call.seconds >= {seconds} + 2")
            for page in call.pages:
                assert longest_silence_s(page) < HELD_S, "media has stopped meanwhile"
                assert look(page)["connections"] == [["connected", False]]
            looked_s = time.monotonic()
            flowed_here = min(flowed_s(page) for page in call.pages)
            call.caller.click("[data-tool=hang_up]")
            for page in call.pages:
                page.wait_for_selector(OVER)
            # It has flowed on until then.
            flowed_here += time.monotonic() - looked_s
            until(call.caller, "state.receipt")
            assert_charged_for_what_flowed(node, tmp_path, f"caller-{number}", call, flowed_here)
            close(call)
        leaving.caller.wait_for_selector(OVER, timeout=PATIENCE_S * 1_000)
        assert leaving.caller.inner_text(".over h1") == "Nothing came through any more"
        assert_charged_for_what_flowed(
            node, tmp_path, f"caller-{len(cuts_s)}", leaving, flowed, HELD_S
        )
        leaving.caller.context.close()


@pytest.mark.parametrize("reloading", [0, 1])
def test_a_page_is_loaded_anew(chromium: Browser, tmp_path: Path, reloading: int) -> None:
    with running_node(more='[signaling]\nrooms = "host"\n') as node:
        call = begin_call(node, chromium, "alice")
        reloaded, other = call.pages[reloading], call.pages[1 - reloading]
        with no_page_errors([*call.pages]):
            flowed_before = flowed_s(reloaded)
            reloaded.reload()
            reloaded.wait_for_selector("html[data-phase=in]")
            since_ms = now_ms(reloaded)
            reloaded.evaluate(PREPARED)
            for page in call.pages:
                until_media_flows(page, since_ms)
                until(page, "state.peers.length === 1 && state.peers[0].connection === 'connected'")
                until(page, "!state.peers[0].away && state.peers[0].verification")
            seconds = call.caller.evaluate("montana.meeting.state.call.seconds")
            until(call.caller, f"state.call.seconds >= {seconds} + 2")
            status = node.status()
            assert (status["sessions"], status["signaling"]["calls"]) == (1, 1)
            looked_s = time.monotonic()
            flowed = max(flowed_s(other), flowed_before + flowed_s(reloaded))
            other.click("[data-tool=hang_up]")
            for page in call.pages:
                page.wait_for_selector(OVER)
            flowed += time.monotonic() - looked_s
            until(call.caller, "state.receipt")
            assert_charged_for_what_flowed(node, tmp_path, "alice", call, flowed, HELD_S)
    close(call)


def close(call: Call) -> None:
    for page in call.pages:
        page.context.close()
