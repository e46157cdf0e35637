"""Logs: one line an event, as JSON for programs or as text for people.

What is logged is an event's name and fields, `log_event(logger, level, "relay closed", port=5)`,
through the standard library's loggers, so that libraries' own lines come out the same way. No
field holds a secret or a credential in full: names that could are withheld here besides.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any, TextIO

WITHHELD_FIELDS = frozenset(
    {"authorization", "credential", "key", "nonce", "password", "secret", "token", "username"}
)
WITHHELD = "(withheld)"
MESSAGE_CHARACTERS_MAX = 2000
_FIELDS = "montana_fields"


def log_event(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Log `event` (a few lower-case words, no values in them) with its `fields`."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", event, extra={_FIELDS: fields})


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
