"""SMS that the node sends: within the budget, recorded, and handed to a bridge by the outbox.

    event = await sender.send("+79991234567", "Hello")

What becomes of one, the bridge says: the outbox's settling, and reports that come later.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from billing.notices import Notices, PayeeRefused
from billing.outbox import Outbox, Outcome
from billing.sms_commands import language_of, parse_phone_untrusted
from billing.sms_limits import Budget, SmsRefused
from billing.sms_records import (
    SmsRecord,
    Status,
    add_record,
    find_record,
    read_number,
    set_opted_out,
    set_status,
)
from billing.sms_texts import Answer, masked, show_amount
from billing.transfers import new_id
from core.api.bridge_messages import SmsBody, TransferReceivedBody
from core.bridge_config import sms_bridges
from core.clock import Clock
from core.config import NodeConfig
from core.errors import OperationError
from core.log import log_event
from core.sms_parts import sms_parts
from core.store import Store
from core.tables import Tables, Writing
from core.units import DAY_S

LIFETIME_S: Final = DAY_S
PARTS_MAXIMUM: Final = 10
"""Of one SMS."""
_STATUS_OF: Final[dict[Outcome, Status]] = {
    "done": "sent",
    "failed": "failed",
    "unknown": "unknown",
    "expired": "expired",
}
_PAYEE_REFUSALS: Final = {
    "sms_country": ("payee_country", "no SMS go to its country to tell them"),
    "sms_not_mobile": ("payee_not_mobile", "it is no mobile telephone's, which could be told"),
}
_PAYEE_WITHOUT_SMS: Final = ("payee_no_sms", "it gets no SMS to tell them")
_log = logging.getLogger("montana.sms")


class SmsSender:
    """Sends for one node.

    Attributes:
        budget: what that may cost.
        counts: what has been done and refused since the start.
    """

    def __init__(
        self, store: Store, outbox: Outbox, notices: Notices, clock: Clock, config: NodeConfig
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._region = config.billing.default_region
        self._bridges = sms_bridges(config.bridges)
        self.default_bridge = config.sms.default_bridge or ""
        self.regions = frozenset(
            config.sms.countries or ([self._region] if self._region is not None else [])
        )
        self.budget = Budget(config.sms, self.regions, outbox, clock, self._alarm)
        self.counts: Counter[str] = Counter()
        if self._bridges and not self.regions:
            log_event(
                _log, logging.WARNING, "SMS go nowhere: name [sms] countries in the configuration"
            )
        outbox.on_settled.append(lambda writing, one: self._settled(writing, one.id, one.outcome))
        outbox.on_late.append(self._settled)
        if self._bridges:
            notices.by_sms = self._tell_received
            notices.check_sms = self.check_payee

    async def send(self, phone: str, text: str, *, identity: bytes | None = None) -> bytes:
        """Send an SMS; the id of the event that does it, once that is durable.

        Args:
            identity: 16 bytes; the same ones send it once.

        Raises:
            SmsRefused, OperationError: it is not sent, and why.
        """
        number = parse_phone_untrusted(phone, self._region)
        if number is None:
            raise OperationError(
                f"{phone[:40]!r} is no telephone number; write +79991234567",
                "sms_number",
                written=repr(phone[:40]),
            )
        event = new_id(self._clock) if identity is None else identity

        def write(writing: Writing) -> None:
            sent = find_record(writing, event)
            # As far as can be told: no record holds a text.
            if sent is not None and (sent.phone, sent.parts) != (number, sms_parts(text)):
                raise OperationError(
                    "something else was done under this id; make a new id for what is new",
                    "other_act",
                )
            self.put_sms(writing, number, text, key=event, why="operator", from_reserve=True)

        await self._store.write(write)
        return event

    def opt_out(self, writing: Writing, phone: str) -> None:
        """Send a number nothing more: what waits for it, either, unless a bridge has it already."""
        set_opted_out(writing, phone, True)
        for bridge in self._bridges:
            # It may be on its way: then its bridge will say so, which is newer than this.
            self._outbox.withdraw(writing, bridge, phone)

    def may_send(self, phone: str, parts: int) -> bool:
        """Whether an SMS of so many parts would be sent to a number now."""
        try:
            self._check(phone, parts)
        except SmsRefused:
            return False
        return True

    def check_payee(self, phone: str) -> None:
        """Somebody who has no account yet could be told by SMS that money has come, today or, where
        the budget is used up, on another day.

        Raises:
            PayeeRefused: why not.
        """
        try:
            self._check(phone, 1)
        except SmsRefused as error:
            if error.code == "sms_budget":
                return
            code, reason = _PAYEE_REFUSALS.get(error.code, _PAYEE_WITHOUT_SMS)
            raise PayeeRefused(f"nobody has this number here, and {reason}", code) from error

    def _check(self, phone: str, parts: int) -> None:
        with self._store.read() as tables:
            self.bridge_of(tables, phone)
            self.budget.check(tables, phone, parts)

    def put_sms(
        self,
        writing: Writing,
        phone: str,
        text: str,
        *,
        key: bytes,
        lifetime_s: int = LIFETIME_S,
        why: str = "call",
        from_reserve: bool = False,
    ) -> None:
        """Send an SMS in the transaction of its cause; under one key one SMS.

        Args:
            phone: valid, in its one spelling.
            key: 16 bytes, the event's id.
            lifetime_s: it is not sent any more when this is over.
            why: a word for the record.
            from_reserve: whether what the budget keeps in reserve may be used.

        Raises:
            SmsRefused: it is not sent; the transaction has to end with that.
        """
        if find_record(writing, key) is not None:
            return
        parts = sms_parts(text)
        if not text or parts > PARTS_MAXIMUM:
            raise SmsRefused(
                f"an SMS has from 1 character to {PARTS_MAXIMUM} parts",
                "sms_length",
                maximum=PARTS_MAXIMUM,
            )
        bridge = self.bridge_of(writing, phone)
        # Nothing is written before all that may refuse it: a notice goes without the SMS then.
        self.budget.check(writing, phone, parts, from_reserve=from_reserve)
        if not self._outbox.put(
            writing, bridge, phone, SmsBody(text=text), key=key, lifetime_s=lifetime_s
        ):
            raise SmsRefused("too many SMS wait; try again later", "sms_full")
        self.budget.spend(writing, phone, parts, from_reserve=from_reserve)
        add_record(
            writing,
            SmsRecord(
                id=key,
                time_ms=int(self._clock.unix_s() * 1000),
                incoming=False,
                phone=phone,
                bridge=bridge,
                action=why,
                result="",
                parts=parts,
                status="waiting",
            ),
        )
        writing.after_commit(lambda: self.count("sent"))

    def bridge_of(self, tables: Tables, phone: str) -> str:
        """Which bridge sends to a number: that by which it has written last.

        Raises:
            SmsRefused: none can.
        """
        bridge = read_number(tables, phone, self.budget.day).bridge
        if bridge in self._bridges:
            return bridge
        if self.default_bridge not in self._bridges:
            raise SmsRefused(
                "no bridge sends SMS; see [bridges.twilio] and [bridges.gsm]", "sms_no_bridge"
            )
        return self.default_bridge

    async def report(self, event: bytes, status: Status) -> None:
        """A bridge has heard how far an SMS is."""
        await self._store.write(lambda writing: set_status(writing, event, status))

    def count(self, name: str) -> None:
        """One more of something that the node's figures tell."""
        self.counts[name] += 1

    def _tell_received(
        self, writing: Writing, phone: str, body: TransferReceivedBody, key: bytes
    ) -> None:
        """Tell somebody by SMS that money has come, where nothing forbids that."""
        values = {
            "amount": show_amount(body.amount),
            "currency": body.currency,
            "sender": body.sender,
            "balance": show_amount(body.balance),
        }
        text = Answer("received", values).text(language_of(phone))
        try:
            self.put_sms(writing, phone, text, key=key, why="received")
        except SmsRefused as error:
            # It was refused before anything was written, and the money comes all the same.
            self.count(error.code)

    def _settled(self, writing: Writing, identity: bytes, outcome: Outcome) -> None:
        set_status(writing, identity, _STATUS_OF[outcome])

    def _alarm(self, of: str, percent: int) -> None:
        log_event(
            _log, logging.WARNING, "the budget for SMS is nearly used up", limit=of, percent=percent
        )

    def log_refusal(self, phone: str, reason: str) -> None:
        """An SMS was not answered."""
        self.count(reason)
        log_event(
            _log, logging.INFO, "an SMS was not answered", number=masked(phone), reason=reason
        )
