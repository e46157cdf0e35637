"""Command lines of modems (ITU-T V.250, 5; 3GPP TS 27.007, 4), and how a command fails."""

from __future__ import annotations

import re
from dataclasses import dataclass

# TS 27.007, 9.2 and TS 27.005, 3.2.5: the texts of +CMEE=2 and numbers of +CMEE=1.
OPERATION_NOT_ALLOWED = 3
OPERATION_NOT_SUPPORTED = 4
SIM_PIN_REQUIRED = 11
SIM_PUK_REQUIRED = 12
INCORRECT_PASSWORD = 16
INCORRECT_PARAMETERS = 50
CME_TEXTS = {
    OPERATION_NOT_ALLOWED: "operation not allowed",
    OPERATION_NOT_SUPPORTED: "operation not supported",
    SIM_PIN_REQUIRED: "SIM PIN required",
    SIM_PUK_REQUIRED: "SIM PUK required",
    INCORRECT_PASSWORD: "incorrect password",
    INCORRECT_PARAMETERS: "Incorrect parameters",
}
CMS_NOT_ALLOWED = 302
CMS_NOT_SUPPORTED = 303
CMS_INVALID_PARAMETER = 304
CMS_SIM_PIN_REQUIRED = 311
CMS_SIM_PUK_REQUIRED = 316
CMS_INVALID_INDEX = 321
CMS_MEMORY_FULL = 322
CMS_SERVICE_CENTRE_UNKNOWN = 330
CMS_NO_NETWORK_SERVICE = 331
CMS_NO_ACKNOWLEDGEMENT_EXPECTED = 340

_BASIC = re.compile(r"S(\d+)(=\d+|\?)|(&?[A-Z])(\d*)", re.IGNORECASE | re.ASCII)
_EXTENDED = re.compile(
    r'([+^*$%][A-Z0-9]+)(=\?|\?|=)?((?:"[^"]*"|[^;"])*)(?:;|$)', re.IGNORECASE | re.ASCII
)


class AtError(Exception):
    """A command that fails: with +CME ERROR, +CMS ERROR, or ERROR alone."""

    def __init__(self, *, cme: int | None = None, cms: int | None = None) -> None:
        super().__init__(f"cme={cme} cms={cms}")
        self.cme = cme
        self.cms = cms


@dataclass(frozen=True)
class Command:
    """One command of a line: `form` is "", "?", "=" or "=?"."""

    name: str
    form: str
    arguments: tuple[str, ...]

    def number(self, place: int, default: int | None = None) -> int:
        """An argument as a number; AtError where it is none, or lacks and has no default."""
        text = self.arguments[place] if place < len(self.arguments) else ""
        if not text and default is not None:
            return default
        if not text.isdecimal():
            raise AtError(cme=INCORRECT_PARAMETERS)
        return int(text)

    def text(self, place: int) -> str:
        """An argument without its quotes; "" where it lacks."""
        return self.arguments[place].strip('"') if place < len(self.arguments) else ""


def parse(text: str) -> list[Command] | None:
    """The commands of a line (V.250, 5.3 and 5.4); None where it is none."""
    commands = []
    at = 0
    while at < len(text):
        if text[at] in " ;":
            at += 1
        elif found := _EXTENDED.match(text, at):
            form = found[2] or ""
            if found[3] and form != "=":
                return None
            commands.append(Command(found[1].upper(), form, _split(found[3])))
            at = found.end()
        elif found := _BASIC.match(text, at):
            if found[3]:
                commands.append(Command(found[3].upper(), "", (found[4] or "0",)))
            else:
                commands.append(Command("S", found[2][0], (found[1], found[2][1:])))
            at = found.end()
        else:
            return None
    return commands


def _split(arguments: str) -> tuple[str, ...]:
    """What stands between commas, those in quotes aside."""
    values, is_quoted = [""], False
    for character in arguments:
        if character == '"':
            is_quoted = not is_quoted
        if character == "," and not is_quoted:
            values.append("")
        else:
            values[-1] += character
    return tuple(value.strip() for value in values)
