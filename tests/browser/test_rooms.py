"""Rooms in Chromium on a real node: a mesh of four, a large file, and what hosts may do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import take_picture
from tests.support.call_pages import (
    PATIENCE_S,
    call_browser,
    flows,
    people,
    wait_for_flow,
    wait_until,
)
from tests.support.node import RunningNode, running_node
from tests.support.signaling_client import Page as Client

TOKEN = "a token of enough letters"
CONFIG = f"""
[signaling]
rooms = "free"
room_token = "{TOKEN}"
# A large file is not to wait for the share of bandwidth that free rooms have.
free_bytes_per_second = 0
"""
PEOPLE_MAXIMUM = 12
FILE_BYTES = 100_000_000
MESH = 4


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with call_browser() as running:
        yield running


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node(more=CONFIG) as running:
        yield running


def create_room(node: RunningNode, host: Page, *, lobby: bool = False, camera: bool = True) -> str:
    """Make a room and go in; the link that others come by."""
    host.goto(f"{node.http}/")
    host.click("#create")
    prepare(host, "Host", camera=camera)
    host.click("#go")
    host.fill("[name=token]", TOKEN)
    if lobby:
        host.check("[name=lobby]")
    host.click("#go")
    host.wait_for_selector("html[data-phase=in]")
    host.click("[data-tool=people]")
    return host.input_value(".invite input")


def enter_room(page: Page, link: str, name: str, *, camera: bool = True) -> None:
    """Ask to be let in by a link."""
    page.goto(link)
    prepare(page, name, camera=camera)
    page.click("#go")


def prepare(page: Page, name: str, *, camera: bool) -> None:
    page.wait_for_selector(".preview video:not([hidden])")
    if not camera:
        page.click(".preview [data-device=videoinput]")
    page.fill("[name=name]", name)


def join(page: Page, link: str, name: str, *, camera: bool = True) -> None:
    enter_room(page, link, name, camera=camera)
    page.wait_for_selector("html[data-phase=in]")


def invitation_in(link: str) -> str:
    return link.partition("#")[2]


def strings(page: Page) -> dict[str, Any]:
    """One's own id, the others' by name, and what is to be compared with each."""
    found: dict[str, Any] = page.evaluate(
        """() => {
          const { you, peers } = montana.meeting.state;
          return { you, names: peers.map(({ name }) => name), with: Object.fromEntries(
            peers.map(({ id, verification }) => [id, verification.emoji.join(" ")])) };
        }"""
    )
    return found


def test_four_hear_and_see_each_other(node: RunningNode, chromium: Browser) -> None:
    names = ("Host", "Борис", "Cleo", "Dörte")
    with people(chromium, MESH) as pages, ExitStack() as stack:
        link = create_room(node, pages[0])
        for page, name in zip(pages[1:], names[1:], strict=True):
            join(page, link, name)
        others = MESH - 1
        for page in pages:
            wait_until(page, f"state.peers.length === {others}")
            wait_until(page, "state.peers.every((peer) => peer.connection === 'connected')")
            wait_until(page, "state.peers.every((peer) => peer.verification?.emoji.length === 7)")
            wait_until(page, "state.peers.every((peer) => peer.camera && peer.microphone)")
        for page in pages:
            wait_for_flow(page, "audio_bytes", others)
            wait_for_flow(page, "frames", others)
            assert page.locator(".tile video:visible").count() == MESH
        told = [strings(page) for page in pages]
        for one, name in zip(told, names, strict=True):
            assert {*one["names"], name} == set(names)
            for other in told:
                if other is not one:
                    assert one["with"][other["you"]] == other["with"][one["you"]]
        assert len({string for one in told for string in one["with"].values()}) == 6
        for page in pages:
            wait_until(page, "state.peers.every(({ verification }) => verification.rosterAgrees)")
            assert page.locator(".banner.alarm").count() == 0
        take_picture(pages[1], "room-mesh")

        # The rest of the room is taken by pages without a browser; nobody is the thirteenth.
        for _ in range(PEOPLE_MAXIMUM - MESH):
            client = stack.enter_context(Client(node.http))
            answer = client.ask("join", invitation=invitation_in(link), name="More")
            assert answer["type"] == "entered"
        refused = stack.enter_context(Client(node.http)).ask("join", invitation=invitation_in(link))
        assert (refused["type"], refused["code"]) == ("error", "full")
        with people(chromium, 1) as (late,):
            enter_room(late, link, "Late")
            late.wait_for_selector("#entry-problem:has-text('The room is full')")


def test_a_large_file_arrives_as_it_was_sent(
    node: RunningNode, chromium: Browser, tmp_path: Path
) -> None:
    sent = tmp_path / "film.bin"
    digest = hashlib.sha256()
    with sent.open("wb") as file:
        for number in range(FILE_BYTES // 1_000_000):
            piece = hashlib.shake_256(str(number).encode()).digest(1_000_000)
            digest.update(piece)
            file.write(piece)
    with people(chromium, 2) as (host, guest):
        # Both hide their addresses, so that the file takes the way through the relay.
        link = create_room_relayed(node, host)
        guest.goto(link)
        prepare(guest, "Guest", camera=False)
        guest.check("[name=relay_only]")
        guest.click("#go")
        for page in (host, guest):
            wait_until(page, "state.peers[0]?.path === 'relayed' && state.peers[0].verification")
        host.click("[data-tool=chat]")
        guest.click("[data-tool=chat]")
        host.set_input_files(".chat input[type=file]", sent)
        guest.click("[data-act=acceptFile]")
        wait_until(guest, f"state.files[0].sent_or_received_bytes > {FILE_BYTES // 2}")
        used = guest.evaluate("() => performance.memory.usedJSHeapSize")
        assert used < FILE_BYTES // 2
        with guest.expect_download(timeout=PATIENCE_S * 1000) as download:
            guest.click(".file a", timeout=PATIENCE_S * 1000)
        assert download.value.suggested_filename == sent.name
        received = hashlib.sha256()
        with download.value.path().open("rb") as file:
            while piece := file.read(1 << 20):
                received.update(piece)
        assert received.digest() == digest.digest()
        wait_until(host, "state.files[0].status === 'done'")
        assert flows(guest).keys() == {host.evaluate("() => montana.meeting.state.you")}


def create_room_relayed(node: RunningNode, host: Page) -> str:
    host.goto(f"{node.http}/")
    host.click("#create")
    prepare(host, "Host", camera=False)
    host.check("[name=relay_only]")
    host.click("#go")
    host.fill("[name=token]", TOKEN)
    host.click("#go")
    host.wait_for_selector("html[data-phase=in]")
    host.click("[data-tool=people]")
    return host.input_value(".invite input")


def test_what_hosts_may_do(node: RunningNode, chromium: Browser) -> None:
    with people(chromium, 4) as (host, first, second, third):
        host.on("dialog", lambda dialog: dialog.accept())
        link = create_room(node, host, lobby=True, camera=False)
        enter_room(first, link, "First", camera=False)
        first.wait_for_selector("[data-view=wait]")
        host.click(".knocks button:has-text('Let in')")
        first.wait_for_selector("html[data-phase=in]")
        enter_room(second, link, "Second", camera=False)
        second.wait_for_selector("[data-view=wait]")
        host.click(".knocks button:has-text('Refuse')")
        second.wait_for_selector("[data-view=over]")
        assert second.inner_text(".over h1") == "The host has not let you in"

        # A page that is loaded anew is the same person, once.
        wait_until(host, "state.peers.length === 1 && state.peers[0].connection === 'connected'")
        first.reload()
        first.wait_for_selector("html[data-phase=in]")
        for page in (host, first):
            wait_until(page, "state.peers.length === 1")
            wait_until(page, "state.peers[0].connection === 'connected'")
            wait_for_flow(page, "audio_bytes")

        # An invitation for one is good for one.
        host.click(".host .switch:has-text('Lobby') input")
        wait_until(host, "state.room.lobby === false")
        host.click("button:has-text('New link, for one')")
        host.wait_for_selector(".banner:has-text('The new link is there')")
        once = host.input_value(".invite input")
        assert once != link
        join(third, once, "Third", camera=False)
        enter_room(second, once, "Second", camera=False)
        second.wait_for_selector("#entry-problem:has-text('was used already')")

        host.click(".host .switch:has-text('Lock') input")
        wait_until(first, "state.room.locked")
        enter_room(second, link, "Second", camera=False)
        second.wait_for_selector("#entry-problem:has-text('The room is locked')")
        host.click(".host .switch:has-text('Lock') input")
        wait_until(first, "!state.room.locked")

        # Whoever was sent away can't come back by the same link.
        host.click(".people li:has-text('First') button[aria-label='Send away']")
        first.wait_for_selector("[data-view=over]")
        assert first.inner_text(".over h1") == "The host has sent you away"
        enter_room(first, link, "First", camera=False)
        first.wait_for_selector("#entry-problem:not([hidden])")

        # The host's role passes on.
        host.click("[data-tool=hang_up]")
        wait_until(third, "state.role === 'host' && state.peers.length === 0")
        third.click("[data-tool=people]")
        third.wait_for_selector(".host .switch:has-text('Lock')")
        take_picture(third, "room-new-host")
