"""What commands by SMS do with money: their price, SEND, REDEEM.

Each is one transaction with the record of its message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from billing.desk import Desk
from billing.ledger import LmdbLedger
from billing.money import CURRENCIES, AmountError, J, format_amount, parse_amount_untrusted
from billing.money import transfer_fee as fee_of
from billing.notices import PayeeRefused
from billing.pins import Pins
from billing.sms_answers import Answered, Answers, Message
from billing.sms_codes import ConfirmationCodes
from billing.sms_commands import parse_recipient_untrusted, region_of
from billing.sms_limits import SmsRefused
from billing.sms_records import has_sent_to, note_recipient, read_number, store_number
from billing.sms_sender import SmsSender
from billing.sms_texts import TEXTS, Answer, show_amount
from billing.tariff import tariff_line
from billing.transfers import Code, Result, Transfer, TransferRefused, derive_id
from billing.vouchers import Vouchers
from core.clock import Clock
from core.config import NodeConfig
from core.errors import OperationError
from core.tables import Tables, Writing
from core.timestamps import format_time
from core.written import is_ambiguous_untrusted, plain_amount_untrusted


class SmsPayments:
    """The payments of one node. Methods raise `Answered` where nothing is to be done but to say
    why."""

    def __init__(
        self,
        ledger: LmdbLedger,
        desk: Desk,
        sender: SmsSender,
        answers: Answers,
        codes: ConfirmationCodes,
        pins: Pins,
        clock: Clock,
        config: NodeConfig,
    ) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._desk = desk
        self._sender = sender
        self._answers = answers
        self._codes = codes
        self._pins = pins
        self._region = config.billing.default_region
        self._line = tariff_line("sms", config.billing, ledger)
        self._confirm_above = parse_amount_untrusted(config.sms.confirm_above)
        self._daily_limit = parse_amount_untrusted(config.sms.daily_limit)
        self._vouchers = Vouchers(ledger, clock)

    async def charge(self, message: Message, account: int, answer: Callable[[], Answer]) -> None:
        """Answer for the price of a command; the balance alone is told to who hasn't got it."""
        price = self.price_for(account)
        if price and self._available(account) >= price:
            charge = self._charge_of(message, account, price)

            def also(writing: Writing) -> None:
                self._answers.record(writing, message, answer(), cost=price)

            (result,) = await self._ledger.transfer([charge], also=also)
            if result is Result.EXISTS:
                # Charged in what the files have lost since.
                await self._answers.answer(message, answer())
            if result.is_done:
                return
            if result is not Result.NO_FUNDS:
                raise TransferRefused(result)
        if price and message.command.action != "balance":
            raise self._missing(account, price)
        await self._store.write(lambda writing: self._answers.record(writing, message, answer()))

    async def send(self, message: Message, account: int, arguments: Sequence[str]) -> None:
        """`SEND`: done at once, or when it is confirmed by a code that goes to the telephone.

        Args:
            arguments: number, amount and PIN as they were typed; none where they were not.
        """
        if not arguments:
            raise Answered(Answer("bad_send"))
        number, last_word, pin = arguments
        region = self._region or region_of(message.phone)
        recipient, written = parse_recipient_untrusted(number, last_word, region)
        if recipient is None:
            raise Answered(Answer("bad_number"))
        if " " not in written and is_ambiguous_untrusted(number, written, region):
            raise Answered(Answer("ambiguous_send"))
        if self._ledger.find(recipient) == account:
            raise Answered(Answer("own_number"))
        try:
            amount = parse_amount_untrusted(plain_amount_untrusted(written) or "")
        except AmountError as error:
            raise Answered(Answer("bad_amount")) from error
        needed = amount + fee_of(amount) + self.price_for(account)
        if self._available(account) < needed:
            raise self._missing(account, needed)
        if self._ledger.find(recipient) is None:
            self._check_payee(recipient)
        with self._store.read() as tables:
            self._check_daily(tables, message.phone, amount)
            is_known = has_sent_to(tables, message.phone, recipient)
        if pin:
            await self._pins.check(message.phone, pin)
        elif amount > self._confirm_above or not is_known:
            values = {"amount": _show(amount), "to": recipient, "fee": _show(fee_of(amount))}
            await self._answers.answer(
                message,
                Answer("confirm", values),
                lambda writing: self._codes.put(
                    writing,
                    message.phone,
                    "send",
                    message.identity,
                    self._answers.now_ms(),
                    self._sender.budget.day,
                    recipient=recipient,
                    amount=amount,
                ),
            )
            return
        await self.transfer(message, account, recipient, amount, message.identity, None)

    async def transfer(
        self,
        message: Message,
        account: int,
        recipient: str,
        amount: int,
        identity: bytes,
        before: Callable[[Writing], object] | None,
    ) -> None:
        """Do a SEND that was let through.

        Args:
            identity: 16 bytes, the transfer's; the same ones do it once.
            before: is done first, in the same transaction, and may refuse it.
        """
        phone, fee, price = message.phone, fee_of(amount), self.price_for(account)
        cost = fee + price

        def answer() -> Answer:
            values = {"amount": _show(amount), "to": recipient, "fee": _show(fee)}
            return self.balance(account, "sent", **values)

        def also(writing: Writing) -> None:
            if before is not None:
                before(writing)
            self._check_daily(writing, phone, amount)
            number = read_number(writing, phone, self._sender.budget.day)
            changed = msgspec.structs.replace(number, sent=number.sent + amount)
            store_number(writing, phone, changed)
            note_recipient(writing, phone, recipient, number.day)
            self._answers.record(writing, message, answer(), cost=cost)

        beside = [self._charge_of(message, account, price)] if price else []
        try:
            await self._desk.user_transfer(
                phone, recipient, amount, J, identity, beside=beside, also=also
            )
        except TransferRefused as error:
            if error.result is Result.NO_FUNDS:
                raise self._missing(account, amount + cost) from error
            raise
        except PayeeRefused as error:
            raise Answered(Answer(error.code)) from error
        if self._answers.find(message.identity) is None:
            # Done under this id before, in what the files have lost since.
            await self._answers.answer(message, answer())

    async def redeem(self, message: Message, account: int, code: str) -> None:
        """`REDEEM`."""

        def also(writing: Writing, /, *, transfer: Transfer) -> None:
            currency = CURRENCIES[transfer.currency]
            amount = show_amount(format_amount(transfer.amount, currency))
            values = {"amount": amount, "currency": currency.code}
            self._answers.record(writing, message, self.balance(account, "redeemed", **values))

        if not code:
            raise Answered(Answer("bad_redeem"))
        try:
            await self._vouchers.redeem_untrusted(code, account, also)
        except (TransferRefused, SmsRefused):
            raise
        except OperationError as error:
            name = {"bad_voucher": "bad_redeem"}.get(error.code, error.code)
            if name not in TEXTS:
                raise
            raise Answered(Answer(name)) from error
        if self._answers.find(message.identity) is None:
            raise Answered(Answer("voucher_redeemed"))

    def balance(self, account: int, name: str, **values: str) -> Answer:
        """An answer that tells the balance, among others."""
        posted = self._ledger.balance(account, J).posted
        return Answer(name, {**values, "balance": _show(posted)})

    def info(self, account: int) -> Answer:
        """What an account is, and what commands cost."""
        opened = format_time(self._ledger.account(account).opened_ns, 0)[:10]
        price = self.show_price(account)
        return Answer("info", {"account": str(account), "opened": opened, "price": price})

    def show_price(self, account: int) -> str:
        """The same, as people read it."""
        return _show(self.price_for(account))

    def has_price(self, account: int) -> bool:
        """Whether an account has money, and enough for a command."""
        return self._available(account) >= max(1, self.price_for(account))

    def _check_payee(self, phone: str) -> None:
        try:
            self._sender.check_payee(phone)
        except PayeeRefused as error:
            raise Answered(Answer(error.code)) from error

    def _missing(self, account: int, needed: int) -> Answered:
        available = _show(self._available(account))
        return Answered(Answer("missing", {"needed": _show(needed), "balance": available}))

    def _available(self, account: int) -> int:
        return self._ledger.balance(account, J).available

    def price_for(self, account: int) -> int:
        """Micro-J that a command costs."""
        # Who is paid for commands can't pay for them.
        return 0 if account == self._line.into else self._line.price_command

    def _charge_of(self, message: Message, account: int, price: int) -> Transfer:
        identity = derive_id(message.identity, b"sms")
        return Transfer(identity, account, self._line.into, price, J.number, code=Code.SMS)

    def _check_daily(self, tables: Tables, phone: str, amount: int) -> None:
        left = self._daily_limit - read_number(tables, phone, self._sender.budget.day).sent
        if amount > left:
            values = {"limit": _show(self._daily_limit), "left": _show(max(0, left))}
            raise Answered(Answer("daily_limit", values))


def _show(amount: int) -> str:
    return show_amount(format_amount(amount, J))
