"""How calls are made: who may make one now, under which id, and once however often it is asked
for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from billing.ledger import LmdbLedger
from billing.tariff import Line
from core.errors import OperationError, SignalingError
from core.units import NS_PER_S
from relay.signaling.call_admission import CallAdmission
from relay.signaling.call_names import CallNames
from relay.signaling.call_records import LIVING_MAXIMUM, CallInfo, CallRecords, unavailable
from relay.signaling.call_table import CallTable
from relay.signaling.descriptions import Kind

LIVING_OF_A_CALLER: Final = 32
"""Else one account could wait for so many callees that nobody else's call found room."""

Keep = Callable[[CallInfo], Awaitable[bool]]
"""Stores the record of a new call, with what else belongs to it; whether its id was free."""


class CallMaking:
    """Makes the calls of a node.

    Args:
        line_of: the tariff's line of a kind of call.
        direct_calls: whether media may flow past the relays.
    """

    def __init__(
        self,
        table: CallTable,
        records: CallRecords,
        names: CallNames,
        admission: CallAdmission,
        ledger: LmdbLedger,
        *,
        line_of: Callable[[Kind], Line],
        direct_calls: bool,
    ) -> None:
        self._table = table
        self._records = records
        self._names = names
        self._admission = admission
        self._ledger = ledger
        self._line_of = line_of
        self._direct_calls = direct_calls
        self._making: dict[str, trio.Event] = {}
        """By the id under which a call is being made, what is set when that is over."""

    async def create_once(
        self,
        effect: str,
        from_address: str,
        to_address: str | None,
        kind: Kind = Kind.VOICE,
        *,
        expires_s: int = 0,
        keep: Keep | None = None,
    ) -> CallInfo:
        """`create`, or what it has made under the same id (`core.api.fields.EffectId`) before;
        without an id it is `create`.

        Raises:
            SignalingError: as `create`.
        """
        found = await self.find_made(effect)
        if found is not None:
            return found
        made = trio.Event()
        if effect:
            self._making[effect] = made
        try:
            return await self.create(
                from_address, to_address, kind, effect=effect, expires_s=expires_s, keep=keep
            )
        finally:
            self._making.pop(effect, None)
            made.set()

    async def find_made(self, effect: str) -> CallInfo | None:
        """The call that was made under an id, also one that is over; waits for one that is being
        made."""
        while (made := self._making.get(effect)) is not None:
            await made.wait()
        for call_id in self._names.ids_of(effect) if effect else ():
            info = self._table.find(call_id)
            if info is None or info.effect == effect:
                return info
        return None

    async def create(
        self,
        from_address: str,
        to_address: str | None,
        kind: Kind = Kind.VOICE,
        *,
        effect: str = "",
        expires_s: int = 0,
        keep: Keep | None = None,
    ) -> CallInfo:
        """Make a call that waits for its callee. The addresses may be anybody's text.

        Args:
            from_address: the caller's, who has proved it; may be ``#17``.
            to_address: None for whoever has the callee's link.
            effect: under which it is kept; nothing is made under it yet.
            expires_s: for how long it waits; 0 for `relay.signaling.calls.PENDING_S`.
            keep: stores it in place of `CallRecords.create`; what it raises is raised.

        Raises:
            SignalingError: ``no-account``, ``no-money``, ``busy``, ``blocked`` (the callee can't be
                reached, for whatever reason), ``too-many``, ``full``, ``unavailable``.
        """
        from_address, caller = self._admission.caller_untrusted(from_address)
        self._admission.count_untrusted(caller)
        callee = None
        if to_address is not None:
            to_address, callee = self._admission.callee_untrusted(to_address, caller)
        line = self._line_of(kind)
        self._admission.assert_can_pay(caller, line)
        self._assert_room(caller, callee)
        now_ns = self._ledger.clock.now_ns()
        for call_id in self._names.ids_of(effect):
            if self._table.find(call_id) is not None:
                continue
            info = CallInfo(
                id=call_id,
                caller=caller,
                callee=callee,
                from_address=from_address,
                to_address=to_address,
                kind=kind,
                relayed=not self._direct_calls,
                price_second=line.price_second,
                created_ns=now_ns,
                effect=effect,
                expires_ns=now_ns + expires_s * NS_PER_S if expires_s else 0,
            )
            # Before it is stored, or many that come at once would be too many.
            call = self._table.add(info)
            is_made = False
            try:
                is_made = await (keep or self._keep)(info)
            finally:
                if not is_made:
                    self._table.drop(call_id)
            if is_made:
                return call.info
        raise AssertionError("there is always another id")

    def _assert_room(self, caller: int, callee: int | None) -> None:
        """
        Raises:
            SignalingError: ``busy``, ``too-many``, ``full``.
        """
        if not self._table.is_free(caller) or not self._table.is_free(callee):
            raise SignalingError("busy", "one of the two is in another call")
        if self._table.made_by(caller) >= LIVING_OF_A_CALLER:
            raise SignalingError(
                "too-many",
                f"{LIVING_OF_A_CALLER} calls of one account can wait at once; end one of them",
                maximum=LIVING_OF_A_CALLER,
            )
        if len(self._table) >= LIVING_MAXIMUM:
            raise SignalingError("full", "the node has as many calls as it takes")

    async def _keep(self, info: CallInfo) -> bool:
        try:
            return await self._records.create(info)
        except OperationError as error:
            raise unavailable() from error
