"""What a node does with its ledger by itself: once a minute the root over the records of closed
sessions is signed, once an hour ticks that are old are pruned; pending transfers end in their time.
"""

from __future__ import annotations

import logging

import trio

from billing.ledger import LmdbLedger
from billing.receipts import Signer, SigningUnavailable, origin_of, sign_root
from billing.seal import prune
from core.identity import Identity
from core.units import HOUR_S, NS_PER_S
from relay.log import log_event

EXPIRE_INTERVAL_S = 1
SIGN_INTERVAL_S = 60
PRUNE_INTERVAL_S = HOUR_S

_log = logging.getLogger("montana.upkeep")


class Upkeep:
    """Looks after a ledger until it is cancelled.

    Args:
        keep_ticks_s: see `core.config.BillingConfig`.
    """

    def __init__(self, ledger: LmdbLedger, node_key: Identity, keep_ticks_s: int) -> None:
        self._ledger = ledger
        self._keep_ticks_s = keep_ticks_s
        self._origin = origin_of(node_key)
        self._signer: Signer | None = None
        try:
            self._signer = Signer(node_key)
        except SigningUnavailable as error:
            log_event(_log, logging.WARNING, "records are not signed", reason=error)

    async def run(self) -> None:
        """Sign and prune, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sign_always)
            nursery.start_soon(self._expire_always)
            if self._keep_ticks_s:
                nursery.start_soon(self._prune_always)

    async def _sign_always(self) -> None:
        while True:
            await trio.sleep(SIGN_INTERVAL_S)
            await self.sign()

    async def _expire_always(self) -> None:
        while True:
            await trio.sleep(EXPIRE_INTERVAL_S)
            first_ns = self._ledger.next_expiry_ns
            if first_ns is not None and first_ns <= self._ledger.clock.now_ns():
                try:
                    await self._ledger.store.write(self._ledger.expire)
                except Exception as error:
                    log_event(_log, logging.ERROR, "nothing expired", reason=error)

    async def _prune_always(self) -> None:
        while True:
            await self.prune()
            await trio.sleep(PRUNE_INTERVAL_S)

    async def sign(self) -> None:
        """Store the root over all records so far, where there are new ones."""
        try:
            await sign_root(self._ledger, self._origin, self._signer)
        except Exception as error:
            # Full disk, damaged file: the next minute's root is over the same records and more.
            log_event(_log, logging.ERROR, "no root was stored over the records", reason=error)

    async def prune(self) -> None:
        """Leave of ticks that are older than they are kept their hash alone."""
        before_ns = self._ledger.clock.now_ns() - self._keep_ticks_s * NS_PER_S
        try:
            pruned = await prune(self._ledger, before_ns)
        except Exception as error:
            log_event(_log, logging.ERROR, "old ticks were not pruned", reason=error)
            return
        if pruned.entries:
            log_event(
                _log,
                logging.INFO,
                "old ticks were pruned",
                entries=pruned.entries,
                bytes=pruned.freed_bytes,
            )
