"""What a button asks to be confirmed: a transfer, a call. Each is done once, however often and by
whatever update its buttons come; and once it was chosen what to do, that is done."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from bridges.spool import Spool
from bridges.telegram.table import Table
from core.api.bridge_messages import effect_id
from core.clock import Clock
from core.units import MINUTE_S

OFFERS_MAXIMUM: Final = 10_000
LIFETIME_S: Final = 10 * MINUTE_S
"""Afterwards prices and names may be others."""
_TOKEN_CHARACTERS: Final = 24

Choice = Literal["", "send", "voice", "video", "cancel"]


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Something that may be done.

    Attributes:
        user: whose it is; nobody else may choose.
        to, name: the address that it is about, and what it is called.
        amount: in Ɉ; empty for a call.
        sms_price: what the SMS costs by which a callee hears of a call, as was shown, in Ɉ.
        chosen: what is to be done, once that was said.
        refused: what was said when that was refused: it is over then.
    """

    user: int
    to: str
    name: str
    amount: str = ""
    sms_price: str = "0"
    made_s: int
    chosen: Choice = ""
    refused: str = ""


class Offers:
    """The offers of late, by their tokens."""

    def __init__(self, spool: Spool, clock: Clock, bot_id: int) -> None:
        self._table = Table(spool, "offer", OFFERS_MAXIMUM)
        self._clock = clock
        self._bot_id = str(bot_id)

    async def make(
        self,
        update: int,
        user: int,
        to: str,
        name: str,
        amount: str = "",
        *,
        sms_price: str = "0",
    ) -> str:
        """Offer something that an update has asked for; returns the token."""
        token = effect_id("telegram", self._bot_id, "offer", str(update))[:_TOKEN_CHARACTERS]
        # An update that is carried out again must not take back what was chosen meanwhile.
        if token not in self._table:
            made_s = int(self._clock.unix_s())
            offer = Offer(
                user=user, to=to, name=name, amount=amount, sms_price=sms_price, made_s=made_s
            )
            await self._table.put(token, msgspec.json.encode(offer))
        return token

    def get(self, token: str) -> Offer | None:
        """An offer; None for one that was forgotten, or that nobody has chosen in time."""
        value = self._table.get(token)
        if value is None:
            return None
        offer = msgspec.json.decode(value, type=Offer)
        is_old = self._clock.unix_s() >= offer.made_s + LIFETIME_S
        return None if is_old and not offer.chosen else offer

    async def choose(self, token: str, offer: Offer, choice: Choice) -> Offer:
        """Say what is to be done; what was said first stays."""
        if offer.chosen:
            return offer
        chosen = msgspec.structs.replace(offer, chosen=choice)
        await self._table.put(token, msgspec.json.encode(chosen))
        return chosen

    async def refuse(self, token: str, offer: Offer, text: str) -> None:
        """What was chosen was refused, and is not done when its button is pressed once more."""
        refused = msgspec.structs.replace(offer, refused=text)
        await self._table.put(token, msgspec.json.encode(refused))

    def effect(self, token: str) -> str:
        """What names the effect of an offer to the node."""
        return effect_id("telegram", self._bot_id, "offer", token)
