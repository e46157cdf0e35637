"""What pages may not do, done to a real node; and what a node keeps of what they have said."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import pytest
from nacl.signing import SigningKey
from websockets.exceptions import ConnectionClosed

from core.stun.address import Address
from core.stun.constants import Method
from relay.signaling.hub import ERRORS_MAXIMUM
from relay.signaling.messages import MESSAGE_MAXIMUM_BYTES
from relay.signaling.room import ROOM_PEOPLE
from tests.support.node import USERS, RunningNode, run_montana, running_node, write_config
from tests.support.signaling_client import PATIENCE_S, Page
from tests.support.turn_client import TRANSPORT, UdpClient, outcome, send_indication

TOKEN = "the operator's word"
SIGNALING = f"""
[signaling]
rooms = "free"
room_token = "{TOKEN}"
allowed_origins = ["https://elsewhere.example"]
messages_per_second = 100
"""
MARKER = "Mark3rTh4tNobodyKeeps"
HOME = "192.168.77.9"
SDP = (
    f"v=0\r\no=- 4611731400430051336 2 IN IP4 {HOME}\r\ns=-\r\nt=0 0\r\na=x:{MARKER}\r\n"
    f"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 {HOME}\r\na=ice-pwd:{MARKER}\r\na=sendrecv\r\n"
)
CANDIDATE = f"candidate:1 1 udp 2122260223 {HOME} 55123 typ host ufrag {MARKER}"
NOTHING = [{"candidate": ""}]
FORBIDDEN = 403
NOT_TEXT = 1003
TOO_BIG = 1009
POLICY = 1008
FLOOD_PER_SECOND = 1_000
FLOOD_MESSAGES = 3_000


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node(more=SIGNALING) as running:
        for name in ("alice", "bob", "carol"):
            running.command("account", "create", f"user:{name}")
            running.command("account", "credit", f"user:{name}", "1000")
        yield running


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


class Link(NamedTuple):
    """A call's id, and the secrets of its sides."""

    id: str
    caller: str
    callee: str


def make_link(node: RunningNode, caller: str = "alice", callee: str = "bob") -> Link:
    printed = node.command(
        "call", "link", "--from", f"user:{caller}", "--to", f"user:{callee}", "--json"
    )
    made = json.loads(printed)
    caller_secret, callee_secret = (
        made[side].partition("#")[2] for side in ("caller_url", "callee_url")
    )
    return Link(made["call_id"], caller_secret, callee_secret)


def open_call(node: RunningNode, stack: ExitStack, link: Link) -> tuple[Page, Page]:
    """Both sides of a call that rings."""
    pages = []
    for secret in (link.caller, link.callee):
        page = stack.enter_context(Page(node.http))
        assert page.ask("open_call", call=link.id, secret=secret)["type"] == "entered"
        pages.append(page)
    caller, callee = pages
    caller.expect("peer_joined")
    return caller, callee


def open_room(
    node: RunningNode, stack: ExitStack, guests: int = 1, **options: Any
) -> tuple[list[Page], list[dict[str, Any]]]:
    """A host and guests, and what each was told on entering."""
    pages = [stack.enter_context(Page(node.http))]
    told = [pages[0].ask("create", name="host", token=TOKEN, **options)]
    assert told[0]["type"] == "entered", told
    for _ in range(guests):
        pages.append(stack.enter_context(Page(node.http)))
        told.append(pages[-1].ask("join", invitation=told[0]["invitation"], name="guest"))
        assert told[-1]["type"] == "entered", told[-1]
    return pages, told


def offer(page: Page, to: str = "1", **more: Any) -> int:
    return page.say(
        "signal", to=to, connection="one", description={"type": "offer", "sdp": SDP}, **more
    )


def talk(caller: Page, callee: Page) -> None:
    """Go from ringing to both being connected."""
    offer(caller)
    callee.expect("signal")
    callee.say("answer", connection="two", description={"type": "answer", "sdp": SDP})
    caller.expect("signal")
    for page in (caller, callee):
        page.say("connected")
        assert page.ask("ping")["type"] == "pong"


def refusal(page: Page, kind: str, **fields: Any) -> str:
    answer = page.ask(kind, **fields)
    assert answer["type"] == "error", answer
    return str(answer["code"])


def assert_can_talk(one: Page, other: Page, to: str) -> None:
    """What one says arrives at the other."""
    one.say("signal", to=to, connection="goes-on", candidates=NOTHING)
    assert other.expect("signal", connection="goes-on")["candidates"]


# ------------------------------------------------------------ what is no message


def test_what_is_too_large_ends_its_own_connection_alone(
    node: RunningNode, stack: ExitStack
) -> None:
    (host, guest, third), told = open_room(node, stack, guests=2)
    guest.send_raw(f'"{"x" * MESSAGE_MAXIMUM_BYTES}"')
    assert guest.wait_closed() == TOO_BIG
    assert host.expect("peer_away")["peer"] == told[1]["you"]
    assert_can_talk(host, third, told[2]["you"])
    # The place is kept: it comes back.
    again = stack.enter_context(Page(node.http, seq=guest.seq))
    assert again.ask("resume", session=told[1]["session"])["you"] == told[1]["you"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("rubbish", "malformed"),
        ("[]", "malformed"),
        ('{"type": "ping"}', "malformed"),
        ('{"type": "ping", "seq": -1}', "malformed"),
        ('{"type": "ping", "seq": 1e400}', "malformed"),
        ('{"type": "dance", "seq": 2}', "unknown-type"),
        ("[" * 60_000, "malformed"),
        ('{"type": "kick", "seq": 2, "peer": "../../etc"}', "malformed"),
        ('{"type": "signal", "seq": 2, "to": "0", "connection": "\\u0000"}', "malformed"),
    ],
)
def test_what_can_t_be_read_is_refused(
    node: RunningNode, stack: ExitStack, text: str, code: str
) -> None:
    (host, guest), told = open_room(node, stack)
    guest.send_raw(text)
    refused = guest.expect("error")
    assert (refused["re"], refused["code"]) == (None, code)
    assert_can_talk(guest, host, told[0]["you"])


def test_nothing_but_text_is_a_message(node: RunningNode, stack: ExitStack) -> None:
    (host, guest, third), told = open_room(node, stack, guests=2)
    guest.send_raw(b'{"type": "ping", "seq": 2}')
    assert guest.wait_closed() == NOT_TEXT
    assert_can_talk(host, third, told[2]["you"])


# ------------------------------------------------------------ order


def test_what_was_said_before_and_what_comes_too_early(node: RunningNode, stack: ExitStack) -> None:
    (host, guest), told = open_room(node, stack)
    once = json.dumps(
        {
            "type": "signal",
            "seq": guest.seq + 1,
            "to": told[0]["you"],
            "connection": "once",
            "candidates": NOTHING,
        }
    )
    guest.send_raw(once)
    host.expect("signal", connection="once")
    guest.send_raw(once)
    refused = guest.expect("error")
    assert (refused["code"], refused["last"]) == ("replayed", guest.seq + 1)
    guest.seq += 2
    guest.say("ping")
    refused = guest.expect("error")
    assert (refused["code"], refused["last"]) == ("out-of-order", guest.seq - 2)
    guest.seq -= 2
    assert_can_talk(guest, host, told[0]["you"])
    assert sum(one.get("connection") == "once" for one in host.heard) == 1


# ------------------------------------------------------------ the wrong place


def test_nobody_reaches_another_room(node: RunningNode, stack: ExitStack) -> None:
    (host, _), _ = open_room(node, stack)
    (_, stranger, _), told = open_room(node, stack, guests=2)
    # Ids are a room's own: the third one's is nobody's where only two are.
    assert refusal(host, "signal", to=told[2]["you"], connection="x", candidates=NOTHING) == (
        "no-peer"
    )
    assert refusal(host, "kick", peer=told[2]["you"]) == "no-peer"
    assert stranger.ask("ping")["type"] == "pong"
    assert not [one for one in stranger.heard if one["type"] in ("signal", "ended")]


def test_a_secret_opens_no_other_call(node: RunningNode, stack: ExitStack) -> None:
    first, second = make_link(node), make_link(node, "carol", "bob")
    page = stack.enter_context(Page(node.http))
    assert refusal(page, "open_call", call=second.id, secret=first.caller) == "bad-secret"
    assert refusal(page, "open_call", call=first.id, secret="x" * 43) == "bad-secret"
    assert refusal(page, "open_call", call="CALL-AAAAAAAA", secret=first.caller) == "bad-secret"
    assert page.ask("open_call", call=first.id, secret=first.caller)["call"]["role"] == "caller"
    page.say("hang_up")
    page.expect("ended")


def test_an_operator_reads_what_has_not_ended_page_by_page(node: RunningNode) -> None:
    made = {make_link(node, "carol", "alice").id for _ in range(3)}
    listed: list[str] = []
    options: tuple[str, ...] = ()
    while True:
        shown = json.loads(node.command("call", "list", "--limit", "2", "--json", *options))
        assert len(shown["calls"]) <= 2
        listed += [call["id"] for call in shown["calls"]]
        if shown["next"] is None:
            break
        options = ("--before", shown["next"])
    assert len(listed) == len(set(listed))
    assert made <= set(listed)
    for call in made:
        node.command("call", "end", call)


def test_what_does_not_fit_the_state_of_a_call(node: RunningNode, stack: ExitStack) -> None:
    link = make_link(node)
    caller, callee = open_call(node, stack, link)
    answer = {"connection": "two", "description": {"type": "answer", "sdp": SDP}}
    assert refusal(callee, "connected") == "wrong-state"
    offer(caller)
    callee.expect("signal")
    assert refusal(caller, "answer", **answer) == "wrong-state"
    assert refusal(caller, "kick", peer="1") == "wrong-state"
    assert refusal(caller, "signal", to="0", connection="x", candidates=NOTHING) == "no-peer"
    assert refusal(caller, "open_call", call=link.id, secret=link.callee) == "wrong-state"
    assert refusal(callee, "account") == "wrong-state"
    callee.say("answer", **answer)
    caller.expect("signal")
    for page in (caller, callee):
        page.say("connected")
    # A second one answers nothing.
    assert refusal(callee, "answer", **answer) == "wrong-state"
    assert_can_talk(caller, callee, "1")
    callee.say("hang_up")
    for page in (caller, callee):
        assert page.expect("ended")["reason"] == "hung-up"
        assert refusal(page, "signal", to="1", connection="x", candidates=NOTHING) == (
            "wrong-state"
        )
        assert refusal(page, "resume", session="x" * 43) == "not-resumable"
        again = page.ask("open_call", call=link.id, secret=link.caller)
        assert again["call"]["status"] == "ended"
        page.expect("ended")


def test_a_guest_is_no_host(node: RunningNode, stack: ExitStack) -> None:
    (host, guest, third), told = open_room(node, stack, guests=2)
    you = told[2]["you"]
    for kind, fields in (
        ("kick", {"peer": you}),
        ("admit", {"peer": you}),
        ("deny", {"peer": you}),
        ("set_room", {"locked": True, "lobby": True}),
        ("invite", {}),
    ):
        assert refusal(guest, kind, **fields) == "not-host", kind
    assert refusal(guest, "connected") == "wrong-state"
    assert refusal(guest, "answer", connection="x", description={"type": "answer", "sdp": SDP}) == (
        "wrong-state"
    )
    assert_can_talk(host, third, you)


# ------------------------------------------------------------ too many


def test_a_flood_is_its_own_sender_s_alone(node: RunningNode, stack: ExitStack) -> None:
    (flooder, *others), told = open_room(node, stack, guests=3)
    alone = stack.enter_context(Page(node.http))
    alone.ask("create", token=TOKEN)
    pongs = 0
    for _ in range(20):
        with suppress(ConnectionClosed):
            for _ in range(50):
                flooder.say("signal", to=told[1]["you"], connection="flood", candidates=NOTHING)
        for page in (*others, alone):
            pongs += page.ask("ping")["type"] == "pong"
    assert pongs == 20 * 4
    assert flooder.wait_closed() == POLICY
    refused = [one for one in flooder.heard if one.get("code") == "too-many"]
    passed = [one for one in others[0].heard if one.get("connection") == "flood"]
    assert len(refused) == ERRORS_MAXIMUM
    assert passed
    assert len(passed) + len(refused) < 1_000
    assert_can_talk(others[0], others[1], told[2]["you"])


class Flood:
    """A page that says a thousand messages a second; shown the door, it comes back and goes on.

    Attributes:
        sent: messages, of which many are refused or come to a closed door.
        refused: those that were answered as too many, on connections that have ended.
    """

    def __init__(self, node: RunningNode, stack: ExitStack, page: Page, session: str) -> None:
        self.sent = 0
        self.refused = 0
        self.is_over = Event()
        self._node = node
        self._stack = stack
        self._page = page
        self._session = session

    def run(self, to: str) -> None:
        begun_s = time.monotonic()
        while not self.is_over.is_set():
            try:
                self._page.say("signal", to=to, connection="flood", candidates=NOTHING)
            except ConnectionClosed:
                self._come_back()
            self.sent += 1
            time.sleep(max(0.0, begun_s + self.sent / FLOOD_PER_SECOND - time.monotonic()))

    def _come_back(self) -> None:
        self._page.wait_closed()
        self.refused += sum(one.get("code") == "too-many" for one in self._page.heard)
        self._page = self._stack.enter_context(Page(self._node.http, seq=self._page.seq))
        assert self._page.ask("resume", session=self._session)["type"] == "entered"


def test_a_flood_that_does_not_end_is_not_felt_in_another_room(
    node: RunningNode, stack: ExitStack, record_property: Callable[[str, object], None]
) -> None:
    (flooder, _), told = open_room(node, stack)
    (one, other), met = open_room(node, stack)
    flood = Flood(node, stack, flooder, told[0]["session"])
    passed_s: list[float] = []
    begun_s = time.monotonic()
    with ThreadPoolExecutor() as threads:
        flooding = threads.submit(flood.run, told[1]["you"])
        try:
            while flood.sent < FLOOD_MESSAGES and not flooding.done():
                connection = f"number-{len(passed_s)}"
                for speaker, listener, to in ((one, other, met[1]), (other, one, met[0])):
                    said_s = time.monotonic()
                    speaker.say("signal", to=to["you"], connection=connection, candidates=NOTHING)
                    # The next one that arrives: none is missing, and none was overtaken.
                    assert listener.expect("signal")["connection"] == connection
                    passed_s.append(time.monotonic() - said_s)
                # They themselves keep within what a page may say.
                time.sleep(0.02)
        finally:
            flood.is_over.set()
        flooding.result()
    record_property("flood_per_second", flood.sent / (time.monotonic() - begun_s))
    record_property("passed_median_ms", statistics.median(passed_s) * 1_000)
    record_property("passed_longest_ms", max(passed_s) * 1_000)
    assert flood.refused >= ERRORS_MAXIMUM
    for page in (one, other):
        assert page.ask("ping")["type"] == "pong"
        assert not [heard for heard in page.heard if heard["type"] == "error"]
        assert sum(heard["type"] == "signal" for heard in page.heard) == len(passed_s) // 2


def test_who_does_not_stop_is_shown_the_door(node: RunningNode, stack: ExitStack) -> None:
    (host, flooder, third), told = open_room(node, stack, guests=2)
    for _ in range(ERRORS_MAXIMUM):
        flooder.send_raw("rubbish")
    assert flooder.wait_closed() == POLICY
    assert_can_talk(host, third, told[2]["you"])


def test_the_thirteenth_is_refused(node: RunningNode, stack: ExitStack) -> None:
    _, told = open_room(node, stack, guests=ROOM_PEOPLE - 1)
    page = stack.enter_context(Page(node.http))
    assert refusal(page, "join", invitation=told[0]["invitation"]) == "full"


# ------------------------------------------------------------ who may


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1", ""]
)
def test_a_page_of_another_origin_is_refused(node: RunningNode, origin: str) -> None:
    assert status_of_upgrade(node.http.removeprefix("http://"), origin or None) == FORBIDDEN


def test_the_operator_names_other_origins(node: RunningNode) -> None:
    with Page(node.http, origin="https://elsewhere.example") as page:
        assert page.ask("create", token=TOKEN)["type"] == "entered"


def status_of_upgrade(where: str, origin: str | None) -> int:
    """What a browser's request for a WebSocket is answered with."""
    host, _, port = where.partition(":")
    lines = [
        "GET /ws HTTP/1.1",
        f"Host: {where}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *([f"Origin: {origin}"] if origin is not None else []),
    ]
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")
        return int(connection.recv(64).split()[1])


def test_the_environment_is_heard(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        where = f"127.0.0.1:{probe.getsockname()[1]}"
    config = write_config(tmp_path, more=SIGNALING)
    text = config.read_text().replace(
        '[http]\nlisten = "127.0.0.1:0"',
        f'[http]\nlisten = "{where}"\npublic_url = "https://node.example"',
    )
    config.write_text(text)
    variables = {
        "PROD": "1",
        "ROOM_TOKEN": "of the environment",
        "ALLOWED_ORIGINS": "https://a.example, https://b.example",
    }
    with running_node(config=config, variables=variables):
        assert status_of_upgrade(where, "https://elsewhere.example") == FORBIDDEN
        for origin in ("https://a.example", "https://b.example", "https://node.example"):
            with Page(f"http://{where}", origin=origin) as page:
                assert page.welcome["relay_only"]
                assert refusal(page, "create", token=TOKEN) == "token-needed"
                assert page.ask("create", token="of the environment")["relay_only"]


def test_production_takes_tls(tmp_path: Path) -> None:
    config = write_config(tmp_path, more=SIGNALING)
    refused = run_montana("up", "--config", str(config), check=False, PROD="1")
    assert refused.returncode
    assert "PROD" in refused.stderr
    assert "TLS" in refused.stderr


def test_an_invitation_for_one_is_used_once(node: RunningNode, stack: ExitStack) -> None:
    (host,), _ = open_room(node, stack, guests=0)
    invitation = host.ask("invite", uses=1)["invitation"]
    first, second = (stack.enter_context(Page(node.http)) for _ in range(2))
    assert first.ask("join", invitation=invitation)["type"] == "entered"
    assert refusal(second, "join", invitation=invitation) == "used-up"
    assert refusal(second, "join", invitation="x" * 43) == "bad-secret"


def test_a_session_is_not_taken_by_what_was_recorded(node: RunningNode, stack: ExitStack) -> None:
    (host, guest), told = open_room(node, stack)
    recorded = {"session": told[1]["session"]}
    guest.cut()
    host.expect("peer_away")
    again = stack.enter_context(Page(node.http, seq=guest.seq))
    assert again.ask("resume", **recorded)["type"] == "entered"
    # The very message once more, and one with the number before it.
    for seq in (again.seq - 1, again.seq - 2):
        thief = stack.enter_context(Page(node.http, seq=seq))
        assert refusal(thief, "resume", **recorded) == "replayed"
    assert_can_talk(again, host, told[0]["you"])
    # A session that was left can't be taken up by anybody.
    again.say("hang_up")
    again.expect("ended")
    thief = stack.enter_context(Page(node.http, seq=again.seq))
    assert refusal(thief, "resume", **recorded) == "not-resumable"


def test_a_signature_is_good_for_one_connection_of_one_origin(
    node: RunningNode, stack: ExitStack
) -> None:
    key = SigningKey.generate()
    first, second = (stack.enter_context(Page(node.http)) for _ in range(2))
    elsewhere = stack.enter_context(Page(node.http, origin="https://elsewhere.example"))
    proof = first.proof(key)
    # Of another connection's challenge; and of another origin's page, relayed to this connection.
    assert refusal(second, "sign_in", proof=proof) == "bad-proof"
    elsewhere.welcome["challenge"] = second.welcome["challenge"]
    assert refusal(second, "sign_in", proof=elsewhere.proof(key)) == "bad-proof"
    other = {**second.proof(key), "key": first.proof(SigningKey.generate())["key"]}
    assert refusal(second, "sign_in", proof=other) == "bad-proof"
    assert second.ask("sign_in", proof=second.proof(key))["type"] == "signed_in"
    assert first.ask("sign_in", proof=proof)["type"] == "signed_in"


# ------------------------------------------------------------ relays


def turn_client(node: RunningNode, ice: list[dict[str, Any]]) -> UdpClient:
    """Who has these credentials."""
    return UdpClient(node.turn[0], ice[0]["username"], ice[0]["credential"], timeout_s=PATIENCE_S)


def allocated(client: UdpClient) -> int:
    """0 when an allocation is made, which is given back, else the code of its refusal."""
    found = outcome(client.ask(Method.ALLOCATE, [TRANSPORT]))
    if not found:
        client.close_allocation()
    return found


def test_credentials_are_worth_nothing_when_it_is_over(node: RunningNode, stack: ExitStack) -> None:
    link = make_link(node)
    caller, callee = open_call(node, stack, link)
    client = stack.enter_context(turn_client(node, caller.ask("refresh_ice")["ice"]))
    talk(caller, callee)
    assert allocated(client) == 0
    caller.say("hang_up")
    callee.expect("receipt")
    assert allocated(client) == FORBIDDEN

    (host, guest), told = open_room(node, stack)
    client = stack.enter_context(turn_client(node, told[1]["ice"]))
    assert allocated(client) == 0
    for page in (guest, host):
        page.say("hang_up")
        page.expect("ended")
    end_s = time.monotonic() + PATIENCE_S
    while (found := allocated(client)) == 0:
        # A room's credentials end within the second after it.
        assert time.monotonic() < end_s
        time.sleep(0.1)
    assert found == FORBIDDEN


def test_who_is_in_a_free_room_has_its_share_of_bandwidth() -> None:
    # A packet takes many minutes' worth of a byte a second: each direction carries one alone.
    dropped = 0
    with running_node(more=f"{SIGNALING}free_bytes_per_second = 1") as node, ExitStack() as stack:
        _, told = open_room(node, stack)
        clients = [stack.enter_context(turn_client(node, one["ice"])) for one in told]
        peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(PATIENCE_S)
        address = Address.from_text(*peer.getsockname())

        def say(client: UdpClient, number: int) -> None:
            client.send(send_indication(address, number.to_bytes(1_000)))

        def wait_for_drops() -> None:
            end_s = time.monotonic() + PATIENCE_S
            while (found := node.status()["drops"]["rate"]) != dropped:
                assert time.monotonic() < end_s, found
                time.sleep(0.1)

        # Each has a share of its own, whatever the other one has taken.
        for client in clients:
            (relay,) = client.allocate()
            assert client.permit(address) == 0
            for number in range(3):
                say(client, number)
            dropped += 2
            wait_for_drops()
            assert peer.recv(2_000) == bytes(1_000)
            for _ in range(3):
                peer.sendto(bytes(1_000), (relay.host, relay.port))
            dropped += 2
            wait_for_drops()
            heard = client.receive()
            assert heard is not None
            assert bytes(1_000) in heard
        # It is the room's bound, not the node's.
        alice = stack.enter_context(UdpClient(node.turn[0], "alice", USERS["alice"]))
        alice.allocate()
        assert alice.permit(address) == 0
        for number in range(3):
            say(alice, number)
            assert peer.recv(2_000) == number.to_bytes(1_000)
        wait_for_drops()


# ------------------------------------------------------------ what is kept


def test_nothing_of_what_pages_say_is_kept(tmp_path: Path) -> None:
    config = write_config(tmp_path, more=SIGNALING)
    config.write_text(config.read_text() + '[log]\nlevel = "debug"\n')
    secrets: set[str] = {MARKER, HOME, TOKEN}
    with running_node(config=config) as node, ExitStack() as stack:
        for name in ("alice", "bob"):
            node.command("account", "create", f"user:{name}")
            node.command("account", "credit", f"user:{name}", "1000")
        link = make_link(node)
        secrets |= {link.caller, link.callee}
        caller, callee = open_call(node, stack, link)
        talk(caller, callee)
        caller.say("signal", to="1", connection="one", candidates=[{"candidate": CANDIDATE}])
        caller.expect("call")
        (host, guest), told = open_room(node, stack)
        offer(host, told[1]["you"], candidates=[{"candidate": CANDIDATE}])
        assert MARKER in str(guest.expect("signal"))
        key = SigningKey.generate()
        with Page(node.http) as page:
            proof = page.proof(key)
            secrets |= {proof["signature"], page.welcome["challenge"]}
            secrets.add(page.ask("sign_in", proof=proof)["session"])
        for page in (caller, callee, host, guest):
            for one in page.heard:
                secrets |= {one[name] for name in ("session", "invitation") if one.get(name)}
                secrets |= {server["credential"] for server in one.get("ice", ())}
        # A status, metrics and a refused message while all of it lives.
        guest.send_raw(json.dumps({"type": MARKER, "seq": 99, "sdp": MARKER}))
        guest.expect("error")
        guest.send_raw(json.dumps({"type": "ping", "seq": MARKER}))
        guest.expect("error")
        shown = [json.dumps(node.status())]
        metrics = HTTPConnection(node.metrics.removeprefix("http://"), timeout=10)
        metrics.request("GET", "/metrics")
        shown.append(metrics.getresponse().read().decode())
        metrics.close()
        for page in (caller, host, guest):
            page.say("hang_up")
            page.expect("ended")
        callee.expect("receipt")
        shown += [node.log(), node.command("call", "list", "--account", "user:alice", "--json")]
        shown.append(json.dumps(node.status()))
    assert len(secrets) > 10
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != config]
    assert any(path.name == "data.mdb" for path in written), written
    for secret in secrets:
        assert not [text for text in shown if secret in text], secret
        for path in written:
            assert secret.encode() not in path.read_bytes(), (secret, path)
