"""The wallet that is used by SMS: one text in, at most one text out, for every channel of SMS.

    reply = await wallet.process_incoming("+79991234567", "BAL", "SM123", bridge="twilio")

A number is an address; its first SMS opens its account. A message is carried out once: what it has
done, its record and what it costs are one transaction, and who gives it again gets the same answer.
Nothing is done, and nothing charged, where the answer could not be sent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import msgspec
import trio

from billing.desk import Desk
from billing.ledger import LmdbLedger
from billing.notices import Notices
from billing.outbox import Outbox
from billing.phone_links import PhoneLinks
from billing.pins import Pins
from billing.sms_answers import Answered, Answers, HandledBefore, Message
from billing.sms_codes import CodeRefused, Confirmation, ConfirmationCodes
from billing.sms_commands import (
    Command,
    parse_command_untrusted,
    parse_phone_untrusted,
)
from billing.sms_history import recent_payments
from billing.sms_limits import RateLimit, SmsRefused
from billing.sms_payments import SmsPayments
from billing.sms_records import (
    message_identity,
    read_number,
    set_opted_out,
    store_number,
)
from billing.sms_sender import SmsSender
from billing.sms_texts import Answer
from billing.transfers import Result, TransferRefused, derive_id, new_id
from core.api.bridge_messages import CarrierKeyword, ForwardBody
from core.clock import Clock
from core.config import NodeConfig
from core.errors import OperationError
from core.tables import Writing
from core.units import DAY_S, HOUR_S

FORWARD_LIFETIME_S: Final = 3 * DAY_S
HELP_INTERVAL_MS: Final = HOUR_S * 1000
"""Words that nobody knows are answered once in it: two machines would talk for ever. What looks
like a command that has failed is answered each time."""
REFUSALS: Final = ("account_closed", "no_account", "own_account")
TEXT_CHARACTERS: Final = 4096
SENDER_CHARACTERS: Final = 32
"""Of a sender that is no number."""


class Received(NamedTuple):
    """What came of an SMS: the text that answers it, or None, and whether it had come before."""

    reply: str | None
    duplicate: bool


class SMSGateway:
    """The wallet of one node.

    Args:
        secret: codes and PINs are hashed with it; the node's, stored apart from the ledger.
    """

    def __init__(
        self,
        ledger: LmdbLedger,
        desk: Desk,
        outbox: Outbox,
        notices: Notices,
        clock: Clock,
        config: NodeConfig,
        secret: bytes,
    ) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._desk = desk
        self._outbox = outbox
        self._clock = clock
        self._config = config.sms
        self._region = config.billing.default_region
        self._codes = ConfirmationCodes(secret)
        self._rate = RateLimit(config.sms, clock)
        self._running: dict[bytes, trio.Event] = {}
        """The messages that are being carried out."""
        self.sender = SmsSender(self._store, outbox, notices, clock, config)
        self.links = PhoneLinks(ledger, desk, self.sender, outbox, notices, clock, config, secret)
        self._pins = Pins(self._store, self.sender.budget, secret)
        self._answers = Answers(self._store, self.sender, clock, self._codes, self.links.code)
        self._payments = SmsPayments(
            ledger, desk, self.sender, self._answers, self._codes, self._pins, clock, config
        )

    # ------------------------------------------------------------ in and out

    async def process_incoming(
        self,
        from_phone: str,
        body: str,
        message_id: str | None = None,
        *,
        bridge: str = "",
        recipient: str = "",
        received_ms: int | None = None,
    ) -> str | None:
        """Carry out an SMS; the text that answers it, or None for none.

        Args:
            from_phone, body: as a stranger has sent them.
            message_id: unique in the bridge, and the same when the message is given again.
            recipient: the number or the modem that it came to.
            received_ms: since 1970.

        Raises:
            OperationError: it can't be stored now. It has had no effect, and may be given again.
        """
        received = await self.receive_untrusted(
            from_phone, body, message_id, bridge, recipient, received_ms
        )
        return received.reply

    async def send_sms(self, to_phone: str, message: str) -> str:
        """Send an SMS; the id of the event that does it.

        Raises:
            OperationError: it is not sent: `sms_country`, `sms_budget`, `sms_opted_out` ...
        """
        return (await self.sender.send(to_phone, message)).hex()

    async def receive_untrusted(
        self,
        sender: str,
        body: str,
        message_id: str | None,
        bridge: str = "",
        recipient: str = "",
        received_ms: int | None = None,
        keyword: CarrierKeyword | None = None,
    ) -> Received:
        """`process_incoming`, with whether it had come before.

        Args:
            keyword: what the carrier has taken it for, and has answered itself.

        Raises:
            OperationError: as there; `sms_rate` while all together send too many.
        """
        if message_id is None:
            identity = new_id(self._clock)
        else:
            identity = message_identity(bridge, message_id)
        while (running := self._running.get(identity)) is not None:
            # A wrong PIN, say, is to count once.
            await running.wait()
        record = self._answers.find(identity)
        if record is not None:
            self.sender.count("duplicates")
            return Received(self._answers.text_of(record), True)
        ended = self._running[identity] = trio.Event()
        try:
            await self._receive_new(identity, sender, body, bridge, recipient, received_ms, keyword)
        finally:
            del self._running[identity]
            ended.set()
        record = self._answers.find(identity)
        assert record is not None, "what was carried out has a record"
        return Received(self._answers.text_of(record), False)

    async def _receive_new(
        self,
        identity: bytes,
        sender: str,
        body: str,
        bridge: str,
        recipient: str,
        received_ms: int | None,
        keyword: CarrierKeyword | None,
    ) -> None:
        number = parse_phone_untrusted(sender, self._region)
        phone = _valid_text(sender, SENDER_CHARACTERS) if number is None else number
        message = self._read_untrusted(identity, phone, bridge, body, keyword)
        # Twilio has answered it, or it is for that person to say whether they get SMS.
        is_always_heard = message.is_answered or (
            number is not None and self._turns_sms_off_or_on(message)
        )
        forward = None
        if self._is_for_owner(message):
            forward = self._forward(message, body, recipient, received_ms)
        rate = "now" if message.is_answered else self._rate.admit(phone, received_ms)
        is_counted, minute = rate == "now" and not message.is_answered, self._rate.minute
        if is_always_heard and rate != "now":
            # Heard, and not answered: both in turns would be a way to have SMS sent without end.
            message, rate = message._replace(is_answered=True), "now"
        if rate == "later" or (rate == "never" and forward is not None):
            # Whoever has brought it keeps it, and brings it again: it is somebody's.
            self.sender.log_refusal(phone, "sms_rate")
            raise OperationError("too many SMS in a minute; try again later", "sms_rate")
        try:
            if rate == "never":
                await self._refuse(message, number)
            elif forward is not None:
                await self._store.write(forward)
            elif number is None:
                await self._answers.leave(message, "no_number")
            else:
                await self._carry_out(message)
        except HandledBefore:
            # It came twice at the same time: whoever had asked first has gone away meanwhile.
            self.sender.count("duplicates")
        except OperationError:
            # It comes again, and would use up its sender's rate, and all others'.
            if is_counted:
                self._rate.give_back(phone, received_ms, minute)
            raise

    async def _refuse(self, message: Message, number: str | None) -> None:
        """Do nothing of a message of a number that sends too many, and tell it so now and then."""
        if number is not None and self._rate.may_tell(number):
            try:
                await self._answers.answer(message, Answer("limited"))
            except SmsRefused:
                pass
            else:
                self.sender.count("limited")
                return
        await self._answers.leave(message, "limited")

    def _read_untrusted(
        self,
        identity: bytes,
        phone: str,
        bridge: str,
        body: str,
        keyword: CarrierKeyword | None,
    ) -> Message:
        command = parse_command_untrusted(body)
        if keyword is None:
            return Message(identity, phone, bridge, command)
        taken = Message(identity, phone, bridge, Command(keyword, command.language), True)
        if keyword == "start" and not self._turns_sms_off_or_on(taken):
            # A carrier takes a lone `Yes` for it, of whom has never said STOP as well.
            return taken._replace(command=command, is_answered=False)
        return taken

    def _is_for_owner(self, message: Message) -> bool:
        """Whether an SMS is no command, and may be read by others."""
        command = message.command
        if parse_phone_untrusted(message.phone, None) is None:
            # A carrier or a bank: it has no wallet, and no codes of ours.
            return command.action in ("text", "code")
        return command.action == "text" and not command.holds_secret

    def _turns_sms_off_or_on(self, message: Message) -> bool:
        """Whether somebody wants no SMS any more, or wants them again who had none."""
        action = message.command.action
        if action not in ("stop", "start"):
            return False
        with self._store.read() as tables:
            is_off = read_number(tables, message.phone, self._day).opted_out
        return is_off == (action == "start")

    async def _carry_out(self, message: Message) -> None:
        try:
            # Whatever the budget is: it is no matter of an answer.
            if message.command.action == "stop":
                await self._store.write(partial(self._opt_out, message))
                return
            if message.command.action == "start" and self._turns_sms_off_or_on(message):
                await self._store.write(partial(self._opt_in, message))
                return
            if message.is_answered:
                await self._store.write(
                    lambda writing: self._answers.record(writing, message, None, "by_carrier")
                )
                return
            self._assert_answerable(message)
            await self._act(message)
        except Answered as answered:
            try:
                await self._answers.answer(message, answered.answer)
            except SmsRefused as error:
                await self._answers.leave(message, error.code)
        except SmsRefused as error:
            await self._answers.leave(message, error.code)

    def _assert_answerable(self, message: Message) -> None:
        """Refuse who can't be sent an answer, before they have an account."""
        account = self._ledger.find(message.phone)
        pays = account is not None and self._payments.has_price(account)
        with self._store.read() as tables:
            self.sender.budget.check(tables, message.phone, from_reserve=pays)

    async def _act(self, message: Message) -> None:
        account = await self._desk.open_user(message.phone)
        arguments = message.command.arguments
        try:
            match message.command.action:
                case "balance":
                    await self._payments.charge(
                        message, account, lambda: self._payments.balance(account, "balance")
                    )
                case "history":
                    lines = await recent_payments(self._ledger, account, message.language)
                    name = "history" if lines else "no_history"
                    await self._payments.charge(
                        message, account, lambda: self._payments.balance(account, name, lines=lines)
                    )
                case "info":
                    info = self._payments.info(account)
                    await self._payments.charge(message, account, lambda: info)
                case "send":
                    await self._payments.send(message, account, arguments)
                case "redeem":
                    await self._payments.redeem(message, account, "".join(arguments))
                case "link":
                    await self._link(message)
                case "pin":
                    await self._begin_pin(message, "".join(arguments))
                case "code":
                    await self._confirm(message, arguments[0])
                case _:
                    await self._help(message, account)
        except CodeRefused as error:
            raise Answered(Answer(error.code)) from error
        except TransferRefused as error:
            name = "frozen" if error.result is Result.FROZEN else "refused"
            raise Answered(Answer(name)) from error
        except OperationError as error:
            # An address that has passed to somebody else meanwhile, say.
            if error.code not in REFUSALS:
                raise
            raise Answered(Answer("refused")) from error

    # ------------------------------------------------------------ codes and PINs

    async def _confirm(self, message: Message, code: str) -> None:
        phone, now_ms, day = message.phone, self._answers.now_ms(), self._day
        with self._store.read() as tables:
            is_locked = self._codes.is_locked(tables, phone, day)
            waiting = self._codes.find_untrusted(tables, phone, code, now_ms, day)
        if is_locked:
            raise Answered(Answer("too_many_tries"))
        if waiting is None:

            def count_wrong(writing: Writing) -> None:
                self._codes.count_wrong(writing, phone, now_ms, day)

            try:
                await self._answers.answer(message, Answer("no_code"), count_wrong)
            except SmsRefused as error:
                # Or whoever has used up the budget could try all of them.
                await self._answers.leave(message, error.code, count_wrong)
            return

        def take(writing: Writing) -> Confirmation:
            return self._codes.take_untrusted(writing, phone, code, now_ms, day)

        # Digits alone are of no language; the message that they confirm was.
        asked = self._answers.find(waiting.identity)
        if asked is not None and message.command.language is None:
            command = dataclasses.replace(message.command, language=asked.language)
            message = message._replace(command=command)
        if waiting.purpose == "pin":

            def set_pin(writing: Writing) -> None:
                self._pins.set(writing, phone, take(writing).pin_hash)

            await self._answers.answer(message, Answer("pin_set"), set_pin)
            return
        account = self._ledger.find(phone)
        assert account is not None, "it was opened before this"
        # Of the message that asked for it: two that confirm it at once do it once.
        identity = derive_id(waiting.identity, b"confirmed")
        await self._payments.transfer(
            message,
            account,
            waiting.recipient,
            waiting.amount,
            identity,
            take,
        )

    async def _begin_pin(self, message: Message, pin: str) -> None:
        if not pin:
            raise Answered(Answer("bad_pin"))
        hashed = await self._pins.hash(pin)

        def wait(writing: Writing) -> None:
            phone, now_ms = message.phone, self._answers.now_ms()
            self._codes.put(
                writing, phone, "pin", message.identity, now_ms, self._day, pin_hash=hashed
            )

        await self._answers.answer(message, Answer("pin_confirm"), wait)

    async def _link(self, message: Message) -> None:
        await self._answers.answer(
            message,
            Answer("link"),
            lambda writing: self.links.put_code(writing, message.phone, "", message.identity),
        )

    # ------------------------------------------------------------ what costs nothing

    async def _help(self, message: Message, account: int) -> None:
        """Tell what commands there are, when asked, and now and then when not understood."""
        now_ms, action, phone = self._answers.now_ms(), message.command.action, message.phone
        price = {"price": self._payments.show_price(account)}

        def write(writing: Writing) -> None:
            number = read_number(writing, phone, self._day)
            is_idle = action == "text" and not message.command.is_attempt
            if is_idle and now_ms - number.helped_ms < HELP_INTERVAL_MS:
                self._answers.record(writing, message, None, "not_understood")
            else:
                self._answers.record(writing, message, Answer("help", price))
                if is_idle:
                    number = read_number(writing, phone, self._day)
                    changed = msgspec.structs.replace(number, helped_ms=now_ms)
                    store_number(writing, phone, changed)

        await self._store.write(write)

    def _opt_out(self, message: Message, writing: Writing) -> None:
        self._answers.record(writing, message, None, "stopped")
        self.sender.opt_out(writing, message.phone)

    def _opt_in(self, message: Message, writing: Writing) -> None:
        set_opted_out(writing, message.phone, False)
        try:
            answer = None if message.is_answered else Answer("started")
            self._answers.record(writing, message, answer, "started")
        except SmsRefused as error:
            # They have their SMS again all the same; this one can't be sent.
            self._answers.record(writing, message, None, error.code)

    def _forward(
        self, message: Message, body: str, recipient: str, received_ms: int | None
    ) -> Callable[[Writing], None] | None:
        """Hands a text to the owner of the number that it has come to; None where it has none."""
        owners = self._config.owners
        number = parse_phone_untrusted(recipient, self._region) or recipient
        owner = owners.get(number, owners.get("*"))
        if owner is None:
            return None
        forwarded = ForwardBody(
            sender=message.phone,
            recipient=_valid_text(recipient, SENDER_CHARACTERS),
            text=_valid_text(body, TEXT_CHARACTERS),
            received_ms=self._answers.now_ms() if received_ms is None else received_ms,
        )
        bridge = "telegram" if owner.startswith("tg:") else "webhook"

        def write(writing: Writing) -> None:
            # First what may be refused: nothing is written then, and nobody else's done anew.
            if not self._outbox.put(
                writing,
                bridge,
                owner,
                forwarded,
                key=message.identity,
                lifetime_s=FORWARD_LIFETIME_S,
            ):
                # Whoever has brought it keeps it, and brings it again.
                raise OperationError("too many SMS wait; try again later", "sms_full")
            self._answers.record(writing, message, None, "forwarded")

        return write

    @property
    def _day(self) -> int:
        return self.sender.budget.day


def _valid_text(text: str, characters: int) -> str:
    """What can be stored of a stranger's text."""
    return text[:characters].encode("utf-8", "replace").decode()
