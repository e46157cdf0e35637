"""A node as operators meet it: start, stop, signals, status, limits, and what it says."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from core.stun.address import Address
from core.stun.attributes import decode_xor_address_untrusted
from core.stun.constants import Attribute, MessageClass, Method
from core.stun.message import decode_message_untrusted, encode_message
from relay.node import within_descriptors
from tests.support.node import (
    SECRET,
    USERS,
    RunningNode,
    run_montana,
    running_node,
    write_config,
)
from tests.support.turn_client import (
    TRANSPORT,
    UdpClient,
    outcome,
    send_indication,
    turn_config,
)


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    limits = {"error_replies_exempt": '["127.0.0.0/8", "::1/128"]'}
    with running_node(limits=limits) as running:
        yield running


def client_of(node: RunningNode, user: str = "alice") -> UdpClient:
    return UdpClient(node.turn[0], user, USERS[user])


def wait_until(holds: Callable[[], bool], timeout_s: float = 10) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, "it did not come to be in time"
        time.sleep(0.05)


def fetch(url: str) -> tuple[int, str]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=5)
    connection.request("GET", parts.path)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


def test_ready_says_where_everything_is(node: RunningNode) -> None:
    ready = node.events[0]
    assert set(ready) == {
        "event",
        "turn",
        "http",
        "socket",
        "metrics",
        "bridges",
        "room_link",
        "invitation_link",
    }
    assert ready["turn"] == [f"udp://{address}" for address in node.turn]
    assert ready["http"].startswith("http://127.0.0.1:")
    assert node.socket.is_socket()
    assert node.socket.stat().st_mode & 0o777 == 0o600


def test_status_counts_what_was_relayed(node: RunningNode) -> None:
    with client_of(node) as one, client_of(node, "bob") as other:
        (here,), (there,) = one.allocate(), other.allocate()
        assert one.bind(0x4000, there) == 0
        assert other.permit(here) == 0
        before = node.status()
        one.send(b"\x40\x00\x00\x05hello")
        received = other.receive()
        assert received is not None
        assert decode_message_untrusted(received).first(Attribute.DATA) == b"hello"
        after = node.status()
        assert after["allocations"] == 2
        assert after["sessions"] == 2
        assert after["packets"]["to_peer"] - before["packets"]["to_peer"] == 1
        assert after["bytes"]["to_client"] - before["bytes"]["to_client"] == 5
        table = node.command("status")
        assert "allocations" in table
        one.close_allocation()
        other.close_allocation()


def test_credentials_of_the_command_line_work(node: RunningNode) -> None:
    made = node.credentials("carol", ttl_s=60)
    assert made.ttl == 60
    assert f"turn:{node.turn[0]}?transport=udp" in made.uris
    with UdpClient(node.turn[0], made.username, made.password) as client:
        assert client.allocate()
        client.close_allocation()


def test_metrics_and_health(node: RunningNode) -> None:
    assert fetch(f"{node.metrics}/healthz") == (200, "ok\n")
    status, metrics = fetch(f"{node.metrics}/metrics")
    assert status == 200
    assert 'montana_relayed_packets_total{direction="to_peer"}' in metrics
    assert "alice" not in metrics
    assert fetch(f"{node.http}/metrics")[0] == 404


def test_a_page_of_a_strangers_domain_reads_no_metrics(node: RunningNode) -> None:
    connection = http.client.HTTPConnection(urlsplit(node.metrics).netloc, timeout=5)
    connection.request("GET", "/metrics", headers={"Host": "rebound.example"})
    assert connection.getresponse().status == 403
    connection.close()


def test_a_check_link_names_an_address_that_others_reach(tmp_path: Path) -> None:
    config = write_config(tmp_path, more='[turn.external]\n"127.0.0.1" = "203.0.113.7"\n')
    plain = config.read_text()
    config.write_text(
        plain.replace('[http]\nlisten = "127.0.0.1:0"', '[http]\nlisten = "0.0.0.0:0"')
    )
    with running_node(config=config) as wildcard:
        assert wildcard.command("check", "link").startswith("http://203.0.113.7:")
    config.write_text(plain.replace("[http]", '[http]\npublic_url = "https://node.example/"'))
    with running_node(config=config) as named:
        assert named.http == "https://node.example"
        assert named.command("check", "link").startswith("https://node.example/check#")


def test_sighup_takes_secrets_over_for_the_check_page(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    text = config.read_text()

    def post(node: RunningNode, token: str) -> int:
        connection = http.client.HTTPConnection(urlsplit(node.http).netloc, timeout=5)
        connection.request("POST", "/check/credentials", json.dumps({"token": token}))
        status = connection.getresponse().status
        connection.close()
        return status

    with running_node(config=config) as node:
        token = node.command("check", "link").split("#")[1].split()[0]
        assert post(node, token) == 200
        config.write_text(text.replace(json.dumps([SECRET]), "[]"))
        node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: post(node, token) == 503)
        config.write_text(text)
        node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: post(node, token) == 200)


def test_a_second_node_on_the_same_folder_is_told(node: RunningNode) -> None:
    result = run_montana("up", "--config", str(node.config), check=False)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "running" in result.stderr


def test_a_taken_port_is_told(node: RunningNode, tmp_path: Path) -> None:
    listen = json.dumps([f"udp://{node.turn[0]}"])
    config = write_config(tmp_path, turn={"listen": listen})
    result = run_montana("up", "--config", str(config), check=False)
    assert result.returncode != 0
    assert str(node.turn[0].port) in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("key", ["http", "metrics"])
def test_a_taken_port_of_pages_is_told(node: RunningNode, tmp_path: Path, key: str) -> None:
    config = write_config(tmp_path)
    port = node.http.rpartition(":")[2]
    text = config.read_text().replace(
        f'[{key}]\nlisten = "127.0.0.1:0"', f'[{key}]\nlisten = "127.0.0.1:{port}"'
    )
    config.write_text(text)
    result = run_montana("up", "--config", str(config), check=False)
    assert result.returncode != 0
    assert port in result.stderr
    assert "Traceback" not in result.stderr


def test_what_its_tasks_can_not_begin_with_is_one_sentence(tmp_path: Path) -> None:
    config = write_config(tmp_path, more="[signaling]\ndiscovery = true\ndiscovery_port = 0\n")
    plain = config.read_text()
    assert "[http]\n" in plain
    # What is wrong in the file is told as it is before anything has begun.
    long = f'[http]\npublic_url = "https://{"a" * 420}"\n'
    config.write_text(plain.replace("[http]\n", long))
    result = run_montana("up", "--config", str(config), check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    assert "Error: discovery can't tell this URL" in result.stderr.splitlines()[-1]
    with contextlib.ExitStack() as taken:
        port = 0
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            with contextlib.suppress(OSError):
                one = taken.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind((host, port))
                port = one.getsockname()[1]
        config.write_text(plain.replace("discovery_port = 0", f"discovery_port = {port}"))
        result = run_montana("up", "--config", str(config), check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    assert f"Error: discovery can't listen on UDP port {port}" in result.stderr.splitlines()[-1]


def test_a_port_shared_by_somebody_who_would_share_it_is_found(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        squatter.bind(("127.0.0.1", 0))
        listen = json.dumps([f"udp://127.0.0.1:{squatter.getsockname()[1]}"])
        config = write_config(tmp_path, turn={"listen": listen})
        result = run_montana("up", "--config", str(config), check=False)
    assert result.returncode != 0
    assert "Address already in use" in result.stderr


def test_sigterm_drains_until_the_last_allocation_ends() -> None:
    with (
        running_node(turn={"drain_timeout_s": "60"}) as draining,
        client_of(draining) as client,
        client_of(draining) as late,
    ):
        client.allocate()
        draining.process.send_signal(signal.SIGTERM)
        wait_until(lambda: bool(draining.status()["draining"]))
        assert outcome(late.ask(Method.ALLOCATE, [TRANSPORT])) == 508
        assert draining.process.poll() is None
        client.close_allocation()
        draining.process.wait(timeout=10)


def test_the_operator_ends_an_accounts_allocations(node: RunningNode) -> None:
    with client_of(node) as alice, client_of(node) as also_alice, client_of(node, "bob") as bob:
        for client in (alice, also_alice, bob):
            client.allocate()
        assert json.loads(node.command("end", "alice", "--json")) == {"allocations": 2}
        assert outcome(alice.ask(Method.REFRESH)) == 437
        assert outcome(bob.ask(Method.REFRESH)) == 0
        assert "0" in node.command("end", "alice")
        bob.close_allocation()


def test_a_shorter_drain_may_be_asked_for_while_it_lasts(tmp_path: Path) -> None:
    config = write_config(tmp_path, turn={"drain_timeout_s": "600"})
    with running_node(config=config) as draining, client_of(draining) as client:
        assert fetch(f"{draining.metrics}/healthz") == (200, "ok\n")
        client.allocate()
        draining.process.send_signal(signal.SIGTERM)
        wait_until(lambda: fetch(f"{draining.metrics}/healthz") == (503, "draining\n"))
        text = config.read_text()
        config.write_text(text.replace("drain_timeout_s = 600", "drain_timeout_s = 1"))
        draining.process.send_signal(signal.SIGHUP)
        draining.process.wait(timeout=10)


def test_a_relay_address_of_another_machine_is_told(tmp_path: Path) -> None:
    config = write_config(tmp_path, turn={"relay_addresses": '["203.0.113.77"]'})
    result = run_montana("up", "--config", str(config), check=False)
    assert result.returncode == 2
    assert "203.0.113.77" in result.stderr
    assert "[turn.external]" in result.stderr


def test_there_are_no_more_allocations_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = turn_config()
    assert len({len(ip) for ip in turn.relay_addresses}) == 2
    for granted, allocations in ((200, 50), (4096, 1536), (1_000_000, 10_000)):
        monkeypatch.setattr(
            "relay.node.raise_descriptor_limit", lambda _needed, granted=granted: granted
        )
        assert within_descriptors(turn).limits.allocations == allocations


def test_a_second_signal_ends_the_drain() -> None:
    with (
        running_node(turn={"drain_timeout_s": "600"}) as draining,
        client_of(draining) as client,
    ):
        client.allocate()
        draining.process.send_signal(signal.SIGTERM)
        wait_until(lambda: bool(draining.status()["draining"]))
        draining.process.send_signal(signal.SIGTERM)
        draining.process.wait(timeout=10)
        assert draining.process.returncode == 0


def test_a_drain_ends_at_its_time() -> None:
    with running_node(turn={"drain_timeout_s": "1"}) as draining, client_of(draining) as client:
        client.allocate()
        begun_s = time.monotonic()
        draining.process.send_signal(signal.SIGTERM)
        draining.process.wait(timeout=10)
        assert time.monotonic() - begun_s >= 1, "it did not wait for the allocation"


def test_sighup_takes_users_over_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with (
        running_node(config=config) as reloading,
        client_of(reloading) as alice,
        client_of(reloading, "bob") as bob,
    ):
        alice.allocate()
        bob.allocate()
        text = config.read_text()
        config.write_text(text + "[nonsense]\n")
        reloading.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "nonsense" in reloading.log())
        assert reloading.status()["allocations"] == 2
        config.write_text(text.replace(f'"alice" = "{USERS["alice"]}"\n', ""))
        reloading.process.send_signal(signal.SIGHUP)
        wait_until(lambda: reloading.status()["allocations"] == 1)
        assert outcome(alice.ask(Method.ALLOCATE, [TRANSPORT])) == 401
        assert outcome(bob.ask(Method.REFRESH)) == 0


def test_the_environment_stands_over_the_file_also_on_sighup(tmp_path: Path) -> None:
    token = "the token of the rooms"
    config = write_config(tmp_path, more='[signaling]\nrooms = "free"')
    assert "signaling.rooms" in run_montana("up", "--config", str(config), check=False).stderr
    with running_node(config=config, variables={"ROOM_TOKEN": token}) as node:
        config.write_text(config.read_text() + "discovery = true\n")
        node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "signaling.discovery" in node.log())
        assert "has been read anew" in node.log()
        assert token not in node.log()


def test_sighup_takes_rules_limits_and_passwords_over(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with (
        running_node(config=config) as reloading,
        client_of(reloading) as client,
        client_of(reloading, "bob") as bob,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(0.5)
        address = Address.from_text(*peer.getsockname())
        client.allocate()
        bob.allocate()
        assert client.bind(0x4000, address) == 0
        client.send(b"\x40\x00\x00\x04data")
        assert peer.recv(100) == b"data"

        text = config.read_text()
        text = text.replace("[turn.peers]", '[turn.peers]\ndeny = ["127.0.0.1/32"]')
        text = text.replace("[turn.limits]", "[turn.limits]\nbytes_per_second = 10000")
        text = text.replace(USERS["bob"], "bob's\\tother password")
        config.write_text(text)
        reloading.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "U+0009" in reloading.log())
        assert reloading.status()["allocations"] == 2

        text = text.replace("bob's\\tother password", "bob's other password")
        config.write_text(text.replace('realm = "montana.test"', 'realm = "another"'))
        reloading.process.send_signal(signal.SIGHUP)
        wait_until(lambda: reloading.status()["allocations"] == 1)
        assert "turn.realm" in reloading.log()
        client.send(b"\x40\x00\x00\x04gone")
        with pytest.raises(TimeoutError):
            peer.recv(100)
        assert client.permit(address) == 403
        wait_until(lambda: reloading.status()["drops"]["no_channel"] == 1)

        config.write_text(text.replace('deny = ["127.0.0.1/32"]', ""))
        reloading.process.send_signal(signal.SIGHUP)
        wait_until(lambda: client.permit(address) == 0)
        # The limit holds for the allocation that was there before it.
        assert client.bind(0x4001, address) == 0
        for _ in range(100):
            client.send(b"\x40\x01\x03\xe8" + bytes(1000))
        wait_until(lambda: reloading.status()["drops"]["rate"] > 0)


def test_the_byte_limit_drops_and_counts() -> None:
    with (
        running_node(limits={"bytes_per_second": "10000"}) as limited,
        client_of(limited) as one,
        client_of(limited) as other,
    ):
        (here,), (there,) = one.allocate(), other.allocate()
        assert one.bind(0x4000, there) == 0
        assert other.bind(0x4000, here) == 0
        for _ in range(100):
            one.send(b"\x40\x00\x03\xe8" + bytes(1000))
        wait_until(lambda: limited.status()["drops"]["rate"] > 0)
        relayed = limited.status()["packets"]["to_peer"]
        assert 1 <= relayed <= 20
        assert limited.status()["drops"]["rate"] == 100 - relayed


def test_a_wildcard_listener_answers_from_the_address_that_was_asked() -> None:
    turn = {"listen": '["udp://0.0.0.0:0"]', "relay_addresses": '["127.0.0.1"]'}
    with running_node(turn=turn) as wildcard:
        port = wildcard.turn[0].port
        for host in ("127.0.0.1", "127.0.0.2", "127.1.2.3"):
            server = Address.from_text(host, port)
            # The socket is connected: it takes an answer from nobody else.
            with UdpClient(server, "alice", USERS["alice"]) as one:
                (relayed,) = one.allocate()
                assert one.permit(relayed) == 0
                one.send(send_indication(relayed, b"to myself"))
                received = one.receive()
                assert received is not None
                assert decode_message_untrusted(received).first(Attribute.DATA) == b"to myself"
                one.close_allocation()


def test_behind_nat_clients_see_and_use_the_external_address(tmp_path: Path) -> None:
    config = write_config(tmp_path, more='[turn.external]\n"127.0.0.1" = "203.0.113.7"\n')
    with (
        running_node(config=config) as hidden,
        client_of(hidden) as one,
        client_of(hidden) as other,
    ):
        (here,), (there,) = one.allocate(), other.allocate()
        assert there.host == "203.0.113.7"
        assert one.permit(there) == 0
        assert other.permit(here) == 0
        one.send(send_indication(there, b"by the outer name"))
        received = other.receive()
        assert received is not None
        message = decode_message_untrusted(received)
        peer = message.first(Attribute.XOR_PEER_ADDRESS)
        assert peer is not None
        assert decode_xor_address_untrusted(peer, message.transaction_id) == here
        assert hidden.status()["counters"]["short_cuts"] == 1


def test_there_are_no_more_workers_than_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    with running_node(turn={"workers": str(min(64, cores + 1))}) as node:
        assert node.status()["workers"] == cores
        assert "turn.workers" in node.log()


def test_two_workers_carry_a_call() -> None:
    with running_node(turn={"workers": "2"}) as double:
        pairs = []
        for _ in range(8):
            one, other = client_of(double), client_of(double)
            (here,), (there,) = one.allocate(), other.allocate()
            assert one.bind(0x4000, there) == 0
            assert other.bind(0x4000, here) == 0
            pairs.append((one, other))
        for one, other in pairs:
            one.send(b"\x40\x00\x00\x04ping")
            assert other.receive() == b"\x40\x00\x00\x04ping"
            other.send(b"\x40\x00\x00\x04pong")
            assert one.receive() == b"\x40\x00\x00\x04pong"
        assert double.status()["counters"]["short_cuts"] == 16
        for pair in pairs:
            for client in pair:
                client.close_allocation()
                client.socket.close()


def test_an_unreachable_peer_is_told_by_icmp(node: RunningNode) -> None:
    with client_of(node) as client:
        client.allocate()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            peer = Address.from_text("127.0.0.1", nobody.getsockname()[1])
        assert client.permit(peer) == 0
        client.send(send_indication(peer, b"is anybody there?"))
        received = client.receive()
        assert received is not None
        message = decode_message_untrusted(received)
        assert (message.method, message.message_class) == (Method.DATA, MessageClass.INDICATION)
        assert message.first(Attribute.ICMP) == bytes.fromhex("0000060300000000")
        client.close_allocation()


def test_descriptors_come_back(node: RunningNode) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{node.pid}/fd"))

    before = descriptors()
    clients = [client_of(node) for _ in range(50)]
    for client in clients:
        client.allocate()
    assert descriptors() >= before + 50
    for client in clients:
        client.close_allocation()
        client.socket.close()
    wait_until(lambda: descriptors() <= before)


def test_nothing_secret_is_in_the_log(node: RunningNode) -> None:
    node.credentials("mallory")
    log = node.log()
    assert log
    for secret in (SECRET, *USERS.values()):
        assert secret not in log


def test_binding_from_everywhere(node: RunningNode) -> None:
    for address in node.turn:
        with UdpClient(address) as client:
            request = encode_message(Method.BINDING, MessageClass.REQUEST, os.urandom(12), [])
            assert client.exchange(request) is not None
