"""How many short messages a text takes, by hand and by what is sent."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from bridges.gsm.alphabet import Alphabet
from bridges.gsm.pdu import split
from core.sms_parts import BASIC, EXTENSION, sms_parts

GSM7 = st.sampled_from([*BASIC.replace("\x1b", ""), *EXTENSION.values()])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("a" * 152 + "€" + "a" * 151, 2),
        ("a" * 152 + "€" + "a" * 152, 3),
        ("a" * 152 + "€" * 77, 3),
        ("я" * 70, 1),
        ("я" * 71, 2),
        ("я" * 134, 2),
        ("😀" * 35, 1),
        ("😀" * 36, 2),
        ("😀" * 66, 2),
        ("😀" * 67, 3),
    ],
)
def test_parts_are_counted_as_carriers_do(text: str, parts: int) -> None:
    assert sms_parts(text) == parts


@given(st.one_of(st.text(GSM7, max_size=500), st.text(st.characters(), max_size=250)))
def test_as_many_are_counted_as_are_sent(text: str) -> None:
    """3GPP TS 23.040 section 9.2.3.24, by the codec of the modems."""
    pieces, alphabet = split(text)
    assert sms_parts(text) == len(pieces)
    assert (alphabet is Alphabet.GSM7) == all(
        letter in BASIC.replace("\x1b", "") or letter in EXTENSION.values() for letter in text
    )
