"""The servers that are compared, each started alone on the server core."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import trio

from bench.process import SERVER_CORE, use_core
from bench.turn_client import ClientError, Credentials, wait_until_answering
from billing.ledger import ISSUE, NODE, LmdbLedger, open_ledger
from billing.money import J
from billing.transfers import Transfer, new_id
from core.clock import SystemClock
from core.errors import OperationError
from core.node_files import ledger_folder
from core.stun.address import Address

CREDENTIALS = Credentials("bench", "a password for benchmarks")
USERS = (
    CREDENTIALS,
    *(Credentials(f"bench{number}", f"password {number}") for number in range(2, 21)),
)
"""Whom the node knows: each has a session of its own. Coturn knows the first alone."""
REALM = "bench"
SECRET = "a secret for benchmarks"
RELAY_PORTS = (10_000, 21_999)
"""Below the ports that the generator's own sockets get."""
ALLOCATIONS_MAXIMUM = RELAY_PORTS[1] - RELAY_PORTS[0]
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 10.0
COTURN = "coturn"
MONTANA = "montana"
MONTANA_LOW_LATENCY = "montana, low latency"
MONTANA_METERED = "montana, metered"
FUNDS = 1_000_000 * J.unit
"""What each account has that pays for something."""
PRICE = J.unit
"""Of a second, as the node has it by default."""


class Server(NamedTuple):
    """A running server."""

    name: str
    address: Address
    pid: int


@contextmanager
def bench_folder() -> Iterator[Path]:
    """A temporary folder, removed in the end."""
    with tempfile.TemporaryDirectory(prefix="montana-bench-") as folder:
        yield Path(folder)


@contextmanager
def running(name: str) -> Iterator[Server]:
    """Start the server of this name, and stop it in the end.

    Raises:
        OperationError: it can't be started; says why.
    """
    with bench_folder() as folder, running_in(folder, name) as server:
        yield server


@contextmanager
def running_in(folder: Path, name: str) -> Iterator[Server]:
    """As `running`, with what the server keeps in `folder`, which stays.

    Raises:
        OperationError: as `running`.
    """
    process, address = (
        _start_coturn(folder)
        if name == COTURN
        else _start_montana(
            folder, low_latency=name == MONTANA_LOW_LATENCY, metered=name == MONTANA_METERED
        )
    )
    try:
        _wait(process, name, address, folder)
        yield Server(name, address, process.pid)
        if process.poll() is not None:
            raise OperationError(
                f"{name} has ended by itself with status {process.returncode}:\n"
                f"{last_words(folder)}"
            )
    finally:
        stop(process)


def coturn_is_installed() -> bool:
    """Whether Debian's turnserver is there."""
    return shutil.which("turnserver") is not None


def version_of(name: str) -> str:
    """The version of a server that is installed."""
    if name != COTURN:
        return version("montana")
    shown = subprocess.run(
        [shutil.which("turnserver") or COTURN, "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"\d+\.\d+\.\d+", shown.stdout + shown.stderr)
    return found.group() if found else "of unknown version"


def free_port() -> int:
    """A port that nothing is bound to now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        port: int = udp.getsockname()[1]
        return port


def node_configuration(
    address: Address,
    *,
    low_latency: bool = False,
    metered: bool = False,
    signaling: str = "",
) -> str:
    """The node's configuration file: one worker, coturn's freedom toward loopback peers, no cap
    on what a single source address asks for.

    Args:
        signaling: lines of that table.
    """
    users = "\n".join(f'{user.username} = "{user.password}"' for user in USERS)
    return f"""\
[node]
data_dir = "data"
[turn]
listen = ["udp://{address}"]
relay_addresses = ["{address.host}"]
relay_ports = [{RELAY_PORTS[0]}, {RELAY_PORTS[1]}]
realm = "{REALM}"
secrets = ["{SECRET}"]
workers = 1
low_latency = {str(low_latency).lower()}
drain_timeout_s = 0
[turn.users]
{users}
[turn.peers]
allow = ["127.0.0.0/8"]
[turn.limits]
allocations = {ALLOCATIONS_MAXIMUM}
allocations_per_user = {ALLOCATIONS_MAXIMUM}
error_replies_exempt = ["127.0.0.0/8"]
[http]
listen = "127.0.0.1:0"
[signaling]
{signaling}
[metrics]
listen = "127.0.0.1:0"
[log]
level = "warning"
[billing]
turn = "{"metered" if metered else "free"}"
"""


def _start_coturn(folder: Path) -> tuple[subprocess.Popen[bytes], Address]:
    program = shutil.which("turnserver")
    if program is None:
        raise OperationError("turnserver is missing; install it with: sudo apt install coturn")
    address = Address.from_text("127.0.0.1", free_port())
    command = [
        program,
        "-n",
        *("-L", address.host, "-E", address.host, "-p", str(address.port)),
        *("-m", "1"),
        *("--min-port", str(RELAY_PORTS[0]), "--max-port", str(RELAY_PORTS[1])),
        *("--lt-cred-mech", "-r", REALM),
        *("-u", f"{CREDENTIALS.username}:{CREDENTIALS.password}"),
        "--allow-loopback-peers",
        *("--no-tls", "--no-dtls", "--no-tcp", "--no-tcp-relay"),
        *("--no-cli", "--no-rfc5780", "--no-stun-backward-compatibility"),
        *("--no-software-attribute", "--no-multicast-peers"),
        *("--no-dynamic-ip-list", "--no-dynamic-realms", "--no-auth-pings"),
        *("--no-stdout-log", "--simple-log", "--log-file", "/dev/null"),
        *("--pidfile", str(folder / "pid")),
        *("--userdb", str(folder / "userdb")),
    ]
    return spawn(command, folder), address


def _start_montana(
    folder: Path, *, low_latency: bool, metered: bool
) -> tuple[subprocess.Popen[bytes], Address]:
    address = Address.from_text("127.0.0.1", free_port())
    config = folder / "node.toml"
    config.write_text(node_configuration(address, low_latency=low_latency, metered=metered))
    if metered:
        fund(folder, [f"user:{user.username}" for user in USERS])
    return spawn(montana_command(config), folder), address


def montana_command(config: Path) -> list[str]:
    """What starts the node that is installed beside this interpreter."""
    program = Path(sys.executable).with_name("montana")
    if not program.exists():
        raise OperationError(f"{program.name} is not installed; run: make build")
    return [str(program), "up", "--config", str(config), "--json"]


def fund(folder: Path, addresses: Sequence[str]) -> None:
    """Give accounts what any measurement takes, in the ledger of a node that keeps its data in
    `folder` and isn't started yet."""
    clock = SystemClock()

    async def credit(ledger: LmdbLedger) -> None:
        # Those who ask together share a commit.
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(credit_one, ledger, address)

    async def credit_one(ledger: LmdbLedger, address: str) -> None:
        number = await ledger.open_account([address])
        await ledger.transfer([Transfer(new_id(clock), ISSUE, number, FUNDS)])

    with open_ledger(ledger_folder(folder / "data"), clock) as ledger:
        trio.run(credit, ledger)


def charged_s(folder: Path) -> list[int]:
    """The seconds that each user of a metered server was charged for, read from what it has kept
    in `folder` when it has stopped."""
    with open_ledger(ledger_folder(folder / "data"), SystemClock()) as ledger:
        posted = ledger.book.columns["posted"][:, J.number]
        paid = []
        for user in USERS:
            number = ledger.find(f"user:{user.username}")
            assert number is not None
            paid.append(FUNDS - int(posted[number]))
        assert sum(paid) == posted[NODE]
    assert all(one % PRICE == 0 for one in paid), paid
    return [one // PRICE for one in paid]


def spawn(
    command: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server on its core; what it says goes to files in `folder`. It inherits what this
    process may use, so that is narrowed for a moment: setting it afterwards would miss threads that
    have started already."""
    mine = os.sched_getaffinity(0)
    use_core(SERVER_CORE)
    try:
        with (folder / "output").open("wb") as output, (folder / "errors").open("wb") as errors:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=folder,
                env=environment,
            )
    finally:
        os.sched_setaffinity(0, mine)


def _wait(process: subprocess.Popen[bytes], name: str, address: Address, folder: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            wait_until_answering(address, 0.5)
        except ClientError:
            continue
        return
    raise OperationError(f"{name} does not answer; its last words:\n{last_words(folder)}")


def last_words(folder: Path) -> str:
    """What a server has said last."""
    lines = []
    for stream in ("output", "errors"):
        lines += (folder / stream).read_text(errors="replace").splitlines()[-10:]
    return "\n".join(lines)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server, at once where it takes too long."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
