"""Lines of an account's history as people read them."""

from __future__ import annotations

from collections.abc import Callable

from billing.history import HistoryLine
from billing.money import CURRENCIES, J, format_amount
from billing.transfers import NO_ID, Kind
from core.api.messages import HistoryItem, SessionItem
from core.timestamps import format_time

_KINDS = {
    Kind.POST: "transfer",
    Kind.PENDING: "pending",
    Kind.POST_PENDING: "posted",
    Kind.VOID_PENDING: "voided",
    Kind.EXPIRE_PENDING: "expired",
}
_MOVING = (Kind.POST, Kind.POST_PENDING)


def history_item(line: HistoryLine, account: int, name: Callable[[int], str]) -> HistoryItem:
    """A line as `account` has it; `name` says what another account is called."""
    record, transfer = line.record, line.transfer
    if record is not None:
        return HistoryItem(
            place=line.place,
            id=record.id.hex(),
            time=format_time(line.time_ns, 3),
            kind="session",
            amount=format_amount(-record.cost, J),
            reserved=None,
            currency=J.code,
            other=name(record.into),
            purpose=record.kind,
            reference=None,
            session=SessionItem(
                name=record.name,
                opened=format_time(record.opened_ns, 3),
                seconds=record.seconds,
                bytes=record.relayed_bytes,
                reason=record.reason,
            ),
        )
    assert transfer is not None
    currency = CURRENCIES[transfer.currency]
    moves = transfer.kind in _MOVING
    pays = transfer.debit == account
    change = (-transfer.amount if pays else transfer.amount) if moves else 0
    referred = transfer.reference
    return HistoryItem(
        place=line.place,
        id=transfer.id.hex(),
        time=format_time(line.time_ns, 3),
        kind=_KINDS[transfer.kind],
        amount=format_amount(change, currency),
        reserved=None if moves else format_amount(transfer.amount, currency),
        currency=currency.code,
        other=name(transfer.credit if pays else transfer.debit),
        purpose=transfer.code.name.lower(),
        reference=None if referred == NO_ID else referred.hex(),
        session=None,
    )
