"""What the emulated network writes in: GSM 7-bit (3GPP TS 23.038, 6.1.2.1), UCS-2, semi-octets.

Written for the emulator alone and shared with nothing of the product's, so that a mistake in one is
not undone by the same mistake in the other.
"""

from __future__ import annotations

# 6.2.1, a column of the table after the other. 0x1B leads to the extension table below.
DEFAULT = (
    "@£$¥èéùìòÇ\nØø\rÅå"
    "Δ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ"
    " !\"#¤%&'()*+,-./"
    "0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNO"
    "PQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmno"
    "pqrstuvwxyzäöñüà"
)
ESCAPE = 0x1B
# 6.2.1.1
EXTENSION = {
    0x0A: "\f", 0x14: "^", 0x28: "{", 0x29: "}", 0x2F: "\\", 0x3C: "[", 0x3D: "~", 0x3E: "]",
    0x40: "|", 0x65: "€",
}  # fmt: skip
assert len(DEFAULT) == 128

_SEPTET = {character: septet for septet, character in enumerate(DEFAULT) if septet != ESCAPE}
_EXTENSION_SEPTET = {character: septet for septet, character in EXTENSION.items()}
# TS 24.008, table 10.5.118: the digits of an address.
_SEMI_OCTETS = "0123456789*#abc"


def to_septets(text: str) -> list[int] | None:
    """The text's septets, escapes included; None where the alphabet lacks a character."""
    septets: list[int] = []
    for character in text:
        if character in _SEPTET:
            septets.append(_SEPTET[character])
        elif character in _EXTENSION_SEPTET:
            septets += [ESCAPE, _EXTENSION_SEPTET[character]]
        else:
            return None
    return septets


def from_septets(septets: list[int]) -> str:
    """The text of septets; ValueError for an escape that leads to nothing."""
    text = []
    coming = iter(septets)
    for septet in coming:
        if septet != ESCAPE:
            text.append(DEFAULT[septet])
            continue
        extended = next(coming, None)
        if extended is None:
            raise ValueError("a text ends in the middle of an escape")
        if extended not in EXTENSION:
            raise ValueError(f"no character stands at {extended:#04x} of the extension table")
        text.append(EXTENSION[extended])
    return "".join(text)


def pack(septets: list[int], fill_bits: int = 0) -> bytes:
    """Septets as octets, the first bit of a septet lowest, after that many zero bits."""
    number = 0
    for place, septet in enumerate(septets):
        number |= septet << (fill_bits + 7 * place)
    return number.to_bytes((fill_bits + 7 * len(septets) + 7) // 8, "little")


def unpack(octets: bytes, count: int, fill_bits: int = 0) -> list[int]:
    """The first `count` septets; ValueError where the octets are not exactly enough for them.

    Fill bits and those that are left over at the end have to be zero, but for a seventh septet of
    spare bits: TS 23.038, 6.1.2.3.1 lets USSD put <CR> there.
    """
    if len(octets) != (fill_bits + 7 * count + 7) // 8:
        raise ValueError(f"{len(octets)} octets can't be {count} septets")
    number = int.from_bytes(octets, "little")
    if number & ((1 << fill_bits) - 1):
        raise ValueError("fill bits are not zero")
    number >>= fill_bits
    spare = number >> (7 * count)
    if spare not in (0, ord("\r")):
        raise ValueError("spare bits at the end are not zero")
    return [number >> (7 * place) & 0x7F for place in range(count)]


def to_semi_octets(digits: str) -> bytes:
    """Digits two an octet, the first in the low half, 0xF at the end where they are odd."""
    halves = [_SEMI_OCTETS.index(digit) for digit in digits]
    if len(halves) % 2:
        halves.append(0xF)
    return bytes(low | high << 4 for low, high in zip(halves[::2], halves[1::2], strict=True))


def from_semi_octets(octets: bytes, count: int) -> str:
    """The `count` digits; ValueError for a filler in their midst, or none at the end."""
    halves = [half for octet in octets for half in (octet & 0xF, octet >> 4)]
    if len(halves) != count + count % 2:
        raise ValueError(f"{len(octets)} octets can't be {count} digits")
    if 0xF in halves[:count] or (count % 2 and halves[-1] != 0xF):
        raise ValueError("a filler stands where a digit should, or a digit in its place")
    return "".join(_SEMI_OCTETS[half] for half in halves[:count])


def to_ucs2(text: str) -> bytes:
    """The text in UTF-16, big-endian: characters outside of the basic plane as surrogate pairs."""
    return text.encode("utf-16-be", "surrogatepass")


def from_ucs2(octets: bytes) -> str:
    """The text; half of a surrogate pair stays what it is, since a message may be cut there.

    ValueError for an odd number of octets.
    """
    if len(octets) % 2:
        raise ValueError("half a character at the end of UCS-2")
    return octets.decode("utf-16-be", "surrogatepass")
