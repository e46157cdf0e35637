"""The PDUs of SMS as a network sees them (3GPP TS 23.040, 9.2): what a phone submits is taken apart
and checked to the last bit; what a phone gets is written.

Written for the emulator alone: it shares nothing with the codec that it is to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tests.support import modem_alphabet as alphabet

# TS 27.005, 3.2.5
INVALID_PDU_PARAMETER = 304
USER_DATA_OCTETS = 140
ADDRESS_DIGITS = 20
SERVICE_CENTRE_DIGITS = 20

GSM_7BIT = "GSM 7-bit"
EIGHT_BIT = "8-bit"
UCS_2 = "UCS-2"
_DCS = {GSM_7BIT: 0x00, EIGHT_BIT: 0x04, UCS_2: 0x08}
_MASKABLE = (GSM_7BIT, EIGHT_BIT, UCS_2)

# 9.2.3.24.1 and 9.2.3.24.8: octets of the element's data, and of its reference.
_CONCATENATION = {0x00: (3, 1), 0x08: (4, 2)}
_VALIDITY_OCTETS = (0, 7, 1, 7)


class PduRefused(Exception):
    """What a modem answers `+CMS ERROR` to, and why."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.cms_error = INVALID_PDU_PARAMETER


@dataclass(frozen=True)
class Concatenation:
    """Which part of which message this is; `number` counts from 1."""

    reference: int
    parts: int
    number: int


@dataclass(frozen=True)
class Submit:
    """An SMS-SUBMIT (9.2.2.2). `text` is hex where the coding is 8-bit; `validity_s` is None where
    it names a moment, or nothing."""

    reference: int
    recipient: str
    coding: str
    text: str
    report_requested: bool
    validity_s: int | None
    concatenation: Concatenation | None
    tpdu: bytes


class _Octets:
    """Octets that are taken from the front, and refused when there are too few."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    def take(self, count: int, what: str) -> bytes:
        taken = self._octets[self._at : self._at + count]
        if len(taken) < count:
            raise PduRefused(f"it ends in the middle of {what}")
        self._at += count
        return taken

    def octet(self, what: str) -> int:
        return self.take(1, what)[0]

    @property
    def left(self) -> int:
        return len(self._octets) - self._at

    def rest(self) -> bytes:
        taken = self._octets[self._at :]
        self._at = len(self._octets)
        return taken


def read_pdu(hexadecimal: bytes, tpdu_octets: int) -> tuple[str, bytes]:
    """What follows a prompt: the service centre's number ("" where none is given), and the TPDU.

    `tpdu_octets` is what the command said (TS 27.005, 4.3: the service centre is not counted).
    """
    try:
        text = hexadecimal.decode("ascii")
        if text != "".join(text.split()):
            raise ValueError("blanks")
        octets = _Octets(bytes.fromhex(text))
    except ValueError:
        raise PduRefused("it is not written in hex") from None
    address = octets.take(octets.octet("the service centre"), "the service centre")
    centre = ""
    if address:
        digits = 2 * len(address) - 2
        if digits and address[-1] >> 4 == 0xF:
            digits -= 1
        if not 0 < digits <= SERVICE_CENTRE_DIGITS:
            raise PduRefused("the service centre has no number")
        centre = _read_number(address[0], address[1:], digits)
    tpdu = octets.rest()
    if len(tpdu) != tpdu_octets:
        raise PduRefused(f"{len(tpdu)} octets came where {tpdu_octets} were announced")
    return centre, tpdu


def read_submit(tpdu: bytes) -> Submit:
    """An SMS-SUBMIT, whole and without anything behind it; PduRefused for all else."""
    octets = _Octets(tpdu)
    first = octets.octet("the first octet")
    if first & 0b11 != 0b01:
        raise PduRefused("it is no SMS-SUBMIT")
    reference = octets.octet("TP-MR")
    digits = octets.octet("TP-DA")
    kind = octets.octet("TP-DA")
    if not 0 < digits <= ADDRESS_DIGITS:
        raise PduRefused(f"TP-DA of {digits} digits")
    if kind >> 4 & 0b111 == 0b101:
        raise PduRefused("TP-DA is alphanumeric")
    recipient = _read_number(kind, octets.take((digits + 1) // 2, "TP-DA"), digits)
    protocol = octets.octet("TP-PID")
    if protocol >> 6 == 0b10:
        raise PduRefused(f"TP-PID {protocol:#04x} is reserved")
    coding = _coding(octets.octet("TP-DCS"))
    validity = octets.take(_VALIDITY_OCTETS[first >> 3 & 0b11], "TP-VP")
    if first >> 3 & 0b11 == 0b11:
        _check_timestamp(validity)
    length = octets.octet("TP-UDL")
    text, concatenation = _read_user_data(coding, length, octets.rest(), bool(first & 0x40))
    return Submit(
        reference=reference,
        recipient=recipient,
        coding=coding,
        text=text,
        report_requested=bool(first & 0x20),
        validity_s=_validity_s(validity[0]) if len(validity) == 1 else None,
        concatenation=concatenation,
        tpdu=tpdu,
    )


def _read_number(kind: int, semi_octets: bytes, digits: int) -> str:
    """9.1.2.5: the digits, with a + where the number is an international one."""
    if not kind & 0x80:
        raise PduRefused(f"type of address {kind:#04x}")
    try:
        number = alphabet.from_semi_octets(semi_octets, digits)
    except ValueError as error:
        raise PduRefused(f"an address: {error}") from None
    if kind >> 4 & 0b111 == 0b001:
        if not number.isdigit():
            raise PduRefused("an international number has digits alone")
        return "+" + number
    return number


def _coding(scheme: int) -> str:
    """TS 23.038, 4; PduRefused for what is compressed or reserved."""
    group = scheme >> 4
    if group < 0b1000:
        if scheme & 0x20:
            raise PduRefused("compressed texts are not carried")
        if scheme >> 2 & 0b11 == 0b11:
            raise PduRefused(f"TP-DCS {scheme:#04x} is reserved")
        return _MASKABLE[scheme >> 2 & 0b11]
    if group in (0b1100, 0b1101):
        return GSM_7BIT
    if group == 0b1110:
        return UCS_2
    if group == 0b1111 and not scheme & 0x08:
        return EIGHT_BIT if scheme & 0x04 else GSM_7BIT
    raise PduRefused(f"TP-DCS {scheme:#04x} is reserved")


def _read_user_data(
    coding: str, length: int, data: bytes, has_header: bool
) -> tuple[str, Concatenation | None]:
    """9.2.3.16 and 9.2.3.24: the text, and which part of a longer one it is."""
    octets = (length * 7 + 7) // 8 if coding == GSM_7BIT else length
    if octets > USER_DATA_OCTETS:
        raise PduRefused(f"TP-UDL {length} is more than a message holds")
    if len(data) != octets:
        raise PduRefused(f"TP-UDL {length} says {octets} octets, and {len(data)} are there")
    header_octets, concatenation = 0, None
    if has_header:
        header_octets, concatenation = _read_header(data)
    try:
        if coding == GSM_7BIT:
            # The text begins at the next septet's border.
            header_septets = (header_octets * 8 + 6) // 7
            if header_septets > length:
                raise PduRefused("TP-UDL has no room for the header")
            septets = alphabet.unpack(
                data[header_octets:],
                length - header_septets,
                header_septets * 7 - header_octets * 8,
            )
            return alphabet.from_septets(septets), concatenation
        if coding == UCS_2:
            return alphabet.from_ucs2(data[header_octets:]), concatenation
    except ValueError as error:
        raise PduRefused(f"TP-UD: {error}") from None
    return data[header_octets:].hex(), concatenation


def _read_header(data: bytes) -> tuple[int, Concatenation | None]:
    """TP-UDH: its octets, TP-UDHL among them, and the concatenation where there is one."""
    octets = _Octets(data)
    header = _Octets(octets.take(octets.octet("TP-UDHL"), "TP-UDH"))
    concatenation = None
    while header.left:
        kind, length = header.take(2, "TP-UDH")
        content = header.take(length, "an information element")
        if kind not in _CONCATENATION:
            continue
        expected, reference_octets = _CONCATENATION[kind]
        if length != expected or concatenation is not None:
            raise PduRefused("the concatenation element is malformed, or there are two")
        parts, number = content[reference_octets:]
        if not 1 <= number <= parts:
            raise PduRefused(f"part {number} of {parts}")
        reference = int.from_bytes(content[:reference_octets], "big")
        concatenation = Concatenation(reference, parts, number)
    return data[0] + 1, concatenation


def _validity_s(value: int) -> int:
    """9.2.3.12.1: a relative TP-VP."""
    if value <= 143:
        return (value + 1) * 5 * 60
    if value <= 167:
        return (24 + value - 143) * 30 * 60
    days = value - 166 if value <= 196 else (value - 192) * 7
    return days * 24 * 60 * 60


def _check_timestamp(octets: bytes) -> None:
    """9.2.3.11: decimal semi-octets all through, but for the zone's sign."""
    halves = [
        half for octet in (*octets[:6], octets[6] & 0xF7) for half in (octet & 15, octet >> 4)
    ]
    if any(half > 9 for half in halves):
        raise PduRefused("TP-VP is no time")


def write_timestamp(moment: datetime) -> bytes:
    """9.2.3.11: the time in its own zone, and the zone in quarters of an hour."""
    offset = moment.utcoffset()
    assert offset is not None
    quarters = offset // timedelta(minutes=15)
    zone = int(f"{abs(quarters):02d}"[::-1], 16) | (0x08 if quarters < 0 else 0)
    return alphabet.to_semi_octets(moment.strftime("%y%m%d%H%M%S")) + bytes([zone])


def write_address(address: str) -> bytes:
    """9.1.2.5: a number, international with a +, or a name of at most 11 characters."""
    digits = address.removeprefix("+")
    if digits and all(digit in "0123456789*#" for digit in digits):
        kind = 0x91 if address.startswith("+") else 0x81
        return bytes([len(digits), kind]) + alphabet.to_semi_octets(digits)
    septets = alphabet.to_septets(address)
    assert septets is not None
    assert len(septets) <= 11
    packed = alphabet.pack(septets)
    return bytes([(len(septets) * 7 + 3) // 4, 0xD0]) + packed


def write_service_centre(number: str) -> bytes:
    """What stands before a TPDU on the line (TS 24.011, 8.2.5): its length is in octets."""
    if not number:
        return b"\0"
    address = write_address(number)
    return bytes([len(address) - 1]) + address[1:]


def write_delivers(
    sender: str,
    text: str,
    moment: datetime,
    *,
    reference: int = 0,
    wide_reference: bool = False,
) -> list[bytes]:
    """SMS-DELIVERs (9.2.2.1) that carry the text: one, or as many parts as it needs."""
    septets = alphabet.to_septets(text)
    coding = UCS_2 if septets is None else GSM_7BIT
    if septets is None:
        fits = len(alphabet.to_ucs2(text)) <= USER_DATA_OCTETS
    else:
        fits = len(septets) <= USER_DATA_OCTETS * 8 // 7
    header_octets = 0 if fits else 7 if wide_reference else 6
    pieces = _split(text, coding, header_octets)
    return [
        _write_deliver(
            sender,
            moment,
            coding,
            piece,
            b"" if fits else _write_header(reference, wide_reference, len(pieces), number),
            is_last=number == len(pieces),
        )
        for number, piece in enumerate(pieces, 1)
    ]


def _split(text: str, coding: str, header_octets: int) -> list[str]:
    """Pieces that fit beside such a header, no character cut in two."""
    if coding == GSM_7BIT:
        room = USER_DATA_OCTETS * 8 // 7 - (header_octets * 8 + 6) // 7
    else:
        room = (USER_DATA_OCTETS - header_octets) // 2
    pieces, taken = [""], 0
    for character in text:
        if coding == GSM_7BIT:
            size = len(alphabet.to_septets(character) or [])
        else:
            size = len(alphabet.to_ucs2(character)) // 2
        if taken + size > room:
            pieces.append("")
            taken = 0
        pieces[-1] += character
        taken += size
    return pieces


def _write_header(reference: int, wide: bool, parts: int, number: int) -> bytes:
    if wide:
        return bytes([6, 0x08, 4]) + reference.to_bytes(2, "big") + bytes([parts, number])
    return bytes([5, 0x00, 3, reference, parts, number])


def _write_deliver(
    sender: str, moment: datetime, coding: str, text: str, header: bytes, *, is_last: bool
) -> bytes:
    if coding == GSM_7BIT:
        septets = alphabet.to_septets(text)
        assert septets is not None
        header_septets = (len(header) * 8 + 6) // 7
        data = header + alphabet.pack(septets, header_septets * 7 - len(header) * 8)
        length = header_septets + len(septets)
    else:
        data = header + alphabet.to_ucs2(text)
        length = len(data)
    assert len(data) <= USER_DATA_OCTETS
    # TP-MMS is set where no more messages wait.
    first = (0x04 if is_last else 0) | (0x40 if header else 0)
    return (
        bytes([first])
        + write_address(sender)
        + bytes([0, _DCS[coding]])
        + write_timestamp(moment)
        + bytes([length])
        + data
    )


def write_status_report(
    reference: int, recipient: str, submitted: datetime, done: datetime, status: int
) -> bytes:
    """An SMS-STATUS-REPORT (9.2.2.3); `status` is TP-ST (9.2.3.15)."""
    return (
        bytes([0x06, reference])
        + write_address(recipient)
        + write_timestamp(submitted)
        + write_timestamp(done)
        + bytes([status])
    )
