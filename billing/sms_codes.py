"""Codes by which a telephone confirms what was asked in its name: a sender's number can be forged,
an SMS to it can't be read by the forger.

A code is made of the message that asked for it and a secret of the node's, so that a message which
comes twice is told the same; what is stored is a hash under that secret. One code a number waits,
for some minutes, for few tries.
"""

from __future__ import annotations

import hmac
from typing import Final, Literal

import msgspec

from billing.sms_commands import CODE_DIGITS
from billing.sms_records import Number, read_number, store_number
from billing.tables import SMS_CODES
from core.errors import OperationError
from core.tables import Tables, Writing
from core.units import MINUTE_S

CODE_LIFETIME_S: Final = 10 * MINUTE_S
TRIES_OF_CODE: Final = 3
TRIES_OF_DAY: Final = 10
"""Wrong codes of one number in a day."""
CODES_OF_DAY: Final = 20
"""That a number is given."""
CODES_MAXIMUM: Final = 100_000
"""That wait, of all numbers."""

_CONFIRMATIONS: Final = b"confirm "


class CodeRefused(OperationError):
    """A code can't be given, or is not the one."""


class Confirmation(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What waits to be confirmed.

    Attributes:
        purpose: a SEND, or a new PIN.
        code_hash: of the code that does it.
        tries: that were wrong.
        identity: of the message that asked for it.
        recipient, amount: of a SEND, in micro-J.
        pin_hash: of a new PIN.
    """

    purpose: Literal["send", "pin"]
    code_hash: bytes
    expires_ms: int
    tries: int = 0
    identity: bytes
    recipient: str = ""
    amount: int = 0
    pin_hash: str = ""


_confirmations = msgspec.msgpack.Decoder(Confirmation)


class ConfirmationCodes:
    """The codes of one node; `secret` is known to it alone. What writes belongs to the writer's
    thread."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def code(self, identity: bytes) -> str:
        """The code that a message is told: always the same."""
        digest = hmac.digest(self._secret, b"code " + identity, "sha256")
        return f"{int.from_bytes(digest, 'big') % 10**CODE_DIGITS:0{CODE_DIGITS}}"

    def put(
        self,
        writing: Writing,
        phone: str,
        purpose: Literal["send", "pin"],
        identity: bytes,
        now_ms: int,
        day: int,
        *,
        recipient: str = "",
        amount: int = 0,
        pin_hash: str = "",
    ) -> None:
        """Have something wait for the code of the message `identity`; what waited before is off.

        Raises:
            CodeRefused: the number was given too many today, or has tried too many wrong ones, or
                too many wait.
        """
        if self.is_locked(writing, phone, day):
            raise CodeRefused("too many wrong codes were tried; try again later", "too_many_tries")
        count_code(writing, phone, day)
        confirmation = Confirmation(
            purpose=purpose,
            code_hash=self._hash(phone, self.code(identity)),
            expires_ms=now_ms + CODE_LIFETIME_S * 1000,
            identity=identity,
            recipient=recipient,
            amount=amount,
            pin_hash=pin_hash,
        )
        writing.put(SMS_CODES, _key(phone), msgspec.msgpack.encode(confirmation))

    def is_locked(self, tables: Tables, phone: str, day: int) -> bool:
        """Whether so many wrong codes of a number's were tried that none works on this day."""
        return read_number(tables, phone, day).wrong_codes >= TRIES_OF_DAY

    def find_untrusted(
        self, tables: Tables, phone: str, code: str, now_ms: int, day: int
    ) -> Confirmation | None:
        """What the code confirms; None where it confirms nothing."""
        waiting = _waiting(tables, phone, now_ms)
        if waiting is None or self.is_locked(tables, phone, day):
            return None
        is_right = hmac.compare_digest(self._hash(phone, code), waiting.code_hash)
        return waiting if is_right else None

    def take_untrusted(
        self, writing: Writing, phone: str, code: str, now_ms: int, day: int
    ) -> Confirmation:
        """What the code confirms; it is used up with that.

        Raises:
            CodeRefused: it confirms nothing, any more.
        """
        found = self.find_untrusted(writing, phone, code, now_ms, day)
        if found is None:
            raise CodeRefused("this code is wrong or too old; ask for a new one", "no_code")
        writing.delete(SMS_CODES, _key(phone))
        return found

    def count_wrong(self, writing: Writing, phone: str, now_ms: int, day: int) -> None:
        """A code was tried that is not the one: after few of them it is none any more."""
        number = read_number(writing, phone, day)
        changed = msgspec.structs.replace(number, wrong_codes=number.wrong_codes + 1)
        store_number(writing, phone, changed)
        waiting = _waiting(writing, phone, now_ms)
        if waiting is None or waiting.tries + 1 >= TRIES_OF_CODE:
            writing.delete(SMS_CODES, _key(phone))
        else:
            tried = msgspec.structs.replace(waiting, tries=waiting.tries + 1)
            writing.put(SMS_CODES, _key(phone), msgspec.msgpack.encode(tried))

    def _hash(self, phone: str, code: str) -> bytes:
        return hmac.digest(self._secret, f"hash {phone} {code}".encode(), "sha256")[:16]


def count_code(writing: Writing, who: str, day: int) -> None:
    """Somebody is given one more code.

    Args:
        who: a telephone number, or another address.

    Raises:
        CodeRefused: it is too many.
    """
    number: Number = read_number(writing, who, day)
    if number.codes >= CODES_OF_DAY or writing.count(SMS_CODES) >= CODES_MAXIMUM:
        raise CodeRefused("too many codes were asked for; try again tomorrow", "too_many_codes")
    store_number(writing, who, msgspec.structs.replace(number, codes=number.codes + 1))


def prune_confirmations(writing: Writing, now_ms: int, start: bytes, limit: int) -> bytes | None:
    """Forget those of `limit` from the key `start` on that nobody can use any more; the key to go
    on from, None at the end."""
    found = writing.items(SMS_CODES, max(start, _CONFIRMATIONS), _CONFIRMATIONS + b"\xff", limit)
    old = [key for key, raw in found if _confirmations.decode(raw).expires_ms <= now_ms]
    writing.delete_many(SMS_CODES, old)
    return found[-1][0] + b"\0" if len(found) == limit else None


def _waiting(tables: Tables, phone: str, now_ms: int) -> Confirmation | None:
    raw = tables.get(SMS_CODES, _key(phone))
    waiting = None if raw is None else _confirmations.decode(raw)
    return None if waiting is None or waiting.expires_ms <= now_ms else waiting


def _key(phone: str) -> bytes:
    return _CONFIRMATIONS + phone.encode()
