"""The ledger's rules in plain Python, as slowly and as plainly as they can be said: the oracle that
engines are compared with, and an engine itself for the contract's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from billing.accounts import (
    ADDRESSES_MAXIMUM,
    FIRST_USER_ACCOUNT,
    SYSTEM_ACCOUNTS,
    AccountInfo,
    AddressError,
    account_number_untrusted,
    normalise_address_untrusted,
)
from billing.history import HistoryLine, Latest
from billing.journal import SideWrite
from billing.ledger import Balance, Opening
from billing.money import AMOUNT_MAXIMUM, CURRENCIES, Currency
from billing.packing import Also, Keeps, chained
from billing.transfers import (
    ID_BYTES,
    NO_ID,
    Code,
    Kind,
    Result,
    Transfer,
    TransferRefused,
    derive_id,
    refusal_of,
)
from core.clock import Clock
from core.errors import OperationError
from core.tables import Writing
from core.units import NS_PER_S


@dataclass
class _Account:
    info: AccountInfo
    posted: list[int] = field(default_factory=lambda: [0] * len(CURRENCIES))
    reserved: list[int] = field(default_factory=lambda: [0] * len(CURRENCIES))
    incoming: list[int] = field(default_factory=lambda: [0] * len(CURRENCIES))


@dataclass
class _Done:
    asked: Transfer
    done: Transfer
    time_ns: int


NO_WRITING = Writing(cast(Any, None), {})
"""Nothing is stored, so that nothing can be written beside it."""


class ModelLedger:
    """Implements `billing.ledger.Ledger` in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.all: dict[int, _Account] = {}
        self.done: dict[bytes, _Done] = {}
        self.pending: dict[bytes, tuple[Transfer, int]] = {}
        self.refunds: dict[bytes, int] = {}
        self.side: dict[tuple[str, bytes], bytes] = {}
        self.once: dict[bytes, tuple[tuple[object, ...], int]] = {}
        for name in SYSTEM_ACCOUNTS:
            self._open((name,))

    @property
    def now_ns(self) -> int:
        return int(self._clock.unix_s() * NS_PER_S)

    def _open(self, addresses: tuple[str, ...]) -> int:
        number = len(self.all) + 1
        info = AccountInfo(number=number, addresses=addresses, opened_ns=self.now_ns)
        self.all[number] = _Account(info)
        return number

    def _of(self, number: int) -> _Account:
        if number not in self.all:
            raise OperationError(f"there is no account #{number}")
        return self.all[number]

    def _user(self, number: int) -> _Account:
        account = self._of(number)
        if number < FIRST_USER_ACCOUNT or account.info.closed:
            raise OperationError("not a user's open account")
        return account

    def _earlier(self, once: bytes | None, act: tuple[object, ...]) -> int | None:
        if once is None or once not in self.once:
            return None
        if self.once[once][0] != act:
            raise OperationError("something else")
        return self.once[once][1]

    def _remember(self, once: bytes | None, act: tuple[object, ...], number: int) -> int:
        if once is not None:
            self.once[once] = (act, number)
        return number

    def _number(self, account: int | str) -> int:
        number = account if isinstance(account, int) else self.find(account)
        if number is None:
            raise OperationError("nobody")
        return number

    async def open_account(
        self,
        addresses: Sequence[str] = (),
        once: bytes | None = None,
        grant: int = 0,
        opening: Opening | None = None,
        also: Also | None = None,
    ) -> int:
        wanted = [self._address(address) for address in addresses]
        act = ("open", *wanted)
        earlier = self._earlier(once, act)
        if earlier is not None:
            return earlier
        if any(self.find(address) is not None for address in wanted):
            raise AddressError("taken")
        before = self._everything()
        number = self._open(tuple(dict.fromkeys(wanted)))
        try:
            if grant:
                identity = derive_id(
                    (self.now_ns // 1_000_000).to_bytes(6, "big") + bytes(10),
                    b"welcome %d" % number,
                )
                await self._do_all([Transfer(identity, 1, number, grant, code=Code.WELCOME)])
            if opening is not None:
                await self._do_all(*opening(number))
            if also is not None:
                also(NO_WRITING)
        except OperationError:
            self._restore(before)
            raise
        self._remember(once, act, number)
        return number

    async def _do_all(
        self, transfers: Sequence[Transfer], side_writes: Sequence[SideWrite] = ()
    ) -> None:
        refusal = refusal_of(await self.transfer(chained(transfers), side_writes))
        if refusal is not None:
            raise TransferRefused(refusal)

    @staticmethod
    def _address(address: str) -> str:
        normal = normalise_address_untrusted(address)
        if normal in SYSTEM_ACCOUNTS:
            raise AddressError("the ledger's own")
        return normal

    async def freeze(self, account: int | str, frozen: bool, once: bytes | None = None) -> int:
        act = ("freeze", account, frozen)
        if earlier := self._earlier(once, act):
            return earlier
        one = self._user(self._number(account))
        one.info = _change(one.info, frozen=frozen)
        return self._remember(once, act, one.info.number)

    async def close_account(self, account: int | str, once: bytes | None = None) -> int:
        act = ("close", account)
        if earlier := self._earlier(once, act):
            return earlier
        one = self._user(self._number(account))
        if any([*one.posted, *one.reserved, *one.incoming]):
            raise OperationError("not empty")
        one.info = _change(one.info, closed=True, addresses=())
        return self._remember(once, act, one.info.number)

    async def link(
        self,
        account: int | str,
        address: str,
        once: bytes | None = None,
        also: Also | None = None,
        keeps: Keeps | None = None,
    ) -> int:
        wanted = self._address(address)
        act = ("link", account, wanted)
        if earlier := self._earlier(once, act):
            return earlier
        number = self._number(account)
        before = self._everything()
        await self._link(number, wanted, keeps)
        if also is not None:
            try:
                also(NO_WRITING)
            except OperationError:
                self._restore(before)
                raise
        return self._remember(once, act, number)

    async def _link(self, account: int, wanted: str, keeps: Keeps | None) -> None:
        one = self._user(account)
        other_number = self.find(wanted)
        if other_number == account:
            return
        added: tuple[str, ...] = (wanted,)
        if other_number is not None:
            other = self._user(other_number)
            if other.info.frozen:
                raise OperationError("frozen")
            is_kept = keeps is not None and keeps(NO_WRITING, other_number)
            if not is_kept:
                added = other.info.addresses
        if len(one.info.addresses) + len(added) > ADDRESSES_MAXIMUM:
            raise OperationError("too many")
        if other_number is not None and is_kept:
            left = tuple(address for address in other.info.addresses if address != wanted)
            other.info = _change(other.info, addresses=left)
        elif other_number is not None:
            if any([*other.reserved, *other.incoming]):
                raise OperationError("pending")
            await self._merge(other_number, account)
            other.info = _change(other.info, closed=True, addresses=(), merged_into=account)
        one.info = _change(one.info, addresses=one.info.addresses + added)

    async def _merge(self, source: int, target: int) -> None:
        transfers = []
        for currency in CURRENCIES:
            amount = self.all[source].posted[currency.number]
            if amount:
                identity = derive_id(
                    (self.now_ns // 1_000_000).to_bytes(6, "big") + bytes(10),
                    b"merge %d %d %d" % (source, target, currency.number),
                )
                transfers.append(
                    Transfer(identity, source, target, amount, currency.number, code=Code.MERGE)
                )
        for result in await self.transfer(chained(transfers)):
            if not result.is_done:
                raise OperationError(result.name)

    async def unlink(self, account: int | str, address: str, once: bytes | None = None) -> int:
        wanted = self._address(address)
        act = ("unlink", account, wanted)
        if earlier := self._earlier(once, act):
            return earlier
        one = self._of(self._number(account))
        if wanted not in one.info.addresses:
            raise OperationError("not its address")
        left = tuple(each for each in one.info.addresses if each != wanted)
        one.info = _change(one.info, addresses=left)
        return self._remember(once, act, one.info.number)

    async def transfer(
        self,
        transfers: Sequence[Transfer],
        side_writes: Sequence[SideWrite] = (),
        also: Also | None = None,
    ) -> list[Result]:
        if any(len(one.id) != ID_BYTES or one.id == NO_ID for one in transfers):
            raise OperationError("no id")
        self._expire()
        if side_writes or also is not None:
            transfers = chained(transfers)
        before = self._everything()
        results: list[Result] = []
        chain: list[Transfer] = []
        for one in transfers:
            chain.append(one)
            if not one.linked:
                results += self._chain(chain)
                chain = []
        results += [Result.OPEN_CHAIN] * len(chain)
        if all(result is Result.DONE for result in results):
            for side_write in side_writes:
                if side_write.value is None:
                    self.side.pop((side_write.table, side_write.key), None)
                else:
                    self.side[side_write.table, side_write.key] = side_write.value
            if also is not None:
                try:
                    also(NO_WRITING)
                except OperationError:
                    self._restore(before)
                    raise
        return results

    def _expire(self) -> None:
        due = sorted(
            (expires_ns, identity)
            for identity, (_, expires_ns) in self.pending.items()
            if expires_ns and expires_ns <= self.now_ns
        )
        for _, identity in due:
            currency = self.pending[identity][0].currency
            void = Transfer(
                derive_id(identity, b"expire"),
                0,
                0,
                0,
                currency,
                kind=Kind.EXPIRE_PENDING,
                reference=identity,
            )
            results = self._chain([void])
            assert results == [Result.DONE]

    def _chain(self, chain: list[Transfer]) -> list[Result]:
        before = self._everything()
        results = []
        for one in chain:
            results.append(self._one(one))
            if not results[-1].is_done:
                break
        failed = not results[-1].is_done
        mixed = Result.EXISTS in results and Result.DONE in results
        if len(chain) > 1 and (failed or mixed):
            self._restore(before)
            blamed = {Result.DONE: Result.LINKED_FAILED, Result.EXISTS: Result.ID_REUSED}
            results = [blamed.get(result, result) for result in results]
            results += [Result.LINKED_FAILED] * (len(chain) - len(results))
        return results

    def _everything(self) -> tuple[Any, ...]:
        accounts = {number: _copy(account) for number, account in self.all.items()}
        copies = (self.done, self.pending, self.refunds, self.side)
        return accounts, *(dict(one) for one in copies)

    def _restore(self, before: tuple[Any, ...]) -> None:
        self.all, self.done, self.pending, self.refunds, self.side = before

    def _one(self, one: Transfer) -> Result:
        earlier = self.done.get(one.id)
        if earlier is not None:
            return Result.EXISTS if _asks_the_same(one, earlier) else Result.ID_REUSED
        if one.kind in (Kind.POST, Kind.PENDING):
            result, done = self._move(one), one
        else:
            result, done = self._resolve(one)
        if result is Result.DONE:
            self.done[one.id] = _Done(one, done, self.now_ns)
        return result

    def _move(self, one: Transfer) -> Result:
        if one.kind is Kind.POST and one.timeout_s:
            return Result.BAD_KIND
        if one.amount <= 0:
            return Result.BAD_AMOUNT
        if one.debit == one.credit:
            return Result.SAME_ACCOUNT
        if one.debit not in self.all or one.credit not in self.all:
            return Result.NO_ACCOUNT
        debit, credit = self.all[one.debit], self.all[one.credit]
        if debit.info.closed or credit.info.closed:
            return Result.CLOSED
        if debit.info.frozen:
            return Result.FROZEN
        if one.refund:
            earlier = self.done.get(one.reference)
            if earlier is None:
                return Result.NO_REFERENCE
            original = earlier.done
            if (
                one.kind is not Kind.POST
                or original.kind not in (Kind.POST, Kind.POST_PENDING)
                or original.refund
                or self.heir(original.debit) != one.credit
                or self.heir(original.credit) != one.debit
                or original.currency != one.currency
            ):
                return Result.NO_REFERENCE
            if self.refunds.get(one.reference, 0) + one.amount > original.amount:
                return Result.EXCEEDS
        elif one.reference != NO_ID:
            return Result.NO_REFERENCE
        column = one.currency
        left = debit.posted[column] - debit.reserved[column] - one.amount
        if left < -AMOUNT_MAXIMUM:
            return Result.OVERFLOW
        if credit.posted[column] + credit.incoming[column] + one.amount > AMOUNT_MAXIMUM:
            return Result.OVERFLOW
        if left < 0 and one.debit >= FIRST_USER_ACCOUNT:
            return Result.NO_FUNDS
        if one.refund:
            self.refunds[one.reference] = self.refunds.get(one.reference, 0) + one.amount
        if one.kind is Kind.PENDING:
            debit.reserved[column] += one.amount
            credit.incoming[column] += one.amount
            expires_ns = self.now_ns + one.timeout_s * NS_PER_S if one.timeout_s else 0
            self.pending[one.id] = (one, expires_ns)
        else:
            debit.posted[column] -= one.amount
            credit.posted[column] += one.amount
        return Result.DONE

    def _resolve(self, one: Transfer) -> tuple[Result, Transfer]:
        if one.reference not in self.pending:
            earlier = self.done.get(one.reference)
            if earlier is not None and earlier.done.kind is Kind.PENDING:
                return Result.RESOLVED, one
            return Result.NO_REFERENCE, one
        pending, _ = self.pending[one.reference]
        if one.timeout_s or one.refund:
            return Result.BAD_KIND, one
        if (
            one.debit not in (0, pending.debit)
            or one.credit not in (0, pending.credit)
            or one.currency != pending.currency
        ):
            return Result.NO_REFERENCE, one
        if one.kind is Kind.POST_PENDING and self.all[pending.debit].info.frozen:
            return Result.FROZEN, one
        amount = one.amount or pending.amount
        if one.kind is Kind.POST_PENDING:
            if amount <= 0:
                return Result.BAD_AMOUNT, one
            if amount > pending.amount:
                return Result.EXCEEDS, one
        elif amount != pending.amount:
            return Result.BAD_AMOUNT, one
        column = pending.currency
        debit, credit = self.all[pending.debit], self.all[pending.credit]
        debit.reserved[column] -= pending.amount
        credit.incoming[column] -= pending.amount
        if one.kind is Kind.POST_PENDING:
            debit.posted[column] -= amount
            credit.posted[column] += amount
        del self.pending[one.reference]
        return Result.DONE, one._replace(amount=amount, debit=pending.debit, credit=pending.credit)

    def find(self, address: str) -> int | None:
        number = account_number_untrusted(address)
        if number is not None:
            return number if number in self.all else None
        for number, account in self.all.items():
            if address in account.info.addresses:
                return number
        return None

    def account(self, number: int) -> AccountInfo:
        return self._of(number).info

    def accounts(self, first: int, limit: int) -> list[AccountInfo]:
        numbers = [number for number in self.all if number >= first]
        return [self.all[number].info for number in numbers[:limit]]

    def balance(self, account: int, currency: Currency) -> Balance:
        one = self._of(account)
        column = currency.number
        return Balance(one.posted[column], one.reserved[column], one.incoming[column], 0)

    def find_transfer(self, identity: bytes) -> Transfer | None:
        done = self.done.get(identity)
        return None if done is None else done.done

    def refunded(self, identity: bytes) -> int:
        return self.refunds.get(identity, 0)

    def heir(self, account: int) -> int:
        info = self._of(account).info
        return account if info.merged_into is None else self.heir(info.merged_into)

    def lineage(self, account: int) -> list[int]:
        heir = self.heir(account)
        others = [one for one in self.all if one != heir and self.heir(one) == heir]
        return [heir, *others]

    async def balances(self, accounts: Sequence[int]) -> list[dict[Currency, Balance]]:
        return [
            {currency: self.balance(account, currency) for currency in CURRENCIES}
            for account in accounts
        ]

    async def history(
        self, account: int, before: int | None = None, limit: int = 100
    ) -> list[HistoryLine]:
        lines = [
            HistoryLine(place, done.time_ns, done.done)
            for place, done in enumerate(self.done.values(), 1)
            if account in (done.done.debit, done.done.credit)
        ]
        if before is not None and before not in [line.place for line in lines]:
            raise OperationError("no line")
        lines = [line for line in reversed(lines) if before is None or line.place < before]
        return lines[:limit]

    async def latest(self, account: int, limit: int = 100) -> Latest:
        settled = {currency: self.balance(account, currency).posted for currency in CURRENCIES}
        return Latest(await self.history(account, limit=limit), settled)

    def look_up(
        self, addresses: Sequence[str], table: str, key: bytes
    ) -> tuple[list[int | None], bytes | None]:
        return [self.find(address) for address in addresses], self.read_side(table, key)

    def read_side(self, table: str, key: bytes) -> bytes | None:
        return self.side.get((table, key))


def _change(info: AccountInfo, **changes: object) -> AccountInfo:
    fields = {name: getattr(info, name) for name in info.__struct_fields__}
    return AccountInfo(**{**fields, **changes})


def _copy(account: _Account) -> _Account:
    return replace(
        account,
        posted=list(account.posted),
        reserved=list(account.reserved),
        incoming=list(account.incoming),
    )


def _asks_the_same(one: Transfer, earlier: _Done) -> bool:
    if one.kind in (Kind.POST, Kind.PENDING):
        return one == earlier.asked
    asked, done = earlier.asked, earlier.done
    same_amount = one.amount == asked.amount or (
        one.kind is not Kind.POST_PENDING and one.amount in (0, done.amount)
    )
    return (
        one._replace(amount=0, debit=0, credit=0) == asked._replace(amount=0, debit=0, credit=0)
        and one.debit in (0, done.debit)
        and one.credit in (0, done.credit)
        and same_amount
    )
