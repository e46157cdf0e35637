"""A node that charges for what it relays, by the second."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from billing.charging import Charging
from billing.journal import CallRecord
from billing.ledger import ISSUE, NODE, LmdbLedger, open_ledger
from billing.money import J
from billing.transfers import Transfer, new_id
from core.clock import SystemClock
from core.stun.constants import Method
from tests.support.node import RunningNode, run_montana, running_node, write_config
from tests.support.turn_client import TRANSPORT, UdpClient, outcome

METERED = '[billing]\nturn = "metered"\n'
CLOCK = SystemClock()


def with_ledger(data_dir: Path, accounts: dict[str, int]) -> None:
    """Open accounts and give them whole Ɉ, while no node runs."""

    async def fill(ledger: LmdbLedger) -> None:
        for address, amount in accounts.items():
            number = await ledger.open_account([address])
            if amount:
                await ledger.transfer([Transfer(new_id(CLOCK), ISSUE, number, amount * J.unit)])

    with open_ledger(data_dir / "ledger", CLOCK) as ledger:
        trio.run(fill, ledger)


def read_ledger(data_dir: Path, address: str) -> tuple[int, int, list[CallRecord]]:
    """After the node has stopped: the account's balance, the node's, and the account's records."""
    with open_ledger(data_dir / "ledger", CLOCK) as ledger:
        assert trio.run(Charging(ledger).recover) == 0
        number = ledger.find(address)
        assert number is not None
        balance = ledger.balance(number, J)
        assert balance.held == 0
        lines = trio.run(ledger.history, number)
        records = [line.record for line in lines if line.record is not None]
        return balance.posted, ledger.balance(NODE, J).posted, records


@contextmanager
def metered_node(
    tmp_path: Path,
    accounts: dict[str, int],
    *,
    billing: str = "",
    turn: dict[str, str] | None = None,
) -> Iterator[RunningNode]:
    config = write_config(tmp_path, more=METERED + billing, turn=turn)
    with_ledger(tmp_path / "data", accounts)
    with running_node(config=config) as node:
        yield node


def limited(node: RunningNode, account: str) -> UdpClient:
    made = node.credentials(account)
    return UdpClient(node.turn[0], made.username, made.password)


@contextmanager
def talking(client: UdpClient) -> Iterator[list[bytes]]:
    """Send through channel 0x4000 every 20 ms; collects what arrives meanwhile."""
    stop = threading.Event()
    received: list[bytes] = []

    def send() -> None:
        while not stop.wait(0.02):
            client.send(b"\x40\x00\x00\x04talk")

    def receive() -> None:
        client.socket.settimeout(0.1)
        while not stop.is_set():
            datagram = client.receive()
            if datagram is not None:
                received.append(datagram)

    threads = [threading.Thread(target=one) for one in (send, receive)]
    for thread in threads:
        thread.start()
    try:
        yield received
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_an_account_of_ten_pays_for_ten_seconds(tmp_path: Path) -> None:
    with metered_node(tmp_path, {"user:carol": 10}) as node:
        made = node.credentials("carol")
        # One session: two allocations of one credential, that talk to each other.
        with (
            UdpClient(node.turn[0], made.username, made.password) as one,
            UdpClient(node.turn[0], made.username, made.password) as other,
        ):
            (here,), (there,) = one.allocate(), other.allocate()
            assert one.bind(0x4000, there) == 0
            assert other.bind(0x4000, here) == 0
            with talking(one), talking(other) as heard:
                deadline_s = time.monotonic() + 30
                while node.status()["allocations"]:
                    assert time.monotonic() < deadline_s, "nobody has cut the session"
                    time.sleep(0.2)
            assert len(heard) > 100
            one.socket.settimeout(2)
            assert outcome(one.ask(Method.REFRESH)) == 437
            assert outcome(one.ask(Method.ALLOCATE, [TRANSPORT])) == 403
        assert "no balance" in node.log()
        assert made.username not in node.log()
    balance, earned, records = read_ledger(tmp_path / "data", "user:carol")
    assert (balance, earned) == (0, 10 * J.unit)
    (record,) = records
    assert (record.kind, record.seconds, record.cost) == ("turn", 10, 10 * J.unit)
    assert record.reason == "no balance"
    assert record.relayed_bytes > 0


def test_what_was_relayed_is_charged_and_the_rest_comes_back(tmp_path: Path) -> None:
    with (
        metered_node(tmp_path, {"user:carol": 1000}) as node,
        limited(node, "carol") as one,
        limited(node, "carol") as other,
    ):
        (here,), (there,) = one.allocate(), other.allocate()
        assert one.bind(0x4000, there) == 0
        assert other.bind(0x4000, here) == 0
        with talking(one), talking(other):
            time.sleep(2.5)
        for client in (one, other):
            client.socket.settimeout(0.3)
            while client.receive() is not None:
                pass
        one.close_allocation()
        other.close_allocation()
        time.sleep(2)
    balance, earned, records = read_ledger(tmp_path / "data", "user:carol")
    (record,) = [record for record in records if record.cost]
    assert record.seconds in (3, 4)
    assert record.reason == "client"
    assert earned == sum(record.cost for record in records) == record.seconds * J.unit
    assert balance == 1000 * J.unit - earned


@pytest.mark.parametrize(("unknown", "code"), [("refuse", 403), ("free", 0)])
def test_an_unknown_account(tmp_path: Path, unknown: str, code: int) -> None:
    billing = f'unknown_account = "{unknown}"\n'
    with (
        metered_node(tmp_path, {"user:carol": 0}, billing=billing) as node,
        limited(node, "nobody") as nobody,
        limited(node, "carol") as carol,
    ):
        assert outcome(nobody.ask(Method.ALLOCATE, [TRANSPORT])) == code
        assert outcome(carol.ask(Method.ALLOCATE, [TRANSPORT])) == 403


def test_a_bound_secret_and_a_bound_user_pay_from_their_account(tmp_path: Path) -> None:
    turn = {"secrets": '[{value = "the secret of a shop", account = "user:shop"}]'}
    with (
        metered_node(tmp_path, {"user:shop": 100}, turn=turn) as node,
        limited(node, "whoever") as customer,
        UdpClient(node.turn[0], "bob", "bob's password") as bob,
    ):
        assert customer.allocate()
        assert outcome(bob.ask(Method.ALLOCATE, [TRANSPORT])) == 403
        customer.close_allocation()


def talk_until_killed(config: Path) -> None:
    with running_node(config=config) as node:
        made = node.credentials("carol")
        with (
            UdpClient(node.turn[0], made.username, made.password) as one,
            UdpClient(node.turn[0], made.username, made.password) as other,
        ):
            (here,), (there,) = one.allocate(), other.allocate()
            assert one.bind(0x4000, there) == 0
            assert other.bind(0x4000, here) == 0
            with talking(one):
                time.sleep(3.3)
                node.process.kill()
                node.process.wait()


def test_a_node_that_is_killed_charges_what_it_has_stored(tmp_path: Path) -> None:
    config = write_config(tmp_path, more=METERED)
    with_ledger(tmp_path / "data", {"user:carol": 1000})
    with pytest.raises(AssertionError, match="exit code -9"):
        talk_until_killed(config)
    with running_node(config=config) as again:
        assert "sessions that an earlier run has left" in again.log()
    balance, earned, records = read_ledger(tmp_path / "data", "user:carol")
    (record,) = records
    assert 2 <= record.seconds <= 5
    assert record.reason == "the node stopped"
    assert earned == record.cost == record.seconds * J.unit
    assert balance == 1000 * J.unit - earned


def test_a_name_signed_with_another_secret_is_another_session(tmp_path: Path) -> None:
    secrets = (
        '[{value = "the secret of a shop", account = "user:shop"}, '
        '{value = "another secret indeed", account = "user:poor"}]'
    )
    accounts = {"user:shop": 100, "user:poor": 0}
    with metered_node(tmp_path, accounts, turn={"secrets": secrets}) as node:
        name = f"{int(time.time()) + 600}:bob"

        def signed(secret: str) -> UdpClient:
            digest = hmac.digest(secret.encode(), name.encode(), "sha1")
            return UdpClient(node.turn[0], name, base64.b64encode(digest).decode())

        with signed("the secret of a shop") as rich, signed("another secret indeed") as poor:
            rich.allocate()
            assert outcome(poor.ask(Method.ALLOCATE, [TRANSPORT])) == 403
            rich.close_allocation()


def test_nobody_pays_by_a_system_account_or_calls_himself_a_call(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, more=METERED, users={"node": "word", "fees": "word", "CALL-1": "word"}
    )

    async def fill(ledger: LmdbLedger) -> None:
        for number, account in enumerate((NODE, NODE - 1), 1):
            await ledger.transfer([Transfer(number.to_bytes(16, "big"), ISSUE, account, J.unit)])

    with open_ledger(tmp_path / "data" / "ledger", CLOCK) as ledger:
        trio.run(fill, ledger)
    with running_node(config=config) as node:
        for name in ("node", "fees", "CALL-1"):
            with UdpClient(node.turn[0], name, "word") as client:
                assert outcome(client.ask(Method.ALLOCATE, [TRANSPORT])) == 403, name
        with UdpClient(node.turn[0], "1:", "x") as nobody:
            assert outcome(nobody.ask(Method.ALLOCATE, [TRANSPORT])) == 401


def test_a_secret_that_is_bound_to_no_account_is_never_free(tmp_path: Path) -> None:
    turn = {"secrets": '[{value = "the secret of a shop", account = "user:shpo"}]'}
    billing = 'unknown_account = "free"\n'
    with (
        metered_node(tmp_path, {"user:shop": 100}, turn=turn, billing=billing) as node,
        limited(node, "whoever") as customer,
    ):
        assert outcome(customer.ask(Method.ALLOCATE, [TRANSPORT])) == 403
        assert "user:shpo" in node.log()


def test_a_secret_may_be_bound_to_an_accounts_number(tmp_path: Path) -> None:
    turn = {"secrets": '[{value = "the secret of a shop", account = "#6"}]'}
    with (
        metered_node(tmp_path, {"user:shop": 100}, turn=turn) as node,
        limited(node, "whoever") as customer,
    ):
        customer.allocate()
        shown = json.loads(node.command("account", "show", "#6", "--json"))
        assert shown["held"] == "30.000000"
        refused = run_montana("account", "close", "node", "--socket", str(node.socket), check=False)
        assert refused.returncode == 1


def test_a_frozen_account_is_cut_within_a_second_or_two(tmp_path: Path) -> None:
    with metered_node(tmp_path, {"user:carol": 1000}) as node:
        made = node.credentials("carol")
        with (
            UdpClient(node.turn[0], made.username, made.password) as one,
            UdpClient(node.turn[0], made.username, made.password) as other,
        ):
            (here,), (there,) = one.allocate(), other.allocate()
            assert one.bind(0x4000, there) == 0
            assert other.bind(0x4000, here) == 0
            with talking(one):
                node.command("account", "freeze", "user:carol")
                deadline_s = time.monotonic() + 10
                while node.status()["allocations"]:
                    assert time.monotonic() < deadline_s, "nobody has cut it"
                    time.sleep(0.2)
        shown = json.loads(node.command("account", "show", "user:carol", "--json"))
        assert shown["held"] == "0.000000"
