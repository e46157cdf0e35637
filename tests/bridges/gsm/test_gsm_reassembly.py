"""Long messages from their parts: any order, twice, never, and too many at once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bridges.gsm.alphabet import Alphabet
from bridges.gsm.pdu import Part, split
from bridges.gsm.reassembly import (
    GROUPS_MAXIMUM,
    GROUPS_OF_A_SENDER_MAXIMUM,
    PARTS_LIFETIME_S,
    Piece,
    Reassembly,
    Whole,
)


def piece(
    number: int,
    total: int,
    text: str,
    *,
    reference: int = 1,
    sender: str = "+79991234567",
    sim: str = "one",
    at_s: float = 0.0,
) -> Piece:
    part = Part(reference, total, number)
    key = f"{sim}/{sender}/{part}/{text}"
    return Piece(key, sim, sender, part, Alphabet.UCS2, text.encode("utf-16-be"), at_s)


@given(st.permutations(range(1, 6)), st.lists(st.integers(0, 4), max_size=5))
def test_parts_come_in_any_order_and_twice(order: list[int], twice: list[int]) -> None:
    reassembly = Reassembly()
    pieces = [piece(number, 5, f"<{number}>") for number in order]
    given: list[Whole] = []
    for place, one in enumerate(pieces[:-1]):
        given += reassembly.add(one)
        for again in twice:
            if again <= place:
                given += reassembly.add(pieces[again])
    assert given == []
    (whole,) = reassembly.add(pieces[-1])
    assert whole.text == "<1><2><3><4><5>"
    assert whole.keys == tuple(one.key for one in sorted(pieces, key=lambda one: one.part.number))
    assert whole.is_complete
    assert len(reassembly) == 0
    assert reassembly.next_deadline_s is None


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab€б👍"), min_size=161, max_size=800), st.randoms())
def test_what_was_split_is_joined(text: str, random) -> None:
    contents, alphabet = split(text)
    pieces = [
        Piece(str(number), "one", "+7999", Part(9, len(contents), number), alphabet, content, 0)
        for number, content in enumerate(contents, 1)
    ]
    random.shuffle(pieces)
    reassembly = Reassembly()
    given = [whole for one in pieces for whole in reassembly.add(one)]
    assert [whole.text for whole in given] == [text]


def test_senders_sims_references_and_totals_are_kept_apart() -> None:
    reassembly = Reassembly()
    reassembly.add(piece(1, 2, "a"))
    for other in (
        piece(2, 2, "b", sender="+79990000000"),
        piece(2, 2, "b", sim="two"),
        piece(2, 2, "b", reference=2),
        piece(2, 3, "b"),
    ):
        assert reassembly.add(other) == []
    (whole,) = reassembly.add(piece(2, 2, "c"))
    assert whole.text == "ac"
    assert len(reassembly) == 4


def test_a_reference_that_comes_round_begins_another_message() -> None:
    reassembly = Reassembly()
    reassembly.add(piece(1, 2, "old"))
    (old,) = reassembly.add(piece(1, 2, "new", at_s=9))
    assert (old.text, old.is_complete) == ("old [...] ", False)
    (new,) = reassembly.add(piece(2, 2, "er", at_s=10))
    assert (new.text, new.is_complete, new.received_s) == ("newer", True, 9)


def test_what_stays_incomplete_is_given_out_with_a_mark() -> None:
    reassembly = Reassembly()
    reassembly.add(piece(3, 4, "three", at_s=100, reference=7))
    reassembly.add(piece(2, 4, "two", at_s=500, reference=7))
    reassembly.add(piece(1, 2, "SEND +79990000000 1", at_s=50))
    assert reassembly.next_deadline_s == 50 + PARTS_LIFETIME_S
    assert reassembly.expire(49.9 + PARTS_LIFETIME_S) == []
    first, second = reassembly.expire(100 + PARTS_LIFETIME_S)
    assert first.text == "SEND +79990000000 1 [...] "
    assert (second.text, len(second.keys)) == (" [...] twothree [...] ", 2)
    assert not first.is_complete
    assert len(reassembly) == 0
    # What comes after all is a message of its own.
    reassembly.add(piece(1, 4, "one", at_s=PARTS_LIFETIME_S, reference=7))
    (late,) = reassembly.expire(2 * PARTS_LIFETIME_S)
    assert late.text == "one [...] "


def test_one_sender_takes_nobody_elses_room() -> None:
    reassembly = Reassembly()
    reassembly.add(piece(1, 2, "mine", sender="+7111", at_s=0))
    given: list[Whole] = []
    for reference in range(GROUPS_OF_A_SENDER_MAXIMUM + 3):
        given += reassembly.add(
            piece(1, 2, str(reference), reference=reference, at_s=reference + 1)
        )
    assert [whole.text for whole in given] == ["0 [...] ", "1 [...] ", "2 [...] "]
    assert len(reassembly) == GROUPS_OF_A_SENDER_MAXIMUM + 1


def test_all_together_are_bounded_and_nothing_is_lost() -> None:
    reassembly = Reassembly()
    given: list[Whole] = []
    for number in range(GROUPS_MAXIMUM + 5):
        given += reassembly.add(piece(1, 2, "x", sender=f"+7{number}", at_s=number))
    assert [whole.sender for whole in given] == [f"+7{number}" for number in range(5)]
    assert len(reassembly) == GROUPS_MAXIMUM
