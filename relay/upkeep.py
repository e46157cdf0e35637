"""What a node does with its ledger by itself: once a minute the root over the records of closed
sessions is signed, once an hour ticks that are old are pruned; pending transfers end in their time.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from billing.ledger import LmdbLedger
from billing.receipts import Signer, SigningUnavailable, origin_of, sign_root
from billing.seal import prune
from core.errors import OperationError
from core.identity import Identity
from core.log import log_event
from core.units import HOUR_S, NS_PER_S

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
        """Sign, expire and prune, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_always, EXPIRE_INTERVAL_S, self.expire)
            nursery.start_soon(_always, SIGN_INTERVAL_S, self.sign)
            if self._keep_ticks_s:
                nursery.start_soon(_always, PRUNE_INTERVAL_S, self.prune)

    async def expire(self) -> None:
        """End the pending transfers whose time is over."""
        first_ns = self._ledger.next_expiry_ns
        if first_ns is not None and first_ns <= self._ledger.clock.now_ns():
            await _attempt(self._expire, "nothing expired")

    async def sign(self) -> None:
        """Store the root over all records so far, where there are new ones."""
        # Full disk, damaged file: the next minute's root is over the same records and more.
        await _attempt(self._sign, "no root was stored over the records")

    async def prune(self) -> None:
        """Leave of ticks that are older than they are kept their hash alone."""
        await _attempt(self._prune, "old ticks were not pruned")

    async def _expire(self) -> None:
        await self._ledger.store.write(self._ledger.expire)

    async def _sign(self) -> None:
        await sign_root(self._ledger, self._origin, self._signer)

    async def _prune(self) -> None:
        before_ns = self._ledger.clock.now_ns() - self._keep_ticks_s * NS_PER_S
        pruned = await prune(self._ledger, before_ns)
        if pruned.entries:
            log_event(
                _log,
                logging.INFO,
                "old ticks were pruned",
                entries=pruned.entries,
                bytes=pruned.freed_bytes,
            )


async def _always(interval_s: float, action: Callable[[], Awaitable[None]]) -> None:
    """Do it now and whenever an interval is over."""
    while True:
        await action()
        await trio.sleep(interval_s)


async def _attempt(action: Callable[[], Awaitable[None]], sentence: str) -> None:
    """Do it, or log `sentence`: there will be another time, and the node goes on."""
    try:
        await action()
    except OperationError as error:
        log_event(_log, logging.ERROR, sentence, reason=error)
    except Exception:
        # A mistake of ours.
        _log.exception(sentence)
