"""A whole node behind Debian's nginx, set up as deploy/node.toml says: who a connection is, and
what each client may take."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from core.development import lan_addresses
from relay.web.check import CREDENTIALS_PER_MINUTE
from relay.web.websocket import WebSocketLimits
from tests.support.fixed_ports import free_port
from tests.support.nginx import running_nginx
from tests.support.node import ROOT, RunningNode, running_node, write_config
from tests.support.signaling_client import PATIENCE_S, Page
from tests.support.websocket_frames import handshake_request

CALLER, CALLEE, ONE, OTHER, THIRD = (f"127.0.0.{number}" for number in range(2, 7))
MOST = WebSocketLimits().connections_per_client
SWITCHED, REFUSED, UNAVAILABLE, TOO_OFTEN = 101, 401, 503, 429


@dataclass
class Proxied:
    """A node, where its proxy is, and where it is itself, of another machine's addresses."""

    node: RunningNode
    url: str
    direct: tuple[str, int]

    @property
    def proxy(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    (lan,) = lan_addresses() or pytest.skip("this machine has no address but its own loopback")
    folder = tmp_path_factory.mktemp("proxied")
    inside, outside = free_port(), free_port()
    url = f"http://127.0.0.1:{outside}"
    listen = f'listen = ["127.0.0.1:{inside}", "{lan}:{inside}"]\npublic_url = "{url}"'
    config = write_config(folder)
    plain = '[http]\nlisten = "127.0.0.1:0"'
    text = config.read_text()
    assert plain in text
    config.write_text(text.replace(plain, f"[http]\n{listen}"))
    sample = (ROOT / "deploy/node.toml").read_text()
    found = re.search(r"^#   location / \{\n(?:#.*\n)*?#   \}\n", sample, re.MULTILINE)
    assert found is not None
    location = found.group().replace("#", "").replace("127.0.0.1:8790", f"127.0.0.1:{inside}")
    server = f"listen 127.0.0.1:{outside};\n{location}"
    with running_node(config=config) as node, running_nginx(folder, outside, server):
        for name in ("alice", "bob"):
            node.command("account", "create", f"user:{name}")
            node.command("account", "credit", f"user:{name}", "1000")
        yield Proxied(node, url, (lan, inside))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


def knock(
    stack: ExitStack,
    proxied: Proxied,
    to: tuple[str, int],
    source: str,
    forwarded_for: str | None = None,
) -> int:
    """Open a WebSocket from an address of this machine; what is answered. It stays open."""
    connection = stack.enter_context(socket.create_connection(to, 10, (source, 0)))
    headers = {"Host": f"{to[0]}:{to[1]}", "Origin": proxied.url}
    connection.sendall(handshake_request(**headers, X_Forwarded_For=forwarded_for))
    with connection.makefile("rb") as stream:
        return int(stream.readline().split()[1])


def ask_credentials(proxied: Proxied, source: str, forwarded_for: str = "") -> int:
    connection = HTTPConnection(*proxied.proxy, timeout=10, source_address=(source, 0))
    headers = {"X-Forwarded-For": forwarded_for} if forwarded_for else {}
    connection.request("POST", "/check/credentials", "{}", headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_two_clients_of_the_proxy_call_each_other(proxied: Proxied, stack: ExitStack) -> None:
    printed = proxied.node.command(
        "call", "link", "--from", "user:alice", "--to", "user:bob", "--json"
    )
    link = json.loads(printed)
    sides = []
    for source, url in ((CALLER, link["caller_url"]), (CALLEE, link["callee_url"])):
        assert url.startswith(f"{proxied.url}/call")
        page = stack.enter_context(Page(proxied.url, source=source))
        secret = url.partition("#")[2]
        assert page.ask("open_call", call=link["call_id"], secret=secret)["type"] == "entered"
        sides.append(page)
    caller, callee = sides
    caller.expect("peer_joined")
    callee.say("hang_up")
    for page in sides:
        assert page.expect("ended")["reason"] == "rejected"


def test_each_client_has_limits_of_its_own(proxied: Proxied, stack: ExitStack) -> None:
    for _ in range(MOST):
        assert knock(stack, proxied, proxied.proxy, ONE) == SWITCHED
    assert knock(stack, proxied, proxied.proxy, ONE) == UNAVAILABLE
    # What the client says itself comes to nothing: the proxy says who it is.
    assert knock(stack, proxied, proxied.proxy, ONE, OTHER) == UNAVAILABLE
    assert knock(stack, proxied, proxied.proxy, OTHER, ONE) == SWITCHED
    # Those of earlier tests may be about to close.
    end_s = time.monotonic() + PATIENCE_S
    while (shown := proxied.node.figures()["montana_connections", "websocket"]) != MOST + 1:
        assert time.monotonic() < end_s, shown

    for _ in range(CREDENTIALS_PER_MINUTE):
        assert ask_credentials(proxied, ONE) == REFUSED
    assert ask_credentials(proxied, ONE, OTHER) == TOO_OFTEN
    assert ask_credentials(proxied, OTHER, ONE) == REFUSED


def test_another_machine_is_not_believed(proxied: Proxied, stack: ExitStack) -> None:
    lan, _ = proxied.direct
    for _ in range(MOST):
        assert knock(stack, proxied, proxied.direct, lan, THIRD) == SWITCHED
    assert knock(stack, proxied, proxied.direct, lan, THIRD) == UNAVAILABLE
    assert knock(stack, proxied, proxied.direct, lan, "198.51.100.7") == UNAVAILABLE
    # Whom it has named loses nothing by it.
    assert knock(stack, proxied, proxied.proxy, THIRD) == SWITCHED
