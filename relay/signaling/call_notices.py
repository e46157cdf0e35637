"""Tells callers and callees in Telegram what becomes of their calls: it rings, it rings no more,
what it has come to. What is told is written in the transaction that stores the call's change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from billing.accounts import AccountInfo
from billing.ledger import LmdbLedger
from billing.money import J, format_amount
from billing.notices import TELEGRAM, Notices
from billing.outbox import Outbox
from billing.tables import read_account
from core.api.bridge_messages import EventBody, ReceiptBody, RingBody, RingOverBody, effect_id
from core.tables import Tables, Writing
from core.units import DAY_S
from relay.signaling.call_records import CallInfo
from relay.signaling.call_states import UNANSWERED, Status
from relay.signaling.calls import RINGING_S

LIFETIME_S: Final = DAY_S
"""Of what is told after the ring."""


class CallNotices:
    """What Telegram's users are told of calls.

    Args:
        callee_link: the link that opens a call's other side.
    """

    def __init__(
        self,
        outbox: Outbox,
        ledger: LmdbLedger,
        notices: Notices,
        callee_link: Callable[[CallInfo], str],
    ) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._notices = notices
        self._callee_link = callee_link

    def stored(self, writing: Writing, before: CallInfo, info: CallInfo) -> None:
        """A call is stored as `info` from now on; on the writer's thread."""
        if info.status is before.status:
            return
        if info.status is Status.RINGING and info.rung_address:
            self._put_ring(writing, info)
        # Where it was not stored that it rings, nobody was told.
        if before.rung_address and info.status is not Status.RINGING:
            self._put_ring_over(writing, info, info.rung_address)
        elif info.shown_address and info.status not in UNANSWERED and before.status in UNANSWERED:
            self._put_ring_over(writing, info, info.shown_address)
        if info.status.is_over and (info.answered_ns or info.rung_ns or info.expires_ns):
            self._put_receipts(writing, info)

    def address_of(self, tables: Tables, account: int | None, address: str | None) -> str | None:
        """Where one side of a call is told something; None where that isn't Telegram.

        Args:
            address: by which the side was named.
        """
        if account is None:
            return None
        info = _heir(tables, account)
        found = self._notices.telegram_of(tables, info.number)
        is_named = address is not None and address.startswith("tg:") and address in info.addresses
        return address if found is not None and is_named else found

    def callee_of(self, info: CallInfo) -> str | None:
        """Where in Telegram a call can ring."""
        with self._ledger.store.read() as tables:
            return self.address_of(tables, info.callee, info.to_address)

    def _put_ring(self, writing: Writing, info: CallInfo) -> None:
        body = RingBody(
            call=info.id,
            caller=info.from_address,
            kind=info.kind.value,
            url=self._callee_link(info),
        )
        key = _key("ring", info.id)
        self._put(writing, info.rung_address, body, key, urgent=True, lifetime_s=RINGING_S)

    def _put_ring_over(self, writing: Writing, info: CallInfo, address: str) -> None:
        # One that nobody was given yet is not to ring any more.
        self._outbox.settle(writing, _key("ring", info.id), "expired")
        body = RingOverBody(call=info.id, status=info.status.value, seconds=info.seconds)
        self._put(writing, address, body, _key("ring over", info.id, info.status.value))

    def _put_receipts(self, writing: Writing, info: CallInfo) -> None:
        caller = self.address_of(writing, info.caller, info.from_address)
        if caller is not None:
            balance = self._ledger.balance(_heir(writing, info.caller).number, J).posted
            body = _receipt(
                info, info.to_address or "", format_amount(info.cost), format_amount(balance)
            )
            self._put(writing, caller, body, _key("receipt", info.id, "caller"))
        callee = self.address_of(writing, info.callee, info.to_address)
        if callee is not None and info.answered_ns:
            body = _receipt(info, info.from_address, "", "")
            self._put(writing, callee, body, _key("receipt", info.id, "callee"))

    def _put(
        self,
        writing: Writing,
        to: str,
        body: EventBody,
        key: bytes,
        *,
        urgent: bool = False,
        lifetime_s: int = LIFETIME_S,
    ) -> None:
        self._outbox.put(writing, TELEGRAM, to, body, key=key, urgent=urgent, lifetime_s=lifetime_s)


def _receipt(info: CallInfo, other: str, cost: str, balance: str) -> ReceiptBody:
    return ReceiptBody(
        call=info.id,
        other=other,
        kind=info.kind.value,
        seconds=info.seconds,
        cost=cost,
        balance=balance,
        reason=info.reason,
    )


def _heir(tables: Tables, account: int) -> AccountInfo:
    """Who has taken an account over, or itself, as a transaction sees it."""
    info = read_account(tables, account)
    while info.merged_into is not None:
        info = read_account(tables, info.merged_into)
    return info


def _key(*parts: str) -> bytes:
    return bytes.fromhex(effect_id("call", *parts))
