"""What the commands have in common: how a node is found and asked, and how replies are shown.

A running node is asked through its socket. Where none is, its ledger's files are opened here
(`ask_or_open`), by the user alone that the data directory belongs to: what root would write there,
the node couldn't open.
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import trio

from billing.transfers import new_id
from core.api.client import NoNode, connect
from core.api.connection import Refused
from core.api.fields import EffectId, PageLimit
from core.api.messages import (
    JobResult,
    ReplyBody,
    Request,
    RequestBody,
    decode_client_message_untrusted,
    encode_message,
)
from core.clock import SystemClock
from core.config_file import load
from core.errors import ApiError, OperationError
from core.node_files import DEFAULT_DATA_DIR, ledger_folder, socket_path
from core.version import VERSION
from relay.language import CATALOGUE, text

ANSWER_TIMEOUT_S = 15
EXISTING_PATH = click.Path(path_type=Path, dir_okay=False)
_TIME_MAXIMUM_NS = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_Reply = TypeVar("_Reply", bound=ReplyBody)
_Result = TypeVar("_Result")
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


def effect_options(command: _Command) -> _Command:
    """The options of every command that changes something and can be repeated; `effect_id` reads
    the first."""
    identity = click.option("--id", "identity", metavar="HEX", help=text("help_id"))
    return identity(json_option(socket_options(command)))


def effect_id(written: str | None) -> str:
    """The id under which something is done: the operator's own, or a new one."""
    if written is None:
        return new_id(SystemClock()).hex()
    identity: str = checked("--id", written.lower(), EffectId, text("bad_id"))
    return identity


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


def limit_option(command: _Command) -> _Command:
    """The option of every command that shows a list page by page; `page_limit` reads it."""
    return click.option("--limit", default="100", metavar="N", help=text("help_limit"))(command)


def page_limit(written: str) -> int:
    """How many entries a page is to have.

    Raises:
        click.UsageError: the node gives no such page.
    """
    limit: int = checked("--limit", written, PageLimit, text("bad_limit"))
    return limit


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


def ask(
    path: Path,
    request: RequestBody,
    expected: type[_Reply],
    *,
    timeout_s: float | None = None,
) -> _Reply:
    """What the node behind `path` replies within `timeout_s`, or else `ANSWER_TIMEOUT_S`; it has
    to be of the type `expected`.

    Raises:
        OperationError: no node is there, or it refuses; `NoAnswer` when it says nothing. Of what
            may have been done under an id, the sentence names that.
        ApiError: no node would read the request, or the connection broke.
    """
    check_request(request)
    if timeout_s is None:
        timeout_s = ANSWER_TIMEOUT_S
    if not is_there(path):
        raise OperationError(text("no_node", path=path))

    async def exchange() -> ReplyBody:
        with trio.move_on_after(timeout_s):
            async with connect(path, software=f"montana {VERSION}") as client:
                return await client.request(request)
        raise NoAnswer(text("no_answer", path=path, seconds=int(timeout_s)))

    try:
        return expect(trio.run(exchange), expected)
    except Refused:
        raise
    except (NoAnswer, ApiError) as error:
        identity = getattr(request, "id", None)
        if identity is None:
            raise
        raise OperationError(f"{error}. {text('ask_again', id=identity)}") from error


def check_request(request: RequestBody) -> None:
    """Read `request` as a node would, so that the same bounds hold, and nothing is asked of which
    it would be unknown whether it was done.

    Raises:
        click.UsageError: what was typed is no text.
        ApiError: it is no request.
    """
    try:
        message = encode_message(Request(1, request))
    except UnicodeEncodeError:
        raise click.UsageError(text("bad_text"), click.get_current_context()) from None
    decode_client_message_untrusted(message)


def ask_or_open(
    path: Path,
    request: RequestBody,
    ask_node: Callable[[], _Result],
    open_files: Callable[[Path], Awaitable[_Result]],
) -> _Result:
    """What the node behind `path` says to `request`, or the ledger's files where none is running.

    Args:
        ask_node: raises `NoNode` where none is.
        open_files: is given the ledger's folder.

    Raises:
        OperationError: there is neither a node nor a ledger, or it is another user's.
        ApiError: no node would read the request.
    """
    check_request(request)
    if is_there(path):
        try:
            return ask_node()
        except NoNode:
            # What a node that was killed has left.
            pass
    return trio.run(open_files, existing_ledger(path))


def is_there(path: Path) -> bool:
    """Whether there is a node's socket, though perhaps nobody behind it."""
    try:
        return path.exists()
    except PermissionError:
        refuse_stranger(path)
        raise


def existing_ledger(path: Path) -> Path:
    """The folder of the ledger that belongs to the node whose socket is at `path`.

    Raises:
        OperationError: there is no ledger, or it is another user's.
    """
    # Late: it takes a while.
    from core.store_files import DATA_FILE

    refuse_stranger(path)
    folder = ledger_folder(path.parent)
    if not (folder / DATA_FILE).exists():
        raise OperationError(text("no_ledger", path=path, folder=folder))
    return folder


def refuse_stranger(path: Path) -> None:
    """Have the files of the node whose socket is at `path` touched by their owner alone.

    Raises:
        OperationError: they belong to another user; says how to be that one.
    """
    try:
        owner = path.parent.stat().st_uid
    except OSError:
        # There are none yet, or none that we could touch.
        return
    if owner == os.geteuid():
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        # As sudo takes it.
        name = f"'#{owner}'"
    command = click.get_current_context().command_path
    raise OperationError(text("not_yours", folder=path.parent, user=name, command=command))


def expect(reply: ReplyBody, expected: type[_Reply]) -> _Reply:
    """`reply`, which has to be of the type `expected`."""
    if not isinstance(reply, expected):
        raise OperationError(f"the node replied with something else: {type(reply).__name__}")
    return reply


def print_json(reply: ReplyBody | JobResult) -> None:
    """A reply for programs, in one line."""
    document = msgspec.to_builtins(reply)
    del document["type"]
    print_document(document)


def print_document(document: Mapping[str, Any], *, err: bool = False) -> None:
    """For programs, in one line."""
    click.echo(json.dumps(document, ensure_ascii=False), err=err)


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


def print_more(option: str, following: object | None) -> None:
    """Say by which option the next page comes; nothing behind the last one."""
    if following is not None:
        click.echo(text("more", option=f"{option} {following}"), err=True)


def show_number(value: int) -> str:
    """A whole number for people, in groups of three digits."""
    return f"{value:,}".replace(",", "\N{NO-BREAK SPACE}")


def show_moment(time: str) -> str:
    """A time of the API's (ISO 8601) for people, to the second."""
    return printable(time[:19].replace("T", " "))


def name_purpose(purpose: str) -> str:
    """What a transfer or a session was for, in the reader's language where we know the word."""
    name = f"purpose_{purpose}"
    return text(name) if name in CATALOGUE else printable(purpose)


def printable(value: object) -> str:
    """Nothing that a terminal would obey: it may have come from anybody."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def show_size(size_bytes: int) -> str:
    """A number of bytes for people: `212.3 MB`."""
    units = ("kB", "MB", "GB", "TB")
    if size_bytes < 1000:
        return f"{size_bytes} B"
    power = min((len(str(size_bytes)) - 1) // 3, len(units))
    return f"{size_bytes / 1000**power:.1f} {units[power - 1]}"
