"""Commands about money: /balance, /send, /redeem, /history, /link."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

from bridges.telegram import keyboards
from bridges.telegram.desk import Desk
from bridges.telegram.offers import Offer
from bridges.telegram.texts import Language, purpose_text, say, short
from bridges.telegram.updates import Incoming
from core.api.bridge_messages import (
    LinkConfirmRequest,
    LinkLookReply,
    LinkLookRequest,
    LinkStartReply,
    LinkStartRequest,
    UserTransferRequest,
)
from core.api.messages import (
    AccountHistoryRequest,
    AccountReply,
    HistoryItem,
    HistoryReply,
    TransferReply,
    VoucherRedeemRequest,
)
from core.purposes import OWN_ACCOUNTS
from core.units import MINUTE_S
from core.written import is_ambiguous_untrusted, narrow, plain_amount_untrusted

HISTORY_LINES: Final = 10
FEE_SHARE: Final = Decimal("0.01")
FEE_LEAST: Final = Decimal(1)
"""As the node charges; a test compares them."""
_SMALLEST: Final = Decimal("0.000001")
_AMOUNT = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?")
_PHONE = re.compile(r"\+?[0-9][0-9 ().-]{6,30}")
LINK_CODE: Final = re.compile(r"[A-Za-z2-7]{4}[-\s]?[A-Za-z2-7]{4}")


class Money:
    """Carries them out; every method raises `OperationError` where the node refuses it, and
    `NotSent` where Telegram takes no answer."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def start(self, incoming: Incoming) -> None:
        """Greet, with the menu."""
        account = await self._desk.account(incoming)
        language = self._desk.language(incoming)
        balance = short(account.available)
        await self._desk.tell(incoming, "hello", keyboards.menu(language), balance=balance)

    async def balance(self, incoming: Incoming) -> None:
        """What somebody has."""
        account = await self._desk.account(incoming)
        held = ""
        if Decimal(account.held):
            held = say(self._desk.language(incoming), "held", held=short(account.held))
        await self._desk.tell(incoming, "balance", available=short(account.available), held=held)

    async def send(self, incoming: Incoming, arguments: str) -> None:
        """Offer a transfer: `@user 10`, or `+79991234567 10`."""
        *words, amount_written = narrow(arguments).split() or [""]
        written = " ".join(words)
        if not written:
            await self._desk.tell(incoming, "how_to_send")
            return
        if is_ambiguous_untrusted(written, amount_written, self._desk.region):
            await self._desk.tell(incoming, "ambiguous_send")
            return
        amount = _amount(amount_written)
        if amount is None:
            await self._desk.tell(incoming, "bad_amount")
            return
        contact = await self._desk.find_contact(incoming, written)
        if contact is None:
            return
        account = await self._desk.account(incoming)
        if contact.address in account.addresses:
            await self._desk.tell(incoming, "yourself")
            return
        fee = max(FEE_LEAST, (amount * FEE_SHARE).quantize(_SMALLEST, ROUND_CEILING))
        token = await self._desk.offers.make(
            incoming.update, incoming.sender.user, contact.address, contact.name, f"{amount:f}"
        )
        await self._desk.tell(
            incoming,
            "confirm_send",
            keyboards.confirm_send(self._desk.language(incoming), token),
            amount=short(f"{amount:f}"),
            name=contact.name,
            fee=short(f"{fee:f}"),
            total=short(f"{amount + fee:f}"),
            available=short(account.available),
        )

    async def confirmed(self, incoming: Incoming, token: str, offer: Offer) -> None:
        """Do a transfer that was offered."""
        request = UserTransferRequest(
            debit=f"tg:{offer.user}",
            credit=offer.to,
            amount=offer.amount,
            id=self._desk.offers.effect(token),
        )
        done = await self._desk.ask(incoming, request, TransferReply)
        text = say(
            self._desk.language(incoming),
            "sent",
            amount=short(done.amount),
            name=offer.name,
            fee=short(done.fee),
        )
        await self._desk.change(incoming, text)

    async def redeem(self, incoming: Incoming, code: str) -> None:
        """Redeem a voucher."""
        if not code or len(code) > 128:
            await self._desk.tell(incoming, "how_to_redeem")
            return
        await self._desk.open_account(incoming)
        request = VoucherRedeemRequest(code, _address(incoming))
        done = await self._desk.ask(incoming, request, TransferReply)
        await self._desk.tell(
            incoming, "redeemed", amount=short(done.amount), currency=_symbol(done.currency)
        )

    async def history(self, incoming: Incoming, before: str = "") -> None:
        """What came and went, the last first."""
        await self._desk.open_account(incoming)
        place = int(before) if before.isascii() and before.isdigit() and len(before) < 19 else 0
        request = AccountHistoryRequest(_address(incoming), place or None, HISTORY_LINES)
        page = await self._desk.ask(incoming, request, HistoryReply)
        language = self._desk.language(incoming)
        if not page.lines:
            await self._desk.tell(incoming, "no_history")
            return
        text = "\n".join(self._line(language, item) for item in page.lines)
        following = None if page.next is None else str(page.next)
        keyboard = keyboards.more(language, keyboards.HISTORY, following)
        await self._desk.out.send(incoming.chat, text, keyboard)

    async def link(self, incoming: Incoming, written: str) -> None:
        """Send a code to a telephone, or say what the one that came would do."""
        written = " ".join(narrow(written).split())
        if _PHONE.fullmatch(written):
            await self._start_link(incoming, written)
        elif LINK_CODE.fullmatch(written):
            await self._offer_link(incoming, written)
        else:
            await self._desk.tell(incoming, "how_to_link")

    async def _start_link(self, incoming: Incoming, phone: str) -> None:
        await self._desk.open_account(incoming)
        request = LinkStartRequest(_address(incoming), phone, self._desk.effect(incoming, "link"))
        started = await self._desk.ask(incoming, request, LinkStartReply)
        await self._desk.tell(incoming, "code_sent", minutes=started.expires_s // MINUTE_S)

    async def _offer_link(self, incoming: Incoming, written: str) -> None:
        # Whose SMS it was, the code doesn't say: others have people type theirs.
        code = re.sub(r"[-\s]", "", written).upper()
        await self._desk.open_account(incoming)
        request = LinkLookRequest(_address(incoming), code)
        found = await self._desk.ask(incoming, request, LinkLookReply)
        if found.linked:
            await self._desk.tell(incoming, "already_linked", phone=found.phone)
            return
        keyboard = keyboards.confirm_link(self._desk.language(incoming), code)
        await self._desk.tell(incoming, "confirm_link", keyboard, phone=found.phone)

    async def link_confirmed(self, incoming: Incoming, code: str) -> None:
        """Link the number that a code has come to."""
        await self._desk.open_account(incoming)
        request = LinkConfirmRequest(_address(incoming), code)
        account = await self._desk.ask(incoming, request, AccountReply)
        text = say(self._desk.language(incoming), "linked", balance=short(account.available))
        await self._desk.change(incoming, text)

    def _line(self, language: Language, item: HistoryItem) -> str:
        moment = f"{item.time[:16].replace('T', ' ')} UTC"
        sign = "" if item.amount.startswith("-") else "+"
        what = purpose_text(language, item.purpose)
        if item.session is not None:
            other = item.session.name
        else:
            # The ledger's own accounts tell less than the purpose does.
            is_own = item.other in OWN_ACCOUNTS
            other = "" if is_own else self._desk.called(language, item.other)
        words = [moment, f"{sign}{short(item.amount)} {_symbol(item.currency)}", what, other]
        return " · ".join(word for word in words if word)


def _amount(written: str) -> Decimal | None:
    plain = plain_amount_untrusted(written)
    if plain is None or not _AMOUNT.fullmatch(plain):
        return None
    amount = Decimal(plain)
    return amount if amount > 0 else None


def _address(incoming: Incoming) -> str:
    return f"tg:{incoming.sender.user}"


def _symbol(currency: str) -> str:
    return "Ɉ" if currency == "J" else currency
