"""A page without a browser: says messages to a node's WebSocket, and hears what comes.

    with Page(node.http) as page:
        entered = page.ask("join", invitation=token)
        page.expect("peer_joined")

The client's side of the WebSocket is that of the `websockets` library.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any, Self

from nacl.signing import SigningKey
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from relay.signaling.messages import PROTOCOL_VERSION
from relay.signaling.proof import signed_text

PATIENCE_S = 15.0


class Page:
    """One connection, from the IP address `source` of this machine where that is given. `seq`
    counts by itself; a page that resumes begins where it was."""

    def __init__(
        self, http: str, *, seq: int = 0, origin: str | None = None, source: str | None = None
    ) -> None:
        self.origin = origin or http
        self.seq = seq
        self.heard: list[dict[str, Any]] = []
        self._read = 0
        self._socket: ClientConnection = connect(
            http.replace("http", "ws", 1) + "/ws",
            origin=Origin(self.origin),
            subprotocols=[Subprotocol("montana.1")],
            compression=None,
            proxy=None,
            ping_interval=None,
            # What a test has not looked at keeps nothing from being read, a closing least of all.
            max_queue=None,
            source_address=None if source is None else (source, 0),
        )
        self.welcome = self.expect("welcome")
        assert PROTOCOL_VERSION in self.welcome["versions"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection as a page does that is closed."""
        self._socket.close()

    def cut(self) -> None:
        """Lose the connection: no word of parting."""
        self._socket.socket.close()

    def say(self, kind: str, **fields: Any) -> int:
        """Send a message; returns its number."""
        self.seq += 1
        self.send_raw(json.dumps({"type": kind, "seq": self.seq, **fields}))
        return self.seq

    def send_raw(self, text: str | bytes) -> None:
        """Send any message at all."""
        self._socket.send(text)

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a message and return what answers it."""
        re = self.say(kind, **fields)
        return self._until(lambda message: message.get("re") == re, f"an answer to {kind}")

    def expect(self, kind: str, timeout_s: float = PATIENCE_S, **fields: Any) -> dict[str, Any]:
        """The next message of a kind with these values; those before it are left in `heard`."""

        def fits(message: dict[str, Any]) -> bool:
            return message["type"] == kind and all(
                message.get(name) == value for name, value in fields.items()
            )

        return self._until(fits, f"{kind} {fields}", timeout_s)

    def _until(self, fits: Any, what: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        deadline_s = time.monotonic() + timeout_s
        while True:
            while self._read < len(self.heard):
                message = self.heard[self._read]
                self._read += 1
                if fits(message):
                    return message
            try:
                text = self._socket.recv(timeout=max(0.0, deadline_s - time.monotonic()))
            except TimeoutError:
                raise AssertionError(f"no {what}; heard {self.heard[-5:]}") from None
            self.heard.append(json.loads(text))

    def is_silent(self, duration_s: float) -> bool:
        """Whether nothing comes for so long."""
        try:
            self.heard.append(json.loads(self._socket.recv(timeout=duration_s)))
        except TimeoutError:
            return self._read == len(self.heard)
        return False

    def wait_closed(self, timeout_s: float = PATIENCE_S) -> int | None:
        """Wait until the node closes the connection; the close code."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                text = self._socket.recv(timeout=max(0.0, deadline_s - time.monotonic()))
            except ConnectionClosed as closed:
                return None if closed.rcvd is None else closed.rcvd.code
            self.heard.append(json.loads(text))

    def proof(self, key: SigningKey) -> dict[str, str]:
        """An `AccountProof` for this connection."""
        signature = key.sign(signed_text(self.origin, self.welcome["challenge"])).signature
        return {
            "key": base64.b32encode(key.verify_key.encode()).decode().lower().rstrip("="),
            "signature": base64.urlsafe_b64encode(signature).decode().rstrip("="),
        }
