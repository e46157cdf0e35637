"""Calls in Chromium in bad times: sound that breaks down, devices that go, credentials that run
out, relays that can't be reached, a browser that waits for a click.

What breaks is what breaks in people's browsers: the process that plays sound or reads a camera is
killed, and the way to the relay is closed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page

from core.clock import SystemClock
from core.stun.address import Address
from core.stun.constants import Method
from relay.credential_issuer import CredentialIssuer
from relay.signaling.messages import IceServer
from tests.support.browser import CAMERA, browser
from tests.support.call_pages import (
    AWAKE,
    PATIENCE_S,
    begin_call,
    call_link,
    people,
    wait_for_flow,
    wait_until,
)
from tests.support.node import SECRET, RunningNode, running_node
from tests.support.signaling_server import INVITATION, signaling_server
from tests.support.turn_client import TRANSPORT, UdpClient, error_of
from tests.support.udp_way import udp_way

SIGNALING = '[signaling]\nrooms = "host"\n'
ALLOWED = ["camera", "microphone"]
FLAGS = (
    # Who may use them is each person's own.
    CAMERA,
    "--autoplay-policy=document-user-activation-required",
)
SOUND = "audio.mojom.AudioService"
CAMERAS = "video_capture.mojom.VideoCaptureService"
OTHER_MICROPHONE = "Fake Audio Input 2"
PLAYING_S = 1
TTL_S = 12
OUTSIDE = "127.0.0.77"
"""Of this machine, and nobody listens there."""

_PLAYED_S = """async () => {
  const [{ peer }] = montana.meeting.people.values();
  const found = [...(await peer.pc.getStats()).values()];
  return found.find(({ type, kind }) => type === "inbound-rtp" && kind === "audio")
    ?.totalSamplesDuration ?? 0;
}"""
_ICE = """async () => {
  const [{ peer: { pc } }] = montana.meeting.people.values();
  const stats = await pc.getStats();
  const transport = [...stats.values()].find(({ type }) => type === "transport");
  const pair = stats.get(transport?.selectedCandidatePairId);
  const fragment = /ice-ufrag:(\\S+)/.exec(pc.currentLocalDescription?.sdp)?.[1];
  return {
    fragment,
    signaling: pc.signalingState,
    state: pc.connectionState,
    relayed: stats.get(pair?.localCandidateId)?.candidateType === "relay",
    has_relay: [...stats.values()].some(({ type, candidateType, usernameFragment }) =>
      type === "local-candidate" && candidateType === "relay" && usernameFragment === fragment),
    username: pc.getConfiguration().iceServers[0].username,
  };
}"""
_NOTE_BANNERS = """() => {
  window.told = [];
  new MutationObserver(() => {
    for (const banner of document.querySelectorAll(".banner span")) {
      if (!told.includes(banner.textContent)) told.push(banner.textContent);
    }
  }).observe(document.querySelector(".banners"), {
    childList: true, characterData: true, subtree: true,
  });
}"""
_MEETING = """async () => {
  const [{ Meeting }, media] = await Promise.all([
    import("/static/meeting.js"), import("/static/media.js"),
  ]);
  window.montana = { meeting: new Meeting() };
  await montana.meeting.useMedia({ microphone: await media.openMicrophone() });
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser(*FLAGS, *AWAKE) as running:
        yield running


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node(more=SIGNALING) as running:
        create_accounts(running)
        yield running


def create_accounts(node: RunningNode) -> None:
    for account in ("user:alice", "user:bob"):
        node.command("account", "create", account)
    node.command("account", "credit", "user:alice", "1000")


def link_of(node: RunningNode, kind: str = "voice") -> dict[str, str]:
    return call_link(node, "user:alice", "user:bob", kind)


def kill_service(chromium: Browser, name: str) -> None:
    """Kill this browser's process that does one thing for all of its pages; it starts another."""
    session = chromium.new_browser_cdp_session()
    listed = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    found = [
        int(one["id"])
        for one in listed
        if name.encode() in Path(f"/proc/{int(one['id'])}/cmdline").read_bytes()
    ]
    assert len(found) == 1
    os.kill(found[0], signal.SIGKILL)


def wait_for_sound(page: Page) -> None:
    """Wait until the page has played that much more of what the other says."""
    before = page.evaluate(_PLAYED_S)
    end_s = time.monotonic() + PATIENCE_S
    while page.evaluate(_PLAYED_S) < before + PLAYING_S:
        assert time.monotonic() < end_s
        page.wait_for_timeout(100)


def wait_for_banner(page: Page, said: str) -> None:
    banner_of(page, said).wait_for(timeout=PATIENCE_S * 1000)


def wait_without_banner(page: Page, said: str) -> None:
    banner_of(page, said).wait_for(state="detached", timeout=PATIENCE_S * 1000)


def banner_of(page: Page, said: str) -> Locator:
    return page.locator(".banner").filter(has_text=said)


def wait_until_told(page: Page, said: str) -> None:
    """Wait for a banner that may be gone again by now; it has come since `note_banners`."""
    end_s = time.monotonic() + PATIENCE_S
    while not page.evaluate("(said) => told.some((one) => one.includes(said))", said):
        assert time.monotonic() < end_s, (said, page.evaluate("() => told"))
        page.wait_for_timeout(50)


def note_banners(*pages: Page) -> None:
    for page in pages:
        page.evaluate(_NOTE_BANNERS)


def ice_of(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(_ICE)
    return found


def wait_for_restart(page: Page, before: dict[str, Any]) -> dict[str, Any]:
    """Wait until ICE has begun anew, has a relay, and both sides have agreed; how it is then."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        now = ice_of(page)
        is_agreed = (now["signaling"], now["state"]) == ("stable", "connected")
        if is_agreed and now["has_relay"] and now["fragment"] != before["fragment"]:
            return now
        assert time.monotonic() < end_s, (before, now)
        page.wait_for_timeout(100)


def test_sound_that_breaks_down_is_played_again(node: RunningNode, chromium: Browser) -> None:
    with people(chromium, 2, permissions=ALLOWED) as (caller, callee):
        begin_call(caller, callee, link_of(node))
        for page in (caller, callee):
            wait_for_sound(page)
        # As a headset's button does.
        caller.evaluate("() => document.querySelector('audio').pause()")
        wait_for_sound(caller)
        assert not caller.evaluate("() => document.querySelector('audio').paused")

        note_banners(caller, callee)
        kill_service(chromium, SOUND)
        for page, name in ((caller, "user:bob"), (callee, "user:alice")):
            # The microphones were read by the same process.
            wait_until_told(page, "You are heard by this one now: Fake Default Audio Input")
            wait_until_told(page, f"{name} can't be heard just now; trying again.")
        for page in (caller, callee):
            wait_without_banner(page, "can't be heard just now")
            wait_for_sound(page)
            wait_for_flow(page, "samples_energy")
            wait_until(page, "state.phase === 'in' && state.local.microphone")
        caller.click("[data-tool=hang_up]")


def test_sound_that_comes_no_more_is_looked_for(node: RunningNode, chromium: Browser) -> None:
    with people(chromium, 2, permissions=ALLOWED) as (caller, callee):
        # A picture flows on: what has stopped is the sound alone.
        begin_call(caller, callee, link_of(node, "video"), video=True)
        wait_for_sound(caller)
        before = ice_of(caller)
        callee.evaluate(
            """async () => {
              const [{ peer }] = montana.meeting.people.values();
              const { sender } = peer.transceivers[0];
              window.goOn = ((track) => () => sender.replaceTrack(track))(sender.track);
              await sender.replaceTrack(null);
            }"""
        )
        wait_for_banner(caller, "user:bob can't be heard just now; trying again.")
        wait_for_restart(caller, before)
        # A later interruption finds nothing that is left over from this restart.
        wait_restarts_are_over(caller, callee)
        callee.evaluate("() => goOn()")
        wait_without_banner(caller, "can't be heard just now")
        wait_for_flow(caller, "audio_bytes")
        wait_for_sound(caller)
        caller.click("[data-tool=hang_up]")


def wait_restarts_are_over(*pages: Page) -> None:
    script = "() => [...montana.meeting.people.values()].every(({ peer }) => peer.restarts === 0)"
    end_s = time.monotonic() + PATIENCE_S
    for page in pages:
        while not page.evaluate(script):
            assert time.monotonic() < end_s
            page.wait_for_timeout(50)


def test_devices_go_and_another_one_is_chosen(node: RunningNode, chromium: Browser) -> None:
    with people(chromium, 2, permissions=ALLOWED) as (caller, callee):
        begin_call(caller, callee, link_of(node, "video"), video=True)
        wait_for_flow(caller, "frames")
        note_banners(callee)
        kill_service(chromium, CAMERAS)
        wait_until_told(callee, "The camera was lost. You are seen by this one now: fake_device_0")
        wait_until(caller, "state.peers[0].camera")
        wait_for_flow(caller, "frames")

        # Without a device that may be used none takes the place of those that go.
        callee.context.clear_permissions()
        wait_until_told(callee, "The camera is gone. Plug it in again or choose another")
        wait_until_told(callee, "The microphone is gone, so nobody hears you. Plug it in again")
        wait_until(callee, "!state.local.camera && !state.local.microphone")
        wait_until(caller, "!state.peers[0].camera && !state.peers[0].microphone")
        for page in (caller, callee):
            wait_for_flow(page, "audio_bytes")
            wait_until(page, "state.phase === 'in'")

        callee.context.grant_permissions(ALLOWED)
        callee.click("[data-tool=devices]")
        select = callee.locator(".stage [data-kind=audioinput]")
        select.select_option(label=OTHER_MICROPHONE)
        callee.click("[data-tool=microphone]")
        wait_until(caller, "state.peers[0].microphone")
        used = callee.evaluate("() => montana.meeting.outgoing().microphone.label")
        assert used == OTHER_MICROPHONE
        wait_for_flow(caller, "samples_energy")
        callee.click("[data-tool=camera]")
        wait_until(caller, "state.peers[0].camera")
        wait_for_flow(caller, "frames")
        caller.click("[data-tool=hang_up]")


def test_credentials_are_renewed_before_they_run_out(node: RunningNode, chromium: Browser) -> None:
    issuer = CredentialIssuer([SECRET], node.turn, SystemClock())
    issued: list[IceServer] = []

    def make_ice() -> list[IceServer]:
        made = issuer.issue(f"page-{len(issued)}", TTL_S)
        issued.append(IceServer(made.uris, made.username, made.password))
        return [issued[-1]]

    with (
        signaling_server() as server,
        people(chromium, 2, permissions=ALLOWED) as (host, guest),
    ):
        server.ice_ttl_s, server.make_ice, server.relay_only = TTL_S, make_ice, True
        for page in (host, guest):
            page.goto(f"{server.url}/test")
            page.evaluate(_MEETING)
        host.evaluate("() => montana.meeting.createRoom({})")
        guest.evaluate("(invitation) => montana.meeting.joinRoom({ invitation })", INVITATION)
        for page in (host, guest):
            wait_until(page, "state.peers[0]?.connection === 'connected'")
        before = [ice_of(page) for page in (host, guest)]
        first = issued[:2]
        assert [one["username"] for one in before] == [made.username for made in first]
        wait_until_expired(host, first)
        refused = [allocation_error(node.turn[0], made) for made in first]
        assert refused == [401, 401]
        # What is open goes on, and what is opened from now on has the new ones.
        assert {*server.of_type("refresh_ice")} == {"1", "2"}
        for page in (host, guest):
            wait_for_flow(page, "audio_bytes")
        host.evaluate("() => { montana.meeting.people.get('2').peer.restart(true); }")
        restarted = [
            wait_for_restart(page, earlier)
            for page, earlier in zip((host, guest), before, strict=True)
        ]
        for now in restarted:
            assert now["username"] in {made.username for made in issued[2:]}
        # What has no older way to keep to is connected by the new ones alone.
        host.evaluate("() => montana.meeting.people.get('2').peer.rebuild()")
        for page, earlier in zip((host, guest), restarted, strict=True):
            assert wait_for_restart(page, earlier)["relayed"]
            wait_for_flow(page, "audio_bytes")


def wait_until_expired(page: Page, issued: list[IceServer]) -> None:
    """Wait until the node takes these no more: their names begin with the second."""
    last_s = max(int(made.username.partition(":")[0]) for made in issued)
    while time.time() <= last_s + 1:
        page.wait_for_timeout(100)


def allocation_error(turn: Address, made: IceServer) -> int:
    """What the node answers whoever comes with such credentials."""
    with UdpClient(turn, made.username, made.credential) as client:
        return error_of(client.ask(Method.ALLOCATE, [TRANSPORT]))


def test_a_relay_that_cant_be_reached_is_told_of(chromium: Browser) -> None:
    turn = {"listen": '["udp://127.0.0.1:0"]', "relay_addresses": '["127.0.0.1"]'}
    outside = f'[turn.external]\n"127.0.0.1" = "{OUTSIDE}"\n'
    with (
        running_node(turn=turn, more=outside + SIGNALING) as node,
        udp_way(Address.from_text("127.0.0.1", node.turn[0].port), OUTSIDE) as way,
        people(chromium, 2, permissions=ALLOWED) as (caller, callee),
    ):
        create_accounts(node)
        link = link_of(node)
        caller.goto(link["caller_url"])
        caller.wait_for_selector("html[data-phase=ringing]")
        callee.goto(link["callee_url"])
        callee.click("#answer")
        for page, name in ((caller, "user:bob"), (callee, "user:alice")):
            wait_for_banner(page, f"No way to {name} yet. Does a firewall here let UDP through?")
        with callee.expect_popup() as opened:
            callee.click("button:has-text('Open the check')")
        assert opened.value.url == f"{node.http}/check"
        opened.value.close()
        # They go on trying, so that nothing is left to do when the way is open.
        way.open()
        for page in (caller, callee):
            wait_until(page, "state.peers[0].connection === 'connected'")
            wait_without_banner(page, "No way to")
            wait_for_flow(page, "audio_bytes")
        caller.click("[data-tool=hang_up]")


def test_a_browser_that_waits_for_a_click_is_given_one(
    node: RunningNode, chromium: Browser
) -> None:
    with (
        # Who lets a page use a microphone is heard without a click, too.
        people(chromium, 1) as (caller,),
        people(chromium, 1, permissions=ALLOWED) as (callee,),
    ):
        link = link_of(node)
        caller.goto(link["caller_url"])
        callee.goto(link["callee_url"])
        callee.click("#answer")
        wait_until(callee, "state.peers[0]?.connection === 'connected'")
        # Whatever Playwright asks of a page is a click to the browser: it has refused before that.
        callee.wait_for_timeout(2_000)
        wait_for_banner(caller, "The browser waits for a click before it plays sound.")
        assert caller.evaluate("() => document.querySelector('audio').paused")
        assert banner_of(caller, "can't be heard").count() == 0
        caller.click("button:has-text('Hear')")
        wait_without_banner(caller, "waits for a click")
        wait_for_sound(caller)
        wait_for_flow(caller, "samples_energy")
        caller.click("[data-tool=hang_up]")
