"""ChannelData (RFC 8656 sections 12.4 to 12.6) and the first byte (RFC 7983, RFC 9443)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import StunError
from tests.support.stun_forms import Form, each_form

channels = st.integers(0x4000, 0x7FFF)


@each_form
@given(channel=channels, payload=st.binary(max_size=2000), padded=st.booleans())
def test_what_is_encoded_is_decoded(stun: Form, channel: int, payload: bytes, padded: bool) -> None:
    message = stun.channel_data.encode_channel_data(channel, payload, padded=padded)
    assert stun.channel_data.decode_channel_data_untrusted(message) == (channel, payload)
    padding = message[4 + len(payload) :]
    assert padding == bytes(-len(payload) % 4 if padded else 0)


@each_form
def test_section_12_4_figure(stun: Form) -> None:
    encode = stun.channel_data.encode_channel_data
    assert encode(0x4001, b"abcde") == b"\x40\x01\x00\x05abcde"
    assert encode(0x4001, b"abcde", padded=True) == b"\x40\x01\x00\x05abcde\0\0\0"


@each_form
@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x40\x00\x00",
        b"\x40\x00\x00\x01",
        b"\x40\x00\xff\xff" + bytes(0xFFFE),
        b"\x3f\xff\x00\x00",
        b"\x80\x00\x00\x00",
    ],
)
def test_attack_4_broken_channel_data_raises_stun_error(stun: Form, datagram: bytes) -> None:
    with pytest.raises(StunError):
        stun.channel_data.decode_channel_data_untrusted(datagram)


@each_form
@given(datagram=st.binary(max_size=64) | st.binary(max_size=64).map(lambda b: b"\x40\x00\x00" + b))
def test_any_bytes_are_channel_data_or_a_stun_error(stun: Form, datagram: bytes) -> None:
    try:
        channel, payload = stun.channel_data.decode_channel_data_untrusted(datagram)
    except StunError:
        return
    encoded = stun.channel_data.encode_channel_data(channel, payload)
    assert datagram.startswith(encoded)


@each_form
def test_the_longest_payload(stun: Form) -> None:
    assert len(stun.channel_data.encode_channel_data(0x4000, bytes(0xFFFF))) == 4 + 0xFFFF
    with pytest.raises(StunError):
        stun.channel_data.encode_channel_data(0x4000, bytes(0x10000))


@each_form
@pytest.mark.parametrize("channel", [0x3FFF, 0x8000])
def test_a_wrong_channel_is_a_broken_promise(stun: Form, channel: int) -> None:
    with pytest.raises(AssertionError):
        stun.channel_data.encode_channel_data(channel, b"")


@each_form
def test_rfc7983_first_bytes(stun: Form) -> None:
    ranges = {
        "STUN": range(4),
        "ZRTP": range(16, 20),
        "DTLS": range(20, 64),
        "TURN_CHANNEL": range(64, 128),
        "RTP": range(128, 192),
        "QUIC": range(192, 256),
    }
    expected = ["UNKNOWN"] * 256
    for name, values in ranges.items():
        for value in values:
            expected[value] = name
    assert [stun.classify.classify(value).name for value in range(256)] == expected
