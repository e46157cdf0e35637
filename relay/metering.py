"""Joins sessions to the ledger: who pays, what was relayed, who has to stop.

Once a second the workers' counters go to the ledger, which charges them in one durable record and
says how far each session may go on. A worker stops a session by itself when its grant is used up;
what is left to do here is to end its allocations, and to say why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np
import trio
from numpy.typing import NDArray

from billing.charging import Charging
from billing.journal import CallRecord
from billing.ledger import LmdbLedger
from billing.tariff import Line
from core.clock import Clock
from core.errors import OperationError
from core.log import log_event
from core.units import NS_PER_S
from relay.dataplane.interface import UNLIMITED_SECONDS, DataPlane, RelayUnavailable
from relay.payers import ACCOUNT_CLOSED, ACCOUNT_FROZEN, NO_MONEY, Payers, may_pay
from relay.session_counters import COUNTED, SessionCounters

BEFORE_SECOND_NS = 100_000_000
"""A tick comes so long before the end of a second: it sees nearly all of that second."""
NODE_STOPS = "the node stops"
CLOSE_S = 2.0
"""How long it is left to the regular tick to charge the last seconds of a call."""
FINISH_S = 1.0
"""How long a stop waits for the workers to let go of what was closed."""
_REFUSED = {
    NO_MONEY: "refused: no balance for a second",
    ACCOUNT_FROZEN: "refused: the account is frozen",
    ACCOUNT_CLOSED: "refused: the account is closed",
}
_CUT = {
    NO_MONEY: "a session was cut: its account has no balance for another second",
    ACCOUNT_FROZEN: "a session was cut: its account is frozen",
    ACCOUNT_CLOSED: "a session was cut: its account is closed",
}

_log = logging.getLogger("montana.metering")


class CallFigures(NamedTuple):
    """What a call has come to until now.

    Attributes:
        seconds: that were charged.
        cost: micro-J.
        left: micro-J that its payer has for it: what the call holds, and what nobody does.
    """

    seconds: int
    cost: int
    left: int


class _Session:
    """A session by its name, and the allocations that have joined it.

    Attributes:
        begun: until it has begun or been refused, where somebody has to be asked.
        cut, ended: why it was cut and why it ended; empty while it was not, and has not.
    """

    __slots__ = ("begun", "cut", "ended", "handle", "name", "rate_bytes_s", "references", "slot")

    def __init__(self, name: str) -> None:
        self.name = name
        self.references = 0
        self.begun: trio.Event | None = None
        self.slot = -1
        self.handle = 0
        self.rate_bytes_s = 0
        self.cut = ""
        self.ended = ""


class _Call(_Session):
    """The session of a call or room, which is a reference of its own until it is closed.

    Attributes:
        line: what it costs now; None where nobody pays.
        relayed: whether what it costs is what its allocations relay.
        started_ns: when counting began; None before.
        changed_ns: when it became of another kind last.
        changing: held while it does.
        records: what it has come to, once it is `closed`.
    """

    __slots__ = (
        "changed_ns",
        "changing",
        "closed",
        "line",
        "records",
        "relayed",
        "started_ns",
    )

    def __init__(self, name: str, line: Line | None, relayed: bool, rate_bytes_s: int) -> None:
        super().__init__(name)
        self.references = 1
        self.rate_bytes_s = rate_bytes_s
        self.line = line
        self.relayed = relayed
        self.started_ns: int | None = None
        self.changed_ns: int | None = None
        self.changing = trio.Lock()
        self.closed = trio.Event()
        self.records: tuple[CallRecord, ...] = ()


class Metering:
    """Opens, charges and closes the sessions of one node.

    Args:
        line: the tariff's line for relaying; None where only calls are paid for.
        collect: has the engine hand over what it has closed, see `collect_ended`.
        stop: ends every allocation of sessions; is given their names and the reason.

    Attributes:
        on_call_cut: is told the name of a call that was stopped, and why: no more can be paid for
            it. It stays until it is closed.
    """

    def __init__(
        self,
        ledger: LmdbLedger,
        charging: Charging,
        data_plane: DataPlane,
        clock: Clock,
        line: Line | None,
        payers: Payers,
        *,
        collect: Callable[[], None],
        stop: Callable[[AbstractSet[str], str], None],
    ) -> None:
        self._ledger = ledger
        self._charging = charging
        self._data_plane = data_plane
        self._clock = clock
        self._line = line
        self._payers = payers
        self._collect = collect
        self._stop = stop
        self.on_call_cut: Callable[[str, str], None] = lambda _name, _reason: None
        self._sessions: dict[str, _Session] = {}
        self._calls: dict[str, _Call] = {}
        self._by_slot: dict[int, _Session] = {}
        self._joined: dict[int, _Session] = {}
        # By slot: calls whose seconds are told, and those seconds.
        self._told_s: dict[int, int] = {}
        self._ended: list[NDArray[np.void]] = []
        self._ticking = trio.Lock()
        self._counters = SessionCounters(data_plane, clock)

    def __len__(self) -> int:
        return len(self._sessions) + len(self._calls)

    async def join(self, allocation: int, name: str, payer: str | None) -> int:
        """Have an allocation join its session, which is begun with the first; returns 0, or the
        STUN error code that tells why nobody pays. `payer` is None for a call, which has to be
        open."""
        if payer is None:
            call = self._calls.get(name)
            if call is None or call.cut or call.ended:
                return 403
            self._add(allocation, call)
            return 0
        session = self._sessions.get(name)
        while session is not None and session.begun is not None and not session.begun.is_set():
            await session.begun.wait()
            session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = _Session(name)
            session.begun = trio.Event()
            code = 403
            try:
                code = await self._begin(session, payer)
            finally:
                session.begun.set()
                if code:
                    del self._sessions[name]
            if code:
                return code
        elif session.cut:
            return 403
        self._add(allocation, session)
        return 0

    def _add(self, allocation: int, session: _Session) -> None:
        session.references += 1
        self._joined[allocation] = session

    async def _begin(self, session: _Session, payer: str) -> int:
        """Find who pays and hold the first seconds; a STUN error code where that fails."""
        assert self._line is not None
        try:
            account = self._payers.find(payer)
            if account is None:
                if self._payers.need_not_pay(payer):
                    return 0
                log_event(_log, logging.INFO, "refused: there is no such account", account=payer)
                return 403
            if not may_pay(account, self._line):
                log_event(_log, logging.WARNING, "refused: this account can't pay", account=payer)
                return 403
            opened = await self._charging.open(session.name, self._line, account)
        except Exception as error:
            # A damaged page or row, a full disk. Who pays can't be told, so nothing is relayed;
            # what runs already is not to end with it.
            reason = error if isinstance(error, OperationError) else repr(error)
            log_event(_log, logging.ERROR, "refused: no session can be opened", reason=reason)
            return 508
        if opened is None:
            log_event(_log, logging.INFO, _REFUSED[self._payers.why_unpaid(account)], account=payer)
            return 403
        session.slot = opened.info.slot
        self._by_slot[session.slot] = session
        return 0

    def _pays(self, slot: int) -> int:
        """The account that pays for a session now: one that is merged passes its sessions on."""
        return int(self._ledger.meter.columns["account"][slot])

    def enter(self, allocation: int, name: str) -> int:
        """The engine's handle of the session that an allocation has joined. Where nobody pays for
        relaying, one that is for no call joins now.

        Raises:
            RelayUnavailable: no slot is left, or the session was cut or closed meanwhile.
        """
        session = self._joined.get(allocation)
        if session is None:
            assert self._line is None
            session = self._sessions.get(name)
            if session is None:
                session = self._sessions[name] = _Session(name)
            self._add(allocation, session)
        assert session.name == name
        if session.cut or session.ended:
            raise RelayUnavailable(session.cut or session.ended)
        if not session.handle:
            self._open_in_engine(session)
        return session.handle

    def _open_in_engine(self, session: _Session) -> None:
        """Have the engine count a session.

        Raises:
            RelayUnavailable: no slot is left.
        """
        granted_s = UNLIMITED_SECONDS
        if session.slot >= 0:
            granted_s = self._charging.granted(session.slot)
        session.handle = self._data_plane.open_session(granted_s)
        if self._counters.is_taken(session.handle):
            # The engine has used a handle again whose last counters are still with it.
            self._collect()
        self._counters.enter(session.handle, session.slot)
        if isinstance(session, _Call):
            self._counters.activity.begin(session.handle, session.started_ns)

    def opened(self, allocation: int, account: str, handle: int) -> None:
        """An allocation that has entered its session is there: whose it is, and its handle in the
        engine."""
        session = self._joined[allocation]
        if isinstance(session, _Call):
            self._counters.activity.assign(handle, hash((session.name, account)))

    def rate_bytes_s(self, allocation: int) -> int:
        """The limit that an allocation's session sets it, 0 for none."""
        return self._joined[allocation].rate_bytes_s

    def leave(self, allocation: int, reason: str) -> None:
        """An allocation has left its session; the last one ends it."""
        self._release(self._joined.pop(allocation), reason)

    def _release(self, session: _Session, reason: str) -> None:
        session.references -= 1
        if session.references:
            return
        if not isinstance(session, _Call):
            del self._sessions[session.name]
        # A call was given its reason when it was closed.
        session.ended = session.ended or reason
        if session.handle:
            self._data_plane.close_session(session.handle)
            if session.slot >= 0:
                self._counters.leave(session.slot)
        elif session.slot >= 0:
            told_s = self._told_s.get(session.slot, 0)
            self._ended.append(np.array([(session.slot, told_s, 0)], COUNTED))
        if isinstance(session, _Call) and session.slot < 0:
            self._forget(session, ())

    def collect_ended(self, flows: NDArray[Any], sessions: NDArray[Any]) -> None:
        """The last counters of what the engine has closed, each once. It may use their handles for
        others from here on."""
        rows = self._counters.take_closed(flows, sessions)
        if len(rows):
            self._at_least_told(rows["slot"], rows["seconds"])
            self._ended.append(rows)

    def _at_least_told(self, slots: NDArray[Any], seconds: NDArray[np.uint64]) -> None:
        """Have sessions whose seconds are told charged for these, whatever the workers say: what
        is relayed of a direct call is no dearer, and not for nothing either."""
        if self._told_s:
            told = [self._told_s.get(slot, 0) for slot in slots.tolist()]
            np.maximum(seconds, np.array(told, np.uint64), out=seconds)

    async def run(self) -> None:
        """Tick until cancelled."""
        has_failed = False
        while True:
            now_ns = self._clock.monotonic_ns()
            next_ns = -(-(now_ns + BEFORE_SECOND_NS + 1) // NS_PER_S) * NS_PER_S
            await trio.sleep((next_ns - BEFORE_SECOND_NS - now_ns) / NS_PER_S)
            try:
                stopping = await self.tick()
            except Exception as error:
                # Full disk, damaged row, a mistake of ours: nobody is cut for it, and the next
                # tick charges for what this one could not. The node goes on: a worker stops a
                # session at the end of the seconds that it holds, and no tick that fails renews
                # them. What has a price by the megabyte alone holds none, and is charged later.
                _tell_failure("this second is not charged yet", error, is_repeated=has_failed)
                has_failed = True
                continue
            has_failed = False
            if stopping:
                # They have paid for this second: it is theirs to its end.
                now_ns = self._clock.monotonic_ns()
                await trio.sleep(max(0, next_ns - now_ns) / NS_PER_S)
                self._stop_all(stopping)

    async def finish(self) -> None:
        """Charge the last seconds and close every session: the node stops."""
        for allocation in list(self._joined):
            self.leave(allocation, NODE_STOPS)
        for call in list(self._calls.values()):
            if not call.ended:
                call.ended = NODE_STOPS
                self._release(call, NODE_STOPS)
        self._collect()
        # Those whose allocations are still open: what they have counted until now is the last.
        self.collect_ended(self._data_plane.flow_counters(), self._data_plane.session_counters())
        with trio.move_on_after(FINISH_S):
            while sum(map(len, self._ended)) < len(self._by_slot):
                # A worker may be in the midst of what was closed just now.
                await trio.sleep(FINISH_S / 100)
                self._collect()
        try:
            await self.tick()
        except Exception as error:
            # The next start closes the sessions by what was charged until now.
            _tell_failure("the last seconds are not charged", error, is_repeated=False)

    async def tick(self) -> list[tuple[_Session, str]]:
        """Charge what was relayed since the last tick, and grant what follows.

        Returns:
            the sessions that have to stop, and why.

        Raises:
            OperationError: it can't be stored; what was relayed is charged by the next tick.
        """
        async with self._ticking:
            return await self._tick()

    async def _tick(self) -> list[tuple[_Session, str]]:
        if not (self._by_slot or self._calls):
            return []
        living = self._counters.read()
        if not self._by_slot:
            return []
        self._at_least_told(living.slots, living.seconds)
        batches = len(self._ended)
        ended = np.concatenate([np.zeros(0, COUNTED), *self._ended])
        told = self._told_alone()
        closing = {slot: self._by_slot[slot] for slot in ended["slot"].tolist()}
        verdicts = await self._charging.tick(
            np.concatenate([living.slots.astype(np.uint32), told["slot"], ended["slot"]]),
            np.concatenate([living.seconds, told["seconds"], ended["seconds"]]),
            np.concatenate([living.bytes, told["bytes"], ended["bytes"]]),
            {slot: session.ended for slot, session in closing.items()},
        )
        # More may have ended while this was stored.
        del self._ended[:batches]
        for slot, session in closing.items():
            # The slot was free from the commit on: somebody who has waited for it may have it.
            if self._by_slot[slot] is session:
                del self._by_slot[slot]
                self._told_s.pop(slot, None)
            if isinstance(session, _Call):
                self._forget(session, verdicts.records.get(slot, ()))
        # What is said of the slots of those that were closed is not for who has them now.
        closed = np.fromiter(closing, np.uint32, len(closing))
        granted_slots, granted_s = verdicts.granted
        is_living = ~np.isin(granted_slots, closed)
        self._counters.grant(granted_slots[is_living], granted_s[is_living])
        # What was free is granted once more.
        freed = np.setdiff1d(self._counters.freed(living), closed)
        self._counters.grant(freed, self._ledger.meter.columns["granted"][freed])
        for slot in np.setdiff1d(verdicts.warned, closed).tolist():
            log_event(
                _log, logging.INFO, "a session holds its last seconds", account=self._pays(slot)
            )
        return [
            (self._by_slot[slot], self._payers.why_unpaid(self._pays(slot)))
            for slot in np.setdiff1d(verdicts.stopped, closed).tolist()
        ]

    def _told_alone(self) -> NDArray[np.void]:
        """Slots, seconds and bytes of living calls of which no worker counts anything."""
        rows = [
            (slot, seconds, 0)
            for slot, seconds in self._told_s.items()
            if not (self._by_slot[slot].handle or self._by_slot[slot].ended)
        ]
        return np.array(rows, COUNTED)

    def _stop_all(self, stopping: Sequence[tuple[_Session, str]]) -> None:
        """Cut sessions, those that have not ended or been cut meanwhile."""
        names: dict[str, set[str]] = {}
        cut: list[_Call] = []
        for session, reason in stopping:
            if session.ended or session.cut:
                continue
            session.cut = reason
            log_event(_log, logging.WARNING, _CUT[reason], account=self._pays(session.slot))
            names.setdefault(reason, set()).add(session.name)
            if isinstance(session, _Call):
                cut.append(session)
        for reason, together in names.items():
            # Together: each call looks at every allocation of the node.
            self._stop(together, reason)
        for call in cut:
            self.on_call_cut(call.name, call.cut)

    # ------------------------------------------------------------ calls and rooms

    async def open_call(
        self,
        name: str,
        *,
        payer: int | None = None,
        line: Line | None = None,
        relayed: bool = True,
        rate_bytes_s: int = 0,
    ) -> bool:
        """Begin a call's session, which allocations for it may join until it is closed. What they
        relay is free until it is started, and always where there is no payer.

        Args:
            name: CALL-..., of none that is open.
            payer: the number of the account that pays at the prices of `line`; both or neither.
            relayed: whether its seconds are what its allocations relay; else they are told by
                `count_direct`.
            rate_bytes_s: what each of its allocations may carry in each direction; 0 for as much
                as any.

        Returns:
            whether the account can pay for a second of it.

        Raises:
            OperationError: there are too many sessions, or nothing can be stored.
        """
        assert (payer is None) == (line is None)
        assert name not in self._calls
        call = _Call(name, line, relayed, rate_bytes_s)
        if payer is not None and line is not None:
            # Accounts are merged; a number stays with the one that has gone.
            account = self._ledger.heir(payer)
            if not may_pay(account, line):
                log_event(_log, logging.WARNING, "refused: this account can't pay", account=payer)
                return False
            self._ledger.paid_into.add(line.into)
            opened = await self._charging.open(name, line, account, only_if_used=True)
            if opened is None:
                log_event(
                    _log, logging.INFO, _REFUSED[self._payers.why_unpaid(account)], account=payer
                )
                return False
            assert name not in self._calls
            call.slot = opened.info.slot
            self._by_slot[call.slot] = call
            self._told_s.pop(call.slot, None)
            if not relayed:
                self._told_s[call.slot] = 0
        self._calls[name] = call
        return True

    def start_call(self, name: str) -> None:
        """Count from the next second on; nothing where the call was started or has ended."""
        call = self._calls.get(name)
        if call is None or call.started_ns is not None:
            return
        call.started_ns = self._clock.monotonic_ns()
        if call.handle and not call.ended:
            self._counters.activity.start(call.handle, call.started_ns)

    async def change_call(self, name: str, line: Line) -> None:
        """Have a call cost what another line of the tariff says, from the next second on; nothing
        where nobody pays for it, or it has ended. It takes a second since the last time at least,
        so that each of its records has been paid for.

        Raises:
            OperationError: it can't be stored; the call costs what it did.
        """
        call = self._calls.get(name)
        if call is None or call.line is None:
            return
        async with call.changing:
            if line == call.line:
                return
            if call.changed_ns is not None:
                elapsed_ns = self._clock.monotonic_ns() - call.changed_ns
                await trio.sleep(max(0, NS_PER_S - elapsed_ns) / NS_PER_S)
            async with self._ticking:
                if call.ended or call.cut:
                    return
                self._ledger.paid_into.add(line.into)
                await self._charging.change(call.slot, line, *self._counted(call))
                call.line = line
                call.changed_ns = self._clock.monotonic_ns()
                slot = np.array([call.slot], np.uint32)
                self._counters.grant(slot, self._ledger.meter.columns["granted"][slot])

    def _counted(self, call: _Call) -> tuple[int, int]:
        """The seconds and bytes of a living call that count by now."""
        told_s = self._told_s.get(call.slot, 0)
        if not call.handle:
            return told_s, 0
        seconds, counted = self._counters.read_call(call.handle)
        return max(seconds, told_s), counted

    def count_direct(self, name: str, seconds: int) -> None:
        """So many seconds of a call that is not relayed are to be paid for, since it was started;
        the next tick charges them."""
        call = self._calls.get(name)
        if call is None or call.ended or call.slot < 0:
            return
        assert not call.relayed
        # As the workers do: who can't pay for a second whole doesn't have it.
        seconds = min(seconds, int(self._ledger.meter.columns["granted"][call.slot]))
        self._told_s[call.slot] = max(seconds, self._told_s[call.slot])

    def last_both_active_s(self, name: str) -> float | None:
        """When both sides of a relayed call were last found to send media, in seconds of the
        monotonic clock; None where they have not been yet, or it is not open."""
        call = self._calls.get(name)
        if call is None or not call.handle or call.ended:
            return None
        return self._counters.activity.last_both_ns(call.handle) / NS_PER_S or None

    def call_figures(self, name: str) -> CallFigures:
        """What a call has come to; nothing for one that is not open or for which nobody pays."""
        call = self._calls.get(name)
        if call is None or call.slot < 0 or self._by_slot.get(call.slot) is not call:
            return CallFigures(0, 0, 0)
        columns, account = self._ledger.meter.columns, self._pays(call.slot)
        cost = int(columns["cost"][call.slot])
        cost += sum(part.cost for part in self._charging.parts(call.slot))
        left = self._payers.left(account, int(columns["held"][call.slot]))
        return CallFigures(int(columns["seconds"][call.slot]), cost, left)

    async def close_call(self, name: str, reason: str) -> tuple[CallRecord, ...]:
        """End a call with its allocations, and charge its last seconds; nothing for one that is not
        open. It is over with the next tick.

        Returns:
            its records: one for each kind that it has been of, the first one first; none where
            nothing was counted.

        Raises:
            OperationError: they can't be stored; they will be, and to ask again waits for it.
        """
        call = self._calls.get(name)
        if call is None:
            return ()
        if not call.ended:
            call.ended = reason
            self._stop({name}, reason)
            self._release(call, reason)
        while not call.closed.is_set():
            with trio.move_on_after(CLOSE_S):
                await call.closed.wait()
            if not call.closed.is_set():
                # Ticks fail, or there are none any more, since the node is about to stop.
                self._collect()
                self._stop_all(await self.tick())
        return call.records

    def _forget(self, call: _Call, records: tuple[CallRecord, ...]) -> None:
        del self._calls[call.name]
        call.records = records
        call.closed.set()


def _tell_failure(event: str, error: Exception, *, is_repeated: bool) -> None:
    """Log why a tick has failed; what nobody has foreseen, with its traceback the first time."""
    if isinstance(error, OperationError):
        log_event(_log, logging.ERROR, event, reason=error)
    elif is_repeated:
        log_event(_log, logging.ERROR, event, reason=repr(error))
    else:
        _log.error("%s", event, exc_info=error)
