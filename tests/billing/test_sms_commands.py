"""What people write by SMS, and how long the answers are."""

from __future__ import annotations

import sys
import unicodedata
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from billing.sms_commands import (
    Command,
    is_mobile,
    parse_command_untrusted,
    parse_phone_untrusted,
    parse_recipient_untrusted,
)
from billing.sms_texts import TEXTS, Answer, masked
from core.sms_parts import sms_parts
from core.written import is_ambiguous_untrusted

WIDEST = {
    "account": "1234567",
    "amount": "1000.25",
    "balance": "123456.5",
    "code": "ABCD-EFGH",
    "currency": "J",
    "fee": "10.1",
    "left": "1000",
    "limit": "1000",
    "lines": "\n".join(["21.11 -10.5 +79991234567"] * 3),
    "needed": "1001.5",
    "opened": "2026-11-21",
    "price": "1",
    "sender": "+79991234567",
    "to": "+79991234568",
}


@pytest.mark.parametrize(
    ("body", "command"),
    [
        ("BAL", Command("balance", "en")),
        ("  bal ", Command("balance", "en")),
        ("Balance.", Command("balance", "en")),
        ("БАЛ", Command("balance", "ru")),
        ("баланс!", Command("balance", "ru")),
        ("ＢＡＬ", Command("balance", "en")),
        ("bal\x00", Command("balance", "en")),
        ("b\u200bal", Command("balance", "en")),
        ("Счёт", Command("info", "ru")),
        ("счет", Command("info", "ru")),
        ("ACC", Command("info", "en")),
        ("Tx", Command("history", "en")),
        ("история", Command("history", "ru")),
        ("?", Command("help", None)),
        ("ПОМОЩЬ", Command("help", "ru")),
        ("link", Command("link", "en")),
        ("SEND +79991234567 10", Command("send", "en", ("+79991234567", "10", ""))),
        # A thousand to some, one to others: no amount.
        ("SEND +79991234567 1,000", Command("send", "en", ("+79991234567", "1,000", ""))),
        ("SEND +79991234567 12.500", Command("send", "en", ("+79991234567", "12.500", ""))),
        ("SEND +79991234567 0.500", Command("send", "en", ("+79991234567", "0.500", ""))),
        ("Отправь 89991234567 10", Command("send", "ru", ("89991234567", "10", ""))),
        ("пошли 89991234567 10!", Command("send", "ru", ("89991234567", "10", ""))),
        ("переведи 89991234567 10", Command("send", "ru", ("89991234567", "10", ""))),
        ("баланс?", Command("balance", "ru")),
        ("Bal ?", Command("balance", "en")),
        ("help!?", Command("help", "en")),
        ("123 456", Command("code", None, ("123456",))),
        ("123-456.", Command("code", None, ("123456",))),
        ("ok 123-456", Command("code", "en", ("123456",))),
        ("send\n8 (999) 123-45-67\t10,5", Command("send", "en", ("8 (999) 123-45-67", "10.5", ""))),
        ("перевод ８９９９１２３４５６７ １０", Command("send", "ru", ("89991234567", "10", ""))),
        ("SEND +79991234567 10 J", Command("send", "en", ("+79991234567", "10", ""))),
        ("SEND +79991234567 10ɉ", Command("send", "en", ("+79991234567", "10", ""))),
        ("Перевод +79991234567 10,5 Ɉ.", Command("send", "ru", ("+79991234567", "10.5", ""))),
        ("SEND 89991234567 10 J PIN 1234", Command("send", "en", ("89991234567", "10", "1234"))),
        ("SEND 89991234567 ١٠", Command("send", "en", ("89991234567", "10", ""))),
        ("SEND 89991234567 1²", Command("send", "en", ("89991234567", "1\ufffd", ""))),
        ("SEND 89991234567 ①", Command("send", "en", ("89991234567", "\ufffd", ""))),
        ("SEND 89991234567 10 pin 1234", Command("send", "en", ("89991234567", "10", "1234"))),
        ("ПЕРЕВОД 89991234567 10 ПИН1234", Command("send", "ru", ("89991234567", "10", "1234"))),
        ("SEND", Command("send", "en")),
        ("SEND 5", Command("send", "en")),
        ("REDEEM abcde-fghij", Command("redeem", "en", ("ABCDE-FGHIJ",))),
        ("ваучер", Command("redeem", "ru")),
        ("PIN 1234", Command("pin", "en", ("1234",))),
        ("PIN 12345678901", Command("pin", "en", ("",))),
        ("123456", Command("code", None, ("123456",))),
        ("ok 123 456.", Command("code", "en", ("123456",))),
        ("Да 123456", Command("code", "ru", ("123456",))),
        ("STOP", Command("stop", "en")),
        ("стоп", Command("stop", "ru")),
        ("START", Command("start", "en")),
    ],
)
def test_a_command_is_read_however_it_is_written(body: str, command: Command) -> None:
    assert parse_command_untrusted(body) == command


@pytest.mark.parametrize(
    "body",
    [
        "",
        "   ",
        "\x00",
        "Hello",
        "Bal, see you at five",
        "Info about the flat?",
        "Send me a photo",
        "Pay attention",
        "OK, thanks",
        "да, приеду",
        "Stop it",
        "1234567",
        "12345",
        "BAL; rm -rf /",
        "$(reboot)",
        "BAL " + "x" * 1600,
    ],
)
def test_what_is_more_than_a_command_is_for_a_person(body: str) -> None:
    assert parse_command_untrusted(body).action == "text"


@pytest.mark.parametrize(
    ("text", "amount", "recipient", "written"),
    [
        ("+7 999 123-45-67", "10", "+79991234567", "10"),
        ("+79991234567 10", "РУБ", "+79991234567", "10 РУБ"),
        ("+79991234567 1", "000", "+79991234567", "1 000"),
        # A longer number of Germany's is valid as well, as is a shorter one.
        ("+49 160 1234567 1", "500", "+491601234567", "1 500"),
        ("+49 160 1234567 1", "500.5", "+491601234567", "1 500.5"),
        ("+49 30 1234 5678", "10", "+493012345678", "10"),
        ("BANK 10", "J", None, "J"),
    ],
)
def test_what_stands_between_number_and_amount_is_no_amount(
    text: str, amount: str, recipient: str | None, written: str
) -> None:
    assert parse_recipient_untrusted(text, amount, "RU") == (recipient, written)


def test_only_decimal_digits_are_digits() -> None:
    """Every character of Unicode."""
    others: list[str] = []
    for letter in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(letter) == "Nd":
            expected = (str(unicodedata.decimal(letter)),)
            assert parse_command_untrusted(f"REDEEM {letter}").arguments == expected
        else:
            others.append(letter)
    for start in range(0, len(others), 1_000):
        command = parse_command_untrusted("REDEEM " + "".join(others[start : start + 1_000]))
        assert command.action == "redeem"
        digits = [letter for letter in "".join(command.arguments) if letter.isdecimal()]
        assert not digits, f"from {others[start]!r} on"


@given(st.text(st.characters(blacklist_categories=["Nd"]), max_size=20), st.integers(1, 999))
def test_what_is_no_digit_changes_no_amount(letters: str, amount: int) -> None:
    command = parse_command_untrusted(f"SEND 89991234567 {amount}{letters}")
    if command.action == "send" and command.arguments:
        digits = "".join(letter for letter in "".join(command.arguments) if letter.isdecimal())
        assert digits == f"89991234567{amount}"


@pytest.mark.parametrize(
    ("body", "holds_secret", "is_attempt"),
    [
        ("Hello", False, False),
        ("Stop?", False, True),
        ("See you at 5", False, True),
        ("Сендд всем привет", False, False),
        ("Балланс", False, True),
        ("Spin 100 times", False, True),
        ("Pineapple 1200", False, True),
        ("LONG-TERM plans", False, False),
        ("SNED +79991234567 10 PIN 4321", True, True),
        ("посли 89991234567 10 пин 4321", True, True),
        ("my pin is: 4321", True, True),
        ("pin4321 pin4321", True, True),
        ("12345", True, True),
        ("1234567", True, True),
        ("код: 12345", True, True),
        ("LINK abcd-efgh", True, True),
        ("ABCD-EF23", True, True),
    ],
)
def test_some_texts_are_secret_and_some_were_meant_as_commands(
    body: str, holds_secret: bool, is_attempt: bool
) -> None:
    command = parse_command_untrusted(body)
    assert (command.action, command.holds_secret, command.is_attempt) == (
        "text",
        holds_secret,
        is_attempt,
    )


@given(
    st.sampled_from(["491601234567", "4916012345678", "79991234567", "43664123456", "4930123456"]),
    st.lists(st.integers(1, 12), max_size=5),
    st.integers(1, 2_000_000),
    st.booleans(),
)
def test_no_amount_in_groups_goes_to_the_number_that_its_first_group_makes(
    digits: str, cuts: list[int], amount: int, is_grouped: bool
) -> None:
    places = sorted({0, *cuts, len(digits)})
    written = "+" + " ".join(digits[start:end] for start, end in pairwise(places) if start < end)
    amount_written = f"{amount:,}".replace(",", " ") if is_grouped else str(amount)
    command = parse_command_untrusted(f"SEND {written.strip()} {amount_written}")
    number, read, _ = command.arguments
    phone, rest = parse_recipient_untrusted(number, read, "DE")
    if phone is None or " " in rest or is_ambiguous_untrusted(number, rest, "DE"):
        return
    # What is read without doubt is what was meant.
    assert (phone, rest) == (f"+{digits}", str(amount))


@given(st.text(st.characters(), max_size=2000))
def test_any_text_is_a_command_or_none(body: str) -> None:
    command = parse_command_untrusted(body)
    assert all(isinstance(argument, str) for argument in command.arguments)


@pytest.mark.parametrize(
    "text",
    [
        "112",
        "123",
        "+7999123456712345678",
        "Bank",
        "InfoSMS",
        "issue",
        "tg:5",
        "#6",
        "",
        "+",
        "8" * 20,
    ],
)
def test_only_valid_numbers_are_numbers(text: str) -> None:
    assert parse_phone_untrusted(text, "RU") is None


def test_national_numbers_are_of_the_configured_country() -> None:
    assert parse_phone_untrusted("8 999 123-45-67", "RU") == "+79991234567"
    assert parse_phone_untrusted("0151 23456789", "DE") == "+4915123456789"
    assert parse_phone_untrusted("8 999 123-45-67", None) is None


@pytest.mark.parametrize(
    ("number", "mobile"),
    [
        ("+79991234567", True),
        ("+4915112345678", True),
        ("+12125552671", True),  # North America: nobody can tell
        ("+74951234567", False),  # a landline
        ("+4930123456", False),
        ("+79090000000", True),
        ("+78091234567", False),  # premium rate
        ("+499001234567", False),
        ("+447012345678", False),  # personal, as dear as premium rate
        ("+4918012345", False),  # shared cost
        ("+49177991234567", False),  # a voicemail box
        ("+445612345678", False),  # VoIP
        ("+443031234567", False),  # UAN
        ("+447640123456", False),  # a pager
        ("+18002345678", False),  # toll-free
        ("+15005550006", False),
        ("+88216123456789", False),  # no country's
    ],
)
def test_of_valid_numbers_some_are_mobile(number: str, mobile: bool) -> None:
    assert parse_phone_untrusted(number, None) == number
    assert is_mobile(number) is mobile


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("language", ["en", "ru"])
def test_every_answer_is_one_sms(name: str, language: str) -> None:
    assert language in ("en", "ru")
    values = {**WIDEST, "code": "123456"} if name in ("confirm", "pin_confirm") else WIDEST
    text = Answer(name, values).text("ru" if language == "ru" else "en")
    # Three payments in Russian take another one.
    assert sms_parts(text) == (2 if (name, language) == ("history", "ru") else 1)
    assert sms_parts(text + "Ɉ") >= sms_parts(text)


def test_a_masked_number_is_nobodys() -> None:
    assert masked("+79991234567") == "+7999***67"
    assert masked("Bank") == "***"
