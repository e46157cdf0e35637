"""What operators and channels ask of the ledger, in words of people: addresses, decimal numbers.

    desk = Desk(ledger, clock, config.billing)
    reply = await desk.answer(AccountCreditRequest("user:alice", "10"))

Requests and replies are those of the node's socket (`core.api.messages`). A request that can't be
carried out raises `OperationError` with a sentence, and has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from hashlib import sha256

import msgspec

from billing.accounts import (
    FIRST_USER_ACCOUNT,
    AccountInfo,
    AddressError,
    account_number_untrusted,
    normalise_address_untrusted,
)
from billing.history_items import history_item
from billing.journal import SideWrite
from billing.ledger import BURN, FEES, ISSUE, NODE, Balance, Chain, Ledger
from billing.money import (
    CURRENCIES,
    Currency,
    J,
    find_currency,
    format_amount,
    parse_amount_untrusted,
    transfer_fee,
)
from billing.notices import Notices
from billing.packing import Also
from billing.tables import DEDUPLICATION
from billing.transfers import (
    Code,
    Result,
    Transfer,
    TransferRefused,
    derive_id,
    new_id,
    parse_id_untrusted,
    refusal_of,
)
from billing.vouchers import Vouchers
from core.api.bridge_messages import UserOpenRequest, UserTransferRequest
from core.api.messages import (
    AccountCloseRequest,
    AccountCreateRequest,
    AccountCreditRequest,
    AccountFreezeRequest,
    AccountHistoryRequest,
    AccountLinkRequest,
    AccountListReply,
    AccountListRequest,
    AccountRefundRequest,
    AccountReply,
    AccountShowRequest,
    AccountTransferRequest,
    AccountUnlinkRequest,
    BalanceItem,
    HistoryReply,
    LedgerReply,
    LedgerRequest,
    TransferReply,
    VoucherCreateRequest,
    VoucherRedeemRequest,
    VouchersReply,
)
from core.clock import Clock
from core.config import BillingConfig
from core.errors import OperationError
from core.tables import Writing
from core.timestamps import format_time

BARE_NUMBER_DIGITS = 9
"""As many digits alone are an account's number; more of them are a telephone number."""


class Desk:
    """Answers for one ledger; `notices` tells those who get something from others."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        config: BillingConfig,
        notices: Notices | None = None,
    ) -> None:
        self._ledger = ledger
        self._notices = notices
        self._clock = clock
        self._region = config.default_region
        self._tariff = config.tariff
        self._welcome = parse_amount_untrusted(config.welcome) if config.welcome else 0
        self._vouchers = Vouchers(ledger, clock)

    async def answer(
        self, request: LedgerRequest | UserOpenRequest | UserTransferRequest
    ) -> LedgerReply:
        """Carry out a request.

        Raises:
            OperationError: it can't be done; nothing was.
        """
        match request:
            case AccountCreateRequest():
                return await self._create(request)
            case AccountShowRequest():
                return await self._show(self.find_account_untrusted(request.account))
            case AccountListRequest():
                return await self._list(request)
            case AccountCreditRequest() | AccountTransferRequest():
                return await self._move(request)
            case AccountRefundRequest():
                return await self._refund(request)
            case AccountLinkRequest() | AccountUnlinkRequest():
                return await self._link(request)
            case AccountFreezeRequest():
                account, once = self._name_untrusted(request.account), _once_untrusted(request.id)
                return await self._show(await self._ledger.freeze(account, request.frozen, once))
            case AccountCloseRequest():
                account, once = self._name_untrusted(request.account), _once_untrusted(request.id)
                return await self._show(await self._ledger.close_account(account, once))
            case AccountHistoryRequest():
                return await self._history(request)
            case VoucherCreateRequest():
                return await self._create_vouchers(request)
            case VoucherRedeemRequest():
                account = self.find_account_untrusted(request.account)
                transfer = await self._vouchers.redeem_untrusted(request.code, account)
                return _transfer_reply(transfer)
            case UserOpenRequest():
                return await self._open_user(request)
            case UserTransferRequest():
                return await self._user_transfer(request)

    def find_account_untrusted(self, text: str) -> int:
        """The number of the account that somebody names: by an address, as `#17` or as `17`.

        Raises:
            AddressError: this is no address.
            OperationError: nobody has it.
        """
        return self._find(self._name_untrusted(text))

    async def open_user(self, address: str) -> int:
        """The number of a user's account, which is opened where nobody has the address.

        Args:
            address: in its one spelling.
        """
        number = self._ledger.find(address)
        if number is None:
            try:
                return await self._ledger.open_account([address], None, self._welcome)
            except AddressError as error:
                if error.code != "address_taken":
                    raise
                # Somebody was faster.
                number = self._find(address)
        return number

    async def user_transfer(
        self,
        debit: int | str,
        credit: int | str,
        amount: int,
        currency: Currency,
        identity: bytes,
        *,
        beside: Sequence[Transfer] = (),
        side_writes: Sequence[SideWrite] = (),
        also: Also | None = None,
    ) -> TransferReply:
        """A user's own transfer: the fee goes on top, both or neither. Who gets it is told. A
        telephone number that nobody has yet becomes an account with it, where it can be told.

        Args:
            debit, credit: from and to: account numbers, or addresses in their one spelling. When it
                is asked for again, addresses are still those of the first time.
            amount: in the currency's smallest units.
            identity: 16 bytes; the same ones do it once.
            beside: other transfers that are done with it or not at all.
            side_writes, also: as in `Ledger.transfer`.

        Raises:
            TransferRefused: says why.
            PayeeRefused: nobody has the number, nor could be told of money by SMS.
            OperationError: `debit` is no user's, or nobody has the address.
        """
        names = [debit, credit]
        found, payee = self._look_up(identity, names)
        payer = _existing(debit, found)
        if payee is None and not (isinstance(credit, str) and credit.startswith("+")):
            _existing(credit, payee)
        if payer < FIRST_USER_ACCOUNT or (payee is not None and payee < FIRST_USER_ACCOUNT):
            raise OperationError("this is one of the ledger's own accounts", "own_account")
        sender = debit if isinstance(debit, str) else self._called(payer)
        fee = transfer_fee(amount, currency)

        def chain(payee: int) -> Chain:
            main = Transfer(identity, payer, payee, amount, currency.number, code=Code.USER)
            fee_id = derive_id(identity, b"fee")
            charge = Transfer(fee_id, payer, FEES, fee, currency.number, code=Code.FEE)
            named = _named(identity, names, [payer, payee])
            return Chain([main, charge, *beside], [*side_writes, *named])

        def tell(writing: Writing, main: Transfer) -> None:
            if self._notices is not None:
                self._notices.transfer_received(writing, main, sender)
            if also is not None:
                also(writing)

        if payee is None:
            # Before anything is written: it would have to be undone, with what others have asked.
            if self._ledger.balance(payer, currency).available < amount + fee:
                raise TransferRefused(Result.NO_FUNDS)
            assert isinstance(credit, str)
            if self._notices is not None:
                self._notices.check_payee(credit)
            opened = await self._open_payee(credit, chain, tell)
            if opened is not None:
                return _transfer_reply(opened, fee)
            payee = self._find(credit)
        transfers, writes = chain(payee)
        await self._do(transfers, writes, partial(tell, main=transfers[0]))
        return _transfer_reply(transfers[0], fee)

    async def _open_payee(
        self, phone: str, chain: Callable[[int], Chain], tell: Callable[[Writing, Transfer], None]
    ) -> Transfer | None:
        """Open an account with what it gets, all or nothing: the first transfer of `chain`; None
        where somebody was faster."""
        done: Chain

        def opening(number: int) -> Chain:
            nonlocal done
            done = chain(number)
            return done

        try:
            await self._ledger.open_account(
                [phone],
                None,
                self._welcome,
                opening,
                lambda writing: tell(writing, done.transfers[0]),
            )
        except AddressError as error:
            if error.code != "address_taken":
                raise
            return None
        return done.transfers[0]

    async def _open_user(self, request: UserOpenRequest) -> AccountReply:
        address = self._normal(request.address)
        if not address.startswith("tg:"):
            raise OperationError(
                f"{address} is no user of Telegram; write tg: and the user's number",
                "no_telegram_user",
                address=address,
            )
        return await self._show(await self.open_user(address))

    async def _user_transfer(self, request: UserTransferRequest) -> TransferReply:
        currency = find_currency(request.currency)
        return await self.user_transfer(
            self._name_untrusted(request.debit),
            self._name_untrusted(request.credit),
            parse_amount_untrusted(request.amount, currency),
            currency,
            self._id_untrusted(request.id),
        )

    async def _create(self, request: AccountCreateRequest) -> AccountReply:
        addresses = [self._normal(address) for address in request.addresses]
        once = _once_untrusted(request.id)
        return await self._show(await self._ledger.open_account(addresses, once, self._welcome))

    async def _show(self, account: int) -> AccountReply:
        info = self._ledger.account(account)
        (settled,) = await self._ledger.balances([account])
        return self._reply(info, settled)

    def _reply(self, info: AccountInfo, settled: Mapping[Currency, Balance]) -> AccountReply:
        balances = []
        for currency in CURRENCIES:
            balance = settled[currency]
            balances.append(
                BalanceItem(
                    currency=currency.code,
                    balance=format_amount(balance.posted, currency),
                    held=format_amount(balance.held, currency),
                    reserved=format_amount(balance.reserved, currency),
                    available=format_amount(balance.available, currency),
                )
            )
        first = balances[J.number]
        return AccountReply(
            account=str(info.number),
            addresses=list(info.addresses),
            currency=first.currency,
            balance=first.balance,
            held=first.held,
            available=first.available,
            balances=balances,
            frozen=info.frozen,
            closed=info.closed,
            merged_into=None if info.merged_into is None else str(info.merged_into),
            opened=format_time(info.opened_ns, 3),
        )

    async def _list(self, request: AccountListRequest) -> AccountListReply:
        found = self._ledger.accounts(request.first, request.limit + 1)
        following = found[request.limit].number if len(found) > request.limit else None
        shown = found[: request.limit]
        settled = await self._ledger.balances([info.number for info in shown])
        return AccountListReply(list(map(self._reply, shown, settled)), following)

    async def _move(self, request: AccountCreditRequest | AccountTransferRequest) -> TransferReply:
        currency = find_currency(request.currency)
        identity = self._id_untrusted(request.id)
        if isinstance(request, AccountCreditRequest):
            (credit,), named = self._names_untrusted(identity, request.account)
            debit, code = ISSUE, Code.CREDIT
        else:
            sides = (request.debit, request.credit)
            (debit, credit), named = self._names_untrusted(identity, *sides)
            code = Code.OPERATOR
        amount = parse_amount_untrusted(request.amount, currency)
        transfer = Transfer(identity, debit, credit, amount, currency.number, code=code)
        await self._do([transfer], named)
        return _transfer_reply(transfer)

    async def _refund(self, request: AccountRefundRequest) -> TransferReply:
        reference = parse_id_untrusted(request.transfer)
        original = self._ledger.find_transfer(reference)
        if original is None:
            raise OperationError(
                f"there is no transfer {request.transfer}", "no_transfer", id=request.transfer
            )
        identity = self._id_untrusted(request.id)
        left = original.amount - self._ledger.refunded(reference)
        # Nothing left: the ledger says so.
        amount = left or original.amount
        earlier = self._ledger.find_transfer(identity)
        if request.amount is not None:
            amount = parse_amount_untrusted(request.amount, CURRENCIES[original.currency])
        elif earlier is not None:
            amount = earlier.amount
        main = self._undo(identity, reference, original, amount)
        # With the last of it comes what is left of the fee.
        fee_reference, fee_identity = derive_id(reference, b"fee"), derive_id(identity, b"fee")
        fee = self._ledger.find_transfer(fee_reference) if original.code == Code.USER else None
        fee_amount = 0
        if earlier is not None:
            fee_before = self._ledger.find_transfer(fee_identity)
            fee_amount = 0 if fee_before is None else fee_before.amount
        elif fee is not None and amount == left:
            fee_amount = fee.amount - self._ledger.refunded(fee_reference)
        if fee is None or not fee_amount:
            await self._do([main])
        else:
            undo_fee = self._undo(fee_identity, fee_reference, fee, fee_amount)
            await self._do([main._replace(linked=True), undo_fee])
        return _transfer_reply(main, fee_amount)

    def _undo(self, identity: bytes, reference: bytes, original: Transfer, amount: int) -> Transfer:
        """Where accounts were merged since, those that have taken them over refund for them; what
        was refunded before is asked for as it was then."""
        earlier = self._ledger.find_transfer(identity)
        if earlier is None:
            sides = self._ledger.heir(original.credit), self._ledger.heir(original.debit)
        else:
            sides = earlier.debit, earlier.credit
        return Transfer(
            identity,
            *sides,
            amount,
            original.currency,
            code=Code.REFUND,
            reference=reference,
            refund=True,
        )

    async def _link(self, request: AccountLinkRequest | AccountUnlinkRequest) -> AccountReply:
        named = self._name_untrusted(request.account)
        address = self._normal(request.address)
        once = _once_untrusted(request.id)
        act = self._ledger.link if isinstance(request, AccountLinkRequest) else self._ledger.unlink
        return await self._show(await act(named, address, once))

    async def _history(self, request: AccountHistoryRequest) -> HistoryReply:
        account = self.find_account_untrusted(request.account)
        settled = None
        if request.before is None:
            lines, sums = await self._ledger.latest(account, request.limit)
            if account not in self._paid_by_sessions():
                settled = {one.code: format_amount(sums[one], one) for one in CURRENCIES}
        else:
            lines = await self._ledger.history(account, request.before, request.limit)
        name = cache(self._called)
        items = [history_item(line, account, name) for line in lines]
        # A full page may be the last one; the next is empty then.
        following = lines[-1].place if len(lines) == request.limit else None
        return HistoryReply(str(account), items, following, settled)

    def _paid_by_sessions(self) -> set[int | None]:
        """Accounts that have money of which no line tells."""
        return {NODE, BURN, *(self._ledger.find(line.into) for line in self._tariff.values())}

    def _called(self, account: int) -> str:
        """By which name others see an account."""
        addresses = self._ledger.account(account).addresses
        return addresses[0] if addresses else f"#{account}"

    async def _create_vouchers(self, request: VoucherCreateRequest) -> VouchersReply:
        currency = find_currency(request.currency)
        amount = parse_amount_untrusted(request.amount, currency)
        once = _once_untrusted(request.id)
        codes = await self._vouchers.create(amount, currency, request.count, once)
        return VouchersReply(codes, format_amount(amount, currency), currency.code)

    async def _do(
        self,
        chain: Sequence[Transfer],
        side_writes: Sequence[SideWrite] = (),
        also: Also | None = None,
    ) -> None:
        """Do transfers that are linked with each other."""
        refusal = refusal_of(await self._ledger.transfer(chain, side_writes, also))
        if refusal is not None:
            raise TransferRefused(refusal)

    def _name_untrusted(self, text: str) -> int | str:
        """How somebody names an account: its number, or an address in its one spelling."""
        is_bare = text.isascii() and text.isdigit() and len(text) <= BARE_NUMBER_DIGITS
        number = account_number_untrusted(f"#{text}" if is_bare else text)
        return normalise_address_untrusted(text, self._region) if number is None else number

    def _find(self, name: int | str) -> int:
        return _existing(name, self._ledger.find(_written(name)))

    def _names_untrusted(
        self, identity: bytes, *texts: str
    ) -> tuple[list[int], Sequence[SideWrite]]:
        """The accounts that a transfer of that id names, and what is to be kept of it: addresses
        move, and the transfer when it is asked for again is still between those of the first time.
        """
        names = [self._name_untrusted(text) for text in texts]
        numbers = list(map(_existing, names, self._look_up(identity, names)))
        return numbers, _named(identity, names, numbers)

    def _look_up(self, identity: bytes, names: Sequence[int | str]) -> list[int | None]:
        """Whom a transfer of that id names, or has named when it was done."""
        addresses = [_written(name) for name in names]
        found, kept = self._ledger.look_up(addresses, DEDUPLICATION, _named_key(identity))
        asked = _asked(names)
        if kept is not None and kept[: len(asked)] == asked:
            return msgspec.msgpack.decode(kept[len(asked) :], type=list[int | None])
        return found

    def _normal(self, address: str) -> str:
        return normalise_address_untrusted(address, self._region)

    def _id_untrusted(self, text: str | None) -> bytes:
        return new_id(self._clock) if text is None else parse_id_untrusted(text)


def _written(name: int | str) -> str:
    return f"#{name}" if isinstance(name, int) else name


def _existing(name: int | str, number: int | None) -> int:
    if number is None:
        address = _written(name)
        raise OperationError(f"there is no account {address}", "no_account", account=address)
    return number


def _named_key(identity: bytes) -> bytes:
    return b"named " + identity


def _asked(names: Sequence[int | str]) -> bytes:
    return sha256(msgspec.msgpack.encode(names)).digest()


def _named(
    identity: bytes, names: Sequence[int | str], numbers: Sequence[int]
) -> Sequence[SideWrite]:
    """What is kept of whom a transfer names by addresses."""
    if all(isinstance(name, int) for name in names):
        return ()
    value = _asked(names) + msgspec.msgpack.encode(numbers)
    return [SideWrite(DEDUPLICATION, _named_key(identity), value)]


def _once_untrusted(text: str | None) -> bytes | None:
    return None if text is None else parse_id_untrusted(text)


def _transfer_reply(transfer: Transfer, fee: int = 0) -> TransferReply:
    currency = CURRENCIES[transfer.currency]
    return TransferReply(
        id=transfer.id.hex(),
        debit=str(transfer.debit),
        credit=str(transfer.credit),
        amount=format_amount(transfer.amount, currency),
        currency=currency.code,
        fee=format_amount(fee, currency),
    )
