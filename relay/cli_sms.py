"""`montana sms ...`: what operators ask of a running node's SMS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from core.api.fields import LongText, ShortText
from core.api.sms_messages import (
    Place,
    SmsBudgetReply,
    SmsBudgetRequest,
    SmsListReply,
    SmsListRequest,
    SmsSendReply,
    SmsSendRequest,
)
from relay.cli_ledger import show_money
from relay.cli_shared import (
    ask,
    checked,
    effect_id,
    effect_options,
    json_option,
    limit_option,
    locate,
    page_limit,
    print_columns,
    print_json,
    print_more,
    print_table,
    printable,
    show_moment,
    show_number,
    socket_options,
)
from relay.command_line import LocalisedCommand, LocalisedGroup
from relay.language import CATALOGUE, text


@click.group(
    "sms",
    cls=LocalisedGroup,
    help=text("help_sms_group"),
    examples=("montana sms list", "montana sms budget"),
)
def sms_group() -> None:
    """Hold the commands on SMS."""


@sms_group.command(
    "list",
    cls=LocalisedCommand,
    help=text("help_sms_list"),
    examples=("montana sms list", "montana sms list --limit 1000 --json"),
)
@click.option("--before", metavar="N", help=text("help_sms_before"))
@limit_option
@json_option
@socket_options
def list_sms(
    before: str | None, limit: str, as_json: bool, config: Path | None, socket: Path | None
) -> None:
    """List SMS."""
    request = SmsListRequest(
        checked("--before", before, Place | None, text("bad_place")), page_limit(limit)
    )
    reply = ask(locate(config, socket), request, SmsListReply)
    if as_json:
        print_json(reply)
        return
    names = ("sms_time", "sms_number", "sms_bridge", "sms_action", "sms_result", "sms_status")
    heads = [
        "",
        *(text(name) for name in names),
        text("sms_parts"),
        text("proof_cost"),
        text("sms_id"),
    ]
    rows = [
        [
            "<" if item.direction == "in" else ">",
            show_moment(item.time),
            printable(item.number),
            printable(item.bridge),
            printable(item.action),
            printable(item.result),
            printable(item.status),
            show_number(item.parts),
            show_money(item.cost, "J"),
            printable(item.id),
        ]
        for item in reply.messages
    ]
    print_columns(heads, rows, right={7, 8})
    print_more("--before", reply.next)


@sms_group.command(
    "send",
    cls=LocalisedCommand,
    help=text("help_sms_send"),
    examples=("montana sms send +79991234567 'The node is back'",),
)
@click.argument("number")
@click.argument("message")
@effect_options
def send_sms(
    number: str,
    message: str,
    identity: str | None,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Send an SMS."""
    request = SmsSendRequest(
        checked("NUMBER", number, ShortText, text("bad_phone")),
        checked("MESSAGE", message, LongText, text("bad_sms")),
        effect_id(identity),
    )
    reply = ask(locate(config, socket), request, SmsSendReply)
    if as_json:
        print_json(reply)
    else:
        click.echo(text("sms_queued", number=number, parts=reply.parts, id=reply.id))


@sms_group.command(
    "budget",
    cls=LocalisedCommand,
    help=text("help_sms_budget"),
    examples=("montana sms budget", "montana sms budget --json"),
)
@json_option
@socket_options
def budget(as_json: bool, config: Path | None, socket: Path | None) -> None:
    """Show what was sent, and what may be."""
    reply = ask(locate(config, socket), SmsBudgetRequest(), SmsBudgetReply)
    if as_json:
        print_json(reply)
        return
    countries = ", ".join(map(printable, reply.countries))
    print_table(
        [
            (text("sms_today"), _of(reply.today, reply.per_day)),
            (text("sms_ever"), _of(reply.ever, reply.in_total)),
            (text("sms_per_number"), _limit(reply.per_number)),
            (text("sms_reserved"), f"{reply.reserved_percent} %"),
            (text("sms_countries"), countries or text("sms_nowhere")),
            (text("sms_bridge"), printable(reply.bridge) or text("nothing")),
        ]
    )


def sms_rows(figures: Mapping[str, int]) -> str:
    """What the node's status says of SMS, a line each; empty where there were none."""
    known = {name: count for name, count in figures.items() if f"sms_{name}" in CATALOGUE}
    other = sum(figures.values()) - sum(known.values())
    lines = [f"{text(f'sms_{name}')}: {show_number(count)}" for name, count in known.items()]
    lines.append(f"{text('sms_other')}: {show_number(other)}")
    counts = [*known.values(), other]
    return "\n".join(line for line, count in zip(lines, counts, strict=True) if count)


def _of(used: int, limit: int) -> str:
    return text("sms_of", used=show_number(used), limit=_limit(limit))


def _limit(limit: int) -> str:
    return show_number(limit) if limit else text("sms_no_limit")
