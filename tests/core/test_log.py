"""Log lines: whole, on one line, and without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.log import TextFormatter, log_event, set_up_logging


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(*, as_json: bool, level: str = "info") -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    set_up_logging(stream, level=level, as_json=as_json)
    return logging.getLogger("montana.test"), stream


def test_a_json_line_has_the_event_and_its_fields() -> None:
    logger, stream = logged(as_json=True)
    log_event(logger, logging.WARNING, "buffer small", wanted=8, given=4)
    line = json.loads(stream.getvalue())
    assert line["message"] == "buffer small"
    assert (line["level"], line["logger"]) == ("warning", "montana.test")
    assert (line["wanted"], line["given"]) == (8, 4)


def test_a_text_line_can_be_read() -> None:
    logger, stream = logged(as_json=False)
    log_event(logger, logging.INFO, "ready", turn="udp://127.0.0.1:1", text="two words")
    assert stream.getvalue().endswith('INFO    ready turn=udp://127.0.0.1:1 text="two words"\n')


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("field", ["password", "secret", "token", "username", "key"])
def test_fields_named_like_secrets_are_withheld(as_json: bool, field: str) -> None:
    logger, stream = logged(as_json=as_json)
    log_event(logger, logging.INFO, "made", **{field: "tr0ub4dor"})
    assert "tr0ub4dor" not in stream.getvalue()
    assert "(withheld)" in stream.getvalue()


def test_below_the_level_nothing_is_written() -> None:
    logger, stream = logged(as_json=False, level="warning")
    log_event(logger, logging.INFO, "quiet")
    assert stream.getvalue() == ""


@given(message=st.text(max_size=50), value=st.text(max_size=50))
def test_whatever_it_holds_a_text_line_is_one_printable_line(message: str, value: str) -> None:
    record = logging.LogRecord("montana", logging.INFO, "", 0, "%s", (message,), None)
    record.montana_fields = {"value": value}
    line = TextFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert line.isprintable()


def test_an_exception_is_shown_whole() -> None:
    logger, stream = logged(as_json=True)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logger.exception("a task ended")
    assert "RuntimeError: broken" in json.loads(stream.getvalue())["exception"]
