"""What the Telegram bridge does with updates, without processes: its own commands and spool, the
real library against a stand-in Bot API server, and a node that a test plays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import lmdb
from telegram import Bot
from telegram.request import HTTPXRequest

from bridges.node_link import NodeAway, NodeLink
from bridges.spool import Change, Spool, SpoolFull
from bridges.telegram.commands import Commands
from bridges.telegram.desk import Desk
from bridges.telegram.intake import Intake
from bridges.telegram.offers import Offers
from bridges.telegram.outgoing import Outgoing
from bridges.telegram.people import People
from bridges.telegram.reachability import Reachability
from bridges.telegram.rings import Rings
from bridges.telegram.updates import read_untrusted
from core.api.bridge_messages import CallSideReply, UserOpenRequest
from core.api.messages import AccountReply, CallItem, ReplyBody, RequestBody
from core.clock import SystemClock
from tests.support.bot_api import BOT_ID, BOT_NAME, WAIT_S, BotApi

CALL: Final = "CALL-AAAAAAAA"
PATIENCE_S: Final = 3.0
"""So long an answer of the Bot API's is waited for, which has far less to do here."""


class FullSpool(Spool):
    """A spool whose disk takes nothing of what a test says.

    Attributes:
        refuses: whether a change is such.
        refused: how often that was so.
    """

    def __init__(self, spool: Spool) -> None:
        super().__init__(spool._environment)
        self.refuses: Callable[[Change], bool] = lambda _: False
        self.refused = 0

    def _do(self, transaction: lmdb.Transaction, changes: Sequence[Change]) -> bool | SpoolFull:
        if any(self.refuses(change) for change in changes):
            self.refused += 1
            return SpoolFull("the disk is full")
        return super()._do(transaction, changes)


class PlayedNode(NodeLink):
    """A node that answers as a test says.

    Attributes:
        asked: what it was asked, but for accounts.
        replies: what it answers to each kind of request.
        is_slow: the first attempt of each request has no answer in time.
    """

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), "telegram")
        self.asked: list[RequestBody] = []
        self.replies: dict[type[RequestBody], Callable[[], ReplyBody]] = {}
        self.is_slow = False

    async def request(self, body: RequestBody) -> ReplyBody:
        if isinstance(body, UserOpenRequest):
            return account(body.address)
        self.asked.append(body)
        return self.replies[type(body)]()

    async def try_request(self, body: RequestBody, *, timeout_s: float) -> ReplyBody:
        assert timeout_s > 0
        if self.is_slow:
            raise NodeAway("the node has not answered in time", "node_away")
        return await self.request(body)


def account(address: str) -> AccountReply:
    """An account with nothing on it."""
    return AccountReply(
        account="#17",
        addresses=[address],
        currency="J",
        balance="0.000000",
        held="0.000000",
        available="0.000000",
        balances=[],
        frozen=False,
        closed=False,
        merged_into=None,
        opened="2026-01-01T00:00:00Z",
    )


def call_item(status: str) -> CallItem:
    """A call of 12's to 11."""
    return CallItem(
        id=CALL,
        caller="tg:12",
        callee="tg:11",
        kind="voice",
        status=status,
        created="2026-01-01T00:00:00Z",
        started=None,
        ended=None,
        seconds=0,
        cost="0",
    )


def call_side(status: str) -> CallSideReply:
    """Its callee's side."""
    url = f"https://node.example/call?id={CALL}#secret"
    return CallSideReply(url=url, role="callee", status=status, kind="voice", other="tg:12")


class TelegramDesk:
    """The bridge's insides, joined as the bridge joins them."""

    def __init__(self, spool: Spool, bot: Bot) -> None:
        self.node = PlayedNode()
        self.bot = bot
        clock = SystemClock()
        self.reachability = Reachability("https://api.example", self._tell)
        self.states: list[str] = []
        self.out = Outgoing(bot, clock, self.reachability)
        people = People(spool)
        self.desk = Desk(
            node=self.node,
            out=self.out,
            people=people,
            offers=Offers(spool, clock, BOT_ID),
            rings=Rings(spool, self.out, people),
            clock=clock,
            bot=BOT_NAME,
            bot_id=BOT_ID,
            app="call",
            region=None,
        )
        self.commands = Commands(self.desk)
        self.intake = Intake(
            spool,
            self.commands.carry_out,
            self.commands.tell_too_many,
            self.commands.tell_failed,
        )

    def _tell(self, state: str) -> None:
        self.states.append(state)

    async def receive(self, api: BotApi, *numbers: int) -> None:
        """Take updates in, and wait until they are carried out."""
        updates = [read_untrusted(api.given(number)) for number in numbers]
        await self.intake.take([one for one in updates if one is not None])
        await self.settle()

    async def settle(self) -> None:
        """Wait until all that was taken in is carried out."""
        with anyio.fail_after(WAIT_S):
            while len(self.intake):
                await anyio.sleep(0.01)


@asynccontextmanager
async def telegram_bot(api: BotApi) -> AsyncIterator[Bot]:
    """The library's own, which asks this server."""
    request = HTTPXRequest(read_timeout=PATIENCE_S)
    async with Bot(api.token, base_url=f"{api.url}/bot", request=request) as bot:
        yield bot


@asynccontextmanager
async def telegram_desk(api: BotApi, spool: Spool) -> AsyncIterator[TelegramDesk]:
    """A bridge's insides that carry out what they take in."""
    async with telegram_bot(api) as bot:
        world = TelegramDesk(spool, bot)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.intake.run)
            yield world
            tasks.cancel_scope.cancel()
