"""Cutting the socket's byte stream into messages."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.api.framing import REPLY_BYTES_MAX, FrameReader, encode_frame
from core.errors import ApiError


@given(
    payloads=st.lists(st.binary(min_size=1, max_size=200), max_size=8),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
def test_however_the_stream_is_cut_the_same_payloads_come_out(
    payloads: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(map(encode_frame, payloads))
    reader = FrameReader(1000)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    received: list[bytes] = []
    for begin, end in itertools.pairwise(edges):
        received += reader.feed_untrusted(stream[begin:end])
    assert received == payloads
    assert reader.pending_bytes == 0


@pytest.mark.parametrize("length", [0, 1001, 2**31, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_its_bytes_come(length: int) -> None:
    with pytest.raises(ApiError):
        FrameReader(1000).feed_untrusted(length.to_bytes(4, "big"))


@given(chunks=st.lists(st.binary(max_size=300), max_size=20))
def test_random_bytes_raise_one_error_and_are_not_hoarded(chunks: list[bytes]) -> None:
    reader = FrameReader(500)
    for chunk in chunks:
        try:
            reader.feed_untrusted(chunk)
        except ApiError:
            return
        assert reader.pending_bytes < 4 + 500


def test_a_reader_holds_no_more_than_a_reply() -> None:
    with pytest.raises(AssertionError):
        FrameReader(REPLY_BYTES_MAX + 1)
