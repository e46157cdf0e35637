"""A node that charges for what it relays, by the second."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from billing.charging import Charging
from billing.journal import CallRecord
from billing.ledger import ISSUE, NODE, LmdbLedger, open_ledger
from billing.money import J
from billing.transfers import Transfer, new_id
from core.clock import SystemClock
from core.stun.channel_data import encode_channel_data
from core.stun.constants import Method
from tests.support.disk_shim import build_shim, shim_variables
from tests.support.node import RunningNode, run_montana, running_node, write_config
from tests.support.turn_client import TRANSPORT, UdpClient, outcome

METERED = '[billing]\nturn = "metered"\n'
CHANNEL = 0x4000
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
def two_ends(
    node: RunningNode, username: str, password: str
) -> Iterator[tuple[UdpClient, UdpClient]]:
    """Two allocations of one credential, which are one session, each bound to the other."""
    with (
        UdpClient(node.turn[0], username, password) as one,
        UdpClient(node.turn[0], username, password) as other,
    ):
        (here,), (there,) = one.allocate(), other.allocate()
        assert one.bind(CHANNEL, there) == 0
        assert other.bind(CHANNEL, here) == 0
        yield one, other


@contextmanager
def two_ends_of(node: RunningNode, account: str) -> Iterator[tuple[UdpClient, UdpClient]]:
    made = node.credentials(account)
    with two_ends(node, made.username, made.password) as ends:
        yield ends


def wait_until_cut(node: RunningNode) -> None:
    deadline_s = time.monotonic() + 30
    while node.status()["allocations"]:
        assert time.monotonic() < deadline_s, "nobody has cut the session"
        time.sleep(0.2)


def relay(one: UdpClient, other: UdpClient, payload: bytes) -> None:
    """A message from one end to the other that arrives."""
    datagram = encode_channel_data(CHANNEL, payload)
    one.send(datagram)
    assert other.receive() == datagram


@contextmanager
def talking(client: UdpClient) -> Iterator[list[bytes]]:
    """Send through the channel every 20 ms; collects what arrives meanwhile."""
    stop = threading.Event()
    received: list[bytes] = []

    def send() -> None:
        while not stop.wait(0.02):
            client.send(encode_channel_data(CHANNEL, b"talk"))

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
        with two_ends_of(node, "carol") as (one, other):
            with talking(one), talking(other) as heard:
                wait_until_cut(node)
            assert len(heard) > 100
            one.socket.settimeout(2)
            assert outcome(one.ask(Method.REFRESH)) == 437
            assert outcome(one.ask(Method.ALLOCATE, [TRANSPORT])) == 403
        assert "refused: no balance" in node.log()
        assert one.client.username not in node.log()
    balance, earned, records = read_ledger(tmp_path / "data", "user:carol")
    assert (balance, earned) == (0, 10 * J.unit)
    (record,) = records
    assert (record.kind, record.seconds, record.cost) == ("turn", 10, 10 * J.unit)
    assert record.reason == "no balance"
    assert record.relayed_bytes > 0


def test_what_was_relayed_is_charged_and_the_rest_comes_back(tmp_path: Path) -> None:
    with (
        metered_node(tmp_path, {"user:carol": 1000}) as node,
        two_ends_of(node, "carol") as (one, other),
    ):
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
    (record,) = records
    assert record.seconds in (3, 4)
    assert record.reason == "client"
    assert earned == record.cost == record.seconds * J.unit
    assert balance == 1000 * J.unit - earned


def test_megabytes_are_charged_where_they_have_a_price(tmp_path: Path) -> None:
    tariff = '[billing.tariff.turn]\nsecond = "0"\nmegabyte = "3"\n'
    with (
        metered_node(tmp_path, {"user:carol": 10}, billing=tariff) as node,
        two_ends_of(node, "carol") as (one, other),
    ):
        for _ in range(500):
            relay(one, other, bytes(1000))
        assert node.status()["bytes"] == {"to_peer": 500_000, "to_client": 500_000}
    balance, earned, (record,) = read_ledger(tmp_path / "data", "user:carol")
    assert (record.relayed_bytes, record.cost) == (1_000_000, 3 * J.unit)
    assert (balance, earned) == (7 * J.unit, 3 * J.unit)


@pytest.mark.parametrize("metered", [True, False])
def test_credentials_for_a_call_that_is_not_open_relay_nothing(
    tmp_path: Path, metered: bool
) -> None:
    config = write_config(tmp_path, more=METERED if metered else "")
    with_ledger(tmp_path / "data", {"user:carol": 100})
    with running_node(config=config) as node:
        printed = node.command("credentials", "carol", "--call", "CALL-42", "--json")
        made = json.loads(printed)
        with UdpClient(node.turn[0], made["username"], made["password"]) as client:
            assert outcome(client.ask(Method.ALLOCATE, [TRANSPORT])) == 403
        with limited(node, "carol") as carol:
            carol.allocate()
            assert node.status()["sessions"] == 1


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
    user = '[turn.users.dora]\npassword = "a word"\naccount = "user:shop"\n'
    with metered_node(tmp_path, {"user:shop": 100}, turn=turn, billing=user) as node:
        with two_ends_of(node, "whoever") as (one, other):
            relay(one, other, b"talk")
        with two_ends(node, "dora", "a word") as (one, other):
            relay(one, other, b"talk")
        with UdpClient(node.turn[0], "bob", "bob's password") as bob:
            assert outcome(bob.ask(Method.ALLOCATE, [TRANSPORT])) == 403
    balance, earned, records = read_ledger(tmp_path / "data", "user:shop")
    assert len(records) == 2
    assert all(record.cost for record in records)
    assert "user:shop dora" in {record.name for record in records}
    assert earned == sum(record.cost for record in records) == 100 * J.unit - balance


def talk_until_killed(config: Path) -> None:
    with (
        running_node(config=config) as node,
        two_ends_of(node, "carol") as (one, _),
        talking(one),
    ):
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


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.1)


def test_a_full_disk_stops_charging_for_a_while_and_nothing_else(tmp_path: Path) -> None:
    config = write_config(tmp_path, more=METERED)
    with_ledger(tmp_path / "data", {"user:carol": 1000})
    full = tmp_path / "full"
    shim = shim_variables(
        build_shim(tmp_path), tmp_path / "data" / "ledger", tmp_path / "written.log"
    )

    def balance(node: RunningNode) -> Decimal:
        shown = json.loads(node.command("account", "show", "user:carol", "--json"))
        return Decimal(shown["balance"])

    with (
        running_node(config=config, variables={**shim, "DISK_SHIM_FULL_WHILE": str(full)}) as node,
        two_ends_of(node, "carol") as (one, other),
        talking(one),
        talking(other) as heard,
    ):
        wait_for(lambda: balance(node) < 1000, "nothing was charged")
        full.touch()
        wait_for(lambda: "this second is not charged yet" in node.log(), "the disk wasn't full")
        before, count = balance(node), len(heard)
        refused = run_montana(
            *("account", "credit", "user:carol", "5", "--socket", str(node.socket)), check=False
        )
        assert refused.returncode == 1
        assert "the disk is full" in refused.stderr
        time.sleep(2)
        # What is held is relayed, and nobody is charged for it meanwhile.
        assert balance(node) == before
        assert len(heard) > count + 50
        full.unlink()
        wait_for(lambda: balance(node) <= before - 2, "it was not charged later")
        assert node.status()["allocations"] == 2
    balance_left, earned, records = read_ledger(tmp_path / "data", "user:carol")
    (record,) = records
    assert record.seconds >= 4
    assert earned == record.cost == record.seconds * J.unit
    assert balance_left == 1000 * J.unit - earned
    verified = run_montana("ledger", "verify", "--json", "--config", str(config)).stdout
    assert json.loads(verified)["ok"]


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


def test_a_frozen_account_is_cut_and_told_as_one(tmp_path: Path) -> None:
    with metered_node(tmp_path, {"user:carol": 1000}) as node:
        with two_ends_of(node, "carol") as (one, _):
            with talking(one):
                node.command("account", "freeze", "user:carol")
                wait_until_cut(node)
            one.socket.settimeout(2)
            assert outcome(one.ask(Method.ALLOCATE, [TRANSPORT])) == 403
        shown = json.loads(node.command("account", "show", "user:carol", "--json"))
        assert shown["held"] == "0.000000"
        assert "a session was cut: its account is frozen" in node.log()
        assert "refused: the account is frozen" in node.log()
    _, _, (record,) = read_ledger(tmp_path / "data", "user:carol")
    assert record.reason == "account frozen"
