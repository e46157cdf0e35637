"""The network that emulated modems are in: it takes what they submit and joins long messages again,
sends reports, keeps what can't be delivered yet until it can, and answers USSD.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tests.support import modem_pdu as pdu

# What the service centre keeps for one phone; more than that is a test's mistake.
WAITING_MAXIMUM = 10_000

# TP-ST (TS 23.040, 9.2.3.15).
RECEIVED = 0x00
STILL_TRYING = 0x20
PERMANENT_ERROR = 0x41

After = Callable[[float, Callable[[], None]], None]


class Phone(Protocol):
    """What the network knows of a modem."""

    @property
    def number(self) -> str:
        """Of its SIM, in international form."""
        ...

    @property
    def is_reachable(self) -> bool:
        """Whether it is there, registered, and not locked."""
        ...

    def take(self, tpdu: bytes, *, is_report: bool) -> bool:
        """Take a message or report; False where it can't now (the store is full)."""
        ...


@dataclass(frozen=True)
class SentPart:
    """One SMS-SUBMIT that was accepted. `reference` is the TP-MR that the modem has told."""

    modem: str
    recipient: str
    reference: int
    text: str
    coding: str
    tpdu: bytes
    report_requested: bool
    validity_s: int | None
    part: int = 1
    parts: int = 1
    concat_reference: int | None = None


@dataclass(frozen=True)
class SentMessage:
    """A message that has come whole."""

    sender: str
    recipient: str
    text: str
    parts: tuple[SentPart, ...]


class SmsNetwork:
    """See the module. Sans-I/O: `after` runs something later, `now` is the time in its zone."""

    def __init__(self, after: After, now: Callable[[], datetime]) -> None:
        self._after = after
        self._now = now
        self._phones: dict[str, Phone] = {}
        self._waiting: dict[str, deque[tuple[bool, bytes]]] = defaultdict(deque)
        self._incomplete: dict[tuple[str, str, int | None, int], dict[int, SentPart]] = {}
        self._next_reference = 0
        self.parts: list[SentPart] = []
        self.messages: list[SentMessage] = []
        self.report_delay_s = 0.0
        self.report_faults: deque[str] = deque()
        self.ussd: dict[str, str] = {}

    def join(self, phone: Phone) -> None:
        """Have it in the network, under its number."""
        assert phone.number not in self._phones
        self._phones[phone.number] = phone

    # --- to a phone

    def deliver(
        self,
        number: str,
        sender: str,
        text: str,
        *,
        order: Sequence[int] | None = None,
        missing: Iterable[int] = (),
        reference: int | None = None,
        wide_reference: bool = False,
    ) -> None:
        """Send that SIM a text. `order` and `missing` name its parts, counted from 0."""
        if reference is None:
            reference = self._next_reference
            self._next_reference = (reference + 1) % 256
        tpdus = pdu.write_delivers(
            sender, text, self._now(), reference=reference, wide_reference=wide_reference
        )
        left_out = set(missing)
        for place in range(len(tpdus)) if order is None else order:
            if place not in left_out:
                self.deliver_tpdu(number, tpdus[place])

    def deliver_tpdu(self, number: str, tpdu: bytes) -> None:
        """Send that SIM an SMS-DELIVER as it is."""
        self._enqueue(number, tpdu, is_report=False)

    def waiting(self, number: str) -> int:
        """How many messages and reports it can't be given yet."""
        return len(self._waiting[number])

    def give_back(self, number: str, tpdu: bytes, *, is_report: bool) -> None:
        """The phone has not acknowledged what it took: it gets it again, before all else."""
        self._waiting[number].appendleft((is_report, tpdu))
        self.try_again(number)

    def try_again(self, number: str) -> None:
        """The phone is back, or has room again: give it what waits, in its order."""
        phone = self._phones[number]
        waiting, self._waiting[number] = self._waiting[number], deque()
        while waiting:
            is_report, tpdu = waiting.popleft()
            if not phone.is_reachable or not phone.take(tpdu, is_report=is_report):
                self._waiting[number].append((is_report, tpdu))

    def _enqueue(self, number: str, tpdu: bytes, *, is_report: bool) -> None:
        assert len(self._waiting[number]) < WAITING_MAXIMUM
        self._waiting[number].append((is_report, tpdu))
        self.try_again(number)

    # --- from a phone

    def submit(self, sender: str, submit: pdu.Submit, reference: int) -> None:
        """A phone's message, with the reference under which its report is to come."""
        joined = submit.concatenation
        part = SentPart(
            modem=sender,
            recipient=submit.recipient,
            reference=reference,
            text=submit.text,
            coding=submit.coding,
            tpdu=submit.tpdu,
            report_requested=submit.report_requested,
            validity_s=submit.validity_s,
            part=joined.number if joined else 1,
            parts=joined.parts if joined else 1,
            concat_reference=joined.reference if joined else None,
        )
        self.parts.append(part)
        key = (sender, part.recipient, part.concat_reference, part.parts)
        parts = self._incomplete.setdefault(key, {})
        parts[part.part] = part
        if len(parts) == part.parts:
            del self._incomplete[key]
            self._complete(tuple(parts[number] for number in sorted(parts)))
        if submit.report_requested:
            self._report(part)

    def _complete(self, parts: tuple[SentPart, ...]) -> None:
        # Halves of a surrogate pair that came in two parts become one character here.
        octets = "".join(part.text for part in parts).encode("utf-16-be", "surrogatepass")
        text = octets.decode("utf-16-be", "replace")
        message = SentMessage(parts[0].modem, parts[0].recipient, text, parts)
        self.messages.append(message)
        if message.recipient in self._phones:
            self.deliver(message.recipient, message.sender, text)

    def _report(self, part: SentPart) -> None:
        fault = self.report_faults.popleft() if self.report_faults else "ok"
        reference, statuses = part.reference, [RECEIVED]
        if fault == "lost":
            return
        if fault == "wrong reference":
            reference = (reference + 100) % 256
        elif fault == "twice":
            statuses = [RECEIVED, RECEIVED]
        elif fault == "failed":
            statuses = [PERMANENT_ERROR]
        elif fault == "pending":
            statuses = [STILL_TRYING, RECEIVED]
        else:
            assert fault == "ok", fault
        submitted = self._now()

        def send() -> None:
            for status in statuses:
                report = pdu.write_status_report(
                    reference, part.recipient, submitted, self._now(), status
                )
                self._enqueue(part.modem, report, is_report=True)

        self._after(self.report_delay_s, send)
