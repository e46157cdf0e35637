"""A node and its bridge to Twilio on one core, and those who call the bridge's webhook.

Each connection has numbers of its own, so what an answer has to say of a balance is known.
"""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlencode

import httpx
from twilio.request_validator import RequestValidator

from bench.process import core_of, core_time_ns, cpu_time_ns
from bench.servers import (
    FUNDS,
    bench_folder,
    free_port,
    fund,
    last_words,
    montana_command,
    node_configuration,
    spawn,
    stop,
)
from bench.turn_client import ClientError
from billing.ledger import open_ledger
from billing.money import J, parse_amount_untrusted
from core.clock import SystemClock
from core.errors import OperationError
from core.node_files import ledger_folder
from core.stun.address import Address

HOST: Final = "127.0.0.1"
ACCOUNT: Final = "AC" + "0b" * 16
TOKEN: Final = "a token for benchmarks"
PUBLIC_URL: Final = "https://sms.example"
RECIPIENT: Final = "+15005550006"
PRICE: Final = J.unit
"""Of a BAL."""
READY_WITHIN_S: Final = 60.0
ANSWER_WITHIN_S: Final = 30.0
RECEIVE_BYTES: Final = 64 * 1024
_EMPTY: Final = b"<Response />"
_BALANCE: Final = re.compile(rb"<Response><Message>Balance: ([0-9.]+) J</Message></Response>\Z")


class Carried(NamedTuple):
    """What came of so many messages, each answered rightly.

    Attributes:
        late: of them, to be answered by an SMS of its own later.
        others: the share of the time in which the core worked for others.
    """

    messages: int
    late: int
    elapsed_ns: int
    node_cpu_ns: int
    bridge_cpu_ns: int
    others: float


class _Connection:
    """One that is kept, the numbers whose messages come by it, and what they have left."""

    def __init__(self, port: int, numbers: Sequence[str]) -> None:
        self.numbers = numbers
        self.requests: list[tuple[str, bytes]] = []
        self.is_closing = False
        self._asked: str | None = None
        self._port = port
        self._left = dict.fromkeys(numbers, FUNDS)
        self._late: Counter[str] = Counter()
        self._received = b""
        self.socket = self._connect()

    def ask(self) -> bool:
        """Send the next message; False where there is none."""
        if not self.requests:
            return False
        self._asked, request = self.requests.pop()
        self.socket.sendall(request)
        return True

    def receive(self) -> bool:
        """Take what has come; whether that is all of an answer, which is right then.

        Raises:
            ClientError: it is not what it has to be.
        """
        data = self.socket.recv(RECEIVE_BYTES)
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)^content-length: (\d+)\r?$", head, re.MULTILINE)
        if not end or length is None or len(body) < int(length.group(1)):
            if not data:
                raise ClientError("the bridge has closed a connection in the middle of an answer")
            return False
        self._received = b""
        assert self._asked is not None
        phone = self._asked
        self._left[phone] -= PRICE
        # A server has a connection end after so many requests.
        self.is_closing = b"connection: close" in head.lower()
        if body.endswith(_EMPTY):
            self._late[phone] += 1
            return True
        said = _BALANCE.search(body)
        if said is None or not self.may_have(phone, parse_amount_untrusted(said[1].decode())):
            raise ClientError(f"an SMS has a wrong answer: {head[:40]!r} {body[:300]!r}")
        return True

    def renew(self) -> socket.socket:
        """Connect again."""
        self.socket.close()
        self.socket = self._connect()
        return self.socket

    @property
    def late(self) -> int:
        """How many messages were to be answered later, when they are carried out: the node has
        not done it soon enough for the response."""
        return self._late.total()

    def may_have(self, phone: str, amount: int) -> bool:
        """Whether a number that has paid for each message once may have so much left."""
        return 0 <= amount - self._left[phone] <= self._late[phone] * PRICE

    def _connect(self) -> socket.socket:
        connected = socket.create_connection((HOST, self._port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected


class Senders:
    """Connections in one process, on each of which the next message comes as soon as the last one
    was answered."""

    def __init__(self, port: int, node_pid: int, bridge_pid: int, connections: int, count: int):
        phones = [f"+7999{number:07}" for number in range(count)]
        self._connections = [_Connection(port, phones[n::connections]) for n in range(connections)]
        self._pids = (node_pid, bridge_pid)
        self._validator = RequestValidator(TOKEN)
        self._made = 0

    def send(self, messages: int) -> Carried:
        """Send so many, all of them signed before the clock starts, and wait for the answers.

        Raises:
            ClientError: an answer is wrong, or doesn't come.
        """
        for number in range(messages):
            connection = self._connections[number % len(self._connections)]
            turn = number // len(self._connections)
            phone = connection.numbers[turn % len(connection.numbers)]
            connection.requests.append((phone, self._request(phone)))
        for connection in self._connections:
            # It may have said nothing for longer than a server waits, while they were signed.
            connection.renew()
        core = core_of(self._pids[0])
        cpu_ns, core_ns, late = self._cpu_ns(), core_time_ns(core), self._late()
        started_ns = time.monotonic_ns()
        self._carry()
        elapsed_ns = time.monotonic_ns() - started_ns
        node_ns, bridge_ns = (
            after - before for before, after in zip(cpu_ns, self._cpu_ns(), strict=True)
        )
        core_ns = core_time_ns(core) - core_ns
        others = max(0.0, (core_ns - node_ns - bridge_ns) / elapsed_ns)
        return Carried(messages, self._late() - late, elapsed_ns, node_ns, bridge_ns, others)

    def check_accounts(self, folder: Path) -> None:
        """See that the ledger in `folder`, of a node that has stopped, says the same.

        Raises:
            OperationError: it doesn't.
        """
        with open_ledger(ledger_folder(folder / "data"), SystemClock()) as ledger:
            posted = ledger.book.columns["posted"][:, J.number]
            for connection in self._connections:
                for phone in connection.numbers:
                    number = ledger.find(phone)
                    assert number is not None
                    if not connection.may_have(phone, int(posted[number])):
                        raise OperationError("a number has not paid for each message once")

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.socket.close()

    def _late(self) -> int:
        return sum(connection.late for connection in self._connections)

    def _carry(self) -> None:
        with select.epoll() as poller:
            asking: dict[int, _Connection] = {}
            for connection in self._connections:
                if connection.ask():
                    asking[connection.socket.fileno()] = connection
                    poller.register(connection.socket, select.EPOLLIN)
            while asking:
                found = poller.poll(ANSWER_WITHIN_S)
                if not found:
                    raise ClientError(f"an SMS was not answered within {ANSWER_WITHIN_S:.0f} s")
                for descriptor, _ in found:
                    connection = asking[descriptor]
                    if not connection.receive():
                        continue
                    if connection.is_closing:
                        poller.unregister(connection.socket)
                        del asking[descriptor]
                        connected = connection.renew()
                        asking[connected.fileno()] = connection
                        poller.register(connected, select.EPOLLIN)
                    if not connection.ask():
                        poller.unregister(connection.socket)
                        del asking[connection.socket.fileno()]

    def _cpu_ns(self) -> tuple[int, int]:
        node, bridge = map(cpu_time_ns, self._pids)
        return node, bridge

    def _request(self, phone: str) -> bytes:
        """A BAL as Twilio sends it, signed by its own library."""
        self._made += 1
        sid = f"SM{self._made:032x}"
        fields = {
            "ToCountry": "US",
            "MessageSid": sid,
            "SmsSid": sid,
            "SmsMessageSid": sid,
            "AccountSid": ACCOUNT,
            "From": phone,
            "To": RECIPIENT,
            "Body": "BAL",
            "NumMedia": "0",
            "NumSegments": "1",
            "SmsStatus": "received",
            "FromCity": "",
            "ApiVersion": "2010-04-01",
        }
        signature = self._validator.compute_signature(f"{PUBLIC_URL}/sms", fields)
        body = urlencode(fields).encode()
        head = (
            "POST /sms HTTP/1.1\r\nHost: sms.example\r\nUser-Agent: TwilioProxy/1.1\r\n"
            "Accept: */*\r\nContent-Type: application/x-www-form-urlencoded; charset=UTF-8\r\n"
            f"X-Twilio-Signature: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@contextmanager
def running_sms(*, connections: int, numbers: int) -> Iterator[Senders]:
    """Start a node and a bridge on the server core, with money for so many numbers; stop them in
    the end, and see that each message was paid for once.

    Raises:
        OperationError: they can't be started, have ended by themselves, or an account is wrong.
    """
    assert connections <= numbers
    with bench_folder() as folder:
        port = free_port()
        config = folder / "node.toml"
        config.write_text(_configuration(port))
        fund(folder, [f"+7999{number:07}" for number in range(numbers)])
        beside = folder / "bridge"
        beside.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        node = spawn(montana_command(config), folder)
        try:
            command = [sys.executable, "-m", "bridges", "twilio", "--config", str(config)]
            bridge = spawn(command, beside, environment)
            try:
                if not _is_ready(port, node, bridge):
                    said = f"{last_words(folder)}\n{last_words(beside)}"
                    raise OperationError(f"the bridge has not found its node:\n{said}")
                senders = Senders(port, node.pid, bridge.pid, connections, numbers)
                try:
                    yield senders
                finally:
                    senders.close()
                for name, process, where in (("node", node, folder), ("bridge", bridge, beside)):
                    if process.poll() is not None:
                        raise OperationError(
                            f"the {name} has ended by itself with status {process.returncode}:\n"
                            f"{last_words(where)}"
                        )
            finally:
                stop(bridge)
        finally:
            stop(node)
        senders.check_accounts(folder)


def _configuration(port: int) -> str:
    return (
        node_configuration(Address.from_text(HOST, free_port()))
        + f"""\
[bridges]
start = false
[bridges.twilio]
listen = "{HOST}:{port}"
public_url = "{PUBLIC_URL}"
account_sid = "{ACCOUNT}"
auth_token = "{TOKEN}"
sender = "{RECIPIENT}"
# Nothing listens there: what isn't answered in its response is a wrong answer here.
api_url = "http://{HOST}:1"
[sms]
countries = ["RU"]
messages_per_day = 0
messages_per_number = 0
commands_per_minute = 0
commands_in_total = 0
"""
    )


def _is_ready(port: int, *processes: subprocess.Popen[bytes]) -> bool:
    """Whether the bridge serves and has found its node, in time."""
    deadline_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline_s and all(one.poll() is None for one in processes):
        try:
            if httpx.get(f"http://{HOST}:{port}/healthz").json()["node"]:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    return False
