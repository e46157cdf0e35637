"""What the ledger refuses, in the reader's language: by a running node and on files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import billing
from billing.accounts import AddressError, normalise_address_untrusted
from billing.ledger import open_ledger
from billing.money import AmountError, parse_amount_untrusted
from billing.transfers import Result, TransferRefused
from core import store
from core.api import serving
from core.clock import SystemClock
from core.errors import ConfigError, MontanaError, OperationError
from relay import cli, event_source
from relay.language import CATALOGUE, sentence_of
from relay.signaling.messages import Error
from tests.support.node import run_montana, running_node

PREFIX = "refused_"
ERRORS = ("OperationError", "AddressError", "AmountError", "CodeRefused", "SmsRefused")
CODES = {
    "account_closed",
    "address_frozen",
    "address_taken",
    "bad_voucher",
    "bridge_away",
    "bridge_busy",
    "bridge_silent",
    "disk_full",
    "largest_amount",
    "no_account",
    "no_address",
    "no_amount",
    "no_bridges",
    "no_code",
    "no_currency",
    "no_id",
    "no_line",
    "no_telegram_user",
    "no_transfer",
    "no_voucher",
    "not_admitted",
    "not_empty",
    "other_act",
    "others_address",
    "own_account",
    "pending_first",
    "sms_budget",
    "sms_country",
    "sms_full",
    "sms_length",
    "sms_no_bridge",
    "sms_not_mobile",
    "sms_number",
    "sms_rate",
    "sms_opted_out",
    "subscribed",
    "system_address",
    "tariff_account",
    "too_many_addresses",
    "too_many_codes",
    "too_many_places",
    "too_many_tries",
    "voucher_count",
    "voucher_redeemed",
    "vouchers_made_before",
    "zero_amount",
}
SIGNALING_CODES = {
    "blocked",
    "busy",
    "full",
    "link-over",
    "no-account",
    "no-call",
    "no-money",
    "quota",
    "room-over",
    "too-many",
    "unavailable",
    "wrong-state",
}
"""What operators can be refused; most of it is what pages can be."""


def raised() -> list[tuple[str, str, set[str]]]:
    """Code, sentence with `{}` for each value, and names of the values, wherever one is raised."""
    found = []
    others = [Path(serving.__file__), Path(event_source.__file__), Path(store.__file__)]
    for path in [*Path(billing.__file__).parent.glob("*.py"), *others]:
        for call in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id in ERRORS
                and len(call.args) == 2
            ):
                message, code = call.args
                assert isinstance(code, ast.Constant), path
                assert isinstance(code.value, str), path
                names = {keyword.arg or "" for keyword in call.keywords}
                found.append((code.value, plain(message), names))
    return found


def plain(message: ast.expr) -> str:
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts
    ).replace("#{}", "{}")


def places(sentence: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", sentence)


def test_every_code_is_known_in_both_languages() -> None:
    assert {code for code, _, _ in raised()} == CODES
    known = {name.removeprefix(PREFIX) for name in CATALOGUE if name.startswith(PREFIX)}
    transfers = {TransferRefused(result).code for result in Result if not result.is_done}
    assert known == CODES | transfers | SIGNALING_CODES
    for code, sentence, names in raised():
        english, russian = CATALOGUE[PREFIX + code]
        assert re.sub(r"\{\w+\}", "{}", english) == sentence
        assert set(places(english)) == set(places(russian)) == names
        assert re.search("[а-я]", russian)


def test_what_signaling_refuses_is_known_in_both_languages() -> None:
    of_pages = SIGNALING_CODES - {"no-call", "link-over", "room-over"}
    assert set(re.findall("``([a-z-]+)``", Error.__doc__ or "")) > of_pages
    for code in SIGNALING_CODES:
        english, russian = CATALOGUE[PREFIX + code]
        # Its sentences tell more in English, and each code has several.
        assert not places(english)
        assert re.fullmatch("[а-яё ,;]+", russian)


@pytest.mark.parametrize("result", [result for result in Result if not result.is_done])
def test_every_refusal_of_a_transfer_is_known_in_both_languages(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = TransferRefused(result)
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    assert sentence_of(error) == str(error)
    monkeypatch.setenv("LC_ALL", "ru_RU.UTF-8")
    assert re.fullmatch("[а-яё ,:;]+", sentence_of(error))


def test_a_sentence_without_a_code_or_of_another_version_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "ru_RU.UTF-8")
    assert sentence_of(OperationError("there is no account tg:1")) == "there is no account tg:1"
    for error in (
        OperationError("a new sentence", "a_new_code"),
        OperationError("a new sentence", "no_account", number=5),
    ):
        assert sentence_of(error) == "a new sentence"
    errors: list[MontanaError] = [ConfigError("turn.realm is missing"), MontanaError("x")]
    assert [sentence_of(error) for error in errors] == ["turn.realm is missing", "x"]
    surplus = OperationError("there is no account {x}", "no_account", account="{x}", more=1)
    assert sentence_of(surplus) == "счёта {x} нет"


def test_what_is_typed_is_quoted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    for language in ("en_US.UTF-8", "ru_RU.UTF-8"):
        monkeypatch.setenv("LC_ALL", language)
        with pytest.raises(AmountError) as amount:
            parse_amount_untrusted("1'{written}\n")
        with pytest.raises(AddressError) as address:
            normalise_address_untrusted("{0.__class__}")
        for error in (amount.value, address.value):
            assert error.values["written"] in sentence_of(error)
            assert error.values["written"] in str(error)


REFUSED = [
    (("account", "transfer", "user:alice", "node", "6"), "на счёте недостаточно денег"),
    (("account", "transfer", "user:alice", "user:alice", "1"), "с одного счёта на другой"),
    (("account", "credit", "user:alice", "x"), "например 12 или 12.5, а не 'x'"),
    (("account", "credit", "user:alice", "1", "--currency", "USD"), "валюты 'USD' нет"),
    (("account", "show", "user:nobody"), "счёта user:nobody нет"),
    (("account", "show", "99"), "счёта #99 нет"),
    (("account", "freeze", "99"), "счёта #99 нет"),
    (("account", "show", "alice"), "'alice' - не адрес"),
    (("account", "create", "user:alice"), "user:alice уже принадлежит счёту"),
    (("account", "refund", "1" * 32), f"перевода {'1' * 32} нет"),
    (("account", "freeze", "node"), "это собственный счёт книги"),
    (("voucher", "redeem", "AAAA", "user:alice"), "20 латинских букв и цифр: AAAAA-AAAAA-"),
    (("voucher", "redeem", "A" * 20, "user:alice"), "ваучера с таким кодом нет"),
    (("account", "statement", "node"), "выписка не сошлась бы"),
]


def test_people_who_read_russian_are_refused_in_it_by_a_node() -> None:
    with running_node() as node:
        node.command("account", "create", "user:alice")
        for words, sentence in REFUSED[::4]:
            result = run_montana(
                *words, "--socket", str(node.socket), check=False, LC_ALL="ru_RU.UTF-8"
            )
            assert result.returncode == 1
            assert result.stderr.startswith("Ошибка: ")
            assert sentence in result.stderr


@pytest.mark.parametrize(("words", "sentence"), REFUSED)
def test_people_who_read_russian_are_refused_in_it_on_files(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    open_ledger(tmp_path / "ledger", SystemClock()).close()
    where = ("--socket", str(tmp_path / "node.sock"))
    with pytest.raises(SystemExit):
        cli.main(["account", "create", "user:alice", *where])
    capsys.readouterr()
    monkeypatch.setenv("LC_ALL", "ru_RU.UTF-8")
    with pytest.raises(SystemExit) as exited:
        cli.main([*words, *where])
    printed, complaint = capsys.readouterr()
    assert (exited.value.code, printed) == (1, "")
    assert re.search(rf"^Ошибка: .*{re.escape(sentence)}", complaint, re.MULTILINE)
