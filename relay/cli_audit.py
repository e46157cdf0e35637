"""`montana ledger ...`: verifying, backup, export, and proofs of single records.

A running node is asked through its socket, and tells how far it is; where none is, the ledger's
files are opened here and the same is done. Restoring needs a node that doesn't run; checking a
proof needs neither a node nor a ledger.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

import click
import trio

from core.api.client import ApiClient, NoNode, connect
from core.api.fields import ChainLink, FilePath
from core.api.messages import (
    BackupJob,
    BackupResult,
    ExportJob,
    ExportResult,
    Job,
    JobAskRequest,
    JobReply,
    JobResult,
    JobStartRequest,
    ProofReply,
    ProveRequest,
    RequestBody,
    SigningKeyReply,
    SigningKeyRequest,
    StatusReply,
    StatusRequest,
    VerifyJob,
    VerifyResult,
)
from core.clock import SystemClock
from core.errors import OperationError
from core.identity import load
from core.new_file import new_file
from core.node_files import ledger_folder
from core.version import VERSION
from relay import cli_shared
from relay.cli_shared import (
    NoAnswer,
    ask,
    ask_or_open,
    checked,
    expect,
    is_there,
    json_option,
    locate,
    name_purpose,
    print_document,
    print_json,
    print_table,
    printable,
    refuse_stranger,
    show_number,
    show_size,
    socket_options,
    time_ns_untrusted,
    usage_error,
)
from relay.command_line import LocalisedCommand, LocalisedGroup
from relay.language import text

ASK_FIRST_S = 0.02
ASK_INTERVAL_S = 0.25
"""A job that is short is asked after at once, a long one this often."""
BACKUP_FOLDER = "/var/backups/montana"
"""Where a node under systemd may write besides its data directory, see deploy/montana.service."""
_COPY_BYTES = 1 << 20

_Result = TypeVar("_Result", bound=JobResult)


@click.group(
    "ledger",
    cls=LocalisedGroup,
    help=text("help_ledger_group"),
    examples=(
        "montana ledger verify",
        f"montana ledger backup {BACKUP_FOLDER}/today",
        "montana ledger export --format csv --since 2026-11-01 --output november.csv",
    ),
)
def ledger_group() -> None:
    """Hold the commands on the ledger as a whole."""


@ledger_group.command(
    "verify",
    cls=LocalisedCommand,
    help=text("help_ledger_verify_long"),
    short_help=text("help_ledger_verify"),
    examples=(
        "montana ledger verify",
        "montana ledger verify --config node.toml --json",
        "montana ledger verify --link $(cat yesterdays-link)",
    ),
)
@click.option("--link", metavar="HEX", help=text("help_link"))
@json_option
@socket_options
def verify_ledger(link: str | None, as_json: bool, config: Path | None, socket: Path | None) -> int:
    """Verify the ledger."""
    kept = None
    if link is not None:
        kept = checked("--link", link.strip().lower(), ChainLink, text("bad_link"))
    found = _do(VerifyJob(kept), VerifyResult, locate(config, socket), "verifying", as_json)
    if as_json:
        print_json(found)
        return 0 if found.ok else 1
    rows = [
        (name, show_number(getattr(found, name)))
        for name in ("entries", "accounts", "transfers", "records")
    ]
    if found.sealed:
        rows.append(("sealed", show_number(found.sealed)))
    if found.signers:
        rows.append(("signers", "\n".join(found.signers)))
    for name in ("unsigned_roots", "unchecked_signatures"):
        if getattr(found, name):
            rows.append((name, show_number(getattr(found, name))))
    print_table([(text(f"ledger_{name}"), value) for name, value in [*rows, ("link", found.link)]])
    for problem in found.problems:
        click.echo(f"- {problem}")
    if found.ok:
        click.echo(text("ledger_fine"))
        return 0
    click.echo(text("ledger_wrong", count=show_number(found.problem_count)))
    return 1


@ledger_group.command(
    "backup",
    cls=LocalisedCommand,
    help=text("help_ledger_backup"),
    examples=(f"montana ledger backup {BACKUP_FOLDER}/ledger-2026-11-01",),
)
@click.argument("file", metavar="FILE")
@json_option
@socket_options
def back_up_ledger(file: str, as_json: bool, config: Path | None, socket: Path | None) -> None:
    """Write a backup."""
    job = BackupJob(_file_path("FILE", file))
    made = _do(job, BackupResult, locate(config, socket), "backing_up", as_json)
    _expect_file(job.path, made.size_bytes)
    if as_json:
        print_json(made)
        return
    print_table(
        [
            (text("ledger_file"), made.path),
            (text("ledger_size"), show_size(made.size_bytes)),
            (text("ledger_entries"), show_number(made.entries)),
            (text("ledger_link"), made.link),
        ]
    )


@ledger_group.command(
    "restore",
    cls=LocalisedCommand,
    help=text("help_ledger_restore"),
    examples=(
        f"montana ledger restore {BACKUP_FOLDER}/ledger-2026-11-01",
        f"montana ledger restore {BACKUP_FOLDER}/ledger-2026-11-01 --config node.toml",
    ),
)
@click.argument("file", metavar="FILE")
@json_option
@socket_options
def restore_ledger(file: str, as_json: bool, config: Path | None, socket: Path | None) -> None:
    """Restore a backup."""
    path = locate(config, socket)
    if is_there(path):
        try:
            ask(path, StatusRequest(), StatusReply)
        except NoNode:
            # What a node that was killed has left.
            pass
        else:
            raise OperationError(text("stop_first", path=path))
    refuse_stranger(path)
    # Late: it takes a while.
    from billing.backup import restore

    folder = ledger_folder(path.parent)
    with _Progress("restoring", as_json) as progress:
        restored = restore(Path(_file_path("FILE", file)), folder, progress)
    counts = {
        name: getattr(restored, name) for name in ("entries", "accounts", "transfers", "records")
    }
    if as_json:
        print_document({"path": str(folder), **counts, "link": restored.link.hex()})
        return
    print_table(
        [
            (text("ledger_folder"), str(folder)),
            *((text(f"ledger_{name}"), show_number(count)) for name, count in counts.items()),
            (text("ledger_link"), restored.link.hex()),
        ]
    )


@ledger_group.command(
    "export",
    cls=LocalisedCommand,
    help=text("help_ledger_export"),
    examples=(
        "montana ledger export --format csv --since 2026-11-01 --output november.csv",
        "montana ledger export --format jsonl --since 2026-11-01T12:00:00Z",
        "montana ledger export --format cloudevents",
    ),
)
@click.option(
    "--format", "form", default="csv", metavar="csv|jsonl|cloudevents", help=text("help_format")
)
@click.option("--since", metavar="TIME", help=text("help_since"))
@click.option("--output", metavar="FILE", help=text("help_output"))
@json_option
@socket_options
def export_ledger(
    form: str,
    since: str | None,
    output: str | None,
    as_json: bool,
    config: Path | None,
    socket: Path | None,
) -> None:
    """Export records."""
    job = ExportJob(
        checked("--format", form, Literal["csv", "jsonl", "cloudevents"], text("bad_format")),
        0 if since is None else time_ns_untrusted("--since", since),
        None if output is None else _file_path("--output", output),
    )
    exported = _do(job, ExportResult, locate(config, socket), "exporting", as_json)
    if output is None:
        if exported.path is not None:
            _hand_out(Path(exported.path))
        exported = ExportResult(records=exported.records, path=None)
    elif job.path is not None:
        _expect_file(job.path, exported.size_bytes)
    # Beside the records, what is said of them goes where it isn't taken for one.
    aside = output is None
    if as_json:
        print_document({"records": exported.records, "path": exported.path}, err=aside)
    else:
        click.echo(text("exported", count=show_number(exported.records)), err=aside)


@ledger_group.command(
    "prove",
    cls=LocalisedCommand,
    help=text("help_ledger_prove"),
    examples=(
        "montana ledger prove 019366f1a2b3c4d5e6f708192a3b4c5d --output proof.json",
        "montana ledger prove 019366f1a2b3c4d5e6f708192a3b4c5d --json",
    ),
)
@click.argument("record", metavar="RECORD")
@click.option("--output", metavar="FILE", help=text("help_output"))
@json_option
@socket_options
def prove_of_ledger(
    record: str, output: str | None, as_json: bool, config: Path | None, socket: Path | None
) -> None:
    """Prove a record."""
    document = _prove(record, locate(config, socket)).document
    if output is None:
        if as_json:
            print_document(json.loads(document))
        else:
            click.echo(document, nl=False)
        return
    path = Path(_file_path("--output", output))
    try:
        with new_file(path) as file:
            file.write(document.encode())
    except OSError as error:
        raise OperationError(text("cant_write", path=path, reason=error.strerror)) from error
    if as_json:
        print_document({"record": record.lower(), "path": str(path)})
    else:
        click.echo(text("proof_written", path=path))


@ledger_group.command(
    "check-proof",
    cls=LocalisedCommand,
    help=text("help_ledger_check_proof_long"),
    short_help=text("help_ledger_check_proof"),
    examples=(
        "montana ledger check-proof proof.json",
        "montana ledger check-proof proof.json --node $(cat node-name) --json",
    ),
)
@click.argument("file", metavar="FILE")
@click.option("--node", metavar="NAME", help=text("help_proof_node"))
@click.option("--public-key", metavar="HEX", help=text("help_public_key"))
@json_option
def check_proof(file: str, node: str | None, public_key: str | None, as_json: bool) -> int:
    """Check a proof."""
    # Late: it takes a while, and no other command needs it here.
    from billing.receipts import PROOF_MAXIMUM_BYTES, PUBLIC_KEY_BYTES, check_proof_untrusted

    key: bytes | None = None
    if public_key is not None:
        with usage_error("--public-key", text("bad_key", digits=2 * PUBLIC_KEY_BYTES)):
            key = bytes.fromhex(public_key)
            if len(key) != PUBLIC_KEY_BYTES:
                raise ValueError
    try:
        with Path(file).open("rb") as proof:
            document = proof.read(PROOF_MAXIMUM_BYTES + 1)
    except OSError as error:
        raise OperationError(text("cant_read", path=file, reason=error.strerror)) from error
    shown = check_proof_untrusted(document, key)
    if node is not None and shown.origin != node.strip():
        raise OperationError(text("proof_of_another_node", node=shown.origin))
    if as_json:
        print_document(
            {
                "record": shown.record,
                "origin": shown.origin,
                "leaf_index": shown.leaf_index,
                "tree_size": shown.tree_size,
                "is_signed": shown.is_signed,
                "is_key_known": shown.is_key_known,
                "public_key": shown.public_key.hex(),
            }
        )
    else:
        _print_proof(shown.record, shown.origin, shown.leaf_index, shown.tree_size)
        if shown.is_key_known:
            click.echo(text("proof_of_key"))
        elif shown.is_signed:
            click.echo(text("proof_of_a_node"))
        else:
            click.echo(text("proof_unsigned"))
    # Unsigned, it holds together, and yet anybody could have made it.
    return 0 if shown.is_signed else 1


@ledger_group.command(
    "key",
    cls=LocalisedCommand,
    help=text("help_ledger_key"),
    examples=("montana ledger key", "montana ledger key --json"),
)
@json_option
@socket_options
def key_of_ledger(as_json: bool, config: Path | None, socket: Path | None) -> None:
    """Show whom proofs are signed by."""
    path = locate(config, socket)
    request = SigningKeyRequest()

    async def open_files(folder: Path) -> SigningKeyReply:
        # Late: it takes a while, and is needed only where no node runs.
        from billing.ledger import open_ledger
        from relay.jobs import signing_key

        with open_ledger(folder, SystemClock()) as ledger:
            return signing_key(ledger)

    found = ask_or_open(path, request, lambda: ask(path, request, SigningKeyReply), open_files)
    if as_json:
        print_json(found)
    else:
        print_table([(text("proof_origin"), found.origin), ("ML-DSA-65", found.public_key)])


# ---------------------------------------------------------------- asking


def _do(job: Job, expected: type[_Result], path: Path, what: str, as_json: bool) -> _Result:
    """What has come of a job, on a running node or on the ledger's files; what is written of an
    export without a path is on standard output already where the result has no path."""
    with _Progress(what, as_json) as progress:
        result = ask_or_open(
            path,
            JobStartRequest(job),
            lambda: trio.run(_on_node, path, job, progress),
            lambda folder: _on_files(folder, job, progress),
        )
    if not isinstance(result, expected):
        raise OperationError(f"the node replied with something else: {type(result).__name__}")
    return result


async def _on_node(path: Path, job: Job, progress: _Progress) -> JobResult:
    """What a running node has made of a job."""
    async with connect(path, software=f"montana {VERSION}") as client:
        reply = await _request(client, path, JobStartRequest(job))
        pause_s = ASK_FIRST_S
        while reply.result is None:
            if reply.error is not None:
                raise OperationError(reply.error)
            progress(reply.done, reply.of)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, ASK_INTERVAL_S)
            reply = await _request(client, path, JobAskRequest(reply.number))
        return reply.result


async def _request(client: ApiClient, path: Path, body: RequestBody) -> JobReply:
    with trio.move_on_after(cli_shared.ANSWER_TIMEOUT_S):
        return expect(await client.request(body), JobReply)
    raise NoAnswer(text("no_answer", path=path, seconds=cli_shared.ANSWER_TIMEOUT_S))


async def _on_files(folder: Path, job: Job, progress: _Progress) -> JobResult:
    # Late: it takes a while, and is needed only where no node runs.
    from billing.ledger import open_ledger
    from relay.jobs import carry_out, export, exporting_source

    with open_ledger(folder, SystemClock()) as ledger:
        source = ""
        if isinstance(job, ExportJob):
            source = exporting_source(ledger, load(folder.parent))
        if isinstance(job, ExportJob) and job.path is None:
            # Bytes: what is exported is UTF-8 wherever it is.
            records = await export(
                ledger, job, source, lambda line: click.echo(line.encode(), nl=False), progress
            )
            return ExportResult(records=records, path=None)
        return await carry_out(ledger, job, source, progress)


def _prove(record: str, path: Path) -> ProofReply:
    request = ProveRequest(record)

    async def open_files(folder: Path) -> ProofReply:
        # Late: it takes a while, and is needed only where no node runs.
        from billing.ledger import open_ledger
        from relay.jobs import prove_record

        with open_ledger(folder, SystemClock()) as ledger:
            return prove_record(ledger, record)

    return ask_or_open(path, request, lambda: ask(path, request, ProofReply), open_files)


# ---------------------------------------------------------------- reading and showing


class _Progress:
    """Says on standard error how far something is: to people where that is a terminal, to programs
    one JSON object a line, a few times a second."""

    def __init__(self, what: str, as_json: bool) -> None:
        self._what = text(what)
        self._as_json = as_json
        self._next_s = 0.0
        self._is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_shown:
            click.echo("\r\x1b[K", nl=False, err=True)

    def __call__(self, done: int, of: int) -> None:
        """Say so, if it is time to."""
        now_s = time.monotonic()
        if now_s < self._next_s or not of:
            return
        self._next_s = now_s + ASK_INTERVAL_S
        if self._as_json:
            print_document({"done": done, "of": of}, err=True)
        elif sys.stderr.isatty():
            self._is_shown = True
            click.echo(f"\r{self._what} {100 * done // of} %", nl=False, err=True)


def _file_path(name: str, written: str) -> str:
    """A file as the node finds it: from the root on."""
    path: str = checked(name, str(Path(written).absolute()), FilePath, text("bad_path"))
    return path


def _expect_file(path: str, size_bytes: int) -> None:
    """See for ourselves the file that a node says that it has written.

    Raises:
        OperationError: it isn't here: the node sees other folders than we do.
    """
    try:
        found_bytes = Path(path).stat().st_size
    except OSError:
        found_bytes = -1
    if found_bytes != size_bytes:
        raise OperationError(text("not_here", path=path, folder=BACKUP_FOLDER))


def _hand_out(path: Path) -> None:
    """Write a file that the node has made for us to standard output, and remove it."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise OperationError(text("cant_read", path=path, reason=error.strerror)) from error
    with file:
        path.unlink(missing_ok=True)
        while some := file.read(_COPY_BYTES):
            click.echo(some, nl=False)


def _print_proof(record: Mapping[str, str | int], origin: str, leaf: int, size: int) -> None:
    rows = [
        ("id", str(record["id"])),
        ("proof_session", printable(record["name"])),
        ("purpose", name_purpose(str(record["kind"]))),
        ("account", str(record["account"])),
        ("opened", str(record["opened"])),
        ("proof_closed", str(record["closed"])),
        ("proof_seconds", show_number(int(record["seconds"]))),
        ("proof_bytes", show_number(int(record["bytes"]))),
        ("proof_cost", f"{record['cost']} {record['currency']}"),
        ("proof_reason", printable(record["reason"])),
        ("proof_origin", origin),
        ("proof_place", f"{show_number(leaf + 1)} / {show_number(size)}"),
    ]
    print_table([(text(name), value) for name, value in rows])
