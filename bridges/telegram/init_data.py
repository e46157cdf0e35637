"""Whose a Mini App is, by the HMAC that Telegram has made with the bot's token, which nobody but
this bridge holds (core.telegram.org/bots/webapps, "Validating data received via the Mini App").
"""

from __future__ import annotations

import hmac
import re
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from core.errors import PeerError
from core.units import HOUR_S

AGE_MAXIMUM_S: Final = HOUR_S
CLOCKS_DIFFER_S: Final = 30
"""By so much Telegram's clock may be ahead of this machine's."""
FIELDS_MAXIMUM: Final = 32
_DIGITS = re.compile(r"[1-9][0-9]{0,15}")


class InitDataError(PeerError):
    """Telegram has not made this for the bot, or too long ago."""


class _User(msgspec.Struct):
    id: int


def secret_of(token: str) -> bytes:
    """What initData is signed with."""
    return hmac.digest(b"WebAppData", token.encode(), "sha256")


def check_untrusted(init_data: str, secret: bytes, now_s: float) -> int:
    """The number of the user for whom Telegram has made it.

    Args:
        secret: of `secret_of`.
        now_s: in seconds since 1970.

    Raises:
        InitDataError: it has not, or more than `AGE_MAXIMUM_S` ago.
    """
    try:
        pairs = parse_qsl(
            init_data,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=FIELDS_MAXIMUM,
        )
    except ValueError as error:
        raise InitDataError("no fields that can be read") from error
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InitDataError("a field is there twice")
    # The end of a line would let one field pass for two in what is signed.
    if any("\n" in text for pair in pairs for text in pair):
        raise InitDataError("a field has more than one line")
    claimed = fields.pop("hash", "")
    signed = "\n".join(f"{name}={fields[name]}" for name in sorted(fields))
    made = hmac.digest(secret, signed.encode(errors="surrogatepass"), "sha256").hex()
    if not hmac.compare_digest(made.encode(), claimed.encode(errors="surrogatepass")):
        raise InitDataError("its hash is another")
    date = fields.get("auth_date", "")
    if _DIGITS.fullmatch(date) is None:
        raise InitDataError("it has no date")
    age_s = now_s - int(date)
    if not -CLOCKS_DIFFER_S <= age_s <= AGE_MAXIMUM_S:
        raise InitDataError("it is too old, or of the future")
    try:
        user = msgspec.json.decode(fields.get("user", ""), type=_User).id
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise InitDataError("it names no user") from error
    if _DIGITS.fullmatch(str(user)) is None:
        raise InitDataError("it names no user")
    return user
