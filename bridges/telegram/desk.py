"""What every command works with: the node, the chats, the people."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, TypeVar

from telegram import InlineKeyboardMarkup

from bridges.node_link import NodeAway, NodeLink
from bridges.telegram.offers import Offers
from bridges.telegram.outgoing import Keyboard, Outgoing
from bridges.telegram.people import People
from bridges.telegram.rings import Rings
from bridges.telegram.texts import Language, say
from bridges.telegram.updates import Incoming
from core.api.bridge_messages import (
    CallHangUpRequest,
    CallRejectRequest,
    CallStartRequest,
    LinkConfirmRequest,
    LinkStartRequest,
    UserOpenRequest,
    UserTransferRequest,
    effect_id,
)
from core.api.messages import AccountReply, ReplyBody, RequestBody, VoucherRedeemRequest
from core.clock import Clock
from core.errors import ApiError, OperationError
from core.written import narrow, phone_number_untrusted

PATIENCE_S: Final = 10.0
"""So long the node may take before somebody is told that it is away."""
_USERNAME = re.compile(r"@?[A-Za-z][A-Za-z0-9_]{3,31}")
_NUMBER = re.compile(r"[+(0-9][0-9 ()./+-]*")
"""What is meant as a telephone number, and may be none."""
_EFFECTS: Final = (
    CallHangUpRequest,
    CallRejectRequest,
    CallStartRequest,
    LinkConfirmRequest,
    LinkStartRequest,
    UserTransferRequest,
    VoucherRedeemRequest,
)
"""What is more than a question, or than an account that is opened."""

R = TypeVar("R", bound=ReplyBody)


@dataclass(frozen=True, slots=True)
class Contact:
    """Somebody to whom money is sent, or who is called.

    Attributes:
        address: ``tg:...``, or a telephone number, `+79991234567`.
        user: their number with Telegram; None for a telephone number.
    """

    address: str
    name: str
    user: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What commands share.

    Attributes:
        bot, bot_id: the bot's user name, and its number.
        app: the short name of its Mini App; None where it has none.
        region: the country, in two letters, of telephone numbers that are written without theirs.
        begun: updates for which the node was asked for an effect, and has not refused it.
    """

    node: NodeLink
    out: Outgoing
    people: People
    offers: Offers
    rings: Rings
    clock: Clock
    bot: str
    bot_id: int
    app: str | None
    region: str | None
    begun: set[int] = field(default_factory=set)

    def language(self, incoming: Incoming) -> Language:
        """In which language somebody is answered."""
        return self.people.language_of(incoming.sender.user)

    def effect(self, incoming: Incoming, what: str) -> str:
        """What names an effect of an update to the node."""
        return effect_id("telegram", str(self.bot_id), str(incoming.update), what)

    async def ask(self, incoming: Incoming, request: RequestBody, reply: type[R]) -> R:
        """Ask the node, however long it is away; who waits is told then.

        Raises:
            OperationError: the node refuses it.
            ApiError: no node would read it.
            NotSent: they can't be told.
        """
        if isinstance(request, _EFFECTS):
            self.begun.add(incoming.update)
        try:
            answer = await self._answer(incoming, request)
        except (OperationError, ApiError):
            self.begun.discard(incoming.update)
            raise
        assert isinstance(answer, reply)
        return answer

    async def _answer(self, incoming: Incoming, request: RequestBody) -> ReplyBody:
        try:
            return await self.node.try_request(request, timeout_s=PATIENCE_S)
        except NodeAway:
            await self.tell(incoming, "node_away")
            return await self.node.request(request)

    async def open_account(self, incoming: Incoming) -> None:
        """Have an account opened for who writes, where they have none.

        Raises:
            as `ask`.
        """
        if not self.people.of(incoming.sender.user).has_account:
            await self.account(incoming)

    async def account(self, incoming: Incoming) -> AccountReply:
        """The account of who writes, which is opened where they have none.

        Raises:
            as `ask`.
        """
        user = incoming.sender.user
        account = await self.ask(incoming, UserOpenRequest(f"tg:{user}"), AccountReply)
        await self.people.know(user, has_account=True)
        return account

    async def tell(
        self, incoming: Incoming, key: str, keyboard: Keyboard | None = None, **values: object
    ) -> None:
        """Answer in the chat that an update has come from.

        Raises:
            NotSent: Telegram does not take it.
        """
        await self.out.send(incoming.chat, say(self.language(incoming), key, **values), keyboard)

    async def change(
        self,
        incoming: Incoming,
        text: str,
        keyboard: InlineKeyboardMarkup | None = None,
    ) -> None:
        """Change the message whose button was pressed.

        Raises:
            NotSent: Telegram does not take it.
        """
        await self.out.edit(incoming.chat, incoming.message, text, keyboard)

    async def find_contact(self, incoming: Incoming, written: str) -> Contact | None:
        """Whom somebody means: who is mentioned or was picked, a user name, a telephone number, or,
        where nothing is written, whom the message answers. None when they were told why nobody is.

        Raises:
            NotSent: they can't be told.
        """
        user: int | None = None
        plain = " ".join(narrow(written).split())
        if incoming.others:
            user = incoming.others[0].user
        elif _NUMBER.fullmatch(plain):
            # What is shown is the number that is meant, however it was written.
            number = phone_number_untrusted(plain, self.region)
            if number is None:
                await self.tell(incoming, "bad_number")
                return None
            return Contact(number, number, None)
        elif _USERNAME.fullmatch(written):
            user = self.people.find(written)
        elif not written and incoming.answered is not None:
            user = incoming.answered.user
        if user is None:
            name = written[:64] or "?"
            await self.tell(incoming, "unknown_user", name=name, bot=self.bot)
            return None
        if user == incoming.sender.user:
            await self.tell(incoming, "yourself")
            return None
        known = self.people.of(user)
        name = self.people.called(user)
        if known.blocked:
            await self.tell(incoming, "has_blocked", name=name)
            return None
        if not known.writes:
            await self.tell(incoming, "not_started", name=name, bot=self.bot)
            return None
        return Contact(f"tg:{user}", name, user)

    def called(self, language: Language, address: str) -> str:
        """How an address of the node's is shown."""
        number = address.removeprefix("tg:")
        if number != address and number.isascii() and number.isdigit():
            return self.people.called(int(number))
        return address or say(language, "somebody")
