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

from billing.money import J
from core.written import phone_number_untrusted, plain_amount_untrusted

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
    **dict.fromkeys(
        (
            *("SEND", "PAY", "ПЕРЕВОД", "ПЕРЕВЕСТИ", "ПЕРЕВЕДИ", "ПЕРЕВЕДИТЕ"),
            *("ОТПРАВИТЬ", "ОТПРАВЬ", "ОТПРАВЬТЕ", "ПОШЛИ", "ПОСЛАТЬ"),
        ),
        "send",
    ),
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
_BEGINNING_LETTERS: Final = (3, 4)
"""By which a word looks like a command's that was misspelt."""
_BEGINNINGS: Final = tuple(
    {word[: _BEGINNING_LETTERS[1]] for word in _WORDS if len(word) >= _BEGINNING_LETTERS[0]}
)
_ALONE: Final = ("balance", "history", "info", "link", "help", "stop", "start")
"""Commands to which nothing is added."""
_ASKED: Final = ("balance", "history", "info", "help")
"""Commands that may end in a question mark."""
_PIN_WORDS: Final = tuple(word for word, action in _WORDS.items() if action == "pin")
_CODE = re.compile(rf"[0-9]{{{CODE_DIGITS}}}")
_BARE_CODE = re.compile(r"([0-9]{3})[ -]?([0-9]{3})")
assert CODE_DIGITS == 6, "a code is written in two groups of three"
_SAYS_CODE = re.compile(
    r"(?:(?:OK|CODE|ОК|КОД|ДА)\W*)?[0-9][0-9 -]{3,7}|"
    r"(?:/?(?:LINK|СВЯЗАТЬ|ПРИВЯЗАТЬ)\b.*)?\b[A-Z2-7]{4}-[A-Z2-7]{4}"
)
_SAYS_PIN = re.compile(rf"\b(?:{'|'.join(_PIN_WORDS)})(?![A-ZА-Я])[^0-9]{{0,20}}[0-9]{{3}}")
_PIN = re.compile(rf"[0-9]{{{PIN_DIGITS[0]},{PIN_DIGITS[1]}}}")
_UNITS: Final = ("J", J.symbol)
_SEND = re.compile(
    rf"(?P<number>.*?\S) (?P<amount>\S+?)(?: ?(?<=[0-9 ])(?:{'|'.join(_UNITS)}))?"
    rf"(?: (?:{'|'.join(_PIN_WORDS)}) ?(?P<pin>\S+))?"
)
_GROUPED = re.compile(r"[0-9]{1,3}(?: [0-9]{3})+(?:[.,][0-9]*)?")
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
        holds_secret: a `text` that is nobody else's to read: a code or a PIN seems to be in it.
        is_attempt: a `text` that looks like a command which has failed.
    """

    action: Action
    language: Language | None
    arguments: tuple[str, ...] = ()
    holds_secret: bool = False
    is_attempt: bool = False


def parse_command_untrusted(body: str) -> Command:
    """The command of an SMS; whatever is none is a `text`."""
    if len(body) > BODY_MAXIMUM:
        return _text(_plain(body[:BODY_MAXIMUM]))
    plain = _plain(body)
    stripped = plain.rstrip(" .!;,\"'»”") or plain
    if match := _BARE_CODE.fullmatch(stripped):
        return Command("code", None, ("".join(match.groups()),))
    word, _, rest = stripped.partition(" ")
    called = word.strip(".:,;!\"'«»“”") or word
    action = _WORDS.get(called)
    if action is None and _WORDS.get(called.rstrip("?!")) in _ASKED:
        action = _WORDS[called.rstrip("?!")]
    if action is None or (action in _ALONE and rest.strip("?! ")):
        return _text(plain)
    language = _language(word)
    if action in ("send", "code", "pin") and rest and not any(map(str.isdigit, rest)):
        # `Pay attention` and `OK, thanks` are for a person, as is all without a number.
        return _text(plain)
    if action == "send":
        return Command(action, language, _send_arguments(rest))
    if action == "code":
        code = rest.replace(" ", "").replace("-", "")
        if not _CODE.fullmatch(code):
            return _text(plain)
        return Command(action, language, (code,))
    if action == "pin" and rest and not _PIN.fullmatch(rest):
        return Command(action, language, ("",))
    if action in _ALONE:
        return Command(action, language)
    return Command(action, language, (rest,) if rest else ())


def _text(plain: str) -> Command:
    """What is no command: for a person, or for nobody."""
    first, stripped = plain.partition(" ")[0], plain.rstrip(" .!?;,\"'»”")
    return Command(
        "text",
        _language(plain),
        holds_secret=bool(_SAYS_PIN.search(plain) or _SAYS_CODE.fullmatch(stripped)),
        is_attempt=first.startswith(_BEGINNINGS) or any(map(str.isdigit, plain)),
    )


@lru_cache(maxsize=NUMBERS_REMEMBERED)
def parse_phone_untrusted(text: str, region: str | None) -> str | None:
    """A valid telephone number as `+79991234567`; None for what is none, such as a carrier's name.

    Args:
        region: of numbers that are written without their country's.
    """
    return phone_number_untrusted(text, region)


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
    amount = plain_amount_untrusted(match["amount"]) or match["amount"]
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
