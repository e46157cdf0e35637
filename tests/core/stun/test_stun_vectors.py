"""The sample messages of RFC 5769 and of RFC 8489 appendix B."""

from __future__ import annotations

import pytest

from core.stun.address import Address
from core.stun.constants import Attribute, MessageClass, Method
from tests.support.stun_forms import Form, each_form, read_vector

SHORT_TERM_PASSWORD = "VOkJxbRl1RmTxUk/WvJxBt"
USERNAME = "\u30de\u30c8\u30ea\u30c3\u30af\u30b9"
REALM = "example.org"
PASSWORD = "TheMatrIX"
SHORT_TERM_TRANSACTION_ID = bytes.fromhex("b7e7a701bc34d686fa87dfae")
LONG_TERM_TRANSACTION_ID = bytes.fromhex("78ad3433c6ad72c029da412e")


@each_form
def test_rfc5769_2_1_request(stun: Form) -> None:
    message = stun.message.decode_message_untrusted(read_vector("rfc5769_2_1_request"))
    assert (message.method, message.message_class) == (Method.BINDING, MessageClass.REQUEST)
    assert message.transaction_id == SHORT_TERM_TRANSACTION_ID
    assert [attribute for attribute, _ in message.attributes] == [
        Attribute.SOFTWARE,
        Attribute.PRIORITY,
        Attribute.ICE_CONTROLLED,
        Attribute.USERNAME,
        Attribute.MESSAGE_INTEGRITY,
        Attribute.FINGERPRINT,
    ]
    values = stun.attributes
    assert message.first(Attribute.SOFTWARE) == b"STUN test client"
    assert message.first(Attribute.USERNAME) == b"evtj:h6vY"
    assert values.decode_uint32_untrusted(message.first(Attribute.PRIORITY)) == 0x6E0001FF
    tie_breaker = values.decode_uint64_untrusted(message.first(Attribute.ICE_CONTROLLED))
    assert tie_breaker == 0x932FF9B151263B36
    key = stun.credentials.short_term_key(SHORT_TERM_PASSWORD)
    assert stun.message.check_integrity(message, key)
    assert not stun.message.check_integrity(message, key + b"x")


@each_form
@pytest.mark.parametrize(
    ("vector", "mapped"),
    [
        ("rfc5769_2_2_ipv4_response", Address.from_text("192.0.2.1", 32853)),
        (
            "rfc5769_2_3_ipv6_response",
            Address.from_text("2001:db8:1234:5678:11:2233:4455:6677", 32853),
        ),
    ],
)
def test_rfc5769_2_2_and_2_3_responses(stun: Form, vector: str, mapped: Address) -> None:
    message = stun.message.decode_message_untrusted(read_vector(vector))
    assert (message.method, message.message_class) == (Method.BINDING, MessageClass.SUCCESS)
    value = message.first(Attribute.XOR_MAPPED_ADDRESS)
    transaction_id = message.transaction_id
    assert transaction_id == SHORT_TERM_TRANSACTION_ID
    assert stun.attributes.decode_xor_address_untrusted(value, transaction_id) == mapped
    assert stun.attributes.encode_xor_address(mapped, transaction_id) == value
    assert message.first(Attribute.SOFTWARE) == b"test vector"
    assert stun.message.check_integrity(message, SHORT_TERM_PASSWORD.encode())


@each_form
def test_rfc5769_2_4_long_term_request(stun: Form) -> None:
    vector = read_vector("rfc5769_2_4_long_term_request")
    message = stun.message.decode_message_untrusted(vector)
    key = stun.credentials.long_term_key(USERNAME, REALM, PASSWORD)
    assert stun.message.check_integrity(message, key)
    assert message.first(Attribute.USERNAME) == USERNAME.encode()
    built = stun.message.encode_message(
        Method.BINDING,
        MessageClass.REQUEST,
        LONG_TERM_TRANSACTION_ID,
        [
            (Attribute.USERNAME, USERNAME.encode()),
            (Attribute.NONCE, b"f//499k954d6OL34oL9FSTvy64sA"),
            (Attribute.REALM, REALM.encode()),
        ],
        integrity_key=key,
    )
    assert built == vector


@each_form
def test_rfc8489_b_1_request_with_erratum_6268(stun: Form) -> None:
    vector = read_vector("rfc8489_b_1_request")
    message = stun.message.decode_message_untrusted(vector)
    algorithm = stun.credentials.PasswordAlgorithm.SHA256
    key = stun.credentials.long_term_key(USERNAME, REALM, PASSWORD, algorithm)
    assert stun.message.check_integrity_sha256(message, key)
    assert not stun.message.check_integrity(message, key)
    built = stun.message.encode_message(
        Method.BINDING,
        MessageClass.REQUEST,
        LONG_TERM_TRANSACTION_ID,
        [
            (Attribute.USERHASH, stun.credentials.user_hash(USERNAME, REALM)),
            (Attribute.NONCE, b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA"),
            (Attribute.REALM, REALM.encode()),
            (Attribute.PASSWORD_ALGORITHM, stun.attributes.encode_password_algorithm(algorithm)),
        ],
        integrity_sha256_key=key,
    )
    assert built == vector
