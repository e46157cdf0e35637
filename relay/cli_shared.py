"""What the commands that speak with a node have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import trio

from core.api.client import connect
from core.api.messages import JobResult, ReplyBody, RequestBody
from core.config_file import load
from core.errors import OperationError
from relay.language import text
from relay.node_files import DEFAULT_DATA_DIR, socket_path
from relay.version import VERSION

ANSWER_TIMEOUT_S = 15
EXISTING_PATH = click.Path(path_type=Path, dir_okay=False)
_TIME_MAXIMUM_NS = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_Reply = TypeVar("_Reply", bound=ReplyBody)
_Command = TypeVar("_Command", bound=Callable[..., object])


class NoAnswer(OperationError):
    """The node was asked and has said nothing: whether it did what it was asked is unknown."""


def socket_options(command: _Command) -> _Command:
    """The options of every command that speaks with a running node."""
    socket = click.option("--socket", type=EXISTING_PATH, help=text("help_socket"))
    config = click.option("--config", type=EXISTING_PATH, help=text("help_of_config"))
    return socket(config(command))


def json_option(command: _Command) -> _Command:
    """The option of every command that also speaks to programs."""
    return click.option("--json", "as_json", is_flag=True, help=text("help_json"))(command)


def checked(name: str, value: object, kind: Any, sentence: str) -> Any:
    """`value` as one of `kind`, a type of the API's messages.

    Raises:
        click.UsageError: it is none; says `sentence` of `name`.
    """
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        raise click.UsageError(
            text("bad_value", name=name, message=sentence), click.get_current_context()
        ) from None


@contextmanager
def usage_error(name: str, sentence: str) -> Iterator[None]:
    """A `ValueError` becomes what is wrong with the parameter `name`."""
    try:
        yield
    except ValueError:
        raise click.UsageError(
            text("bad_value", name=name, message=sentence), click.get_current_context()
        ) from None


def time_ns_untrusted(name: str, written: str) -> int:
    """Nanoseconds since 1970 of a date or a time (ISO 8601), in UTC unless it says otherwise."""
    with usage_error(name, text("bad_time")):
        moment = datetime.fromisoformat(written)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        time_ns = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    return min(max(0, time_ns), _TIME_MAXIMUM_NS)


def locate(config: Path | None, socket: Path | None) -> Path:
    """The node's socket."""
    if socket is not None:
        return socket
    return socket_path(load(config).data_dir if config else Path(DEFAULT_DATA_DIR))


def ask(path: Path, request: RequestBody, expected: type[_Reply]) -> _Reply:
    """What the node behind `path` replies; it has to be of the type `expected`.

    Raises:
        OperationError: no node is there, or it refuses; `NoAnswer` when it says nothing.
        ApiError: the connection broke.
    """
    if not path.exists():
        raise OperationError(text("no_node", path=path))

    async def exchange() -> ReplyBody:
        with trio.move_on_after(ANSWER_TIMEOUT_S):
            async with connect(path, software=f"montana {VERSION}") as client:
                return await client.request(request)
        raise NoAnswer(text("no_answer", path=path, seconds=ANSWER_TIMEOUT_S))

    return expect(trio.run(exchange), expected)


def expect(reply: ReplyBody, expected: type[_Reply]) -> _Reply:
    """`reply`, which has to be of the type `expected`."""
    if not isinstance(reply, expected):
        raise OperationError(f"the node replied with something else: {type(reply).__name__}")
    return reply


def print_json(reply: ReplyBody | JobResult) -> None:
    """A reply for programs, in one line."""
    document = msgspec.to_builtins(reply)
    del document["type"]
    click.echo(json.dumps(document, ensure_ascii=False))


def print_table(rows: Sequence[tuple[str, str]]) -> None:
    """Names and values, a line each."""
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        for line in value.split("\n"):
            click.echo(f"{name:{width}}{line}".rstrip())
            name = ""


def print_columns(heads: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> None:
    """A table with a head; `right` are the columns of numbers."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = [
            f"{cell:>{width}}" if index in right else f"{cell:{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def show_size(size_bytes: int) -> str:
    """A number of bytes for people: `212.3 MB`."""
    units = ("kB", "MB", "GB", "TB")
    if size_bytes < 1000:
        return f"{size_bytes} B"
    power = min((len(str(size_bytes)) - 1) // 3, len(units))
    return f"{size_bytes / 1000**power:.1f} {units[power - 1]}"
