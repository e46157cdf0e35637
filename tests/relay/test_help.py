"""Every command's help: examples of its own, and one language at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from relay.cli import montana
from relay.command_line import LocalisedCommand, LocalisedGroup
from tests.support.node import montana_environment

HEADINGS = {
    "en": ("Usage: ", "Options", "Commands", "Examples:", "Show this and exit."),
    "ru": ("Вызов: ", "Параметры", "Команды", "Примеры:", "Показать это и выйти."),
}
LOCALES = {"en": "en_US.UTF-8", "ru": "ru_RU.UTF-8"}
PRINT_HELP = """
import contextlib, io, json, sys
from relay.cli import montana
for words in json.load(sys.stdin):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        montana.main([*words, "--help"], prog_name="montana", standalone_mode=False)
    print(json.dumps(printed.getvalue()))
"""


def walk(command: click.Command, *words: str) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from walk(one, *words, name)


COMMANDS = list(walk(montana))


@pytest.fixture(scope="module", params=LOCALES)
def helps(request: pytest.FixtureRequest) -> tuple[str, dict[tuple[str, ...], str]]:
    """A language, and the help of each command in it."""
    # What click has of us was made when it was imported: another process for each language.
    printed = subprocess.run(
        [sys.executable, "-c", PRINT_HELP],
        input=json.dumps(COMMANDS),
        capture_output=True,
        text=True,
        check=True,
        env=montana_environment(LC_ALL=LOCALES[request.param]),
    ).stdout
    shown = map(json.loads, printed.splitlines())
    return request.param, dict(zip(COMMANDS, shown, strict=True))


def test_all_commands_are_walked() -> None:
    assert {("up",), ("config", "check"), ("account", "credit"), ("ledger", "verify")} < set(
        COMMANDS
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_shows_examples_in_one_language(
    helps: tuple[str, dict[tuple[str, ...], str]], words: tuple[str, ...]
) -> None:
    language, printed_by = helps
    printed = printed_by[words]
    command: click.Command = montana
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert isinstance(command, LocalisedCommand | LocalisedGroup)
    usage, options, commands, examples, show = HEADINGS[language]
    assert printed.startswith(f"{usage}{' '.join(('montana', *words))} ")
    for heading in (f"\n{options}:\n", f"\n{examples}\n", show):
        assert heading in printed
    assert (f"\n{commands}:\n" in printed) is isinstance(command, click.Group)
    (other,) = HEADINGS.keys() - {language}
    for heading in HEADINGS[other]:
        assert heading not in printed
    assert command.examples
    for example in command.examples:
        assert example.split()[: 1 + len(words)] == ["montana", *words]
        # Long ones go on in a next line.
        assert " ".join(example.split()) in " ".join(printed.split())
    # What click calls values that nobody has named.
    for kind in ("TEXT", "INTEGER"):
        assert kind not in printed
