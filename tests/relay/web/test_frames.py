"""The frame codec: RFC 6455's own examples, every split of the input, all that breaks a rule, and
the `websockets` library as the other end."""

from __future__ import annotations

import itertools
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Opcode
from websockets.frames import Frame as TheirFrame
from websockets.protocol import State
from websockets.uri import parse_uri

from relay.web.frames import (
    BAD_TEXT,
    NO_CODE,
    PROTOCOL_ERROR,
    TOO_BIG,
    UNACCEPTABLE,
    Close,
    FrameDecoder,
    FrameError,
    Ping,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)
from tests.support.websocket_frames import BINARY, CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, frame

MAXIMUM = 1000


def read(data: bytes, maximum: int = MAXIMUM) -> list[object]:
    return comparable(FrameDecoder(maximum).feed(data))


def comparable(events: list) -> list[object]:
    return [
        ("error", event.close_code) if isinstance(event, FrameError) else event for event in events
    ]


def error_of(data: bytes) -> int:
    """The close code that answers `data`, after which nothing more is read."""
    decoder = FrameDecoder(MAXIMUM)
    *before, error = decoder.feed(data)
    assert not before
    assert isinstance(error, FrameError)
    assert decoder.is_over
    assert not decoder.is_midway
    assert decoder.feed(frame(TEXT, b"more")) == []
    return error.close_code


def test_examples_of_the_rfc() -> None:
    """RFC 6455 section 5.7."""
    assert read(bytes.fromhex("818537fa213d7f9f4d5158")) == [b"Hello"]
    assert read(bytes.fromhex("898537fa213d7f9f4d5158")) == [Ping(b"Hello")]
    assert read(bytes.fromhex("8a8537fa213d7f9f4d5158")) == []
    assert text_frame(b"Hello") == bytes.fromhex("810548656c6c6f")
    assert ping_frame(b"Hello") == bytes.fromhex("890548656c6c6f")
    assert pong_frame(b"Hello") == bytes.fromhex("8a0548656c6c6f")
    assert text_frame(bytes(256))[:4] == bytes.fromhex("817e0100")
    assert text_frame(bytes(65_536))[:10] == bytes.fromhex("817f0000000000010000")
    # The RFC has these two as a server's, which does not mask them.
    assert read(frame(TEXT, b"Hel", final=False) + frame(CONTINUATION, b"lo")) == [b"Hello"]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 125, 126, 127, 65_535, 65_536, 70_001])
def test_sizes_at_their_turning_points(size: int) -> None:
    payload = random.Random(size).randbytes(size).hex().encode()[:size]
    assert read(frame(TEXT, payload), 100_000) == [payload]
    whole = text_frame(payload)
    assert whole.endswith(payload)
    assert len(whole) - size == (2 if size < 126 else 4 if size < 65_536 else 10)


BROKEN = {
    "a reserved bit": (frame(TEXT, b"x", reserved=4), PROTOCOL_ERROR),
    "another reserved bit": (frame(PING, b"x", reserved=1), PROTOCOL_ERROR),
    "a reserved opcode": (frame(3), PROTOCOL_ERROR),
    "the last reserved opcode of data": (frame(7), PROTOCOL_ERROR),
    "a reserved opcode of control": (frame(11), PROTOCOL_ERROR),
    "the last opcode": (frame(15), PROTOCOL_ERROR),
    "binary": (frame(BINARY, b"x"), UNACCEPTABLE),
    "not masked": (frame(TEXT, b"x", key=None), PROTOCOL_ERROR),
    "a length in two bytes that fits one": (
        frame(TEXT, b"x" * 125, length_bytes=2),
        PROTOCOL_ERROR,
    ),
    "a length in eight bytes that fits two": (
        frame(TEXT, b"x" * 200, length_bytes=8),
        PROTOCOL_ERROR,
    ),
    "a length with its first bit set": (b"\x81\xff" + b"\x80" + bytes(7) + KEY, PROTOCOL_ERROR),
    "a control frame that is too long": (frame(PING, bytes(126)), PROTOCOL_ERROR),
    "a control frame in fragments": (frame(PING, b"x", final=False), PROTOCOL_ERROR),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), PROTOCOL_ERROR),
    "a message in a message": (
        frame(TEXT, b"x", final=False) + frame(TEXT, b"x"),
        PROTOCOL_ERROR,
    ),
    "too large": (frame(TEXT, bytes(MAXIMUM + 1)), TOO_BIG),
    "announced as too large": (b"\x81\xff" + b"\x7f" + b"\xff" * 7 + KEY, TOO_BIG),
    "too large in fragments": (
        frame(TEXT, bytes(MAXIMUM), final=False) + frame(CONTINUATION, b"x"),
        TOO_BIG,
    ),
    "no UTF-8": (frame(TEXT, b"\xff"), BAD_TEXT),
    "half of a character": (frame(TEXT, b"text and \xd0"), BAD_TEXT),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), BAD_TEXT),
    "an overlong character": (frame(TEXT, b"\xc0\x80"), BAD_TEXT),
    "no UTF-8 in fragments": (
        frame(TEXT, b"\xd0", final=False) + frame(CONTINUATION, b"x"),
        BAD_TEXT,
    ),
    "half of a close code": (frame(CLOSE, b"\x03"), PROTOCOL_ERROR),
    "a reason that is not UTF-8": (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), BAD_TEXT),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_rule(name: str) -> None:
    data, code = BROKEN[name]
    assert error_of(data) == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535])
def test_close_codes_that_are_none(code: int) -> None:
    assert error_of(frame(CLOSE, struct.pack("!H", code))) == PROTOCOL_ERROR


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999])
def test_close_frames_are_read_and_written(code: int) -> None:
    sent = struct.pack("!H", code) + "до".encode()
    assert read(frame(CLOSE, sent) + frame(TEXT, b"after")) == [Close(code, "до")]
    assert close_frame(code, "до") == bytes([0x88, len(sent)]) + sent
    assert read(frame(CLOSE)) == [Close(NO_CODE, "")]
    assert close_frame(NO_CODE) == b"\x88\x00"


def test_a_frame_is_judged_as_soon_as_it_can_be() -> None:
    assert error_of(b"\x91") == PROTOCOL_ERROR
    assert error_of(b"\x81\x05") == PROTOCOL_ERROR
    assert error_of(b"\x81\xfe\xff\xff" + KEY) == TOO_BIG


def test_what_comes_before_an_error_counts() -> None:
    data = frame(TEXT, b"first") + frame(PING, b"p") + frame(BINARY) + frame(TEXT, b"last")
    assert read(data) == [b"first", Ping(b"p"), ("error", UNACCEPTABLE)]


def test_a_decoder_knows_whether_something_is_incomplete() -> None:
    decoder = FrameDecoder(MAXIMUM)
    assert not decoder.is_midway
    for byte in frame(TEXT, b"ab", final=False)[:-1]:
        assert decoder.feed(bytes([byte])) == []
        assert decoder.is_midway
    decoder.feed(frame(TEXT, b"ab", final=False)[-1:])
    assert decoder.is_midway
    assert decoder.feed(frame(CONTINUATION)) == [b"ab"]
    assert not decoder.is_midway


# ------------------------------------------------------------ properties

texts = st.text(max_size=300).map(str.encode)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[object]]:
    """Frames of a client that keeps the rules, and what they say."""
    data = b""
    said: list[object] = []

    def control() -> None:
        nonlocal data
        payload = draw(st.binary(max_size=125))
        opcode = draw(st.sampled_from([PING, PONG]))
        data += frame(opcode, payload, key=draw(keys))
        if opcode == PING:
            said.append(Ping(payload))

    keys = st.binary(min_size=4, max_size=4)
    for message in draw(st.lists(texts, max_size=6)):
        cuts = sorted(draw(st.lists(st.integers(0, len(message)), max_size=4)))
        edges = [0, *cuts, len(message)]
        for number, (begin, end) in enumerate(itertools.pairwise(edges)):
            data += frame(
                TEXT if number == 0 else CONTINUATION,
                message[begin:end],
                final=number == len(edges) - 2,
                key=draw(keys),
            )
            if number < len(edges) - 2 and draw(st.booleans()):
                control()
        said.append(message)
        if draw(st.booleans()):
            control()
    if draw(st.booleans()):
        reason = draw(st.text(max_size=30))
        code = draw(st.sampled_from([1000, 1001, 3000, 4999]))
        data += frame(CLOSE, struct.pack("!H", code) + reason.encode(), key=draw(keys))
        said.append(Close(code, reason))
    return data, said


@given(conversations(), st.data())
def test_any_split_says_the_same(conversation: tuple[bytes, list[object]], data: st.DataObject):
    sent, said = conversation
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=20)))
    edges = [0, *cuts, len(sent)]
    decoder = FrameDecoder(2000)
    heard = [
        event
        for begin, end in itertools.pairwise(edges)
        for event in decoder.feed(memoryview(sent)[begin:end])
    ]
    assert heard == said
    assert not decoder.is_midway


def test_every_split_of_one_conversation() -> None:
    sent = (
        frame(TEXT, "Привет".encode())
        + frame(TEXT, b"a" * 130, final=False)
        + frame(PING, b"now")
        + frame(CONTINUATION, b"", final=False)
        + frame(CONTINUATION, "ы".encode()[:1], final=False)
        + frame(CONTINUATION, "ы".encode()[1:])
        + frame(TEXT)
        + frame(CLOSE, struct.pack("!H", 1000))
    )
    said = ["Привет".encode(), Ping(b"now"), b"a" * 130 + "ы".encode(), b"", Close(1000, "")]
    for first in range(len(sent) + 1):
        for second in range(first, len(sent) + 1):
            decoder = FrameDecoder(MAXIMUM)
            heard = decoder.feed(sent[:first])
            heard += decoder.feed(sent[first:second])
            heard += decoder.feed(sent[second:])
            assert heard == said, (first, second)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_random_bytes_say_the_same_in_any_split(sent: bytes, cuts: list[int]) -> None:
    whole = read(sent)
    edges = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    decoder = FrameDecoder(MAXIMUM)
    parts = []
    for begin, end in itertools.pairwise(edges):
        parts += decoder.feed(sent[begin:end])
    assert comparable(parts) == whole


@given(
    conversations(), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1)
)
def test_mangled_conversations_end_in_one_typed_error_or_none(
    conversation: tuple[bytes, list[object]], changes: list[tuple[int, int]]
) -> None:
    sent = bytearray(conversation[0] + frame(TEXT, b"x"))
    for place, value in changes:
        sent[place % len(sent)] = value
    decoder = FrameDecoder(MAXIMUM)
    heard = [event for byte in sent for event in decoder.feed(bytes([byte]))]
    assert comparable(heard) == read(bytes(sent))
    for place, event in enumerate(heard):
        if isinstance(event, bytes):
            assert len(event) <= MAXIMUM
            event.decode()
        elif isinstance(event, FrameError | Close):
            assert place == len(heard) - 1


# ------------------------------------------------------------ beside the websockets library


def their_client() -> ClientProtocol:
    return ClientProtocol(parse_uri("ws://127.0.0.1/"), state=State.OPEN, max_size=None)


@given(st.lists(texts, max_size=5), st.binary(max_size=125))
def test_their_client_is_understood(messages: list[bytes], payload: bytes) -> None:
    client = their_client()
    for message in messages:
        client.send_text(message[: len(message) // 2].decode(errors="ignore").encode(), fin=False)
        client.send_ping(payload)
        client.send_continuation(b"", fin=False)
        client.send_continuation(message, fin=True)
        client.send_pong(payload)
    client.send_close(CloseCode.GOING_AWAY, "over")
    said: list[object] = []
    for message in messages:
        first = message[: len(message) // 2].decode(errors="ignore").encode()
        said += [Ping(payload), first + message]
    assert read(b"".join(client.data_to_send()), 10_000) == [*said, Close(1001, "over")]


@given(st.lists(st.text(max_size=70_000), max_size=3), st.binary(max_size=125))
def test_their_client_understands(messages: list[str], payload: bytes) -> None:
    client = their_client()
    for message in messages:
        client.receive_data(text_frame(message.encode()))
    client.receive_data(ping_frame(payload) + pong_frame(payload) + close_frame(1001, "over"))
    heard = client.events_received()
    assert all(isinstance(event, TheirFrame) for event in heard)
    opcodes = [event.opcode for event in heard]  # type: ignore[union-attr]
    payloads = [bytes(event.data) for event in heard]  # type: ignore[union-attr]
    assert opcodes == [Opcode.TEXT] * len(messages) + [Opcode.PING, Opcode.PONG, Opcode.CLOSE]
    assert payloads[:-1] == [*(message.encode() for message in messages), payload, payload]
    assert (client.close_rcvd.code, client.close_rcvd.reason) == (1001, "over")  # type: ignore[union-attr]
