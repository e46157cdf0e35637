"""Calls as bridges ask for them, in the name of people who have an address with them: what one
would cost, its start, its links, its end.

A callee hears of a call where that is possible without cost: in Telegram, else on an open page. A
telephone number that has neither is sent the callee's link by SMS, which the caller pays for, and
which leads nowhere after `INVITATION_S`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, Protocol

from billing.accounts import AddressError, normalise_address_untrusted
from billing.ledger import LmdbLedger
from billing.money import AmountError, J, format_amount, parse_amount_untrusted
from billing.tariff import Line
from billing.transfers import Code, Transfer, TransferRefused, derive_id, new_id, refusal_of
from core.api.bridge_messages import (
    CallHangUpRequest,
    CallQuoteReply,
    CallQuoteRequest,
    CallRejectRequest,
    CallSideReply,
    CallSideRequest,
    CallStartRequest,
)
from core.clock import Clock
from core.errors import SignalingError
from core.sms_parts import sms_parts
from core.tables import Writing
from core.units import MINUTE_S
from relay.signaling.call_admission import MINIMUM_S
from relay.signaling.call_heartbeats import Side
from relay.signaling.call_notices import CallNotices
from relay.signaling.call_records import CallInfo
from relay.signaling.call_states import Status
from relay.signaling.calls import CallManager
from relay.signaling.descriptions import Kind
from relay.signaling.hang_ups import choose_hang_up

INVITATION_S: Final = 15 * MINUTE_S
"""For so long a link that was sent by SMS leads to the call."""
RUSSIAN_PREFIXES: Final = ("+7", "+375")
"""Whose numbers are written to in Russian."""

Reach = Literal["telegram", "page", "sms", "none"]
Links = Callable[[str], tuple[str, str]]
"""The links of the caller and of the callee of a call, by its id."""

_INVITATIONS: Final = {
    "en": "{caller} calls you. Answer within {minutes} minutes: {link}",
    "ru": "Звонит {caller}, ответьте за {minutes} мин: {link}",
}
_SOMEONE: Final = {"en": "Someone", "ru": "кто-то"}
_SOMEONE_IN_TELEGRAM: Final = {"en": "Someone in Telegram", "ru": "кто-то из Telegram"}
_USERNAME = re.compile("[A-Za-z0-9_]{1,32}")
_ANY_CALL: Final = "CALL-AAAAAAAA"
"""All have links of the same length."""
_HUNG_UP_FIRST: Final = (Status.ACTIVE, Status.RINGING, Status.PENDING)


class SmsSender(Protocol):
    """Who sends SMS, within what the operator allows."""

    def may_send(self, phone: str, parts: int) -> bool:
        """Whether an SMS of so many parts would be sent to a number now."""

    def put_sms(
        self, writing: Writing, phone: str, text: str, *, key: bytes, lifetime_s: int
    ) -> None:
        """Have one sent once the transaction is durable.

        Args:
            key: 16 bytes, the event's id.
            lifetime_s: it is not sent any more when this is over.

        Raises:
            OperationError: it isn't allowed: to this number, or so many.
        """


class BridgeCalls:
    """Answers what bridges ask of calls.

    Args:
        has_page: whether an account has a page open on which it rings.
        sms_line: what a part of an SMS costs, and who is paid.
        region: of telephone numbers that are written without their country.

    Attributes:
        sms: who sends SMS; None where nobody does.
    """

    def __init__(
        self,
        calls: CallManager,
        ledger: LmdbLedger,
        clock: Clock,
        notices: CallNotices,
        *,
        line_of: Callable[[Kind], Line],
        has_page: Callable[[int], bool],
        links: Links,
        sms_line: Line,
        region: str | None,
    ) -> None:
        self._calls = calls
        self._ledger = ledger
        self._clock = clock
        self._notices = notices
        self._line_of = line_of
        self._has_page = has_page
        self._links = links
        self._sms_line = sms_line
        self._region = region
        self.sms: SmsSender | None = None

    def quote(self, request: CallQuoteRequest) -> CallQuoteReply:
        """What a call would cost, and how its callee would hear of it.

        Raises:
            SignalingError: ``no-account``, ``blocked``.
        """
        admission = self._calls.admission
        caller_address, caller = admission.caller_untrusted(request.caller)
        callee_address, callee = admission.callee_untrusted(request.callee, caller)
        shown = caller_address, request.username
        reach = self._reach(callee_address, callee, *shown)
        price = self._line_of(Kind(request.kind)).price_second
        sms_price = 0
        if reach == "sms":
            text = self._invitation(callee_address, *shown)
            sms_price = self._sms_line.price_command * sms_parts(text)
        return CallQuoteReply(
            reach=reach,
            price_second=format_amount(price),
            minimum=format_amount(MINIMUM_S * price + sms_price),
            available=format_amount(self._ledger.balance(caller, J).available),
            sms_price=format_amount(sms_price),
        )

    async def start(self, request: CallStartRequest) -> CallInfo:
        """Make a call; under a request's id the one that was made first.

        Raises:
            SignalingError: as `CallManager.create`; ``sms-price``: it takes an SMS that costs more
                than the caller has agreed to.
            OperationError: the SMS can't be sent, or not be paid for.
        """
        effect = request.id or ""
        made = await self._calls.find_made(effect)
        if made is not None:
            return made
        kind = Kind(request.kind)
        asked = effect, request.caller, request.callee, kind
        admission = self._calls.admission
        caller_address, caller = admission.caller_untrusted(request.caller)
        phone, callee = admission.callee_untrusted(request.callee, caller)
        if self._reach(phone, callee, caller_address, request.username) != "sms":
            return await self._calls.create_once(*asked)
        identity = derive_id(bytes.fromhex(effect) if effect else new_id(self._clock), b"call")
        agreed = _agreed_untrusted(request.sms_price)

        async def keep(info: CallInfo) -> bool:
            await self._invite(info, phone, request.username, identity, agreed)
            return True

        return await self._calls.create_once(*asked, expires_s=INVITATION_S, keep=keep)

    async def _invite(
        self, info: CallInfo, phone: str, username: str, identity: bytes, agreed: int
    ) -> None:
        """Store a call, send its link and have the caller pay for that: all or nothing."""
        assert self.sms is not None
        sms = self.sms
        text = self._invitation(phone, info.from_address, username, info.id)
        price, into = self._sms_line.price_command * sms_parts(text), self._sms_line.into
        if price > agreed:
            # The callee's page may have been open when the caller was told what it costs.
            raise SignalingError(
                "sms-price",
                f"this call takes an SMS, which costs {format_amount(price)} Ɉ; that was not "
                "agreed to",
                price=format_amount(price),
            )

        def write(writing: Writing) -> None:
            is_new = self._calls.records.put_new(writing, info)
            assert is_new, "the manager has found its id free, and keeps it"
            sms.put_sms(writing, phone, text, key=identity, lifetime_s=INVITATION_S)

        if not price:
            await self._ledger.store.write(write)
            return
        needed = MINIMUM_S * info.price_second + price
        if self._ledger.balance(info.caller, J).available < needed:
            raise SignalingError(
                "no-money",
                f"this call takes {format_amount(needed)} Ɉ on the account: for its first minute, "
                "and for the SMS",
                needed=format_amount(needed),
            )
        charge = Transfer(
            derive_id(identity, b"sms"), info.caller, into, price, J.number, code=Code.SMS
        )
        refusal = refusal_of(await self._ledger.transfer([charge], also=write))
        if refusal is not None:
            raise TransferRefused(refusal)

    def _invitation(self, phone: str, caller: str, username: str, call_id: str = _ANY_CALL) -> str:
        language = "ru" if phone.startswith(RUSSIAN_PREFIXES) else "en"
        _, link = self._links(call_id)
        # The callee may know a name in Telegram; the number there tells nobody anything.
        if caller.startswith("tg:"):
            is_name = _USERNAME.fullmatch(username)
            caller = f"@{username} (Telegram)" if is_name else _SOMEONE_IN_TELEGRAM[language]
        elif caller.startswith(("key:", "#")):
            caller = _SOMEONE[language]
        return _INVITATIONS[language].format(
            caller=caller, minutes=INVITATION_S // MINUTE_S, link=link
        )

    def _reach(self, address: str, account: int | None, caller: str, username: str) -> Reach:
        with self._ledger.store.read() as tables:
            if self._notices.address_of(tables, account, address) is not None:
                return "telegram"
        if account is not None and self._has_page(account):
            return "page"
        if self.sms is None or not address.startswith("+"):
            return "none"
        parts = sms_parts(self._invitation(address, caller, username))
        return "sms" if self.sms.may_send(address, parts) else "none"

    # ------------------------------------------------------------ calls that are there

    async def side(self, request: CallSideRequest) -> CallSideReply:
        """An address's side of a call. A callee in Telegram, who is about to see it, hears there
        when it is over.

        Raises:
            SignalingError: ``no-call``: there is none, or it is nobody's of this address.
        """
        info, side = self.side_untrusted(request.call, request.address)
        if side is Side.CALLEE and request.address.startswith("tg:"):
            await self._calls.show(info.id, request.address)
            # What has become of it until that was stored is not told.
            info, side = self.side_untrusted(request.call, request.address)
        caller_url, callee_url = self._links(info.id)
        is_caller = side is Side.CALLER
        return CallSideReply(
            url=caller_url if is_caller else callee_url,
            role="caller" if is_caller else "callee",
            status=info.status.value,
            kind=info.kind.value,
            other=(info.to_address or "") if is_caller else info.from_address,
        )

    async def reject(self, request: CallRejectRequest) -> CallInfo:
        """The callee doesn't want it; says the same when it is repeated.

        Raises:
            SignalingError: ``no-call``; ``wrong-state``: it was answered already.
        """
        info, side = self.side_untrusted(request.call, request.address)
        if side is not Side.CALLEE:
            raise _no_call()
        _, ended = await self._calls.reject_call(info.id)
        return ended

    async def hang_up(self, request: CallHangUpRequest) -> CallInfo:
        """End an address's call, or whichever lives; a request that is repeated means the same one.

        Raises:
            SignalingError: ``no-call``.
            OperationError: it can't be stored which one is meant.
        """
        call = request.call or await self._meant_untrusted(request.address, request.id)
        info, side = self.side_untrusted(call, request.address)
        _, ended = await self._calls.end_call(info.id, side)
        return ended

    async def _meant_untrusted(self, text: str, effect: str | None) -> str:
        """The call that somebody means who names none, now or when they have asked for the same
        effect before."""
        address, account = self._who_untrusted(text)
        if account is None:
            raise _no_call()
        call = self._living(address, account)
        if effect is not None:
            choose = partial(choose_hang_up, account=account, effect=effect, call=call)
            call = await self._ledger.store.write(choose)
        if not call:
            raise SignalingError("no-call", "there is no call to hang up")
        return call

    def _living(self, address: str, account: int) -> str:
        """One that was answered before one that rings, and that before one of their own that
        waits; empty for none."""
        living = self._calls.living(account)
        for status in _HUNG_UP_FIRST:
            for info in living:
                side = self._side_of(info, address, account)
                is_theirs = side is Side.CALLER or status is not Status.PENDING
                if side is not None and info.status is status and is_theirs:
                    return info.id
        return ""

    def side_untrusted(self, call_id: str, address: str) -> tuple[CallInfo, Side]:
        """A call, also one that is over, and which of its sides somebody is.

        Raises:
            SignalingError: ``no-call``.
        """
        info = self._calls.find(call_id)
        name, account = self._who_untrusted(address)
        side = None if info is None else self._side_of(info, name, account)
        if info is None or side is None:
            raise _no_call()
        return info, side

    def _who_untrusted(self, text: str) -> tuple[str, int | None]:
        try:
            address = normalise_address_untrusted(text, self._region)
        except AddressError as error:
            raise _no_call() from error
        account = self._ledger.find(address)
        return address, None if account is None else self._ledger.heir(account)

    def _side_of(self, info: CallInfo, address: str, account: int | None) -> Side | None:
        # Somebody who had no account when they were called may have one now.
        if account is not None and self._ledger.heir(info.caller) == account:
            return Side.CALLER
        if info.callee is None:
            return Side.CALLEE if info.to_address == address else None
        return Side.CALLEE if self._ledger.heir(info.callee) == account else None


def _agreed_untrusted(text: str) -> int:
    """
    Raises:
        AmountError: it is no amount.
    """
    try:
        return parse_amount_untrusted(text)
    except AmountError as error:
        if error.code == "zero_amount":
            return 0
        raise


def _no_call() -> SignalingError:
    return SignalingError("no-call", "there is no such call")
