"""What people write by SMS, and how long the answers are."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from billing.sms_commands import (
    Command,
    is_mobile,
    parse_command_untrusted,
    parse_phone_untrusted,
)
from billing.sms_texts import TEXTS, Answer, masked
from core.sms_parts import sms_parts

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
        # A thousand to some, one to others.
        ("SEND +79991234567 1,000", Command("send", "en", ("+79991234567", "1,000", ""))),
        ("send\n8 (999) 123-45-67\t10,5", Command("send", "en", ("8 (999) 123-45-67", "10.5", ""))),
        ("перевод ８９９９１２３４５６７ １０", Command("send", "ru", ("89991234567", "10", ""))),
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
