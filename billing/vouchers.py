"""Vouchers: codes that are worth an amount to whoever redeems them first.

A code is 100 random bits. The ledger keeps its SHA-256 alone, so that who reads the files can't
spend it; from the same hash comes the id of the transfer that redeems it, so that it can be done
once.
"""

from __future__ import annotations

import re
from base64 import b32encode
from functools import partial
from hashlib import sha256
from typing import Final, Protocol

import msgspec
import trio

from billing.journal import SideWrite
from billing.ledger import ISSUE, Ledger
from billing.money import Currency
from billing.tables import DEDUPLICATION, VOUCHERS
from billing.transfers import Code, Result, Transfer, TransferRefused, derive_id
from core.clock import Clock
from core.errors import OperationError
from core.tables import Writing

CODE_CHARACTERS: Final = 20
GROUP_CHARACTERS: Final = 5
VOUCHERS_MAXIMUM: Final = 1000
"""Of one batch."""

_EXAMPLE = "-".join(["A" * GROUP_CHARACTERS] * (CODE_CHARACTERS // GROUP_CHARACTERS))
_CODE = re.compile(rf"[A-Z2-7]{{{CODE_CHARACTERS}}}")


class Redeemed(Protocol):
    """Writes down that a voucher is redeemed, see `billing.packing.Also`."""

    def __call__(self, writing: Writing, /, *, transfer: Transfer) -> None: ...


class _Voucher(msgspec.Struct, frozen=True, array_like=True):
    """What is kept under a code's hash: how much of which currency, and since when."""

    amount: int
    currency: int
    created_ms: int


_decoder = msgspec.msgpack.Decoder(_Voucher)


class Vouchers:
    """The vouchers of one ledger."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._creating = trio.Lock()

    async def create(
        self, amount: int, currency: Currency, count: int, once: bytes | None = None
    ) -> list[str]:
        """Make vouchers, all or none.

        Args:
            amount: of each, in the currency's smallest units.
            once: an id under which it is done once.

        Raises:
            OperationError: they were made under this id before; their codes are not known any more.
        """
        if not 0 < count <= VOUCHERS_MAXIMUM:
            raise OperationError(
                f"from 1 to {VOUCHERS_MAXIMUM} vouchers can be made at once",
                "voucher_count",
                maximum=VOUCHERS_MAXIMUM,
            )
        voucher = _Voucher(amount, currency.number, int(self._clock.unix_s() * 1000))
        value = msgspec.msgpack.encode(voucher)
        codes = [_new_code(self._clock) for _ in range(count)]
        writes = [SideWrite(VOUCHERS, _hash(code), value) for code in codes]
        async with self._creating:
            if once is not None:
                key = b"vouchers " + once
                if self._ledger.read_side(DEDUPLICATION, key) is not None:
                    raise OperationError(
                        "vouchers were made under this id already; their codes were shown then "
                        "and are not kept",
                        "vouchers_made_before",
                    )
                writes.append(SideWrite(DEDUPLICATION, key, b""))
            await self._ledger.transfer([], writes)
        return [_grouped(code) for code in codes]

    async def redeem_untrusted(
        self, code: str, account: int, also: Redeemed | None = None
    ) -> Transfer:
        """Give the account what the voucher is worth; returns the transfer, also when the same
        account has done it before.

        Args:
            also: what is written in the same transaction, where it is new.

        Raises:
            OperationError: there is no such voucher, or somebody else has redeemed it.
            TransferRefused: the account can't take it.
        """
        plain = re.sub(r"[-\s]", "", code[:80]).upper()
        if not _CODE.fullmatch(plain):
            raise OperationError(
                f"a voucher's code has {CODE_CHARACTERS} letters and digits: {_EXAMPLE}",
                "bad_voucher",
                characters=CODE_CHARACTERS,
                example=_EXAMPLE,
            )
        hashed = _hash(plain)
        stored = self._ledger.read_side(VOUCHERS, hashed)
        if stored is None:
            raise OperationError("there is no voucher with this code", "no_voucher")
        voucher = _decoder.decode(stored)
        transfer = Transfer(
            derive_id(voucher.created_ms.to_bytes(6, "big") + hashed, b"voucher"),
            ISSUE,
            account,
            voucher.amount,
            voucher.currency,
            code=Code.VOUCHER,
        )
        beside = None if also is None else partial(also, transfer=transfer)
        (result,) = await self._ledger.transfer([transfer], (), beside)
        if result is Result.ID_REUSED:
            raise OperationError(
                "this voucher has been redeemed already, by another account", "voucher_redeemed"
            )
        if not result.is_done:
            raise TransferRefused(result)
        return transfer


def _new_code(clock: Clock) -> str:
    return b32encode(clock.random_bytes(13)).decode()[:CODE_CHARACTERS]


def _grouped(code: str) -> str:
    return "-".join(
        code[start : start + GROUP_CHARACTERS] for start in range(0, len(code), GROUP_CHARACTERS)
    )


def _hash(code: str) -> bytes:
    return sha256(code.encode()).digest()
