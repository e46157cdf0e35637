"""The check page in Chromium: green through a node and through coturn, red with what is wrong."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import browser, take_picture
from tests.support.node import RunningNode, running_node, write_config
from tests.support.programs import background, need_program

TIMEOUT_MS = 40_000
OVER = "html:is([data-verdict=pass],[data-verdict=fail])"


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
    assert page.locator("#plot-bitrate polyline").count() == 1
    take_picture(page, "check-green")


def test_it_speaks_russian_on_a_dark_phone(node: RunningNode, chromium: Browser) -> None:
    context = chromium.new_context(
        viewport={"width": 390, "height": 844}, locale="ru-RU", color_scheme="dark"
    )
    page = context.new_page()
    page.goto(check_link(node))
    assert_green(outcome(page))
    assert page.inner_text("#verdict-title") == "Звонки проходят"
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    take_picture(page, "check-phone-ru-dark")
    page.click("button[data-language=en]")
    assert page.inner_text("#verdict-title") == "Calls get through"
    page.reload()
    assert page.evaluate("() => document.documentElement.lang") == "en"
    context.close()


def test_every_text_is_there_in_both_languages(node: RunningNode, page: Page) -> None:
    page.goto(f"{node.http}/")
    source = page.evaluate("async () => (await fetch('/static/text.js')).text()")
    english, russian = re.split(r"^  ru: \{", source, flags=re.MULTILINE)
    keys = [set(re.findall(r"^    (\w+):", part, re.MULTILINE)) for part in (english, russian)]
    assert keys[0] == keys[1]
    used: set[str] = set()
    for name in ("/check", "/"):
        page.goto(f"{node.http}{name}")
        used |= set(
            page.evaluate(
                "() => [...document.querySelectorAll('[data-text]')].map(e => e.dataset.text)"
            )
        )
    assert used <= keys[0]


@pytest.mark.parametrize(
    ("fragment", "reason"), [("", "link_needed"), ("#nonsense", "link_invalid")]
)
def test_without_a_good_link_it_says_so(
    node: RunningNode, page: Page, fragment: str, reason: str
) -> None:
    page.goto(f"{node.http}/check{fragment}")
    found = outcome(page)
    assert (found["verdict"], found["reason"]) == ("fail", reason)
    assert "montana check link" in page.inner_text("#verdict-advice") or reason != "link_needed"
    take_picture(page, f"check-{reason}")


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
        *("--no-dtls", "--log-file=/dev/null", "--pidfile=/dev/null", "--no-cli"),
    ]
    with background(command):
        time.sleep(1)
        page.goto(f"{node.http}/check")
        found = fill_form(page, f"turn:127.0.0.1:{port}?transport=udp", "test", "test")
    assert_green(found)


def test_development_mode_needs_no_link_and_lan_mode_is_https(chromium: Browser) -> None:
    with running_node(arguments=["--lan"]) as node:
        assert node.http.startswith("https://")
        context = chromium.new_context(ignore_https_errors=True)
        page = context.new_page()
        page.goto(f"{node.http}/check")
        assert_green(outcome(page))
        context.close()
        host, port = re.fullmatch(r"https://(.+):(\d+)", node.http).groups()  # type: ignore[union-attr]
        pem = ssl.get_server_certificate((host.strip("[]"), int(port)))
        assert "BEGIN CERTIFICATE" in pem
