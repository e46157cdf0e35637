"""The pages of rooms, calls and accounts in Chromium: looked at in both languages, both themes and
at phone size, walked through by keyboard, and judged by axe.

What happens in a meeting is set by the test (fake_meeting.js), so that a page shows what a node
would take minutes to bring about; the node that serves the pages, and all else, is a real one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import zxingcpp
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page

from relay.web.static_files import static_path
from tests.support.browser import FAKE_DEVICES, browser, take_picture
from tests.support.node import RunningNode, running_node

FAKE = (Path(__file__).parent / "fake_meeting.js").read_text()
PEOPLE = (Path(__file__).parent / "people.js").read_text()
SECRET = "0123456789abcdef0123456789abcdef"
CALL = f"/call?id=CALL-ABCDEFGH#{SECRET}"
LOOKS: dict[str, dict[str, Any]] = {
    "light-en": {"locale": "en-GB", "color_scheme": "light"},
    "dark-ru": {"locale": "ru-RU", "color_scheme": "dark"},
    "phone-dark-en": {
        "locale": "en-GB",
        "color_scheme": "dark",
        "viewport": {"width": 390, "height": 844},
    },
    "phone-light-ru": {
        "locale": "ru-RU",
        "color_scheme": "light",
        "viewport": {"width": 390, "height": 844},
    },
}
PANELS = ("chat", "people", "verify", "stats", "devices")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser(*FAKE_DEVICES) as running:
        yield running


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node() as running:
        yield running


def new_page(context: BrowserContext, problems: list[str], *, is_fake: bool = True) -> Page:
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: (
            problems.append(message.text)
            if re.search("Content Security Policy|Trusted|Permissions", message.text)
            else None
        ),
    )
    if is_fake:
        page.route(
            "**/static/*/meeting.js",
            lambda route: route.fulfill(body=FAKE, content_type="text/javascript"),
        )
    return page


@pytest.fixture(params=LOOKS)
def page(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[Page]:
    """A page with one of the looks, whose name is in ``page.look``."""
    context = chromium.new_context(**LOOKS[request.param], service_workers="block")
    problems: list[str] = []
    opened = new_page(context, problems)
    opened.look = request.param  # type: ignore[attr-defined]
    yield opened
    context.close()
    assert not problems


@pytest.fixture
def plain_page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(locale="en-GB", service_workers="block")
    problems: list[str] = []
    yield new_page(context, problems)
    context.close()
    assert not problems


def inspect(page: Page, name: str) -> None:
    """Keep a picture, and have axe find nothing serious in what is shown."""
    look: str = page.look  # type: ignore[attr-defined]
    take_picture(page, f"pages-{name}-{look}")
    found = Axe().run(page).response["violations"]
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not grave, [(one["id"], [part["html"][:160] for part in one["nodes"]]) for one in grave]
    width = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], f"{name} is wider than the screen"


def enter_room(page: Page, node: RunningNode) -> None:
    page.goto(f"{node.http}/")
    page.click("#create")
    page.wait_for_selector(".preview video:not([hidden])")
    page.click("#go")
    page.wait_for_selector("html[data-phase=in]")


def bring_people(page: Page, count: int) -> None:
    page.evaluate(
        f"([count, emoji]) => {{ {PEOPLE} return bringPeople(count, emoji); }}",
        [count, static_path("emoji.js")],
    )


def change(page: Page, script: str) -> None:
    page.evaluate(
        f"() => {{ const {{ meeting }} = montana; const {{ state }} = meeting; {script} }}"
    )


def test_the_room_page_looks_right_until_one_is_in(node: RunningNode, page: Page) -> None:
    page.goto(f"{node.http}/")
    page.wait_for_selector("[data-view=home]")
    inspect(page, "home")
    page.click("#create")
    page.wait_for_selector(".preview video:not([hidden])")
    inspect(page, "before")
    page.click("#go")
    page.wait_for_selector(".stage")
    inspect(page, "alone")
    change(page, "meeting.set({ phase: 'over', over: 'kicked' })")
    page.wait_for_selector("[data-view=over]")
    inspect(page, "over")


def test_a_room_looks_right_with_few_and_many(node: RunningNode, page: Page) -> None:
    enter_room(page, node)
    bring_people(page, 1)
    inspect(page, "pair")
    bring_people(page, 11)
    change(page, "meeting.set({ knocking: [{ id: '000z', name: 'Zoe', away: false }] })")
    assert page.locator(".tile").count() == 12
    inspect(page, "twelve")
    bring_people(page, 3)
    change(
        page,
        "meeting.set({ peers: state.peers.map((peer, index) => index ? peer : "
        "{ ...peer, screen: true, screenStream: peer.cameraStream }) })",
    )
    inspect(page, "screen")
    screen, person = (page.locator(f".tile{kind}").first for kind in (".screen", ":not(.screen)"))
    large, small = screen.bounding_box(), person.bounding_box()
    assert large is not None
    assert small is not None
    assert large["width"] * large["height"] > 4 * small["width"] * small["height"]


@pytest.mark.parametrize("panel", PANELS)
def test_the_panels_look_right(node: RunningNode, page: Page, panel: str) -> None:
    enter_room(page, node)
    bring_people(page, 3)
    page.click(f"[data-tool={panel}]")
    page.wait_for_selector(".panel:not([hidden])")
    inspect(page, f"panel-{panel}")


def test_the_call_page_looks_right(node: RunningNode, page: Page) -> None:
    page.add_init_script("window.fakeRole = 'caller'; window.fakeKind = 'video';")
    page.goto(f"{node.http}{CALL}")
    page.wait_for_selector(".preview video:not([hidden])")
    inspect(page, "calling")
    change(
        page,
        "meeting.set({ phase: 'in', warning: { left_s: 60 }, call: { ...state.call, "
        "status: 'active', seconds: 83, spent: '83', left: '37', left_s: 37 } })",
    )
    bring_people(page, 1)
    assert "37" in page.inner_text(".money")
    inspect(page, "call")
    change(
        page,
        "meeting.set({ phase: 'over', over: 'no-money', receipt: { reason: 'no-money', "
        "cost: '120', balance: '0', call: { id: 'CALL-ABCDEFGH', other: 'user:bob', "
        "outgoing: true, status: 'ended', kind: 'voice', seconds: 120, cost: '120' } } })",
    )
    page.wait_for_selector(".receipt")
    assert "2:00" in page.inner_text(".receipt")
    inspect(page, "receipt")


def test_a_call_that_comes_in_looks_right(node: RunningNode, page: Page) -> None:
    page.goto(f"{node.http}{CALL}")
    page.wait_for_selector("#answer")
    assert "user:alice" in page.inner_text("#ringing-title")
    inspect(page, "called")


def test_the_account_page_looks_right(node: RunningNode, page: Page) -> None:
    page.goto(f"{node.http}/me")
    page.wait_for_selector("[data-view=new]")
    inspect(page, "no-account")
    page.click("#make")
    page.wait_for_selector("[data-view=account]")
    assert re.fullmatch("key:[a-z2-7]{52}", page.inner_text("#address"))
    inspect(page, "account")


def test_every_text_is_there_in_both_languages(node: RunningNode, plain_page: Page) -> None:
    plain_page.goto(f"{node.http}/")
    texts = plain_page.evaluate(
        "async (path) => (await import(path)).TEXTS", static_path("text_calls.js")
    )
    assert set(texts["en"]) == set(texts["ru"])
    for key, english in texts["en"].items():
        places = [set(re.findall(r"\{(\w+)\}", said)) for said in (english, texts["ru"][key])]
        assert places[0] == places[1], key
    shared = plain_page.evaluate(
        "async (path) => (await fetch(path)).text()", static_path("text.js")
    )
    known = set(texts["en"]) | set(re.findall(r"^    (\w+):", shared, re.MULTILINE))
    folder = Path(__file__).parents[2] / "relay" / "web" / "static"
    used: set[str] = set()
    for path in [*folder.glob("*.html"), *folder.glob("*.js")]:
        source = path.read_text()
        used |= set(re.findall(r'data-(?:text|label|tip|placeholder)="(\w+)"', source))
        used |= set(re.findall(r'\b(?:text|label|tip|placeholder): "(\w+)"', source))
        used |= set(re.findall(r'\btext\("(\w+)"', source))
    assert len(used) > 150
    assert used <= known


def test_the_language_and_the_theme_are_chosen(node: RunningNode, plain_page: Page) -> None:
    plain_page.goto(f"{node.http}/")
    plain_page.click("[data-language=ru]")
    assert plain_page.inner_text("#create") == "Создать комнату"
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = plain_page.evaluate(ground)
    plain_page.click("#theme")
    plain_page.click("#theme")
    assert plain_page.evaluate(ground) != light
    plain_page.reload()
    assert plain_page.inner_text("#create") == "Создать комнату"
    assert plain_page.evaluate(ground) != light


@pytest.mark.parametrize("length", [10, 60, 105, 106, 210, 300, 412])
def test_the_qr_code_is_read_by_another(node: RunningNode, plain_page: Page, length: int) -> None:
    said = ("https://node.example/#" + "aZ09-_" * 80)[:length]
    plain_page.goto(f"{node.http}/")
    plain_page.evaluate(
        """async ([path, said]) => {
          const { drawQr } = await import(path);
          document.body.replaceChildren(drawQr(said, "code"));
        }""",
        [static_path("qr.js"), said],
    )
    assert read_code(plain_page) == said


def test_what_is_too_long_for_a_qr_code_is_refused(node: RunningNode, plain_page: Page) -> None:
    plain_page.goto(f"{node.http}/")
    refusal = plain_page.evaluate(
        """async (path) => {
          const { encodeQr } = await import(path);
          try { encodeQr("a".repeat(413)); } catch (error) { return error.name; }
        }""",
        static_path("qr.js"),
    )
    assert refusal == "RangeError"


def test_the_invitation_is_the_code_that_is_shown(node: RunningNode, plain_page: Page) -> None:
    enter_room(plain_page, node)
    plain_page.keyboard.press("p")
    shown = plain_page.input_value(".invite input")
    assert shown.startswith(f"{node.http}/#")
    assert read_code(plain_page) == shown


def read_code(page: Page) -> str:
    """What the QR code on the page says to a reader that we have not written."""
    locator = page.locator("svg.qr")
    locator.scroll_into_view_if_needed()
    pixels = page.evaluate(
        """async (png) => {
          const image = await createImageBitmap(new Blob([Uint8Array.from(png)]));
          const canvas = new OffscreenCanvas(image.width, image.height);
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const { data } = context.getImageData(0, 0, image.width, image.height);
          return [image.width, image.height, Array.from(data.filter((_, at) => at % 4 === 0))];
        }""",
        list(locator.screenshot()),
    )
    width, height, grey = pixels
    found = zxingcpp.read_barcodes(numpy.array(grey, dtype=numpy.uint8).reshape(height, width))
    assert [one.format for one in found] == [zxingcpp.BarcodeFormat.QRCode]
    return str(found[0].text)


def test_a_room_is_made_and_used_by_keyboard_alone(node: RunningNode, plain_page: Page) -> None:
    page = plain_page
    page.goto(f"{node.http}/")
    press_until(page, "#create")
    page.keyboard.press("Enter")
    page.wait_for_selector(".preview video:not([hidden])")
    press_until(page, "#go")
    page.keyboard.press("Enter")
    page.wait_for_selector("html[data-phase=in]")
    bring_people(page, 2)
    for tool in ("microphone", "camera", *PANELS, "help", "hang_up"):
        press_until(page, f"[data-tool={tool}]")
    page.keyboard.press("m")
    assert page.get_attribute("[data-tool=microphone]", "data-on") is None
    page.keyboard.press("v")
    assert page.get_attribute("[data-tool=camera]", "data-on") is None
    page.keyboard.press("c")
    # Letters belong to the message now.
    page.keyboard.type("mvs")
    page.keyboard.press("Enter")
    assert ["say", "mvs"] in page.evaluate("() => montana.meeting.done")
    assert page.get_attribute("[data-tool=microphone]", "data-on") is None
    page.keyboard.press("Escape")
    assert not page.locator(".panel").is_visible()
    assert page.evaluate("() => document.activeElement.closest('.stage') !== null")
    page.keyboard.press("h")
    assert page.locator("dialog[open]").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog[open]").is_visible()


def press_until(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus, which then is to be seen."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            break
    else:
        raise AssertionError(f"Tab does not lead to {selector}")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_a_changed_key_is_shouted(node: RunningNode, plain_page: Page) -> None:
    enter_room(plain_page, node)
    bring_people(plain_page, 2)
    assert plain_page.locator(".banner").count() == 0
    change(
        plain_page,
        "const [first, second] = state.peers; meeting.set({ peers: [first, { ...second, "
        "verification: { ...second.verification, identity: 'changed' } }] })",
    )
    alarm = plain_page.locator(".banner.alarm[role=alert]")
    assert "another key" in alarm.inner_text()
    alarm.locator("button").click()
    plain_page.click(".pair[data-verdict=verdict_changed] button.danger")
    assert ["verified", "0003", False] in plain_page.evaluate("() => montana.meeting.done")


def test_what_the_node_refuses_is_told_and_can_be_tried_again(
    node: RunningNode, plain_page: Page
) -> None:
    page = plain_page
    page.goto(f"{node.http}/#{SECRET}")
    page.wait_for_selector("[data-view=entry]")
    # It is a secret, and the address bar is seen by whoever looks at the screen.
    assert page.url == f"{node.http}/"
    page.evaluate("() => { montana.meeting.refuses = { code: 'expired', values: {} }; }")
    page.click("#go")
    page.wait_for_selector("#entry-problem:not([hidden])")
    assert page.inner_text("#entry-problem").startswith("This invitation has expired.")
    page.click("#go")
    page.wait_for_selector("html[data-phase=in]")


@pytest.mark.parametrize(
    ("error", "said", "advice"),
    [
        ("NotAllowedError", "is not allowed.", "Allow it behind the lock in the address bar"),
        ("NotFoundError", "is not there.", "Plug one in, or go in without."),
        ("NotReadableError", "is used by another program.", "Close that program"),
    ],
)
def test_a_camera_that_can_not_be_had_is_explained_and_no_obstacle(
    node: RunningNode, plain_page: Page, error: str, said: str, advice: str
) -> None:
    page = plain_page
    page.add_init_script(
        "navigator.mediaDevices.getUserMedia = async () => { "
        f"throw new DOMException('no', '{error}'); }};"
    )
    page.goto(f"{node.http}/")
    page.click("#create")
    page.wait_for_selector(".notice:not([hidden])")
    notice = page.inner_text(".notice")
    assert f"Microphone: {said}" in notice
    assert advice in notice
    page.click("#go")
    page.wait_for_selector("html[data-phase=in]")


@pytest.mark.parametrize(
    ("script", "said", "advice"),
    [
        (
            "delete window.RTCPeerConnection;",
            "no WebRTC",
            "Take a current Chrome, Firefox or Safari, or allow WebRTC in the settings.",
        ),
        (
            "Object.defineProperty(window, 'isSecureContext', { value: false });",
            "not secure",
            "Open it by https, or on this machine by localhost.",
        ),
    ],
)
def test_a_browser_that_can_not_is_told_why(
    node: RunningNode, plain_page: Page, script: str, said: str, advice: str
) -> None:
    plain_page.add_init_script(script)
    plain_page.goto(f"{node.http}/")
    plain_page.wait_for_selector("[data-view=missing]")
    assert said in plain_page.inner_text("#missing-title")
    assert plain_page.inner_text("#missing-advice") == advice


def test_an_account_moves_to_another_browser(node: RunningNode, chromium: Browser) -> None:
    problems: list[str] = []
    contexts = [chromium.new_context(locale="en-GB", service_workers="block") for _ in range(2)]
    first, second = (new_page(context, problems) for context in contexts)
    first.goto(f"{node.http}/me")
    first.click("#make")
    first.wait_for_selector("[data-view=account]")
    first.fill("#export-form input", "a passphrase")
    with first.expect_download() as download:
        first.click("#export-form button[type=submit]")
    saved = download.value.path().read_text()
    assert saved.startswith("montana-sealed:")
    second.goto(f"{node.http}/me")
    second.click("summary")
    second.fill("#import-form textarea", saved)
    second.fill("#import-form [name=passphrase]", "another")
    second.click("#import-form button")
    second.wait_for_selector("#notice:not([hidden])")
    assert "opens no account" in second.inner_text("#notice")
    second.fill("#import-form [name=passphrase]", "a passphrase")
    second.click("#import-form button")
    second.wait_for_selector("[data-view=account]")
    assert second.inner_text("#address") == first.inner_text("#address")
    for context in contexts:
        context.close()
    assert not problems


def test_the_worker_keeps_the_shell_and_nothing_else(node: RunningNode, chromium: Browser) -> None:
    context = chromium.new_context(locale="en-GB")
    page = new_page(context, [], is_fake=False)
    page.goto(f"{node.http}/")
    page.evaluate("() => navigator.serviceWorker.ready.then(() => true)")
    page.goto(f"{node.http}{CALL}")
    kept: list[str] = page.evaluate(
        """async () => {
          const found = [];
          for (const name of await caches.keys()) {
            for (const { url } of await (await caches.open(name)).keys()) found.push(url);
          }
          return found;
        }"""
    )
    paths = {url.removeprefix(node.http) for url in kept}
    assert {"/", "/call", "/me", static_path("stage.js")} <= paths
    assert not [path for path in paths if re.search(r"[?#]|ws|credentials", path)]
    context.set_offline(True)
    page.goto(f"{node.http}/")
    assert page.inner_text("#create") == "Create a room"
    context.close()


def test_the_manifest_makes_it_installable(node: RunningNode, plain_page: Page) -> None:
    plain_page.goto(f"{node.http}/")
    found: dict[str, Any] = plain_page.evaluate(
        """async () => {
          const link = document.querySelector("link[rel=manifest]").href;
          const manifest = await (await fetch(link)).json();
          const sizes = [];
          for (const { src } of manifest.icons) {
            const image = new Image();
            image.src = src;
            await image.decode();
            sizes.push(image.naturalWidth);
          }
          return { manifest, sizes };
        }"""
    )
    icons = found["manifest"]["icons"]
    assert found["manifest"]["display"] == "standalone"
    assert [size for size, icon in zip(found["sizes"], icons, strict=True) if "png" in icon["type"]]
    assert any(icon.get("purpose") == "maskable" for icon in icons)
    for size, icon in zip(found["sizes"], icons, strict=True):
        assert icon["sizes"] in ("any", f"{size}x{size}")
