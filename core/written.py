"""Telephone numbers and amounts as people write them, for whoever reads them: SMS, Telegram.

Nothing is guessed about money: what could be read in two ways is refused, and asked for anew.
"""

from __future__ import annotations

import re
from typing import Final

import phonenumbers

_TELEPHONE = re.compile(r"[+(0-9][0-9 ()./-]{1,39}")
"""What is parsed as a telephone number. The parser itself looks for one anywhere in a text, and
would find somebody's in `tg:0301234567`."""
_PLAIN = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}[.,][0-9]{3}")
"""`1,000` and `1.000` are a thousand to some and one to others."""
_LAST_GROUP = re.compile(r"[0-9]{1,3}")
_GROUP_OF_THREE = re.compile(r"[0-9]{3}(?:[.,][0-9]+)?")
_FULL_WIDTH: Final = {0xFF10 + digit: str(digit) for digit in range(10)} | {0xFF0B: "+"}


def narrow(text: str) -> str:
    """A text with the digits and the plus of East Asian keyboards as ASCII has them."""
    return text.translate(_FULL_WIDTH)


def phone_number_untrusted(text: str, region: str | None) -> str | None:
    """A valid telephone number in E.164, `+79991234567`; None for what is none.

    Args:
        text: of ASCII digits, blanks and `+ ( ) . / -`.
        region: the country, in two letters, of numbers that are written without theirs.
    """
    if not _TELEPHONE.fullmatch(text) or not (text.startswith("+") or region is not None):
        return None
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


def plain_amount_untrusted(written: str) -> str | None:
    """An amount with a point or a comma as `12.5`; None for what is none, or could be thousands."""
    if _THOUSANDS.fullmatch(written):
        return None
    amount = written.replace(",", ".")
    return amount if _PLAIN.fullmatch(amount) else None


def is_ambiguous_untrusted(number: str, amount: str, region: str | None) -> bool:
    """Whether it can't be told where a number ends and its amount begins: the last groups of the
    number may be thousands of the amount (`... 67 1 500`), or it is one without them, too.

    Args:
        number, amount: as they were written, with one blank between groups.
        region: as of `phone_number_untrusted`.
    """
    groups = number.split(" ")
    if len(groups) == 1:
        return False
    if _LAST_GROUP.fullmatch(groups[-1]) and _GROUP_OF_THREE.fullmatch(amount):
        return True
    if phone_number_untrusted(number, region) is None:
        return False
    shorter = (" ".join(groups[:count]) for count in range(1, len(groups)))
    return any(phone_number_untrusted(one, region) is not None for one in shorter)
