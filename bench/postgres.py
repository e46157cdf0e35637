"""PostgreSQL as a ledger: a cluster of its own in a temporary folder, and the fastest ways to do
batches of transfers in it that were found.

A transfer there means what it means in Montana's ledger: an id that is unique, two balances of
which none goes below nothing, and a history by account, from two indexes. It is durable when it
is answered (`synchronous_commit`, the default). What takes time and is of no use to it is off or
out of the way: automatic vacuum, just-in-time compilation, checkpoints while it is measured.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from bench.ledger_load import Batch, Load, Say
from billing.accounts import FIRST_USER_ACCOUNT
from core.errors import OperationError
from core.units import GIB, MIB

POSTGRESQL = "postgresql"
SYSTEM_USER = "postgres"
"""Whom the server runs as where this process is root, which it refuses to be."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
SHARED_BUFFERS_MAXIMUM_BYTES = 4 * GIB
PARTITIONS = 10
_COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"
_UUID, _INT4, _INT8 = 2950, 23, 20
_COPY_ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("id_bytes", ">i4"),
        ("id", "V16"),
        ("debit_bytes", ">i4"),
        ("debit", ">i4"),
        ("credit_bytes", ">i4"),
        ("credit", ">i4"),
        ("amount_bytes", ">i4"),
        ("amount", ">i8"),
    ]
)
PLAIN, SPLIT = "transfers", "split_transfers"
_COLUMNS = "(id uuid NOT NULL, debit int4 NOT NULL, credit int4 NOT NULL, amount int8 NOT NULL)"


class Way(StrEnum):
    """How a batch is done, always in one transaction."""

    STATEMENT = "one statement of arrays"
    """INSERT ... ON CONFLICT DO NOTHING, whose new rows move the balances."""
    SUMS = "arrays and sums"
    """INSERT, and UPDATE by what the client has summed up; an id that is there already makes it
    fail, and whoever asked does it again as `STATEMENT`."""
    SPLIT_SUMS = "arrays and sums, partitions by id"
    """The same with a table whose newest indexes are small."""
    COPY = "COPY and sums"

    @property
    def table(self) -> str:
        """Where it puts transfers."""
        return SPLIT if self is Way.SPLIT_SUMS else PLAIN


_UPDATE_OF_SUMS = """
    UPDATE accounts SET balance = balance + moved.amount
    FROM unnest($1::int4[], $2::int8[]) AS moved (account, amount) WHERE number = moved.account
"""
_STATEMENTS = {
    Way.STATEMENT: """
        WITH fresh AS (
            INSERT INTO transfers
            SELECT * FROM unnest($1::uuid[], $2::int4[], $3::int4[], $4::int8[])
            ON CONFLICT DO NOTHING RETURNING debit, credit, amount
        ), moved AS (
            SELECT account, sum(amount)::int8 AS amount FROM (
                SELECT debit AS account, -amount AS amount FROM fresh
                UNION ALL SELECT credit, amount FROM fresh
            ) AS postings GROUP BY account
        ), changed AS (
            UPDATE accounts SET balance = balance + moved.amount FROM moved WHERE number = account
        ) SELECT count(*) FROM fresh
    """,
    Way.COPY: _UPDATE_OF_SUMS,
} | {
    way: f"""
        WITH changed AS ({_UPDATE_OF_SUMS})
        INSERT INTO {way.table}
        SELECT * FROM unnest($3::uuid[], $4::int4[], $5::int4[], $6::int8[])
    """  # noqa: S608
    for way in (Way.SUMS, Way.SPLIT_SUMS)
}

Encoded = tuple[list[bytes], bytes]
"""A batch as a way needs it: parameters of its statement, rows for COPY."""


def is_installed() -> bool:
    """Whether Debian's server is there."""
    return _programs() is not None


def version() -> str:
    """The version of the server that is installed."""
    shown = subprocess.run(
        [_needed_programs() / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    found = re.search(r"\d+\.\d+", shown.stdout)
    return found.group() if found else "of unknown version"


class Postgres:
    """A running server, and one connection to it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._raw: PGconn = connection.pgconn

    def fill(self, load: Load, earlier: int, balances: NDArray[np.int64], say: Say) -> None:
        """Make the tables, with earlier transfers and the balances that they have led to."""
        run = self._connection.execute
        run(
            "CREATE TABLE accounts (number int4 PRIMARY KEY, balance int8 NOT NULL "
            "CHECK (balance >= 0)) WITH (fillfactor = 50)"
        )
        last = FIRST_USER_ACCOUNT + len(balances)
        numbers = np.arange(FIRST_USER_ACCOUNT, last)
        self._exec(
            "INSERT INTO accounts SELECT * FROM unnest($1::int4[], $2::int8[])",
            [_array(_INT4, numbers, ">i4"), _array(_INT8, balances, ">i8")],
        )
        run(f"CREATE TABLE {PLAIN} {_COLUMNS}".encode())
        run(f"CREATE TABLE {SPLIT} {_COLUMNS} PARTITION BY RANGE (id)".encode())
        bounds = ["MINVALUE", "MAXVALUE"]
        for part in range(1, PARTITIONS):
            bounds.insert(-1, f"'{Load.first_id(earlier * part // PARTITIONS).hex()}'")
        bounds = list(dict.fromkeys(bounds))
        for index, (low, high) in enumerate(pairwise(bounds)):
            run(
                f"CREATE TABLE split_{index} PARTITION OF {SPLIT} "
                f"FOR VALUES FROM ({low}) TO ({high})".encode()
            )
        for table in (PLAIN, SPLIT):
            say(f"postgresql: {earlier:,} earlier ids into {table}, then their indexes")
            into = f"COPY {table} FROM STDIN (FORMAT BINARY)".encode()
            with self._connection.cursor().copy(into) as copy:
                copy.write(_COPY_HEAD)
                for batch in load.earlier(earlier):
                    copy.write(_rows(batch))
                copy.write(_COPY_END)
            run(f"ALTER TABLE {table} ADD PRIMARY KEY (id)".encode())
            for column in ("debit", "credit"):
                run(f"CREATE INDEX ON {table} ({column}, id)".encode())
        run("VACUUM ANALYZE")
        for way, statement in _STATEMENTS.items():
            self._check(self._raw.prepare(way.name.encode(), statement.encode()))

    def encode(self, way: Way, batch: Batch) -> Encoded:
        """Make ready, outside of what is measured, what a client would send; by id, so that the
        unique index grows at its end."""
        order = np.argsort(batch.ids.view("S16"), kind="stable")
        batch = Batch(
            batch.ids[order], batch.debits[order], batch.credits[order], batch.amounts[order]
        )
        arrays = [
            _array(_UUID, batch.ids, "V16"),
            _array(_INT4, batch.debits, ">i4"),
            _array(_INT4, batch.credits, ">i4"),
            _array(_INT8, batch.amounts, ">i8"),
        ]
        if way is Way.STATEMENT:
            return arrays, b""
        accounts, moved = batch.sums()
        sums = [_array(_INT4, accounts, ">i4"), _array(_INT8, moved, ">i8")]
        if way is Way.COPY:
            return sums, _COPY_HEAD + _rows(batch) + _COPY_END
        return sums + arrays, b""

    def transfer(self, way: Way, encoded: Encoded) -> None:
        """Do a batch; it is durable when this returns.

        Raises:
            OperationError: it was refused, and nothing was done.
        """
        parameters, rows = encoded
        if way is not Way.COPY:
            self._run(way, parameters)
            return
        self._check(self._raw.exec_(b"BEGIN"))
        try:
            self._copy(way.table, rows)
            self._run(way, parameters)
        except OperationError:
            self._check(self._raw.exec_(b"ROLLBACK"))
            raise
        self._check(self._raw.exec_(b"COMMIT"))

    def _run(self, way: Way, parameters: Sequence[bytes]) -> None:
        formats = [1] * len(parameters)
        self._check(
            self._raw.exec_prepared(way.name.encode(), parameters, formats, result_format=1)
        )

    def _copy(self, table: str, rows: bytes) -> None:
        raw = self._raw
        self._check(raw.exec_(f"COPY {table} FROM STDIN (FORMAT BINARY)".encode()))
        raw.put_copy_data(rows)
        raw.put_copy_end()
        result = raw.get_result()
        assert result is not None
        while raw.get_result() is not None:
            pass
        self._check(result)

    def balances(self) -> dict[int, int]:
        """Of every account."""
        return dict(self._connection.execute("SELECT number, balance FROM accounts").fetchall())

    def history(self, account: int) -> set[bytes]:
        """The ids of an account's transfers, in whichever table."""
        parts = [
            f"SELECT id FROM {table} WHERE {column} = {account}"  # noqa: S608
            for table in (PLAIN, SPLIT)
            for column in ("debit", "credit")
        ]
        found = self._connection.execute(" UNION ".join(parts).encode()).fetchall()
        return {row[0].bytes for row in found}

    def _exec(self, statement: str, parameters: Sequence[bytes]) -> None:
        formats = [1] * len(parameters)
        self._check(self._raw.exec_params(statement.encode(), parameters, param_formats=formats))

    @staticmethod
    def _check(result: PGresult) -> None:
        if result.status not in (
            ExecStatus.COMMAND_OK,
            ExecStatus.TUPLES_OK,
            ExecStatus.COPY_IN,
        ):
            said = (result.error_message or b"").decode(errors="replace").strip()
            raise OperationError(f"PostgreSQL has refused a statement: {said}")


@contextmanager
def running_postgres(folder: Path) -> Iterator[Postgres]:
    """A new cluster in `folder`, on the cores that this process may use; stopped in the end.

    Raises:
        OperationError: it can't be started; says why.
    """
    programs = _needed_programs()
    home = folder / POSTGRESQL
    home.mkdir(mode=0o700)
    owner: dict[str, Any] = {"cwd": home}
    if os.geteuid() == 0:
        # It has to get into its folder as somebody else.
        folder.chmod(0o711)
        shutil.chown(home, SYSTEM_USER, SYSTEM_USER)
        owner |= {"user": SYSTEM_USER, "group": SYSTEM_USER, "extra_groups": []}
    data, errors = home / "data", home / "errors"
    made = subprocess.run(
        [
            *(programs / "initdb", "--pgdata", data, "--auth", "trust", "--username", "bench"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
        ],
        capture_output=True,
        text=True,
        check=False,
        **owner,
    )
    if made.returncode:
        raise OperationError(f"PostgreSQL can't make a cluster: {made.stderr.strip()}")
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared_bytes = min(SHARED_BUFFERS_MAXIMUM_BYTES, memory_bytes // 4)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": home,
        "shared_buffers": f"{shared_bytes // MIB}MB",
        "work_mem": "64MB",
        "maintenance_work_mem": "512MB",
        "wal_buffers": "64MB",
        "max_wal_size": "32GB",
        "checkpoint_timeout": "1h",
        "autovacuum": "off",
        "bgwriter_lru_maxpages": "0",
        "jit": "off",
    }
    command = [str(programs / "postgres"), "-D", str(data)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    with errors.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **owner
        )
    try:
        with _connect(process, home, errors) as connection:
            yield Postgres(connection)
    finally:
        # At once: nobody needs what it would still write.
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _connect(process: subprocess.Popen[bytes], home: Path, errors: Path) -> psycopg.Connection[Any]:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            return psycopg.connect(host=str(home), user="bench", dbname="postgres", autocommit=True)
        except psycopg.OperationalError:
            time.sleep(0.05)
    said = "\n".join(errors.read_text(errors="replace").splitlines()[-10:])
    raise OperationError(f"PostgreSQL does not answer; its last words:\n{said}")


def _programs() -> Path | None:
    """The folder of the newest server's programs, which Debian keeps out of the path."""
    found = [
        path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")
        if path.with_name("initdb").exists()
    ]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    server = shutil.which("postgres")
    return Path(server).resolve().parent if server else None


def _needed_programs() -> Path:
    programs = _programs()
    if programs is None:
        raise OperationError("PostgreSQL is missing; install it with: sudo apt install postgresql")
    return programs


def _array(kind: int, values: NDArray[Any], element: str) -> bytes:
    """An array of one dimension in PostgreSQL's binary form."""
    elements = np.empty(len(values), [("bytes", ">i4"), ("value", element)])
    elements["bytes"] = elements.dtype["value"].itemsize
    elements["value"] = values
    return struct.pack(">iiIii", 1, 0, kind, len(values), 1) + elements.tobytes()


def _rows(batch: Batch) -> bytes:
    """Rows for COPY in its binary form."""
    rows = np.empty(len(batch), _COPY_ROW)
    rows["fields"] = 4
    for name, values in (
        ("id", batch.ids),
        ("debit", batch.debits),
        ("credit", batch.credits),
        ("amount", batch.amounts),
    ):
        rows[f"{name}_bytes"] = rows.dtype[name].itemsize
        rows[name] = values
    return rows.tobytes()
