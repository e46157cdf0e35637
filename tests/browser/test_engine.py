"""The pages' engine in Chromium, without a page: two meetings that talk through a small server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page

from relay.signaling.messages import Answer, Passed, Signal
from tests.support.browser import FAKE_DEVICES, browser
from tests.support.eavesdropper import Eavesdropper
from tests.support.signaling_server import (
    CALL,
    INVITATION,
    SECRETS,
    SignalingServer,
    signaling_server,
)

TIMEOUT_MS = 30_000
_LOAD = """async () => {
  const [meeting, media] = await Promise.all([
    import("/static/meeting.js"), import("/static/media.js"),
  ]);
  window.media = media;
  window.meeting = new meeting.Meeting();
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser(*FAKE_DEVICES) as running:
        yield running


@pytest.fixture
def server() -> Iterator[SignalingServer]:
    with signaling_server() as running:
        yield running


@contextmanager
def pages(chromium: Browser, server: SignalingServer, count: int = 2) -> Iterator[list[Page]]:
    """That many browsers' worth of everything but the process, each with a meeting."""
    contexts = [chromium.new_context(permissions=["camera", "microphone"]) for _ in range(count)]
    opened = []
    errors: list[str] = []
    for context in contexts:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{server.url}/test")
        page.evaluate(_LOAD)
        opened.append(page)
    yield opened
    for context in contexts:
        context.close()
    assert not errors


def until(page: Page, condition: str, argument: Any = None) -> None:
    """Wait until the meeting's state `s` is so."""
    page.wait_for_function(
        f"(argument) => {{ const s = meeting.state; return {condition}; }}",
        arg=argument,
        timeout=TIMEOUT_MS,
    )


def state(page: Page, expression: str) -> Any:
    return page.evaluate(f"() => {{ const s = meeting.state; return {expression}; }}")


def use_media(page: Page, *, camera: bool = False) -> None:
    page.evaluate(
        """async (camera) => meeting.useMedia({
          microphone: await media.openMicrophone(),
          camera: camera ? await media.openCamera() : null,
        })""",
        camera,
    )


def meet(opened: list[Page], *, camera: bool = False) -> None:
    """Have the first page make a room, and the others come."""
    for number, page in enumerate(opened):
        use_media(page, camera=camera)
        if number == 0:
            page.evaluate("() => meeting.createRoom({ name: 'Ada' })")
        else:
            page.evaluate(
                "(invitation) => meeting.joinRoom({ invitation, name: 'Bob' })", INVITATION
            )
    for page in opened:
        until(
            page,
            "s.peers.length === argument && s.peers.every((one) => "
            "one.connection === 'connected' && one.verification)",
            len(opened) - 1,
        )


def play(page: Page) -> None:
    """Play the other's sound: a browser decodes what it plays, and nothing else."""
    page.evaluate(
        """() => {
          window.player = new Audio();
          player.srcObject = meeting.state.peers[0].audioStream;
          player.play();
        }"""
    )


def see(page: Page) -> None:
    """Wait until a picture of the other's camera has come."""
    page.evaluate(
        """() => {
          window.video = document.createElement("video");
          video.muted = true;
          video.srcObject = meeting.state.peers[0].cameraStream;
          video.play();
        }"""
    )
    page.wait_for_function("() => video.videoWidth > 0", timeout=TIMEOUT_MS)


def test_two_talk_and_see_the_same_string(chromium: Browser, server: SignalingServer) -> None:
    with pages(chromium, server) as opened:
        meet(opened)
        strings = [state(page, "s.peers[0].verification.emoji") for page in opened]
        assert strings[0] == strings[1]
        assert len(strings[0]) == 7
        assert [state(page, "s.peers[0].verification.failed") for page in opened] == [None, None]
        for page in opened:
            play(page)
            until(page, "s.peers[0].level > 0")
            until(page, "s.peers[0].stats?.in_kbps > 1 && s.peers[0].path === 'direct'")
    assert server.kinds
    assert set(server.kinds) == {"voice"}
    offers = [sdp for _, kind, sdp in server.descriptions if kind == "offer"]
    sections = [line.split()[0] for line in offers[0].splitlines() if line.startswith("m=")]
    assert sections == ["m=audio", "m=video", "m=video", "m=application"]


def test_a_camera_flows_while_it_is_on(chromium: Browser, server: SignalingServer) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        assert server.kinds[-1] == "voice"
        two.evaluate("() => meeting.setCamera(true)")
        until(one, "s.peers[0].camera && s.peers[0].cameraStream")
        until(two, "s.local.camera && s.local.cameraStream")
        assert server.kinds[-1] == "video"
        see(one)
        one.evaluate("() => meeting.setCamera(true)")
        until(two, "s.peers[0].camera")
        for page in (one, two):
            page.evaluate("() => meeting.setCamera(false)")
        for page in (one, two):
            until(page, "!s.peers[0].camera && !s.peers[0].cameraStream && !s.local.camera")
        assert server.kinds[-1] == "voice"


class HeldSignals:
    """What both sides say, held back until each of them has offered; set as
    `SignalingServer.forge`."""

    def __init__(self, server: SignalingServer) -> None:
        self._server = server
        self._held: list[tuple[str, Signal]] = []
        self.is_over = False

    async def forge(self, sender: str, message: Signal | Answer) -> bool:
        """Take a signal; the last one that is waited for lets all go, in their order."""
        if self.is_over:
            return False
        assert isinstance(message, Signal)
        self._held.append((sender, message))
        offering = {one for one, held in self._held if held.description is not None}
        self.is_over = offering == {"1", "2"}
        if self.is_over:
            for one, held in self._held:
                passed = Passed(one, held.connection, held.description, held.candidates)
                await self._server.tell(held.to, passed)
        return True


@pytest.mark.parametrize("restarts", [False, True])
def test_both_may_offer_at_the_same_moment(
    chromium: Browser, server: SignalingServer, restarts: bool
) -> None:
    with pages(chromium, server) as opened:
        meet(opened)
        before = len(server.descriptions)
        held = HeldSignals(server)
        server.forge = held.forge
        labels = []
        for page in opened:
            labels.append(
                page.evaluate(
                    """async (restarts) => {
                      const { peer } = [...meeting.people.values()][0];
                      const { pc } = peer;
                      window.states = [];
                      pc.addEventListener("signalingstatechange", () => {
                        states.push(pc.signalingState);
                      });
                      if (restarts) await peer.restart(true);
                      await meeting.setCamera(true);
                      return peer.label;
                    }""",
                    restarts,
                )
            )
        for page in opened:
            until(
                page,
                "s.peers[0].camera && s.peers[0].cameraStream && s.peers[0].verification && "
                "s.peers[0].connection === 'connected'",
            )
            see(page)
        assert held.is_over
        said = [(sender, kind) for sender, kind, _ in server.descriptions[before:]]
        assert said[:3] == [("1", "offer"), ("2", "offer"), ("2", "answer")]
        # The impolite one's offer stood, and the other's was withdrawn for it.
        impolite, polite = (page.evaluate("() => states") for page in opened)
        assert impolite[:2] == ["have-local-offer", "stable"]
        assert polite.index("have-local-offer") < polite.index("have-remote-offer")
        # They have come to terms, and have not begun anew.
        assert labels == [
            page.evaluate("() => [...meeting.people.values()][0].peer.label") for page in opened
        ]


def test_candidates_travel_in_batches(chromium: Browser, server: SignalingServer) -> None:
    batches: list[tuple[str, int]] = []

    async def count(sender: str, message: Signal | Answer) -> bool:
        found = [] if isinstance(message, Answer) else message.candidates
        # One that is empty is how a page makes itself known.
        if any(one.candidate for one in found):
            batches.append((sender, len(found)))
        return False

    server.forge = count
    with pages(chromium, server) as opened:
        meet(opened)
    for sender in "12":
        sizes = [size for one, size in batches if one == sender]
        assert 0 < len(sizes) < sum(sizes)


def test_a_batch_of_candidates_has_a_maximum(chromium: Browser, server: SignalingServer) -> None:
    with pages(chromium, server, 1) as (page,):
        sizes = page.evaluate(
            """async () => {
              const { Peer } = await import("/static/peer.js");
              const peer = new Peer({
                is_initiator: false, configuration: {}, refresh: async () => {},
                local: { microphone: null, camera: null, screen: null }, is_online: () => true,
              });
              await Promise.resolve(); // It has said that it is there.
              const sizes = [];
              const ended = new Promise((resolve) => {
                peer.addEventListener("signal", ({ detail: { candidates } }) => {
                  sizes.push(candidates.length);
                  if (sizes.length === 3) resolve();
                });
              });
              for (let port = 1; port <= 70; port += 1) {
                const candidate = new RTCIceCandidate({
                  candidate: `candidate:1 1 udp 1 192.0.2.1 ${port} typ host`, sdpMid: "0",
                });
                peer.pc.dispatchEvent(new RTCPeerConnectionIceEvent("icecandidate", { candidate }));
              }
              const at_once = sizes.slice();
              await ended;
              peer.close();
              return { at_once, all: sizes };
            }"""
        )
    assert sizes == {"at_once": [32, 32], "all": [32, 32, 6]}


def test_who_speaks_is_seen(chromium: Browser, server: SignalingServer) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        assert state(two, "s.peers[0].speaking") is False
        play(two)
        until(two, "s.peers[0].speaking")
        one.evaluate("() => meeting.setMicrophone(false)")
        until(two, "!s.peers[0].speaking")
        one.evaluate("() => meeting.setMicrophone(true)")
        until(two, "s.peers[0].speaking")


def test_a_pause_between_words_is_no_silence(chromium: Browser, server: SignalingServer) -> None:
    loud, between, quiet = 0.04, 0.02, 0.01
    heard = [quiet, between, loud, quiet, quiet, quiet, between, quiet, quiet, quiet, quiet, loud]
    with pages(chromium, server, 1) as (page,):
        turns = page.evaluate(
            """(heard) => {
              const speech = new media.SpeechDetector();
              return heard.map((level) => [speech.add(level), speech.speaking]);
            }""",
            heard,
        )
    speaking = [False, False, *[True] * 8, False, True]
    assert [one for _, one in turns] == speaking
    assert [index for index, (has_turned, _) in enumerate(turns) if has_turned] == [2, 10, 11]


QUALITIES = [
    ("connected", 0, 0, 4),
    ("connected", 0.01, 200, 4),
    ("connected", 0.011, 200, 3),
    ("connected", 0.01, 201, 3),
    ("connected", 0.03, 400, 3),
    ("connected", 0.031, 400, 2),
    ("connected", 0.03, 401, 2),
    ("connected", 0.08, 800, 2),
    ("connected", 0.081, 0, 1),
    ("connected", 0, 801, 1),
    ("connected", None, 300, 3),
    ("connected", 0.05, None, 2),
    ("interrupted", 0, 0, 1),
    ("failed", 0, 0, 1),
    ("connecting", 0, 0, None),
]
"""Of a connection, its loss and its round trip: how many bars."""


def test_the_quality_goes_by_loss_and_round_trip(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server, 1) as (page,):
        bars, unmeasured = page.evaluate(
            """async (rows) => {
              const { qualityOf } = await import("/static/quality.js");
              return [
                rows.map(([connection, loss, rtt_ms]) => (
                  qualityOf({ connection, stats: { loss, rtt_ms } })
                )),
                qualityOf({ connection: "connected", stats: null }),
              ];
            }""",
            QUALITIES,
        )
    assert bars == [expected for *_, expected in QUALITIES]
    assert unmeasured is None


def test_a_call_is_told_in_figures_and_plotted(chromium: Browser, server: SignalingServer) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        play(one)
        until(
            one,
            "s.peers[0].stats_history.filter(({ rtt_ms, jitter_ms, loss, in_kbps, out_kbps }) => "
            "[rtt_ms, jitter_ms, loss].every((one) => Number.isFinite(one) && one >= 0) && "
            "loss <= 1 && in_kbps > 1 && out_kbps > 1).length >= 3",
        )
        plots = one.evaluate(
            """async () => {
              const [{ StatsPanel }, { addTexts }, { TEXTS }] = await Promise.all([
                import("/static/stats_panel.js"), import("/static/text.js"),
                import("/static/text_calls.js"),
              ]);
              addTexts(TEXTS);
              const panel = new StatsPanel();
              document.body.append(panel.element);
              panel.render(meeting.state);
              const latest = meeting.state.peers[0].stats_history.length;
              return {
                latest,
                said: panel.element.querySelector(".pair p").textContent,
                figures: Array.from(panel.element.querySelectorAll("figure"), (figure) => ({
                  look: figure.className,
                  last: figure.querySelector("strong").textContent,
                  points: Array.from(figure.querySelectorAll(".curve"), (curve) => (
                    curve.getAttribute("points").split(" ").length
                  )),
                })),
              };
            }"""
        )
        assert [figure["look"] for figure in plots["figures"]] == [
            "of-round-trip",
            "of-loss",
            "of-jitter",
            "of-bitrate",
        ]
        for figure in plots["figures"]:
            assert re.fullmatch(r"[\d.,]+", figure["last"]), figure
            assert sum(figure["points"]) >= 3, figure
        assert "opus" in plots["said"]
        assert "direct" in plots["said"].lower()


def test_the_label_is_that_of_the_public_key(chromium: Browser, server: SignalingServer) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        for page, other in ((one, two), (two, one)):
            own = other.evaluate(
                """async () => {
                  const { key, label } = await meeting.identity;
                  return { key: [...key], label };
                }"""
            )
            digits = hashlib.sha256(bytes(own["key"])).hexdigest()[:16]
            expected = " ".join(digits[at : at + 4] for at in range(0, 16, 4))
            assert own["label"] == expected
            assert state(page, "s.peers[0].verification.label") == expected


def test_who_is_muted_is_said_to_be(chromium: Browser, server: SignalingServer) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        passed = len(server.descriptions)
        one.evaluate("() => meeting.setMicrophone(false)")
        until(two, "!s.peers[0].microphone")
        one.evaluate("() => meeting.setMicrophone(true)")
        until(two, "s.peers[0].microphone")
        assert len(server.descriptions) == passed


def test_without_a_microphone_one_hears_the_others(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server) as (one, two):
        use_media(one)
        one.evaluate("() => meeting.createRoom({ name: 'Ada' })")
        two.evaluate("(invitation) => meeting.joinRoom({ invitation })", INVITATION)
        until(two, "s.peers[0]?.microphone && s.peers[0].audioStream")
        until(one, "s.peers[0]?.verification && !s.peers[0].microphone && !s.peers[0].audioStream")
        two.evaluate("() => meeting.setMicrophone(true)")
        until(one, "s.peers[0].microphone && s.peers[0].audioStream")


def test_what_is_written_arrives_once_and_in_order(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        one.evaluate("() => { for (let n = 0; n < 20; n += 1) meeting.say(`message ${n}`); }")
        two.evaluate("() => meeting.say('привет')")
        until(two, "s.chat.length === 21")
        until(one, "s.chat.length === 21")
        written = state(two, "s.chat.filter(({ mine }) => !mine).map(({ text }) => text)")
        assert written == [f"message {number}" for number in range(20)]
        assert state(one, "s.chat.find(({ mine }) => !mine)")["name"] == "Bob"
        with pytest.raises(Error, match="RangeError"):
            one.evaluate("() => meeting.say('x'.repeat(16 * 1024 + 1))")


def send_file(page: Page, size: int) -> str:
    """Offer a file of that size that can be told from others; its SHA-256."""
    page.evaluate(
        """(size) => {
          const pattern = new Uint8Array(65_521).map((_, index) => (index * index) >> 3);
          const parts = Array(Math.ceil(size / pattern.length)).fill(pattern);
          const file = new File([new Blob(parts).slice(0, size)], "a\\u202e/picture.png", {
            type: "image/png",
          });
          meeting.sendFile(file);
        }""",
        size,
    )
    pattern = bytes(((index * index) >> 3) & 255 for index in range(65_521))
    return hashlib.sha256((pattern * (size // len(pattern) + 1))[:size]).hexdigest()


RECEIVED_HASH = """async () => {
  const { blob } = meeting.state.files.at(-1);
  const digest = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
  return Array.from(new Uint8Array(digest), (one) => one.toString(16).padStart(2, "0")).join("");
}"""


@pytest.mark.parametrize("size", [0, 1, 20 * 1024 * 1024])
def test_a_file_arrives_as_it_was_sent(
    chromium: Browser, server: SignalingServer, size: int
) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        expected = send_file(one, size)
        until(two, "s.files[0]?.status === 'offered'")
        assert state(two, "s.files[0].name") == "a__picture.png"
        two.evaluate("() => meeting.acceptFile(meeting.state.files[0].id)")
        for page in (one, two):
            until(page, "s.files[0].status === 'done'")
            assert state(page, "s.files[0].sha256") == expected
            assert state(page, "s.files[0].sent_or_received_bytes") == size
        assert two.evaluate(RECEIVED_HASH) == expected


def test_a_file_goes_on_over_a_new_connection(chromium: Browser, server: SignalingServer) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        expected = send_file(one, 12 * 1024 * 1024)
        until(two, "s.files[0]?.status === 'offered'")
        # A sink that waits in the middle, so that the connection is lost in mid-file.
        two.evaluate(
            """() => {
              window.written = [];
              window.size = 0;
              const held = new Promise((resolve) => { window.goOn = resolve; });
              meeting.acceptFile(meeting.state.files[0].id, {
                async write(bytes) {
                  written.push(bytes.slice());
                  size += bytes.byteLength;
                  if (size > 4e6) await held;
                },
                async close() { return new Blob(written); },
                async abort() {},
              });
            }"""
        )
        two.wait_for_function("() => size > 4e6", timeout=TIMEOUT_MS)
        one.evaluate(
            """() => {
              window.statuses = new Set();
              meeting.files.addEventListener("change", () => {
                statuses.add(meeting.state.files[0].status);
              });
              [...meeting.people.values()][0].peer.rebuild();
            }"""
        )
        one.wait_for_function("() => statuses.has('paused')", timeout=TIMEOUT_MS)
        two.evaluate("() => goOn()")
        until(two, "s.files[0].status === 'done'")
        assert two.evaluate(RECEIVED_HASH) == expected
        assert two.evaluate("() => size") == 12 * 1024 * 1024


def test_a_file_is_declined_and_another_cancelled(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        send_file(one, 100)
        send_file(one, 100)
        until(two, "s.files.length === 2")
        two.evaluate("() => meeting.declineFile(meeting.state.files[0].id)")
        one.evaluate("() => meeting.cancelFile(meeting.state.files[1].id)")
        until(one, "s.files[0].status === 'declined' && s.files[1].status === 'failed'")
        until(two, "s.files[1].status === 'failed' && s.files[1].reason === 'cancelled'")


def test_a_lost_connection_to_the_node_comes_back(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        label = one.evaluate("() => [...meeting.people.values()][0].peer.label")
        server.is_open = False
        server.cut("1")
        until(one, "!s.online")
        until(two, "s.peers[0].away")
        # What is done meanwhile is done when the node is back.
        one.evaluate("() => { meeting.setCamera(true); }")
        server.is_open = True
        until(one, "s.online")
        until(two, "!s.peers[0].away && s.peers[0].camera")
        assert server.of_type("resume") == ["1"]
        assert one.evaluate("() => [...meeting.people.values()][0].peer.label") == label


@pytest.mark.parametrize("reloaded", [0, 1])
def test_a_page_that_is_loaded_anew_goes_on(
    chromium: Browser, server: SignalingServer, reloaded: int
) -> None:
    with pages(chromium, server) as opened:
        meet(opened)
        page, other = opened[reloaded], opened[1 - reloaded]
        page.reload()
        page.evaluate(_LOAD)
        use_media(page)
        assert page.evaluate("() => meeting.resume()") is True
        for one in opened:
            until(one, "s.peers[0]?.connection === 'connected' && s.peers[0].verification")
        assert state(page, "s.peers[0].verification.identity") == "known"
        assert state(page, "s.peers[0].verification.emoji") == state(
            other, "s.peers[0].verification.emoji"
        )
        assert state(page, "s.invitation") == INVITATION
        other.evaluate("() => meeting.say('again')")
        until(page, "s.chat[0]?.text === 'again'")


def test_a_session_that_is_over_ends_the_meeting(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        server.remembers = False
        server.cut("2")
        until(two, "s.phase === 'over' && s.over === 'not-resumable'")
        assert two.evaluate("() => sessionStorage.length") == 0


@pytest.mark.parametrize("restarting", [0, 1])
def test_ice_is_restarted_by_either_side(
    chromium: Browser, server: SignalingServer, restarting: int
) -> None:
    with pages(chromium, server) as opened:
        meet(opened)
        before = [
            page.evaluate(
                """() => {
                  const { pc } = [...meeting.people.values()][0].peer;
                  return /ice-ufrag:(\\S+)/.exec(pc.currentLocalDescription.sdp)[1];
                }"""
            )
            for page in opened
        ]
        opened[restarting].evaluate("() => [...meeting.people.values()][0].peer.restart(true)")
        for page in opened:
            # What was agreed on last, and by which the connection stands.
            page.wait_for_function(
                """(before) => {
                  const { pc } = [...meeting.people.values()][0].peer;
                  const now = /ice-ufrag:(\\S+)/.exec(pc.currentLocalDescription.sdp)[1];
                  return now !== before && pc.connectionState === "connected";
                }""",
                arg=before[opened.index(page)],
                timeout=TIMEOUT_MS,
            )


def test_swapped_fingerprints_let_nothing_through(
    chromium: Browser, server: SignalingServer
) -> None:
    server.swap_fingerprints = True
    with pages(chromium, server) as (one, two):
        one.evaluate("() => meeting.createRoom({})")
        two.evaluate("(invitation) => meeting.joinRoom({ invitation })", INVITATION)
        until(one, "s.peers[0]?.connection === 'interrupted'")
        assert state(one, "s.peers[0].verification") is None


def test_a_guest_waits_until_the_host_has_let_them_in(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server) as (host, guest):
        host.evaluate("() => meeting.createRoom({ name: 'Ada', lobby: true })")
        invitation = host.evaluate("() => meeting.host.invite({ uses: 1 })")
        guest.evaluate("(invitation) => meeting.joinRoom({ invitation, name: 'Bob' })", invitation)
        until(guest, "s.phase === 'waiting'")
        until(host, "s.knocking.length === 1")
        host.evaluate("() => meeting.host.admit(meeting.state.knocking[0].id)")
        until(guest, "s.phase === 'in' && s.peers[0]?.connection === 'connected'")


def test_three_know_each_other_and_the_rosters_agree(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server, 3) as opened:
        meet(opened)
        for page in opened:
            until(page, "s.peers.every((one) => one.verification.rosterAgrees)")
        # As if somebody sat between the first and the second.
        opened[1].evaluate("() => meeting.people.get('3').sayRoster({ '1': 'f'.repeat(64) })")
        until(opened[2], "s.peers.some((one) => one.id === '1' && !one.verification.rosterAgrees)")


def test_a_call_is_answered_by_a_click(chromium: Browser, server: SignalingServer) -> None:
    with pages(chromium, server) as (caller, callee):
        for page, role in ((caller, "caller"), (callee, "callee")):
            use_media(page)
            page.evaluate(
                "([call, secret]) => meeting.openCall({ call, secret })", [CALL, SECRETS[role]]
            )
        callee.wait_for_function(
            "() => [...meeting.people.values()][0]?.peer.pc.signalingState === 'have-remote-offer'",
            timeout=TIMEOUT_MS,
        )
        assert state(callee, "s.phase") == "ringing"
        assert not server.kinds
        callee.evaluate("() => meeting.answer()")
        for page in (caller, callee):
            until(page, "s.phase === 'in' && s.peers[0]?.connection === 'connected'")
        assert server.of_type("answer") == ["2"]
        callee.evaluate("() => meeting.setCamera(true)")
        until(caller, "s.peers[0].camera && s.call.kind === 'video'")
        assert sorted(server.of_type("connected")) == ["1", "2"]
        caller.evaluate("() => meeting.hangUp()")
        until(callee, "s.phase === 'over' && s.over === 'hung-up'")


def test_a_call_whose_session_is_over_is_opened_anew(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server) as (caller, callee):
        for page, role in ((caller, "caller"), (callee, "callee")):
            use_media(page)
            page.evaluate(
                "([call, secret]) => meeting.openCall({ call, secret })", [CALL, SECRETS[role]]
            )
        callee.evaluate("() => meeting.answer()")
        for page in (caller, callee):
            until(page, "s.phase === 'in' && s.peers[0]?.connection === 'connected'")
        server.remembers = False
        server.cut("1")
        until(caller, "!s.online")
        until(caller, "s.online")
        for page in (caller, callee):
            until(page, "s.phase === 'in' && s.peers[0]?.connection === 'connected'")
        assert server.of_type("open_call") == ["1", "2", "1"]


def test_who_sits_in_between_is_seen_by_the_strings(
    chromium: Browser, server: SignalingServer
) -> None:
    eavesdropper = Eavesdropper(server, "room")
    server.forge = eavesdropper.forge
    with pages(chromium, server) as opened:
        meet(opened)
        one, two = (state(page, "s.peers[0].verification") for page in opened)
        assert one["failed"] is two["failed"] is None
        assert len(one["emoji"]) == len(two["emoji"]) == 7
        assert one["emoji"] != two["emoji"]
        server.run(eavesdropper.close())


def test_a_fingerprint_that_is_another_one_later_is_not_followed(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        after = two.evaluate(
            """async () => {
              const { peer } = meeting.people.get("1");
              const { pc } = peer;
              const swapped = pc.remoteDescription.sdp.replace(
                /(a=fingerprint:sha-256 )(..)/g,
                (_, head, byte) => head + (byte === "00" ? "11" : "00"),
              );
              const description = { type: "offer", sdp: swapped };
              await peer.receive({ connection: `${peer.far}-${peer.label}`, description });
              return [pc.connectionState, meeting.state.peers[0].verification];
            }"""
        )
        assert after == ["closed", None]
        # They begin anew, and know each other.
        for page in (one, two):
            until(page, "s.peers[0].connection === 'connected' && s.peers[0].verification")
            assert state(page, "s.peers[0].verification.identity") == "known"


def test_who_goes_on_under_another_key_is_noticed(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server) as (one, two):
        meet([one, two])
        assert state(one, "s.peers[0].verification.identity") == "new"
        two.evaluate(
            """async () => {
              const [{ Identity }, { dropKey }] = await Promise.all([
                import("/static/identity.js"), import("/static/store.js"),
              ]);
              await dropKey("identity");
              const person = meeting.people.get("1");
              person.identity = Identity.load();
              person.peer.rebuild();
            }"""
        )
        until(one, "s.peers[0].verification?.identity === 'changed'")
        one.evaluate("() => meeting.setVerified('2', false)")
        until(one, "s.peers[0].verification.identity === 'differs'")
        one.evaluate("() => meeting.setVerified('2', true)")
        until(one, "s.peers[0].verification.identity === 'verified'")


def test_a_name_makes_nobody_somebody_else(chromium: Browser, server: SignalingServer) -> None:
    with pages(chromium, server, 1) as (page,):
        met = page.evaluate(
            """async () => {
              const { meet, setVerified } = await import("/static/acquaintances.js");
              const verify = (identity, name) => setVerified({ identity, name, address: "" }, true);
              const seen = (identity, name) => meet({ identity, name, address: "" });
              await verify("a", "Ada");
              await verify("b", "Bob");
              return [
                await seen("a", "Ada"),
                await seen("b", "Ada"), // Bob, who was compared with, under Ada's name.
                await seen("b", "Robert"),
                await seen("c", "Bob"), // The node had called Bob another name meanwhile.
                await seen("c", "Carol"),
              ];
            }"""
        )
    assert met == ["verified", "changed", "verified", "changed", "known"]


def test_a_handshake_that_is_passed_on_or_changed_fails(
    chromium: Browser, server: SignalingServer
) -> None:
    with pages(chromium, server, 1) as (page,):
        outcomes = page.evaluate(
            """async () => {
              const [{ Handshake }, { Identity }] = await Promise.all([
                import("/static/verification.js"), import("/static/identity.js"),
              ]);
              const identity = await Identity.load();
              const bytes = (number) => new Uint8Array(32).fill(number);
              const same = (reveal) => reveal;
              async function shake(own, other, { place = "room", change = same } = {}) {
                const a = new Handshake({
                  role: "a", place: "room", identity,
                  fingerprints: { own: bytes(1), other: bytes(other) },
                });
                const b = new Handshake({
                  role: "b", place, identity, fingerprints: { own: bytes(own), other: bytes(1) },
                });
                const [first, second] = [await a.start(), await b.start()];
                const [one, two] = [await a.receive(second), await b.receive(first)];
                try {
                  await a.receive(change(two));
                  await b.receive(one);
                } catch (error) {
                  return [error.reason];
                }
                return [a, b].map(({ result }) => [result.failure, result.emoji.join("")]);
              }
              const changed = (message) => ({
                ...message,
                reveal: message.reveal.replace(/^./, (one) => (one === "A" ? "B" : "A")),
              });
              return {
                honest: await shake(2, 2),
                passed_on: await shake(2, 3),
                elsewhere: await shake(2, 2, { place: "another" }),
                changed: await shake(2, 2, { change: changed }),
              };
            }"""
        )
    (one, other) = outcomes["honest"]
    assert one == other
    assert one[0] is None
    assert outcomes["passed_on"][0][0] == "signature"
    assert outcomes["passed_on"][0][1] != outcomes["passed_on"][1][1]
    assert [failure for failure, _ in outcomes["elsewhere"]] == ["signature", "signature"]
    assert outcomes["changed"] == ["commit"]
