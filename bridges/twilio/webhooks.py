"""What the bridge is called by, over HTTP: Twilio and a telephone, through a reverse proxy.

POST, GET /sms        an SMS; answered by TwiML
POST, GET /fallback   the same, after /sms had failed
POST, GET /status     how far an SMS is that was sent
POST /android         whatever the telephone tells
GET /healthz          whether the node is there
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final
from xml.sax.saxutils import escape

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from bridges.process import BridgeContext
from bridges.twilio import android
from bridges.twilio.advice import advice_on
from bridges.twilio.carrier import parts
from bridges.twilio.figures import Figures
from bridges.twilio.form import (
    BODY_MAXIMUM_BYTES,
    Form,
    Message,
    Signatures,
    error_code_untrusted,
    parse_form_untrusted,
    read_message_untrusted,
    read_status_untrusted,
)
from bridges.twilio.inbox import Inbox, Received
from bridges.twilio.server import is_caller_gone, serve
from bridges.twilio.statuses import Statuses, Told
from core.bridge_config import TwilioConfig
from core.errors import ApiError, OperationError, WebhookError
from core.log import RepeatedEvent, log_event

NAME: Final = "twilio"
"""Of this way, to the node."""
ANSWER_WITHIN_S: Final = 1.5
"""How long the node has for an answer that goes with the response: that has to come within 2 s."""
WAITING_MAXIMUM: Final = 256
"""Requests that wait for the node; the others are answered by SMS at once."""
REQUESTS_MAXIMUM: Final = 1_000
READ_TIMEOUT_S: Final = 10
DISCARDED_MAXIMUM_BYTES: Final = 2 * 1024 * 1024
"""Of a body that is too long: more than a proxy would pass on, if nobody has told it to."""
DISCARD_WITHIN_S: Final = 1.0
_STATUSES: Final[dict[str, Told]] = {
    "sent": "sent",
    "delivered": "delivered",
    "read": "delivered",
    "undelivered": "undelivered",
    "failed": "failed",
    "canceled": "failed",
}
_XML: Final = "text/xml"
_DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8"?>'
_EMPTY: Final = _DECLARATION + b"<Response />"
# What XML 1.0 has no way to write (section 2.2).
_NOT_IN_XML: Final = dict.fromkeys(
    code
    for code in (*range(0x20), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF)
    if code not in (0x09, 0x0A, 0x0D)
)

_Handle = Callable[[Request], Awaitable[Response]]

_log = logging.getLogger("montana.bridge.twilio")


class Webhooks:
    """Serves them."""

    def __init__(
        self,
        context: BridgeContext,
        config: TwilioConfig,
        inbox: Inbox,
        statuses: Statuses,
        figures: Figures,
        language: str,
    ) -> None:
        self._context = context
        self._config = config
        self._inbox = inbox
        self._statuses = statuses
        self._figures = figures
        self._language = language
        self._signatures = Signatures(config.public_url, config.auth_token)
        self._requests = 0
        self._waiting = 0

    async def run(self) -> None:
        """Serve until cancelled."""
        await serve(self.application(), self._config.listen, self._figures.advise_listening)

    def application(self) -> Router:
        """The application: the router alone, for what goes wrong is told here and by the server."""
        both = ["GET", "POST"]
        routes = [
            Route("/sms", self._handling(self._sms), methods=both),
            Route("/fallback", self._handling(self._fallback), methods=both),
            Route("/status", self._handling(self._status), methods=both),
            Route("/healthz", _Endpoint(self._health), methods=["GET"]),
        ]
        if self._config.android is not None:
            routes.append(Route("/android", self._handling(self._android), methods=["POST"]))
        return Router(routes)

    def _handling(self, handle: _Handle) -> _Endpoint:
        refusals = RepeatedEvent(_log, "a webhook's call was refused", self._context.clock)

        async def respond(request: Request) -> Response:
            if self._requests >= REQUESTS_MAXIMUM:
                self._figures.count("refused_503")
                refusals.happened("too many at once", path=request.url.path, status=503)
                return PlainTextResponse("too many at once", 503)
            self._requests += 1
            try:
                return await handle(request)
            except WebhookError as error:
                self._figures.count(f"refused_{error.status}")
                refusals.happened(str(error), path=request.url.path, status=error.status)
                return PlainTextResponse(str(error), error.status)
            except OperationError as error:
                log_event(_log, logging.ERROR, "an SMS can't be taken in", reason=error)
                return PlainTextResponse("not now", 503)
            finally:
                self._requests -= 1

        return _Endpoint(respond)

    async def _sms(self, request: Request) -> Response:
        message = read_message_untrusted(await self._signed(request), self._config.account_sid)
        received = self._received(message)
        if not await self._inbox.put(message.sid, received):
            return _twiml(None)
        return await self._answer(request, message.sid, received)

    async def _fallback(self, request: Request) -> Response:
        form = await self._signed(request)
        message = read_message_untrusted(form, self._config.account_sid)
        code = error_code_untrusted(form.get("ErrorCode", ""))
        log_event(
            _log,
            logging.WARNING,
            "Twilio has called the fallback",
            code=code,
            advice=advice_on(code).english,
        )
        self._figures.count("fallbacks")
        received = self._received(message)
        if not await self._inbox.put(message.sid, received, is_again=True):
            return _twiml(None)
        # It may have been answered in a response that Twilio hasn't got: it says so itself.
        return await self._answer(request, message.sid, received, is_again=True)

    async def _answer(
        self, request: Request, key: str, received: Received, *, is_again: bool = False
    ) -> Response:
        """The response to a message that is ours to answer: then it is forgotten, or answered by
        SMS where it can't be answered now."""
        carry_out = self._inbox.again if is_again else self._inbox.first_answer
        is_left = True
        try:
            if self._waiting >= WAITING_MAXIMUM:
                return _twiml(None)
            self._waiting += 1
            try:
                text = await carry_out(key, received, timeout_s=ANSWER_WITHIN_S)
            finally:
                self._waiting -= 1
            if text is not None and is_caller_gone(request.scope):
                return _twiml(None)
            is_left = False
            self._figures.count("answered")
            return _twiml(
                text,
                when_sent=partial(self._inbox.done, key),
                when_lost=partial(self._inbox.later, key, received),
            )
        except OperationError as error:
            log_event(_log, logging.INFO, "an SMS is answered later", code=error.code, sid=key)
        except ApiError as error:
            log_event(_log, logging.ERROR, "an SMS no node reads", reason=error, sid=key)
        finally:
            if is_left:
                self._inbox.later(key, received)
        return _twiml(None)

    async def _status(self, request: Request) -> Response:
        form = await self._signed(request)
        query = parse_form_untrusted(request.scope["query_string"])
        status = read_status_untrusted(form, query)
        detail = ""
        if status.code:
            advice = advice_on(status.code)
            detail = f"{status.code}: {advice.in_language(self._language)}"
            log_event(
                _log,
                logging.WARNING,
                "an SMS did not arrive",
                code=status.code,
                advice=advice.english,
                sid=status.sid,
            )
        told = _STATUSES.get(status.status)
        if told is not None and status.event:
            await self._statuses.take(status.event, told, detail)
        return Response(status_code=204)

    async def _android(self, request: Request) -> Response:
        assert self._config.android is not None
        body = await _body(request)
        now_s = self._context.clock.unix_s()
        timestamp = request.headers.get("X-Timestamp", "")
        signature = request.headers.get("X-Signature", "")
        if not android.is_signed_untrusted(
            self._config.android.secret, body, timestamp, signature, now_s
        ):
            raise WebhookError("the signature is not right, or more than 5 minutes old", 403)
        told = android.read_call_untrusted(body)
        if isinstance(told, android.PhoneStatus):
            status: Told = _STATUSES[told.status]
            await self._statuses.take(told.event, status, told.detail)
        elif told is not None:
            received = Received(
                android.NAME,
                told.sender,
                told.recipient,
                told.body,
                None,
                round(now_s * 1000),
                told.sim_number,
            )
            if await self._inbox.put(told.key, received):
                self._inbox.later(told.key, received, is_first=True)
        return Response(status_code=204)

    async def _health(self, _: Request) -> Response:
        # Without its node it does what it is there for, and a proxy should go on calling it.
        return JSONResponse({"node": self._context.node.is_connected})

    async def _signed(self, request: Request) -> Form:
        """The fields that Twilio calls with.

        Raises:
            WebhookError: it isn't Twilio, or they are too many.
        """
        query = request.scope["query_string"]
        body = await _body(request)
        fields = parse_form_untrusted(body)
        signature = _header(request, b"x-twilio-signature")
        path = request.scope["path"]
        if not self._signatures.is_right_untrusted(
            path, query.decode("latin-1"), fields, signature
        ):
            raise WebhookError("the signature is not right; public_url is what Twilio calls", 403)
        return fields if request.method == "POST" else parse_form_untrusted(query)

    def _received(self, message: Message) -> Received:
        return Received(
            NAME,
            message.sender,
            message.recipient,
            message.body,
            message.keyword,
            round(self._context.clock.unix_s() * 1000),
        )


class _Endpoint:
    """A function as an application of its own: Starlette would wrap it in handlers of exceptions
    that it has none for."""

    def __init__(self, handle: _Handle) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handle(Request(scope, receive))
        await response(scope, receive, send)


class _Twiml(Response):
    """A response that tells whether it was given to the kernel."""

    media_type = _XML

    def __init__(
        self,
        content: bytes,
        when_sent: Callable[[], None] | None,
        when_lost: Callable[[], None] | None,
    ) -> None:
        super().__init__(content)
        self._when_sent = when_sent
        self._when_lost = when_lost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_sent = False
        try:
            await super().__call__(scope, receive, send)
            is_sent = True
        finally:
            if not is_sent and self._when_lost is not None:
                self._when_lost()
        if self._when_sent is not None:
            self._when_sent()


def _twiml(
    text: str | None,
    *,
    when_sent: Callable[[], None] | None = None,
    when_lost: Callable[[], None] | None = None,
) -> Response:
    return _Twiml(twiml(text), when_sent, when_lost)


def twiml(text: str | None) -> bytes:
    """TwiML that sends a text, or nothing, as Twilio's own library writes it."""
    kept = (text or "").translate(_NOT_IN_XML)
    if not kept:
        return _EMPTY
    messages = "".join(f"<Message>{escape(part)}</Message>" for part in parts(kept))
    return _DECLARATION + f"<Response>{messages}</Response>".encode()


def _header(request: Request, name: bytes) -> bytes:
    """A header by its name in small letters; empty where there is none."""
    for one, value in request.scope["headers"]:
        if one == name:
            return bytes(value)
    return b""


async def _body(request: Request) -> bytes:
    """What was sent, all of it.

    Raises:
        WebhookError: it is too long, or comes too slowly.
    """
    body = bytearray()
    with trio.move_on_after(READ_TIMEOUT_S):
        while (message := await request.receive())["type"] == "http.request":
            body += message.get("body", b"")
            if len(body) > BODY_MAXIMUM_BYTES:
                await _discard(request, message)
                raise WebhookError(f"more than {BODY_MAXIMUM_BYTES} bytes", 413)
            if not message.get("more_body", False):
                return bytes(body)
    raise WebhookError("the body has not come", 408)


async def _discard(request: Request, message: AsgiMessage) -> None:
    """Read on behind `message`, for a while: a connection that is closed with more on its way is
    reset, and a proxy has no answer to hand on."""
    size = 0
    with trio.move_on_after(DISCARD_WITHIN_S):
        while message.get("more_body", False) and size < DISCARDED_MAXIMUM_BYTES:
            message = await request.receive()
            size += len(message.get("body", b""))
