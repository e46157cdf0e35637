"""Debian's turnutils_uclient, which coturn's authors wrote, against a running node.

Nothing may be lost: loopback drops nothing, and each mode is slow enough for its client.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from tests.support.node import SECRET, USERS, RunningNode, running_node
from tests.support.programs import background, need_program, run_program

MESSAGES = 20
INTERVAL_MS = 5
TIMEOUT_S = 60
_TOTALS = re.compile(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)\s*$", re.MULTILINE)
_LOST = re.compile(r"Total lost packets (\d+) ")


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    limits = {
        "allocations_per_user": "400",
        "error_replies_exempt": '["127.0.0.0/8", "::1/128"]',
    }
    with running_node(limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def peer_port() -> Iterator[int]:
    """A port on which turnutils_peer sends back what it gets, on 127.0.0.1 and ::1."""
    program = need_program("turnutils_peer")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    with (
        background([program, "-L", "127.0.0.1", "-p", str(port)]),
        background([program, "-L", "::1", "-p", str(port)]),
    ):
        yield port


def run_uclient(
    node: RunningNode,
    peer_port: int,
    *options: str,
    host: str = "127.0.0.1",
    user: tuple[str, ...] = ("-u", "alice", "-w", USERS["alice"]),
    clients: int = 1,
) -> None:
    """Run the client, and check that it got back all that it sent."""
    server = next(address for address in node.turn if address.host == host)
    result = run_program(
        [
            need_program("turnutils_uclient"),
            *user,
            *("-p", str(server.port)),
            *("-e", host, "-r", str(peer_port)),
            *("-n", str(MESSAGES), "-z", str(INTERVAL_MS)),
            *options,
            host,
        ],
        TIMEOUT_S,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    sent, received = map(int, _TOTALS.findall(result.stdout)[-1])
    assert (sent, received) == (MESSAGES * clients, MESSAGES * clients), result.stdout[-3000:]
    assert int(_LOST.findall(result.stdout)[-1]) == 0


def test_channels(node: RunningNode, peer_port: int) -> None:
    before = node.status()["packets"]
    run_uclient(node, peer_port, "-c", "-X", "-g")
    after = node.status()["packets"]
    assert after["to_peer"] - before["to_peer"] == MESSAGES
    assert after["to_client"] - before["to_client"] == MESSAGES


def test_send_indications(node: RunningNode, peer_port: int) -> None:
    run_uclient(node, peer_port, "-c", "-s", "-g")


def test_send_indications_without_dont_fragment(node: RunningNode, peer_port: int) -> None:
    run_uclient(node, peer_port, "-c", "-s")


@pytest.mark.parametrize("mode", [(), ("-s",)], ids=["channels", "send"])
def test_client_to_client(node: RunningNode, peer_port: int, mode: tuple[str, ...]) -> None:
    before = node.status()["counters"]["short_cuts"]
    run_uclient(node, peer_port, "-c", "-y", *mode, clients=2)
    assert node.status()["counters"]["short_cuts"] - before == 2 * MESSAGES


def test_ipv6(node: RunningNode, peer_port: int) -> None:
    run_uclient(node, peer_port, "-c", "-x", "-X", "-g", host="::1")


def test_ipv6_relay_for_an_ipv4_client(node: RunningNode, peer_port: int) -> None:
    server = node.turn[0]
    result = run_program(
        [
            need_program("turnutils_uclient"),
            *("-u", "alice", "-w", USERS["alice"], "-p", str(server.port)),
            *("-e", "::1", "-r", str(peer_port), "-n", str(MESSAGES), "-z", str(INTERVAL_MS)),
            *("-c", "-x", "-X", "127.0.0.1"),
        ],
        TIMEOUT_S,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert _TOTALS.findall(result.stdout)[-1] == (str(MESSAGES), str(MESSAGES))


def test_dual_allocation(node: RunningNode, peer_port: int) -> None:
    run_uclient(node, peer_port, "-c", "-Z", "-X")


def test_extra_requests(node: RunningNode, peer_port: int) -> None:
    run_uclient(node, peer_port, "-c", "-G", "-X", "-g")


def test_padding(node: RunningNode, peer_port: int) -> None:
    run_uclient(node, peer_port, "-c", "-D", "-X", "-g")


def test_rtp_and_rtcp_by_a_reserved_port(node: RunningNode, peer_port: int) -> None:
    # Without -c each client reserves the next port for RTCP (EVEN-PORT, RESERVATION-TOKEN).
    run_uclient(node, peer_port, "-X", "-g", clients=2)


def test_fifty_clients(node: RunningNode, peer_port: int) -> None:
    run_uclient(node, peer_port, "-c", "-m", "50", "-X", clients=50)


def test_fifty_clients_calling_each_other(node: RunningNode, peer_port: int) -> None:
    run_uclient(node, peer_port, "-c", "-m", "50", "-y", clients=50)


def test_time_limited_credentials(node: RunningNode, peer_port: int) -> None:
    run_uclient(node, peer_port, "-c", user=("-u", "carol", "-W", SECRET))


def test_credentials_of_the_command_line(node: RunningNode, peer_port: int) -> None:
    made = node.credentials("dave")
    run_uclient(node, peer_port, "-c", user=("-u", made.username, "-w", made.password))


def test_a_wrong_password_is_refused(node: RunningNode, peer_port: int) -> None:
    result = run_program(
        [
            need_program("turnutils_uclient"),
            *("-u", "alice", "-w", "wrong", "-p", str(node.turn[0].port)),
            *("-e", "127.0.0.1", "-r", str(peer_port), "-n", "1", "-c", "127.0.0.1"),
        ],
        TIMEOUT_S,
    )
    assert result.returncode != 0
    assert "Cannot complete Allocation" in result.stdout


def test_binding(node: RunningNode) -> None:
    result = run_program(
        [need_program("turnutils_stunclient"), "-p", str(node.turn[0].port), "127.0.0.1"],
        TIMEOUT_S,
    )
    assert "UDP reflexive addr: 127.0.0.1:" in result.stdout, result.stdout


def test_nothing_is_left(node: RunningNode) -> None:
    dropped = {cause: count for cause, count in node.status()["drops"].items() if count}
    assert not dropped
