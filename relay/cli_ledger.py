"""`montana account ...` and `montana voucher ...`: what operators ask of the ledger.

A running node is asked through its socket. Where none is, the ledger's files are opened here: the
same requests go to the same desk.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import click

from billing.money import find_currency
from core.api.fields import EffectId, PageLimit
from core.api.messages import (
    AccountCloseRequest,
    AccountCreateRequest,
    AccountCreditRequest,
    AccountFreezeRequest,
    AccountHistoryRequest,
    AccountLinkRequest,
    AccountListReply,
    AccountListRequest,
    AccountRefundRequest,
    AccountReply,
    AccountShowRequest,
    AccountTransferRequest,
    AccountUnlinkRequest,
    HistoryItem,
    HistoryReply,
    LedgerReply,
    LedgerRequest,
    TransferReply,
    VoucherCreateRequest,
    VoucherRedeemRequest,
    VouchersReply,
)
from core.clock import SystemClock
from core.config import BillingConfig
from core.config_file import load
from relay.cli_shared import (
    ask,
    ask_or_open,
    checked,
    effect_id,
    effect_options,
    expect,
    json_option,
    limit_option,
    locate,
    name_purpose,
    page_limit,
    print_columns,
    print_json,
    print_more,
    print_table,
    show_moment,
    show_size,
    socket_options,
)
from relay.command_line import LocalisedCommand, LocalisedGroup
from relay.language import text

_Reply = TypeVar("_Reply", bound=LedgerReply)

_currency_option = click.option(
    "--currency", default="J", metavar="J|EMC", help=text("help_currency")
)


@click.group(
    "account",
    cls=LocalisedGroup,
    help=text("help_account_group"),
    examples=(
        "montana account create user:alice",
        "montana account credit user:alice 10",
        "montana account show user:alice --json",
    ),
)
def account_group() -> None:
    """Hold the commands on accounts."""


@click.group(
    "voucher",
    cls=LocalisedGroup,
    help=text("help_voucher_group"),
    examples=(
        "montana voucher create 100 --count 10",
        "montana voucher redeem AAAAA-BBBBB-CCCCC-DDDDD user:alice",
    ),
)
def voucher_group() -> None:
    """Hold the commands on vouchers."""


@account_group.command(
    cls=LocalisedCommand,
    help=text("help_account_create"),
    examples=(
        "montana account create user:alice",
        "montana account create tg:123 +4930123456 --json",
    ),
)
@click.argument("addresses", metavar="[ADDRESS]...", nargs=-1)
@effect_options
def create(
    addresses: tuple[str, ...],
    identity: str | None,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Open an account."""
    request = AccountCreateRequest(addresses, effect_id(identity))
    _print_account(answer(request, AccountReply, config, socket), as_json)


@account_group.command(
    cls=LocalisedCommand,
    help=text("help_account_show"),
    examples=("montana account show user:alice", "montana account show 17 --json"),
)
@click.argument("account")
@json_option
@socket_options
def show(account: str, as_json: bool, config: Path | None, socket: Path | None) -> None:
    """Show an account."""
    reply = answer(AccountShowRequest(account), AccountReply, config, socket)
    _print_account(reply, as_json)


@account_group.command(
    "list",
    cls=LocalisedCommand,
    help=text("help_account_list"),
    examples=("montana account list", "montana account list --from 100 --limit 50 --json"),
)
@click.option("--from", "first", default="0", metavar="N", help=text("help_from"))
@limit_option
@json_option
@socket_options
def list_accounts(
    first: str, limit: str, as_json: bool, config: Path | None, socket: Path | None
) -> None:
    """List accounts."""
    number = checked("--from", first, int, text("bad_number"))
    request = AccountListRequest(max(0, number), page_limit(limit))
    reply = answer(request, AccountListReply, config, socket)
    if as_json:
        print_json(reply)
        return
    heads = [text(name) for name in ("account", "balance", "available", "addresses", "state")]
    rows = [
        [
            f"#{one.account}",
            show_money(one.balance, one.currency),
            show_money(one.available, one.currency),
            ", ".join(one.addresses),
            _state(one),
        ]
        for one in reply.accounts
    ]
    print_columns(heads, rows, right={1, 2})
    print_more("--from", reply.next)


@account_group.command(
    cls=LocalisedCommand,
    help=text("help_account_credit"),
    examples=(
        "montana account credit user:alice 10",
        "montana account credit 17 0.5 --currency EMC",
    ),
)
@click.argument("account")
@click.argument("amount")
@_currency_option
@effect_options
def credit(
    account: str,
    amount: str,
    currency: str,
    identity: str | None,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Make money."""
    request = AccountCreditRequest(account, amount, currency, effect_id(identity))
    _print_transfer(answer(request, TransferReply, config, socket), as_json)


@account_group.command(
    cls=LocalisedCommand,
    help=text("help_account_transfer"),
    examples=("montana account transfer user:alice user:bob 2.5",),
)
@click.argument("debit", metavar="FROM")
@click.argument("credit", metavar="TO")
@click.argument("amount")
@_currency_option
@effect_options
def transfer(
    debit: str,
    credit: str,
    amount: str,
    currency: str,
    identity: str | None,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Move money."""
    request = AccountTransferRequest(debit, credit, amount, currency, effect_id(identity))
    _print_transfer(answer(request, TransferReply, config, socket), as_json)


@account_group.command(
    cls=LocalisedCommand,
    help=text("help_account_refund"),
    examples=(
        "montana account refund 019366f1a2b3c4d5e6f708192a3b4c5d",
        "montana account refund 019366f1a2b3c4d5e6f708192a3b4c5d 1.5",
    ),
)
@click.argument("transfer_id", metavar="TRANSFER")
@click.argument("amount", required=False)
@effect_options
def refund(
    transfer_id: str,
    amount: str | None,
    identity: str | None,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Undo a transfer."""
    request = AccountRefundRequest(
        checked("TRANSFER", transfer_id.lower(), EffectId, text("bad_id")),
        amount,
        effect_id(identity),
    )
    _print_transfer(answer(request, TransferReply, config, socket), as_json)


@account_group.command(
    cls=LocalisedCommand,
    help=text("help_account_link"),
    examples=("montana account link user:alice tg:123",),
)
@click.argument("account")
@click.argument("address")
@effect_options
def link(
    account: str,
    address: str,
    identity: str | None,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Add an address."""
    request = AccountLinkRequest(account, address, effect_id(identity))
    _print_account(answer(request, AccountReply, config, socket), as_json)


@account_group.command(
    cls=LocalisedCommand,
    help=text("help_account_unlink"),
    examples=("montana account unlink 17 tg:123",),
)
@click.argument("account")
@click.argument("address")
@effect_options
def unlink(
    account: str,
    address: str,
    identity: str | None,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Take an address away."""
    request = AccountUnlinkRequest(account, address, effect_id(identity))
    _print_account(answer(request, AccountReply, config, socket), as_json)


@account_group.command(
    cls=LocalisedCommand,
    help=text("help_account_freeze"),
    examples=("montana account freeze user:alice",),
)
@click.argument("account")
@effect_options
def freeze(
    account: str, identity: str | None, as_json: bool, config: Path | None, socket: Path | None
) -> None:
    """Freeze an account."""
    request = AccountFreezeRequest(account, True, effect_id(identity))
    _print_account(answer(request, AccountReply, config, socket), as_json)


@account_group.command(
    cls=LocalisedCommand,
    help=text("help_account_unfreeze"),
    examples=("montana account unfreeze user:alice",),
)
@click.argument("account")
@effect_options
def unfreeze(
    account: str, identity: str | None, as_json: bool, config: Path | None, socket: Path | None
) -> None:
    """End a freeze."""
    request = AccountFreezeRequest(account, False, effect_id(identity))
    _print_account(answer(request, AccountReply, config, socket), as_json)


@account_group.command(
    cls=LocalisedCommand,
    help=text("help_account_close"),
    examples=("montana account close 17",),
)
@click.argument("account")
@effect_options
def close(
    account: str, identity: str | None, as_json: bool, config: Path | None, socket: Path | None
) -> None:
    """Close an account."""
    request = AccountCloseRequest(account, effect_id(identity))
    _print_account(answer(request, AccountReply, config, socket), as_json)


@account_group.command(
    cls=LocalisedCommand,
    help=text("help_account_history"),
    examples=(
        "montana account history user:alice",
        "montana account history user:alice --limit 1000 --json",
    ),
)
@click.argument("account")
@click.option("--before", metavar="N", help=text("help_before"))
@limit_option
@json_option
@socket_options
def history(
    account: str,
    before: str | None,
    limit: str,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Show what has happened on an account."""
    place = checked("--before", before, int | None, text("bad_number"))
    request = AccountHistoryRequest(account, place, page_limit(limit))
    reply = answer(request, HistoryReply, config, socket)
    if as_json:
        print_json(reply)
        return
    heads = [text(name) for name in ("time", "amount", "other_side", "purpose", "id")]
    rows = [
        [
            show_moment(item.time),
            show_change(item),
            item.other,
            show_purpose(item),
            item.id,
        ]
        for item in reply.lines
    ]
    print_columns(heads, rows, right={1})
    print_more("--before", reply.next)


@voucher_group.command(
    "create",
    cls=LocalisedCommand,
    help=text("help_voucher_create"),
    examples=("montana voucher create 100 --count 10", "montana voucher create 5 --json"),
)
@click.argument("amount")
@click.option("--count", default="1", metavar="N", help=text("help_count"))
@_currency_option
@effect_options
def create_vouchers(
    amount: str,
    count: str,
    currency: str,
    identity: str | None,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Make vouchers."""
    request = VoucherCreateRequest(
        amount,
        checked("--count", count, PageLimit, text("bad_limit")),
        currency,
        effect_id(identity),
    )
    reply = answer(request, VouchersReply, config, socket)
    if as_json:
        print_json(reply)
        return
    for code in reply.codes:
        click.echo(code)
    amount_text = show_money(reply.amount, reply.currency)
    click.echo(text("vouchers_made", count=len(reply.codes), amount=amount_text), err=True)


@voucher_group.command(
    cls=LocalisedCommand,
    help=text("help_voucher_redeem"),
    examples=("montana voucher redeem AAAAA-BBBBB-CCCCC-DDDDD user:alice",),
)
@click.argument("code")
@click.argument("account")
@json_option
@socket_options
def redeem(
    code: str, account: str, as_json: bool, config: Path | None, socket: Path | None
) -> None:
    """Redeem a voucher."""
    request = VoucherRedeemRequest(code, account)
    _print_transfer(answer(request, TransferReply, config, socket), as_json)


def answer(
    request: LedgerRequest, expected: type[_Reply], config: Path | None, socket: Path | None
) -> _Reply:
    """What a running node says, or the ledger's files where none is running."""
    path = locate(config, socket)

    def ask_node() -> LedgerReply:
        return ask(path, request, expected)

    async def open_files(folder: Path) -> LedgerReply:
        billing = load(config).billing if config is not None else BillingConfig()
        if config is None and isinstance(request, AccountCreateRequest):
            click.echo(text("created_without_config"), err=True)
        return await _answer_from_files(folder, request, billing)

    return expect(ask_or_open(path, request, ask_node, open_files), expected)


async def _answer_from_files(
    folder: Path, request: LedgerRequest, billing: BillingConfig
) -> LedgerReply:
    # Late: it takes a while, and is needed only where no node runs.
    from billing.charging import Charging
    from billing.desk import Desk
    from billing.ledger import open_ledger

    clock = SystemClock()
    with open_ledger(folder, clock) as ledger:
        await Charging(ledger).recover()
        return await Desk(ledger, clock, billing).answer(request)


def _print_account(reply: AccountReply, as_json: bool) -> None:
    if as_json:
        print_json(reply)
        return
    rows = [(text("account"), f"#{reply.account}"), (text("addresses"), "\n".join(reply.addresses))]
    for one in reply.balances:
        if one.currency != reply.currency and not one.balance.strip("0."):
            continue
        rows.append((text("balance"), show_money(one.balance, one.currency)))
        for name, amount in (("held", one.held), ("reserved", one.reserved)):
            if amount.strip("0."):
                rows.append((text(name), show_money(amount, one.currency)))
        rows.append((text("available"), show_money(one.available, one.currency)))
    rows += [(text("state"), _state(reply)), (text("opened"), reply.opened[:10])]
    print_table([row for row in rows if row[1]])


def _print_transfer(reply: TransferReply, as_json: bool) -> None:
    if as_json:
        print_json(reply)
        return
    rows = [
        (text("transfer"), reply.id),
        (text("from"), f"#{reply.debit}"),
        (text("to"), f"#{reply.credit}"),
        (text("amount"), show_money(reply.amount, reply.currency)),
    ]
    if reply.fee.strip("0."):
        rows.append((text("fee"), show_money(reply.fee, reply.currency)))
    print_table(rows)


def _state(reply: AccountReply) -> str:
    if reply.merged_into is not None:
        return text("merged_into", account=reply.merged_into)
    states = [name for name in ("frozen", "closed") if getattr(reply, name)]
    return ", ".join(map(text, states))


def show_money(number: str, currency: str) -> str:
    """A decimal number for people: `12.5 Ɉ`."""
    return f"{number.rstrip('0').rstrip('.')} {find_currency(currency).symbol}"


def show_change(item: HistoryItem) -> str:
    """What a line has changed, for people: `+12.5 Ɉ`; in brackets what waits."""
    if item.reserved is not None:
        return f"({show_money(item.reserved, item.currency)})"
    sign = "" if item.amount.startswith("-") else "+"
    return sign + show_money(item.amount, item.currency)


def show_purpose(item: HistoryItem) -> str:
    """What a line is for, in words."""
    purpose = name_purpose(item.purpose)
    if item.session is not None:
        return f"{purpose}, {item.session.seconds} {text('seconds')}, " + show_size(
            item.session.bytes
        )
    return purpose if item.kind == "transfer" else f"{purpose}, {text(f'kind_{item.kind}')}"
