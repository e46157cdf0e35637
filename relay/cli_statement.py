"""`montana account statement`: what an account had, what came and went, and what it has.

The pages of its history are read from the last line back, each from where the one before it ended:
what comes meanwhile stands before all of them and changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from billing.money import Currency, find_currency, format_amount
from core.api.messages import AccountHistoryRequest, HistoryItem, HistoryReply
from core.errors import OperationError
from core.timestamps import format_time
from relay.cli_ledger import answer, show_change, show_money, show_purpose
from relay.cli_shared import (
    json_option,
    print_columns,
    print_document,
    print_table,
    show_moment,
    socket_options,
    time_ns_untrusted,
)
from relay.command_line import LocalisedCommand
from relay.language import text

PAGE_LINES = 1000


class _Statement(NamedTuple):
    """Amounts in smallest units; lines from the first on, each with the balance after it."""

    account: str
    opening: int
    closing: int
    lines: list[tuple[HistoryItem, int]]


@click.command(
    "statement",
    cls=LocalisedCommand,
    help=text("help_account_statement_long"),
    short_help=text("help_account_statement"),
    examples=(
        "montana account statement user:alice",
        "montana account statement user:alice --since 2026-11-01 --until 2026-12-01 --json",
    ),
)
@click.argument("account")
@click.option("--since", metavar="TIME", help=text("help_statement_since"))
@click.option("--until", metavar="TIME", help=text("help_statement_until"))
@click.option("--currency", "code", default="J", metavar="J|EMC", help=text("help_currency"))
@json_option
@socket_options
def statement(
    account: str,
    since: str | None,
    until: str | None,
    code: str,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Show what has come and gone, and the balance after each line."""
    currency = find_currency(code)
    since_time, until_time = _time("--since", since), _time("--until", until)
    made = _read(account, since_time, until_time, currency, config, socket)
    changes = [_units(item.amount) for item, _ in made.lines]
    incoming = sum(change for change in changes if change > 0)
    outgoing = -sum(change for change in changes if change < 0)
    if as_json:
        document = {
            "account": made.account,
            "currency": currency.code,
            "since": since_time,
            "until": until_time,
            "opening": format_amount(made.opening, currency),
            "closing": format_amount(made.closing, currency),
            "in": format_amount(incoming, currency),
            "out": format_amount(outgoing, currency),
            "lines": [
                msgspec.to_builtins(item) | {"balance": format_amount(balance, currency)}
                for item, balance in made.lines
            ],
        }
        print_document(document)
        return

    def shown(amount: int) -> str:
        return show_money(format_amount(amount, currency), currency.code)

    names = ("time", "amount", "balance", "other_side", "purpose", "id")
    print_table(
        [
            (text("account"), f"#{made.account}"),
            (text("opening"), shown(made.opening)),
            (text("incoming"), shown(incoming)),
            (text("outgoing"), shown(outgoing)),
            (text("closing"), shown(made.closing)),
        ]
    )
    click.echo()
    rows = [
        [
            show_moment(item.time),
            show_change(item),
            shown(balance),
            item.other,
            show_purpose(item),
            item.id,
        ]
        for item, balance in made.lines
    ]
    print_columns([text(name) for name in names], rows, right={1, 2})


def _read(
    account: str,
    since: str | None,
    until: str | None,
    currency: Currency,
    config: Path | None,
    socket: Path | None,
) -> _Statement:
    lines: list[tuple[HistoryItem, int]] = []
    page = answer(AccountHistoryRequest(account, None, PAGE_LINES), HistoryReply, config, socket)
    if page.settled is None:
        raise OperationError(text("no_statement", account=f"#{page.account}"))
    # An address may be another's before the last page is read.
    number = f"#{page.account}"
    balance = closing = _units(page.settled[currency.code])
    while True:
        for item in page.lines:
            if since is not None and item.time < since:
                return _Statement(page.account, balance, closing, lines[::-1])
            # What waits, or is given free, changes no balance.
            if item.currency != currency.code or item.reserved is not None:
                continue
            after, balance = balance, balance - _units(item.amount)
            if until is not None and item.time >= until:
                closing = balance
            else:
                lines.append((item, after))
        if page.next is None:
            return _Statement(page.account, balance, closing, lines[::-1])
        request = AccountHistoryRequest(number, page.next, PAGE_LINES)
        page = answer(request, HistoryReply, config, socket)


def _units(number: str) -> int:
    """A decimal number in all of its currency's places, in smallest units."""
    return int(number.replace(".", ""))


def _time(name: str, written: str | None) -> str | None:
    """As histories write it: times of one spelling are in the order of their texts."""
    return None if written is None else format_time(time_ns_untrusted(name, written), 3)
