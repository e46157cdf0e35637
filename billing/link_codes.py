"""Codes that make a telephone number and a Telegram user one account.

`LINK` by SMS, or `/link +7...` in Telegram, sends one to the telephone; whoever types it in
Telegram has read that SMS, or was given it by who has: they are shown the number (`shown`) before
they link it. It links once. What is stored is a hash under a secret of the node's.
"""

from __future__ import annotations

import hmac
import re
from base64 import b32encode
from typing import Final

import msgspec
import phonenumbers

from billing.sms_codes import CODE_LIFETIME_S, TRIES_OF_DAY, CodeRefused, count_code
from billing.sms_records import read_number, store_number
from billing.tables import SMS_CODES
from core.tables import Tables, Writing

CHARACTERS: Final = 8
"""40 bits, since a code that is typed doesn't say of which number it is."""
WRONG_OF_HOUR: Final = 1_000
"""Wrong codes of all people in an hour."""

SHOWN_DIGITS: Final = 3
"""At either end of a number that somebody is to know again."""
HIDDEN_DIGITS: Final = 4
"""Of it, at least."""

_LINKS: Final = b"link "
_CODE = re.compile(rf"[A-Z2-7]{{{CHARACTERS}}}")


class LinkCode(msgspec.Struct, frozen=True, array_like=True):
    """What is kept under a code's hash.

    Attributes:
        phone: the number that it was sent to.
        address: who may type it; empty for whoever has it.
        used_by: who has.
    """

    phone: str
    address: str
    expires_ms: int
    used_by: str = ""


_codes = msgspec.msgpack.Decoder(LinkCode)


class LinkCodes:
    """The codes of one node; `secret` is known to it alone. What writes belongs to the writer's
    thread."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._hour = 0
        self._wrong = 0

    def code(self, identity: bytes) -> str:
        """The code of a request: always the same."""
        digest = hmac.digest(self._secret, b"link " + identity, "sha256")
        written = b32encode(digest).decode()[:CHARACTERS]
        return f"{written[:4]}-{written[4:]}"

    def put(
        self, writing: Writing, phone: str, address: str, identity: bytes, now_ms: int, day: int
    ) -> None:
        """Have the code of a request wait.

        Args:
            address: who alone may use it; empty for whoever has it.

        Raises:
            CodeRefused: too many were asked for.
        """
        count_code(writing, phone, day)
        if address:
            count_code(writing, address, day)
        kept = LinkCode(phone, address, now_ms + CODE_LIFETIME_S * 1000)
        writing.put(SMS_CODES, self._key(self.code(identity)), msgspec.msgpack.encode(kept))

    def find_untrusted(
        self, tables: Tables, address: str, code: str, now_ms: int, day: int
    ) -> LinkCode:
        """What a code links `address` with.

        Raises:
            CodeRefused: nothing, or too much was tried.
        """
        hour = now_ms // 3_600_000
        if hour != self._hour:
            self._hour, self._wrong = hour, 0
        tried = read_number(tables, address, day).wrong_codes
        if tried >= TRIES_OF_DAY or self._wrong >= WRONG_OF_HOUR:
            raise CodeRefused("too many wrong codes were tried; try again later", "too_many_tries")
        raw = tables.get(SMS_CODES, self._key(code))
        kept = None if raw is None else _codes.decode(raw)
        is_right = (
            kept is not None
            and kept.expires_ms > now_ms
            and kept.address in ("", address)
            and kept.used_by in ("", address)
        )
        if kept is None or not is_right:
            self._wrong += 1
            raise no_code()
        return kept

    def use(self, writing: Writing, address: str, code: str, now_ms: int, day: int) -> None:
        """The code has linked `address`, and does not link again.

        Raises:
            CodeRefused: it had linked before.
        """
        kept = self.find_untrusted(writing, address, code, now_ms, day)
        if kept.used_by:
            raise no_code()
        used = msgspec.structs.replace(kept, used_by=address)
        writing.put(SMS_CODES, self._key(code), msgspec.msgpack.encode(used))

    def count_wrong(self, writing: Writing, address: str, day: int) -> None:
        """`address` has tried a code that is none."""
        number = read_number(writing, address, day)
        changed = msgspec.structs.replace(number, wrong_codes=number.wrong_codes + 1)
        store_number(writing, address, changed)

    def _key(self, code: str) -> bytes:
        plain = re.sub(r"[-\s]", "", code[:40]).upper()
        if not _CODE.fullmatch(plain):
            plain = ""
        return _LINKS + hmac.digest(self._secret, b"hash " + plain.encode(), "sha256")[:16]


def no_code() -> CodeRefused:
    """A code does nothing, whatever the reason is: nobody learns it who has not been told."""
    return CodeRefused("this code is wrong or too old; ask for a new one", "no_code")


def shown(phone: str) -> str:
    """A number in E.164 as somebody is shown it who has to know their own by it:
    `+49 151 ••• 456`."""
    number = phonenumbers.parse(phone)
    national = phonenumbers.national_significant_number(number)
    digits = max(1, min(SHOWN_DIGITS, (len(national) - HIDDEN_DIGITS) // 2))
    return f"+{number.country_code} {national[:digits]} ••• {national[-digits:]}"


def prune_links(writing: Writing, now_ms: int, start: bytes, limit: int) -> bytes | None:
    """Forget those of `limit` from the key `start` on that nobody can use any more; the key to go
    on from, None at the end."""
    found = writing.items(SMS_CODES, max(start, _LINKS), _LINKS + b"\xff" * 17, limit)
    old = [key for key, raw in found if _codes.decode(raw).expires_ms <= now_ms]
    writing.delete_many(SMS_CODES, old)
    return found[-1][0] + b"\0" if len(found) == limit else None
