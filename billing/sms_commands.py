"""What an SMS asks for: words of English and Russian in, a command out.

People write as they like: in any case, with blanks, full-width digits, `е` for `ё`, a full stop.
What is more than a command is none: `BAL` is one, `Bal, see you at five` is a text for somebody.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import phonenumbers

from billing.accounts import AddressError, normalise_address_untrusted
from billing.money import J

BODY_MAXIMUM: Final = 1_600
"""Characters that are looked at: more than any carrier joins to one message."""
PIN_DIGITS: Final = (4, 8)
CODE_DIGITS: Final = 6

NUMBERS_REMEMBERED: Final = 10_000
"""Whose country and kind need no second look: one takes 20 us, and a command needs several."""

Language = Literal["en", "ru"]
Action = Literal[
    "balance",
    "history",
    "info",
    "send",
    "redeem",
    "link",
    "pin",
    "code",
    "help",
    "stop",
    "start",
    "text",
]

_WORDS: Final[dict[str, Action]] = {
    **dict.fromkeys(("BAL", "BALANCE", "БАЛ", "БАЛАНС"), "balance"),
    **dict.fromkeys(("TX", "HISTORY", "ТХ", "ИСТ", "ИСТОРИЯ"), "history"),
    **dict.fromkeys(("INFO", "ACC", "ACCOUNT", "ИНФО", "СЧЕТ"), "info"),
    **dict.fromkeys(("SEND", "PAY", "ПЕРЕВОД", "ПЕРЕВЕСТИ", "ОТПРАВИТЬ"), "send"),
    **dict.fromkeys(("REDEEM", "VOUCHER", "ВАУЧЕР"), "redeem"),
    **dict.fromkeys(("LINK", "СВЯЗАТЬ", "ПРИВЯЗАТЬ"), "link"),
    **dict.fromkeys(("PIN", "ПИН"), "pin"),
    **dict.fromkeys(("OK", "CODE", "ОК", "ДА", "КОД"), "code"),
    **dict.fromkeys(("?", "HELP", "ПОМОЩЬ", "СПРАВКА"), "help"),
    **dict.fromkeys(
        ("STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT", "СТОП"),
        "stop",
    ),
    **dict.fromkeys(("START", "UNSTOP", "СТАРТ"), "start"),
}
_ALONE: Final = ("balance", "history", "info", "link", "help", "stop", "start")
"""Commands to which nothing is added."""
_PIN_WORDS: Final = tuple(word for word, action in _WORDS.items() if action == "pin")
_BARE_CODE = re.compile(rf"[0-9]{{{CODE_DIGITS}}}")
_PIN = re.compile(rf"[0-9]{{{PIN_DIGITS[0]},{PIN_DIGITS[1]}}}")
_UNITS: Final = ("J", J.symbol)
_SEND = re.compile(
    rf"(?P<number>.*?\S) (?P<amount>\S+?)(?: ?(?<=[0-9 ])(?:{'|'.join(_UNITS)}))?"
    rf"(?: (?:{'|'.join(_PIN_WORDS)}) ?(?P<pin>\S+))?"
)
_GROUPED = re.compile(r"[0-9]{1,3}(?: [0-9]{3})+(?:[.,][0-9]*)?")
_THOUSANDS = re.compile(r"[0-9]{1,3}(,[0-9]{3})+")
_CYRILLIC = re.compile("[А-Я]")
_LATIN = re.compile("[A-Z]")
_NO_DIGIT: Final = "\N{REPLACEMENT CHARACTER}"
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_MOBILE: Final = (
    phonenumbers.PhoneNumberType.MOBILE,
    # North America's are numbered alike.
    phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE,
)
_RUSSIAN_REGIONS: Final = ("RU", "BY", "KZ", "KG", "TJ")


@dataclass(frozen=True, slots=True)
class Command:
    """What an SMS asks for.

    Attributes:
        action: `text` for what is no command.
        language: that of the answer; None where the words don't tell.
        arguments: what follows the word: for `send` number, amount and PIN (or ""), as typed.
    """

    action: Action
    language: Language | None
    arguments: tuple[str, ...] = ()


def parse_command_untrusted(body: str) -> Command:
    """The command of an SMS; whatever is none is a `text`."""
    if len(body) > BODY_MAXIMUM:
        return Command("text", _language(body[:BODY_MAXIMUM].upper()))
    plain = _plain(body)
    language = _language(plain)
    stripped = plain.rstrip(" .!;,\"'»”") or plain
    word, _, rest = stripped.partition(" ")
    if _BARE_CODE.fullmatch(stripped):
        return Command("code", None, (stripped,))
    action = _WORDS.get(word.strip(".:,;!\"'«»“”") or word)
    if action is None or (action in _ALONE and rest):
        return Command("text", language)
    language = _language(word)
    if action in ("send", "code", "pin") and rest and not any(map(str.isdigit, rest)):
        # `Pay attention` and `OK, thanks` are for a person, as is all without a number.
        return Command("text", language)
    if action == "send":
        return Command(action, language, _send_arguments(rest))
    if action == "code":
        code = rest.replace(" ", "")
        if not _BARE_CODE.fullmatch(code):
            return Command("text", language)
        return Command(action, language, (code,))
    if action == "pin" and rest and not _PIN.fullmatch(rest):
        return Command(action, language, ("",))
    return Command(action, language, (rest,) if rest else ())


@lru_cache(maxsize=NUMBERS_REMEMBERED)
def parse_phone_untrusted(text: str, region: str | None) -> str | None:
    """A valid telephone number as `+79991234567`; None for what is none, such as a carrier's name.

    Args:
        region: of numbers that are written without their country's.
    """
    try:
        number = normalise_address_untrusted(text, region)
    except AddressError:
        return None
    return number if number.startswith("+") else None


def parse_recipient_untrusted(text: str, amount: str, region: str | None) -> tuple[str | None, str]:
    """The valid telephone number that the first words of a SEND are, or None, and its amount.

    What stands between them is no number's, and the amount's, which is none then: in `10 EUR`. So
    are digits that may be either's: `1 500` is 1500, or a longer number and 500.

    Args:
        text, amount: the last word, and all before it.
        region: of numbers that are written without their country's.
    """
    words = text.split(" ")
    for count in range(1, len(words)):
        number = parse_phone_untrusted(" ".join(words[:count]), region)
        left = " ".join([*words[count:], amount])
        if number is not None and _GROUPED.fullmatch(left):
            return number, left
    for count in range(len(words), 0, -1):
        number = parse_phone_untrusted(" ".join(words[:count]), region)
        if number is not None:
            return number, " ".join([*words[count:], amount])
    return None, amount


def region_of(phone: str) -> str | None:
    """The country of a number, in two letters; None for those that belong to none."""
    return _look_up(phone)[0]


def is_mobile(phone: str) -> bool:
    """Whether a number is a mobile telephone's, as far as its country lets that be seen."""
    return _look_up(phone)[1]


@lru_cache(maxsize=NUMBERS_REMEMBERED)
def _look_up(phone: str) -> tuple[str | None, bool]:
    number = phonenumbers.parse(phone)
    region = phonenumbers.region_code_for_number(number)
    kind = phonenumbers.number_type(number)
    return None if region in (None, "001") else str(region), kind in _MOBILE


def language_of(phone: str) -> Language:
    """What is spoken where a number is from, as far as we speak it."""
    return "ru" if region_of(phone) in _RUSSIAN_REGIONS else "en"


def _send_arguments(rest: str) -> tuple[str, ...]:
    match = _SEND.fullmatch(rest)
    if match is None:
        return ()
    amount = match["amount"]
    # `1,000` is a thousand to some and one to others: it stays what is no amount.
    if not _THOUSANDS.fullmatch(amount):
        amount = amount.replace(",", ".")
    return match["number"], amount, match["pin"] or ""


def _plain(body: str) -> str:
    """In capitals and ASCII digits, one blank between words, without what can't be seen."""
    digits = "".join(map(_with_ascii_digits, body))
    spaced = "".join(
        " " if unicodedata.category(letter) == "Cc" else letter
        for letter in unicodedata.normalize("NFKC", digits)
    )
    seen = "".join(letter for letter in spaced if unicodedata.category(letter) not in _INVISIBLE)
    return " ".join(seen.upper().replace("Ё", "Е").split())


def _with_ascii_digits(letter: str) -> str:
    """A decimal digit of any script in ASCII. What only looks like one would become one as well,
    `1²` 12 and `½` 1 and 2: that is none, and never part of an amount."""
    if letter.isascii():
        return letter
    if letter.isdecimal():
        return str(unicodedata.decimal(letter))
    looks = unicodedata.normalize("NFKC", letter)
    return _NO_DIGIT if any(map(str.isdecimal, looks)) else letter


def _language(words: str) -> Language | None:
    if _CYRILLIC.search(words):
        return "ru"
    return "en" if _LATIN.search(words) else None
