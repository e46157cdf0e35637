"""Receipts: each minute in which sessions were closed, the root over all call records is signed,
and a record's place under that root can be proved to whoever has the node's public key.

The signature is ML-DSA-65 (FIPS 204), over a checkpoint in C2SP's tlog-checkpoint form: origin,
size of the tree and root, a line each. A proof is a JSON document, checked without a ledger.
"""

from __future__ import annotations

import base64
import re
from importlib import import_module
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from billing import journal
from billing.journal import RootEntry
from billing.ledger import LmdbLedger
from billing.merkle import HASH_BYTES, inclusion_path, leaf_hash, root_of_path_untrusted, tree_root
from billing.records import find_record, node_reader, record_row, tree_size
from billing.tables import STATE
from core.errors import OperationError
from core.identity import Identity, node_key_untrusted
from core.tables import Tables, Writing

SIGNATURE_BYTES: Final = 3309
PUBLIC_KEY_BYTES: Final = 1952
SIGNING_CONTEXT: Final = b"montana checkpoint 1"
"""What signatures are for: none for another purpose passes as one of these."""
ENDORSEMENT: Final = b"montana checkpoint key 1\0"
"""What a node signs of the key that its checkpoints are signed with, before the key."""
PROOF_FORMAT: Final = "montana-proof-1"
PROOF_MAXIMUM_BYTES: Final = 65_536
LAST_ROOT: Final = b"last root"
"""The key in the ledger's state under which the last root's entry is found."""

_ORIGIN = "montana/"
_MODULE = "cryptography.hazmat.primitives.asymmetric.mldsa"
_CHECKPOINT = re.compile(r"([!-*,-~]{1,200})\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/]{43}=)\n")


class SigningUnavailable(OperationError):
    """The installed OpenSSL knows no ML-DSA-65: roots are stored unsigned."""

    def __init__(self) -> None:
        super().__init__(
            "the installed cryptography package or its OpenSSL knows no ML-DSA-65, so receipts "
            "can't be signed or checked; install cryptography 48 or newer from its own wheels"
        )


class ProofError(OperationError):
    """A document that proves nothing, and why."""


def origin_of(identity: Identity) -> str:
    """What a node's checkpoints begin with."""
    return _ORIGIN + identity.node_id


class Signer:
    """Signs checkpoints with a key that is derived from the node's.

    Attributes:
        public_key: ML-DSA-65's.
        endorsement: the node's own signature (Ed25519) over it: it signs for this node.

    Raises:
        SigningUnavailable: ML-DSA-65 is missing here; go on without a signer.
    """

    def __init__(self, identity: Identity) -> None:
        try:
            key: Any = _mldsa().MLDSA65PrivateKey.from_seed_bytes(identity.derive_secret("ml-dsa"))
            self.public_key: bytes = key.public_key().public_bytes_raw()
        except UnsupportedAlgorithm as error:
            raise SigningUnavailable from error
        self._key = key
        self.endorsement = identity.sign(ENDORSEMENT + self.public_key)

    def sign(self, checkpoint: str) -> bytes:
        """The signature of a checkpoint's text."""
        signature: bytes = self._key.sign(checkpoint.encode(), SIGNING_CONTEXT)
        return signature


def is_signed_untrusted(checkpoint: str, signature: bytes, public_key: bytes) -> bool:
    """Whether the signature is the key's, over that text.

    Raises:
        SigningUnavailable: nobody can tell here.
    """
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    try:
        key = _mldsa().MLDSA65PublicKey.from_public_bytes(public_key)
        key.verify(signature, checkpoint.encode(), SIGNING_CONTEXT)
    except UnsupportedAlgorithm as error:
        raise SigningUnavailable from error
    except (InvalidSignature, ValueError):
        return False
    return True


def is_endorsed_untrusted(origin: str, public_key: bytes, endorsement: bytes) -> bool:
    """Whether the node that an origin names has said that the key signs for it."""
    try:
        node_key = node_key_untrusted(origin.removeprefix(_ORIGIN))
        VerifyKey(node_key).verify(ENDORSEMENT + public_key, endorsement)
    except (ValueError, CryptoError):
        return False
    return origin.startswith(_ORIGIN)


def format_checkpoint(origin: str, size: int, root: bytes) -> str:
    """C2SP tlog-checkpoint: three lines."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def parse_checkpoint_untrusted(text: str) -> tuple[str, int, bytes]:
    """Origin, size and root.

    Raises:
        ProofError: it is no checkpoint.
    """
    match = _CHECKPOINT.fullmatch(text)
    if match is None:
        raise ProofError("the checkpoint isn't three lines of origin, tree size and root")
    root = base64.b64decode(match[3])
    if base64.b64encode(root).decode() != match[3]:
        raise ProofError("the checkpoint's root isn't written as base64 has it")
    assert len(root) == HASH_BYTES
    return match[1], int(match[2]), root


async def sign_root(ledger: LmdbLedger, origin: str, signer: Signer | None) -> RootEntry | None:
    """Store the root over all records so far, to be called once a minute; None when none has come
    since the last one, or when the last one, of the same records, has been signed already.

    Args:
        origin: who says so, see `origin_of`.
        signer: None where nobody can sign.
    """

    def write(writing: Writing) -> RootEntry | None:
        size = tree_size(writing)
        last = last_root(writing)
        if not size or (last is not None and last.size == size and (last.signature or not signer)):
            return None
        root = tree_root(node_reader(writing), size)
        text = format_checkpoint(origin, size, root)
        entry = RootEntry(
            time_ns=ledger.clock.now_ns(),
            size=size,
            checkpoint=text,
            signature=signer.sign(text) if signer else b"",
            public_key=signer.public_key if signer else b"",
            endorsement=signer.endorsement if signer else b"",
        )
        store_last_root(writing, ledger.append(writing, journal.encode_root(entry)))
        return entry

    return await ledger.store.write(write)


def store_last_root(writing: Writing, number: int) -> None:
    """Have `last_root` find entry `number`."""
    writing.put(STATE, LAST_ROOT, number.to_bytes(8, "big"))


def last_root(tables: Tables) -> RootEntry | None:
    """The last root that was stored."""
    number = tables.get(STATE, LAST_ROOT)
    content = tables.get(journal.LOG, number) if number is not None else None
    return journal.decode_root(content) if content is not None else None


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That a record stands in the node's log. Bytes are base64 in JSON.

    Attributes:
        record: for people.
        leaf: the record's bytes as they are stored, which say the same.
        leaf_index, tree_size: its number, and how many there were.
        audit_path: from the leaf to the root.
        checkpoint: origin, size and root.
        signature, public_key: ML-DSA-65's, over the checkpoint; empty where the node can't sign.
        endorsement: of the key by the node that the checkpoint names, see `Signer`.
    """

    format: str
    record: dict[str, str | int]
    leaf: bytes
    leaf_index: int
    tree_size: int
    audit_path: list[bytes]
    checkpoint: str
    signature: bytes
    public_key: bytes
    endorsement: bytes


class CheckedProof(msgspec.Struct, frozen=True, kw_only=True):
    """What a proof has shown.

    Attributes:
        record: the record, as in an export.
        origin: the node that says so: its name is its key (Ed25519), which stands behind
            `public_key`.
        leaf_index, tree_size: see `Proof`.
        is_signed: False: it holds together, and yet anybody could have made it.
        is_key_known: it was signed with the key that the caller named.
        public_key: whose signature it is.
    """

    record: dict[str, str | int]
    origin: str
    leaf_index: int
    tree_size: int
    is_signed: bool
    is_key_known: bool
    public_key: bytes


def prove(tables: Tables, record_id: bytes) -> Proof:
    """The proof of a record, under the last root.

    Raises:
        OperationError: there is no such record, or no root over it yet.
    """
    found = find_record(tables, record_id)
    root = last_root(tables)
    if root is None or root.size <= found.leaf:
        raise OperationError(
            "no root has been stored over this record yet; a running node does so each minute"
        )
    return Proof(
        format=PROOF_FORMAT,
        record=record_row(found.record),
        leaf=found.raw,
        leaf_index=found.leaf,
        tree_size=root.size,
        audit_path=inclusion_path(node_reader(tables), found.leaf, root.size),
        checkpoint=root.checkpoint,
        signature=root.signature,
        public_key=root.public_key,
        endorsement=root.endorsement,
    )


def encode_proof(proof: Proof) -> bytes:
    """A proof as the JSON document that is handed out."""
    return msgspec.json.format(msgspec.json.encode(proof), indent=2) + b"\n"


_PROOF = msgspec.json.Decoder(Proof)


def check_proof_untrusted(document: bytes, public_key: bytes | None = None) -> CheckedProof:
    """What a document proves; needs no ledger.

    Args:
        public_key: the node's, 1952 bytes, where the caller has it from a place that they trust.

    Raises:
        ProofError: nothing, and why.
        SigningUnavailable: its signature can't be checked here.
    """
    if len(document) > PROOF_MAXIMUM_BYTES:
        raise ProofError(f"a proof has {PROOF_MAXIMUM_BYTES:,} bytes at most")
    try:
        proof = _PROOF.decode(document)
    # Its own errors, text that is no UTF-8, and lists in lists without end.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProofError(f"this is no proof: {error}") from error
    if proof.format != PROOF_FORMAT:
        raise ProofError(f"this is no proof of the form {PROOF_FORMAT}")
    try:
        record = record_row(journal.decode_record_untrusted(proof.leaf))
    except (msgspec.MsgspecError, ValueError, OverflowError, OSError, RecursionError) as error:
        raise ProofError(f"its leaf is no call record: {error}") from error
    if record != proof.record:
        raise ProofError("the record isn't the one whose bytes are in the leaf")
    origin, size, root = parse_checkpoint_untrusted(proof.checkpoint)
    if size != proof.tree_size:
        raise ProofError("the tree size isn't the checkpoint's")
    if any(len(one) != HASH_BYTES for one in proof.audit_path):
        raise ProofError(f"each hash of the audit path has {HASH_BYTES} bytes")
    leaf = leaf_hash(proof.leaf)
    if root_of_path_untrusted(leaf, proof.leaf_index, size, proof.audit_path) != root:
        raise ProofError("the audit path doesn't lead from the record to the checkpoint's root")
    if public_key is not None and proof.public_key != public_key:
        raise ProofError(
            "it is signed with another key than the one given"
            if proof.public_key
            else "it isn't signed at all"
        )
    is_signed = bool(proof.signature or proof.public_key)
    if is_signed and not is_signed_untrusted(proof.checkpoint, proof.signature, proof.public_key):
        raise ProofError("the signature isn't the key's over this checkpoint")
    if is_signed and not is_endorsed_untrusted(origin, proof.public_key, proof.endorsement):
        raise ProofError(f"the key that it is signed with isn't one of {origin}")
    return CheckedProof(
        record=record,
        origin=origin,
        leaf_index=proof.leaf_index,
        tree_size=size,
        is_signed=is_signed,
        is_key_known=public_key is not None,
        public_key=proof.public_key,
    )


def _mldsa() -> Any:
    """The module, which older packages lack."""
    try:
        return import_module(_MODULE)
    except ImportError as error:
        raise SigningUnavailable from error
