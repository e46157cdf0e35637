"""The check page in Chromium: green through a node and through coturn, red with what is wrong."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route

from bench.turn_client import wait_until_answering
from core.clock import SystemClock
from core.config_file import load
from core.identity import load_or_create
from core.stun.address import Address
from relay.web.check import KEY_LABEL, make_link
from relay.web.static_files import static_path
from tests.support.browser import ARGUMENTS, browser, take_picture
from tests.support.node import ROOT, START_TIMEOUT_S, RunningNode, running_node, write_config
from tests.support.programs import background, need_program

TIMEOUT_MS = 40_000
SHORT_MS = 2_000
"""Of measuring, where it is not the figures that matter."""
OVER = "html:is([data-verdict=pass],[data-verdict=fail],[data-verdict=untested])"
CHANGED_SEND = """
const send = RTCDataChannel.prototype.send;
RTCDataChannel.prototype.send = function (data) {
  const channel = this;
  %s
};
"""
# After the seventeenth of twenty samples all falls silent, and the counters stand still.
SILENCE = """
const isSilent = () => (window.montanaCheck?.samples.length ?? 0) >= 17;
const send = RTCDataChannel.prototype.send;
RTCDataChannel.prototype.send = function (data) {
  if (!isSilent()) send.call(this, data);
};
const getStats = RTCPeerConnection.prototype.getStats;
const kept = new WeakMap();
RTCPeerConnection.prototype.getStats = async function () {
  if (!isSilent() || !kept.has(this)) kept.set(this, await getStats.call(this));
  return kept.get(this);
};
"""
# As they do where the browser begins to use another pair of candidates.
COUNTERS_THAT_FALL_BACK = """
const getStats = RTCPeerConnection.prototype.getStats;
RTCPeerConnection.prototype.getStats = async function () {
  const fallen = ({ bytesReceived, bytesSent }) => (
    { bytesReceived: bytesReceived % 200000, bytesSent: bytesSent % 200000 });
  return new Map([...await getStats.call(this)].map(([id, entry]) => (
    [id, entry.type === "candidate-pair" ? { ...entry, ...fallen(entry) } : entry])));
};
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node() as running:
        yield running


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1100, "height": 900}, locale="en-GB")
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "console",
        lambda message: (
            problems.append(message.text)
            if "Content Security Policy" in message.text or "Trusted" in message.text
            else None
        ),
    )
    yield opened
    context.close()
    assert not problems


def check_link(node: RunningNode) -> str:
    return node.command("check", "link").strip().split()[-1]


def outcome(page: Page) -> dict[str, Any]:
    page.wait_for_selector(OVER, timeout=TIMEOUT_MS)
    found: dict[str, Any] = page.evaluate("() => window.montanaCheck")
    return found


def fill_form(page: Page, url: str, username: str, password: str) -> dict[str, Any]:
    outcome(page)
    page.check("input[value=other]")
    page.fill("input[name=url]", url)
    page.fill("input[name=username]", username)
    page.fill("input[name=password]", password)
    page.click("#go")
    page.wait_for_selector("html[data-verdict=running]", timeout=TIMEOUT_MS)
    return outcome(page)


def assert_green(found: dict[str, Any]) -> None:
    assert found["verdict"] == "pass", found
    result = found["result"]
    assert {candidate["kind"] for candidate in found["candidates"]} == {"relay"}
    assert {candidate["side"] for candidate in found["candidates"]} == {"a", "b"}
    assert result["video_packets"] > 0
    assert result["audio_packets"] > 0
    assert result["received_kbps"] > 50
    assert 0 < result["gather_ms"] <= result["connect_ms"]
    assert result["round_trip_ms"] > 0


def test_a_link_makes_it_green(node: RunningNode, page: Page) -> None:
    page.goto(check_link(node))
    assert_green(outcome(page))
    assert "Calls get through" in page.inner_text("#verdict-title")
    assert page.inner_text("#verdict-detail") == "Audio, video and data passed through the relay."
    for name, legend in (
        ("plot-round-trip", "Round trip, ms"),
        ("plot-loss", "Lost, %"),
        ("plot-bitrate", "Received, kbit/s"),
    ):
        assert page.locator(f"#{name} polyline").count() >= 1
        assert page.inner_text(f"#{name}-name") == legend
    take_picture(page, "check-green")


def test_loss_is_a_curve_and_a_figure(node: RunningNode, page: Page) -> None:
    page.add_init_script(CHANGED_SEND % "if (Number(data) % 2) send.call(channel, data);")
    page.goto(check_link(node))
    found = outcome(page)
    assert (found["verdict"], found["reason"]) == ("fail", "lossy")
    assert page.inner_text("#verdict-title") == "Calls get through badly"
    assert any(sample["loss"] for sample in found["samples"])
    curves = page.locator("#plot-loss polyline").evaluate_all(
        "(lines) => lines.flatMap((line) => [...line.points].map((point) => point.y))"
    )
    assert len(set(curves)) > 1
    assert re.fullmatch(r"\d+\.\d\d\s%", page.inner_text("#loss"))
    assert float(page.inner_text("#loss").split()[0]) > 5
    take_picture(page, "check-lossy")


def measure_for(page: Page, duration_ms: int) -> None:
    """Serve the page as it is, but measuring for so long."""
    usual = "const MEASURE_MS = 6000;"
    source = (ROOT / "relay/web/static/probe.js").read_text()
    assert usual in source
    changed = source.replace(usual, f"const MEASURE_MS = {duration_ms};")

    def fulfill(route: Route) -> None:
        route.fulfill(body=changed, content_type="text/javascript")

    page.route("**/static/*/probe.js", fulfill)


def assert_plots_keep_to_their_frames(page: Page) -> None:
    outside = page.locator(".plots svg").evaluate_all(
        """(plots) => plots.flatMap((plot) => {
          const frame = plot.getBoundingClientRect();
          return [...plot.querySelectorAll("polyline, polygon, line")]
            .map((drawn) => drawn.getBoundingClientRect())
            .filter(({ top, bottom, left, right }) => top < frame.top - 1
              || bottom > frame.bottom + 1 || left < frame.left - 1 || right > frame.right + 1);
        })"""
    )
    assert not outside


def assert_broken_off(page: Page) -> dict[str, Any]:
    found = outcome(page)
    assert (found["verdict"], found["reason"]) == ("fail", "broke_off"), found
    result, samples = found["result"], found["samples"]
    assert result["received_kbps"] > 50
    assert result["sent_kbps"] > 50
    assert result["loss"] < 0.05
    assert all(sample["received_kbps"] >= 0 and sample["sent_kbps"] >= 0 for sample in samples)
    # What was never heard of again is no loss.
    assert samples[-1]["loss"] is None
    assert all(sample["loss"] is None or sample["loss"] < 1 for sample in samples)
    assert page.locator(".plots line.end").count() == 3
    assert_plots_keep_to_their_frames(page)
    seconds = max(1, round(found["values"]["after_s"]))
    page.click("button[data-language=en]")
    assert page.inner_text("#verdict-title") == f"The call broke off after {seconds} s"
    assert "until then" in page.inner_text("#verdict-detail")
    assert "no balance left" in page.inner_text("#verdict-advice")
    assert page.locator(".plots text", has_text="broke off").count() == 3
    page.click("button[data-language=ru]")
    assert page.inner_text("#verdict-title") == f"Звонок оборвался через {seconds} с"
    assert "до обрыва" in page.inner_text("#verdict-detail")
    assert "не остаться средств" in page.inner_text("#verdict-advice")
    assert page.locator(".plots text", has_text="обрыв").count() == 3
    return found


def test_a_relay_that_ends_in_the_midst_is_told(node: RunningNode, page: Page) -> None:
    # Long enough for the command, however slow; the page does not wait for all of it.
    measure_for(page, 60_000)
    page.goto(check_link(node))
    page.wait_for_function("() => window.montanaCheck.samples.length >= 10", timeout=TIMEOUT_MS)
    node.command("end", "check")
    found = assert_broken_off(page)
    assert len(found["samples"]) < 200
    take_picture(page, "check-broke-off-ru")
    page.click("button[data-language=en]")
    take_picture(page, "check-broke-off-en")
    # The next call is another one.
    page.unroute("**/static/*/probe.js")
    page.goto("about:blank")
    page.goto(check_link(node))
    assert_green(outcome(page))
    assert page.locator(".plots line.end").count() == 0


def test_a_call_may_break_off_shortly_before_its_end(node: RunningNode, page: Page) -> None:
    page.add_init_script(SILENCE)
    page.goto(check_link(node))
    found = assert_broken_off(page)
    assert len(found["samples"]) > 20
    take_picture(page, "check-broke-off-late")


def test_counters_that_fall_back_start_anew(node: RunningNode, page: Page) -> None:
    page.add_init_script(COUNTERS_THAT_FALL_BACK)
    page.goto(check_link(node))
    found = outcome(page)
    assert_green(found)
    assert all(sample["received_kbps"] >= 0 for sample in found["samples"])
    assert all(sample["sent_kbps"] >= 0 for sample in found["samples"])
    assert_plots_keep_to_their_frames(page)


def test_answers_that_come_late_are_not_lost(node: RunningNode, page: Page) -> None:
    late = "setTimeout(() => channel.readyState === 'open' && send.call(channel, data), 600);"
    page.add_init_script(CHANGED_SEND % late)
    page.goto(check_link(node))
    found = outcome(page)
    assert_green(found)
    assert found["result"]["pings_lost"] == 0
    assert found["result"]["round_trip_ms"] > 1100
    # Nothing was known before the first answer, and nothing is drawn for it.
    assert found["samples"][0]["round_trip_ms"] is None


def test_sound_needs_no_click(node: RunningNode, chromium: Browser) -> None:
    arguments = [argument for argument in ARGUMENTS if not argument.startswith("--autoplay-policy")]
    strict = chromium.browser_type.launch(
        executable_path=need_program("chromium"),
        args=[*arguments, "--autoplay-policy=document-user-activation-required"],
    )
    page = strict.new_page()
    measure_for(page, SHORT_MS)
    page.goto(check_link(node))
    found = outcome(page)
    strict.close()
    assert_green(found)


def test_without_sound_it_does_not_claim_any(node: RunningNode, page: Page) -> None:
    page.add_init_script("delete window.MediaStreamTrackGenerator; delete window.AudioContext;")
    measure_for(page, SHORT_MS)
    page.goto(check_link(node))
    found = outcome(page)
    assert (found["verdict"], found["result"]["audio_packets"]) == ("pass", 0)
    assert page.inner_text("#verdict-detail").startswith("Video and data passed")


def test_sound_that_is_sent_has_to_arrive(node: RunningNode, page: Page) -> None:
    page.add_init_script(
        """
        const getStats = RTCPeerConnection.prototype.getStats;
        RTCPeerConnection.prototype.getStats = async function () {
          const entries = [...await getStats.call(this)];
          return new Map(entries.filter(
            ([, entry]) => entry.type !== "inbound-rtp" || entry.kind !== "audio"));
        };
        """
    )
    measure_for(page, SHORT_MS)
    page.goto(check_link(node))
    found = outcome(page)
    assert (found["verdict"], found["reason"]) == ("fail", "silent")


def test_it_speaks_russian_on_a_dark_phone(node: RunningNode, chromium: Browser) -> None:
    context = chromium.new_context(
        viewport={"width": 390, "height": 844}, locale="ru-RU", color_scheme="dark"
    )
    page = context.new_page()
    measure_for(page, SHORT_MS)
    page.goto(check_link(node))
    assert_green(outcome(page))
    assert page.inner_text("#verdict-title") == "Звонки проходят"
    assert re.fullmatch(r"\d+,\d\d\s%", page.inner_text("#loss"))
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    take_picture(page, "check-phone-ru-dark")
    page.click("button[data-language=en]")
    assert page.inner_text("#verdict-title") == "Calls get through"
    page.reload()
    assert page.evaluate("() => document.documentElement.lang") == "en"
    context.close()


def test_the_table_fits_a_narrow_phone(node: RunningNode, page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    measure_for(page, SHORT_MS)
    page.goto(check_link(node))
    assert_green(outcome(page))
    for language in ("en", "ru"):
        page.click(f"button[data-language={language}]")
        # As long as addresses get.
        page.evaluate(
            """() => {
              for (const row of document.querySelectorAll("#candidates tr")) {
                const address = "2001:db8:1111:2222:3333:4444:5555:6666";
                row.cells[2].textContent = `[${address}]:65535`;
                row.cells[3].textContent =
                  "turns:turn.a-rather-long-name.example.org:5349?transport=tcp";
              }
            }"""
        )
        assert page.evaluate("() => document.documentElement.scrollWidth") == 360
        cells = page.locator("#candidates td").evaluate_all(
            """(cells) => cells.map((cell) => {
              const inside = document.createRange();
              inside.selectNodeContents(cell);
              const { left, right } = inside.getBoundingClientRect();
              return [left, right, cell.scrollWidth - cell.clientWidth];
            })"""
        )
        assert cells
        assert all(left >= 0 and right <= 360 and hidden <= 0 for left, right, hidden in cells)
        take_picture(page, f"check-narrow-phone-{language}")


def test_every_text_is_there_in_both_languages(node: RunningNode, page: Page) -> None:
    page.goto(f"{node.http}/check")
    source = page.evaluate("async (path) => (await fetch(path)).text()", static_path("text.js"))
    english, russian = re.split(r"^  ru: \{", source, flags=re.MULTILINE)
    keys = [set(re.findall(r"^    (\w+):", part, re.MULTILINE)) for part in (english, russian)]
    assert keys[0] == keys[1]
    used = page.evaluate(
        "() => [...document.querySelectorAll('[data-text]')].map(e => e.dataset.text)"
    )
    assert set(used) <= keys[0]


def assert_untested(page: Page, reason: str) -> None:
    found = outcome(page)
    assert (found["verdict"], found["reason"]) == ("untested", reason)
    assert page.inner_text("#verdict-title") == "Nothing has been tested yet"
    assert not page.locator(".findings").first.is_visible()
    take_picture(page, f"check-{reason}")


def test_without_a_link_it_asks_for_one(node: RunningNode, page: Page) -> None:
    page.goto(f"{node.http}/check")
    assert_untested(page, "link_needed")
    assert page.inner_text("#verdict-detail") == "This page needs a link."
    assert page.inner_text("#verdict-advice code") == "montana check link"


def test_a_link_that_is_none_is_told(node: RunningNode, page: Page) -> None:
    page.goto(f"{node.http}/check#nonsense")
    assert_untested(page, "link_invalid")


def test_an_expired_link_is_told(node: RunningNode, page: Page) -> None:
    key = load_or_create(load(node.config).data_dir).derive_secret(KEY_LABEL)
    page.goto(make_link(node.http, key, SystemClock(), ttl_s=-1))
    assert_untested(page, "link_expired")
    assert page.inner_text("#verdict-detail") == "This link has expired."
    assert page.inner_text("#verdict-advice code") == "montana check link"


def test_a_browser_without_webrtc_is_told(node: RunningNode, page: Page) -> None:
    page.add_init_script("delete window.RTCPeerConnection;")
    # Without a link as well: who has none should not fetch one in vain.
    page.goto(f"{node.http}/check")
    assert_untested(page, "no_webrtc")
    assert "no WebRTC" in page.inner_text("#verdict-detail")
    assert "another browser" in page.inner_text("#verdict-advice")


def test_without_scripts_it_says_so(node: RunningNode, chromium: Browser) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{node.http}/check")
    said = page.inner_text("#verdict")
    assert "needs JavaScript" in said
    assert "нужен JavaScript" in said
    assert not page.locator("form").is_visible()
    take_picture(page, "check-no-script")
    context.close()


def test_a_wrong_password_is_named(node: RunningNode, page: Page) -> None:
    page.goto(f"{node.http}/check")
    server = node.turn[0]
    found = fill_form(page, f"turn:{server}?transport=udp", "alice", "wrong")
    assert (found["verdict"], found["reason"]) == ("fail", "credentials")
    assert any(error["code"] == 401 for error in found["errors"])
    take_picture(page, "check-wrong-password")


def test_a_dead_server_is_named(node: RunningNode, page: Page) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        page.goto(f"{node.http}/check")
        url = f"turn:127.0.0.1:{silent.getsockname()[1]}?transport=udp"
        found = fill_form(page, url, "alice", "password")
    assert (found["verdict"], found["reason"]) == ("fail", "unreachable")


def test_a_relay_that_forbids_itself_is_named(page: Page, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    text = config.read_text().replace(
        'allow = ["127.0.0.0/8", "::1/128"]', 'deny = ["127.0.0.0/8", "::1/128"]'
    )
    config.write_text(text)
    with running_node(config=config) as node:
        page.goto(check_link(node))
        found = outcome(page)
    assert (found["verdict"], found["reason"]) == ("fail", "forbidden")


def test_another_turn_server_is_checked(node: RunningNode, page: Page) -> None:
    turnserver = need_program("turnserver")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        turnserver,
        *("-n", "-a", "-u", "test:test", "-r", "coturn.test", "-L", "127.0.0.1"),
        *("-p", str(port), "--allow-loopback-peers", "--cli-password=unused", "--no-tls"),
        *("--no-tcp", "--no-dtls", "--log-file=/dev/null", "--pidfile=/dev/null", "--no-cli"),
    ]
    with background(command):
        wait_until_answering(Address.from_text("127.0.0.1", port), START_TIMEOUT_S)
        measure_for(page, SHORT_MS)
        page.goto(f"{node.http}/check")
        found = fill_form(page, f"turn:127.0.0.1:{port}?transport=udp", "test", "test")
    assert_green(found)
