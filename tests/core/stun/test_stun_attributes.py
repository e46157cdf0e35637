"""Values of attributes: RFC 8489 section 14, RFC 8656 section 18, RFC 5780, 6062 and 7635."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import StunError
from core.stun.address import Address
from core.stun.constants import ATTRIBUTE_ALIASES, ERROR_REASONS, Attribute, Method
from tests.support.stun_forms import Form, each_form

TRANSACTION_ID = b"transaction!"

ip = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
addresses = st.builds(Address, ip, st.integers(0, 0xFFFF))
uint16 = st.integers(0, 0xFFFF)
uint32 = st.integers(0, 0xFFFFFFFF)
uint64 = st.integers(0, 2**64 - 1)
codes = st.integers(300, 699)
families = st.sampled_from([1, 2])
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=120)
reasons = text.filter(lambda reason: len(reason.encode()) <= 509)
algorithm = st.tuples(uint16, st.binary(max_size=9))

# Codec's name, and what its encoder takes.
ROUND_TRIPS: dict[str, st.SearchStrategy[Any]] = {
    "address": st.tuples(addresses),
    "uint32": st.tuples(uint32),
    "uint64": st.tuples(uint64),
    "error_code": st.tuples(codes, reasons),
    "address_error_code": st.tuples(families, codes, reasons),
    "unknown_attributes": st.tuples(st.lists(uint16, max_size=20)),
    "icmp": st.tuples(st.integers(0, 127), st.integers(0, 255), uint32),
    "password_algorithm": algorithm,
    "password_algorithms": st.tuples(st.lists(algorithm, max_size=5)),
    "channel_number": st.tuples(st.integers(0x4000, 0x7FFF)),
    "requested_transport": st.tuples(st.integers(0, 255)),
    "address_family": st.tuples(families),
    "even_port": st.tuples(st.booleans()),
    "change_request": st.tuples(st.booleans(), st.booleans()),
    "response_port": st.tuples(uint16),
}


@each_form
@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_what_is_encoded_is_decoded(stun: Form, name: str) -> None:
    encode: Callable[..., bytes] = getattr(stun.attributes, f"encode_{name}")
    decode: Callable[[bytes], object] = getattr(stun.attributes, f"decode_{name}_untrusted")

    @given(arguments=ROUND_TRIPS[name])
    def check(arguments: tuple[object, ...]) -> None:
        decoded = decode(encode(*arguments))
        assert decoded == (arguments if len(arguments) > 1 else arguments[0])

    check()


@each_form
@given(address=addresses, transaction_id=st.binary(min_size=12, max_size=12))
def test_xor_address_is_its_own_inverse(
    stun: Form, address: Address, transaction_id: bytes
) -> None:
    value = stun.attributes.encode_xor_address(address, transaction_id)
    assert stun.attributes.decode_xor_address_untrusted(value, transaction_id) == address


@each_form
@given(shown=text)
def test_text_is_utf8(stun: Form, shown: str) -> None:
    value = stun.attributes.encode_text(shown)
    assert stun.attributes.decode_text_untrusted(value, len(value)) == shown
    if value:
        with pytest.raises(StunError):
            stun.attributes.decode_text_untrusted(value, len(value) - 1)


@each_form
@given(nonce=st.binary(max_size=40), sealed=st.binary(max_size=80))
def test_rfc7635_access_token(stun: Form, nonce: bytes, sealed: bytes) -> None:
    token = stun.attributes.AccessToken(nonce, sealed)
    value = stun.attributes.encode_access_token(token)
    assert stun.attributes.decode_access_token_untrusted(value) == token


@each_form
@given(key=st.binary(max_size=40), timestamp=uint64, lifetime_s=uint32)
def test_rfc7635_access_token_block(
    stun: Form, key: bytes, timestamp: int, lifetime_s: int
) -> None:
    block = stun.attributes.AccessTokenBlock(key, timestamp, lifetime_s)
    value = stun.attributes.encode_access_token_block(block)
    assert stun.attributes.decode_access_token_block_untrusted(value) == block


# Name, arguments, value: written by hand from the figures of the RFCs.
FIGURES: list[tuple[str, tuple[object, ...], str]] = [
    ("address", (Address(b"\x7f\0\0\1", 3478),), "0001 0d96 7f000001"),
    ("uint32", (600,), "00000258"),
    ("uint64", (0x932FF9B151263B36,), "932ff9b151263b36"),
    ("error_code", (438, "Stale Nonce"), "00000426 5374616c65204e6f6e6365"),
    ("error_code", (300, ""), "00000300"),
    ("address_error_code", (2, 440, ""), "02000428"),
    ("unknown_attributes", ([0x7777, 6],), "7777 0006"),
    ("icmp", (3, 4, 1400), "0000 0604 00000578"),
    ("icmp", (127, 255, 0), "0000 feff 00000000"),
    ("password_algorithm", (2,), "00020000"),
    ("password_algorithms", ([(2, b""), (1, b"abcde")],), "00020000 00010005 6162636465 000000"),
    ("channel_number", (0x4001,), "40010000"),
    ("requested_transport", (17,), "11000000"),
    ("address_family", (2,), "02000000"),
    ("even_port", (True,), "80"),
    ("even_port", (False,), "00"),
    ("empty", (), ""),
    ("change_request", (True, False), "00000004"),
    ("change_request", (False, True), "00000002"),
    ("response_port", (3479,), "0d970000"),
]


@each_form
@pytest.mark.parametrize(("name", "arguments", "value"), FIGURES)
def test_values_are_as_the_figures_draw_them(
    stun: Form, name: str, arguments: tuple[object, ...], value: str
) -> None:
    assert getattr(stun.attributes, f"encode_{name}")(*arguments) == bytes.fromhex(value)


@each_form
def test_reserved_bits_are_ignored(stun: Form) -> None:
    values = stun.attributes
    assert values.decode_address_untrusted(bytes.fromhex("ff01 0d96 7f000001")).port == 3478
    assert values.decode_error_code_untrusted(b"\xff\xff\xfc\x26") == (438, "")
    assert values.decode_address_error_code_untrusted(b"\x01\xff\xfc\x28") == (1, 440, "")
    assert values.decode_channel_number_untrusted(b"\x7f\xff\xff\xff") == 0x7FFF
    assert values.decode_requested_transport_untrusted(b"\x06\xff\xff\xff") == 6
    assert values.decode_address_family_untrusted(b"\x09\xff\xff\xff") == 9
    assert values.decode_even_port_untrusted(b"\x7f") is False
    assert values.decode_even_port_untrusted(b"\xff") is True
    assert values.decode_icmp_untrusted(b"\xff\xff\x06\x04\0\0\0\1") == (3, 4, 1)
    assert values.decode_change_request_untrusted(b"\xff\xff\xff\xf9") == (False, False)
    assert values.decode_response_port_untrusted(b"\x0d\x97\xff\xff") == 3479


@each_form
def test_the_last_password_algorithm_may_lack_its_padding(stun: Form) -> None:
    decode = stun.attributes.decode_password_algorithms_untrusted
    assert decode(b"\0\1\0\1x") == [(1, b"x")]


REFUSED: list[tuple[str, str]] = [
    ("address", ""),
    ("address", "0001 0d96 7f0000"),
    ("address", "0001 0d96 7f00000100"),
    ("address", "0002 0d96 7f000001"),
    ("address", "0000 0d96 7f000001"),
    ("address", "0001 0d96" + "00" * 16),
    ("uint32", "000258"),
    ("uint32", "0000000258"),
    ("uint64", "00000258"),
    ("empty", "00"),
    ("error_code", "000004"),
    ("error_code", "00000200"),
    ("error_code", "00000700"),
    ("error_code", "00000464"),
    ("error_code", "00000400ff"),
    ("error_code", "00000400" + "61" * 764),
    ("address_error_code", "010004"),
    ("address_error_code", "01000264"),
    ("unknown_attributes", "777700"),
    ("icmp", "0000060400000578ff"),
    ("icmp", "00000604"),
    ("password_algorithm", ""),
    ("password_algorithm", "0001000000020000"),
    ("password_algorithms", "000100"),
    ("password_algorithms", "0001000161620000 00"),
    ("password_algorithms", "0001000261"),
    ("password_algorithms", "0001ffff"),
    ("user_hash", "00" * 31),
    ("channel_number", "3fff0000"),
    ("channel_number", "80000000"),
    ("channel_number", "4000"),
    ("requested_transport", "11"),
    ("address_family", "01"),
    ("even_port", ""),
    ("even_port", "8000"),
    ("reservation_token", "00" * 7),
    ("reservation_token", "00" * 9),
    ("change_request", "04"),
    ("response_port", "0d97"),
    ("access_token", "00"),
    ("access_token", "0003 6162"),
    ("access_token_block", "00" * 13),
    ("access_token_block", "0001" + "00" * 12),
    ("access_token_block", "0000" + "00" * 13),
]


@each_form
@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_values_of_a_wrong_shape_are_a_bad_request(stun: Form, name: str, value: str) -> None:
    with pytest.raises(StunError) as caught:
        getattr(stun.attributes, f"decode_{name}_untrusted")(bytes.fromhex(value))
    assert caught.value.code == 400


@each_form
def test_opaque_values_pass_as_they_are(stun: Form) -> None:
    assert stun.attributes.decode_user_hash_untrusted(b"h" * 32) == b"h" * 32
    assert stun.attributes.decode_reservation_token_untrusted(b"8 bytes!") == b"8 bytes!"
    assert stun.attributes.decode_empty_untrusted(b"") is None


@each_form
def test_a_wrong_xor_address_is_refused(stun: Form) -> None:
    for value in ("", "0002 0d96 7f000001", "0001 0d96" + "00" * 16):
        with pytest.raises(StunError):
            stun.attributes.decode_xor_address_untrusted(bytes.fromhex(value), TRANSACTION_ID)


@each_form
def test_text_that_is_not_utf8_is_refused(stun: Form) -> None:
    for value in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe3\x83"):
        with pytest.raises(StunError):
            stun.attributes.decode_text_untrusted(value, 100)


@each_form
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("address", (Address(b"\0" * 5, 1),)),
        ("address", (Address(b"\0" * 4, 65536),)),
        ("uint32", (-1,)),
        ("uint32", (2**32,)),
        ("error_code", (299, "")),
        ("error_code", (400, "x" * 510)),
        ("channel_number", (0x8000,)),
        ("address_family", (3,)),
        ("icmp", (128, 0, 0)),
        ("response_port", (65536,)),
    ],
)
def test_what_does_not_fit_is_a_broken_promise(
    stun: Form, name: str, arguments: tuple[object, ...]
) -> None:
    with pytest.raises(AssertionError):
        getattr(stun.attributes, f"encode_{name}")(*arguments)


def test_the_registered_numbers() -> None:
    """Methods, aliases and error codes as IANA's registry lists them for the seven RFCs."""
    assert [int(method) for method in Method] == [1, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    required = {int(kind) for kind in Attribute if kind < 0x8000}
    assert required == {
        *(0x01, 0x03, 0x06, 0x08, 0x09, 0x0A, 0x0C, 0x0D, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17),
        *(0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x20, 0x22, 0x24, 0x25, 0x26, 0x27, 0x2A),
    }
    optional = {kind - 0x8000 for kind in Attribute if kind >= 0x8000}
    assert optional == {
        *(0x00, 0x01, 0x02, 0x03, 0x04, 0x22, 0x23, 0x27, 0x28, 0x29, 0x2A, 0x2B, 0x2C),
        *(0x2E, 0x30),
    }
    assert ATTRIBUTE_ALIASES == {0x8032: 0x8000, 0x8033: 0x8001}
    assert sorted(ERROR_REASONS) == [
        *(300, 400, 401, 403, 405, 420, 437, 438, 440, 441, 442, 443, 446, 447, 486, 487),
        *(500, 508),
    ]
