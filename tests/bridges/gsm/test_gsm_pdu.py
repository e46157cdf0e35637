"""The PDU codec: vectors, properties, and other people's codecs beside it (TS 23.040, 23.038)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import gsmmodem.pdu
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from messaging.sms import SmsDeliver
from messaging.utils import timedelta_to_relative_validity
from smspdudecoder.easy import read_incoming_sms, read_outgoing_sms

from bridges.gsm.alphabet import (
    Alphabet,
    decode_gsm7_untrusted,
    decode_octets_untrusted,
    decode_ucs2_untrusted,
    encode_gsm7,
    encode_ucs2,
    pack,
    unpack,
)
from bridges.gsm.pdu import (
    NUMBER_DIGITS_MAXIMUM,
    USER_DATA_BYTES,
    VALIDITY_MAXIMUM_S,
    VALIDITY_MINIMUM_S,
    Deliver,
    Fate,
    Part,
    PduError,
    StatusReport,
    Submit,
    decode_untrusted,
    encode_submit,
    join,
    split,
)
from core.sms_parts import ESCAPE
from core.units import DAY_S, HOUR_S, MINUTE_S

GSM7 = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "ÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà\f^{}\\[~]|€"
)
GSM7_OF_GSMMODEM = GSM7.replace("§", "").replace("\f", "")
EMOJI = "👍🏽"
gsm7_texts = st.text(st.sampled_from(GSM7), max_size=700)
any_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
torn_texts = st.text(st.sampled_from("a€{б" + EMOJI), min_size=60, max_size=500)
numbers = st.from_regex(r"\+?[0-9]{1,20}", fullmatch=True)
parts = st.none() | st.integers(2, 255).flatmap(
    lambda total: st.builds(Part, st.integers(0, 0xFFFF), st.just(total), st.integers(1, total))
)
bounded = settings(max_examples=1000, deadline=None)


def submits(text: str, recipient: str = "+79991234567", **changes: object) -> list[Submit]:
    options: dict = {"reference": 7, "report": True, "validity_s": DAY_S} | changes
    return encode_submit(recipient, text, **options)


def deliver_line(
    sender: str,
    alphabet: Alphabet,
    content: bytes,
    part: Part | None = None,
    *,
    scts: str = "62111271222321",
    elements: bytes = b"",
    smsc: str = "0791972200000000",
) -> str:
    """An SMS-DELIVER as a service centre writes it: hex, the service centre's address first.

    `scts` is in swapped digits; `elements` come before that of the part.
    """
    digits = sender.removeprefix("+")
    if sender.isalpha():
        septets = encode_gsm7(sender)
        assert septets is not None
        packed = pack(septets)
        address = bytes([(len(septets) * 7 + 3) // 4, 0xD0]) + packed
    else:
        padded = digits + "F" * (len(digits) % 2)
        swapped = "".join(padded[i + 1] + padded[i] for i in range(0, len(padded), 2))
        kind = 0x91 if sender.startswith("+") else 0x81
        address = bytes([len(digits), kind]) + bytes.fromhex(swapped)
    if part is not None:
        if part.reference < 256:
            elements += bytes([0, 3, *part])
        else:
            elements += bytes([8, 4, *part.reference.to_bytes(2, "big"), part.total, part.number])
    header = bytes([len(elements)]) + elements if elements else b""
    coding = {Alphabet.GSM7: 0, Alphabet.OCTETS: 4, Alphabet.UCS2: 8}[alphabet]
    if alphabet is Alphabet.GSM7:
        fill = -len(header) * 8 % 7
        length = (len(header) * 8 + fill) // 7 + len(content)
        body = header + pack(content, fill)
    else:
        body = header + content
        length = len(body)
    first = 0x44 if header else 0x04
    tpdu = bytes([first]) + address + bytes([0, coding]) + bytes.fromhex(scts)
    return smsc + (tpdu + bytes([length]) + body).hex().upper()


def delivered(line: str, tpdu_bytes: int | None = None) -> Deliver:
    message = decode_untrusted(line, tpdu_bytes)
    assert isinstance(message, Deliver)
    return message


def as_deliver(submit: Submit) -> str:
    """A service centre's SMS-DELIVER of what an SMS-SUBMIT says: another first octet, a time for
    the validity."""
    tpdu = bytes.fromhex(submit.line)[1:]
    address_end = 4 + (tpdu[2] + 1) // 2
    first = 0x04 | tpdu[0] & 0x40
    head = bytes([first]) + tpdu[2:address_end] + tpdu[address_end : address_end + 2]
    return "00" + (head + bytes.fromhex("62111271222321") + tpdu[address_end + 3 :]).hex()


def same_to_smspdudecoder(alphabet: Alphabet, text: str) -> set[str]:
    """What it may make of `text`: seven spare bits at the end are one more septet to it, an @."""
    return {text, text + "@"} if alphabet is Alphabet.GSM7 else {text}


def text_to_gsmmodem(alphabet: Alphabet, piece: bytes, *, has_header: bool) -> str:
    """What it makes of a piece: an @ that ends an octet is spare bits to it."""
    if alphabet is Alphabet.UCS2:
        return decode_ucs2_untrusted(piece)
    text = decode_gsm7_untrusted(piece)
    # The header and its fill bits are seven septets.
    return text.removesuffix("@") if (len(piece) + 7 * has_header) % 8 == 0 else text


def confuses_smspdudecoder(part: Part | None) -> bool:
    """Whether the part's header, which it reads as text before it takes it away, has what it takes
    for an escape."""
    if part is None:
        return False
    wide = part.reference > 255
    header = bytes([6, 8, 4]) if wide else bytes([5, 0, 3])
    header += part.reference.to_bytes(2 if wide else 1, "big") + bytes([part.total, part.number])
    return 0x1B in unpack(header + b"\0", len(header) * 8 // 7 + 1)


# ------------------------------------------------------------ TS 23.038


def test_23_038_6_1_2_1_packing() -> None:
    assert pack(b"hellohello").hex().upper() == "E8329BFD4697D9EC37"
    assert unpack(bytes.fromhex("E8329BFD4697D9EC37"), 10) == b"hellohello"


@given(st.binary(max_size=160).map(lambda octets: bytes(o & 0x7F for o in octets)))
def test_packing_is_undone(septets: bytes) -> None:
    for fill_bits in range(7):
        packed = pack(septets, fill_bits)
        assert len(packed) == (len(septets) * 7 + fill_bits + 7) // 8
        assert unpack(packed, len(septets), fill_bits) == septets


def test_23_038_6_2_1_alphabet_agrees_with_other_codecs() -> None:
    for character in GSM7:
        septets = encode_gsm7(character)
        assert septets is not None
        # python-gsmmodem-new has no \\f and ` in place of §; both have the ç of an older edition.
        assert character in "Ç§\f" or septets == bytes(gsmmodem.pdu.encodeGsm7(character))
        assert character in "Ç" or septets == character.encode("gsm0338")
        assert decode_gsm7_untrusted(septets) == character
    assert encode_gsm7("ç") is None
    assert encode_gsm7("\x1b") is None


@given(gsm7_texts)
def test_gsm7_text_comes_back(text: str) -> None:
    septets = encode_gsm7(text)
    assert septets is not None
    assert decode_gsm7_untrusted(septets) == text


def test_23_038_6_2_1_1_what_no_table_has_is_read_all_the_same() -> None:
    assert decode_gsm7_untrusted(b"\x1bA") == "A"
    assert decode_gsm7_untrusted(b"a\x1b\x1bb") == "a b"
    assert decode_gsm7_untrusted(b"a\x1b") == "a "


def test_surrogates_that_are_alone_become_no_character() -> None:
    assert decode_ucs2_untrusted(encode_ucs2("a\ud83d")) == "a\ufffd"
    assert decode_ucs2_untrusted(encode_ucs2("\ud83d\udc4d")) == "👍"
    assert decode_ucs2_untrusted(b"\x00a\xd8") == "a\ufffd"


def test_octets_are_utf_8_or_latin() -> None:
    assert decode_octets_untrusted("да".encode()) == "да"
    assert decode_octets_untrusted(b"\xe9") == "é"


# ------------------------------------------------------------ sending


@pytest.mark.parametrize(
    ("text", "alphabet", "sizes"),
    [
        ("", Alphabet.GSM7, [0]),
        ("a" * 160, Alphabet.GSM7, [160]),
        ("a" * 161, Alphabet.GSM7, [153, 8]),
        ("€" * 80, Alphabet.GSM7, [160]),
        ("€" * 81, Alphabet.GSM7, [152, 10]),
        ("a" * 152 + "€" * 5, Alphabet.GSM7, [152, 10]),
        ("б" * 70, Alphabet.UCS2, [140]),
        ("б" * 71, Alphabet.UCS2, [134, 8]),
        ("👍" * 35, Alphabet.UCS2, [140]),
        ("👍" * 36, Alphabet.UCS2, [132, 12]),
        ("a\0", Alphabet.UCS2, [4]),
    ],
)
def test_9_2_3_24_text_is_cut_where_no_character_is(
    text: str, alphabet: Alphabet, sizes: list[int]
) -> None:
    pieces, chosen = split(text)
    assert chosen is alphabet
    assert [len(piece) for piece in pieces] == sizes


@bounded
@given(any_texts | gsm7_texts | torn_texts)
def test_each_piece_is_text_by_itself(text: str) -> None:
    pieces, alphabet = split(text)
    decode = decode_gsm7_untrusted if alphabet is Alphabet.GSM7 else decode_ucs2_untrusted
    assert "".join(decode(piece) for piece in pieces) == text
    assert join([(alphabet, piece) for piece in pieces]) == text


@bounded
@given(any_texts | gsm7_texts | torn_texts, st.integers(0, 255))
def test_what_is_sent_is_what_arrives(text: str, reference: int) -> None:
    arrived = [delivered(as_deliver(one)) for one in submits(text, reference=reference)]
    assert join([(one.alphabet, one.content) for one in arrived]) == text
    assert {one.sender for one in arrived} == {"+79991234567"}
    if len(arrived) > 1:
        assert [one.part for one in arrived] == [
            Part(reference, len(arrived), number) for number in range(1, len(arrived) + 1)
        ]
    else:
        assert arrived[0].part is None


@settings(max_examples=300, deadline=None)
@given(any_texts | gsm7_texts | torn_texts, numbers)
def test_smspdudecoder_reads_what_is_sent(text: str, recipient: str) -> None:
    messages = submits(text, recipient)
    read = [read_outgoing_sms(one.line) for one in messages]
    pieces, alphabet = split(text)
    decode = decode_gsm7_untrusted if alphabet is Alphabet.GSM7 else decode_ucs2_untrusted
    assert {one["recipient"] for one in read} == {recipient}
    for number, (one, piece) in enumerate(zip(read, pieces, strict=True), 1):
        if len(read) > 1 and confuses_smspdudecoder(Part(7, len(read), number)):
            continue
        assert one["content"] in same_to_smspdudecoder(alphabet, decode(piece))


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from(GSM7.replace("§", "бЯ中").replace("\f", "")), min_size=1, max_size=300),
    numbers,
)
@example("0000000@", "0")
@example("€" * 80 + "@" * 73, "0")
def test_gsmmodem_reads_what_is_sent(text: str, recipient: str) -> None:
    # Beyond the BMP it fails, and it knows neither § nor \\f.
    messages = submits(text, recipient)
    read = [gsmmodem.pdu.decodeSmsPdu(one.line) for one in messages]
    assert {one["number"] for one in read} == {recipient}
    pieces, alphabet = split(text)
    for one, piece in zip(read, pieces, strict=True):
        assert one["text"] == text_to_gsmmodem(alphabet, piece, has_header=len(pieces) > 1)
    assert {one["type"] for one in read} == {"SMS-SUBMIT"}
    assert [one["tpdu_length"] for one in read] == [one.tpdu_bytes for one in messages]
    if len(messages) > 1:
        headers = [one["udh"][0] for one in read]
        assert [one.number for one in headers] == list(range(1, len(messages) + 1))


def test_9_2_2_2_fields_of_a_submit() -> None:
    (one,) = submits("Test", "+79991234567")
    #                   SRR+VPF MR  DA                  PID DCS VP  UDL UD
    assert one.line == "0031000B919799214365F70000A704D4F29C0E"
    assert one.tpdu_bytes == len(one.line) // 2 - 1
    (quiet,) = submits("Test", "8999", report=False)
    assert quiet.line == "001100048198990000A704D4F29C0E"


@pytest.mark.parametrize("recipient", ["", "+", "BANK", "+7 999", "1" * 21, "٣", "+7a", "12\n"])
def test_what_is_no_number_is_refused(recipient: str) -> None:
    with pytest.raises(PduError):
        submits("Test", recipient)


def test_what_needs_too_many_parts_is_refused() -> None:
    assert len(submits("a" * 153 * 255)) == 255
    with pytest.raises(PduError, match="256 parts"):
        submits("a" * (153 * 255 + 1))


@given(st.floats(0, 100 * 7 * DAY_S))
def test_9_2_3_12_1_validity_is_rounded_up(validity_s: float) -> None:
    (one,) = submits("", validity_s=validity_s)
    octet = bytes.fromhex(one.line)[-2]
    if octet < 144:
        said_s = (octet + 1) * 5 * MINUTE_S
    elif octet < 168:
        said_s = 12 * HOUR_S + (octet - 143) * 30 * MINUTE_S
    elif octet < 197:
        said_s = (octet - 166) * DAY_S
    else:
        said_s = (octet - 192) * 7 * DAY_S
    wanted_s = min(max(validity_s, VALIDITY_MINIMUM_S), VALIDITY_MAXIMUM_S)
    assert wanted_s <= said_s
    step_s = 7 * DAY_S if octet > 196 else DAY_S if octet > 167 else 30 * MINUTE_S
    if octet < 144:
        step_s = 5 * MINUTE_S
    assert said_s - wanted_s < step_s


@pytest.mark.parametrize(
    ("validity_s", "octet"),
    [
        (0, 0),
        (5 * MINUTE_S, 0),
        (10 * MINUTE_S, 1),
        (12 * HOUR_S, 143),
        (12 * HOUR_S + 30 * MINUTE_S, 144),
        (DAY_S, 167),
        (2 * DAY_S, 168),
        (30 * DAY_S, 196),
        (35 * DAY_S, 197),
        (VALIDITY_MAXIMUM_S, 255),
    ],
)
def test_9_2_3_12_1_other_codecs_say_the_same_of_a_validity(validity_s: int, octet: int) -> None:
    (one,) = submits("", validity_s=validity_s)
    assert bytes.fromhex(one.line)[-2] == octet
    said = timedelta(seconds=max(validity_s, VALIDITY_MINIMUM_S))
    assert gsmmodem.pdu.decodeSmsPdu(one.line)["validity"] == said
    assert timedelta_to_relative_validity(said) == octet


# ------------------------------------------------------------ receiving


def test_a_message_of_a_real_network() -> None:
    line = "07911326040000F0040B911346610089F60000208062917314080CC8F71D14969741F977FD07"
    message = delivered(line, len(line) // 2 - 8)
    assert message.sender == "+31641600986"
    assert message.text == "How are you?"
    assert message.sent_s == datetime(2002, 8, 26, 19, 37, 41, tzinfo=UTC).timestamp()
    assert message.part is None


@bounded
@given(numbers | st.from_regex(r"[A-Za-z]{1,11}", fullmatch=True), gsm7_texts, any_texts, parts)
def test_deliver_in_each_alphabet(sender: str, septets: str, characters: str, part: Part) -> None:
    gsm7 = encode_gsm7(septets)
    assert gsm7 is not None
    for alphabet, content in [
        (Alphabet.GSM7, gsm7[:150]),
        (Alphabet.UCS2, encode_ucs2(characters)[:132]),
        (Alphabet.OCTETS, encode_ucs2(characters)[:131]),
    ]:
        message = delivered(deliver_line(sender, alphabet, content, part))
        assert (message.sender, message.alphabet, message.content) == (sender, alphabet, content)
        assert message.part == part
        assert not message.to_port


@settings(max_examples=300, deadline=None)
@given(numbers, gsm7_texts, st.text(max_size=60), parts)
def test_smspdudecoder_reads_the_same(sender: str, septets: str, text: str, part: Part) -> None:
    gsm7 = encode_gsm7(septets)
    assert gsm7 is not None
    for alphabet, content in [
        (Alphabet.GSM7, gsm7[:150].rstrip(bytes([ESCAPE]))),
        (Alphabet.UCS2, encode_ucs2(text)[:132]),
    ]:
        line = deliver_line(sender, alphabet, content, part)
        try:
            theirs = read_incoming_sms(line)
        except UnicodeDecodeError:
            continue
        ours = delivered(line)
        assert ours.sender == theirs["sender"]
        if alphabet is Alphabet.UCS2 or not confuses_smspdudecoder(part):
            assert theirs["content"] in same_to_smspdudecoder(alphabet, ours.text)
        assert ours.sent_s == theirs["date"].timestamp()
        if part is not None:
            assert ours.part is not None
            assert theirs["partial"]["part_number"] == ours.part.number
            assert theirs["partial"]["parts_count"] == ours.part.total


def test_python_messaging_reads_the_same() -> None:
    for text, part in [("Hello {€}", None), ("Привет", Part(9, 3, 2)), ("x" * 153, Part(9, 2, 1))]:
        pieces, alphabet = split(text)
        line = deliver_line("+79991234567", alphabet, pieces[0], part)
        theirs = SmsDeliver(line)
        ours = delivered(line)
        assert (ours.text, ours.sender) == (theirs.text, theirs.number)
        if part is not None:
            assert (theirs.udh.concat.ref, theirs.udh.concat.cnt, theirs.udh.concat.seq) == part


@pytest.mark.parametrize(
    ("scts", "expected"),
    [
        ("62111271222300", datetime(2026, 11, 21, 17, 22, 32, tzinfo=UTC)),
        ("62111271222321", datetime(2026, 11, 21, 14, 22, 32, tzinfo=UTC)),
        ("62111271222329", datetime(2026, 11, 21, 20, 22, 32, tzinfo=UTC)),
        ("6211127122230A", datetime(2026, 11, 21, 22, 22, 32, tzinfo=UTC)),
        ("62111271222369", datetime(2026, 11, 21, 21, 22, 32, tzinfo=UTC)),
        ("00000000000000", None),
        ("62311271222300", None),
        ("FFFFFFFFFFFFFF", None),
    ],
)
def test_9_2_3_11_time_zones_are_quarters_of_hours(scts: str, expected: datetime | None) -> None:
    message = delivered(deliver_line("+7999", Alphabet.GSM7, b"a", scts=scts))
    assert message.sent_s == (expected.timestamp() if expected else None)


def test_9_2_3_24_other_elements_are_passed_over() -> None:
    elements = bytes([0x70, 2, 1, 2, 0x24, 1, 3])
    message = delivered(
        deliver_line("+7999", Alphabet.GSM7, b"abc", Part(300, 4, 2), elements=elements)
    )
    assert (message.text, message.part) == ("abc", Part(300, 4, 2))


@pytest.mark.parametrize("element", [(0, 3, 9, 0, 1), (0, 3, 9, 2, 0), (0, 3, 9, 2, 3)])
def test_9_2_3_24_1_a_part_that_contradicts_itself_is_none(element: tuple[int, ...]) -> None:
    line = deliver_line("+7999", Alphabet.GSM7, b"abc", elements=bytes(element))
    assert delivered(line).part is None
    assert delivered(line).text == "abc"


def test_data_for_a_port_is_told_from_text() -> None:
    for element in ([5, 4, 0x0B, 0x84, 0x23, 0xF0], [4, 2, 1, 2]):
        line = deliver_line("+7999", Alphabet.OCTETS, b"\x01\x06", elements=bytes(element))
        assert delivered(line).to_port


@pytest.mark.parametrize(
    ("coding", "alphabet"),
    [
        (0x00, Alphabet.GSM7),
        (0x10, Alphabet.GSM7),
        (0x04, Alphabet.OCTETS),
        (0x18, Alphabet.UCS2),
        (0x0C, Alphabet.GSM7),
        (0x48, Alphabet.UCS2),
        (0x80, Alphabet.GSM7),
        (0xC8, Alphabet.GSM7),
        (0xD8, Alphabet.GSM7),
        (0xE8, Alphabet.UCS2),
        (0xF1, Alphabet.GSM7),
        (0xF5, Alphabet.OCTETS),
    ],
)
def test_23_038_4_data_coding(coding: int, alphabet: Alphabet) -> None:
    gsm7 = deliver_line("+7999", Alphabet.GSM7, b"")
    assert gsm7.endswith("0000" + "62111271222321" + "00")
    line = gsm7.replace("0000" + "6211", f"00{coding:02X}6211")
    assert delivered(line).alphabet is alphabet


def test_compressed_text_is_refused() -> None:
    line = deliver_line("+7999", Alphabet.GSM7, b"").replace("00006211", "00206211")
    with pytest.raises(PduError, match="compressed"):
        decode_untrusted(line)


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (0x00, Fate.DELIVERED),
        (0x01, Fate.UNCONFIRMED),
        (0x02, Fate.DELIVERED),
        (0x1F, Fate.UNCONFIRMED),
        (0x20, Fate.TRYING),
        (0x3F, Fate.TRYING),
        (0x40, Fate.UNDELIVERED),
        (0x63, Fate.UNDELIVERED),
        (0xFF, Fate.UNDELIVERED),
    ],
)
def test_9_2_3_15_status(status: int, fate: Fate) -> None:
    line = f"0006C80B919799214365F76211127122232162111271224321{status:02X}"
    report = decode_untrusted(line, len(line) // 2 - 1)
    assert isinstance(report, StatusReport)
    assert (report.reference, report.recipient, report.fate) == (200, "+79991234567", fate)
    assert report.sent_s == datetime(2026, 11, 21, 17, 22, 32, tzinfo=UTC).timestamp() - 3 * HOUR_S
    theirs = gsmmodem.pdu.decodeSmsPdu(line)
    assert (theirs["reference"], theirs["number"]) == (report.reference, report.recipient)
    assert theirs["status"] == report.status
    # TP-PI and what it announces may follow.
    assert decode_untrusted(line + "00") == report._replace(tpdu=report.tpdu + b"\0")


def test_each_cut_and_each_wrong_length_is_refused() -> None:
    whole = [
        deliver_line("+79991234567", Alphabet.GSM7, b"Hello you", Part(1, 2, 1)),
        deliver_line("BANK", Alphabet.UCS2, encode_ucs2("Привет")),
        "0006C80B919799214365F7621112712223216211127122432100",
    ]
    for line in whole:
        octets = len(line) // 2
        smsc = int(line[:2], 16)
        decode_untrusted(line, octets - smsc - 1)
        for wrong in (octets - smsc - 2, octets - smsc, 0):
            with pytest.raises(PduError):
                decode_untrusted(line, wrong)
        for cut in range(octets):
            with pytest.raises(PduError):
                decode_untrusted(line[: 2 * cut])
    with pytest.raises(PduError, match="hex"):
        decode_untrusted(whole[0][:-1])
    with pytest.raises(PduError):
        decode_untrusted(whole[0] + "00")
    with pytest.raises(PduError, match="neither"):
        decode_untrusted(submits("Test")[0].line)


def test_9_1_2_5_digits_that_are_none_are_refused() -> None:
    line = deliver_line("+7999", Alphabet.GSM7, b"").replace("04919799", "0491F799")
    with pytest.raises(PduError, match="digit"):
        decode_untrusted(line)
    with pytest.raises(PduError, match="address"):
        decode_untrusted("00041591" + "00" * 30)
    assert delivered(deliver_line("8" * 20, Alphabet.GSM7, b"")).sender == "8" * 20


@settings(max_examples=3000, deadline=None)
@given(st.binary(max_size=180).map(bytes.hex) | st.text(max_size=60), st.integers(0, 200))
@example("00", 0)
@example("", 0)
def test_fuzz_any_line(line: str, tpdu_bytes: int) -> None:
    for length in (None, tpdu_bytes):
        try:
            message = decode_untrusted(line, length)
        except PduError:
            continue
        assert len(message.tpdu) <= len(line) // 2
        if isinstance(message, Deliver):
            assert len(message.text) <= 160
            assert len(message.sender) <= NUMBER_DIGITS_MAXIMUM + 1


@settings(max_examples=3000, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=5))
def test_fuzz_a_message_that_was_struck(strikes: list[tuple[int, int]]) -> None:
    for line in (
        deliver_line("+79991234567", Alphabet.GSM7, b"Hello you", Part(1, 2, 1)),
        deliver_line("BANK", Alphabet.UCS2, encode_ucs2("Привет, мир"), Part(999, 2, 1)),
    ):
        octets = bytearray.fromhex(line)
        for place, value in strikes:
            octets[place % len(octets)] = value
        try:
            message = decode_untrusted(octets.hex())
        except PduError:
            continue
        if isinstance(message, Deliver):
            assert len(message.content) <= USER_DATA_BYTES * 8 // 7
            assert message.part is None or 0 < message.part.number <= message.part.total


def test_join_marks_what_lacks() -> None:
    one, three = (Alphabet.GSM7, b"one"), (Alphabet.GSM7, b"three")
    assert join([one, None, three]) == "one [...] three"
    assert join([None, None, three]) == " [...] three"
    assert join([one, None]) == "one [...] "


def test_join_reads_what_phones_have_cut_within_a_character() -> None:
    thumb = encode_ucs2("👍")
    assert join([(Alphabet.UCS2, thumb[:2]), (Alphabet.UCS2, thumb[2:])]) == "👍"
    assert join([(Alphabet.GSM7, b"a\x1b"), (Alphabet.GSM7, b"eb")]) == "a€b"
    assert join([(Alphabet.GSM7, b"a"), (Alphabet.UCS2, thumb)]) == "a👍"
