"""The socket's protocol without I/O: bytes in, messages out, and bytes to send.

    client   start -- Hello sent ------> greeting -- Hello received --> open
    node     greeting -- Hello received, Hello sent ------------------> open

Whatever breaks the protocol raises `ApiError` once; the connection is closed then, and what
`data_to_send` still gives is the reason, for the other end.
"""

from __future__ import annotations

from enum import Enum, auto

from core.api.bridge_messages import Event, SubscribeRequest
from core.api.framing import REPLY_BYTES_MAX, REQUEST_BYTES_MAX, FrameReader, encode_frame
from core.api.messages import (
    API_VERSION,
    Failure,
    Hello,
    Reply,
    ReplyBody,
    Request,
    RequestBody,
    decode_client_message_untrusted,
    decode_node_message_untrusted,
    encode_message,
)
from core.errors import ApiError, OperationError

TOO_LONG = "the answer is too long; ask for fewer: --limit"
"""What a client is told whose answer would be longer than `REPLY_BYTES_MAX`."""


class Refused(ApiError):
    """The node has refused what came to it unread: what waits for its reply has not been done."""


class _State(Enum):
    GREETING = auto()
    OPEN = auto()
    CLOSED = auto()


class NodeConnection:
    """The node's end of one connection."""

    def __init__(self, software: str) -> None:
        self._software = software
        self._state = _State.GREETING
        self._reader = FrameReader(REQUEST_BYTES_MAX)
        self._outgoing = bytearray()

    @property
    def greeted(self) -> bool:
        """The client has said hello in a version that we speak, and broken nothing since."""
        return self._state is _State.OPEN

    def receive_untrusted(self, data: bytes) -> list[Request]:
        """Take received bytes, return the requests in them.

        Raises:
            ApiError: the client breaks the protocol; send `data_to_send` and close.
        """
        assert self._state is not _State.CLOSED
        requests: list[Request] = []
        try:
            for payload in self._reader.feed_untrusted(data):
                message = decode_client_message_untrusted(payload)
                if self._state is _State.GREETING:
                    self._greet(message)
                elif isinstance(message, Request):
                    requests.append(message)
                else:
                    raise ApiError("a second hello")
        except ApiError as error:
            self._state = _State.CLOSED
            self._queue(Reply(0, Failure(str(error))))
            raise
        return requests

    def reply(self, request_id: int, body: ReplyBody) -> None:
        """Queue the reply to a request; one that is too long for a frame becomes a `Failure`, since
        how long it is depends on what others have written."""
        assert self._state is _State.OPEN
        payload = encode_message(Reply(request_id, body))
        if len(payload) > REPLY_BYTES_MAX:
            payload = encode_message(Reply(request_id, Failure(TOO_LONG)))
        self._outgoing += encode_frame(payload)

    def send_event(self, event: Event) -> None:
        """Queue what a client is told that has subscribed to it."""
        assert self._state is _State.OPEN
        self._queue(event)

    @property
    def outgoing_bytes(self) -> int:
        """How much `data_to_send` has."""
        return len(self._outgoing)

    def data_to_send(self) -> bytes:
        """Bytes for the client, each once."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def _greet(self, message: Hello | Request) -> None:
        if not isinstance(message, Hello):
            raise ApiError("a request before the hello")
        if message.version != API_VERSION:
            raise ApiError(
                f"this node speaks version {API_VERSION} of the socket's protocol, "
                f"the client version {message.version}: use the montana command of the same version"
            )
        self._queue(Hello(API_VERSION, self._software))
        self._state = _State.OPEN

    def _queue(self, message: Hello | Reply | Event) -> None:
        self._outgoing += encode_frame(encode_message(message))


class ClientConnection:
    """A client's end of one connection."""

    def __init__(self, software: str) -> None:
        self._state = _State.GREETING
        self._reader = FrameReader(REPLY_BYTES_MAX)
        self._outgoing = bytearray(encode_frame(encode_message(Hello(API_VERSION, software))))
        self._next_id = 1
        self._unanswered: set[int] = set()
        self._has_subscribed = False

    @property
    def greeted(self) -> bool:
        """The node has said hello in a version that we speak."""
        return self._state is _State.OPEN

    def request(self, body: RequestBody) -> int:
        """Queue a request; returns its id.

        Raises:
            OperationError: it is longer than a node takes; nothing was queued.
        """
        assert self._state is not _State.CLOSED
        request_id = self._next_id
        payload = encode_message(Request(request_id, body))
        if len(payload) > REQUEST_BYTES_MAX:
            raise OperationError(
                f"the request has {len(payload)} bytes, and a node takes {REQUEST_BYTES_MAX}; "
                "ask for less at a time"
            )
        self._next_id += 1
        self._unanswered.add(request_id)
        self._has_subscribed = self._has_subscribed or isinstance(body, SubscribeRequest)
        self._outgoing += encode_frame(payload)
        return request_id

    def receive_untrusted(self, data: bytes) -> list[Reply | Event]:
        """Take received bytes, return the replies and events in them, in order.

        Raises:
            ApiError: the node refuses the connection (`Refused`, with its reason) or breaks the
                protocol.
        """
        assert self._state is not _State.CLOSED
        received: list[Reply | Event] = []
        try:
            for payload in self._reader.feed_untrusted(data):
                message = decode_node_message_untrusted(payload)
                if isinstance(message, Hello):
                    self._greet(message)
                    continue
                if isinstance(message, Event):
                    self._check_event(message)
                else:
                    self._check_reply(message)
                received.append(message)
        except ApiError:
            self._state = _State.CLOSED
            raise
        return received

    def data_to_send(self) -> bytes:
        """Bytes for the node, each once."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def _check_event(self, event: Event) -> None:
        if self._state is not _State.OPEN or not self._has_subscribed:
            raise ApiError(f"an event that nobody has subscribed to: {event.id}")

    def _check_reply(self, reply: Reply) -> None:
        if reply.id == 0:
            reason = reply.body.message if isinstance(reply.body, Failure) else ""
            # Of several that wait, those before the one that it couldn't read may be under way.
            if self._state is _State.GREETING or len(self._unanswered) <= 1:
                raise Refused(f"the node refused: {reason}")
            raise ApiError(f"the node ended the connection: {reason}")
        if self._state is not _State.OPEN or reply.id not in self._unanswered:
            raise ApiError("a reply to nothing that was asked")
        self._unanswered.remove(reply.id)

    def _greet(self, message: Hello) -> None:
        if self._state is _State.OPEN:
            raise ApiError("a second hello")
        if message.version != API_VERSION:
            raise ApiError(
                f"the node speaks version {message.version} of the socket's protocol, "
                f"this command version {API_VERSION}"
            )
        self._state = _State.OPEN
