"""A real node, as a process of its own on free ports of the loopback interfaces.

    with running_node() as node:
        node.turn[0]                      # Address, e.g. 127.0.0.1:40712
        node.credentials("alice").username

The node is ended by SIGTERM, and has to end cleanly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from core.development import has_ipv6_loopback
from core.stun.address import Address
from tests.support.fixed_ports import fixed_ports

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
SECRET = "not a secret: for tests alone"
USERS = {"alice": "alice's password", "bob": "bob's password"}
REALM = "montana.test"


@dataclass(frozen=True)
class NodeCredentials:
    """What `montana credentials --json` prints."""

    username: str
    password: str
    ttl: int
    uris: list[str]


@dataclass
class RunningNode:
    """A node that has said that it is ready.

    Attributes:
        turn: where its TURN server listens, IPv4 first.
        http: the pages' URL, such as ``http://127.0.0.1:40001``.
        metrics: the URL of the metrics' listener.
        socket: its Unix socket.
        config: its configuration file.
        events: the lines of its standard output so far.
        was_killed: whether a test has ended it by SIGKILL.
    """

    process: subprocess.Popen[str]
    turn: list[Address]
    http: str
    metrics: str
    socket: Path
    config: Path
    realm: str
    events: list[dict[str, Any]] = field(default_factory=list)
    _log_path: Path = Path()
    was_killed: bool = False

    def kill(self) -> None:
        """End it as the loss of power does; nobody asserts that it has ended cleanly."""
        self.was_killed = True
        self.process.kill()
        self.process.wait()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def command(self, *arguments: str) -> str:
        """What `montana ARGUMENTS --socket ...` prints."""
        return run_montana(*arguments, "--socket", str(self.socket)).stdout

    def credentials(self, account: str = "alice", *, ttl_s: int = 600) -> NodeCredentials:
        """Time-limited credentials."""
        printed = self.command("credentials", account, "--ttl", str(ttl_s), "--json")
        return NodeCredentials(**json.loads(printed))

    def status(self) -> dict[str, Any]:
        """What `montana status --json` prints."""
        status: dict[str, Any] = json.loads(self.command("status", "--json"))
        return status

    def figures(self) -> dict[tuple[str, ...], float]:
        """What its metrics say, by name and labels; it costs less than a command."""
        with urlopen(f"{self.metrics}/metrics", timeout=10) as response:  # noqa: S310
            shown = response.read().decode()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(shown)
            for sample in family.samples
        }

    def log(self) -> str:
        """Its log so far."""
        return self._log_path.read_text()


def montana_command(*arguments: str) -> list[str]:
    """The words that run the command line from this checkout."""
    return [sys.executable, "-m", "relay", *arguments]


def montana_environment(**variables: str) -> dict[str, str]:
    """This process's environment, English, finding the checkout's packages."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", **variables}


def run_montana(
    *arguments: str, check: bool = True, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; `variables` go into its environment."""
    result = subprocess.run(
        montana_command(*arguments),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=montana_environment(**variables),
        check=False,
    )
    if check and result.returncode:
        raise AssertionError(f"montana {' '.join(arguments)}: {result.stderr}")
    return result


def write_config(
    folder: Path,
    *,
    turn: Mapping[str, str] | None = None,
    limits: Mapping[str, str] | None = None,
    users: Mapping[str, str] | None = None,
    secrets: Sequence[str] = (SECRET,),
    more: str = "",
) -> Path:
    """A configuration on free ports of the loopback interfaces, with loopback peers allowed.

    Args:
        folder: where it goes, as ``node.toml``, with the data directory beside it.
        turn: keys of ``[turn]`` and their values as TOML, over those written here.
        limits: the same for ``[turn.limits]``.
        users: names and passwords; `USERS` when None.
        secrets: for time-limited credentials.
        more: tables to add as they are.
    """
    hosts = ["127.0.0.1", "::1"] if has_ipv6_loopback() else ["127.0.0.1"]
    listen = [f"udp://[{host}]:0" if ":" in host else f"udp://{host}:0" for host in hosts]
    table = {
        "listen": json.dumps(listen),
        "relay_addresses": json.dumps(hosts),
        "realm": json.dumps(REALM),
        "secrets": json.dumps(list(secrets)),
        "drain_timeout_s": "0",
        **(turn or {}),
    }
    # Names and passwords of tests are ASCII, whose JSON strings are TOML strings as well.
    lines = [
        "[node]",
        'data_dir = "data"',
        "[turn]",
        *(f"{key} = {value}" for key, value in table.items()),
        "[turn.users]",
        *(
            f"{json.dumps(name)} = {json.dumps(password)}"
            for name, password in (USERS if users is None else users).items()
        ),
        "[turn.peers]",
        'allow = ["127.0.0.0/8", "::1/128"]',
        "[turn.limits]",
        *(f"{key} = {value}" for key, value in (limits or {}).items()),
        "[http]",
        'listen = "127.0.0.1:0"',
        "[metrics]",
        'listen = "127.0.0.1:0"',
        more,
    ]
    path = folder / "node.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def running_node(
    *,
    config: Path | None = None,
    arguments: Sequence[str] = (),
    turn: Mapping[str, str] | None = None,
    limits: Mapping[str, str] | None = None,
    users: Mapping[str, str] | None = None,
    secrets: Sequence[str] = (SECRET,),
    more: str = "",
    variables: Mapping[str, str] | None = None,
) -> Iterator[RunningNode]:
    """Start a node; on leaving, end it by SIGTERM and assert that it ended cleanly.

    Args:
        config: its configuration file; otherwise `write_config` makes one of the rest.
        arguments: in place of ``--config``, such as ``["--dev"]``.
        variables: more of its environment.
    """
    with (
        fixed_ports() if arguments else nullcontext(),
        tempfile.TemporaryDirectory(prefix="montana-test-") as name,
    ):
        folder = Path(name)
        if config is None:
            config = write_config(
                folder, turn=turn, limits=limits, users=users, secrets=secrets, more=more
            )
        log_path = folder / "log"
        with log_path.open("w") as log:
            process = subprocess.Popen(
                montana_command("up", "--json", *(arguments or ["--config", str(config)])),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env=montana_environment(**(variables or {})),
            )
        # Whoever calls us may be slow: a start that hangs is ended from outside.
        watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
        watchdog.start()
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            watchdog.cancel()
            assert first, f"the node did not start:\n{log_path.read_text()}"
            ready = json.loads(first)
            assert ready["event"] == "ready", ready
            node = RunningNode(
                process,
                turn=[parse_turn(url) for url in ready["turn"]],
                http=ready["http"],
                metrics=ready["metrics"],
                socket=folder / ready["socket"],
                config=config,
                realm=REALM,
                events=[ready],
                _log_path=log_path,
            )
            yield node
            if node.was_killed:
                return
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=STOP_TIMEOUT_S)
            node.events += [json.loads(line) for line in rest.splitlines()]
            log_text = log_path.read_text()
            assert process.returncode == 0, f"exit code {process.returncode}:\n{log_text}"
            assert "Traceback" not in log_text, log_text
            assert node.events[-1] == {"event": "stopped"}
            assert not node.socket.exists()
        finally:
            watchdog.cancel()
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()


def parse_turn(url: str) -> Address:
    """The address in ``udp://127.0.0.1:3478``."""
    parts = urlsplit(url)
    assert parts.scheme == "udp"
    assert parts.hostname is not None
    assert parts.port is not None
    return Address.from_text(parts.hostname, parts.port)
