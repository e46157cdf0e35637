"""What bridges and operators ask of the SMS wallet through the node's socket, and what is forgotten
with time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from billing.desk import Desk
from billing.link_codes import prune_links
from billing.money import J, format_amount
from billing.sms_codes import prune_confirmations
from billing.sms_commands import parse_phone_untrusted
from billing.sms_limits import RESERVE_PERCENT
from billing.sms_records import (
    IDLE_DAYS,
    NUMBERS_MAXIMUM,
    PRUNED_AT_ONCE,
    RECIPIENTS_MAXIMUM,
    SmsRecord,
    list_records,
    prune_numbers,
    prune_recipients,
    prune_records,
    set_opted_out,
)
from billing.tables import SMS_NUMBERS, SMS_RECIPIENTS
from billing.transfers import new_id, parse_id_untrusted
from billing.wallet import SMSGateway
from core.api.bridge_messages import (
    DoneReply,
    LinkConfirmRequest,
    LinkLookReply,
    LinkLookRequest,
    LinkStartReply,
    LinkStartRequest,
    SmsOptOutRequest,
    SmsReceivedReply,
    SmsReceivedRequest,
    SmsStatusRequest,
)
from core.api.messages import AccountReply, AccountShowRequest
from core.api.sms_messages import (
    SmsBudgetReply,
    SmsBudgetRequest,
    SmsItem,
    SmsListReply,
    SmsListRequest,
    SmsReply,
    SmsRequest,
    SmsSendReply,
    SmsSendRequest,
)
from core.clock import Clock
from core.config import NodeConfig
from core.errors import OperationError
from core.sms_parts import sms_parts
from core.store import Store
from core.timestamps import format_time
from core.units import HOUR_S

PRUNE_INTERVAL_S: Final = HOUR_S
_NS_PER_MS: Final = 1_000_000

BridgeWalletRequest = (
    SmsReceivedRequest
    | SmsStatusRequest
    | SmsOptOutRequest
    | LinkStartRequest
    | LinkLookRequest
    | LinkConfirmRequest
)
"""What bridges ask; `SmsRequest` is an operator's."""

WalletRequest = BridgeWalletRequest | SmsRequest
WalletReply = (
    SmsReceivedReply | DoneReply | LinkStartReply | LinkLookReply | AccountReply | SmsReply
)


class SmsDesk:
    """Answers for one wallet."""

    def __init__(
        self, wallet: SMSGateway, desk: Desk, store: Store, clock: Clock, config: NodeConfig
    ) -> None:
        self._wallet = wallet
        self._sender = wallet.sender
        self._desk = desk
        self._store = store
        self._clock = clock
        self._config = config.sms
        self._region = config.billing.default_region

    async def answer(self, request: WalletRequest) -> WalletReply:
        """Carry out a request.

        Raises:
            OperationError: it can't be done; nothing was.
        """
        match request:
            case SmsReceivedRequest():
                received = await self._wallet.receive_untrusted(
                    request.sender,
                    request.body,
                    request.message_id,
                    request.bridge,
                    request.recipient,
                    request.received_ms,
                    request.keyword,
                )
                return SmsReceivedReply(received.reply, received.duplicate)
            case SmsStatusRequest():
                await self._sender.report(parse_id_untrusted(request.event), request.status)
                return DoneReply()
            case SmsOptOutRequest():
                return await self._opt_out(request)
            case LinkStartRequest():
                identity = _id_untrusted(request.id)
                links = self._wallet.links
                return LinkStartReply(await links.start(request.address, request.phone, identity))
            case LinkLookRequest():
                return LinkLookReply(*await self._wallet.links.look(request.address, request.code))
            case LinkConfirmRequest():
                account = await self._wallet.links.confirm(request.address, request.code)
                reply = await self._desk.answer(AccountShowRequest(f"#{account}"))
                assert isinstance(reply, AccountReply)
                return reply
            case SmsListRequest():
                return self._list(request)
            case SmsSendRequest():
                identity = _id_untrusted(request.id) or new_id(self._clock)
                event = await self._sender.send(request.number, request.text, identity=identity)
                return SmsSendReply(event.hex(), sms_parts(request.text))
            case SmsBudgetRequest():
                return self._budget()

    async def run(self) -> None:
        """Forget, each hour, what is no longer kept."""
        while True:
            await trio.sleep(PRUNE_INTERVAL_S)
            await self.prune()

    async def prune(self) -> None:
        """Forget records that are too old and codes that nobody can use any more.

        Raises:
            OperationError: it can't be stored.
        """
        now_ms = int(self._clock.unix_s() * 1000)
        while await self._store.write(lambda writing: prune_records(writing, now_ms)):
            pass
        for prune in (prune_confirmations, prune_links):
            await self._sweep(partial(prune, now_ms=now_ms))
        await self._prune_idle(prune_numbers, SMS_NUMBERS, NUMBERS_MAXIMUM)
        await self._prune_idle(prune_recipients, SMS_RECIPIENTS, RECIPIENTS_MAXIMUM)

    async def _prune_idle(
        self, prune: Callable[..., bytes | None], table: str, maximum: int
    ) -> None:
        for idle_days in IDLE_DAYS:
            await self._sweep(partial(prune, day=self._sender.budget.day, idle_days=idle_days))
            with self._store.read() as tables:
                if tables.count(table) <= maximum:
                    return

    async def _sweep(self, prune: Callable[..., bytes | None]) -> None:
        """Go through a table, a step a transaction: others are not to wait for all of it."""
        start: bytes | None = b""
        while start is not None:
            step = partial(prune, start=start, limit=PRUNED_AT_ONCE)
            start = await self._store.write(step)

    def figures(self) -> dict[str, int]:
        """What has come and gone since the start, and what the budget has been used for."""
        with self._store.read() as tables:
            spent = self._sender.budget.read(tables)
        return {**self._sender.counts, "parts_today": spent.today, "parts_ever": spent.ever}

    async def _opt_out(self, request: SmsOptOutRequest) -> DoneReply:
        number = parse_phone_untrusted(request.number, self._region)
        if number is None:
            raise OperationError(
                f"{request.number[:40]!r} is no telephone number; write +79991234567",
                "sms_number",
                written=repr(request.number[:40]),
            )
        await self._store.write(
            lambda writing: (
                self._sender.opt_out(writing, number)
                if request.opted_out
                else set_opted_out(writing, number, False)
            )
        )
        return DoneReply()

    def _list(self, request: SmsListRequest) -> SmsListReply:
        with self._store.read() as tables:
            found = list_records(tables, request.before, request.limit)
        following = found[-1][0] if len(found) == request.limit else None
        return SmsListReply([_item(place, record) for place, record in found], following)

    def _budget(self) -> SmsBudgetReply:
        with self._store.read() as tables:
            spent = self._sender.budget.read(tables)
        config = self._config
        return SmsBudgetReply(
            today=spent.today,
            per_day=config.messages_per_day,
            ever=spent.ever,
            in_total=config.messages_in_total,
            per_number=config.messages_per_number,
            reserved_percent=RESERVE_PERCENT,
            countries=sorted(self._sender.regions),
            bridge=self._sender.default_bridge,
        )


def _item(place: int, record: SmsRecord) -> SmsItem:
    return SmsItem(
        place=place,
        id=record.id.hex(),
        time=format_time(record.time_ms * _NS_PER_MS, 3),
        direction="in" if record.incoming else "out",
        number=record.phone,
        bridge=record.bridge,
        action=record.action,
        result=record.result,
        cost=format_amount(record.cost, J),
        parts=record.parts,
        status=record.status,
    )


def _id_untrusted(text: str | None) -> bytes | None:
    return None if text is None else parse_id_untrusted(text)
