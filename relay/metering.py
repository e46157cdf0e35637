"""Joins sessions to the ledger: who pays, what was relayed, who has to stop.

Once a second the workers' counters go to the ledger, which charges them in one durable record and
says how far each session may go on. A worker stops a session by itself when its grant is used up;
what is left to do here is to end its allocations, and to say why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from billing.accounts import AddressError, normalise_address_untrusted
from billing.charging import Charging, Verdicts
from billing.ledger import LmdbLedger
from billing.tariff import Line
from core.clock import Clock
from core.errors import OperationError
from core.units import NS_PER_S
from relay.dataplane.interface import DataPlane
from relay.log import log_event

BEFORE_SECOND_NS = 100_000_000
"""A tick comes so long before the end of a second: it sees nearly all of that second."""
NO_MONEY = "no balance"
CALL_PREFIX = "CALL-"

_log = logging.getLogger("montana.metering")


class _Session:
    """A session by its name, and the allocations that have joined it."""

    __slots__ = ("account", "begun", "ended", "handle", "name", "references", "slot")

    def __init__(self, name: str) -> None:
        self.name = name
        self.references = 0
        self.begun = trio.Event()
        self.account = 0
        self.slot = -1
        self.handle = 0
        self.ended = ""


class Metering:
    """Opens, charges and closes the sessions of one node.

    Args:
        line: the tariff's line for relaying.
        unknown_is_free: whether those whose account is not there need not pay.
        stop: ends every allocation of a session; is given its name and the reason.
    """

    def __init__(
        self,
        ledger: LmdbLedger,
        charging: Charging,
        data_plane: DataPlane,
        clock: Clock,
        line: Line,
        *,
        unknown_is_free: bool,
        stop: Callable[[str, str], None],
    ) -> None:
        self._ledger = ledger
        self._charging = charging
        self._data_plane = data_plane
        self._clock = clock
        self._line = line
        self._unknown_is_free = unknown_is_free
        self._stop = stop
        self._sessions: dict[str, _Session] = {}
        self._by_slot: dict[int, _Session] = {}
        self._by_handle: dict[int, _Session] = {}
        self._joined: dict[int, _Session] = {}
        self._never_relayed: list[_Session] = []
        self._ended_seconds: dict[int, int] = {}
        self._ended_bytes: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    async def join(self, allocation: int, name: str, payer: str) -> int:
        """Have an allocation join its session, which is begun with the first; returns 0, or the
        STUN error code that tells why nobody pays."""
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = _Session(name)
            session.references += 1
            try:
                code = await self._begin(session, payer)
            finally:
                session.begun.set()
                session.references -= 1
        else:
            session.references += 1
            await session.begun.wait()
            session.references -= 1
            code = 0 if self._sessions.get(name) is session else 403
        if code:
            if self._sessions.get(name) is session:
                del self._sessions[name]
            return code
        session.references += 1
        self._joined[allocation] = session
        return 0

    async def _begin(self, session: _Session, payer: str) -> int:
        """Find who pays and hold the first seconds; a STUN error code where that fails."""
        if session.name.startswith(CALL_PREFIX):
            # A call is paid by the call.
            return 0
        account = self._ledger.find(payer_address_untrusted(payer))
        if account is None:
            if self._unknown_is_free:
                return 0
            log_event(_log, logging.INFO, "refused: there is no such account", account=payer)
            return 403
        try:
            opened = await self._charging.open(session.name, self._line, account)
        except OperationError as error:
            log_event(_log, logging.ERROR, "refused: nothing can be stored", reason=error)
            return 508
        if opened is None:
            log_event(_log, logging.INFO, "refused: no balance for a second", account=payer)
            return 403
        session.account = account
        session.slot = opened.info.slot
        self._by_slot[session.slot] = session
        return 0

    def enter(self, allocation: int, name: str) -> int:
        """The engine's handle of the session that an allocation has joined.

        Raises:
            RelayUnavailable: no slot is left.
        """
        session = self._joined[allocation]
        assert session.name == name
        if not session.handle:
            if session.slot < 0:
                session.handle = self._data_plane.open_session()
            else:
                granted_s = self._charging.granted(session.slot)
                session.handle = self._data_plane.open_session(granted_s)
                self._by_handle[session.handle] = session
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
        elif session.slot >= 0:
            self._never_relayed.append(session)

    def collect_ended(self, flows: NDArray[Any], sessions: NDArray[Any]) -> None:
        """The last counters of what the engine has closed, each once."""
        for handle, relayed in zip(*_bytes_by_session(flows), strict=True):
            if handle in self._by_handle:
                self._ended_bytes[handle] = self._ended_bytes.get(handle, 0) + relayed
        for handle, seconds in zip(
            sessions["session"].tolist(), sessions["active_seconds"].tolist(), strict=True
        ):
            if handle in self._by_handle:
                self._ended_seconds[handle] = seconds

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            now_ns = self._clock.monotonic_ns()
            next_ns = -(-(now_ns + BEFORE_SECOND_NS + 1) // NS_PER_S) * NS_PER_S
            await trio.sleep((next_ns - BEFORE_SECOND_NS - now_ns) / NS_PER_S)
            try:
                verdicts = await self.tick()
            except OperationError as error:
                # Nobody is cut for it: what can't be charged now is charged when it can be.
                log_event(_log, logging.ERROR, "this second is not charged yet", reason=error)
                continue
            stopping = [self._by_slot[slot] for slot in verdicts.stopped.tolist()]
            if stopping:
                # They have paid for this second: it is theirs to its end.
                now_ns = self._clock.monotonic_ns()
                await trio.sleep(max(0, next_ns - now_ns) / NS_PER_S)
                self._stop_all(stopping)

    async def finish(self) -> None:
        """Charge the last seconds and close every session: the node stops."""
        for allocation in list(self._joined):
            self.leave(allocation, "the node stops")
        for session in self._by_handle.values():
            # The engine stands still: what it counts now is the last.
            session.ended = session.ended or "the node stops"
        counters = self._data_plane.session_counters()
        for handle, seconds in zip(
            counters["session"].tolist(), counters["active_seconds"].tolist(), strict=True
        ):
            if handle in self._by_handle:
                self._ended_seconds.setdefault(handle, seconds)
        try:
            await self.tick()
        except OperationError as error:
            log_event(_log, logging.ERROR, "the last seconds are not charged", reason=error)

    async def tick(self) -> Verdicts:
        """Charge what was relayed since the last tick, and grant what follows.

        Raises:
            OperationError: it can't be stored.
        """
        living = self._data_plane.session_counters()
        seconds = dict(
            zip(living["session"].tolist(), living["active_seconds"].tolist(), strict=True)
        )
        relayed = dict(zip(*_bytes_by_session(self._data_plane.flow_counters()), strict=True))
        ended = dict(self._ended_seconds)
        never, self._never_relayed = self._never_relayed, []
        slots, counted, weighed = [], [], []
        closing = {session.slot: session.ended for session in never}
        for handle, session in self._by_handle.items():
            if handle in ended:
                closing[session.slot] = session.ended
            elif handle not in seconds:
                # Closed, and its last counters are not in yet.
                continue
            slots.append(session.slot)
            counted.append(ended.get(handle, seconds.get(handle, 0)))
            weighed.append(self._ended_bytes.get(handle, 0) + relayed.get(handle, 0))
        try:
            verdicts = await self._charging.tick(
                np.array(slots, np.uint32),
                np.array(counted, np.uint64),
                np.array(weighed, np.uint64),
                closing,
            )
        except BaseException:
            self._never_relayed += never
            raise
        for slot in closing:
            session = self._by_slot.pop(slot)
            if session.handle:
                del self._by_handle[session.handle]
                self._ended_seconds.pop(session.handle, None)
                self._ended_bytes.pop(session.handle, None)
        self._carry_out(verdicts)
        return verdicts

    def _carry_out(self, verdicts: Verdicts) -> None:
        for slot, granted_s in zip(
            verdicts.granted[0].tolist(), verdicts.granted[1].tolist(), strict=True
        ):
            session = self._by_slot.get(slot)
            if session is not None and session.handle and not session.ended:
                self._data_plane.grant_session(session.handle, granted_s)
        for slot in verdicts.warned.tolist():
            session = self._by_slot.get(slot)
            if session is not None:
                log_event(
                    _log, logging.INFO, "a session holds its last seconds", account=session.account
                )

    def _stop_all(self, sessions: list[_Session]) -> None:
        for session in sessions:
            if session.ended:
                continue
            log_event(
                _log,
                logging.WARNING,
                "a session was cut: its account has no balance for another second",
                account=session.account,
            )
            self._stop(session.name, NO_MONEY)


def payer_address_untrusted(payer: str) -> str:
    """The address of who pays: what is named, where it is an address, else a user's name."""
    try:
        return normalise_address_untrusted(payer)
    except AddressError:
        return f"user:{payer}"


def _bytes_by_session(flows: NDArray[Any]) -> tuple[list[int], list[int]]:
    """Session handles, and the bytes that their flows have relayed either way."""
    if not len(flows):
        return [], []
    handles, index = np.unique(flows["session"], return_inverse=True)
    relayed = flows["bytes_to_peer"] + flows["bytes_to_client"]
    sums = np.zeros(len(handles), np.uint64)
    np.add.at(sums, index, relayed)
    return handles.tolist(), sums.tolist()
