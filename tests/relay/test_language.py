"""The two languages of the command line."""

from __future__ import annotations

import string

import pytest

from relay.language import CATALOGUE, language_of, text


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "ru_RU.UTF-8"}, "ru"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LC_MESSAGES": "ru_RU.UTF-8", "LANG": "en_US.UTF-8"}, "ru"),
        ({"LC_ALL": "C", "LC_MESSAGES": "ru_RU.UTF-8", "LANG": "ru_RU.UTF-8"}, "en"),
        ({"LC_ALL": "", "LC_MESSAGES": "", "LANG": "ru"}, "ru"),
    ],
)
def test_posix_variables_choose(environment: dict[str, str], language: str) -> None:
    assert language_of(environment) == language


@pytest.mark.parametrize("name", CATALOGUE)
def test_both_languages_fill_the_same_places(name: str) -> None:
    def places(sentence: str) -> set[str | None]:
        return {place for _, place, _, _ in string.Formatter().parse(sentence) if place}

    english, russian = CATALOGUE[name]
    assert places(english) == places(russian)
    assert english
    assert russian


def test_a_sentence_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "ru_RU.UTF-8")
    assert text("error", message="x") == "Ошибка: x"
