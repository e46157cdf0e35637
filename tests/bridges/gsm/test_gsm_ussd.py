"""USSD answers in the ways that modems give them, and what error numbers mean."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.gsm.alphabet import encode_gsm7, encode_ucs2, pack
from bridges.gsm.at import AtError, ErrorKind
from bridges.gsm.causes import Verdict, advice, describe, is_certain, verdict
from bridges.gsm.ussd import CODE, UssdAnswer, amount_in, decode_answer_untrusted, pack_code


def packed(text: str) -> str:
    septets = encode_gsm7(text)
    assert septets is not None
    return pack(septets).hex().upper()


def test_23_038_6_1_2_3_codes_are_packed() -> None:
    # As smspdudecoder has it, and the manuals of Huawei's modems.
    assert pack_code("*100#") == "AA180C3602"
    assert pack_code("*115*5#") == "AA58ACA6AA8D1A"


@pytest.mark.parametrize(
    ("line", "was_packed", "answer"),
    [
        ('+CUSD: 0,"Balance: 12.34",15', False, UssdAnswer(0, "Balance: 12.34")),
        ('+CUSD: 0,"Balance: 12.34"', False, UssdAnswer(0, "Balance: 12.34")),
        ('+CUSD: 1,"1) more\n2) less",15', False, UssdAnswer(1, "1) more\n2) less")),
        (f'+CUSD: 0,"{packed("Balance: 12")}",15', True, UssdAnswer(0, "Balance: 12")),
        (f'+CUSD: 0,"{packed("Balance: 12")}",15', False, UssdAnswer(0, "Balance: 12")),
        (f'+CUSD:0,"{packed("12 r")}",0', True, UssdAnswer(0, "12 r")),
        ('+CUSD: 0,"1234",15', False, UssdAnswer(0, "1234")),
        (f'+CUSD: 0,"{encode_ucs2("Баланс 5 р.").hex()}",72', False, UssdAnswer(0, "Баланс 5 р.")),
        (f'+CUSD: 0,"{encode_ucs2("Баланс").hex()}",17', True, UssdAnswer(0, "Баланс")),
        ('+CUSD: 0,"say "yes"",15', False, UssdAnswer(0, 'say "yes"')),
        ("+CUSD: 2", False, UssdAnswer(2, "")),
        ("+CUSD: 4", True, UssdAnswer(4, "")),
        ("+CUSD:", True, None),
        ("+CUSQ: 1", True, None),
    ],
)
def test_27_007_7_15_answers(line: str, was_packed: bool, answer: UssdAnswer | None) -> None:
    assert decode_answer_untrusted(line, was_packed=was_packed) == answer


@given(st.text(max_size=60), st.booleans())
def test_fuzz_an_answer(text: str, was_packed: bool) -> None:
    for line in (text, f"+CUSD: 0,{text}", f'+CUSD: 0,"{text}",15', f'+CUSD: 0,"{text}",72'):
        answer = decode_answer_untrusted(line, was_packed=was_packed)
        assert answer is None or len(answer.text) <= len(line)


@given(st.binary(max_size=60), st.integers(0, 255), st.booleans())
def test_fuzz_an_answer_in_hex(octets: bytes, coding: int, was_packed: bool) -> None:
    line = f'+CUSD: 0,"{octets.hex()}",{coding}'
    answer = decode_answer_untrusted(line, was_packed=was_packed)
    assert answer is not None
    assert len(answer.text) <= 120


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("Balance: 12.34 RUB, bonus 100", "12.34"),
        ("Ваш баланс 56,7 р. до 21.11.2026", "56.7"),
        ("Minus: -5.00", "-5.00"),
        ("100 SMS, 2.5 r", "2.5"),
        ("Balance 100", "100"),
        ("none", None),
        ("", None),
    ],
)
def test_the_balance_is_found_in_the_text(text: str, amount: str | None) -> None:
    assert amount_in(text) == (None if amount is None else Decimal(amount))


def test_codes_hold_nothing_but_digits() -> None:
    assert CODE.match("*100#")
    for wrong in ("", "*100#\r", '1";+CFUN=0', "a", "*1\n", "1" * 41):
        assert not CODE.match(wrong)


@pytest.mark.parametrize(
    ("kind", "code", "before", "after"),
    [
        # Certain, whenever it comes.
        *[(ErrorKind.CMS, code, Verdict.LATER, Verdict.LATER) for code in (27, 38, 192, 314, 331)],
        *[(ErrorKind.CMS, code, Verdict.NEVER, Verdict.NEVER) for code in (1, 96, 195, 304)],
        *[(ErrorKind.CMS, code, Verdict.SIM, Verdict.SIM) for code in (8, 21, 28, 30, 50, 330)],
        *[(ErrorKind.CMS, code, Verdict.START, Verdict.START) for code in (310, 311, 313, 316)],
        (ErrorKind.CME, 11, Verdict.START, Verdict.START),
        (ErrorKind.CME, 14, Verdict.LATER, Verdict.LATER),
        # Not certain, once the modem has the message.
        *[
            (ErrorKind.CMS, code, Verdict.LATER, Verdict.UNKNOWN)
            for code in (300, 320, 322, 332, 500, 512, 9999)
        ],
        (ErrorKind.CME, 30, Verdict.LATER, Verdict.UNKNOWN),
        (ErrorKind.CME, None, Verdict.START, Verdict.UNKNOWN),
        (ErrorKind.CMS, None, Verdict.START, Verdict.UNKNOWN),
        (ErrorKind.PLAIN, None, Verdict.START, Verdict.UNKNOWN),
    ],
)
def test_27_005_3_2_5_what_an_error_means(
    kind: ErrorKind, code: int | None, before: Verdict, after: Verdict
) -> None:
    assert verdict(AtError(kind, code), submitted=False) is before
    assert verdict(AtError(kind, code), submitted=True) is after


@pytest.mark.parametrize(
    ("code", "certain", "words"),
    [(330, True, "AT+CSCA"), (50, True, "contract"), (21, False, "credit"), (303, False, "modem")],
)
def test_a_sims_fault_is_told_with_what_to_do(code: int, certain: bool, words: str) -> None:
    error = AtError(ErrorKind.CMS, code)
    assert is_certain(error) is certain
    assert words in advice(error)


def test_errors_are_told_with_what_they_mean() -> None:
    assert describe(AtError(ErrorKind.CMS, 21)).startswith("CMS 21 (rejected")
    assert describe(AtError(ErrorKind.CMS, 999)) == "CMS 999"
    assert describe(AtError(ErrorKind.CME, 21)) == "CME 21"
