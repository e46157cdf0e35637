"""What became of messages that were sent, by the service centres' reports.

A report names the message by the modem's TP-MR, which comes round after 256 messages and in some
modems begins anew with the modem; by the recipient; and by when the service centre took it. A
message has arrived where all of its parts have, each by a report of its own. Kinds in the spool:

    sent     the SIM and TP-MR of a part whose report hasn't come -> which message it is of
    tell     what the node is to be told of a message, in order
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec
import trio

from bridges.gsm.figures import ModemFigures
from bridges.gsm.pdu import Fate, StatusReport
from bridges.process import BridgeContext
from bridges.spool import Change
from core.api.bridge_messages import Outcome, SmsStatusRequest
from core.errors import OperationError
from core.log import log_event
from core.units import DAY_S, HOUR_S

SAME_DIGITS: Final = 7
"""So many last digits of two spellings of a number are equal."""
LOAD_MAXIMUM: Final = 1_000_000
CLOCKS_DIFFER_S: Final = 2 * HOUR_S
"""A service centre's clock may be so far behind ours: some don't know summer time."""
RETRY_S: Final = 10.0
TELL_LIFETIME_S: Final = DAY_S
"""What the node has refused for so long it isn't told any more."""
ANSWER: Final = "answer."
"""Begins the id of a message that answers one; the node is told nothing of it."""

Status = Literal["sent", "delivered", "undelivered", "failed", "unknown"]

_log = logging.getLogger("montana.bridge.gsm")


class _Sent(msgspec.Struct, frozen=True):
    """A part whose report hasn't come.

    Attributes:
        ending: of the recipient's number.
        earlier_s: when one was sent to the same recipient that had this TP-MR until then, and whose
            report hadn't come; 0 for none.
        is_provable: whether reports can still tell that the whole message has arrived; not where
            that of another part is nobody's, or it wasn't sent.
    """

    event: str
    part: int
    ending: str
    at_s: float
    earlier_s: float = 0.0
    is_provable: bool = True


class _Tell(msgspec.Struct, frozen=True):
    event: str
    status: Status
    detail: str
    outcome: Outcome | None


Told = tuple[str, Change]
"""What the node is to be told, before it is stored; for `Reports.tell` once it is."""


class Reports:
    """Of all modems.

    Attributes:
        unmatched: how many reports were of no message that is known.
    """

    def __init__(self, context: BridgeContext, figures: Mapping[str, ModemFigures]) -> None:
        self._context = context
        self._figures = figures
        self._sent: dict[tuple[str, int], _Sent] = {}
        self._outstanding: dict[str, set[int]] = {}
        """Parts whose delivery isn't known, of each event of which there are some."""
        self._tells: OrderedDict[str, _Tell] = OrderedDict()
        self._last_key = 0
        self._wake = trio.Event()
        self.unmatched = 0

    def load(self) -> None:
        """Take up what an earlier process has left."""
        for key, value in self._context.spool.items("tell", LOAD_MAXIMUM):
            self._tells[key] = msgspec.json.decode(value, type=_Tell)
            self._last_key = int(key)
        for key, value in self._context.spool.items("sent", LOAD_MAXIMUM):
            sim, _, reference = key.rpartition(".")
            self._remember((sim, int(reference)), msgspec.json.decode(value, type=_Sent))

    def is_ended(self, event: str) -> bool:
        """Whether the node is about to be told the end of `event`."""
        return any(one.event == event and one.outcome is not None for one in self._tells.values())

    def ending(self, event: str, status: Status, detail: str, outcome: Outcome) -> Told:
        """An event has come to its end."""
        return self._told(_Tell(event, status, detail[:128], outcome))

    def tell(self, told: Told) -> None:
        """Tell the node, now that it is stored."""
        key, change = told
        assert change.value is not None
        self._tells[key] = msgspec.json.decode(change.value, type=_Tell)
        self._wake.set()

    def await_report(
        self,
        sim: str,
        reference: int | None,
        event: str,
        part: int,
        recipient: str,
        *,
        is_provable: bool,
    ) -> tuple[bool, list[Change]]:
        """A part was sent under a TP-MR, or under one that nobody knows.

        Args:
            is_provable: whether the parts before it can be proved to have arrived.

        Returns:
            whether these and it can be; and how all of it is stored.
        """
        if reference is None:
            return False, self.doubt(event)
        key = (sim, reference)
        ending = _last_digits(recipient)
        earlier_s = 0.0
        changes = []
        if (earlier := self._sent.get(key)) is not None:
            # TP-MR has come round or begun anew; what comes late for the earlier one is nobody's.
            self._forget(key)
            changes = self.doubt(earlier.event)
            is_provable = is_provable and earlier.event != event
            if earlier.ending == ending:
                earlier_s = earlier.at_s
        now_s = self._context.clock.unix_s()
        sent = _Sent(event, part, ending, now_s, earlier_s, is_provable)
        self._remember(key, sent)
        return is_provable, [*changes, _stored(key, sent)]

    def doubt(self, event: str) -> list[Change]:
        """No report will tell of a part; returns how that is stored with the other parts."""
        changes = []
        for key, sent in self._sent.items():
            if sent.event == event and sent.is_provable:
                self._sent[key] = msgspec.structs.replace(sent, is_provable=False)
                changes.append(_stored(key, self._sent[key]))
        return changes

    async def take(self, sim: str, report: StatusReport, is_sending: Callable[[str], bool]) -> None:
        """What a service centre says of a message that this SIM has sent; durable when this
        returns.

        Args:
            is_sending: whether parts of an event's message are still to be sent.
        """
        sent = self._sent.get((sim, report.reference))
        if sent is None or not _is_of(report, sent):
            self.unmatched += 1
            return
        if report.fate is Fate.TRYING:
            return
        is_last = self._outstanding[sent.event] == {sent.part} and not is_sending(sent.event)
        has_arrived = is_last and sent.is_provable
        told: Told | None = None
        if report.fate is Fate.UNDELIVERED:
            detail = f"TP-Status {report.status}"
            told = self._told(_Tell(sent.event, "undelivered", detail, None))
        elif report.fate is Fate.DELIVERED and has_arrived:
            told = self._told(_Tell(sent.event, "delivered", "", None))
        changes = [Change("sent", f"{sim}.{report.reference}", None)]
        if told and not sent.event.startswith(ANSWER):
            changes.append(told[1])
        else:
            told = None
        arrived_s = self._context.clock.unix_s()
        await self._context.spool.change_at_last(*changes)
        # Not before: while the disk is full the modem's line may be lost, and the report, which is
        # still on the SIM then, is to be known when it is read again.
        self._forget((sim, report.reference))
        if report.fate is Fate.UNDELIVERED:
            self._figures[sim].count_undelivered()
        elif report.fate is Fate.DELIVERED:
            self._figures[sim].count_delivered(arrived_s - sent.at_s)
        if told:
            self.tell(told)

    async def run(self) -> None:
        """Tell the node, in order for each event; serves until it is cancelled."""
        while True:
            self._wake = trio.Event()
            refused: set[str] = set()
            for key, one in list(self._tells.items()):
                # What follows waits for what was refused; other events' don't.
                if one.event in refused or not await self._tell_one(key, one):
                    refused.add(one.event)
                    continue
                await self._context.spool.change_at_last(Change("tell", key, None))
                del self._tells[key]
            with trio.move_on_after(RETRY_S if refused else float("inf")):
                await self._wake.wait()

    async def _tell_one(self, key: str, one: _Tell) -> bool:
        """False where the node can't take it for now."""
        node = self._context.node
        try:
            await node.request(SmsStatusRequest(one.event, one.status, one.detail))
        except OperationError as error:
            # The node refuses no status for what it is of: its disk is full, or it is busy.
            if self._context.clock.unix_s() < int(key) / 1e6 + TELL_LIFETIME_S:
                log_event(_log, logging.WARNING, "the node takes no SMS status", reason=error.code)
                return False
            log_event(_log, logging.ERROR, "an SMS status is given up", reason=error.code)
        if one.outcome is not None:
            await node.acknowledge(one.event, one.outcome, one.detail)
        return True

    def _told(self, one: _Tell) -> Told:
        # Time orders them over restarts, the number within one millisecond.
        self._last_key = max(self._last_key + 1, round(self._context.clock.unix_s() * 1e6))
        key = f"{self._last_key:020d}"
        return key, Change("tell", key, msgspec.json.encode(one))

    def _remember(self, key: tuple[str, int], sent: _Sent) -> None:
        self._sent[key] = sent
        self._outstanding.setdefault(sent.event, set()).add(sent.part)

    def _forget(self, key: tuple[str, int]) -> None:
        sent = self._sent.pop(key)
        parts = self._outstanding[sent.event]
        parts.discard(sent.part)
        if not parts:
            del self._outstanding[sent.event]


def _stored(key: tuple[str, int], sent: _Sent) -> Change:
    sim, reference = key
    return Change("sent", f"{sim}.{reference}", msgspec.json.encode(sent))


def _is_of(report: StatusReport, sent: _Sent) -> bool:
    """Whether a report under the TP-MR of `sent` is of it, and not of one before."""
    if sent.ending != _last_digits(report.recipient):
        return False
    # Of two that may be meant, the nearer one is.
    tolerance_s = min(CLOCKS_DIFFER_S, abs(sent.at_s - sent.earlier_s) / 2)
    return report.sent_s is None or report.sent_s >= sent.at_s - tolerance_s


def _last_digits(number: str) -> str:
    return "".join(filter(str.isdigit, number))[-SAME_DIGITS:]
