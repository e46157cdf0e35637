"""Receipts: roots that are signed, proofs that are checked offline."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
import trio
from hypothesis import given, settings

from billing import journal, receipts
from billing.audit import verify
from billing.journal import CallRecord
from billing.merkle import leaf_hash
from billing.receipts import (
    Proof,
    ProofError,
    Signer,
    SigningUnavailable,
    check_proof_untrusted,
    encode_proof,
    format_checkpoint,
    is_endorsed_untrusted,
    last_root,
    origin_of,
    parse_checkpoint_untrusted,
    prove,
    sign_root,
)
from billing.records import read_records, record_row
from core.clock import VirtualClock
from core.errors import OperationError
from core.identity import Identity
from tests.support.small_ledger import Life, open_small

IDENTITY = Identity(bytes(range(32)))
ORIGIN = origin_of(IDENTITY)


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer(IDENTITY)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> list[bytes]:
    """Proofs of all of a ledger's records."""
    made: list[bytes] = []

    async def run() -> None:
        clock = VirtualClock()
        with open_small(tmp_path_factory.mktemp("ledger"), clock) as ledger:
            assert await sign_root(ledger, ORIGIN, signer) is None
            life = Life(ledger, clock)
            await life.live()
            with ledger.store.read() as tables:
                assert last_root(tables) is None
            root = await sign_root(ledger, ORIGIN, signer)
            assert root is not None
            # Nothing has happened since.
            assert await sign_root(ledger, ORIGIN, signer) is None
            with ledger.store.read() as tables:
                assert last_root(tables) == root
            records = [record for _, part in read_records(ledger.store) for record in part]
            assert root.size == len(records) == 17
            with ledger.store.read() as tables:
                made.extend(encode_proof(prove(tables, record.id)) for record in records)
            await life.tick(1, {next(iter(life.slots)): "ended"})
            (*_, newest) = (record for _, part in read_records(ledger.store) for record in part)
            with ledger.store.read() as tables, pytest.raises(OperationError, match="each minute"):
                prove(tables, newest.id)
            later = await sign_root(ledger, ORIGIN, signer)
            assert later is not None
            assert later.size == 18
            with ledger.store.read() as tables:
                made.append(encode_proof(prove(tables, records[0].id)))
                made.append(encode_proof(prove(tables, newest.id)))
            report = await verify(ledger)
            assert report.problems == []
            assert (report.unsigned_roots, report.unchecked_signatures) == (0, 0)
            assert report.signers == [ORIGIN]

    trio.run(run)
    return made


def test_proofs_are_checked_offline(documents: list[bytes], signer: Signer) -> None:
    sizes = []
    for index, document in enumerate(documents):
        checked = check_proof_untrusted(document, signer.public_key)
        assert (checked.is_signed, checked.is_key_known) == (True, True)
        assert checked.origin == ORIGIN
        assert checked.record == json.loads(document)["record"]
        assert checked.leaf_index == [*range(17), 0, 17][index]
        sizes.append(checked.tree_size)
        assert check_proof_untrusted(document).is_key_known is False
    assert sizes == [17] * 17 + [18, 18]


def test_another_key(documents: list[bytes]) -> None:
    other = Signer(Identity(bytes(32)))
    with pytest.raises(ProofError, match="another key"):
        check_proof_untrusted(documents[0], other.public_key)
    document = json.loads(documents[0])
    document["public_key"] = base64.b64encode(other.public_key).decode()
    with pytest.raises(ProofError, match="the signature isn't"):
        check_proof_untrusted(json.dumps(document).encode())


def forged(signer: Signer, **more: bytes) -> bytes:
    """A proof of a record that never was, under the name of another's node."""
    leaf = msgspec.msgpack.encode(
        CallRecord(
            id=bytes(16),
            name="never was",
            kind="turn",
            account=6,
            into=4,
            opened_ns=1,
            closed_ns=2,
            seconds=1,
            relayed_bytes=0,
            cost=10**12,
            reason="client",
            previous=0,
        )
    )
    checkpoint = format_checkpoint(ORIGIN, 1, leaf_hash(leaf))
    made = Proof(
        format=receipts.PROOF_FORMAT,
        record=record_row(journal.decode_record_untrusted(leaf)),
        leaf=leaf,
        leaf_index=0,
        tree_size=1,
        audit_path=[],
        checkpoint=checkpoint,
        signature=signer.sign(checkpoint),
        public_key=signer.public_key,
        endorsement=signer.endorsement,
    )
    return encode_proof(msgspec.structs.replace(made, **more))


def test_nobody_proves_anything_under_another_nodes_name(signer: Signer) -> None:
    assert check_proof_untrusted(forged(signer)).is_signed
    other = Signer(Identity(bytes(32)))
    for endorsement in (other.endorsement, signer.endorsement, b"", bytes(64)):
        with pytest.raises(ProofError, match=f"isn't one of {ORIGIN}"):
            check_proof_untrusted(forged(other, endorsement=endorsement))


@pytest.mark.parametrize("origin", ["montana/", "montana/aaaa", "montana/a1", "other/", "x" * 60])
def test_an_origin_that_is_no_nodes_endorses_nothing(signer: Signer, origin: str) -> None:
    assert not is_endorsed_untrusted(origin, signer.public_key, signer.endorsement)
    upper = ORIGIN.removeprefix("montana/").upper()
    for name in (f"montana/{upper}", f"{ORIGIN}=", ORIGIN.removeprefix("montana/")):
        assert not is_endorsed_untrusted(name, signer.public_key, signer.endorsement)
    assert is_endorsed_untrusted(ORIGIN, signer.public_key, signer.endorsement)


def test_what_is_changed_proves_nothing(documents: list[bytes], signer: Signer) -> None:
    document, other = json.loads(documents[3]), json.loads(documents[4])
    changes: list[tuple[str, Any, str]] = [
        ("format", "montana-proof-2", "of the form"),
        ("record", document["record"] | {"cost": "0.000000"}, "isn't the one"),
        ("record", other["record"], "isn't the one"),
        ("leaf", other["leaf"], "isn't the one"),
        ("leaf", base64.b64encode(b"\xc1").decode(), "no call record"),
        ("leaf_index", 4, "audit path"),
        ("leaf_index", -1, "audit path"),
        ("leaf_index", 2**63, "audit path"),
        ("tree_size", 18, "tree size"),
        ("audit_path", document["audit_path"][:-1], "audit path"),
        ("audit_path", [*document["audit_path"], document["audit_path"][0]], "audit path"),
        ("audit_path", [*document["audit_path"][:-1], ""], "32 bytes"),
        ("checkpoint", document["checkpoint"] + "\n", "three lines"),
        ("checkpoint", document["checkpoint"].replace("montana/", "other/"), "signature"),
        ("checkpoint", json.loads(documents[-1])["checkpoint"], "tree size"),
        ("signature", "", "signature"),
        ("signature", other["signature"][:-8] + "AAAAAAA=", "signature"),
        ("public_key", "", "another|at all"),
        ("endorsement", "", "isn't one of"),
        ("more", 1, "no proof"),
    ]
    for key, value, said in changes:
        with pytest.raises(ProofError, match=said):
            check_proof_untrusted(json.dumps(document | {key: value}).encode(), signer.public_key)


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 60_000])
def test_what_is_no_proof(document: bytes) -> None:
    with pytest.raises(ProofError, match="no proof"):
        check_proof_untrusted(document)


def test_a_document_that_is_too_large() -> None:
    with pytest.raises(ProofError, match="at most"):
        check_proof_untrusted(b" " * 70_000)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_fuzzed_proofs(documents: list[bytes], signer: Signer, data: st.DataObject) -> None:
    """A changed document says the same as before, or it is refused."""
    document = bytearray(documents[data.draw(st.integers(0, len(documents) - 1))])
    original = check_proof_untrusted(bytes(document), signer.public_key)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(document) - 1))
        end = at + data.draw(st.integers(0, 3))
        document[at:end] = data.draw(st.binary(max_size=3))
    try:
        checked = check_proof_untrusted(bytes(document), signer.public_key)
    except ProofError:
        return
    assert checked == original


@given(st.binary(max_size=300))
def test_any_bytes(document: bytes) -> None:
    with pytest.raises(ProofError):
        check_proof_untrusted(document)


@given(st.text(max_size=100))
def test_any_checkpoint(text: str) -> None:
    with pytest.raises(ProofError):
        parse_checkpoint_untrusted(text)


@given(st.integers(0, 2**62), st.binary(min_size=32, max_size=32))
def test_c2sp_tlog_checkpoint(size: int, root: bytes) -> None:
    text = format_checkpoint(ORIGIN, size, root)
    assert text.split("\n") == [ORIGIN, str(size), base64.b64encode(root).decode(), ""]
    assert parse_checkpoint_untrusted(text) == (ORIGIN, size, root)


@pytest.mark.parametrize(
    "text",
    [
        "a b\n1\n" + "A" * 43 + "=\n",
        "a\n01\n" + "A" * 43 + "=\n",
        "a\n1\n" + "A" * 42 + "B=\n",
        "a\n1\n" + "A" * 43 + "=",
        "a\n1\n" + "A" * 43 + "=\nmore\n",
    ],
)
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(ProofError):
        parse_checkpoint_untrusted(text)


def test_where_nothing_can_be_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signer: Signer, documents: list[bytes]
) -> None:
    async def run() -> None:
        clock = VirtualClock()
        with open_small(tmp_path, clock) as ledger:
            life = Life(ledger, clock)
            await life.live()
            root = await sign_root(ledger, ORIGIN, None)
            assert root is not None
            assert root.signature == b""
            assert await sign_root(ledger, ORIGIN, None) is None
            _, records = next(read_records(ledger.store))
            with ledger.store.read() as tables:
                document = encode_proof(prove(tables, records[0].id))
            assert not check_proof_untrusted(document).is_signed
            with pytest.raises(ProofError, match="isn't signed at all"):
                check_proof_untrusted(document, signer.public_key)
            # The same records once more, since somebody can sign now.
            again = await sign_root(ledger, ORIGIN, signer)
            assert again is not None
            assert again.signature
            assert (await verify(ledger)).problems == []
            monkeypatch.setattr(receipts, "_MODULE", "cryptography.there_is_none")
            with pytest.raises(SigningUnavailable, match="cryptography 48"):
                Signer(IDENTITY)
            with pytest.raises(SigningUnavailable):
                check_proof_untrusted(documents[0])
            report = await verify(ledger)
            assert (report.ok, report.unchecked_signatures) == (True, 1)
            assert report.unsigned_roots == 1

    trio.run(run)


def test_the_key_is_the_same_on_every_start(signer: Signer) -> None:
    assert Signer(IDENTITY).public_key == signer.public_key
    assert Signer(Identity(bytes(32))).public_key != signer.public_key
