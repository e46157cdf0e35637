"""What the STUN codec costs: decode, verify and encode of what a node sees all day.

Run as ``python -m pytest bench/bench_codec.py``; each measurement is made of both forms of the
codec where it is compiled, see `tests.support.stun_forms`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.stun.address import Address
from core.stun.constants import Attribute, MessageClass, Method
from tests.support.stun_forms import Form, each_form

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

TRANSACTION_ID = b"transaction!"
CLIENT = Address.from_text("192.0.2.1", 50000)
RELAYED = Address.from_text("203.0.113.7", 49152)
VOICE = bytes(172)
KNOWN = frozenset(int(attribute) for attribute in Attribute)


def allocate_request(stun: Form, key: bytes) -> bytes:
    """The second Allocate of a client: with credentials, as browsers write it."""
    values = stun.attributes
    raw = stun.message.encode_message(
        Method.ALLOCATE,
        MessageClass.REQUEST,
        TRANSACTION_ID,
        [
            (Attribute.REQUESTED_TRANSPORT, values.encode_requested_transport(17)),
            (Attribute.LIFETIME, values.encode_uint32(600)),
            (Attribute.USERNAME, b"1700000000:alice"),
            (Attribute.REALM, b"montana"),
            (Attribute.NONCE, b"obMatJos2AAAC" + bytes(32)),
        ],
        integrity_key=key,
        fingerprint=True,
    )
    assert isinstance(raw, bytes)
    return raw


@each_form
def test_binding(stun: Form, benchmark: BenchmarkFixture) -> None:
    """A Binding request and its answer."""
    request = stun.message.encode_message(Method.BINDING, MessageClass.REQUEST, TRANSACTION_ID, [])

    def answer() -> bytes:
        message = stun.message.decode_message_untrusted(request)
        mapped = stun.attributes.encode_xor_address(CLIENT, message.transaction_id)
        return stun.message.encode_message(
            Method.BINDING,
            MessageClass.SUCCESS,
            message.transaction_id,
            [(Attribute.XOR_MAPPED_ADDRESS, mapped)],
        )

    assert len(benchmark(answer)) == 32


@each_form
def test_allocate(stun: Form, benchmark: BenchmarkFixture) -> None:
    """An authenticated Allocate: parse, verify, read its attributes, answer with integrity."""
    key = stun.credentials.long_term_key("1700000000:alice", "montana", "password")
    request = allocate_request(stun, key)
    values = stun.attributes

    def answer() -> bytes:
        message = stun.message.decode_message_untrusted(request)
        assert not message.unknown_required(KNOWN)
        for wanted in (Attribute.USERNAME, Attribute.REALM, Attribute.NONCE):
            assert message.first(wanted) is not None
        assert stun.message.check_integrity(message, key)
        values.decode_requested_transport_untrusted(message.first(Attribute.REQUESTED_TRANSPORT))
        lifetime_s = values.decode_uint32_untrusted(message.first(Attribute.LIFETIME))
        transaction_id = message.transaction_id
        return stun.message.encode_message(
            Method.ALLOCATE,
            MessageClass.SUCCESS,
            transaction_id,
            [
                (Attribute.XOR_RELAYED_ADDRESS, values.encode_xor_address(RELAYED, transaction_id)),
                (Attribute.LIFETIME, values.encode_uint32(lifetime_s)),
                (Attribute.XOR_MAPPED_ADDRESS, values.encode_xor_address(CLIENT, transaction_id)),
            ],
            integrity_key=key,
            fingerprint=True,
        )

    assert stun.message.decode_message_untrusted(benchmark(answer)).message_class == 2


@each_form
def test_send_indication(stun: Form, benchmark: BenchmarkFixture) -> None:
    """A Send indication, read as far as its peer and its data."""
    datagram = stun.message.encode_message(
        Method.SEND,
        MessageClass.INDICATION,
        TRANSACTION_ID,
        [
            (
                Attribute.XOR_PEER_ADDRESS,
                stun.attributes.encode_xor_address(RELAYED, TRANSACTION_ID),
            ),
            (Attribute.DATA, VOICE),
        ],
    )

    def read() -> tuple[Address, bytes]:
        message = stun.message.decode_message_untrusted(datagram)
        peer = stun.attributes.decode_xor_address_untrusted(
            message.first(Attribute.XOR_PEER_ADDRESS), message.transaction_id
        )
        return peer, message.first(Attribute.DATA)

    assert benchmark(read) == (RELAYED, VOICE)


@each_form
def test_data_indication(stun: Form, benchmark: BenchmarkFixture) -> None:
    """A Data indication, written."""

    def write() -> bytes:
        return stun.message.encode_message(
            Method.DATA,
            MessageClass.INDICATION,
            TRANSACTION_ID,
            [
                (
                    Attribute.XOR_PEER_ADDRESS,
                    stun.attributes.encode_xor_address(RELAYED, TRANSACTION_ID),
                ),
                (Attribute.DATA, VOICE),
            ],
        )

    assert len(benchmark(write)) == 20 + 12 + 4 + len(VOICE)


@each_form
def test_channel_data(stun: Form, benchmark: BenchmarkFixture) -> None:
    """ChannelData, there and back."""
    codec = stun.channel_data

    def relay() -> bytes:
        channel, payload = codec.decode_channel_data_untrusted(datagram)
        return codec.encode_channel_data(channel, payload)

    datagram = codec.encode_channel_data(0x4001, VOICE)
    assert benchmark(relay) == datagram
