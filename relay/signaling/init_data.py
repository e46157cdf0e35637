"""Whose a Mini App is, by what Telegram has signed for it: its `initData`.

It names the user, and when it was made. Telegram signs it twice (core.telegram.org/bots/webapps,
"Validating data received via the Mini App"): with Ed25519 for everybody who knows Telegram's key,
and with HMAC for who has the bot's token. The first is checked here; the token is the Telegram
bridge's alone, which is asked about what has no such signature.
"""

from __future__ import annotations

import base64
import binascii
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

_SIGNATURES: Final = ("hash", "signature")
_NAME = re.compile(r"[a-z_]{1,32}")
_DIGITS = re.compile(r"[1-9][0-9]{0,15}")

Ask = Callable[[InitDataBody, float], Awaitable[BridgeAnswerRequest]]
"""Asks the Telegram bridge, and waits for the answer for so many seconds; raises OperationError."""


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
        SignalingError: ``bad-proof``: it is none; a name that comes twice is among what it can't
            have, since one reader would take the first and another the last.
    """
    if len(text) > INIT_DATA_MAXIMUM:
        raise _bad_proof()
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=FIELDS_MAXIMUM,
        )
    except ValueError as error:
        raise _bad_proof() from error
    fields = dict(pairs)
    if len(fields) < len(pairs) or not all(map(_NAME.fullmatch, fields)):
        raise _bad_proof()
    # A line's end would let one field pass for two in what is signed.
    if any("\n" in value for value in fields.values()):
        raise _bad_proof()
    made = fields.get("auth_date", "")
    try:
        user = _user_decoder.decode(fields.get("user", "")).id
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise _bad_proof() from error
    if _DIGITS.fullmatch(made) is None or _DIGITS.fullmatch(str(user)) is None:
        raise _bad_proof()
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

    async def address_of_untrusted(self, text: str, client: str) -> str:
        """The address of the user for whom Telegram has made it, ``tg:...``.

        Args:
            client: the IP address of who shows it.

        Raises:
            SignalingError: ``bad-proof``; ``stale-proof``; ``too-many``; ``unavailable``:
                nobody can tell now.
        """
        if self._config is None:
            raise _bad_proof()
        data = parse_untrusted(text)
        age_s = int(self._clock.unix_s()) - data.made_s
        if age_s < -CLOCKS_DIFFER_S:
            raise _bad_proof()
        if age_s > AGE_MAXIMUM_S:
            raise SignalingError("stale-proof", "this was opened too long ago; open it again")
        bot_id = self._config.bot_id
        if "signature" in data.fields and self._config.public_key and bot_id is not None:
            key = bytes.fromhex(self._config.public_key)
            is_genuine = is_signed_untrusted(data.fields, bot_id, key)
        else:
            is_genuine = await self._asked(text, data.user, client)
        if not is_genuine:
            raise _bad_proof()
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


def _bad_proof() -> SignalingError:
    return SignalingError("bad-proof", "Telegram has not signed this")
