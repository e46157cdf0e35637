"""The command line: `montana up`, `credentials`, `status`, `config check`, `check link`.

What is asked for goes to standard output, errors and logs to standard error. Exit codes: 0 done,
1 it can't be done now, 2 the command or the configuration is wrong.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import trio

from core.api.client import connect
from core.api.messages import (
    CREDENTIALS_TTL_MAXIMUM_S,
    AccountName,
    CallName,
    CheckLinkReply,
    CheckLinkRequest,
    CredentialsReply,
    CredentialsRequest,
    EndReply,
    EndRequest,
    ReplyBody,
    RequestBody,
    Seconds,
    StatusReply,
    StatusRequest,
)
from core.config import NodeConfig, describe, development_config, lan_addresses, load
from core.errors import ConfigError, MontanaError, OperationError
from relay.command_line import LocalisedCommand, LocalisedGroup, describe_usage_error
from relay.language import text
from relay.node_files import DEFAULT_DATA_DIR, socket_path
from relay.version import VERSION

ANSWER_TIMEOUT_S = 15
EXIT_FAILED = 1
EXIT_USAGE = 2

_Reply = TypeVar("_Reply", bound=ReplyBody)
_Command = TypeVar("_Command", bound=Callable[..., object])
_SIZE_UNITS = ("kB", "MB", "GB", "TB")
_EXISTING_PATH = click.Path(path_type=Path, dir_okay=False)


def _socket_options(command: _Command) -> _Command:
    """The options of every command that speaks with a running node."""
    socket = click.option("--socket", type=_EXISTING_PATH, help=text("help_socket"))
    config = click.option("--config", type=_EXISTING_PATH, help=text("help_of_config"))
    return socket(config(command))


@click.group(
    cls=LocalisedGroup,
    help=text("help_montana"),
    examples=("montana up --dev", "montana config check node.toml", "montana up --help"),
)
@click.version_option(VERSION, prog_name="montana", help=text("version"))
def montana() -> None:
    """Hold the commands together."""


@montana.command(
    cls=LocalisedCommand,
    help=text("help_up_long"),
    short_help=text("help_up"),
    examples=(
        "montana up --dev",
        "montana up --lan",
        "montana up --config node.toml",
        "montana up --config node.toml --json",
    ),
)
@click.option("--config", type=_EXISTING_PATH, help=text("help_config"))
@click.option("--dev", is_flag=True, help=text("help_dev"))
@click.option("--lan", is_flag=True, help=text("help_lan"))
@click.option("--data-dir", type=click.Path(path_type=Path), help=text("help_data_dir"))
@click.option("--json", "as_json", is_flag=True, help=text("help_json"))
def up(config: Path | None, dev: bool, lan: bool, data_dir: Path | None, as_json: bool) -> None:
    """Run a node."""
    # Until the node obeys it: a reload right after the start is not to end it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if [config is not None, dev, lan].count(True) != 1 or (config and data_dir):
        raise click.UsageError(text("one_of_three"), click.get_current_context())
    if config is not None:
        read_config: Callable[[], NodeConfig] = lambda: load(config)  # noqa: E731
    else:
        read_config = _development(data_dir or Path(DEFAULT_DATA_DIR), lan=lan)
    first = read_config()
    # Late, so that the other commands start quickly.
    from relay.node import run_node

    trio.run(run_node, first, read_config if config else None, as_json)


def _development(data_dir: Path, *, lan: bool) -> Callable[[], NodeConfig]:
    def read_config() -> NodeConfig:
        if not lan:
            return development_config(data_dir.absolute())
        addresses = lan_addresses()
        if not addresses:
            raise OperationError(text("no_lan"))
        from relay.web.certificate import ensure_certificate

        files = ensure_certificate(data_dir, addresses)
        config = development_config(data_dir.absolute(), lan=addresses)
        return replace(
            config,
            http=replace(config.http, certificate=files.certificate, private_key=files.private_key),
        )

    return read_config


@montana.command(
    cls=LocalisedCommand,
    help=text("help_credentials"),
    examples=(
        "montana credentials alice",
        "montana credentials alice --ttl 600 --json",
        "montana credentials alice --call CALL-42 --config node.toml",
    ),
)
@click.argument("account")
@click.option("--ttl", default="600", metavar="N", help=text("help_ttl"))
@click.option("--call", metavar="CALL-...", help=text("help_call"))
@click.option("--json", "as_json", is_flag=True, help=text("help_json"))
@_socket_options
def credentials(
    account: str,
    ttl: str,
    call: str | None,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Make credentials."""
    request = CredentialsRequest(
        _checked("ACCOUNT", account, AccountName, text("bad_account")),
        _checked("--ttl", ttl, Seconds, text("bad_ttl", maximum=CREDENTIALS_TTL_MAXIMUM_S)),
        _checked("--call", call, CallName | None, text("bad_call")),
    )
    reply = _ask(_locate(config, socket), request, CredentialsReply)
    if as_json:
        _print_json(reply)
        return
    _print_table(
        [
            (text("user"), reply.username),
            (text("password"), reply.password),
            (text("uris"), "\n".join(reply.uris)),
        ]
    )
    click.echo(text("holds_for", seconds=reply.ttl))


@montana.command(
    cls=LocalisedCommand,
    help=text("help_end"),
    examples=("montana end alice", "montana end alice --json"),
)
@click.argument("account")
@click.option("--json", "as_json", is_flag=True, help=text("help_json"))
@_socket_options
def end(account: str, as_json: bool, config: Path | None, socket: Path | None) -> None:
    """End an account's allocations."""
    reply = _ask(_locate(config, socket), EndRequest(account), EndReply)
    if as_json:
        _print_json(reply)
    else:
        click.echo(text("ended", count=reply.allocations))


@montana.command(
    cls=LocalisedCommand,
    help=text("help_status"),
    examples=("montana status", "montana status --json", "montana status --config node.toml"),
)
@click.option("--json", "as_json", is_flag=True, help=text("help_json"))
@_socket_options
def status(as_json: bool, config: Path | None, socket: Path | None) -> None:
    """Show the node's figures."""
    reply = _ask(_locate(config, socket), StatusRequest(), StatusReply)
    if as_json:
        _print_json(reply)
    else:
        _print_table(_status_rows(reply))


@montana.group(
    "config",
    cls=LocalisedGroup,
    help=text("help_config_group"),
    examples=("montana config check node.toml",),
)
def config_group() -> None:
    """Hold the commands on configuration files."""


@config_group.command(
    "check",
    cls=LocalisedCommand,
    help=text("help_config_check"),
    examples=("montana config check node.toml",),
)
@click.argument("file", type=_EXISTING_PATH)
def config_check(file: Path) -> None:
    """Validate a file."""
    config = load(file)
    if config.http.certificate is not None:
        # Late, so that the other commands start quickly.
        from relay.web.tls import CertificateFiles

        assert config.http.private_key is not None
        CertificateFiles(
            certificate=config.http.certificate, private_key=config.http.private_key
        ).context()
    click.echo(text("config_fine", path=file))
    click.echo(describe(config))


@montana.group(
    "check",
    cls=LocalisedGroup,
    help=text("help_check_group"),
    examples=("montana check link",),
)
def check_group() -> None:
    """Hold the commands on the check page."""


@check_group.command(
    "link",
    cls=LocalisedCommand,
    help=text("help_check_link"),
    examples=("montana check link", "montana check link --config node.toml --json"),
)
@click.option("--json", "as_json", is_flag=True, help=text("help_json"))
@_socket_options
def check_link(as_json: bool, config: Path | None, socket: Path | None) -> None:
    """Make a link."""
    reply = _ask(_locate(config, socket), CheckLinkRequest(), CheckLinkReply)
    if as_json:
        _print_json(reply)
    else:
        click.echo(reply.url)
        click.echo(text("holds_for", seconds=reply.ttl_s), err=True)


def _checked(name: str, value: str | None, kind: Any, sentence: str) -> Any:
    """`value` as one of `kind`, a type of the API's messages."""
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        raise click.UsageError(
            text("bad_value", name=name, message=sentence), click.get_current_context()
        ) from None


def _locate(config: Path | None, socket: Path | None) -> Path:
    if socket is not None:
        return socket
    return socket_path(load(config).data_dir if config else Path(DEFAULT_DATA_DIR))


def _ask(path: Path, request: RequestBody, expected: type[_Reply]) -> _Reply:
    """What the node behind `path` replies; it has to be of the type `expected`."""

    if not path.exists():
        raise OperationError(text("no_node", path=path))

    async def ask() -> ReplyBody:
        with trio.move_on_after(ANSWER_TIMEOUT_S):
            async with connect(path, software=f"montana {VERSION}") as client:
                return await client.request(request)
        raise OperationError(text("no_answer", path=path, seconds=ANSWER_TIMEOUT_S))

    reply = trio.run(ask)
    if not isinstance(reply, expected):
        raise OperationError(f"the node replied with something else: {type(reply).__name__}")
    return reply


def _print_json(reply: ReplyBody) -> None:
    document = msgspec.to_builtins(reply)
    del document["type"]
    click.echo(json.dumps(document, ensure_ascii=False))


def _print_table(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        for line in value.split("\n"):
            click.echo(f"{name:{width}}{line}".rstrip())
            name = ""


def _status_rows(reply: StatusReply) -> list[tuple[str, str]]:
    relayed = [
        f"{text(direction)}: {_number(packets)} {text('packets')}, "
        f"{_size(reply.bytes.get(direction, 0))}"
        for direction, packets in reply.packets.items()
    ]
    drops = [f"{cause}: {_number(count)}" for cause, count in reply.drops.items() if count]
    rows = [
        ("version", reply.version),
        ("uptime", _duration(reply.uptime_s)),
        ("draining", text("yes") if reply.draining else ""),
        ("turn", "\n".join(reply.turn)),
        ("http", reply.http or ""),
        ("metrics", reply.metrics or ""),
        ("workers", str(reply.workers)),
        ("allocations", _number(reply.allocations)),
        ("sessions", _number(reply.sessions)),
        ("flows", _number(reply.flows)),
    ]
    table = [(text(f"status_{name}"), value) for name, value in rows if value]
    table.append((text("status_relayed"), "\n".join(relayed)))
    table.append((text("drops"), "\n".join(drops) or text("nothing")))
    return table


def _number(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NO-BREAK SPACE}")


def _size(size_bytes: int) -> str:
    if size_bytes < 1000:
        return f"{size_bytes} B"
    power = min((len(str(size_bytes)) - 1) // 3, len(_SIZE_UNITS))
    return f"{size_bytes / 1000**power:.1f} {_SIZE_UNITS[power - 1]}"


def _duration(duration_s: int) -> str:
    days, rest_s = divmod(duration_s, 24 * 3600)
    hours, rest_s = divmod(rest_s, 3600)
    minutes, seconds = divmod(rest_s, 60)
    parts = {"days": days, "hours": hours, "minutes": minutes, "seconds": seconds}
    shown = [f"{value} {text(name)}" for name, value in parts.items() if value]
    return " ".join(shown[:2]) or f"0 {text('seconds')}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        result = montana.main(arguments, prog_name="montana", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(EXIT_USAGE)
    except click.UsageError as error:
        _fail(describe_usage_error(error), EXIT_USAGE)
    except click.ClickException as error:
        _fail(error.format_message(), EXIT_USAGE)
    except ConfigError as error:
        _fail(str(error), EXIT_USAGE)
    except MontanaError as error:
        _fail(str(error), EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(128 + 2)
    except BrokenPipeError:
        # Whoever read our output has left; what is still buffered must not fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:
        # What we print can't be written, say: the node's own errors have sentences.
        _fail(f"{error.strerror or error}", EXIT_FAILED)
    else:
        sys.exit(result if isinstance(result, int) else 0)


def _fail(message: str, code: int) -> None:
    click.echo(text("error", message=message), err=True)
    sys.exit(code)
