"""What the pages do with the machine that they run on: its speakers, its screen, its notifications,
and the worker that keeps them.

A headless browser is never hidden: `document.visibilityState` is set here, and a wake lock is then
let go of as a browser does it.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route

from relay.web.page_routes import PAGES
from relay.web.static_files import CONTENT_TYPES, static_content, static_names
from tests.support.call_pages import PATIENCE_S, call_browser
from tests.support.node import ROOT, RunningNode, running_node, write_config

TOKEN = "a token of enough letters"
CONFIG = f"""
[billing]
turn = "metered"
[signaling]
rooms = "free"
room_token = "{TOKEN}"
"""
SPY = """() => {
  const sinks = [], locks = [], asked = [];
  window.spied = { sinks, locks, asked };
  const { setSinkId } = HTMLMediaElement.prototype;
  HTMLMediaElement.prototype.setSinkId = async function (id) {
    await setSinkId.call(this, id);
    sinks.push(id);
  };
  const request = navigator.wakeLock.request.bind(navigator.wakeLock);
  navigator.wakeLock.request = async (type) => {
    const lock = await request(type);
    locks.push(lock);
    return lock;
  };
  // Headless browsers deny what nobody has granted, without asking.
  let permission = Notification.permission === "granted" ? "granted" : "default";
  Object.defineProperty(Notification, "permission", { get: () => permission });
  Notification.requestPermission = async () => {
    asked.push(navigator.userActivation.isActive);
    permission = "granted";
    return permission;
  };
  let visibility = "visible";
  Object.defineProperty(document, "visibilityState", { get: () => visibility });
  window.setVisibility = async (value) => {
    visibility = value;
    if (value === "hidden") await Promise.all(locks.map((lock) => lock.release()));
    document.dispatchEvent(new Event("visibilitychange"));
  };
}"""
NOTICES = """async () => {
  const registration = await navigator.serviceWorker.ready;
  return (await registration.getNotifications()).map(({ title, body }) => `${title} / ${body}`);
}"""
MARKS = "() => [document.body.dataset.version, document.documentElement.dataset.version]"
OLD: Final = ["old", "old"]
NEW: Final = [None, None]
PACKAGES = ("relay", "billing", "core")
QUIET_LOOKS = 10


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with call_browser() as running:
        yield running


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node(more=CONFIG) as running:
        yield running


@contextmanager
def spied_context(chromium: Browser, *permissions: str) -> Iterator[BrowserContext]:
    """A profile whose pages tell what they ask of the browser, in `window.spied`."""
    context = chromium.new_context(locale="en-GB", permissions=list(permissions))
    context.add_init_script(f"({SPY})()")
    yield context
    context.close()


def until(page: Page, script: str, is_right: Callable[[Any], bool]) -> Any:
    """What the script finds, as soon as that is right."""
    end_s = time.monotonic() + PATIENCE_S
    while not is_right(found := page.evaluate(script)):
        assert time.monotonic() < end_s, (script, found)
        page.wait_for_timeout(50)
    return found


def enter_room(page: Page, node: RunningNode) -> None:
    page.goto(f"{node.http}/")
    page.click("#create")
    page.wait_for_selector(".preview video:not([hidden])")


def go_in(page: Page) -> None:
    page.click("#go")
    page.wait_for_selector("#token-line:visible, html[data-phase=in]")
    if page.locator("#token-line").is_visible():
        page.fill("[name=token]", TOKEN)
        page.click("#go")
    page.wait_for_selector("html[data-phase=in]")


def test_the_speaker_that_was_chosen_plays_and_is_remembered(
    node: RunningNode, chromium: Browser
) -> None:
    with spied_context(chromium) as context, spied_context(chromium) as others:
        page, other = context.new_page(), others.new_page()
        enter_room(page, node)
        picker = page.locator(".pre-join select[data-kind=audiooutput]")
        options = "(select) => [...select.options].map(({ value }) => value)"
        _, first, second = picker.evaluate(options)
        picker.select_option(first)
        go_in(page)
        page.keyboard.press("p")
        other.goto(page.input_value(".invite input"))
        other.wait_for_selector(".preview video:not([hidden])")
        go_in(other)
        playing = "() => [...document.querySelectorAll('audio')].map(({ sinkId }) => sinkId)"
        until(page, playing, lambda found: found == [first])
        assert page.evaluate("() => spied.sinks") == [first]
        until(other, playing, lambda found: found == [""])
        assert other.evaluate("() => spied.sinks") == []

        page.click("[data-tool=devices]")
        chosen = page.locator(".panel select[data-kind=audiooutput]")
        chosen.locator(f"option[value='{second}']").wait_for(state="attached")
        assert chosen.input_value() == first
        chosen.select_option(second)
        until(page, playing, lambda found: found == [second])

        # In another tab, and in the same one when it is loaded anew.
        page.reload()
        until(page, playing, lambda found: found == [second])
        assert page.evaluate("() => spied.sinks") == [second]
        again = context.new_page()
        enter_room(again, node)
        until(
            again,
            "() => document.querySelector('.pre-join select[data-kind=audiooutput]').value",
            lambda found: found == second,
        )


def test_the_screen_stays_on_in_a_call_and_no_longer(node: RunningNode, chromium: Browser) -> None:
    with spied_context(chromium, "screen-wake-lock", "microphone", "camera") as context:
        page = context.new_page()
        locks = "() => spied.locks.map(({ type, released }) => [type, released])"
        enter_room(page, node)
        assert page.evaluate(locks) == []
        go_in(page)
        until(page, locks, lambda found: found == [["screen", False]])
        page.evaluate("() => setVisibility('hidden')")
        assert page.evaluate(locks) == [["screen", True]]
        page.evaluate("() => setVisibility('visible')")
        until(page, locks, lambda found: found == [["screen", True], ["screen", False]])
        # Who looks away and back at once is asked for no lock that nobody lets go of.
        page.evaluate(
            """() => {
              for (let turn = 0; turn < 3; turn += 1)
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
        page.click("[data-tool=hang_up]")
        page.wait_for_selector("[data-view=over]")
        until(page, locks, lambda found: all(released for _, released in found))
        count = len(page.evaluate(locks))
        page.evaluate("() => setVisibility('hidden')")
        page.evaluate("() => setVisibility('visible')")
        page.wait_for_timeout(200)
        assert len(page.evaluate(locks)) == count


def make_account(node: RunningNode, page: Page) -> str:
    page.goto(f"{node.http}/me")
    page.click("#make")
    page.wait_for_selector("html[data-phase=in]")
    return page.inner_text("#address")


def test_a_ring_is_notified_of_while_it_rings(node: RunningNode, chromium: Browser) -> None:
    with spied_context(chromium) as asking:
        page = asking.new_page()
        make_account(node, page)
        assert page.evaluate("() => [Notification.permission, spied.asked]") == ["default", []]
        page.click("#notify")
        # As an answer to a click alone, else browsers refuse for good.
        page.wait_for_selector("#notify:has-text('Notifications are on')")
        assert page.evaluate("() => spied.asked") == [True]
        assert page.locator("#notify").is_disabled()

    with (
        spied_context(chromium, "notifications") as called,
        spied_context(chromium, "microphone", "camera") as calling,
    ):
        callee, caller = called.new_page(), calling.new_page()
        address = make_account(node, callee)
        assert callee.locator("#notify").is_disabled()
        node.command("account", "credit", make_account(node, caller), "500")

        def ring() -> None:
            caller.goto(f"{node.http}/me")
            caller.wait_for_selector("html[data-phase=in]")
            caller.fill("#call-form [name=to]", address)
            caller.click("#call-form [type=submit]")
            callee.wait_for_selector("#rings a", state="attached", timeout=PATIENCE_S * 1000)

        ring()
        assert callee.evaluate(NOTICES) == []
        caller.click("#take-back")
        callee.wait_for_selector("#rings a", state="detached")

        callee.evaluate("() => setVisibility('hidden')")
        ring()
        (notice,) = until(callee, NOTICES, lambda found: len(found) == 1)
        assert notice.endswith("/ Voice")
        assert "key:" in notice
        caller.click("#take-back")
        until(callee, NOTICES, lambda found: found == [])

        ring()
        until(callee, NOTICES, lambda found: len(found) == 1)
        # Who looks at the page sees it ring there.
        callee.evaluate("() => setVisibility('visible')")
        until(callee, NOTICES, lambda found: found == [])
        assert callee.locator("#rings a").is_visible()


def older_node(folder: Path) -> Path:
    """A checkout of an earlier version, whose pages and modules say so."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    static = folder / "relay/web/static"
    index = (static / "index.html").read_text()
    assert index.count("<body") == 1
    (static / "index.html").write_text(index.replace("<body", '<body data-version="old"'))
    with (static / "page.js").open("a") as module:
        module.write('\ndocument.documentElement.dataset.version = "old";\n')
    return folder


@contextmanager
def failing_server(port: int, is_reached: Callable[[str], bool]) -> Iterator[tuple[str, list[str]]]:
    """Today's pages over a network by which not everything comes: where, and the paths that were
    asked for. A port of 0 is any."""
    names = static_names()
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            asked.append(path)
            name = PAGES.get(path) or path.rpartition("/")[2]
            if not is_reached(path) or name not in names:
                self.close_connection = True
                return
            body = static_content(name)
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPES[Path(name).suffix])
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-cache")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        serving.join()


def begin_to_load(chromium: Browser, url: str) -> tuple[Page, Route]:
    """A page that has all but one of its modules, and the request for that one."""
    page = chromium.new_context(locale="en-GB", service_workers="block").new_page()
    held: list[Route] = []
    page.route("**/static/*/page.js", lambda route: held.append(route), times=1)
    coming: set[str] = set()

    def asked(request: Request) -> None:
        coming.add(request.url)

    def came(request: Request) -> None:
        coming.discard(request.url)

    page.on("request", asked)
    page.on("requestfinished", came)
    page.goto(url, wait_until="commit")
    end_s = time.monotonic() + PATIENCE_S
    quiet = 0
    # Whoever has come has asked for its own modules: nothing else is under way, and stays so.
    while quiet < QUIET_LOOKS:
        assert time.monotonic() < end_s, coming
        page.wait_for_timeout(20)
        quiet = quiet + 1 if held and coming == {held[0].request.url} else 0
    return page, held[0]


def test_a_page_whose_scripts_do_not_come_is_loaded_anew_once(chromium: Browser) -> None:
    page = chromium.new_context(service_workers="block").new_page()
    with failing_server(0, lambda path: path in ("/", "/load_anew.js")) as (url, asked):
        page.goto(f"{url}/")
        # Each time it asks whether the node is there at all.
        end_s = time.monotonic() + PATIENCE_S
        while asked.count("/") < 4:
            assert time.monotonic() < end_s, asked
            page.wait_for_timeout(20)
        assert page.evaluate("() => fetch('/load_anew.js').then(({ ok }) => ok)")
        assert asked.count("/") == 4
    page.context.close()


def test_a_newer_version_takes_the_place_of_the_pages_whole(
    chromium: Browser, tmp_path: Path
) -> None:
    caches = "() => caches.keys()"
    old_root = older_node(tmp_path / "old")
    config = write_config(tmp_path)
    context = chromium.new_context(locale="en-GB")
    page = context.new_page()
    with running_node(config=config, variables={"PYTHONPATH": str(old_root)}) as node:
        home = f"{node.http}/"
        page.goto(home)
        until(page, "() => Boolean(navigator.serviceWorker.controller)", bool)
        assert page.evaluate(MARKS) == OLD
        (old_cache,) = page.evaluate(caches)
        # Somebody whose page has not come whole when the node is replaced.
        late, missing = begin_to_load(chromium, home)
    port = urlsplit(home).port
    assert port is not None

    # A page and what it loads are of one version, whatever of the new one comes through.
    with failing_server(port, lambda path: path == "/"):
        page.goto(home)
        assert page.evaluate(MARKS) == NEW
    with failing_server(port, lambda path: path.startswith("/static/")):
        page.goto(home)
        assert page.evaluate(MARKS) == OLD
    assert page.evaluate(caches) == [old_cache]

    text = config.read_text()
    config.write_text(
        text.replace('[http]\nlisten = "127.0.0.1:0"', f'[http]\nlisten = "127.0.0.1:{port}"')
    )
    with running_node(config=config) as node:
        assert f"{node.http}/" == home
        missing.continue_()
        late.wait_for_selector("body:not([data-version]) #create")
        assert late.evaluate(MARKS) == NEW
        late.context.close()
        page.goto(home)
        assert page.evaluate(MARKS) == NEW
        until(page, caches, lambda found: len(found) == 1 and found != [old_cache])
        different = page.evaluate(
            """async () => {
              const [name] = await caches.keys();
              const cache = await caches.open(name);
              const different = [];
              for (const request of await cache.keys()) {
                const kept = await (await cache.match(request)).text();
                const served = await (await fetch(request.url, { cache: "no-store" })).text();
                if (kept !== served) different.push(request.url);
              }
              return different;
            }"""
        )
        assert different == []
    page.goto(home)
    assert page.evaluate(MARKS) == NEW
    assert page.inner_text("#create") == "Create a room"
    context.close()
