"""The alphabets of short messages (3GPP TS 23.038): GSM-7 with its extension table, and UCS-2.

GSM-7 text is handled as *septets*: bytes objects of one septet (0-127) a byte. `pack` and
`unpack` turn them into the octets that are sent, eight septets in seven octets, and back.

UCS-2 is written and read as UTF-16, as every phone has done since emoji; a surrogate without its
other half becomes U+FFFD.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from core.sms_parts import BASIC, ESCAPE, EXTENSION

CARRIAGE_RETURN: Final = 0x0D

_SEPTETS: Final = {
    character: bytes([code]) for code, character in enumerate(BASIC) if code != ESCAPE
} | {character: bytes([ESCAPE, code]) for code, character in EXTENSION.items()}


class Alphabet(Enum):
    """What the octets of a message's text mean (TP-DCS, section 4)."""

    GSM7 = 0
    OCTETS = 1
    UCS2 = 2


def encode_gsm7(text: str) -> bytes | None:
    """The septets of `text`; None where it has a character that GSM-7 lacks."""
    try:
        return b"".join([_SEPTETS[character] for character in text])
    except KeyError:
        return None


def decode_gsm7_untrusted(septets: bytes) -> str:
    """The text of septets, whatever they are: section 6.2.1.1 has the basic table's character
    read for one that the extension table lacks, and a space for what follows no escape."""
    characters: list[str] = []
    escaped = False
    for septet in septets:
        if escaped:
            escaped = False
            characters.append(
                " " if septet == ESCAPE else EXTENSION.get(septet, BASIC[septet & 0x7F])
            )
        elif septet == ESCAPE:
            escaped = True
        else:
            characters.append(BASIC[septet & 0x7F])
    if escaped:
        characters.append(" ")
    return "".join(characters)


def encode_ucs2(text: str) -> bytes:
    """`text` in UTF-16, big-endian, without a byte order mark."""
    # A surrogate alone can be in a str, and is no character.
    whole = text.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")
    return whole.encode("utf-16-be")


def decode_ucs2_untrusted(octets: bytes) -> str:
    """The text of UTF-16 octets, big-endian; what is no character becomes U+FFFD."""
    return octets.decode("utf-16-be", "replace")


def decode_octets_untrusted(octets: bytes) -> str:
    """The text of 8-bit data, whose meaning senders have agreed on elsewhere: UTF-8 where it is
    that, else ISO 8859-1."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def decode_text_untrusted(alphabet: Alphabet, content: bytes) -> str:
    """The text of `content`: septets for GSM-7, octets for the others."""
    match alphabet:
        case Alphabet.GSM7:
            return decode_gsm7_untrusted(content)
        case Alphabet.UCS2:
            return decode_ucs2_untrusted(content)
        case Alphabet.OCTETS:
            return decode_octets_untrusted(content)


def pack(septets: bytes, fill_bits: int = 0) -> bytes:
    """Septets as octets (section 6.1.2.1), behind `fill_bits` (0-6) bits of zero."""
    assert 0 <= fill_bits < 7
    value = 0
    for septet in reversed(septets):
        assert septet < 128
        value = value << 7 | septet
    return (value << fill_bits).to_bytes((len(septets) * 7 + fill_bits + 7) // 8, "little")


def unpack(octets: bytes, count: int, fill_bits: int = 0) -> bytes:
    """The first `count` septets of octets, which have room for them behind `fill_bits`."""
    assert 0 <= fill_bits < 7
    assert count * 7 + fill_bits <= len(octets) * 8
    value = int.from_bytes(octets, "little") >> fill_bits
    return bytes([value >> 7 * place & 0x7F for place in range(count)])
