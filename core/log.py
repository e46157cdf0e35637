"""Logs: one line an event, as JSON for programs or as text for people.

What is logged is an event's name and fields, `log_event(logger, level, "relay closed", port=5)`,
through the standard library's loggers, so that libraries' own lines come out the same way. No
field holds a secret or a credential in full: names that could are withheld here besides.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from typing import Any, Final, TextIO

from core.clock import Clock
from core.units import MINUTE_S, NS_PER_S

WITHHELD_FIELDS = frozenset(
    {"authorization", "credential", "key", "nonce", "password", "secret", "token", "username"}
)
WITHHELD = "(withheld)"
MESSAGE_CHARACTERS_MAX = 2000
REPEATED_INTERVAL_S: Final = MINUTE_S
REASONS_MAXIMUM: Final = 64
STACK_FRAMES_MAXIMUM: Final = 20
STACK_ERRORS_MAXIMUM: Final = 5
_FIELDS = "montana_fields"


def log_event(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Log `event` (a few lower-case words, no values in them) with its `fields`."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", event, extra={_FIELDS: fields})


class RepeatedEvent:
    """An event that strangers can bring about as often as they like, so that each reason for it is
    a line in `REPEATED_INTERVAL_S` at most.

    Attributes:
        count: how often it has come to pass.
    """

    def __init__(self, logger: logging.Logger, event: str, clock: Clock) -> None:
        self._logger = logger
        self._event = event
        self._clock = clock
        self._logged_ns: dict[str, int] = {}
        self._unsaid: dict[str, int] = {}
        self.count = 0

    def happened(self, reason: str, **fields: object) -> None:
        """It has come to pass once more. `times` in its line says how often since the last one.

        Args:
            reason: one of the few sentences that stand in our own code for it.
        """
        self.count += 1
        self._unsaid[reason] = self._unsaid.get(reason, 0) + 1
        assert len(self._unsaid) <= REASONS_MAXIMUM, "a reason quotes nothing"
        now_ns = self._clock.monotonic_ns()
        logged_ns = self._logged_ns.get(reason)
        if logged_ns is not None and now_ns - logged_ns < REPEATED_INTERVAL_S * NS_PER_S:
            return
        self._logged_ns[reason] = now_ns
        times, self._unsaid[reason] = self._unsaid[reason], 0
        log_event(self._logger, logging.WARNING, self._event, reason=reason, times=times, **fields)


def stack_of(error: BaseException) -> str:
    """Where an error and those behind it were raised, the first one first, and of which kind they
    are; not what they say, since that may quote what somebody has written. Those in a group are
    behind it."""
    parts: list[str] = []
    count = 0
    waiting, seen = [error], {id(error)}
    while waiting and count < STACK_ERRORS_MAXIMUM:
        one = waiting.pop()
        frames = traceback.format_tb(one.__traceback__, -STACK_FRAMES_MAXIMUM)
        parts.append(f"{''.join(frames)}{type(one).__name__}")
        behind = [one.__cause__ or (None if one.__suppress_context__ else one.__context__)]
        if isinstance(one, BaseExceptionGroup):
            # Groups are not counted: however many stand around an error, it is what tells most.
            behind.extend(one.exceptions[:STACK_ERRORS_MAXIMUM])
        else:
            count += 1
        for other in behind:
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)
    return "\nand then\n".join(reversed(parts))


class _Formatter(logging.Formatter):
    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """The record's own fields, those withheld that have to be."""
        fields: dict[str, Any] = {
            name: WITHHELD if name in WITHHELD_FIELDS else value
            for name, value in getattr(record, _FIELDS, {}).items()
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return fields

    def moment(self, record: logging.LogRecord) -> str:
        """UTC, to the millisecond."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


class JsonFormatter(_Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message` and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": self.moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MESSAGE_CHARACTERS_MAX],
            **self.fields(record),
        }
        return json.dumps(line, default=str)


class TextFormatter(_Formatter):
    """`time LEVEL message field=value`; what could break a line or a terminal is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end but for an exception's own lines."""
        fields = self.fields(record)
        exception = fields.pop("exception", None)
        message = _printable(record.getMessage()[:MESSAGE_CHARACTERS_MAX])
        values = "".join(f" {name}={_value(value)}" for name, value in fields.items())
        line = f"{self.moment(record)} {record.levelname:7} {message}{values}"
        return f"{line}\n{exception}" if exception else line


def _printable(text: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def _value(value: object) -> str:
    text = str(value)
    if text and all(character.isprintable() and character not in ' "=' for character in text):
        return text
    return _printable(json.dumps(text, ensure_ascii=False))


def set_up_logging(stream: TextIO, *, level: str, as_json: bool) -> None:
    """Send everything of `level` and above to `stream`, in place of what was set up before."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # It tells ten times a second, with a traceback, that there is no descriptor left.
    logging.getLogger("trio.serve_listeners").setLevel(logging.CRITICAL)
