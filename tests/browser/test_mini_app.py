"""The pages of calls and accounts as Mini Apps: in a frame of Telegram's web client, which a page
of its origin stands for here, and by themselves as its apps show them."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlencode

import pytest
import trio
from playwright.sync_api import BrowserContext, Error, Frame, Page, Route

from core.api.bridge_messages import CallStartRequest, effect_id
from core.api.client import connect
from core.api.messages import CallLinkReply
from tests.support.browser import browser
from tests.support.call_pages import AWAKE, FLAGS, PATIENCE_S, amount, records_of, verify
from tests.support.node import RunningNode
from tests.support.telegram_node import PUBLIC_URL, telegram_node
from tests.support.telegram_user import init_data

# A page from the internet has nothing of this machine's in a frame; the node of the tests is here.
LOCAL = ("--disable-features=LocalNetworkAccessChecks",)
WEB_CLIENT = "https://web.telegram.org"
ANN, BEN = 5_000_000_001, 6
DARK = json.dumps({"bg_color": "#17212b", "text_color": "#f5f5f5"})
# What the pages ask of devices is counted; the apps' own interface is recorded.
WATCHED = """
(() => {
  window.asked = [];
  const { mediaDevices } = navigator;
  if (!mediaDevices) return;
  const real = mediaDevices.getUserMedia.bind(mediaDevices);
  mediaDevices.getUserMedia = (wanted) => {
    window.asked.push(Object.keys(wanted).sort().join(" "));
    return real(wanted);
  };
})();
"""
APP = """
window.told = [];
window.TelegramWebviewProxy = {
  postEvent: (type, data) => window.told.push([type, JSON.parse(data)]),
};
"""


def start_call(node: RunningNode, kind: Any = "voice") -> CallLinkReply:
    """As the Telegram bridge does on /call."""

    async def ask() -> CallLinkReply:
        async with connect(node.socket, software="a bridge of the tests") as client:
            reply = await client.request(
                CallStartRequest(f"tg:{ANN}", f"tg:{BEN}", kind, effect_id("test", "1"))
            )
        assert isinstance(reply, CallLinkReply)
        return reply

    return trio.run(ask)


def fragment(user: int, **more: str) -> str:
    """What Telegram's clients write behind #."""
    return urlencode(
        {
            "tgWebAppData": init_data(user, int(time.time())),
            "tgWebAppVersion": "9.1",
            "tgWebAppPlatform": "weba",
            "tgWebAppThemeParams": DARK,
            **more,
        }
    )


def framed(context: BrowserContext, url: str, origin: str = WEB_CLIENT) -> tuple[Page, Frame]:
    """A page of `origin` that has `url` in a frame, as the web client has Mini Apps."""
    page_html = f"""<!doctype html><title>client</title>
        <iframe allow="camera; microphone; autoplay; display-capture; clipboard-write"
          width="420" height="800"></iframe>
        <script>
          window.told = [];
          addEventListener("message", ({{ origin, data }}) =>
            told.push([origin, JSON.parse(data)]));
          document.querySelector("iframe").src = {json.dumps(url)};
        </script>"""

    def serve(route: Route) -> None:
        route.fulfill(body=page_html, content_type="text/html")

    context.route(f"{origin}/**", serve)
    page = context.new_page()
    page.goto(f"{origin}/a/")
    element = page.wait_for_selector("iframe")
    assert element is not None
    frame = element.content_frame()
    assert frame is not None
    return page, frame


def wait_for(where: Page | Frame, script: str) -> Any:
    """Wait until a script gives something that is true; what it gives."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            found = where.evaluate(script)
        except Error:
            found = None  # The document is another by now.
        if found:
            return found
        assert time.monotonic() < end_s, (script, where.url.partition("#")[0])
        where.wait_for_timeout(50)


def wait_for_phase(where: Page | Frame, phase: str) -> None:
    wait_for(where, f"() => document.documentElement.dataset.phase === '{phase}'")


def wait_connected(where: Page | Frame) -> None:
    wait_for(where, "() => window.montana?.meeting.state.peers[0]?.connection === 'connected'")


def told(page: Page) -> list[Any]:
    found: list[Any] = page.evaluate("() => window.told")
    return found


@pytest.mark.parametrize("kind", ["voice", "video"])
def test_two_mini_apps_talk_one_in_a_frame_and_one_in_an_app(kind: str) -> None:
    with telegram_node((ANN, BEN)) as node, browser(*FLAGS, *AWAKE, *LOCAL) as chromium:
        link = start_call(node, kind)
        contexts = [chromium.new_context(locale="en-GB") for _ in range(2)]
        for context in contexts:
            context.add_init_script(WATCHED)
        ann_url = f"{node.http}/call?id={link.call_id}#{fragment(ANN)}"
        client, ann = framed(contexts[0], ann_url)
        wait_for_phase(ann, "ringing")
        events = [event for origin, event in told(client) if origin == node.http]
        assert [event["eventType"] for event in events] == ["web_app_ready", "web_app_expand"]
        # In a group the call's id comes by startapp.
        contexts[1].add_init_script(APP)
        ben = contexts[1].new_page()
        ben.goto(f"{node.http}/call#{fragment(BEN, tgWebAppStartParam=link.call_id)}")
        wait_for_phase(ben, "ringing")
        assert [event for event, _ in told(ben)] == ["web_app_ready", "web_app_expand"]
        for where in (ann, ben):
            assert where.evaluate("() => document.documentElement.dataset.theme") == "dark"
            assert where.evaluate("() => location.hash") == "", "nobody else is to read it"
            assert not where.is_visible("#theme")
        ben.click("#answer-video" if kind == "video" else "#answer")
        for where in (ann, ben):
            wait_connected(where)
            # Telegram's WebViews ask their user each time.
            wanted = "audio video" if kind == "video" else "audio"
            assert where.evaluate("() => window.asked") == [wanted]
            videos = where.evaluate(
                "() => Array.from(document.querySelectorAll('video'), (one) => one.playsInline)"
            )
            assert all(videos)
        client.evaluate(
            """() => document.querySelector("iframe").contentWindow.postMessage(JSON.stringify({
              eventType: "theme_changed", eventData: { theme_params: { bg_color: "#ffffff" } } }),
              "*")"""
        )
        wait_for(ann, "() => document.documentElement.dataset.theme === 'light'")
        wait_for(ann, "() => montana.meeting.state.call.seconds > 1")
        ben.click("[data-tool=hang_up]")
        for where in (ann, ben):
            where.wait_for_selector(".receipt", timeout=PATIENCE_S * 1000)
        receipt = ann.evaluate("() => montana.meeting.state.receipt")
        charged = [amount(one["cost"]) for one in records_of(node, link.call_id)]
        assert amount(receipt["cost"]) == sum(charged) > 0
        for where, heard in ((ann, client), (ben, ben)):
            where.click(".over .acts button")
            end_s = time.monotonic() + PATIENCE_S
            while "web_app_close" not in str(told(heard)):
                assert time.monotonic() < end_s
                heard.wait_for_timeout(50)
        for context in contexts:
            context.close()
        verify(node)


def test_a_mini_app_goes_on_in_the_browser_and_after_a_reload() -> None:
    with telegram_node((ANN, BEN)) as node, browser(*FLAGS, *AWAKE, *LOCAL) as chromium:
        link = start_call(node)
        context = chromium.new_context(locale="en-GB")
        context.add_init_script(APP)
        page = context.new_page()
        page.goto(f"{node.http}/call?id={link.call_id}#{fragment(ANN)}")
        wait_for_phase(page, "ringing")
        page.reload()
        wait_for_phase(page, "ringing")
        kept = page.evaluate("() => JSON.stringify({ ...localStorage })")
        assert "hash" not in kept
        assert "tgWebAppData" not in kept
        page.click("#browser")
        opened = [data["url"] for event, data in told(page) if event == "web_app_open_link"]
        assert opened == [link.caller_url.replace(PUBLIC_URL, node.http)]
        other = chromium.new_context(locale="en-GB").new_page()
        other.goto(opened[0])
        wait_for_phase(other, "ringing")
        wait_for_phase(page, "over")


def test_what_is_forged_aged_or_doubled_opens_nothing() -> None:
    with telegram_node((ANN, BEN)) as node, browser(*FLAGS, *AWAKE, *LOCAL) as chromium:
        link = start_call(node)
        page = chromium.new_context(locale="ru-RU").new_page()
        now_s = int(time.time())
        good = init_data(BEN, now_s)
        for data, words in (
            (good.replace("Ann", "Eve"), "подпись"),
            (init_data(BEN, now_s - 3_700), "слишком давно"),
            (f"{good}&user=%7B%22id%22%3A{ANN}%7D", "подпись"),
            (init_data(7, now_s), "Ссылка"),
        ):
            page.goto("about:blank")
            told = urlencode({"tgWebAppData": data, "tgWebAppPlatform": "android"})
            page.goto(f"{node.http}/call?id={link.call_id}#{told}")
            page.wait_for_selector("#problem-title:not(:empty)", state="visible")
            assert words in page.inner_text("#problem-title")


def test_an_account_as_a_mini_app_calls_and_stays_one() -> None:
    with telegram_node((ANN, BEN)) as node, browser(*FLAGS, *AWAKE, *LOCAL) as chromium:
        context = chromium.new_context(locale="en-GB")
        client, me = framed(context, f"{node.http}/me#{fragment(ANN)}")
        wait_for_phase(me, "in")
        assert me.inner_text("#address") == f"tg:{ANN}"
        assert "1,000" in me.inner_text("#balance")
        for hidden in ("nav", "#theme", "#key-card"):
            assert not me.is_visible(hidden)
        me.fill("#call-form [name=to]", f"tg:{BEN}")
        me.click("#call-form [type=submit]")
        wait_for(me, "() => location.pathname === '/call'")
        wait_for_phase(me, "ringing")
        assert me.evaluate("() => 'telegram' in document.documentElement.dataset")
        assert me.is_visible("#browser")
        assert client.url.startswith(WEB_CLIENT)


@pytest.mark.parametrize("path", ["/call", "/me", "/"])
def test_nobody_else_has_a_page_in_a_frame(path: str) -> None:
    with telegram_node((ANN, BEN)) as node, browser(*FLAGS, *AWAKE, *LOCAL) as chromium:
        context = chromium.new_context()
        for origin in ("https://telegram.org.example", "https://example.org", node.http):
            if origin != node.http:
                _, frame = framed(context, f"{node.http}{path}", origin)
                frame.wait_for_timeout(500)
                assert not frame.query_selector("main")
        _, frame = framed(context, f"{node.http}{path}")
        if path != "/":
            frame.wait_for_selector("main")
        else:
            frame.wait_for_timeout(500)
            assert not frame.query_selector("main")
