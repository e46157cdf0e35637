"""Answers as bytes: success, error, and indications."""

from __future__ import annotations

from collections.abc import Sequence

from core.stun.address import Address
from core.stun.attributes import (
    encode_error_code,
    encode_icmp,
    encode_unknown_attributes,
    encode_xor_address,
)
from core.stun.constants import ERROR_REASONS, Attribute, MessageClass, Method
from core.stun.message import Message, encode_message
from relay.turn.authentication import Proof

_REASONS_FOR_STRANGERS = {400: "Bad", 401: "Auth", 420: "Unknown", 438: "Stale"}
"""Short, since whoever forges a source address has them sent to somebody else."""

Attributes = Sequence[tuple[int, bytes]]


def success(message: Message, attributes: Attributes, proof: Proof | None) -> bytes:
    """The answer to a request that was done, protected as the request was."""
    return _answer(message, MessageClass.SUCCESS, attributes, proof)


def error(
    message: Message,
    code: int,
    proof: Proof | None,
    more: Attributes = (),
    unknown: Sequence[int] = (),
) -> bytes:
    """The answer to a request that was refused.

    Args:
        proof: None for a stranger, whose answer is kept small.
        unknown: what UNKNOWN-ATTRIBUTES lists.
    """
    reason = _REASONS_FOR_STRANGERS.get(code, "") if proof is None else ERROR_REASONS[code]
    attributes = [(int(Attribute.ERROR_CODE), encode_error_code(code, reason)), *more]
    if unknown:
        attributes.append((Attribute.UNKNOWN_ATTRIBUTES, encode_unknown_attributes(list(unknown))))
    return _answer(message, MessageClass.ERROR, attributes, proof)


def _answer(
    message: Message, message_class: int, attributes: Attributes, proof: Proof | None
) -> bytes:
    fingerprint = message.first(Attribute.FINGERPRINT) is not None
    if proof is None:
        return encode_message(
            message.method,
            message_class,
            message.transaction_id,
            attributes,
            fingerprint=fingerprint,
        )
    # RFC 8489 section 9.2.4: the answer carries the integrity attribute that the request had.
    return encode_message(
        message.method,
        message_class,
        message.transaction_id,
        attributes,
        integrity_key=None if proof.uses_sha256 else proof.key,
        integrity_sha256_key=proof.key if proof.uses_sha256 else None,
        fingerprint=fingerprint,
    )


def icmp_indication(
    transaction_id: bytes, peer: Address, icmp_type: int, icmp_code: int, data: int
) -> bytes:
    """A Data indication that tells of an ICMP error (RFC 8656 section 11.5)."""
    return encode_message(
        Method.DATA,
        MessageClass.INDICATION,
        transaction_id,
        [
            (Attribute.XOR_PEER_ADDRESS, encode_xor_address(peer, transaction_id)),
            (Attribute.ICMP, encode_icmp(icmp_type, icmp_code, data)),
        ],
    )
