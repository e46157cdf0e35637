"""The command line: `montana up`, `credentials`, `status`, `config check`, `check link`; what is
asked of the ledger is in `relay.cli_ledger` and `relay.cli_audit`, of calls in `relay.cli_calls`.

What is asked for goes to standard output, errors and logs to standard error. Exit codes: 0 done,
1 it can't be done now, 2 the command or the configuration is wrong.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import click
import msgspec
import trio

from core.api.fields import CREDENTIALS_TTL_MAXIMUM_S, AccountName, CallName, Seconds
from core.api.messages import (
    CheckLinkReply,
    CheckLinkRequest,
    CredentialsReply,
    CredentialsRequest,
    EndReply,
    EndRequest,
    StatusReply,
    StatusRequest,
)
from core.config import DISCOVERY_PORT, NodeConfig
from core.config_file import load
from core.development import development_config, lan_addresses
from core.environment import with_environment
from core.errors import ConfigError, MontanaError, OperationError, own_error
from core.limits import PORT_MAXIMUM
from core.node_files import DEFAULT_DATA_DIR
from core.version import VERSION
from relay.cli_audit import ledger_group
from relay.cli_bridges import bridge, bridge_rows, gsm_group
from relay.cli_calls import call_group, room_group
from relay.cli_ledger import account_group, voucher_group
from relay.cli_shared import (
    EXISTING_PATH,
    ask,
    checked,
    json_option,
    locate,
    print_columns,
    print_document,
    print_json,
    print_table,
    printable,
    show_number,
    show_size,
    socket_options,
)
from relay.cli_sms import sms_group, sms_rows
from relay.cli_statement import statement
from relay.command_line import LocalisedCommand, LocalisedGroup, describe_usage_error
from relay.config_summary import describe
from relay.language import sentence_of, text

Port = Annotated[int, msgspec.Meta(ge=1, le=PORT_MAXIMUM)]
EXIT_FAILED = 1
EXIT_USAGE = 2


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
@click.option("--config", type=EXISTING_PATH, help=text("help_config"))
@click.option("--dev", is_flag=True, help=text("help_dev"))
@click.option("--lan", is_flag=True, help=text("help_lan"))
@click.option("--data-dir", type=click.Path(path_type=Path), help=text("help_data_dir"))
@json_option
def up(config: Path | None, dev: bool, lan: bool, data_dir: Path | None, as_json: bool) -> None:
    """Run a node."""
    # Until the node obeys it: a reload right after the start is not to end it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if [config is not None, dev, lan].count(True) != 1 or (config and data_dir):
        raise click.UsageError(text("one_of_three"), click.get_current_context())
    if config is not None:
        read_file: Callable[[], NodeConfig] = lambda: load(config)  # noqa: E731
    else:
        read_file = _development(data_dir or Path(DEFAULT_DATA_DIR), lan=lan)

    def read_config() -> NodeConfig:
        return with_environment(read_file(), os.environ)

    first = read_config()
    # Late, so that the other commands start quickly.
    from relay.node import run_node

    trio.run(run_node, first, read_config if config else None, as_json, config)


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
@json_option
@socket_options
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
        checked("ACCOUNT", account, AccountName, text("bad_account")),
        checked("--ttl", ttl, Seconds, text("bad_ttl", maximum=CREDENTIALS_TTL_MAXIMUM_S)),
        checked("--call", call, CallName | None, text("bad_call")),
    )
    reply = ask(locate(config, socket), request, CredentialsReply)
    if as_json:
        print_json(reply)
        return
    print_table(
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
@json_option
@socket_options
def end(account: str, as_json: bool, config: Path | None, socket: Path | None) -> None:
    """End an account's allocations."""
    reply = ask(locate(config, socket), EndRequest(account), EndReply)
    if as_json:
        print_json(reply)
    else:
        click.echo(text("ended", count=reply.allocations))


@montana.command(
    cls=LocalisedCommand,
    help=text("help_status"),
    examples=("montana status", "montana status --json", "montana status --config node.toml"),
)
@json_option
@socket_options
def status(as_json: bool, config: Path | None, socket: Path | None) -> None:
    """Show the node's figures."""
    reply = ask(locate(config, socket), StatusRequest(), StatusReply)
    if as_json:
        print_json(reply)
    else:
        print_table(_status_rows(reply))


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
@click.argument("file", type=EXISTING_PATH)
def config_check(file: Path) -> None:
    """Validate a file."""
    config = with_environment(load(file), os.environ)
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
@json_option
@socket_options
def check_link(as_json: bool, config: Path | None, socket: Path | None) -> None:
    """Make a link."""
    reply = ask(locate(config, socket), CheckLinkRequest(), CheckLinkReply)
    if as_json:
        print_json(reply)
    else:
        click.echo(reply.url)
        click.echo(text("holds_for", seconds=reply.ttl_s), err=True)


@montana.command(
    cls=LocalisedCommand,
    help=text("help_discover"),
    examples=("montana discover", "montana discover --json"),
)
@click.option("--port", default=str(DISCOVERY_PORT), metavar="N", help=text("help_probe_port"))
@json_option
def discover(port: str, as_json: bool) -> None:
    """Look for nodes in the local network."""
    asked = checked("--port", port, Port, text("bad_port"))
    # Late, so that the other commands start quickly.
    from core.clock import SystemClock
    from relay.signaling.discovery import discover as ask_network

    found = trio.run(partial(ask_network, SystemClock(), port=asked))
    if not found:
        raise OperationError(text("no_node_found", port=asked))
    if as_json:
        for node in found:
            print_document(node._asdict())
        return
    heads = [text(name) for name in ("found_url", "found_name", "found_key")]
    rows = [[printable(one) for one in (node.url, node.name, node.node_id)] for node in found]
    print_columns(heads, rows, right=set())


account_group.add_command(statement)
montana.add_command(call_group)
montana.add_command(room_group)
montana.add_command(bridge)
montana.add_command(gsm_group)
montana.add_command(sms_group)
montana.add_command(account_group)
montana.add_command(voucher_group)
montana.add_command(ledger_group)


def _status_rows(reply: StatusReply) -> list[tuple[str, str]]:
    relayed = [
        f"{text(direction)}: {show_number(packets)} {text('packets')}, "
        f"{show_size(reply.bytes.get(direction, 0))}"
        for direction, packets in reply.packets.items()
    ]
    drops = [f"{cause}: {show_number(count)}" for cause, count in reply.drops.items() if count]
    rows = [
        ("version", reply.version),
        ("uptime", _duration(reply.uptime_s)),
        ("draining", text("yes") if reply.draining else ""),
        ("turn", "\n".join(reply.turn)),
        ("http", reply.http or ""),
        ("metrics", reply.metrics or ""),
        ("workers", str(reply.workers)),
        ("allocations", show_number(reply.allocations)),
        ("sessions", show_number(reply.sessions)),
        ("flows", show_number(reply.flows)),
        *((name, show_number(count)) for name, count in reply.signaling.items()),
    ]
    outbox = [
        f"{text(f'outbox_{name}')}: {_duration(one) if name == 'oldest_s' else show_number(one)}"
        for name, one in reply.outbox.items()
        if one
    ]
    rows.append(("outbox", "\n".join(outbox)))
    rows.append(("sms", sms_rows(reply.sms)))
    table = [(text(f"status_{name}"), value) for name, value in rows if value]
    table.append((text("status_relayed"), "\n".join(relayed)))
    table.append((text("drops"), "\n".join(drops) or text("nothing")))
    table += bridge_rows(reply.bridges)
    return table


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
    except (MontanaError, ExceptionGroup) as error:
        # A group is what the node's tasks have raised.
        cause = own_error(error)
        if cause is None:
            raise
        code = EXIT_USAGE if isinstance(cause, ConfigError) else EXIT_FAILED
        _fail(sentence_of(cause), code)
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
