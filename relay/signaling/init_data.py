"""Whose a Mini App is, by what Telegram has signed for it: its `initData`.

It names the user, and when it was made. Telegram signs it twice (core.telegram.org/bots/webapps,
"Validating data received via the Mini App"): with Ed25519 for everybody who knows Telegram's key,
and with HMAC for who has the bot's token. The first is checked here; the token is the Telegram
bridge's alone, which is asked about what has no such signature.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from core.api.bridge_messages import BridgeAnswerRequest, InitDataBody
from core.bridge_config import TelegramConfig
from core.clock import Clock
from core.errors import OperationError, SignalingError
from core.log import RepeatedEvent
from core.units import HOUR_S
from relay.web.client_address import client_network
from relay.web.rate_limit import RateLimiter

INIT_DATA_MAXIMUM: Final = 4_096
"""Characters; a question to a bridge holds no more."""
FIELDS_MAXIMUM: Final = 32
AGE_MAXIMUM_S: Final = HOUR_S
CLOCKS_DIFFER_S: Final = 30
"""By so much Telegram's clock may be ahead of this machine's."""
QUESTIONS_A_MINUTE: Final = 30
"""By one network, to the bridge."""
ANSWER_S: Final = 10.0

_log = logging.getLogger("montana.signaling")
_SIGNATURES: Final = ("hash", "signature")
_NAME = re.compile(r"[a-z_]{1,32}")
_DIGITS = re.compile(r"[1-9][0-9]{0,15}")

Ask = Callable[[InitDataBody, float], Awaitable[BridgeAnswerRequest]]
"""Asks the Telegram bridge, and waits for the answer for so many seconds; raises OperationError."""


class InitDataError(SignalingError):
    """Telegram has not made this for the bot; the page is told no more than that.

    Attributes:
        reason: what is wrong with it, without quoting it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("bad-proof", "Telegram has not signed this")
        self.reason = reason


class InitData(NamedTuple):
    """What was received, taken apart and not yet believed.

    Attributes:
        fields: names and values, decoded.
        user: Telegram's number of the user.
        made_s: when it was made, in seconds since 1970.
    """

    fields: dict[str, str]
    user: int
    made_s: int


class _User(msgspec.Struct):
    id: int


_user_decoder = msgspec.json.Decoder(_User)


def parse_untrusted(text: str) -> InitData:
    """Take initData apart.

    Raises:
        InitDataError: it is none; a name that comes twice is among what it can't have, since one
            reader would take the first and another the last.
    """
    if len(text) > INIT_DATA_MAXIMUM:
        raise InitDataError("it is too long")
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=FIELDS_MAXIMUM,
        )
    except ValueError as error:
        raise InitDataError("no fields that can be read") from error
    fields = dict(pairs)
    if len(fields) < len(pairs) or not all(map(_NAME.fullmatch, fields)):
        raise InitDataError("a field is there twice, or has no name of Telegram's")
    # A line's end would let one field pass for two in what is signed.
    if any("\n" in value for value in fields.values()):
        raise InitDataError("a field has more than one line")
    made = fields.get("auth_date", "")
    try:
        user = _user_decoder.decode(fields.get("user", "")).id
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise InitDataError("it names no user") from error
    if _DIGITS.fullmatch(made) is None or _DIGITS.fullmatch(str(user)) is None:
        raise InitDataError("it has no date, or names no user")
    return InitData(fields, user, int(made))


def is_signed_untrusted(fields: dict[str, str], bot_id: int, public_key: bytes) -> bool:
    """Whether Telegram has signed these fields for a bot with Ed25519, as third parties check it.

    Args:
        public_key: Telegram's, 32 bytes.
    """
    lines = [f"{name}={fields[name]}" for name in sorted(fields) if name not in _SIGNATURES]
    message = "\n".join([f"{bot_id}:WebAppData", *lines]).encode(errors="surrogatepass")
    try:
        signature = base64.b64decode(fields["signature"] + "==", altchars=b"-_", validate=True)
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, binascii.Error, ValueError):
        return False
    return True


class TelegramProof:
    """Says whose initData is.

    Args:
        config: of the bot; None where there is none, and nothing is believed.
        ask: how the Telegram bridge is asked.
    """

    def __init__(self, config: TelegramConfig | None, clock: Clock, ask: Ask) -> None:
        self._config = config
        self._clock = clock
        self._ask = ask
        self._questions = RateLimiter(QUESTIONS_A_MINUTE, 60, clock)
        self._forgeries = RepeatedEvent(_log, "initData was refused", clock)

    async def address_of_untrusted(self, text: str, client: str) -> str:
        """The address of the user for whom Telegram has made it, ``tg:...``.

        Args:
            client: the IP address of who shows it.

        Raises:
            SignalingError: ``bad-proof``; ``stale-proof``; ``too-many``; ``unavailable``:
                nobody can tell now.
        """
        try:
            return await self._address_of_untrusted(text, client)
        except InitDataError as error:
            self._forgeries.happened(error.reason, error=type(error).__name__)
            raise

    async def _address_of_untrusted(self, text: str, client: str) -> str:
        if self._config is None:
            raise InitDataError("there is no [bridges.telegram]")
        data = parse_untrusted(text)
        age_s = int(self._clock.unix_s()) - data.made_s
        if age_s < -CLOCKS_DIFFER_S:
            raise InitDataError("it is of the future")
        if age_s > AGE_MAXIMUM_S:
            raise SignalingError("stale-proof", "this was opened too long ago; open it again")
        bot_id = self._config.bot_id
        if "signature" in data.fields and self._config.public_key and bot_id is not None:
            key = bytes.fromhex(self._config.public_key)
            if not is_signed_untrusted(data.fields, bot_id, key):
                raise InitDataError("its signature is not Telegram's for this bot")
        elif not await self._asked(text, data.user, client):
            raise InitDataError("the bridge telegram has refused it")
        return f"tg:{data.user}"

    async def _asked(self, text: str, user: int, client: str) -> bool:
        if not self._questions.take(client_network(client)):
            raise SignalingError("too-many", "too many sign-ins from this network; wait a minute")
        try:
            answer = await self._ask(InitDataBody(text), ANSWER_S)
        except OperationError as error:
            raise SignalingError(
                "unavailable", "Telegram's bridge is not there to check who this is"
            ) from error
        return answer.ok and answer.text == str(user)
