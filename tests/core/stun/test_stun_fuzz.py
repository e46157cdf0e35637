"""Whatever bytes come in, `StunError` is all that comes out of the codec (bounded examples)."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.errors import StunError
from core.stun.address import Address
from core.stun.attributes import (
    encode_password_algorithms,
    encode_requested_transport,
    encode_uint32,
    encode_xor_address,
)
from core.stun.constants import QUOTED_MAXIMUM_BYTES, Attribute, MessageClass, Method
from core.stun.message import encode_message
from tests.support.stun_forms import Form, each_form, read_vector

KEY = b"a key of sixteen"
TRANSACTION_ID = b"transaction!"
PEER = Address.from_text("2001:db8::7", 4000)

SEEDS = [
    read_vector("rfc5769_2_1_request"),
    read_vector("rfc5769_2_3_ipv6_response"),
    read_vector("rfc5769_2_4_long_term_request"),
    read_vector("rfc8489_b_1_request"),
    encode_message(
        Method.ALLOCATE,
        MessageClass.REQUEST,
        TRANSACTION_ID,
        [
            (Attribute.REQUESTED_TRANSPORT, encode_requested_transport(17)),
            (Attribute.LIFETIME, encode_uint32(600)),
            (Attribute.PASSWORD_ALGORITHMS, encode_password_algorithms([(2, b""), (1, b"")])),
            (Attribute.USERNAME, b"alice"),
        ],
        integrity_key=KEY,
        integrity_sha256_key=KEY,
        fingerprint=True,
    ),
    encode_message(
        Method.SEND,
        MessageClass.INDICATION,
        TRANSACTION_ID,
        [
            (Attribute.XOR_PEER_ADDRESS, encode_xor_address(PEER, TRANSACTION_ID)),
            (Attribute.DATA, b"payload"),
        ],
    ),
]

# Where a mutation strikes, and the byte that it writes.
strikes = st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), min_size=1, max_size=6)

bounded = settings(max_examples=2000, deadline=None)


def exercise(stun: Form, datagram: bytes) -> None:
    """Do to a datagram all that a server could. Only `StunError` is let pass."""
    try:
        message = stun.message.decode_message_untrusted(datagram)
    except StunError:
        return
    assert len(message.transaction_id) == 12
    assert 0 <= message.method <= 0xFFF
    assert 0 <= message.message_class <= 3
    assert sum(4 + len(value) for _, value in message.attributes) <= len(datagram) - 20
    stun.message.check_integrity(message, KEY)
    stun.message.check_integrity_sha256(message, KEY)
    assert all(kind < 0x8000 for kind in message.unknown_required(frozenset()))
    assert repr(message)
    for kind, value in message.attributes:
        assert message.first(kind) is not None
        exercise_value(stun, value)


def exercise_value(stun: Form, value: bytes) -> None:
    """Give a value to every decoder, whatever attribute it came in."""
    for name in dir(stun.attributes):
        if not name.startswith("decode_"):
            continue
        decode = getattr(stun.attributes, name)
        try:
            if name == "decode_text_untrusted":
                decode(value, QUOTED_MAXIMUM_BYTES)
            elif name == "decode_xor_address_untrusted":
                decode(value, TRANSACTION_ID)
            else:
                decode(value)
        except StunError:
            continue


def fit(body: bytes) -> bytes:
    """A header that is right for any body, so that the attributes are reached."""
    body = body[: len(body) & ~3]
    header = b"\x00\x03" + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42"
    return header + TRANSACTION_ID + body


@each_form
@bounded
@given(datagram=st.binary(max_size=120))
@example(datagram=b"\0\1\0\0\x21\x12\xa4\x42" + bytes(11))
def test_random_bytes(stun: Form, datagram: bytes) -> None:
    exercise(stun, datagram)


@each_form
@bounded
@given(body=st.binary(max_size=120))
def test_random_bytes_behind_a_sound_header(stun: Form, body: bytes) -> None:
    exercise(stun, fit(body))


@each_form
@bounded
@given(seed=st.sampled_from(SEEDS), strikes=strikes, cut=st.integers(0, 8), mend=st.booleans())
def test_mutated_messages(
    stun: Form, seed: bytes, strikes: list[tuple[int, int]], cut: int, mend: bool
) -> None:
    mutated = bytearray(seed)
    for position, byte in strikes:
        mutated[position % len(mutated)] = byte
    shortened = bytes(mutated[: len(mutated) - cut])
    exercise(stun, fit(shortened[20:]) if mend else shortened)


@each_form
@bounded
@given(value=st.binary(max_size=40))
def test_random_values(stun: Form, value: bytes) -> None:
    exercise_value(stun, value)


@each_form
@pytest.mark.parametrize("seed", SEEDS)
def test_every_shortened_message_is_refused(stun: Form, seed: bytes) -> None:
    for size in range(len(seed)):
        with pytest.raises(StunError):
            stun.message.decode_message_untrusted(seed[:size])


@each_form
@pytest.mark.parametrize("seed", SEEDS)
def test_every_byte_at_its_turning_points(stun: Form, seed: bytes) -> None:
    """Each byte of each sample, set to the values at which signs and lengths turn."""
    for position in range(len(seed)):
        for byte in (0x00, 0x01, 0x7F, 0x80, 0xFF):
            exercise(stun, seed[:position] + bytes([byte]) + seed[position + 1 :])
