"""`montana call ...` and `montana room link`: what operators ask of a running node's signaling."""

from __future__ import annotations

from pathlib import Path

import click

from core.api.fields import AccountName, CallId, CallKind
from core.api.messages import (
    CallEndReply,
    CallEndRequest,
    CallItem,
    CallLinkReply,
    CallLinkRequest,
    CallListReply,
    CallListRequest,
    RoomLinkReply,
    RoomLinkRequest,
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
    name_purpose,
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
from relay.command_line import LocalisedCommand, LocalisedGroup, require
from relay.language import CATALOGUE, text


@click.group(
    "call",
    cls=LocalisedGroup,
    help=text("help_call_group"),
    examples=(
        "montana call link --from user:alice --to user:bob",
        "montana call list --account user:alice",
    ),
)
def call_group() -> None:
    """Hold the commands on calls."""


@click.group(
    "room",
    cls=LocalisedGroup,
    help=text("help_room_group"),
    examples=("montana room link",),
)
def room_group() -> None:
    """Hold the commands on rooms."""


@call_group.command(
    "link",
    cls=LocalisedCommand,
    help=text("help_call_link"),
    examples=(
        "montana call link --from user:alice --to user:bob",
        "montana call link --from user:alice --kind video",
        "montana call link --from user:alice --to tg:123 --kind voice --json",
    ),
)
@click.option("--from", "caller", callback=require, metavar="ACCOUNT", help=text("help_caller"))
@click.option("--to", "callee", metavar="ACCOUNT", help=text("help_callee"))
@click.option("--kind", default="voice", metavar="voice|video|screen", help=text("help_kind"))
@effect_options
def call_link(
    caller: str,
    callee: str | None,
    kind: str,
    identity: str | None,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Make a call's two links."""
    request = CallLinkRequest(
        checked("--from", caller, AccountName, text("bad_account")),
        checked("--to", callee, AccountName | None, text("bad_account")),
        checked("--kind", kind, CallKind, text("bad_kind")),
        effect_id(identity),
    )
    reply = ask(locate(config, socket), request, CallLinkReply)
    if as_json:
        print_json(reply)
        return
    click.echo(text("call_caller_url", caller=caller, url=reply.caller_url))
    if callee is None:
        click.echo(text("call_anybodys_url", url=reply.callee_url))
    else:
        click.echo(text("call_callee_url", callee=callee, url=reply.callee_url))
    click.echo(text("call_made", call=reply.call_id), err=True)


@call_group.command(
    "list",
    cls=LocalisedCommand,
    help=text("help_call_list"),
    examples=(
        "montana call list",
        "montana call list --account user:alice --limit 1000 --json",
    ),
)
@click.option("--account", metavar="ACCOUNT", help=text("help_call_account"))
@click.option("--before", metavar="...", help=text("help_call_before"))
@limit_option
@json_option
@socket_options
def list_calls(
    account: str | None,
    before: str | None,
    limit: str,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """List calls."""
    request = CallListRequest(
        checked("--account", account, AccountName | None, text("bad_account")),
        before,
        page_limit(limit),
    )
    reply = ask(locate(config, socket), request, CallListReply)
    if as_json:
        print_json(reply)
        return
    names = ("call", "from", "to", "call_kind", "call_status", "call_created")
    heads = [text(name) for name in (*names, "proof_seconds", "proof_cost")]
    rows = [
        [
            item.id,
            printable(item.caller),
            _callee(item),
            name_purpose(item.kind),
            _status(item),
            show_moment(item.created),
            show_number(item.seconds),
            show_money(item.cost, "J"),
        ]
        for item in reply.calls
    ]
    print_columns(heads, rows, right={6, 7})
    print_more("--before", reply.next)


@call_group.command(
    "end",
    cls=LocalisedCommand,
    help=text("help_call_end"),
    examples=("montana call end CALL-ABCDEFGH", "montana call end CALL-ABCDEFGH --json"),
)
@click.argument("call")
@json_option
@socket_options
def end_call(call: str, as_json: bool, config: Path | None, socket: Path | None) -> None:
    """End a call."""
    request = CallEndRequest(checked("CALL", call, CallId, text("bad_call_id")))
    reply = ask(locate(config, socket), request, CallEndReply)
    if as_json:
        print_json(reply)
        return
    item = reply.call
    print_table(
        [
            (text("call"), item.id),
            (text("from"), printable(item.caller)),
            (text("to"), _callee(item)),
            (text("call_status"), _status(item)),
            (text("proof_seconds"), show_number(item.seconds)),
            (text("proof_cost"), show_money(item.cost, "J")),
        ]
    )


@room_group.command(
    "link",
    cls=LocalisedCommand,
    help=text("help_room_link"),
    examples=("montana room link", "montana room link --json"),
)
@effect_options
def room_link(
    identity: str | None, as_json: bool, config: Path | None, socket: Path | None
) -> None:
    """Make a room."""
    reply = ask(locate(config, socket), RoomLinkRequest(effect_id(identity)), RoomLinkReply)
    if as_json:
        print_json(reply)
        return
    click.echo(text("room_link", url=reply.room_url))
    click.echo(text("invitation_link", url=reply.invitation_url))


def _callee(item: CallItem) -> str:
    return text("call_anybody") if item.callee is None else printable(item.callee)


def _status(item: CallItem) -> str:
    name = f"call_status_{item.status}"
    return text(name) if name in CATALOGUE else printable(item.status)
