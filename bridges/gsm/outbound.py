"""Messages that are to be sent: which SIM sends which, when, how often, and what came of it.

A recipient keeps its SIM, so that people see one number; one without goes to the SIM that has sent
the least today, or tried to. A SIM that is away, has sent as much as it may today, or rests as it
can't send, gives its messages to the others; but a long message of which a part was sent stays
where it is, since only the same sender's parts are put together.

Kinds in the spool (and those of `reports` and `sims`):

    out      a message that isn't sent yet

What a modem was given and never answered for is unknown, and not sent again; so is what was being
given to it when the bridge died. An answer to a message is sent again then: whoever has asked waits
for it, and would rather read it twice.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from bridges.gsm.at import AtError
from bridges.gsm.causes import Verdict, advice, describe, is_certain, verdict
from bridges.gsm.figures import ModemFigures
from bridges.gsm.pdu import PduError, Submit, encode_submit
from bridges.gsm.reports import ANSWER, LOAD_MAXIMUM, Reports, Status, Told
from bridges.gsm.sims import Sims
from bridges.process import BridgeContext
from bridges.spool import Change
from core.api.bridge_messages import Event, Outcome, SmsBody
from core.errors import OperationError
from core.log import log_event
from core.units import DAY_S

ATTEMPTS_MAXIMUM: Final = 4
RETRY_FIRST_S: Final = 10.0
RETRY_FACTOR: Final = 4
"""Ten seconds, forty, and not quite three minutes."""
ANSWER_LIFETIME_S: Final = DAY_S
JOBS_MAXIMUM: Final = 10_000
CAP_INTERVAL_S: Final = 60.0
EXPIRY_INTERVAL_S: Final = 5.0
EXPIRED: Final = "expired before it could be sent"
OVERLOAD_JOBS: Final = 10
"""A SIM with so many waiting gets no more of those that others can send."""

_log = logging.getLogger("montana.bridge.gsm")


class _Out(msgspec.Struct, frozen=True):
    to: str
    text: str
    expires_s: float
    reference: int
    sim: str = ""
    sent: int = 0
    is_sending: bool = False
    is_provable: bool = True


@dataclass(slots=True, eq=False)
class Job:
    """A message on its way out.

    Attributes:
        sim: the only one that can send it, as it has sent a part; None while any can.
        parts: how many there are; of them `sent` were sent.
        number: those that came earlier have a lower one.
        refused_by: the SIMs that have not sent the next part since all had tried.
    """

    number: int
    id: str
    record: _Out
    parts: int
    sim: str | None
    sent: int
    attempts: int = 0
    not_before: float = 0.0
    refused_by: set[str] = field(default_factory=set)


class Outbound:
    """Messages of all SIMs.

    Args:
        caps: how many parts each SIM sends in a day.
    """

    def __init__(
        self,
        context: BridgeContext,
        caps: Mapping[str, int],
        figures: Mapping[str, ModemFigures],
        reports: Reports,
    ) -> None:
        self._context = context
        self._sims = Sims(context, caps, figures)
        self._figures = figures
        self._reports = reports
        self._own: dict[str, deque[Job]] = {sim: deque() for sim in caps}
        self._common: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}
        self._idle: dict[str, trio.Event] = {}
        self._reference = context.clock.random_bytes(1)[0]
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        """How many messages are not sent yet."""
        return len(self._jobs)

    async def load(self) -> None:
        """Take up what an earlier process has left."""
        self._sims.load()
        for key, value in self._context.spool.items("out", LOAD_MAXIMUM):
            job = self._job(key, msgspec.json.decode(value, type=_Out))
            if job.record.is_sending:
                self._jobs[key] = job
                # As in `unknown`: a bridge that dies at each would send any number in a day.
                sim = job.record.sim
                counted = [self._sims.count_today(sim)] if sim in self._own else []
                await self._end(job, "unknown", "the bridge died meanwhile", "unknown", counted)
            else:
                self._enqueue(job)

    def is_sending(self, event: str) -> bool:
        """Whether parts of the message are still to be sent."""
        job = self._jobs.get(event)
        return job is not None and job.sent < job.parts

    # ------------------------------------------------------------ what is to be sent

    async def accept(self, event: Event) -> None:
        """An SMS of the node's; it may have been accepted before."""
        assert isinstance(event.body, SmsBody)
        if event.id in self._jobs or self._reports.is_ended(event.id):
            return
        record = _Out(event.to, event.body.text, event.expires_ms / 1000, self._next_reference())
        try:
            job = self._job(event.id, record)
        except PduError as error:
            told = self._reports.ending(event.id, "failed", str(error), "failed")
            await self._context.spool.change(told[1])
            self._reports.tell(told)
            return
        if await self._context.spool.put("out", event.id, msgspec.json.encode(record)):
            self._enqueue(job)

    async def answer(self, sim: str, to: str, text: str, message_id: str, taken: Change) -> None:
        """Answer a message by the SIM that it came to; `taken` is changed in the spool together
        with the answer's being stored.

        Raises:
            OperationError: too many wait already, or the spool is full.
        """
        if len(self._jobs) >= JOBS_MAXIMUM:
            raise OperationError("too many SMS wait to be sent", "sms_queue")
        expires_s = self._context.clock.unix_s() + ANSWER_LIFETIME_S
        record = _Out(to, text, expires_s, self._next_reference())
        key = ANSWER + message_id
        try:
            job = self._job(key, record)
        except PduError:
            # A name that a carrier lets somebody write; nobody can answer it.
            await self._context.spool.change(taken)
            return
        stored = Change("out", key, msgspec.json.encode(record))
        await self._context.spool.change(stored, taken, *self._sims.keep(to, sim))
        self._enqueue(job)

    def _job(self, key: str, record: _Out) -> Job:
        parts = len(self._parts(record))
        return Job(next(self._numbers), key, record, parts, record.sim or None, record.sent)

    def _parts(self, record: _Out) -> list[Submit]:
        return encode_submit(
            record.to,
            record.text,
            reference=record.reference,
            report=True,
            validity_s=max(0.0, record.expires_s - self._context.clock.unix_s()),
        )

    def _next_reference(self) -> int:
        self._reference = (self._reference + 1) & 0xFF
        return self._reference

    def _enqueue(self, job: Job) -> None:
        """Give a job to a SIM, or to whichever takes it first."""
        self._jobs[job.id] = job
        sim = job.sim or self._sims.kept_by(job.record.to)
        if sim not in self._own or (job.sim is None and not self._takes_more(sim)):
            able = self._sims.able()
            idle = [sim for sim in self._idle if sim in able]
            sim = min(idle, key=self._load, default=None)
        if sim is None:
            self._common.append(job)
        else:
            self._own[sim].append(job)
            self._wake([sim])

    def _takes_more(self, sim: str) -> bool:
        if not self._sims.is_expected(sim):
            return False
        return len(self._own[sim]) < OVERLOAD_JOBS or self._sims.able() <= {sim}

    def _load(self, sim: str) -> float:
        return self._sims.load_of(sim, len(self._own[sim]))

    # ------------------------------------------------------------ what a SIM sends

    def set_usable(self, sim: str, usable: bool) -> None:
        """Whether a SIM can send at present."""
        self._sims.set_usable(sim, usable)
        if usable:
            self._wake([sim])

    async def take(self, sim: str) -> Job:
        """The next message that a SIM is to send a part of; waits for one."""
        while True:
            job, at = self._next(sim)
            if job is not None:
                return job
            self._idle[sim] = wake = trio.Event()
            try:
                with trio.move_on_at(at):
                    await wake.wait()
            finally:
                self._idle.pop(sim, None)

    def _next(self, sim: str) -> tuple[Job | None, float]:
        """A job, or else when to look again."""
        now = trio.current_time()
        if not self._sims.is_usable(sim):
            return None, float("inf")
        if now < (rests_until := self._sims.rests_until(sim)):
            return None, rests_until
        self._sims.has_rested(sim)
        if self._sims.has_sent_all(sim):
            self._leave_to_others(sim)
            return None, now + CAP_INTERVAL_S
        at = float("inf")
        found: list[tuple[int, deque[Job], int]] = []
        for jobs in (self._own[sim], self._common):
            for place, job in enumerate(jobs):
                if job.not_before <= now:
                    found.append((job.number, jobs, place))
                    break
                at = min(at, job.not_before)
        if not found:
            return None, at
        _, jobs, place = min(found, key=lambda one: one[0])
        job = jobs[place]
        del jobs[place]
        return job, now

    def _leave_to_others(self, sim: str) -> None:
        movable = [job for job in self._own[sim] if job.sim is None]
        if movable:
            self._own[sim] = deque(job for job in self._own[sim] if job.sim is not None)
            self._common += movable
            self._wake(self._idle)

    def part(self, job: Job) -> Submit:
        """What is to be sent next, valid for as long as the message is of use from now on: it may
        have waited."""
        return self._parts(job.record)[job.sent]

    async def expire(self, job: Job) -> bool:
        """End a job that was taken where it is of no use any more; whether it was."""
        if self._context.clock.unix_s() < job.record.expires_s:
            return False
        await self._end(job, "failed", EXPIRED, "failed")
        return True

    async def begin(self, sim: str, job: Job) -> None:
        """The job's next part is about to be given to a SIM's modem; durable when this returns."""
        if not job.id.startswith(ANSWER):
            await self._store(job, sim=sim, is_sending=True)

    async def accepted(self, sim: str, job: Job, reference: int | None) -> None:
        """The network has taken the job's next part; durable when this returns.

        Args:
            reference: the TP-MR; None where the modem didn't tell it, so that its report will be
                nobody's, and nobody is told that the message has arrived.
        """
        self._sims.trust(sim)
        self._figures[sim].count_sent()
        job.sim = sim
        job.sent += 1
        job.attempts = 0
        job.refused_by.clear()
        is_provable, awaited = self._reports.await_report(
            sim, reference, job.id, job.sent, job.record.to, is_provable=job.record.is_provable
        )
        job.record = msgspec.structs.replace(job.record, is_provable=is_provable)
        changes = [self._sims.count_today(sim), *self._sims.keep(job.record.to, sim), *awaited]
        if job.sent == job.parts:
            await self._end(job, "sent", "", "done", changes)
            return
        await self._store(job, *changes)
        self._own[sim].appendleft(job)

    async def refused(self, sim: str, job: Job, error: AtError, *, submitted: bool) -> bool:
        """The modem or the network has refused the job's next part, `submitted` where the modem had
        got it; whether the modem is to be started anew."""
        reason = describe(error)
        kind = verdict(error, submitted=submitted)
        if kind is Verdict.UNKNOWN:
            await self.unknown(sim, job, reason)
            return False
        self._figures[sim].count_failed()
        if kind is Verdict.NEVER:
            await self._end(job, "failed", reason, "failed")
            return False
        rests = kind is Verdict.SIM and self._doubt(
            sim, job, f"{reason}; {advice(error)}", is_certain=is_certain(error)
        )
        # What was found to be the SIM's fault isn't held against the message.
        await self.not_sent(sim, job, reason, counts=not rests)
        return kind is Verdict.START

    async def not_sent(self, sim: str, job: Job, reason: str, *, counts: bool = True) -> None:
        """The job's next part has certainly not been sent, for a reason that may pass."""
        job.attempts += counts
        if job.attempts >= ATTEMPTS_MAXIMUM:
            await self._end(job, "failed", reason, "failed")
            return
        await self._store(job)
        job.refused_by.add(sim)
        if job.sim is not None:
            self._retry(self._own[sim], job)
        elif others := self._sims.able() - job.refused_by:
            self._sims.release(job.record.to)
            job.not_before = 0.0
            other = min(others, key=self._load)
            self._own[other].append(job)
            self._wake([other])
        else:
            self._retry(self._common, job)

    def _retry(self, jobs: deque[Job], job: Job) -> None:
        """All that could have sent it have tried; they try again after a while."""
        pause_s = RETRY_FIRST_S * RETRY_FACTOR ** max(0, job.attempts - 1)
        job.not_before = trio.current_time() + pause_s
        job.refused_by.clear()
        jobs.append(job)
        self._wake(self._idle)

    async def unknown(self, sim: str, job: Job, reason: str) -> None:
        """Nobody has told whether the job's next part was sent: the message is not sent again. It
        counts as sent, for it may cost as much."""
        self._figures[sim].count_unknown()
        # A modem that goes on like this loses one after another.
        self._doubt(sim, job, f"{reason}; check the modem and its SIM's credit", is_certain=False)
        await self._end(job, "unknown", reason, "unknown", [self._sims.count_today(sim)])

    def _doubt(self, sim: str, job: Job, reason: str, *, is_certain: bool) -> bool:
        rests = self._sims.doubt(sim, job.id, reason, is_certain=is_certain)
        if rests:
            self._leave_to_others(sim)
        return rests

    def give_back(self, sim: str, job: Job) -> None:
        """A job that was taken, and for which nothing was done."""
        self._own[sim].appendleft(job)

    async def run(self) -> None:
        """End what has expired, and have others send what a SIM that stays away would have; serves
        until it is cancelled."""
        while True:
            now_s = self._context.clock.unix_s()
            expired = []
            for jobs in (*self._own.values(), self._common):
                stale = [job for job in jobs if job.record.expires_s <= now_s]
                expired += stale
                for job in stale:
                    jobs.remove(job)
            for job in expired:
                await self._end(job, "failed", EXPIRED, "failed")
            for sim in self._own:
                if not self._sims.is_expected(sim):
                    self._leave_to_others(sim)
            self._sims.roll_day()
            await trio.sleep(EXPIRY_INTERVAL_S)

    async def _store(
        self, job: Job, *changes: Change, sim: str = "", is_sending: bool = False
    ) -> None:
        """Store how far the job is, together with other changes; `sim` is the one that sends it
        now."""
        job.record = msgspec.structs.replace(
            job.record, sim=sim or job.sim or "", sent=job.sent, is_sending=is_sending
        )
        stored = Change("out", job.id, msgspec.json.encode(job.record))
        await self._context.spool.change_at_last(stored, *changes)

    async def _end(
        self,
        job: Job,
        status: Status,
        detail: str,
        outcome: Outcome,
        changes: Iterable[Change] = (),
    ) -> None:
        ended = [*changes, Change("out", job.id, None)]
        told: Told | None = None
        if not job.id.startswith(ANSWER):
            told = self._reports.ending(job.id, status, detail, outcome)
            ended.append(told[1])
        if status != "sent":
            # What has arrived of it isn't all of it.
            ended += self._reports.doubt(job.id)
            log_event(_log, logging.WARNING, "an SMS was not sent", state=status, reason=detail)
        await self._context.spool.change_at_last(*ended)
        if told:
            self._reports.tell(told)
        del self._jobs[job.id]

    def _wake(self, sims: Iterable[str]) -> None:
        for sim in list(sims):
            if (event := self._idle.get(sim)) is not None:
                event.set()
