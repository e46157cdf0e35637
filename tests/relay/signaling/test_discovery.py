"""Discovery in the local network: who is answered, what is believed, and real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given

from core.clock import SystemClock, VirtualClock
from core.errors import ConfigError, OperationError
from core.identity import Identity, load
from relay import cli
from relay.signaling.discovery import (
    ANSWERS_BURST,
    ANSWERS_PER_SOURCE,
    DATAGRAM_MAXIMUM_BYTES,
    FOUND_MAXIMUM,
    PROBE_BYTES,
    SOURCE_INTERVAL_S,
    Found,
    Responder,
    Seeker,
    discover,
    is_local,
    serve_discovery,
)
from tests.support.fixed_ports import free_port
from tests.support.node import run_montana, running_node

URL = "https://node.example:8790"
NEIGHBOUR = "192.168.1.9"
NONCE = "n" * 16


def responder(
    clock: VirtualClock | None = None, seed: int = 1, url: str = URL, name: str = "Kitchen"
) -> Responder:
    return Responder(Identity(bytes([seed]) * 32), url, name, clock or VirtualClock())


def probe(**changed: object) -> bytes:
    document = {"type": "montana-discover", "version": 1, "nonce": NONCE, **changed}
    return json.dumps(document).encode().ljust(PROBE_BYTES)


# ------------------------------------------------------------ answering


def test_a_probe_is_answered_and_the_answer_believed() -> None:
    clock = VirtualClock(unix_s=1_900_000_000)
    seeker = Seeker(clock)
    answer = responder().answer_untrusted(seeker.probe, NEIGHBOUR)
    assert answer is not None
    assert len(answer) <= len(seeker.probe) == PROBE_BYTES
    seeker.take_untrusted(answer, "192.168.1.2")
    node_id = Identity(b"\1" * 32).node_id
    found = Found(URL, "Kitchen", node_id, "192.168.1.2", 1_800_000_000)
    assert seeker.found == {node_id: found}


@pytest.mark.parametrize(
    ("source", "local"),
    [
        ("10.1.2.3", True),
        ("172.31.255.254", True),
        ("192.168.0.1", True),
        ("169.254.7.7", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("fd00::9", True),
        ("fe80::1%eth0", True),
        ("::ffff:192.168.0.1", True),
        ("8.8.8.8", False),
        ("100.64.0.1", False),
        ("172.32.0.1", False),
        ("::ffff:8.8.8.8", False),
        ("2a00::1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("224.0.0.1", False),
        ("ff02::1", False),
        ("255.255.255.255", False),
        ("nonsense", False),
    ],
)
def test_who_is_of_the_local_network(source: str, local: bool) -> None:
    assert is_local(source) == local
    assert (responder().answer_untrusted(probe(), source) is not None) == local


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"montana-discover",
        b"[]".ljust(PROBE_BYTES),
        b"\xff" * PROBE_BYTES,
        b"[" * PROBE_BYTES,
        probe(version=2),
        probe(version="1"),
        probe(type="montana-node"),
        probe(nonce="n" * 15),
        probe(nonce="n" * 65),
        probe(nonce="n" * 16 + "\n"),
        probe(nonce="n" * 15 + "!"),
        probe(nonce=17),
        probe() + b"x",
        probe().ljust(DATAGRAM_MAXIMUM_BYTES + 1),
    ],
)
def test_what_is_no_probe_is_not_answered(datagram: bytes) -> None:
    assert responder().answer_untrusted(datagram, NEIGHBOUR) is None


def test_no_answer_is_larger_than_its_probe() -> None:
    whole = responder().answer_untrusted(probe(), NEIGHBOUR)
    assert whole is not None
    short = probe().rstrip()
    assert len(short) < len(whole)
    assert responder().answer_untrusted(short, NEIGHBOUR) is None
    assert responder().answer_untrusted(short.ljust(len(whole) - 1), NEIGHBOUR) is None
    assert responder().answer_untrusted(short.ljust(len(whole)), NEIGHBOUR) == whole


def test_one_source_is_answered_so_often() -> None:
    clock = VirtualClock()
    one = responder(clock)
    answers = [one.answer_untrusted(probe(), NEIGHBOUR) for _ in range(2 * ANSWERS_PER_SOURCE)]
    assert sum(answer is not None for answer in answers) == ANSWERS_PER_SOURCE
    assert one.answer_untrusted(probe(), "192.168.1.10") is not None
    clock.advance_s(SOURCE_INTERVAL_S)
    assert one.answer_untrusted(probe(), NEIGHBOUR) is not None


def test_all_sources_together_are_answered_so_often() -> None:
    clock = VirtualClock()
    one = responder(clock)
    answers = [
        one.answer_untrusted(probe(), f"10.0.{number // 200}.{number % 200}")
        for number in range(1_000)
    ]
    assert sum(answer is not None for answer in answers) == ANSWERS_BURST
    clock.advance_s(1)
    assert one.answer_untrusted(probe(), "10.1.1.1") is not None


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("ftp://node", ""),
        ("https://node example", ""),
        ("https://" + "x" * 401, ""),
        (URL, "x" * 65),
        (URL, "a\nb"),
        # In JSON each of these is two.
        ("https://" + '"' * 400, ""),
    ],
)
def test_what_fits_into_no_answer_is_refused_at_the_start(url: str, name: str) -> None:
    with pytest.raises(ConfigError):
        responder(url=url, name=name)


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode()))
def test_nothing_that_comes_raises(datagram: bytes) -> None:
    one, seeker = responder(), Seeker(VirtualClock())
    assert one.answer_untrusted(datagram.ljust(PROBE_BYTES), NEIGHBOUR) is None
    seeker.take_untrusted(datagram, NEIGHBOUR)
    assert seeker.found == {}


@given(
    st.dictionaries(
        st.sampled_from(["type", "version", "nonce", "url", "name", "time", "key", "signature"]),
        st.none() | st.integers() | st.text(max_size=100) | st.lists(st.integers(), max_size=2),
    )
)
def test_nothing_that_looks_like_one_raises(changed: dict[str, object]) -> None:
    seeker = Seeker(VirtualClock())
    answer = responder().answer_untrusted(seeker.probe, NEIGHBOUR)
    assert answer is not None
    whole = json.loads(answer)
    seeker.take_untrusted(json.dumps(whole | changed).encode(), NEIGHBOUR)
    assert bool(seeker.found) == ((whole | changed) == whole)
    responder().answer_untrusted(json.dumps(changed).encode().ljust(PROBE_BYTES), NEIGHBOUR)


# ------------------------------------------------------------ believing


@pytest.mark.parametrize(
    "changed",
    [
        {"url": "https://evil.example"},
        {"name": "Cellar"},
        {"time": 1_800_000_001},
        {"key": Identity(b"\2" * 32).node_id},
        {"nonce": "m" * 32},
        {"signature": "A" * 86},
        {"type": "montana-discover"},
    ],
)
def test_an_answer_that_was_changed_is_not_believed(changed: dict[str, object]) -> None:
    seeker = Seeker(VirtualClock())
    answer = responder().answer_untrusted(seeker.probe, NEIGHBOUR)
    assert answer is not None
    document = json.loads(answer)
    assert document != document | changed
    seeker.take_untrusted(json.dumps(document | changed).encode(), NEIGHBOUR)
    assert seeker.found == {}
    seeker.take_untrusted(answer, NEIGHBOUR)
    assert len(seeker.found) == 1


def test_an_answer_to_somebody_else_is_not_believed() -> None:
    seeker, other = Seeker(VirtualClock(seed=1)), Seeker(VirtualClock(seed=2))
    answer = responder().answer_untrusted(other.probe, NEIGHBOUR)
    assert answer is not None
    seeker.take_untrusted(answer, NEIGHBOUR)
    assert seeker.found == {}


def test_those_that_are_found_have_a_bound() -> None:
    seeker = Seeker(VirtualClock())
    for number in range(FOUND_MAXIMUM + 1):
        identity = Identity(number.to_bytes(32, "big"))
        node = Responder(identity, URL, "", VirtualClock())
        answer = node.answer_untrusted(seeker.probe, NEIGHBOUR)
        assert answer is not None
        seeker.take_untrusted(answer, NEIGHBOUR)
    assert len(seeker.found) == FOUND_MAXIMUM


# ------------------------------------------------------------ real sockets


@asynccontextmanager
async def serving(*seeds: int, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Nodes that answer on loopback; yields the port that they share."""
    port = 0
    async with trio.open_nursery() as nursery:
        for seed in seeds:
            node = responder(seed=seed, name=f"node {seed}")
            (port,) = await nursery.start(partial(serve_discovery, node, port, hosts=[host]))
        yield port
        nursery.cancel_scope.cancel()


async def find(count: int, port: int, *targets: str) -> list[Found]:
    """Look until so many are found, however busy the machine is."""
    timeout_s, found = 0.2, list[Found]()
    with trio.fail_after(60):
        while len(found) < count:
            found = await discover(SystemClock(), timeout_s, port, targets=targets or None)
            timeout_s *= 2
    return found


@pytest.mark.trio
async def test_a_node_of_this_machine_is_found() -> None:
    async with serving(1) as port:
        found = await find(1, port)
    assert [(one.url, one.name, one.address) for one in found] == [(URL, "node 1", "127.0.0.1")]


@pytest.mark.trio
async def test_it_is_found_by_ipv6_too() -> None:
    async with serving(1, host="::1") as port:
        found = await find(1, port, "::1")
    assert [one.address for one in found] == ["::1"]


@pytest.mark.trio
async def test_nobody_is_found_where_nobody_is() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        assert await discover(SystemClock(), 0.2, port, targets=["127.0.0.1"]) == []


@pytest.mark.trio
async def test_nodes_that_share_a_port_all_hear_a_broadcast() -> None:
    async with serving(1, 2, host="0.0.0.0") as port:
        found = await find(2, port, "127.255.255.255")
    assert [one.name for one in found] == ["node 1", "node 2"]


@pytest.mark.trio
async def test_what_is_no_probe_ends_nothing() -> None:
    async with serving(1) as port:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for datagram in (b"", b"x", b"\xff" * 5_000, probe(version=2)):
                stranger.sendto(datagram, ("127.0.0.1", port))
            # Who has gone before the answer comes.
            stranger.sendto(probe(), ("127.0.0.1", port))
        assert len(await find(1, port, "127.0.0.1")) == 1


@pytest.mark.trio
async def test_a_port_that_is_somebody_else_s() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(OperationError, match=str(port)):
            await serve_discovery(responder(), port, hosts=["127.0.0.1"])


# ------------------------------------------------------------ the command


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as exited:
        cli.main(["discover", *words])
    assert isinstance(exited.value.code, int)
    return exited.value.code


@pytest.mark.trio
async def test_the_command_shows_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(1, 2, host="0.0.0.0") as port:
        assert await trio.to_thread.run_sync(command, "--port", str(port), "--json") == 0
        printed = capsys.readouterr().out.splitlines()
        assert await trio.to_thread.run_sync(command, "--port", str(port)) == 0
        shown = capsys.readouterr().out
    (first, *_) = [json.loads(line) for line in printed]
    assert list(first) == ["url", "name", "node_id", "address", "time_s"]
    assert first["url"] == URL
    assert first["node_id"] in shown
    assert URL in shown


def test_a_whole_node_is_found_with_the_url_of_its_own_pages() -> None:
    port = free_port()
    with running_node(more=f"[signaling]\ndiscovery = true\ndiscovery_port = {port}") as node:
        (found,) = trio.run(find, 1, port)
        own = load(node.config.parent / "data")
        assert own is not None
        assert (found.url, found.name, found.node_id) == (node.http, "", own.node_id)
        (printed,) = run_montana("discover", "--port", str(port), "--json").stdout.splitlines()
        shown = json.loads(printed)
        assert (shown["url"], shown["node_id"]) == (node.http, own.node_id)
        assert node.http in run_montana("discover", "--port", str(port)).stdout


@pytest.mark.parametrize("words", [["--port", "0"], ["--port", "x"]])
def test_the_command_takes_a_port_alone(words: list[str]) -> None:
    assert command(*words) == 2


def test_the_command_says_when_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        assert command("--port", str(port)) == 1
    assert str(port) in capsys.readouterr().err
