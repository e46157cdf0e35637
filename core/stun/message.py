"""STUN messages: from bytes and to bytes (RFC 8489 sections 5, 6 and 14).

A message is a 20-byte header (type, length, magic cookie, transaction ID) and attributes, each
a type, a length and a value padded to 32 bits. This module knows that frame and the three
attributes that protect it: MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT.
What other attributes mean is in `attributes`.

The module runs as it is and compiled, and behaves alike: `bytes` in, and no other buffer.
"""

from __future__ import annotations

import hmac
from binascii import crc32
from collections.abc import Iterable
from struct import Struct

from core.errors import StunError

from .constants import (
    ATTRIBUTE_ALIASES,
    FINGERPRINT_XOR,
    MAGIC_COOKIE,
    MAXIMUM_ATTRIBUTES,
    TRANSACTION_ID_BYTES,
    Attribute,
    MessageClass,
    Method,
)

# Plain integers: comparing with an enumeration's member costs an attribute look-up each time.
_HEADER_BYTES = 20
_INTEGRITY = 0x0008
_INTEGRITY_SHA256 = 0x001C
_FINGERPRINT = 0x8028
_INTEGRITY_BYTES = 20
_INTEGRITY_SHA256_BYTES = 32
_FINGERPRINT_BYTES = 4
_MAXIMUM_LENGTH = 0xFFFC
"""The length field has 16 bits and counts whole 32-bit words."""

assert Attribute.MESSAGE_INTEGRITY == _INTEGRITY
assert Attribute.MESSAGE_INTEGRITY_SHA256 == _INTEGRITY_SHA256
assert Attribute.FINGERPRINT == _FINGERPRINT

_HEADER = Struct("!HHI")
_ATTRIBUTE = Struct("!HH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Message:
    """A received message whose frame is sound. Nothing about its meaning is checked yet.

    Attributes:
        method: the 12-bit method, of which `Method` names those that are known.
        message_class: a value of `MessageClass`.
        transaction_id: 12 bytes.
        attributes: (type, value without padding) in order. Types are canonical, see
            `ATTRIBUTE_ALIASES`. Attributes that trail an integrity attribute are left out,
            as RFC 8489 sections 14.5 and 14.6 ask.
        raw: the whole message as received.
    """

    __slots__ = (
        "_integrity_offset",
        "_integrity_sha256_offset",
        "attributes",
        "message_class",
        "method",
        "raw",
        "transaction_id",
    )

    def __init__(
        self,
        method: int,
        message_class: int,
        transaction_id: bytes,
        attributes: list[tuple[int, bytes]],
        raw: bytes,
        integrity_offset: int,
        integrity_sha256_offset: int,
    ) -> None:
        self.method = method
        self.message_class = message_class
        self.transaction_id = transaction_id
        self.attributes = attributes
        self.raw = raw
        # Where the integrity attributes start in `raw`; 0 where there is none.
        self._integrity_offset = integrity_offset
        self._integrity_sha256_offset = integrity_sha256_offset

    def __repr__(self) -> str:
        """Names without values: a message may end up in a log, a credential may not."""
        types = " ".join(_name_attribute(attribute) for attribute, _ in self.attributes)
        return (
            f"<Message {_name_method(self.method)} {MessageClass(self.message_class).name}"
            f" {self.transaction_id.hex()} [{types}]>"
        )

    def first(self, attribute: int) -> bytes | None:
        """The value of the first attribute of this type, None without one. Of duplicates the
        first counts (RFC 8489 section 14)."""
        for present, value in self.attributes:
            if present == attribute:
                return value
        return None

    def all(self, attribute: int) -> list[bytes]:
        """The values of every attribute of this type, in order (XOR-PEER-ADDRESS of a
        CreatePermission, RFC 8656 section 10.1)."""
        return [value for present, value in self.attributes if present == attribute]

    def unknown_required(self, known: frozenset[int]) -> list[int]:
        """The types below 0x8000 that are not in `known`, each once, in order: what a 420 lists
        in UNKNOWN-ATTRIBUTES (RFC 8489 section 6.3.1)."""
        unknown: list[int] = []
        for attribute, _ in self.attributes:
            if attribute < 0x8000 and attribute not in known and attribute not in unknown:
                unknown.append(attribute)
        return unknown


def decode_message_untrusted(datagram: bytes) -> Message:
    """Parse exactly one STUN message (RFC 8489 sections 6.3 and 14).

    Checked are the two top bits, the magic cookie, the length, every attribute's length, the
    lengths of integrity attributes, and FINGERPRINT, which where present must be last and right.
    Integrity is not checked here: see `check_integrity`. Padding may hold anything.

    Raises:
        StunError: the bytes are no STUN message, or not a sound one.
    """
    size = len(datagram)
    if size < _HEADER_BYTES:
        raise StunError("shorter than a STUN header")
    if datagram[0] > 0x3F:
        raise StunError("the top two bits are not zero")
    if datagram[4:8] != b"\x21\x12\xa4\x42":
        raise StunError("no magic cookie")
    length = datagram[2] << 8 | datagram[3]
    if length & 3 or length != size - _HEADER_BYTES:
        raise StunError("the length does not match the datagram")

    message_type = datagram[0] << 8 | datagram[1]
    attributes: list[tuple[int, bytes]] = []
    integrity_offset = 0
    integrity_sha256_offset = 0
    count = 0
    offset = _HEADER_BYTES
    while offset < size:
        attribute = datagram[offset] << 8 | datagram[offset + 1]
        value_size = datagram[offset + 2] << 8 | datagram[offset + 3]
        start = offset + 4
        end = start + value_size
        if end > size:
            raise StunError("an attribute is longer than the message")
        count += 1
        if count > MAXIMUM_ATTRIBUTES:
            raise StunError("too many attributes")
        following = (end + 3) & ~3  # never past `size`, which is a multiple of 4 too
        if attribute == _FINGERPRINT:
            if value_size != _FINGERPRINT_BYTES or following != size:
                raise StunError("FINGERPRINT is not the last attribute, or not 4 bytes")
            if int.from_bytes(datagram[start:end], "big") != _fingerprint(datagram[:offset]):
                raise StunError("FINGERPRINT is wrong")
        elif integrity_sha256_offset:
            offset = following
            continue
        elif attribute == _INTEGRITY_SHA256:
            # RFC 8489 section 14.6: the HMAC may be truncated to whole words of 16 bytes or more.
            if value_size < 16 or value_size > _INTEGRITY_SHA256_BYTES or value_size & 3:
                raise StunError("MESSAGE-INTEGRITY-SHA256 has a wrong length")
            integrity_sha256_offset = offset
        elif integrity_offset:
            offset = following
            continue
        elif attribute == _INTEGRITY:
            if value_size != _INTEGRITY_BYTES:
                raise StunError("MESSAGE-INTEGRITY has a wrong length")
            integrity_offset = offset
        elif attribute in ATTRIBUTE_ALIASES:
            attribute = ATTRIBUTE_ALIASES[attribute]
        attributes.append((attribute, datagram[start:end]))
        offset = following

    return Message(
        # RFC 8489 section 5: M11-M7 C1 M6-M4 C0 M3-M0
        (message_type & 0x000F) | (message_type & 0x00E0) >> 1 | (message_type & 0x3E00) >> 2,
        (message_type & 0x0010) >> 4 | (message_type & 0x0100) >> 7,
        datagram[8:_HEADER_BYTES],
        attributes,
        datagram,
        integrity_offset,
        integrity_sha256_offset,
    )


def encode_message(
    method: int,
    message_class: int,
    transaction_id: bytes,
    attributes: Iterable[tuple[int, bytes]],
    *,
    integrity_key: bytes | None = None,
    integrity_sha256_key: bytes | None = None,
    fingerprint: bool = False,
) -> bytes:
    """A message of these attributes, then those that protect it, in the order that RFC 8489
    sections 14.5 to 14.7 give: MESSAGE-INTEGRITY where `integrity_key` is given,
    MESSAGE-INTEGRITY-SHA256 where `integrity_sha256_key` is, FINGERPRINT where asked for.

    `attributes` are (type, value without padding); padding is zero. None of them may be one of
    the three.

    Raises:
        StunError: the message would exceed the 65,532 bytes of attributes that its length field
            can tell. (What a peer has sent can lead here: a datagram too long to be wrapped.)
    """
    assert len(transaction_id) == TRANSACTION_ID_BYTES, "a transaction ID has 12 bytes"
    assert 0 <= method <= 0xFFF, "a method has 12 bits"
    assert 0 <= message_class <= 3, "a class has 2 bits"
    length = 0
    pieces: list[bytes] = []
    for attribute, value in attributes:
        value_size = len(value)
        if value_size > _MAXIMUM_LENGTH:
            raise StunError("an attribute exceeds what a STUN message can hold")
        pieces.append(_ATTRIBUTE.pack(attribute, value_size))
        pieces.append(value)
        if value_size & 3:
            pieces.append(_PADDING[value_size & 3])
        length += 4 + ((value_size + 3) & ~3)
    whole = length
    if integrity_key is not None:
        whole += 4 + _INTEGRITY_BYTES
    if integrity_sha256_key is not None:
        whole += 4 + _INTEGRITY_SHA256_BYTES
    if fingerprint:
        whole += 4 + _FINGERPRINT_BYTES
    if whole > _MAXIMUM_LENGTH:
        raise StunError("the message exceeds what its length field can tell")

    message_type = (
        (method & 0x00F)
        | (method & 0x070) << 1
        | (method & 0xF80) << 2
        | (message_class & 1) << 4
        | (message_class & 2) << 7
    )
    body = b"".join(pieces)
    if integrity_key is not None:
        # The HMAC covers a header whose length ends with this very attribute (section 14.5).
        length += 4 + _INTEGRITY_BYTES
        covered = _HEADER.pack(message_type, length, MAGIC_COOKIE) + transaction_id + body
        body += b"\x00\x08\x00\x14" + hmac.digest(integrity_key, covered, "sha1")
    if integrity_sha256_key is not None:
        length += 4 + _INTEGRITY_SHA256_BYTES
        covered = _HEADER.pack(message_type, length, MAGIC_COOKIE) + transaction_id + body
        body += b"\x00\x1c\x00\x20" + hmac.digest(integrity_sha256_key, covered, "sha256")
    message = _HEADER.pack(message_type, whole, MAGIC_COOKIE) + transaction_id + body
    if fingerprint:
        message += b"\x80\x28\x00\x04" + _fingerprint(message).to_bytes(4, "big")
    return message


def check_integrity(message: Message, key: bytes) -> bool:
    """Whether MESSAGE-INTEGRITY (HMAC-SHA1, RFC 8489 section 14.5) is there and made with `key`;
    compared in constant time."""
    offset = message._integrity_offset
    if not offset:
        return False
    raw = message.raw
    start = offset + 4
    expected = hmac.digest(key, _covered_by_integrity(raw, offset, _INTEGRITY_BYTES), "sha1")
    return hmac.compare_digest(expected, raw[start : start + _INTEGRITY_BYTES])


def check_integrity_sha256(message: Message, key: bytes) -> bool:
    """Whether MESSAGE-INTEGRITY-SHA256 (RFC 8489 section 14.6) is there and made with `key`,
    whole or truncated to 16, 20, 24 or 28 bytes; compared in constant time."""
    offset = message._integrity_sha256_offset
    if not offset:
        return False
    raw = message.raw
    start = offset + 4
    size = raw[offset + 3]
    expected = hmac.digest(key, _covered_by_integrity(raw, offset, size), "sha256")
    return hmac.compare_digest(expected[:size], raw[start : start + size])


def _covered_by_integrity(raw: bytes, offset: int, size: int) -> bytes:
    """What an HMAC of `size` bytes whose attribute starts at `offset` covers: everything before
    it, with the header's length ending with the attribute."""
    length = offset + 4 + size - _HEADER_BYTES
    return raw[:2] + length.to_bytes(2, "big") + raw[4:offset]


def _fingerprint(covered: bytes) -> int:
    """The value of FINGERPRINT after the bytes `covered` (RFC 8489 section 14.7)."""
    return crc32(covered) ^ FINGERPRINT_XOR


def _name_method(method: int) -> str:
    return Method(method).name if method in Method._value2member_map_ else f"{method:#05x}"


def _name_attribute(attribute: int) -> str:
    known = attribute in Attribute._value2member_map_
    return Attribute(attribute).name if known else f"{attribute:#06x}"
