"""A page's connection without a network: what the hub has said is a list."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import trio

from relay.signaling.hub import Hub


class FakeChannel:
    """Stands for a WebSocket; `say` numbers what a page says."""

    def __init__(self, hub: Hub, client: str = "192.0.2.7", seq: int = 0) -> None:
        self.client = client
        self.origin = "https://node.example"
        self.heard: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.seq = seq
        self._receiver = hub.opened(self)
        self.welcome = self.heard.pop()
        assert self.welcome["type"] == "welcome"

    def send(self, message: bytes) -> None:
        """What the hub says."""
        self.heard.append(msgspec.json.decode(message))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """The hub ends it."""
        if self.closed is None:
            self.closed = (code, reason)
            self._receiver.closed()

    def cut(self) -> None:
        """The page loses it."""
        self._receiver.closed()

    def say(self, kind: str, **fields: Any) -> int:
        """The page says something; its number."""
        self.seq += 1
        self.say_raw(json.dumps({"type": kind, "seq": self.seq, **fields}).encode())
        return self.seq

    def say_raw(self, data: bytes) -> None:
        """The page says anything at all."""
        self._receiver.received(data)

    async def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Say something, and take its answer from what was heard."""
        re = self.say(kind, **fields)
        return await self.take(re=re)

    async def take(self, **fields: Any) -> dict[str, Any]:
        """Take the first message of these values from what was heard, as soon as there is one."""
        with trio.fail_after(5):
            while True:
                for message in self.heard:
                    if all(message.get(name) == value for name, value in fields.items()):
                        self.heard.remove(message)
                        return message
                await trio.sleep(0.001)
