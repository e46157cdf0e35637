"""Whose calls an account does not want."""

from __future__ import annotations

from typing import Final

import trio

from billing.accounts import AddressError, normalise_address_untrusted
from billing.journal import SideWrite
from billing.ledger import LmdbLedger
from billing.tables import BLOCKED_CALLERS
from core.errors import SignalingError

BLOCKED_MAXIMUM: Final = 1_000
"""Of one account."""


class CallBlocks:
    """The blocked addresses of all accounts, in the ledger's log: they stand in its backups.

    An address is blocked together with the account that has it at the time, so that another address
    of the same account rings as little. What an account had blocked that was merged into another is
    blocked by that one.

    Args:
        region: of telephone numbers that are written without their country.
    """

    def __init__(self, ledger: LmdbLedger, region: str | None = None) -> None:
        self._ledger = ledger
        self._region = region
        self._changing = trio.Lock()

    async def set_untrusted(self, owner: int, address: str, is_blocked: bool) -> None:
        """Block an address for an account, or let it ring again.

        Raises:
            SignalingError: it is no address, or too many are blocked.
            OperationError: it can't be stored.
        """
        try:
            normal = normalise_address_untrusted(address, self._region)
        except AddressError as error:
            raise SignalingError("no-account", str(error), **error.values) from error
        async with self._changing:
            entries = self._entries(owner)
            if (normal in entries) == is_blocked:
                return
            owners, value = self._ledger.lineage(owner), None
            if is_blocked:
                owners = owners[:1]
                if len(entries) >= BLOCKED_MAXIMUM:
                    raise SignalingError(
                        "full",
                        f"an account blocks {BLOCKED_MAXIMUM} addresses at most",
                        maximum=BLOCKED_MAXIMUM,
                    )
                value = (self._ledger.find(normal) or 0).to_bytes(4, "big")
            keys = [_owner_key(one) + normal.encode() for one in owners]
            writes = [SideWrite(BLOCKED_CALLERS, key, value) for key in keys]
            await self._ledger.transfer([], writes)

    def addresses(self, owner: int) -> list[str]:
        """What an account has blocked."""
        return list(self._entries(owner))

    def has_blocked(self, owner: int, caller: int) -> bool:
        """Whether an account does not want the calls of another."""
        entries = self._entries(owner)
        if not entries:
            return False
        caller = self._ledger.heir(caller)
        if not entries.keys().isdisjoint(self._ledger.account(caller).addresses):
            return True
        return any(number and self._ledger.heir(number) == caller for number in entries.values())

    def _entries(self, owner: int) -> dict[str, int]:
        """Blocked addresses, and the accounts that they had then, 0 for none."""
        found: dict[str, int] = {}
        with self._ledger.store.read() as tables:
            # Its own ones last: they tell best whose an address was.
            for one in reversed(self._ledger.lineage(owner)):
                start, stop = _owner_key(one), _owner_key(one + 1)
                for key, value in tables.items(BLOCKED_CALLERS, start, stop, BLOCKED_MAXIMUM):
                    found[key[len(start) :].decode()] = int.from_bytes(value, "big")
        return found


def _owner_key(owner: int) -> bytes:
    return owner.to_bytes(4, "big")
