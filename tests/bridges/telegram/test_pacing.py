"""core.telegram.org/bots/faq, "My bot is hitting limits", in virtual time, for any chats."""

from __future__ import annotations

import heapq
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bridges.telegram.outgoing import TEXT_MAXIMUM, split
from bridges.telegram.pacing import (
    CHAT_INTERVAL_NS,
    CHATS_MAXIMUM,
    GROUP_MESSAGES,
    GROUP_PERIOD_NS,
    MESSAGES,
    PERIOD_NS,
    Pacing,
)
from core.units import NS_PER_S

CHATS = st.sampled_from([1, 2, 3, -1, -2, *range(100, 160)])


def run(wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """When messages go out, by chat; `wanted` are times and chats."""
    pacing = Pacing()
    waiting = [(at_ns, place, chat, False) for place, (at_ns, chat) in enumerate(sorted(wanted))]
    heapq.heapify(waiting)
    sent = []
    while waiting:
        now_ns, place, chat, is_due = heapq.heappop(waiting)
        if is_due:
            sent.append((pacing.take(now_ns), chat))
        else:
            heapq.heappush(waiting, (pacing.take_in_chat(chat, now_ns), place, chat, True))
    return sorted(sent)


@given(st.lists(st.tuples(st.integers(0, 3 * NS_PER_S), CHATS), max_size=150))
def test_no_limit_is_passed(wanted: list[tuple[int, int]]) -> None:
    sent = run(wanted)
    assert len(sent) == len(wanted)
    times = [at_ns for at_ns, _ in sent]
    for first, last in zip(times, times[MESSAGES:], strict=False):
        assert last - first >= PERIOD_NS
    for chat in {chat for _, chat in sent}:
        mine = [at_ns for at_ns, one in sent if one == chat]
        # Those of a chat go out in their order, each at its own place.
        for first, last in zip(mine, mine[GROUP_MESSAGES:], strict=False):
            assert chat > 0 or last - first >= GROUP_PERIOD_NS - CHAT_INTERVAL_NS


def test_a_chat_is_written_to_once_a_second() -> None:
    sent = run([(0, 5)] * 10)
    times = [at_ns for at_ns, _ in sent]
    assert all(last - first >= CHAT_INTERVAL_NS for first, last in pairwise(times))


def test_what_telegram_wants_to_wait_for_holds_all() -> None:
    pacing = Pacing()
    pacing.hold(7 * NS_PER_S)
    assert pacing.take(pacing.take_in_chat(1, 0)) == 7 * NS_PER_S


def test_chats_of_long_ago_are_forgotten() -> None:
    pacing = Pacing()
    for chat in range(CHATS_MAXIMUM):
        pacing.take_in_chat(chat, 0)
    pacing.take_in_chat(CHATS_MAXIMUM, 2 * GROUP_PERIOD_NS)
    assert len(pacing._chats) == 1


PIECES = st.sampled_from(["a", "ж", "😀", " ", "\n", "word ", "line\n"])


@given(st.lists(st.tuples(PIECES, st.integers(1, 3000)), max_size=8))
def test_long_texts_are_cut_and_nothing_is_lost(pieces: list[tuple[str, int]]) -> None:
    text = "".join(piece * count for piece, count in pieces)
    parts = split(text)
    assert all(len(part.encode("utf-16-le")) // 2 <= TEXT_MAXIMUM for part in parts)
    # Telegram takes no message of blanks.
    assert all(part.strip() for part in parts)
    if text.strip():
        assert "".join("".join(parts).split()) == "".join(text.split())
