"""The characters of short messages, and how many messages a text takes.

A text of GSM-7's characters alone (3GPP TS 23.038, section 6.2.1) has 160 places in one message,
any other one 70; a longer one goes in parts, which begin with a header and have 153 and 67 (TS
23.040, section 9.2.3.24). Each part is paid for.
"""

from __future__ import annotations

from typing import Final

ESCAPE: Final = 0x1B
BASIC: Final = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
"""Section 6.2.1: the character of each septet; 0x1B is the escape, and no character."""
EXTENSION: Final = {
    0x0A: "\f",
    0x14: "^",
    0x28: "{",
    0x29: "}",
    0x2F: "\\",
    0x3C: "[",
    0x3D: "~",
    0x3E: "]",
    0x40: "|",
    0x65: "€",
}
"""Section 6.2.1.1: the character of each septet behind an escape, which takes a place as well."""

GSM7_PLACES: Final = (160, 153)
UCS2_PLACES: Final = (70, 67)
"""In a message that is alone, and in each part of a longer text."""

assert len(BASIC) == 128
_WIDTHS: Final = {
    **{character: 1 for code, character in enumerate(BASIC) if code != ESCAPE},
    **dict.fromkeys(EXTENSION.values(), 2),
}


def sms_parts(text: str) -> int:
    """How many messages a text takes, 1 for an empty one; a character is never cut in two."""
    if all(letter in _WIDTHS for letter in text):
        widths = [_WIDTHS[letter] for letter in text]
        alone, joined = GSM7_PLACES
    else:
        widths = [1 + (ord(letter) > 0xFFFF) for letter in text]
        alone, joined = UCS2_PLACES
    if sum(widths) <= alone:
        return 1
    parts, used = 1, 0
    for width in widths:
        if used + width > joined:
            parts, used = parts + 1, 0
        used += width
    return parts
