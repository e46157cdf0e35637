"""A bridge's connection to its node, made anew whenever it breaks.

What is asked is asked until it is answered: every request of a bridge's that has an effect names
it, so that asking again does it once. Works under trio and under asyncio.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from core.api.bridge_messages import (
    AcknowledgeRequest,
    BridgeStatusRequest,
    Event,
    Outcome,
    QuestionBody,
    SubscribeRequest,
)
from core.api.client import ApiClient, connect
from core.api.messages import (
    ReplyBody,
    Request,
    RequestBody,
    decode_client_message_untrusted,
    encode_message,
)
from core.errors import ApiError, OperationError
from core.log import log_event
from core.version import VERSION

WINDOW: Final = 64
"""Events that are carried out beside each other."""
STATUS_INTERVAL_S: Final = 10.0
STATE_MAXIMUM_CHARACTERS: Final = 128
"""What a status has room for."""
RETRY_FIRST_S: Final = 0.1
RETRY_LAST_S: Final = 5.0

_log = logging.getLogger("montana.bridge")


class NodeAway(OperationError):
    """The node has not answered in time; whether it has heard is unknown."""


class NodeLink:
    """The way to the node behind the socket at `path`, for the bridge `name`.

    Attributes:
        figures: what the node is told of the bridge, for status and metrics.
        state: in a few words, how the bridge does.
    """

    def __init__(self, path: Path, name: str, *, subscribes: bool = True) -> None:
        self._path = path
        self._name = name
        self._subscribes = subscribes
        self._client: ApiClient | None = None
        self._connected = anyio.Event()
        self._broken = anyio.Event()
        self._given: set[str] = set()
        """Events that are not acknowledged, so that each is carried out once at a time."""
        self._give, self._events = anyio.create_memory_object_stream[Event](math.inf)
        self.figures: dict[str, str] = {}
        self.state = "running"

    @property
    def is_connected(self) -> bool:
        """Whether the node is there."""
        return self._client is not None

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        delay_s = RETRY_FIRST_S
        is_told = False
        while True:
            try:
                async with connect(self._path, software=f"montana {VERSION}") as client:
                    if self._subscribes:
                        await client.request(SubscribeRequest(self._name, WINDOW))
                    log_event(_log, logging.INFO, "connected to the node", bridge=self._name)
                    delay_s, is_told = RETRY_FIRST_S, False
                    await self._serve(client)
            except (ApiError, OperationError) as error:
                if not is_told:
                    log_event(
                        _log, logging.WARNING, "the node is away", bridge=self._name, reason=error
                    )
                is_told = True
            await anyio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_LAST_S)

    async def request(self, body: RequestBody) -> ReplyBody:
        """Ask until there is an answer, however long the node is away.

        Raises:
            OperationError: the node says that it can't be done, and why.
            ApiError: no node would read this.
        """
        _assert_readable(body)
        while True:
            client = self._client
            if client is None:
                await self._connected.wait()
                continue
            try:
                return await client.request(body)
            except ApiError:
                self._break(client)

    async def try_request(self, body: RequestBody, *, timeout_s: float) -> ReplyBody:
        """Ask once, and wait for so long at most.

        Raises:
            NodeAway: no answer; whether the node has heard is unknown, and it may be asked again.
            OperationError, ApiError: as `request`.
        """
        _assert_readable(body)
        with anyio.move_on_after(timeout_s):
            while (client := self._client) is None:
                await self._connected.wait()
            try:
                return await client.request(body)
            except ApiError:
                self._break(client)
        raise NodeAway(f"the node has not answered in {timeout_s:g} s", "node_away")

    async def events(self) -> AsyncIterator[Event]:
        """What the node tells; each is to be acknowledged, and may have been carried out before."""
        async for event in self._events:
            yield event

    async def acknowledge(self, event: str, outcome: Outcome = "done", detail: str = "") -> None:
        """Say what has become of an event, until the node has stored it: what is carried out
        already is not carried out again because the node's disk is full."""
        delay_s = RETRY_FIRST_S
        while True:
            try:
                await self.request(AcknowledgeRequest(event, outcome, detail[:128]))
            except OperationError as error:
                log_event(
                    _log, logging.WARNING, "the node does not hear of an event", code=error.code
                )
                await anyio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_LAST_S)
            else:
                self._given.discard(event)
                return

    async def _serve(self, client: ApiClient) -> None:
        self._client = client
        self._broken = broken = anyio.Event()
        self._connected.set()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._take_events, client, broken)
                tasks.start_soon(self._tell_status, client, broken)
                await broken.wait()
                tasks.cancel_scope.cancel()
        finally:
            if self._client is client:
                self._lose()

    def _break(self, client: ApiClient) -> None:
        if self._client is client:
            self._broken.set()
            self._lose()

    def _lose(self) -> None:
        self._client = None
        self._connected = anyio.Event()

    async def _take_events(self, client: ApiClient, broken: anyio.Event) -> None:
        with contextlib.suppress(ApiError):
            async for event in client.events():
                # No more than the window of them: the node waits for the first then. Questions,
                # which nobody acknowledges, are asked once.
                if isinstance(event.body, QuestionBody):
                    self._give.send_nowait(event)
                elif event.id not in self._given:
                    self._given.add(event.id)
                    self._give.send_nowait(event)
        broken.set()

    async def _tell_status(self, client: ApiClient, broken: anyio.Event) -> None:
        is_told = False
        while True:
            try:
                await client.request(self._status())
                is_told = False
            except ApiError:
                broken.set()
                return
            except OperationError as error:
                if not is_told:
                    log_event(_log, logging.WARNING, "the node takes no status", reason=error)
                is_told = True
            await anyio.sleep(STATUS_INTERVAL_S)

    def _status(self) -> BridgeStatusRequest:
        """How the bridge does; without the figures where no node could read them, which would have
        it end the connection each time."""
        state = self.state[:STATE_MAXIMUM_CHARACTERS]
        status = BridgeStatusRequest(self._name, state, dict(self.figures))
        try:
            _assert_readable(status)
        except ApiError as error:
            log_event(_log, logging.ERROR, "figures can't be told", bridge=self._name, reason=error)
            return BridgeStatusRequest(self._name, "its figures can't be told", {})
        return status


def _assert_readable(body: RequestBody) -> None:
    """Refuse what would break the connection each time.

    Raises:
        ApiError: no node would read it.
    """
    decode_client_message_untrusted(encode_message(Request(1, body)))
