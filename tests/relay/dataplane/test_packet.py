"""The packet path's own reading and writing of headers, held against the codec."""

from __future__ import annotations

import ipaddress
import os

from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.errors import StunError
from core.stun.address import Address
from core.stun.attributes import decode_xor_address_untrusted, encode_xor_address
from core.stun.channel_data import decode_channel_data_untrusted, encode_channel_data
from core.stun.classify import PacketKind, classify
from core.stun.constants import Attribute, MessageClass, Method
from core.stun.message import decode_message_untrusted, encode_message
from relay.dataplane import probe

MANY = settings(max_examples=1_000, deadline=None)
KNOWN = frozenset({Attribute.XOR_PEER_ADDRESS, Attribute.DATA, Attribute.DONT_FRAGMENT})
addresses = st.builds(
    Address,
    st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)),
    st.integers(0, 0xFFFF),
)
# Attributes that a Send may hold beside its own, optional ones among them.
others = st.lists(
    st.tuples(
        st.sampled_from([0x8022, 0x8028, 0x9999, 0x0012, 0x0013, 0x001A, 0x0006, 0x7001]),
        st.one_of(st.just(b""), st.binary(max_size=24)),
    ),
    max_size=4,
)


def sends() -> st.SearchStrategy[bytes]:
    """Send indications with odd attributes here and there."""

    def build(
        peer: Address, data: bytes, before: list[tuple[int, bytes]], fingerprint: bool
    ) -> bytes:
        transaction_id = os.urandom(12)
        found = [entry for entry in before if entry[0] != Attribute.FINGERPRINT]
        found.insert(
            len(found) // 2,
            (Attribute.XOR_PEER_ADDRESS, encode_xor_address(peer, transaction_id)),
        )
        found.append((Attribute.DATA, data))
        return encode_message(
            Method.SEND, MessageClass.INDICATION, transaction_id, found, fingerprint=fingerprint
        )

    return st.builds(build, addresses, st.binary(max_size=64), others, st.booleans())


def mangled(whole: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The same with some bytes changed, or with its end cut off."""

    def change(datagram: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
        result = bytearray(datagram)
        for place, value in changes:
            result[place % len(result)] = value
        return bytes(result[: len(result) - cut % len(result)])

    return st.builds(
        change,
        whole,
        st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=3),
        st.one_of(st.just(0), st.integers(0, 40)),
    )


def is_stun(datagram: bytes) -> bool:
    try:
        decode_message_untrusted(datagram)
    except StunError:
        return False
    return True


@MANY
@given(st.one_of(st.binary(max_size=80), sends(), mangled(sends())))
@example(b"")
@example(b"\x40\x00\x00\x00")
@example(b"\x7f\xff\x00\x01\x00")
@example(b"\x80" + bytes(40))
def test_classes_agree_with_the_codec(datagram: bytes) -> None:
    found = probe.classify(datagram)
    try:
        channel, _ = decode_channel_data_untrusted(datagram)
    except StunError:
        channel = 0
    assert (found == "channel_data") == bool(channel)
    # RFC 7983 leaves STUN the first bytes 0 to 3: every method that there is.
    if is_stun(datagram) and datagram[0] < 4:
        message = decode_message_untrusted(datagram)
        is_send = (message.method, message.message_class) == (Method.SEND, MessageClass.INDICATION)
        assert found == ("send" if is_send else "control")
    if found in ("send", "control"):
        assert classify(datagram[0]) == PacketKind.STUN
    if datagram and classify(datagram[0]) not in (PacketKind.STUN, PacketKind.TURN_CHANNEL):
        assert found == "malformed"


@MANY
@given(st.one_of(sends(), mangled(sends())))
def test_what_is_read_of_a_send_is_what_the_codec_reads(datagram: bytes) -> None:
    if probe.classify(datagram) != "send":
        return
    read = probe.read_send(datagram)
    if read is None:
        return
    # What the short way takes, the long way takes too, and reads alike.
    message = decode_message_untrusted(datagram)
    peer = message.first(Attribute.XOR_PEER_ADDRESS)
    assert peer is not None
    assert not message.unknown_required(KNOWN)
    address = decode_xor_address_untrusted(peer, message.transaction_id)
    dont_fragment = message.first(Attribute.DONT_FRAGMENT) is not None
    assert read == (address.ip, address.port, message.first(Attribute.DATA), dont_fragment)


@MANY
@given(sends())
def test_a_plain_send_is_not_left_to_the_control_plane(datagram: bytes) -> None:
    message = decode_message_untrusted(datagram)
    # DONT-FRAGMENT has no value (RFC 8656 section 18.8).
    plain = not message.unknown_required(KNOWN) and not any(message.all(Attribute.DONT_FRAGMENT))
    first = message.first(Attribute.XOR_PEER_ADDRESS)
    assert first is not None
    try:
        decode_xor_address_untrusted(first, message.transaction_id)
    except StunError:
        plain = False
    assert (probe.read_send(datagram) is not None) == plain


@MANY
@given(sends().filter(lambda datagram: datagram[-8:-4] == b"\x80\x28\x00\x04"), st.integers(0, 31))
def test_a_fingerprint_that_does_not_fit_is_found(datagram: bytes, bit: int) -> None:
    damaged = bytearray(datagram)
    damaged[-4 + bit // 8] ^= 1 << bit % 8
    assert not is_stun(bytes(damaged))
    assert probe.read_send(bytes(damaged)) is None


@MANY
@given(addresses, st.binary(max_size=70), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_data_indication_is_what_the_codec_reads(
    peer: Address, payload: bytes, random_a: int, random_b: int
) -> None:
    datagram = probe.write_data(peer.ip, peer.port, payload, random_a, random_b)
    message = decode_message_untrusted(datagram)
    assert (message.method, message.message_class) == (Method.DATA, MessageClass.INDICATION)
    value = message.first(Attribute.XOR_PEER_ADDRESS)
    assert value is not None
    assert decode_xor_address_untrusted(value, message.transaction_id) == peer
    assert message.first(Attribute.DATA) == payload
    assert datagram.endswith(payload + bytes(-len(payload) % 4))


@given(addresses)
@example(Address(b"\xfe\x80" + bytes(14), 1))
@example(Address(b"\xfe\xbf" + bytes(14), 1))
@example(Address(b"\xfe\xc0" + bytes(14), 1))
@example(Address(b"\xfe\x80\0\0", 1))
def test_what_counts_as_link_local(client: Address) -> None:
    expected = len(client.ip) == 16 and ipaddress.IPv6Address(client.ip).is_link_local
    assert probe.counts_as_link_local(client.ip) == expected


def stun_of(size: int) -> bytes:
    """A whole message of STUN that has so many bytes."""
    attribute = (Attribute.DATA, bytes(size - 24))
    return encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [attribute])


@MANY
@given(
    st.one_of(st.binary(max_size=60), sends(), mangled(sends())),
    st.one_of(st.just(b""), st.binary(max_size=60)),
)
@example(stun_of(1280), b"")
@example(stun_of(1284), b"")
@example(stun_of(24), b"\0\0\0\0")
@example(b"\0\1\0\2\x21\x12\xa4\x42" + bytes(14), b"")
def test_what_counts_as_stun(payload: bytes, behind: bytes) -> None:
    payload += behind
    header = len(payload) >= 20 and payload[0] < 4 and payload[4:8] == b"\x21\x12\xa4\x42"
    whole = len(payload) % 4 == 0 and int.from_bytes(payload[2:4], "big") + 20 == len(payload)
    assert probe.counts_as_stun(payload) == (header and whole and len(payload) <= 1280)
    if is_stun(payload) and len(payload) <= 1280:
        assert probe.counts_as_stun(payload) or payload[0] >= 4


@given(st.integers(0x4000, 0x7FFF), st.binary(max_size=40), st.binary(max_size=3))
def test_channel_data_may_be_padded(channel: int, payload: bytes, padding: bytes) -> None:
    assert probe.classify(encode_channel_data(channel, payload) + padding) == "channel_data"
