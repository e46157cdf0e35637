"""Joins sessions to the ledger: who pays, what was relayed, who has to stop.

Once a second the workers' counters go to the ledger, which charges them in one durable record and
says how far each session may go on. A worker stops a session by itself when its grant is used up;
what is left to do here is to end its allocations, and to say why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from billing.accounts import (
    FIRST_USER_ACCOUNT,
    SYSTEM_ACCOUNTS,
    AddressError,
    account_number_untrusted,
    normalise_address_untrusted,
)
from billing.book import CLOSED, FROZEN
from billing.charging import Charging
from billing.ledger import LmdbLedger
from billing.tariff import Line
from core.clock import Clock
from core.errors import OperationError
from core.units import NS_PER_S
from relay.dataplane.interface import UNLIMITED_SECONDS, DataPlane, RelayUnavailable
from relay.log import log_event

BEFORE_SECOND_NS = 100_000_000
"""A tick comes so long before the end of a second: it sees nearly all of that second."""
NO_MONEY = "no balance"
ACCOUNT_FROZEN = "account frozen"
ACCOUNT_CLOSED = "account closed"
FINISH_S = 1.0
"""How long a stop waits for the workers to let go of what was closed."""
_ENDED = np.dtype([("slot", "<u4"), ("seconds", "<u8"), ("bytes", "<u8")])
_FREE, _UNMETERED = -1, -2
"""In place of a slot of the meter's, of a handle that nobody has, and of one that nobody pays for.
"""
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


class _Session:
    """A session by its name, and the allocations that have joined it.

    Attributes:
        cut, ended: why it was cut and why it ended; empty while it was not, and has not.
    """

    __slots__ = ("begun", "cut", "ended", "handle", "name", "references", "slot")

    def __init__(self, name: str) -> None:
        self.name = name
        self.references = 0
        self.begun = trio.Event()
        self.slot = -1
        self.handle = 0
        self.cut = ""
        self.ended = ""


class Metering:
    """Opens, charges and closes the sessions of one node.

    Args:
        line: the tariff's line for relaying.
        bound: what the configuration names as a payer -> the account's address, or its number.
        unknown_is_free: whether those whose account is not there need not pay.
        collect: has the engine hand over what it has closed, see `collect_ended`.
        stop: ends every allocation of sessions; is given their names and the reason.
    """

    def __init__(
        self,
        ledger: LmdbLedger,
        charging: Charging,
        data_plane: DataPlane,
        clock: Clock,
        line: Line,
        *,
        bound: Mapping[str, str],
        unknown_is_free: bool,
        collect: Callable[[], None],
        stop: Callable[[AbstractSet[str], str], None],
    ) -> None:
        self._ledger = ledger
        self._charging = charging
        self._data_plane = data_plane
        self._clock = clock
        self._line = line
        self.bound = bound
        self._unknown_is_free = unknown_is_free
        self._collect = collect
        self._stop = stop
        self._sessions: dict[str, _Session] = {}
        self._by_slot: dict[int, _Session] = {}
        self._joined: dict[int, _Session] = {}
        self._never_relayed: list[_Session] = []
        self._ended: list[NDArray[np.void]] = []
        # By the engine's handle: the meter's slot, and the bytes of flows that were closed.
        self._slot_of = np.full(1024, _FREE, np.int64)
        self._closed_bytes = np.zeros(1024, np.uint64)
        # By the meter's slot: the engine's handle, 0 for none that can be granted anything.
        self._handle_of = np.zeros(1024, np.uint32)

    def __len__(self) -> int:
        return len(self._sessions)

    async def join(self, allocation: int, name: str, payer: str | None) -> int:
        """Have an allocation join its session, which is begun with the first; returns 0, or the
        STUN error code that tells why nobody pays."""
        session = self._sessions.get(name)
        while session is not None and not session.begun.is_set():
            await session.begun.wait()
            session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = _Session(name)
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
        session.references += 1
        self._joined[allocation] = session
        return 0

    async def _begin(self, session: _Session, payer: str | None) -> int:
        """Find who pays and hold the first seconds; a STUN error code where that fails."""
        if payer is None:
            # A call is paid by the call.
            return 0
        try:
            account = self._find(payer)
            if account is None:
                # Who was bound to an account by the operator was not meant to be free.
                if self._unknown_is_free and payer not in self.bound:
                    return 0
                log_event(_log, logging.INFO, "refused: there is no such account", account=payer)
                return 403
            if account < FIRST_USER_ACCOUNT or account == self._line.into:
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
            log_event(_log, logging.INFO, _REFUSED[self._why_unpaid(account)], account=payer)
            return 403
        session.slot = opened.info.slot
        self._by_slot[session.slot] = session
        return 0

    def _find(self, payer: str) -> int | None:
        """The account of who pays.

        Raises:
            OperationError: the ledger can't be read.
        """
        account = self._ledger.find(self.bound.get(payer) or payer_address_untrusted(payer))
        # Addresses move when accounts are merged; a number stays with the one that has gone.
        return None if account is None else self._ledger.heir(account)

    def _flags(self, account: int) -> int:
        return int(self._ledger.book.columns["flags"][account])

    def _why_unpaid(self, account: int) -> str:
        """Why nothing more leaves an account."""
        flags = self._flags(account)
        if flags & CLOSED:
            return ACCOUNT_CLOSED
        return ACCOUNT_FROZEN if flags & FROZEN else NO_MONEY

    def _pays(self, slot: int) -> int:
        """The account that pays for a session now: one that is merged passes its sessions on."""
        return int(self._ledger.meter.columns["account"][slot])

    def enter(self, allocation: int, name: str) -> int:
        """The engine's handle of the session that an allocation has joined.

        Raises:
            RelayUnavailable: no slot is left, or the session was cut meanwhile.
        """
        session = self._joined[allocation]
        assert session.name == name
        if session.cut:
            raise RelayUnavailable(session.cut)
        if not session.handle:
            granted_s = UNLIMITED_SECONDS
            if session.slot >= 0:
                granted_s = self._charging.granted(session.slot)
            session.handle = self._data_plane.open_session(granted_s)
            self._reserve(np.array([session.handle], np.uint32))
            if self._slot_of[session.handle] != _FREE:
                # The engine has used a handle again whose last counters are still with it.
                self._collect()
            assert self._slot_of[session.handle] == _FREE
            self._slot_of[session.handle] = session.slot if session.slot >= 0 else _UNMETERED
            if session.slot >= 0:
                if session.slot >= len(self._handle_of):
                    more = np.zeros(max(session.slot, len(self._handle_of)), np.uint32)
                    self._handle_of = np.concatenate([self._handle_of, more])
                self._handle_of[session.slot] = session.handle
        return session.handle

    def leave(self, allocation: int, reason: str) -> None:
        """An allocation has left its session; the last one ends it."""
        session = self._joined.pop(allocation)
        session.references -= 1
        if session.references:
            return
        del self._sessions[session.name]
        session.ended = reason
        if session.handle:
            self._data_plane.close_session(session.handle)
            if session.slot >= 0:
                self._handle_of[session.slot] = 0
        elif session.slot >= 0:
            self._never_relayed.append(session)

    def collect_ended(self, flows: NDArray[Any], sessions: NDArray[Any]) -> None:
        """The last counters of what the engine has closed, each once. It may use their handles for
        others from here on."""
        self._weigh(flows)
        handles = sessions["session"]
        self._reserve(handles)
        slots = self._slot_of[handles]
        metered = slots >= 0
        rows = np.zeros(np.count_nonzero(metered), _ENDED)
        rows["slot"] = slots[metered]
        rows["seconds"] = sessions["active_seconds"][metered]
        rows["bytes"] = self._closed_bytes[handles[metered]]
        self._slot_of[handles] = _FREE
        self._closed_bytes[handles] = 0
        if len(rows):
            self._ended.append(rows)

    def _weigh(self, flows: NDArray[Any]) -> None:
        """Add up what flows that were closed have relayed, by session."""
        self._reserve(flows["session"])
        np.add.at(self._closed_bytes, flows["session"], _relayed(flows))

    def _reserve(self, handles: NDArray[np.uint32]) -> None:
        """Have room for these handles."""
        size = len(self._slot_of)
        highest = int(handles.max(initial=0))
        if highest >= size:
            more = max(highest + 1 - size, size)
            self._slot_of = np.concatenate([self._slot_of, np.full(more, _FREE, np.int64)])
            self._closed_bytes = np.concatenate([self._closed_bytes, np.zeros(more, np.uint64)])

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
            self.leave(allocation, "the node stops")
        self._collect()
        # Those whose allocations are still open: what they have counted until now is the last.
        self.collect_ended(self._data_plane.flow_counters(), self._data_plane.session_counters())
        with trio.move_on_after(FINISH_S):
            while sum(map(len, self._ended)) + len(self._never_relayed) < len(self._by_slot):
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
        living = self._data_plane.session_counters()
        flows = self._data_plane.flow_counters()
        self._reserve(living["session"])
        slots = self._slot_of[living["session"]]
        living, slots = living[slots >= 0], slots[slots >= 0]
        relayed = self._closed_bytes.copy()
        np.add.at(relayed, flows["session"], _relayed(flows))
        batches = len(self._ended)
        ended = np.concatenate([np.zeros(0, _ENDED), *self._ended])
        never = self._never_relayed[:]
        closing = {slot: self._by_slot[slot] for slot in ended["slot"].tolist()}
        closing.update({session.slot: session for session in never})
        verdicts = await self._charging.tick(
            np.concatenate([slots.astype(np.uint32), ended["slot"]]),
            np.concatenate([living["active_seconds"], ended["seconds"]]),
            np.concatenate([relayed[living["session"]], ended["bytes"]]),
            {slot: session.ended for slot, session in closing.items()},
        )
        # More may have ended while this was stored.
        del self._ended[:batches]
        del self._never_relayed[: len(never)]
        for slot, session in closing.items():
            # The slot was free from the commit on: somebody who has waited for it may have it.
            if self._by_slot[slot] is session:
                del self._by_slot[slot]
        # What is said of the slots of those that were closed is not for who has them now.
        closed = np.fromiter(closing, np.uint32, len(closing))
        granted_slots, granted_s = verdicts.granted
        is_living = ~np.isin(granted_slots, closed)
        self._grant(granted_slots[is_living], granted_s[is_living])
        for slot in np.setdiff1d(verdicts.warned, closed).tolist():
            log_event(
                _log, logging.INFO, "a session holds its last seconds", account=self._pays(slot)
            )
        return [
            (self._by_slot[slot], self._why_unpaid(self._pays(slot)))
            for slot in np.setdiff1d(verdicts.stopped, closed).tolist()
        ]

    def _grant(self, slots: NDArray[np.uint32], seconds: NDArray[np.uint32]) -> None:
        slots, seconds = slots[slots < len(self._handle_of)], seconds[slots < len(self._handle_of)]
        handles = self._handle_of[slots]
        known = handles != 0
        granted = seconds[known].astype(np.uint64)
        self._data_plane.grant_sessions(handles[known], granted)

    def _stop_all(self, stopping: Sequence[tuple[_Session, str]]) -> None:
        """Cut sessions, those that have not ended by themselves meanwhile."""
        names: dict[str, set[str]] = {}
        for session, reason in stopping:
            if session.ended:
                continue
            session.cut = reason
            log_event(_log, logging.WARNING, _CUT[reason], account=self._pays(session.slot))
            names.setdefault(reason, set()).add(session.name)
        for reason, together in names.items():
            # Together: each call looks at every allocation of the node.
            self._stop(together, reason)


def _tell_failure(event: str, error: Exception, *, is_repeated: bool) -> None:
    """Log why a tick has failed; what nobody has foreseen, with its traceback the first time."""
    if isinstance(error, OperationError):
        log_event(_log, logging.ERROR, event, reason=error)
    elif is_repeated:
        log_event(_log, logging.ERROR, event, reason=repr(error))
    else:
        _log.error("%s", event, exc_info=error)


def payer_address_untrusted(payer: str) -> str:
    """The address of who pays: what is named, where it is a user's address, else a user's name."""
    try:
        address = normalise_address_untrusted(payer)
    except AddressError:
        return f"user:{payer}"
    return f"user:{payer}" if address in SYSTEM_ACCOUNTS else address


def bound_payers(payers: Iterable[str], ledger: LmdbLedger) -> dict[str, str]:
    """The accounts that a configuration binds secrets and users to; says which are not there."""
    bound = {}
    for payer in payers:
        is_number = account_number_untrusted(payer) is not None
        bound[payer] = payer if is_number else payer_address_untrusted(payer)
        if ledger.find(bound[payer]) is None:
            log_event(
                _log,
                logging.WARNING,
                "a secret or a user is bound to an account that is not there: nobody can use it",
                account=payer,
            )
    return bound


def _relayed(flows: NDArray[Any]) -> NDArray[np.uint64]:
    """The bytes that flows have relayed, either way."""
    relayed: NDArray[np.uint64] = flows["bytes_to_peer"] + flows["bytes_to_client"]
    return relayed
