"""Log lines: whole, on one line, and without secrets."""

from __future__ import annotations

import io
import itertools
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import VirtualClock
from core.log import (
    REPEATED_INTERVAL_S,
    STACK_ERRORS_MAXIMUM,
    STACK_FRAMES_MAXIMUM,
    RepeatedEvent,
    TextFormatter,
    log_event,
    set_up_logging,
    stack_of,
)


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


def test_what_comes_again_and_again_is_a_line_a_minute_for_each_reason() -> None:
    logger, stream = logged(as_json=True)
    clock = VirtualClock()
    refused = RepeatedEvent(logger, "refused", clock)

    def lines() -> list[tuple[str, int]]:
        found = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert all(line["message"] == "refused" and line["status"] == 403 for line in found)
        return [(line["reason"], line["times"]) for line in found]

    for _ in range(10_000):
        refused.happened("a wrong token", status=403)
    refused.happened("too large", status=403)
    assert lines() == [("a wrong token", 1), ("too large", 1)]
    clock.advance_s(REPEATED_INTERVAL_S - 1)
    refused.happened("a wrong token", status=403)
    assert len(lines()) == 2
    clock.advance_s(1)
    refused.happened("a wrong token", status=403)
    refused.happened("a wrong token", status=403)
    assert lines()[2:] == [("a wrong token", 10_001)]
    assert refused.count == 10_004


def test_the_stack_of_a_group_tells_where_its_members_were_raised() -> None:
    def read(text: str) -> int:
        return int(text)

    def write(text: str) -> None:
        raise KeyError(text)

    written = "hunter2"
    members: list[Exception] = []
    for task in (read, write):
        try:
            task(written)
        except Exception as error:
            members.append(error)
    # As tasks in tasks that have failed.
    group: Exception = ExceptionGroup(written, members)
    for _ in range(2 * STACK_ERRORS_MAXIMUM):
        group = ExceptionGroup(written, [group])
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError from group
    stack = stack_of(caught.value)
    first, second, *groups, last = stack.split("\nand then\n")
    assert (first.splitlines()[-1], second.splitlines()[-1]) == ("ValueError", "KeyError")
    assert "in read" in first
    assert "in write" in second
    assert groups == ["ExceptionGroup"] * (2 * STACK_ERRORS_MAXIMUM + 1)
    assert last.splitlines()[-1] == "RuntimeError"
    assert written not in stack


def test_the_stack_of_many_errors_ends_and_tells_each_once() -> None:
    many = ExceptionGroup("", [ValueError(number) for number in range(1_000)])
    stack = stack_of(many)
    assert stack.split("\nand then\n") == ["ValueError"] * STACK_ERRORS_MAXIMUM + ["ExceptionGroup"]
    wide = ExceptionGroup("", [many, many.derive(many.exceptions)])
    assert stack_of(wide).count("ValueError") == STACK_ERRORS_MAXIMUM
    chain = [ValueError() for _ in range(2 * STACK_ERRORS_MAXIMUM)]
    for error, cause in itertools.pairwise(chain):
        error.__cause__ = cause
    assert stack_of(chain[0]).count("ValueError") == STACK_ERRORS_MAXIMUM
    # One that was made of what was being handled, and has come to stand behind that.
    one = ValueError()
    around = ExceptionGroup("", [one])
    around.__context__, one.__cause__ = one, around
    assert stack_of(around) == "ValueError\nand then\nExceptionGroup"


def test_a_stack_tells_where_and_of_which_kind_and_not_what_was_said() -> None:
    def read(text: str) -> int:
        try:
            return int(text)
        except ValueError as error:
            raise LookupError(f"no {text}") from error

    # By turns: lines that repeat themselves are told once by Python.
    def sink(depth: int) -> int:
        return sink_again(depth - 1) if depth else read("hunter2")

    def sink_again(depth: int) -> int:
        return sink(depth - 1)

    with pytest.raises(LookupError) as caught:
        sink(10 * STACK_FRAMES_MAXIMUM)
    stack = stack_of(caught.value)
    first, second = stack.split("\nand then\n")
    assert (first.splitlines()[-1], second.splitlines()[-1]) == ("ValueError", "LookupError")
    assert "in read" in first
    assert "in sink" in second
    assert stack.count("  File ") <= STACK_FRAMES_MAXIMUM + 1
    assert "hunter2" in str(caught.value)
    # It stands in a line of this test's, which is code; what came of it does not.
    assert "no hunter2" not in stack
    logger, stream = logged(as_json=False)
    log_event(logger, logging.ERROR, "failed", exception=stack)
    assert stream.getvalue().endswith(f"ERROR   failed\n{stack}\n")
