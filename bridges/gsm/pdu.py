"""Short messages as a modem in PDU mode takes and gives them (3GPP TS 23.040 section 9.2).

    encode_submit    text -> the SMS-SUBMITs that carry it, cut so that no character is split
    decode_untrusted a line of +CMGR, +CMGL, +CMT or +CDS -> SMS-DELIVER or SMS-STATUS-REPORT

A modem's line is hex: the address of the service centre, which `AT+CMGS` and the length in
`+CMGR` don't count, then the TPDU. National language tables (section 9.2.3.24.15) are not read:
such text comes in the default alphabet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, NamedTuple

from bridges.gsm.alphabet import (
    Alphabet,
    decode_gsm7_untrusted,
    decode_text_untrusted,
    encode_gsm7,
    encode_ucs2,
    pack,
    unpack,
)
from core.errors import PeerError
from core.sms_parts import ESCAPE
from core.units import DAY_S, HOUR_S, MINUTE_S

USER_DATA_BYTES: Final = 140
"""Of one TPDU (section 9.2.3.24)."""
PARTS_MAXIMUM: Final = 255
"""Their number has one octet."""
NUMBER_DIGITS_MAXIMUM: Final = 20
"""Section 9.1.2.5: an address has ten octets of digits at most."""
VALIDITY_MINIMUM_S: Final = 5 * MINUTE_S
VALIDITY_MAXIMUM_S: Final = 63 * 7 * DAY_S

_DELIVER, _SUBMIT, _STATUS_REPORT = 0, 1, 2
_RELATIVE_VALIDITY: Final = 0x10
_STATUS_REPORT_REQUEST: Final = 0x20
_USER_DATA_HEADER: Final = 0x40
_INTERNATIONAL: Final = 0x91
_UNKNOWN_NUMBER: Final = 0x81
_ALPHANUMERIC: Final = 5
_DIGITS: Final = "0123456789*#abc"
_CONCATENATION_8, _CONCATENATION_16 = 0x00, 0x08
_PORTS_8, _PORTS_16 = 0x04, 0x05
_CONCATENATION_HEADER_BYTES: Final = 6
_MISSING: Final = " [...] "
"""Stands where a part hasn't come: of no language, and in no command."""


class PduError(PeerError):
    """A line that is no short message, or a number that none can be sent to."""


class Part(NamedTuple):
    """Which part of a long message this is (sections 9.2.3.24.1 and 9.2.3.24.8): `number` of
    1 to `total`; the sender's `reference` is the same in all of them."""

    reference: int
    total: int
    number: int


class Deliver(NamedTuple):
    """SMS-DELIVER (section 9.2.2.1): a message that has come.

    Attributes:
        sender: ``+`` and digits, digits alone where it is no international number, or a name.
        alphabet, content: the text: septets of GSM-7, octets of the others.
        sent_s: the service centre's time in Unix seconds; None where it wrote none.
        part: None for a message of one part.
        to_port: whether it is data for an application (WAP push, MMS) instead of text.
        tpdu: all of it, without the service centre's address.
    """

    sender: str
    alphabet: Alphabet
    content: bytes
    sent_s: int | None
    part: Part | None
    to_port: bool
    tpdu: bytes

    @property
    def text(self) -> str:
        """The text of this part alone."""
        return decode_text_untrusted(self.alphabet, self.content)


class Fate(Enum):
    """What TP-Status says about a message (section 9.2.3.15)."""

    DELIVERED = "delivered"
    UNCONFIRMED = "unconfirmed"
    TRYING = "trying"
    UNDELIVERED = "undelivered"


class StatusReport(NamedTuple):
    """SMS-STATUS-REPORT (section 9.2.2.3): what became of a message that was sent.

    Attributes:
        reference: TP-MR, which the modem told when it took the message.
        recipient: as `Deliver.sender`.
        sent_s: when the service centre took the message, as `Deliver.sent_s`.
        status: TP-ST.
        tpdu: all of it, without the service centre's address.
    """

    reference: int
    recipient: str
    sent_s: int | None
    status: int
    tpdu: bytes

    @property
    def fate(self) -> Fate:
        """What the status means."""
        if self.status in (0, 2):
            return Fate.DELIVERED
        if self.status < 0x20:
            return Fate.UNCONFIRMED
        if self.status < 0x40:
            return Fate.TRYING
        return Fate.UNDELIVERED


class Submit(NamedTuple):
    """One SMS-SUBMIT, as `AT+CMGS` takes it: `tpdu_bytes` is its argument, `line` what follows
    the prompt."""

    tpdu_bytes: int
    line: str


# ------------------------------------------------------------ sending


def encode_submit(
    recipient: str,
    text: str,
    *,
    reference: int,
    report: bool,
    validity_s: float,
) -> list[Submit]:
    """The messages that carry `text` to `recipient`, by the service centre of the SIM.

    Args:
        recipient: digits, with ``+`` before an international number; ``*`` and ``#`` are allowed.
        reference: 0-255; joins the parts, where there are more than one.
        report: whether the service centre is to tell what becomes of each.
        validity_s: for how long it tries; rounded up to what can be said, within
            `VALIDITY_MINIMUM_S` and `VALIDITY_MAXIMUM_S`.

    Raises:
        PduError: `recipient` is no number; `text` needs more than `PARTS_MAXIMUM` parts.
    """
    assert 0 <= reference <= 0xFF
    address = _encode_address(recipient)
    pieces, alphabet = split(text)
    if len(pieces) > PARTS_MAXIMUM:
        raise PduError(f"a text of {len(pieces)} parts; {PARTS_MAXIMUM} can be sent")
    first = _SUBMIT | _RELATIVE_VALIDITY | (_STATUS_REPORT_REQUEST if report else 0)
    coding = 0x08 if alphabet is Alphabet.UCS2 else 0x00
    validity = _encode_validity(validity_s)
    messages = []
    for number, piece in enumerate(pieces, 1):
        header = b""
        if len(pieces) > 1:
            header = bytes([5, _CONCATENATION_8, 3, reference, len(pieces), number])
        user_data = _encode_user_data(alphabet, piece, header)
        tpdu = (
            bytes([first | (_USER_DATA_HEADER if header else 0), 0])
            + address
            + bytes([0, coding, validity])
            + user_data
        )
        messages.append(Submit(len(tpdu), f"00{tpdu.hex().upper()}"))
    return messages


def split(text: str) -> tuple[list[bytes], Alphabet]:
    """Cut `text` into what one message holds each, septets of GSM-7 where it has all of the
    characters, else octets of UCS-2: never within an escape and what it escapes, nor within a
    surrogate pair."""
    septets = encode_gsm7(text)
    room = USER_DATA_BYTES - _CONCATENATION_HEADER_BYTES
    if septets is not None:
        if len(septets) <= USER_DATA_BYTES * 8 // 7:
            return [septets], Alphabet.GSM7
        return _cut(septets, room * 8 // 7, _ends_in_escape), Alphabet.GSM7
    octets = encode_ucs2(text)
    if len(octets) <= USER_DATA_BYTES:
        return [octets], Alphabet.UCS2
    return _cut(octets, room, _ends_in_high_surrogate), Alphabet.UCS2


def _cut(content: bytes, room: int, torn: Callable[[bytes], int]) -> list[bytes]:
    pieces = []
    start = 0
    while start < len(content):
        end = start + room
        if end < len(content):
            end -= torn(content[start:end])
        pieces.append(content[start:end])
        start = end
    return pieces


def _ends_in_escape(septets: bytes) -> int:
    # What is escaped is never an escape, so that the last one stands for itself.
    return 1 if septets[-1] == ESCAPE else 0


def _ends_in_high_surrogate(octets: bytes) -> int:
    return 2 if 0xD8 <= octets[-2] <= 0xDB else 0


def _encode_user_data(alphabet: Alphabet, piece: bytes, header: bytes) -> bytes:
    """TP-UDL and TP-UD (section 9.2.3.24); GSM-7 begins at a septet's boundary behind a header."""
    if alphabet is Alphabet.GSM7:
        fill_bits = -len(header) * 8 % 7
        header_septets = (len(header) * 8 + fill_bits) // 7
        length = header_septets + len(piece)
        body = header + pack(piece, fill_bits)
    else:
        body = header + piece
        length = len(body)
    assert len(body) <= USER_DATA_BYTES
    return bytes([length]) + body


def _encode_address(number: str) -> bytes:
    """TP-DA (section 9.1.2.5)."""
    digits = number.removeprefix("+")
    if not 0 < len(digits) <= NUMBER_DIGITS_MAXIMUM or not set(digits) <= set("0123456789*#"):
        raise PduError("a number has 1 to 20 digits, and + before an international one")
    kind = _INTERNATIONAL if number.startswith("+") else _UNKNOWN_NUMBER
    codes = [_DIGITS.index(digit) for digit in digits] + [0xF] * (len(digits) % 2)
    pairs = zip(codes[::2], codes[1::2], strict=True)
    return bytes([len(digits), kind, *(high << 4 | low for low, high in pairs)])


def _encode_validity(validity_s: float) -> int:
    """TP-VP, relative (section 9.2.3.12.1)."""
    if validity_s <= 12 * HOUR_S:
        return max(0, -int(-validity_s // (5 * MINUTE_S)) - 1)
    if validity_s <= DAY_S:
        return 143 + -int(-(validity_s - 12 * HOUR_S) // (30 * MINUTE_S))
    if validity_s <= 30 * DAY_S:
        return 166 + -int(-validity_s // DAY_S)
    return min(255, max(197, 192 + -int(-validity_s // (7 * DAY_S))))


# ------------------------------------------------------------ receiving


class _Reader:
    """Octets from the left; what lacks is a `PduError`."""

    __slots__ = ("_octets", "_position")

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._position = 0

    def octet(self) -> int:
        return self.octets(1)[0]

    def octets(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._octets):
            raise PduError("a PDU that is cut short")
        taken = self._octets[self._position : end]
        self._position = end
        return taken

    def rest(self) -> bytes:
        return self.octets(len(self._octets) - self._position)


def decode_untrusted(line: str, tpdu_bytes: int | None = None) -> Deliver | StatusReport:
    """What a modem's line holds.

    Args:
        line, tpdu_bytes: as in `tpdu_untrusted`.

    Raises:
        PduError: it is cut short, longer than it says, no hex, or another kind of message.
    """
    tpdu = tpdu_untrusted(line, tpdu_bytes)
    reader = _Reader(tpdu)
    first = reader.octet()
    kind = first & 0x03
    if kind == _DELIVER:
        return _decode_deliver(reader, first, tpdu)
    if kind == _STATUS_REPORT:
        return _decode_status_report(reader, tpdu)
    raise PduError("a PDU that is neither a message nor a report")


def tpdu_untrusted(line: str, tpdu_bytes: int | None) -> bytes:
    """The TPDU in a modem's line, of whatever kind.

    Args:
        line: hex, beginning with the service centre's address.
        tpdu_bytes: how long the modem said that the TPDU is, where it did.

    Raises:
        PduError: it has another length, or is no hex.
    """
    try:
        octets = bytes.fromhex(line)
    except ValueError:
        raise PduError("a PDU that is no hex") from None
    reader = _Reader(octets)
    reader.octets(reader.octet())
    tpdu = reader.rest()
    if tpdu_bytes is not None and len(tpdu) != tpdu_bytes:
        raise PduError(f"a PDU of {len(tpdu)} octets where the modem says {tpdu_bytes}")
    return tpdu


def _decode_deliver(reader: _Reader, first: int, tpdu: bytes) -> Deliver:
    sender = _decode_address(reader)
    reader.octet()  # TP-PID: how a message came to the service centre tells nothing here.
    alphabet = _decode_coding(reader.octet())
    sent_s = _decode_timestamp(reader.octets(7))
    length = reader.octet()
    user_data = reader.rest()
    header = b""
    if first & _USER_DATA_HEADER:
        header_bytes = _Reader(user_data).octet() + 1
        header = _Reader(user_data).octets(header_bytes)
    if alphabet is Alphabet.GSM7:
        expected_bytes = (length * 7 + 7) // 8
        fill_bits = -len(header) * 8 % 7
        septets = length - (len(header) * 8 + fill_bits) // 7
    else:
        expected_bytes = length
        fill_bits = 0
        septets = 0
    if len(user_data) != expected_bytes or expected_bytes > USER_DATA_BYTES or septets < 0:
        raise PduError(f"a PDU with {len(user_data)} octets of text where it says {expected_bytes}")
    content = user_data[len(header) :]
    if alphabet is Alphabet.GSM7:
        content = unpack(content, septets, fill_bits)
    part, to_port = _decode_header(header[1:])
    return Deliver(sender, alphabet, content, sent_s, part, to_port, tpdu)


def _decode_status_report(reader: _Reader, tpdu: bytes) -> StatusReport:
    reference = reader.octet()
    recipient = _decode_address(reader)
    sent_s = _decode_timestamp(reader.octets(7))
    reader.octets(7)  # When the service centre was done with it.
    # What may follow TP-ST says nothing about the message's fate.
    return StatusReport(reference, recipient, sent_s, reader.octet(), tpdu)


def _decode_address(reader: _Reader) -> str:
    """TP-OA and TP-RA (section 9.1.2.5)."""
    semi_octets = reader.octet()
    if semi_octets > NUMBER_DIGITS_MAXIMUM:
        raise PduError("a PDU with an address of more than ten octets")
    kind = reader.octet()
    octets = reader.octets((semi_octets + 1) // 2)
    if kind >> 4 & 0x07 == _ALPHANUMERIC:
        return decode_gsm7_untrusted(unpack(octets, semi_octets * 4 // 7))
    codes = [code for octet in octets for code in (octet & 0x0F, octet >> 4)][:semi_octets]
    if 0xF in codes:
        raise PduError("a PDU with a digit that is none")
    digits = "".join(_DIGITS[code] for code in codes)
    return f"+{digits}" if kind >> 4 & 0x07 == 1 else digits


def _decode_coding(coding: int) -> Alphabet:
    """TP-DCS (TS 23.038 section 4)."""
    group = coding >> 4
    if group < 0x8:
        if coding & 0x20:
            raise PduError("a PDU with compressed text")
        return {1: Alphabet.OCTETS, 2: Alphabet.UCS2}.get(coding >> 2 & 0x03, Alphabet.GSM7)
    if group == 0xE:
        return Alphabet.UCS2
    if group == 0xF and coding & 0x04:
        return Alphabet.OCTETS
    return Alphabet.GSM7


def _decode_timestamp(octets: bytes) -> int | None:
    """TP-SCTS (section 9.2.3.11) in Unix seconds; its zone counts quarters of an hour. Service
    centres write zeros and worse into it, which is no reason to lose a message."""
    year, month, day, hour, minute, second = ((o & 0x0F) * 10 + (o >> 4) for o in octets[:6])
    quarters = (octets[6] & 0x07) * 10 + (octets[6] >> 4)
    offset = timedelta(minutes=-15 * quarters if octets[6] & 0x08 else 15 * quarters)
    try:
        local = datetime(2000 + year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return int((local - offset).timestamp())


def _decode_header(elements: bytes) -> tuple[Part | None, bool]:
    """The information elements of a user data header (section 9.2.3.24): the part, and whether
    the message is for a port. Others are passed over."""
    part: Part | None = None
    to_port = False
    reader = _Reader(elements)
    position = 0
    while position < len(elements):
        kind, length = reader.octet(), reader.octet()
        value = reader.octets(length)
        position += 2 + length
        if (kind, length) in ((_CONCATENATION_8, 3), (_CONCATENATION_16, 4)):
            found = Part(int.from_bytes(value[:-2], "big"), value[-2], value[-1])
            # The same section has one that contradicts itself ignored.
            if 0 < found.number <= found.total:
                part = found if found.total > 1 else None
        elif (kind, length) in ((_PORTS_8, 2), (_PORTS_16, 4)):
            to_port = True
    return part, to_port


def join(parts: Sequence[tuple[Alphabet, bytes] | None]) -> str:
    """The text of all parts in their order, None for those that lack. Parts of one alphabet are
    joined before they are read, since some phones cut within a character.
    """
    runs: list[tuple[Alphabet, bytes] | None] = []
    for part in parts:
        last = runs[-1] if runs else None
        if part is None:
            if not runs or last is not None:
                runs.append(None)
        elif last is not None and last[0] is part[0]:
            runs[-1] = (part[0], last[1] + part[1])
        else:
            runs.append(part)
    return "".join(_MISSING if run is None else decode_text_untrusted(*run) for run in runs)
