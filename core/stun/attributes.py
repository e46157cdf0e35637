"""Values of STUN and TURN attributes: from bytes and to bytes.

Each attribute has a pair of functions over its value, without type, length and padding, which
`message` handles. Attributes of one shape share a pair:

    address        MAPPED-ADDRESS, ALTERNATE-SERVER, RESPONSE-ORIGIN, OTHER-ADDRESS
    xor_address    XOR-MAPPED-ADDRESS, XOR-RELAYED-ADDRESS, XOR-PEER-ADDRESS
    uint32         LIFETIME (s), CONNECTION-ID, PRIORITY, CACHE-TIMEOUT (s)
    uint64         ICE-CONTROLLED, ICE-CONTROLLING
    address_family REQUESTED-ADDRESS-FAMILY, ADDITIONAL-ADDRESS-FAMILY
    text           USERNAME, REALM, NONCE, SOFTWARE, ALTERNATE-DOMAIN, THIRD-PARTY-AUTHORIZATION
    empty          DONT-FRAGMENT, USE-CANDIDATE

DATA, PADDING and MOBILITY-TICKET are any bytes and need no codec.

Every `decode_*_untrusted` raises `StunError` with code 400 for a value of the wrong shape, and
ignores reserved bits, as the RFCs ask. Every `encode_*` sends those as zero and asserts that
what it is given fits.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from core.errors import StunError

from .address import Address
from .constants import (
    CHANGE_IP_FLAG,
    CHANGE_PORT_FLAG,
    IPV4_FAMILY,
    IPV6_FAMILY,
    MAGIC_COOKIE,
    MAXIMUM_CHANNEL,
    MINIMUM_CHANNEL,
    QUOTED_MAXIMUM_BYTES,
    TRANSACTION_ID_BYTES,
)

_COOKIE_BYTES = MAGIC_COOKIE.to_bytes(4, "big")
_COOKIE_HIGH = MAGIC_COOKIE >> 16
_ICMP = Struct("!HHI")
_ACCESS_TOKEN_BLOCK = Struct("!QI")


class AccessToken(NamedTuple):
    """The value of ACCESS-TOKEN (RFC 7635 section 6.2): what the authorization server sealed
    with the key that it shares with this server."""

    nonce: bytes
    encrypted_block: bytes


class AccessTokenBlock(NamedTuple):
    """What `AccessToken.encrypted_block` holds once opened: the key of MESSAGE-INTEGRITY, when
    the token was made (`timestamp`: seconds since 1970 in the upper 48 bits, 1/64000 s in the
    lower 16), and for how many seconds it is good."""

    mac_key: bytes
    timestamp: int
    lifetime_s: int


# Addresses: RFC 8489 sections 14.1 and 14.2


def encode_address(address: Address) -> bytes:
    """A transport address in the clear: 8 bytes for IPv4, 20 for IPv6."""
    assert 0 <= address.port <= 0xFFFF, "a port has 16 bits"
    return _encode_family(address.ip) + address.port.to_bytes(2, "big") + address.ip


def decode_address_untrusted(value: bytes) -> Address:
    """A transport address in the clear."""
    _check_address(value)
    return Address(value[4:], value[2] << 8 | value[3])


def encode_xor_address(address: Address, transaction_id: bytes) -> bytes:
    """A transport address XORed with the magic cookie and, for IPv6, the transaction ID."""
    assert 0 <= address.port <= 0xFFFF, "a port has 16 bits"
    port = address.port ^ _COOKIE_HIGH
    return _encode_family(address.ip) + port.to_bytes(2, "big") + _mask(address.ip, transaction_id)


def decode_xor_address_untrusted(value: bytes, transaction_id: bytes) -> Address:
    """A transport address XORed with the magic cookie and, for IPv6, the transaction ID."""
    _check_address(value)
    port = (value[2] << 8 | value[3]) ^ _COOKIE_HIGH
    return Address(_mask(value[4:], transaction_id), port)


def _encode_family(ip: bytes) -> bytes:
    assert len(ip) in (4, 16), "a packed IP address has 4 or 16 bytes"
    return b"\0\x01" if len(ip) == 4 else b"\0\x02"


def _check_address(value: bytes) -> None:
    size = len(value)
    if not ((size == 8 and value[1] == IPV4_FAMILY) or (size == 20 and value[1] == IPV6_FAMILY)):
        raise StunError("an address has a family and a length that do not agree")


def _mask(ip: bytes, transaction_id: bytes) -> bytes:
    """XOR packed IP bytes with the cookie and the transaction ID; its own inverse."""
    if len(ip) == 4:
        return (int.from_bytes(ip, "big") ^ MAGIC_COOKIE).to_bytes(4, "big")
    assert len(transaction_id) == TRANSACTION_ID_BYTES, "a transaction ID has 12 bytes"
    mask = int.from_bytes(_COOKIE_BYTES + transaction_id, "big")
    return (int.from_bytes(ip, "big") ^ mask).to_bytes(16, "big")


# Numbers


def encode_uint32(number: int) -> bytes:
    """32 bits, such as LIFETIME (RFC 8656 section 18.2) and CONNECTION-ID (RFC 6062
    section 6.2.1)."""
    assert 0 <= number <= 0xFFFFFFFF, "the number has 32 bits"
    return number.to_bytes(4, "big")


def decode_uint32_untrusted(value: bytes) -> int:
    """32 bits."""
    if len(value) != 4:
        raise StunError("a 32-bit number is not 4 bytes long")
    return int.from_bytes(value, "big")


def encode_uint64(number: int) -> bytes:
    """64 bits, the tie-breaker of ICE-CONTROLLED and ICE-CONTROLLING (RFC 8445 section 16.1)."""
    assert 0 <= number <= 0xFFFFFFFFFFFFFFFF, "the number has 64 bits"
    return number.to_bytes(8, "big")


def decode_uint64_untrusted(value: bytes) -> int:
    """64 bits."""
    if len(value) != 8:
        raise StunError("a 64-bit number is not 8 bytes long")
    return int.from_bytes(value, "big")


def encode_empty() -> bytes:
    """The value of an attribute that says all by being there."""
    return b""


def decode_empty_untrusted(value: bytes) -> None:
    """Checks an attribute without a value: DONT-FRAGMENT (RFC 8656 section 18.9)."""
    if value:
        raise StunError("an attribute that has no value has one")


# Text


def encode_text(text: str) -> bytes:
    """UTF-8. The caller keeps the attribute's limit, see `constants`."""
    return text.encode()


def decode_text_untrusted(value: bytes, maximum_bytes: int) -> str:
    """UTF-8 of at most `maximum_bytes`."""
    if len(value) > maximum_bytes:
        raise StunError("a text is too long")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise StunError("a text is not UTF-8") from error


# Errors: RFC 8489 sections 14.8 and 14.9, RFC 8656 sections 18.12 and 18.13


def encode_error_code(code: int, reason: str) -> bytes:
    """ERROR-CODE: `code` in 300-699, `reason` of at most 509 bytes."""
    assert 300 <= code <= 699, "an error code is between 300 and 699"
    return bytes((0, 0, code // 100, code % 100)) + _encode_reason(reason)


def decode_error_code_untrusted(value: bytes) -> tuple[int, str]:
    """ERROR-CODE: the code (300-699) and the reason."""
    if len(value) < 4:
        raise StunError("ERROR-CODE is shorter than 4 bytes")
    return _decode_code(value), decode_text_untrusted(value[4:], QUOTED_MAXIMUM_BYTES)


def encode_address_error_code(family: int, code: int, reason: str) -> bytes:
    """ADDRESS-ERROR-CODE: why no address of `family` was allocated (RFC 8656 section 18.12)."""
    assert family in (IPV4_FAMILY, IPV6_FAMILY), "the family is IPv4 or IPv6"
    assert 300 <= code <= 699, "an error code is between 300 and 699"
    return bytes((family, 0, code // 100, code % 100)) + _encode_reason(reason)


def decode_address_error_code_untrusted(value: bytes) -> tuple[int, int, str]:
    """ADDRESS-ERROR-CODE: the family, the code (300-699) and the reason."""
    if len(value) < 4:
        raise StunError("ADDRESS-ERROR-CODE is shorter than 4 bytes")
    reason = decode_text_untrusted(value[4:], QUOTED_MAXIMUM_BYTES)
    return value[0], _decode_code(value), reason


def _encode_reason(reason: str) -> bytes:
    encoded = reason.encode()
    assert len(encoded) <= 509, "a reason has at most 509 bytes (RFC 8489 section 14.8)"
    return encoded


def _decode_code(value: bytes) -> int:
    hundreds = value[2] & 0x07
    number = value[3]
    if hundreds < 3 or hundreds > 6 or number > 99:
        raise StunError("an error code is not between 300 and 699")
    return hundreds * 100 + number


def encode_unknown_attributes(attributes: list[int]) -> bytes:
    """UNKNOWN-ATTRIBUTES: 16 bits for each type."""
    return b"".join([attribute.to_bytes(2, "big") for attribute in attributes])


def decode_unknown_attributes_untrusted(value: bytes) -> list[int]:
    """UNKNOWN-ATTRIBUTES: the types."""
    if len(value) & 1:
        raise StunError("UNKNOWN-ATTRIBUTES has an odd length")
    return [value[at] << 8 | value[at + 1] for at in range(0, len(value), 2)]


def encode_icmp(icmp_type: int, icmp_code: int, data: int) -> bytes:
    """ICMP (RFC 8656 section 18.13): a type of 7 bits and a code of 9, as its figure draws them;
    `data` is the next hop's MTU where the error tells one, otherwise 0."""
    assert 0 <= icmp_type <= 0x7F, "an ICMP error's type has 7 bits"
    assert 0 <= icmp_code <= 0xFF, "an ICMP code has 8 bits"
    assert 0 <= data <= 0xFFFFFFFF, "the error data has 32 bits"
    return _ICMP.pack(0, icmp_type << 9 | icmp_code, data)


def decode_icmp_untrusted(value: bytes) -> tuple[int, int, int]:
    """ICMP: type, code and error data."""
    if len(value) != 8:
        raise StunError("ICMP is not 8 bytes long")
    type_and_code = value[2] << 8 | value[3]
    return type_and_code >> 9, type_and_code & 0x1FF, int.from_bytes(value[4:], "big")


# Passwords: RFC 8489 sections 14.11, 14.12 and 14.4


def encode_password_algorithm(algorithm: int, parameters: bytes = b"") -> bytes:
    """PASSWORD-ALGORITHM: a number and its parameters, padded to a multiple of 4 bytes."""
    size = len(parameters)
    assert 0 <= algorithm <= 0xFFFF, "an algorithm has 16 bits"
    assert size <= 0xFFFF, "the parameters' length has 16 bits"
    return (algorithm << 16 | size).to_bytes(4, "big") + parameters + bytes(-size & 3)


def decode_password_algorithm_untrusted(value: bytes) -> tuple[int, bytes]:
    """PASSWORD-ALGORITHM: the number and its parameters."""
    algorithms = decode_password_algorithms_untrusted(value)
    if len(algorithms) != 1:
        raise StunError("PASSWORD-ALGORITHM does not hold exactly one algorithm")
    return algorithms[0]


def encode_password_algorithms(algorithms: list[tuple[int, bytes]]) -> bytes:
    """PASSWORD-ALGORITHMS: (number, parameters) of each, the preferred first."""
    return b"".join(
        [encode_password_algorithm(algorithm, parameters) for algorithm, parameters in algorithms]
    )


def decode_password_algorithms_untrusted(value: bytes) -> list[tuple[int, bytes]]:
    """PASSWORD-ALGORITHMS: (number, parameters) of each. The last one's padding may be missing,
    as where the attribute's own length leaves it out."""
    size = len(value)
    algorithms: list[tuple[int, bytes]] = []
    offset = 0
    while offset < size:
        start = offset + 4
        if start > size:
            raise StunError("a password algorithm is shorter than 4 bytes")
        end = start + (value[offset + 2] << 8 | value[offset + 3])
        if end > size:
            raise StunError("a password algorithm's parameters exceed the attribute")
        algorithms.append((value[offset] << 8 | value[offset + 1], value[start:end]))
        offset = (end + 3) & ~3
    return algorithms


def decode_user_hash_untrusted(value: bytes) -> bytes:
    """USERHASH: the 32 bytes that `credentials.user_hash` makes."""
    if len(value) != 32:
        raise StunError("USERHASH is not 32 bytes long")
    return value


# TURN: RFC 8656 section 18


def encode_channel_number(channel: int) -> bytes:
    """CHANNEL-NUMBER: 0x4000-0x7FFF."""
    assert MINIMUM_CHANNEL <= channel <= MAXIMUM_CHANNEL, "a channel is in 0x4000-0x7FFF"
    return (channel << 16).to_bytes(4, "big")


def decode_channel_number_untrusted(value: bytes) -> int:
    """CHANNEL-NUMBER. Others than 0x4000-0x7FFF are refused."""
    if len(value) != 4:
        raise StunError("CHANNEL-NUMBER is not 4 bytes long")
    channel = value[0] << 8 | value[1]
    if channel < MINIMUM_CHANNEL or channel > MAXIMUM_CHANNEL:
        raise StunError("the channel number is not one")
    return channel


def encode_requested_transport(protocol: int) -> bytes:
    """REQUESTED-TRANSPORT: an IP protocol number."""
    return bytes((protocol, 0, 0, 0))


def decode_requested_transport_untrusted(value: bytes) -> int:
    """REQUESTED-TRANSPORT: the IP protocol number, which may be none that the server knows."""
    if len(value) != 4:
        raise StunError("REQUESTED-TRANSPORT is not 4 bytes long")
    return value[0]


def encode_address_family(family: int) -> bytes:
    """An address family, `IPV4_FAMILY` or `IPV6_FAMILY`."""
    assert family in (IPV4_FAMILY, IPV6_FAMILY), "the family is IPv4 or IPv6"
    return bytes((family, 0, 0, 0))


def decode_address_family_untrusted(value: bytes) -> int:
    """An address family: any byte, since one that the server does not know asks for the error
    440 (RFC 8656 section 7.2), which is the caller's to give."""
    if len(value) != 4:
        raise StunError("an address family is not 4 bytes long")
    return value[0]


def encode_even_port(reserve_next: bool) -> bytes:
    """EVEN-PORT: with the R bit where the next higher port is to be reserved."""
    return b"\x80" if reserve_next else b"\0"


def decode_even_port_untrusted(value: bytes) -> bool:
    """EVEN-PORT: whether the R bit is set."""
    if len(value) != 1:
        raise StunError("EVEN-PORT is not 1 byte long")
    return value[0] >= 0x80


def decode_reservation_token_untrusted(value: bytes) -> bytes:
    """RESERVATION-TOKEN: 8 bytes."""
    if len(value) != 8:
        raise StunError("RESERVATION-TOKEN is not 8 bytes long")
    return value


# Behaviour discovery: RFC 5780 section 7


def encode_change_request(change_ip: bool, change_port: bool) -> bytes:
    """CHANGE-REQUEST: whether the answer is to come from the other address and the other port."""
    flags = (CHANGE_IP_FLAG if change_ip else 0) | (CHANGE_PORT_FLAG if change_port else 0)
    return bytes((0, 0, 0, flags))


def decode_change_request_untrusted(value: bytes) -> tuple[bool, bool]:
    """CHANGE-REQUEST: (change the address, change the port)."""
    flags = decode_uint32_untrusted(value)
    return bool(flags & CHANGE_IP_FLAG), bool(flags & CHANGE_PORT_FLAG)


def encode_response_port(port: int) -> bytes:
    """RESPONSE-PORT: where the answer is to go."""
    assert 0 <= port <= 0xFFFF, "a port has 16 bits"
    return (port << 16).to_bytes(4, "big")


def decode_response_port_untrusted(value: bytes) -> int:
    """RESPONSE-PORT: the port, 0-65535."""
    if len(value) != 4:
        raise StunError("RESPONSE-PORT is not 4 bytes long")
    return value[0] << 8 | value[1]


# Third-party authorization: RFC 7635 section 6.2


def encode_access_token(token: AccessToken) -> bytes:
    """ACCESS-TOKEN."""
    assert len(token.nonce) <= 0xFFFF, "the nonce's length has 16 bits"
    return len(token.nonce).to_bytes(2, "big") + token.nonce + token.encrypted_block


def decode_access_token_untrusted(value: bytes) -> AccessToken:
    """ACCESS-TOKEN. Its block is still sealed: nothing in it can be believed before it opens."""
    if len(value) < 2:
        raise StunError("ACCESS-TOKEN is shorter than its nonce's length")
    end = 2 + (value[0] << 8 | value[1])
    if end > len(value):
        raise StunError("ACCESS-TOKEN is shorter than its nonce")
    return AccessToken(value[2:end], value[end:])


def encode_access_token_block(block: AccessTokenBlock) -> bytes:
    """The block of an ACCESS-TOKEN, to be sealed."""
    assert len(block.mac_key) <= 0xFFFF, "the key's length has 16 bits"
    tail = _ACCESS_TOKEN_BLOCK.pack(block.timestamp, block.lifetime_s)
    return len(block.mac_key).to_bytes(2, "big") + block.mac_key + tail


def decode_access_token_block_untrusted(block: bytes) -> AccessTokenBlock:
    """The opened block of an ACCESS-TOKEN."""
    if len(block) < 14 or len(block) != 14 + (block[0] << 8 | block[1]):
        raise StunError("an access token's block has a wrong length")
    end = len(block) - 12
    timestamp, lifetime_s = _ACCESS_TOKEN_BLOCK.unpack(block[end:])
    return AccessTokenBlock(block[2:end], timestamp, lifetime_s)
