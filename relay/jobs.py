"""What takes a while on a ledger that is in use: verifying, backup, export. One at a time.

    jobs = Jobs(ledger, data_dir, source)
    nursery.start_soon(jobs.run)
    reply = await jobs.answer(JobStartRequest(VerifyJob()))

Whoever has begun a job asks how far it is. A job that nobody asks after is given up, so that a
command that was interrupted leaves nothing behind; what a node that was killed has left is removed
at the next start. The command line carries out the same jobs by
itself (`carry_out`) on the files of a node that doesn't run.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from billing.audit import verify
from billing.backup import back_up
from billing.ledger import LmdbLedger
from billing.receipts import encode_proof, last_root, origin_of, parse_checkpoint_untrusted, prove
from billing.records import Format, Progress, export_records
from billing.transfers import parse_id_untrusted
from core.api.messages import (
    AuditReply,
    AuditRequest,
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
    SigningKeyReply,
    SigningKeyRequest,
    VerifyJob,
    VerifyResult,
)
from core.api.serving import INTERNAL_ERROR
from core.errors import OperationError
from core.identity import Identity
from core.log import log_event
from core.new_file import new_file, sync_file

LEASE_S = 30
"""For how long a job goes on without anybody asking."""
SPOOL_FOLDER = "spool"
"""In the data directory: exports that nobody has named a file for."""
_UNKNOWN_SOURCE = "/montana/unknown"
_UNREADABLE = (msgspec.MsgspecError, ValueError, LookupError)
"""What reading a damaged ledger raises."""

_log = logging.getLogger("montana.jobs")


class _Unreadable(OperationError):
    """The ledger can't be read; or it can, and we have made a mistake, which looks the same."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"the ledger can't be read ({error}). Keep a copy of its files, and restore the last "
            "backup: montana ledger restore BACKUP"
        )


class _Running:
    """A job from its start until its result was told."""

    def __init__(self, number: int, job: Job) -> None:
        self.number = number
        self.job = job
        self.done = 0
        self.of = 0
        self.result: JobResult | None = None
        self.error: str | None = None
        self.told = trio.Event()
        self.lease = trio.CancelScope(deadline=trio.current_time() + LEASE_S)

    def progress(self, done: int, of: int) -> None:
        """Note how far it is."""
        self.done, self.of = done, of


class Jobs:
    """Carries out jobs on a node's ledger.

    Args:
        data_dir: `SPOOL_FOLDER` in it is emptied.
        source: who exports, see `billing.records.export_records`.
    """

    def __init__(self, ledger: LmdbLedger, data_dir: Path, source: str) -> None:
        self._ledger = ledger
        self._spool_folder = data_dir / SPOOL_FOLDER
        self._source = source
        self._number = 0
        self._running: _Running | None = None
        self._begin, self._wanted = trio.open_memory_channel[_Running](1)
        # Whole ones whose command has died, and parts of others, under names of `new_file`'s.
        shutil.rmtree(self._spool_folder, ignore_errors=True)

    async def run(self) -> None:
        """Carry out what is asked for, until cancelled."""
        async for running in self._wanted:
            spool = self._spool_folder / f"export.{running.number}"
            try:
                with running.lease:
                    await self._try(running, spool)
                    await running.told.wait()
            finally:
                if not running.told.is_set():
                    spool.unlink(missing_ok=True)
            if not running.told.is_set():
                log_event(_log, logging.INFO, "a job was given up: nobody has asked after it")
                running.told.set()

    async def _try(self, running: _Running, spool: Path) -> None:
        """Have its result, or the sentence that tells why there is none."""
        job = running.job
        try:
            if isinstance(job, ExportJob) and job.path is None:
                self._spool_folder.mkdir(mode=0o700, exist_ok=True)
                job = msgspec.structs.replace(job, path=str(spool))
            running.result = await carry_out(self._ledger, job, self._source, running.progress)
        except _Unreadable as error:
            _log.exception("a job could not read the ledger")
            running.error = str(error)
        except OperationError as error:
            running.error = str(error)
        except OSError as error:
            running.error = f"it can't be done: {error.strerror or error}"
        except Exception:
            # Our mistake; it is no reason to end the node.
            _log.exception("a job has failed")
            running.error = INTERNAL_ERROR

    async def answer(self, request: AuditRequest) -> AuditReply:
        """Begin a job, tell how far one is, or prove a record.

        Raises:
            OperationError: it can't be done; says why.
        """
        match request:
            case JobStartRequest():
                return self._start(request.job)
            case JobAskRequest():
                return self._ask(request.number)
            case ProveRequest():
                try:
                    return prove_record(self._ledger, request.record)
                except _Unreadable:
                    _log.exception("a record could not be read")
                    raise
            case SigningKeyRequest():
                return signing_key(self._ledger)

    def _start(self, job: Job) -> JobReply:
        if self._running is not None and not self._running.told.is_set():
            raise OperationError("another job is running on the ledger; wait until it has ended")
        self._number += 1
        self._running = _Running(self._number, job)
        self._begin.send_nowait(self._running)
        return JobReply(number=self._number, done=0, of=0)

    def _ask(self, number: int) -> JobReply:
        running = self._running
        if running is None or running.number != number or running.told.is_set():
            raise OperationError(
                f"there is no job {number}: it was given up, since nobody has asked after it for "
                f"{LEASE_S} seconds, or its result has been told"
            )
        running.lease.deadline = trio.current_time() + LEASE_S
        if running.result is not None or running.error is not None:
            running.told.set()
        return JobReply(
            number=number,
            done=running.done,
            of=running.of,
            result=running.result,
            error=running.error,
        )


async def carry_out(
    ledger: LmdbLedger, job: Job, source: str, progress: Progress | None = None
) -> JobResult:
    """Do a job to its end; of an export without a path nothing can be made here.

    Args:
        source: who exports.
        progress: called with what is done, and of how much.

    Raises:
        OperationError: it can't be done; says why.
    """
    try:
        return await _carry_out(ledger, job, source, progress)
    except _UNREADABLE as error:
        raise _Unreadable(error) from error


async def _carry_out(
    ledger: LmdbLedger, job: Job, source: str, progress: Progress | None
) -> JobResult:
    match job:
        case VerifyJob():
            link = None if job.link is None else bytes.fromhex(job.link)
            report = await verify(ledger, progress, link)
            return VerifyResult(**report.as_json())
        case BackupJob():
            made = await back_up(ledger, Path(job.path), progress)
            return BackupResult(
                path=str(made.path),
                entries=made.entries,
                size_bytes=made.size_bytes,
                link=made.link.hex(),
            )
        case ExportJob():
            assert job.path is not None
            path = Path(job.path)
            try:
                with new_file(path) as file:
                    records = await export(
                        ledger, job, source, lambda text: file.write(text.encode()), progress
                    )
                    await trio.to_thread.run_sync(sync_file, file)
                    size_bytes = file.tell()
            except FileExistsError:
                raise OperationError(f"{path} is there already; name a new file") from None
            except OSError as error:
                raise OperationError(f"{path} can't be written: {error.strerror}") from error
            return ExportResult(records=records, path=job.path, size_bytes=size_bytes)


async def export(
    ledger: LmdbLedger,
    job: ExportJob,
    source: str,
    write: Callable[[str], object],
    progress: Progress | None,
) -> int:
    """Have `write` called, in another thread, with the records that a job asks for; how many.

    Raises:
        OperationError: the ledger can't be read.
    """
    try:
        return await export_records(
            ledger.store,
            Format(job.format),
            write,
            since_ns=job.since_ns,
            source=source,
            progress=progress,
        )
    except _UNREADABLE as error:
        raise _Unreadable(error) from error


def exporting_source(ledger: LmdbLedger, node_key: Identity | None) -> str:
    """Who exports, as the `source` of CloudEvents: the node of that key. Without one (a ledger
    restored elsewhere, say) it is the node that has made the log's last root over records, and
    where there is none, `/montana/unknown`: the ids of records tell them apart by themselves."""
    if node_key is not None:
        return f"/{origin_of(node_key)}"
    try:
        with ledger.store.read() as tables:
            root = last_root(tables)
        return f"/{parse_checkpoint_untrusted(root.checkpoint)[0]}" if root else _UNKNOWN_SOURCE
    except _UNREADABLE as error:
        raise _Unreadable(error) from error


def prove_record(ledger: LmdbLedger, record: str) -> ProofReply:
    """The proof of the record with this id.

    Raises:
        OperationError: there is none; says why.
    """
    identity = parse_id_untrusted(record)
    try:
        with ledger.store.read() as tables:
            proof = prove(tables, identity)
    except _UNREADABLE as error:
        raise _Unreadable(error) from error
    return ProofReply(encode_proof(proof).decode())


def signing_key(ledger: LmdbLedger) -> SigningKeyReply:
    """The key that the last root was signed with.

    Raises:
        OperationError: there is no root yet, or it isn't signed.
    """
    with ledger.store.read() as tables:
        root = last_root(tables)
    if root is None or not root.public_key:
        raise OperationError(
            "no root over records has been signed yet; a running node signs one within a minute of "
            "a session's end"
        )
    origin, _, _ = parse_checkpoint_untrusted(root.checkpoint)
    return SigningKeyReply(origin, root.public_key.hex())
