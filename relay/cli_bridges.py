"""`montana bridge` and `montana gsm`: bridges run by hand, and asked through the node."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import msgspec

from core.api.bridge_messages import BridgeAnswerReply, BridgeAskRequest, BridgeItem
from core.bridge_config import BRIDGES
from core.errors import OperationError
from relay.cli_shared import (
    EXISTING_PATH,
    ask,
    checked,
    json_option,
    locate,
    print_json,
    printable,
    socket_options,
)
from relay.command_line import LocalisedCommand, LocalisedGroup, require
from relay.language import text

ANSWER_TIMEOUT_S = 70
"""A network may take a minute for a USSD answer."""
ModemName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9]{0,15}\Z")]
UssdCode = Annotated[str, msgspec.Meta(pattern=r"^[0-9*#+]{1,40}\Z")]


@click.command(
    "bridge",
    cls=LocalisedCommand,
    help=text("help_bridge_long"),
    short_help=text("help_bridge"),
    examples=(
        "montana bridge telegram --config node.toml",
        "montana bridge gsm --config /etc/montana/node.toml",
    ),
)
@click.argument("name")
@click.option(
    "--config", type=EXISTING_PATH, callback=require, metavar="FILE", help=text("help_config")
)
def bridge(name: str, config: Path) -> None:
    """Run a bridge."""
    if name not in BRIDGES:
        raise click.UsageError(
            text("bad_value", name="NAME", message=text("bad_bridge", names=", ".join(BRIDGES))),
            click.get_current_context(),
        )
    # Another program, which takes our place: nothing of the node's belongs into a bridge.
    command = [sys.executable, "-m", "bridges", name, "--config", str(config)]
    os.execv(sys.executable, command)  # noqa: S606


@click.group(
    "gsm",
    cls=LocalisedGroup,
    help=text("help_gsm_group"),
    examples=("montana gsm ussd sim1 '*100#'",),
)
def gsm_group() -> None:
    """Hold the commands on modems."""


@gsm_group.command(
    "ussd",
    cls=LocalisedCommand,
    help=text("help_gsm_ussd"),
    examples=("montana gsm ussd sim1 '*100#'", "montana gsm ussd sim1 '*100#' --json"),
)
@click.argument("modem")
@click.argument("code")
@json_option
@socket_options
def ussd(modem: str, code: str, as_json: bool, config: Path | None, socket: Path | None) -> None:
    """Dial a code."""
    arguments = (
        checked("MODEM", modem, ModemName, text("bad_modem")),
        checked("CODE", code, UssdCode, text("bad_ussd")),
    )
    request = BridgeAskRequest("gsm", "ussd", arguments)
    reply = ask(locate(config, socket), request, BridgeAnswerReply, timeout_s=ANSWER_TIMEOUT_S)
    if as_json:
        print_json(reply)
    elif reply.ok:
        click.echo("\n".join(map(printable, reply.text.splitlines())))
    if not reply.ok:
        raise OperationError(printable(reply.text))


def bridge_rows(items: Sequence[BridgeItem]) -> list[tuple[str, str]]:
    """What the node's status says of its bridges, as names and values."""
    rows = []
    for item in items:
        state = printable(item.state)
        lines = [state if item.connected else f"{state} ({text('bridge_away')})"]
        if item.restarts:
            lines.append(text("bridge_restarts", count=item.restarts))
        lines += [f"{printable(name)}: {printable(value)}" for name, value in item.figures.items()]
        rows.append((f"{text('bridge')} {printable(item.name)}", "\n".join(lines)))
    return rows
