"""The bot: the one place that joins the rest of the Telegram bridge.

An update is on the disk before Telegram is told that it was received (`polling`, `webhook` into
`intake`), is carried out in the order of its chat (`commands`), and answered at Telegram's pace
(`outgoing`); what the node has to tell is told by `notices`. python-telegram-bot speaks the Bot
API; its `Application` is not used: it lets go of an update before that was carried out.
"""

from __future__ import annotations

import logging
from typing import Final

import anyio
from telegram import Bot, BotCommand
from telegram.request import HTTPXRequest

from bridges.process import BridgeContext
from bridges.telegram.commands import Commands
from bridges.telegram.desk import Desk
from bridges.telegram.init_data import secret_of
from bridges.telegram.intake import Intake
from bridges.telegram.notices import Notices
from bridges.telegram.offers import Offers
from bridges.telegram.outgoing import Outgoing
from bridges.telegram.people import People
from bridges.telegram.polling import poll
from bridges.telegram.reachability import Reachability
from bridges.telegram.rings import Rings
from bridges.telegram.texts import COMMANDS
from bridges.telegram.webhook import serve_webhook
from core.log import RepeatedEvent, log_event

CONNECTIONS: Final = 32
CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 10.0
FIGURES_INTERVAL_S: Final = 5.0

_log = logging.getLogger("montana.bridge.telegram")


async def run(context: BridgeContext) -> None:
    """Serve until cancelled."""
    # They log URLs, which hold the token, and what was received.
    for name in ("httpx", "httpcore", "hpack", "asyncio", "hypercorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Even at its worst: what it could not read. `outgoing` and `polling` tell of that.
    logging.getLogger("telegram").setLevel(logging.CRITICAL + 1)
    config = context.config.bridges.telegram
    assert config is not None
    bot = Bot(
        config.token,
        base_url=f"{config.api_url}/bot",
        base_file_url=f"{config.api_url}/file/bot",
        request=_requests(CONNECTIONS),
        get_updates_request=_requests(1),
    )

    def tell_state(state: str) -> None:
        context.node.state = state

    reachability = Reachability(config.api_url, tell_state)
    outgoing = Outgoing(bot, context.clock, reachability)
    tell_state(reachability.state)
    if config.app is None:
        log_event(_log, logging.INFO, "no calls in groups: bridges.telegram.app names no Mini App")
    # `Bot.initialize` would quote the token where it is refused.
    me = await outgoing.call(bot.get_me)
    people = People(context.spool)
    desk = Desk(
        node=context.node,
        out=outgoing,
        people=people,
        offers=Offers(context.spool, context.clock, me.id),
        rings=Rings(context.spool, outgoing, people),
        clock=context.clock,
        bot=me.username or "",
        bot_id=me.id,
        app=config.app,
        region=context.config.billing.default_region,
    )
    commands = Commands(desk)
    intake = Intake(context.spool, commands.carry_out, commands.tell_too_many, commands.tell_failed)
    refusals = RepeatedEvent(_log, "a webhook's call was refused", context.clock)
    forgeries = RepeatedEvent(_log, "initData was refused", context.clock)
    notices = Notices(desk, context.node, context.clock, secret_of(config.token), forgeries)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(intake.run)
        tasks.start_soon(notices.run)
        tasks.start_soon(_tell_figures, context, intake, outgoing, desk.people, refusals, forgeries)
        await _name_commands(bot, outgoing)
        reachability.state = f"@{me.username}"
        reachability.answered()
        if config.webhook_url:
            tasks.start_soon(serve_webhook, config, bot, outgoing, intake, reachability, refusals)
        else:
            # While there is one, Telegram refuses to be asked.
            await outgoing.call(bot.delete_webhook)
            tasks.start_soon(poll, bot, intake, reachability, context.clock)


def _requests(connections: int) -> HTTPXRequest:
    return HTTPXRequest(
        connection_pool_size=connections,
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=ANSWER_TIMEOUT_S,
        write_timeout=ANSWER_TIMEOUT_S,
        pool_timeout=ANSWER_TIMEOUT_S,
    )


async def _name_commands(bot: Bot, outgoing: Outgoing) -> None:
    english, russian = (
        [BotCommand(name, texts[place]) for name, texts in COMMANDS.items()] for place in (0, 1)
    )
    await outgoing.call(lambda: bot.set_my_commands(english))
    await outgoing.call(lambda: bot.set_my_commands(russian, language_code="ru"))


async def _tell_figures(
    context: BridgeContext,
    intake: Intake,
    outgoing: Outgoing,
    people: People,
    refusals: RepeatedEvent,
    forgeries: RepeatedEvent,
) -> None:
    while True:
        context.node.figures = {
            "updates": str(intake.taken),
            "updates_waiting": str(len(intake)),
            "updates_refused": str(intake.refused),
            "updates_failed": str(intake.failed),
            "messages": str(outgoing.sent),
            "attempts_failed": str(outgoing.retried),
            "people": str(len(people)),
            "webhook_calls_refused": str(refusals.count),
            "init_data_refused": str(forgeries.count),
        }
        await anyio.sleep(FIGURES_INTERVAL_S)
