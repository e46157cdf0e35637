"""Joins the sans-I/O TURN server to a data plane, under trio.

Datagrams that the engine's threads don't forward themselves come here, go through the server, and
what it wishes is carried out at once. Nothing here waits but for the engine's descriptor and for
the next deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import trio

from core.clock import Clock
from core.log import log_event
from core.units import NS_PER_S
from relay.dataplane.interface import ControlDatagram, DataPlane, IcmpError, RelayUnavailable
from relay.turn.effects import (
    CloseAllocation,
    CloseRelay,
    Effect,
    InstallChannel,
    InstallPermission,
    JoinSession,
    LeaveSession,
    OpenAllocation,
    OpenRelay,
    RefreshAllocation,
    RelayData,
    RemoveChannel,
    RemovePermission,
    RemoveRelay,
    Reply,
)

if TYPE_CHECKING:
    from relay.turn.server import Server

BATCH = 64
"""Datagrams handled before other tasks get their turn: some 5 ms of ordinary requests."""
GATHER_S = 0.001
"""Under load requests are let gather for so long: waking up costs as much as answering one."""
GATHER_WITHIN_NS = 2_000_000
"""Load is when the next ones come so soon after the last."""
EXPIRE_INTERVAL_S = 1.0
"""How late an entry may be removed. It forwards nothing after its time: the engine sees to that."""

_log = logging.getLogger("montana.turn")


class Sessions(Protocol):
    """Who joins whom, and who pays: `relay.metering.Metering`."""

    def __len__(self) -> int: ...

    async def join(self, allocation: int, name: str, payer: str | None) -> int:
        """Whether `payer`, or the call where there is none, pays for an allocation of the session:
        0, or a STUN error code."""

    def enter(self, allocation: int, name: str) -> int:
        """The engine's handle of an allocation's session. Raises RelayUnavailable."""

    def opened(self, allocation: int, account: str, handle: int) -> None:
        """The allocation, which has entered, is there: whose it is, and the engine's handle."""

    def rate_bytes_s(self, allocation: int) -> int:
        """What the session of an allocation that has entered may carry; 0 for no limit."""

    def leave(self, allocation: int, reason: str) -> None:
        """The allocation has ended, or has not come to be."""


class UdpListener:
    """Drives `server` with what `data_plane` receives.

    Args:
        rate_bytes_s: what each allocation may carry in each direction, if its session allows as
            much; 0 for no limit.

    Attributes:
        sessions: who joins whom, and who pays; to be set before the first datagram.
    """

    sessions: Sessions

    def __init__(
        self, server: Server, data_plane: DataPlane, clock: Clock, *, rate_bytes_s: int
    ) -> None:
        self._nursery: trio.Nursery | None = None
        self._server = server
        self._data_plane = data_plane
        self._clock = clock
        self._rate_bytes_s = rate_bytes_s
        self._relays: dict[int, int] = {}
        self._allocations: dict[int, int] = {}
        self._by_handle: dict[int, int] = {}
        self._emptied = trio.Event()
        self._actions: dict[type[Any], Callable[[Any], None]] = {
            Reply: self._reply,
            OpenRelay: self._open_relay,
            CloseRelay: self._close_relay,
            RemoveRelay: self._remove_relay,
            JoinSession: self._ask_who_pays,
            LeaveSession: self._leave_session,
            OpenAllocation: self._open_allocation,
            RefreshAllocation: self._refresh_allocation,
            CloseAllocation: self._close_allocation,
            InstallPermission: self._install_permission,
            InstallChannel: self._install_channel,
            RemovePermission: self._remove_permission,
            RemoveChannel: self._remove_channel,
            RelayData: self._relay_data,
        }
        self._refused_slots = 0
        self.refused_relays = 0
        """Ports that could not be bound; another is tried then."""
        self._has_logged_refusal = False

    @property
    def allocation_count(self) -> int:
        """Allocations that live now."""
        return len(self._allocations)

    @property
    def session_count(self) -> int:
        """Sessions that live now."""
        return len(self.sessions)

    @property
    def drops(self) -> dict[str, int]:
        """What the server dropped, by cause; `no_slot` is what the engine had no slot for."""
        return {**self._server.drops, "no_slot": self._refused_slots}

    def set_rate(self, rate_bytes_s: int) -> None:
        """Limit what each allocation may carry, those that live included."""
        self._rate_bytes_s = rate_bytes_s
        for allocation, handle in self._allocations.items():
            self._data_plane.set_rate(handle, self._rate_of(allocation))

    def _rate_of(self, allocation: int) -> int:
        """The smaller of the node's limit and of the session's; 0 for none of them."""
        rate_bytes_s = self.sessions.rate_bytes_s(allocation)
        return min(filter(None, (self._rate_bytes_s, rate_bytes_s)), default=0)

    async def run(self) -> None:
        """Serve until cancelled; the engine has been started."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._expire_in_time)
            gather_until_ns = 0
            while True:
                await trio.lowlevel.wait_readable(self._data_plane.control_fd)
                now_ns = self._clock.monotonic_ns()
                if now_ns < gather_until_ns:
                    await trio.sleep(GATHER_S)
                self.handle_batch()
                gather_until_ns = now_ns + GATHER_WITHIN_NS

    async def wait_until_empty(self) -> None:
        """Return when no allocation lives."""
        while self._allocations:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def handle_batch(self) -> None:
        """Take what the engine has for us, `BATCH` things at most, and act on it."""
        now_ns = self._clock.monotonic_ns()
        server = self._server
        deadline_ns = server.next_deadline_ns
        if deadline_ns is not None and deadline_ns <= now_ns:
            self.carry_out(server.expire(now_ns))
        for received in self._data_plane.receive(BATCH):
            if type(received) is ControlDatagram:
                self.carry_out(server.receive(received.payload, received.five_tuple, now_ns))
            else:
                assert type(received) is IcmpError
                allocation = self._by_handle.get(received.allocation)
                if allocation is not None:
                    self.carry_out(
                        server.icmp_received(
                            allocation,
                            received.peer,
                            received.icmp_type,
                            received.icmp_code,
                            received.data,
                            now_ns,
                        )
                    )
        self._data_plane.flush_replies()

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Do what the server wishes, in its order."""
        actions = self._actions
        try:
            for effect in effects:
                actions[type(effect)](effect)
        except RelayUnavailable:
            # What follows would answer that all is well; unanswered, the client asks again.
            self._refused_slots += 1

    async def _expire_in_time(self) -> None:
        while True:
            now_ns = self._clock.monotonic_ns()
            deadline_ns = self._server.next_deadline_ns
            if deadline_ns is not None and deadline_ns <= now_ns:
                self.carry_out(self._server.expire(now_ns))
                deadline_ns = self._server.next_deadline_ns
            wait_s = EXPIRE_INTERVAL_S
            if deadline_ns is not None:
                wait_s = min(wait_s, max(0.0, (deadline_ns - now_ns) / NS_PER_S))
            await trio.sleep(wait_s)

    def _reply(self, effect: Reply) -> None:
        self._data_plane.reply(effect.five_tuple, effect.payload)

    def _open_relay(self, effect: OpenRelay) -> None:
        try:
            handle = self._data_plane.open_relay(effect.address)
        except RelayUnavailable as error:
            self.refused_relays += 1
            if not self._has_logged_refusal:
                # Once: the figures tell how often.
                self._has_logged_refusal = True
                log_event(
                    _log,
                    logging.WARNING,
                    "a relay could not be opened; the client is told 508 when no other port can be",
                    address=effect.address,
                    reason=error,
                )
            outcome = self._server.relay_failed(effect.relay, self._clock.monotonic_ns())
        else:
            self._relays[effect.relay] = handle
            outcome = self._server.relay_opened(effect.relay, self._clock.monotonic_ns())
        # As deep as the server tries other ports, which it bounds.
        self.carry_out(outcome)

    def _close_relay(self, effect: CloseRelay) -> None:
        self._data_plane.close_relay(self._relays.pop(effect.relay))

    def _remove_relay(self, effect: RemoveRelay) -> None:
        self._data_plane.remove_relay(self._allocations[effect.allocation], effect.ip_bytes)

    def _ask_who_pays(self, effect: JoinSession) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._join_session, effect)

    async def _join_session(self, effect: JoinSession) -> None:
        code = await self.sessions.join(effect.allocation, effect.session, effect.payer)
        if code:
            self.carry_out(self._server.session_refused(effect.allocation, code))
        else:
            now_ns = self._clock.monotonic_ns()
            self.carry_out(self._server.session_joined(effect.allocation, now_ns))
        self._data_plane.flush_replies()

    def _leave_session(self, effect: LeaveSession) -> None:
        self.sessions.leave(effect.allocation, "no relay")

    def _open_allocation(self, effect: OpenAllocation) -> None:
        relays = [self._relays.pop(relay) for relay in effect.relays]
        try:
            session = self.sessions.enter(effect.allocation, effect.session)
            handle = self._data_plane.open_allocation(
                effect.five_tuple,
                relays,
                session,
                effect.expires_ns,
                self._rate_of(effect.allocation),
            )
        except RelayUnavailable:
            self._refused_slots += 1
            for relay in relays:
                self._data_plane.close_relay(relay)
            self.sessions.leave(effect.allocation, "no slot")
            self._server.allocation_failed(effect.allocation)
            return
        self._allocations[effect.allocation] = handle
        self._by_handle[handle] = effect.allocation
        self.sessions.opened(effect.allocation, effect.account, handle)
        self._data_plane.reply(effect.five_tuple, effect.answer)

    def _refresh_allocation(self, effect: RefreshAllocation) -> None:
        self._data_plane.refresh_allocation(self._allocations[effect.allocation], effect.expires_ns)

    def _close_allocation(self, effect: CloseAllocation) -> None:
        handle = self._allocations.pop(effect.allocation)
        del self._by_handle[handle]
        self._data_plane.close_allocation(handle)
        self.sessions.leave(effect.allocation, effect.reason)
        log_event(
            _log,
            logging.DEBUG,
            "an allocation has ended",
            allocation=effect.allocation,
            reason=effect.reason,
        )
        if not self._allocations:
            self._emptied.set()

    def _install_permission(self, effect: InstallPermission) -> None:
        self._data_plane.install_permission(
            self._allocations[effect.allocation],
            effect.peer_ip,
            effect.expires_ns,
            effect.own,
        )

    def _install_channel(self, effect: InstallChannel) -> None:
        self._data_plane.install_channel(
            self._allocations[effect.allocation],
            effect.channel,
            effect.peer,
            effect.expires_ns,
        )

    def _remove_permission(self, effect: RemovePermission) -> None:
        self._data_plane.remove_permission(self._allocations[effect.allocation], effect.peer_ip)

    def _remove_channel(self, effect: RemoveChannel) -> None:
        self._data_plane.remove_channel(self._allocations[effect.allocation], effect.channel)

    def _relay_data(self, effect: RelayData) -> None:
        self._data_plane.send_to_peer(
            self._allocations[effect.allocation],
            effect.peer,
            effect.payload,
            effect.dont_fragment,
        )
