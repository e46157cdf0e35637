"""Takes updates that Telegram sends by itself: POST requests, through a reverse proxy with a
certificate (core.telegram.org/bots/api, "setWebhook")."""

from __future__ import annotations

import hmac
import logging
import socket
from typing import Final
from urllib.parse import urlsplit

import anyio
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from telegram import Bot

from bridges.listening import LISTEN_RETRY_S, ListenTrouble
from bridges.telegram.intake import Intake
from bridges.telegram.outgoing import NotSent, Outgoing
from bridges.telegram.reachability import Reachability
from bridges.telegram.updates import ALLOWED_UPDATES, UpdateError, read_untrusted
from core.bridge_config import TelegramConfig
from core.errors import OperationError, WebhookError
from core.log import RepeatedEvent, log_event
from core.stun.address import Address
from core.units import MIB

BODY_MAXIMUM_BYTES: Final = MIB
BODY_TIMEOUT_S: Final = 10.0
CLOSING_S: Final = 1.0
"""For answers that are on their way when the bridge ends."""
CONNECTIONS: Final = 10
REFUSED_RETRY_S: Final = 30.0
REFUSED_ADVICE: Final = (
    "Telegram takes no such webhook: an https URL that it can reach, at 443, 80, 88 or 8443, as "
    "bridges.telegram.webhook_url"
)
IPV6_BYTES: Final = 16
SECRET_HEADER: Final = "X-Telegram-Bot-Api-Secret-Token"  # noqa: S105

_log = logging.getLogger("montana.bridge.telegram")


async def serve_webhook(
    config: TelegramConfig,
    bot: Bot,
    outgoing: Outgoing,
    intake: Intake,
    reachability: Reachability,
    refusals: RepeatedEvent,
) -> None:
    """Take updates until cancelled; `refusals` is told of calls that are not Telegram's."""
    assert config.webhook_listen is not None
    await _set_webhook(config, bot, outgoing, reachability)
    server = Config()
    server.h11_max_incomplete_size = 16 * 1024
    server.accesslog = None
    server.errorlog = logging.getLogger("hypercorn")
    server.include_server_header = False
    server.graceful_timeout = CLOSING_S
    server.bind = [f"fd://{await _listen(config.webhook_listen, reachability)}"]
    stopped = anyio.Event()

    async def listen() -> None:
        # The server doesn't bear being cancelled; it is told to stop.
        with anyio.CancelScope(shield=True):
            app = make_app(config, intake, refusals)
            await serve(app, server, shutdown_trigger=stopped.wait)  # type: ignore[arg-type]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()


async def _set_webhook(
    config: TelegramConfig, bot: Bot, outgoing: Outgoing, reachability: Reachability
) -> None:
    """Tell Telegram where to call, until it takes that."""
    is_told = False
    while True:
        try:
            await outgoing.call(
                lambda: bot.set_webhook(
                    config.webhook_url,
                    secret_token=config.webhook_secret,
                    allowed_updates=ALLOWED_UPDATES,
                    max_connections=CONNECTIONS,
                )
            )
        except NotSent:
            if not is_told:
                log_event(_log, logging.ERROR, "the webhook is refused", advice=REFUSED_ADVICE)
            is_told = True
            reachability.hindered(REFUSED_ADVICE)
            await anyio.sleep(REFUSED_RETRY_S)
        else:
            reachability.hindered("")
            return


async def _listen(listen: Address, reachability: Reachability) -> int:
    """A descriptor that listens; Hypercorn's own attempt fails with a page of calls."""
    trouble = ListenTrouble(listen, "bridges.telegram.webhook_listen")
    family = socket.AF_INET6 if len(listen.ip) == IPV6_BYTES else socket.AF_INET
    while True:
        try:
            listener = socket.create_server((listen.host, listen.port), family=family)
        except OSError as error:
            reachability.hindered(trouble.advice(error))
            await anyio.sleep(LISTEN_RETRY_S)
        else:
            reachability.hindered("")
            return listener.detach()


def make_app(config: TelegramConfig, intake: Intake, refusals: RepeatedEvent) -> Starlette:
    """What answers Telegram."""

    async def post(request: Request) -> Response:
        try:
            given = request.headers.get(SECRET_HEADER, "")
            _assert_secret_untrusted(given, config.webhook_secret)
            if not intake.has_room:
                # Telegram comes again.
                return Response(status_code=503, headers={"Retry-After": "5"})
            body = await _body_untrusted(request)
        except WebhookError as error:
            refusals.happened(str(error), error=type(error).__name__, status=error.status)
            return Response(status_code=error.status)
        return await _take(body, intake)

    path = urlsplit(config.webhook_url).path or "/"
    return Starlette(routes=[Route(path, post, methods=["POST"])])


def _assert_secret_untrusted(given: str, secret: str) -> None:
    """
    Raises:
        WebhookError: it is not what Telegram was told to call with.
    """
    if not given:
        raise WebhookError(f"there is no {SECRET_HEADER}", 403)
    if not hmac.compare_digest(given.encode(), secret.encode()):
        raise WebhookError(f"{SECRET_HEADER} is another than bridges.telegram.webhook_secret", 403)


async def _body_untrusted(request: Request) -> bytes:
    """
    Raises:
        WebhookError: it is too large, or has not come to its end.
    """
    body = bytearray()
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_MAXIMUM_BYTES:
                    raise WebhookError(f"a body has {BODY_MAXIMUM_BYTES} bytes at most", 413)
    except (TimeoutError, ClientDisconnect) as error:
        raise WebhookError("the body has not come to its end", 408) from error
    return bytes(body)


async def _take(body: bytes, intake: Intake) -> Response:
    try:
        incoming = read_untrusted(body)
    except UpdateError as error:
        log_event(_log, logging.WARNING, "an update was left out", reason=error)
        # It comes from Telegram, and would come again for ever.
        return Response(status_code=200)
    if incoming is not None:
        try:
            await intake.take([incoming])
        except OperationError as error:
            log_event(_log, logging.ERROR, "an update could not be stored", reason=error)
            return Response(status_code=503)
    return Response(status_code=200)
