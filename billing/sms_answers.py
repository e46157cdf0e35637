"""Answers to SMS, and the records of what they were: one of each message, in the transaction of
what it has done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from billing.sms_codes import ConfirmationCodes
from billing.sms_commands import Command, Language, language_of
from billing.sms_records import SmsRecord, add_record, find_record, read_number, store_number
from billing.sms_sender import SmsSender
from billing.sms_texts import Answer
from core.clock import Clock
from core.sms_parts import sms_parts
from core.store import Store
from core.tables import Writing


class Message(NamedTuple):
    """An SMS that has come.

    Attributes:
        identity: 16 bytes, the same when it is given again.
        phone: who has sent it: a number, or a carrier's name.
        is_answered: by the carrier itself, so that no answer is sent.
    """

    identity: bytes
    phone: str
    bridge: str
    command: Command
    is_answered: bool = False

    @property
    def language(self) -> Language:
        """That of the answer."""
        return self.command.language or language_of(self.phone)


class Answered(Exception):
    """A message is answered by this, and has no other effect."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.name)
        self.answer = answer


class HandledBefore(Exception):
    """The message has a record already."""


class Answers:
    """Answers of one node.

    Args:
        link_code: the code that a message `LINK` is told.
    """

    def __init__(
        self,
        store: Store,
        sender: SmsSender,
        clock: Clock,
        codes: ConfirmationCodes,
        link_code: Callable[[bytes], str],
    ) -> None:
        self._store = store
        self._sender = sender
        self._clock = clock
        self._codes = codes
        self._link_code = link_code

    async def answer(
        self,
        message: Message,
        answer: Answer,
        also: Callable[[Writing], None] | None = None,
    ) -> None:
        """Answer for nothing, and write what else comes with that."""

        def write(writing: Writing) -> None:
            # What is refused before it writes has nobody else's done anew.
            if find_record(writing, message.identity) is not None:
                raise HandledBefore
            is_paid = _is_paid(answer, 0)
            self._sender.budget.check(writing, message.phone, from_reserve=is_paid)
            if also is not None:
                also(writing)
            self.record(writing, message, answer)

        await self._store.write(write)

    async def leave(
        self, message: Message, reason: str, also: Callable[[Writing], None] | None = None
    ) -> None:
        """Say nothing, and do nothing but what is written besides."""
        self._sender.log_refusal(message.phone, reason)

        def write(writing: Writing) -> None:
            self.record(writing, message, None, reason)
            if also is not None:
                also(writing)

        await self._store.write(write)

    def record(
        self,
        writing: Writing,
        message: Message,
        answer: Answer | None,
        result: str = "",
        cost: int = 0,
    ) -> None:
        """Keep what came of a message, in the transaction of that.

        Raises:
            HandledBefore: it was carried out meanwhile.
            SmsRefused: its answer can't be sent.
        """
        if find_record(writing, message.identity) is not None:
            raise HandledBefore
        record = SmsRecord(
            id=message.identity,
            time_ms=self.now_ms(),
            incoming=True,
            phone=message.phone,
            bridge=message.bridge,
            action=message.command.action,
            result=result if answer is None else answer.name,
            values={} if answer is None else answer.values,
            language="en" if answer is None else message.language,
            cost=cost,
        )
        text = None if answer is None else self._text(record)
        if text is not None:
            parts = sms_parts(text)
            is_paid = answer is not None and _is_paid(answer, cost)
            self._sender.budget.spend(writing, message.phone, parts, from_reserve=is_paid)
            self._remember_bridge(writing, message)
            record = msgspec.structs.replace(record, parts=parts)
        add_record(writing, record)
        writing.after_commit(lambda: self._sender.count("received"))

    def text_of(self, record: SmsRecord) -> str | None:
        """The answer that a record tells of; codes, which it doesn't hold, are made again."""
        # The same result may have been left unsaid.
        return self._text(record) if record.parts else None

    def _text(self, record: SmsRecord) -> str:
        values = record.values
        if record.result in ("confirm", "pin_confirm"):
            values = {**values, "code": self._codes.code(record.id)}
        elif record.result == "link":
            values = {**values, "code": self._link_code(record.id)}
        return Answer(record.result, values).text(record.language)

    def _remember_bridge(self, writing: Writing, message: Message) -> None:
        number = read_number(writing, message.phone, self._sender.budget.day)
        if number.bridge != message.bridge:
            changed = msgspec.structs.replace(number, bridge=message.bridge)
            store_number(writing, message.phone, changed)

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self._clock.unix_s() * 1000)

    def find(self, identity: bytes) -> SmsRecord | None:
        """The record of a message."""
        with self._store.read() as tables:
            return find_record(tables, identity)


def _is_paid(answer: Answer, cost: int) -> bool:
    """Whether an answer belongs to a command that somebody pays for."""
    # Who is asked to confirm a SEND has the money for it.
    return cost > 0 or answer.name == "confirm"
