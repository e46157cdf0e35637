"""The emulated modems themselves: what they refuse, and each thing that can go wrong with one.

Most of it without a pty, in virtual time: `Bench` has the line and the clock.
"""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.support import modem_alphabet as alphabet
from tests.support import modem_pdu as pdu
from tests.support.modem_at import AtModem
from tests.support.modem_emulator import ModemEmulator, Pace, sms_network
from tests.support.modem_faults import (
    FOREVER,
    SILENCE,
    Reboot,
    Refuse,
    ReportStore,
    Silence,
    SubmitFault,
    Unplug,
)
from tests.support.modem_general import GeneralCommands
from tests.support.modem_messages import ACKNOWLEDGE_WITHIN_S, MessageCommands
from tests.support.modem_network import SmsNetwork
from tests.support.modem_sending import SendingCommands
from tests.support.modem_sim import Lock, SimCard

NUMBER = "+79990000001"
SENDER = "+491701234567"
NOON = datetime(2026, 11, 21, 12, tzinfo=timezone(timedelta(hours=3)))
# Of 3GPP TS 23.040's form: to +79997776655, "hello" with a report asked for.
HELLO = "0021000B919799776756F50000" + "05E8329BFD06"
HELLO_OCTETS = 18


class Bench(AtModem):
    """A modem without a pty: what it writes is `said`, and its time passes by `pass_time`."""

    def __init__(self, sim: SimCard | None = None, *, ussd_packed: bool = True) -> None:
        self.said = b""
        self.now_s = 0.0
        self.unplugged = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        network = SmsNetwork(self.after, lambda: NOON + timedelta(seconds=self.now_s))
        super().__init__(
            sim or SimCard(NUMBER), network, sending_s=0.0, boot_s=1.0, ussd_packed=ussd_packed
        )
        GeneralCommands(self, "356938035640000")
        self._messages = MessageCommands(self)
        SendingCommands(self)
        network.join(self)
        self.reboot()
        self.pass_time(1)
        self.said = b""

    def write(self, data: bytes) -> None:
        self.said += data

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now_s + delay_s, len(self._due), action))

    def unplug(self) -> None:
        self.unplugged += 1
        self.power_off()

    def reset(self) -> None:
        self.reboot()

    def take(self, tpdu: bytes, *, is_report: bool) -> bool:
        return self._messages.take(tpdu, is_report=is_report)

    def pass_time(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self._due and self._due[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._due)
            action()
        self.now_s = until_s

    def ask(self, line: str, data: str = "") -> str:
        """What it says to a line, and to the data behind it."""
        self.said = b""
        self.receive(line.encode() + b"\r" + (data.encode() + b"\x1a" if data else b""))
        return self.said.decode("latin-1")

    def ready(self) -> Bench:
        """As a gateway prepares it: no echo, numbers for errors, messages announced."""
        lines = ["ATE0", "AT+CMEE=1"]
        if self.sim.lock is Lock.OPEN:
            lines += ["AT+CMGF=0", "AT+CNMI=2,1,0,1,0"]
        for line in lines:
            assert self.ask(line).endswith("\r\nOK\r\n")
        self.said = b""
        return self

    def submit(self, tpdu: str = HELLO, octets: int = HELLO_OCTETS) -> str:
        return self.ask(f"AT+CMGS={octets}", tpdu)

    def deliver(self, text: str = "BAL") -> str:
        """What it says when that comes."""
        self.said = b""
        self.network.deliver(self.number, SENDER, text)
        return self.said.decode("latin-1")


# --- the command line


def test_echo_is_on_until_it_is_switched_off() -> None:
    modem = Bench()
    assert modem.ask("AT") == "AT\r\r\nOK\r\n"
    assert modem.ask("ATE0") == "ATE0\r\r\nOK\r\n"
    assert modem.ask("AT") == "\r\nOK\r\n"
    modem.faults.echo_always = True
    assert modem.ask("AT") == "AT\r\r\nOK\r\n"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("at+csq", "\r\n+CSQ: 18,99\r\n\r\nOK\r\n"),
        ("garbage\x1a\x1bAT", "\r\nOK\r\n"),
        ("AT+CSQ;+CREG?", "\r\n+CSQ: 18,99\r\n\r\n+CREG: 0,1\r\n\r\nOK\r\n"),
        ("AT+CSQ;+NONE;+CREG?", "\r\n+CSQ: 18,99\r\n\r\nERROR\r\n"),
        ("AT+NONE", "\r\nERROR\r\n"),
        ("AT+CSQ\x80", "\r\nERROR\r\n"),
        ("AT&F0E0V1", "\r\nOK\r\n"),
        ("AT+" + "C" * 2_000, "\r\nERROR\r\n"),
        ("nothing", ""),
    ],
)
def test_lines(line: str, reply: str) -> None:
    modem = Bench().ready()
    assert modem.ask(line).removeprefix("AT&F0E0V1\r") == reply


@pytest.mark.parametrize(
    ("mode", "answer"),
    [(0, "ERROR"), (1, "+CME ERROR: 50"), (2, "+CME ERROR: Incorrect parameters")],
)
def test_errors_as_cmee_wants_them(mode: int, answer: str) -> None:
    modem = Bench().ready()
    modem.ask(f"AT+CMEE={mode}")
    assert modem.ask("AT+CFUN=7") == f"\r\n{answer}\r\n"


def test_three_wrong_pins_lock_the_sim_until_its_puk() -> None:
    modem = Bench(SimCard(NUMBER, pin="1234")).ready()
    assert modem.ask("AT+CPIN?") == "\r\n+CPIN: SIM PIN\r\n\r\nOK\r\n"
    assert modem.ask("AT+CMGL=4") == "\r\n+CMS ERROR: 311\r\n"
    for _ in range(2):
        assert modem.ask('AT+CPIN="0000"') == "\r\n+CME ERROR: 16\r\n"
    modem.reboot()
    modem.pass_time(1)
    modem.ready()
    assert modem.ask('AT+CPIN="0000"') == "\r\n+CME ERROR: 12\r\n"
    assert modem.ask('AT+CPIN="1234"') == "\r\n+CME ERROR: 12\r\n"
    assert modem.ask("AT+CPIN?") == "\r\n+CPIN: SIM PUK\r\n\r\nOK\r\n"
    assert modem.ask('AT+CPIN="12345678","4321"') == "\r\nOK\r\n"
    assert modem.ask("AT+CPIN?") == "\r\n+CPIN: READY\r\n\r\nOK\r\n"
    assert modem.sim.pin_entries == ["0000", "0000", "0000", "12345678"]


def test_the_right_pin_registers() -> None:
    modem = Bench(SimCard(NUMBER, pin="1234")).ready()
    modem.network.deliver(NUMBER, SENDER, "BAL")
    assert modem.network.waiting(NUMBER) == 1
    modem.ask("AT+CREG=1")
    assert modem.ask('AT+CPIN="1234"') == "\r\nOK\r\n\r\n+CREG: 1\r\n"
    assert (modem.network.waiting(NUMBER), len(modem.sim.stores["SM"])) == (0, 1)


def test_registration_and_signal_are_what_they_are_set_to() -> None:
    modem = Bench().ready()
    modem.ask("AT+CREG=1")
    modem.said = b""
    modem.registration = 5
    assert modem.said == b"\r\n+CREG: 5\r\n"
    modem.registration, modem.signal = 2, 3
    assert "+CSQ: 3,99" in modem.ask("AT+CSQ")
    assert modem.submit() == "\r\n> \r\n+CMS ERROR: 331\r\n"
    modem.deliver()
    assert modem.network.waiting(NUMBER) == 1


# --- messages that come


def test_a_message_is_stored_announced_read_and_deleted() -> None:
    modem = Bench().ready()
    assert modem.deliver() == '\r\n+CMTI: "SM",0\r\n'
    listed = modem.ask("AT+CMGL=4")
    assert listed.startswith("\r\n+CMGL: 0,0,,22\r\n0791")
    read = modem.ask("AT+CMGR=0")
    assert read.startswith("\r\n+CMGR: 1,,22\r\n0791")
    assert modem.ask("AT+CMGD=0") == "\r\nOK\r\n"
    assert modem.ask("AT+CMGR=0") == "\r\n+CMS ERROR: 321\r\n"
    assert modem.ask("AT+CMGD=99") == "\r\n+CMS ERROR: 321\r\n"
    assert modem.ask("AT+CMGL=4") == "\r\nOK\r\n"


def test_a_full_store_silences_what_comes_and_loses_nothing() -> None:
    modem = Bench(SimCard(NUMBER, slots=2)).ready()
    for _ in range(2):
        assert "+CMTI" in modem.deliver()
    assert modem.deliver("third") == '\r\n^SMMEMFULL: "SM"\r\n'
    assert modem.deliver("fourth") == ""
    assert modem.network.waiting(NUMBER) == 2
    assert modem.ask("AT+CMGD=1") == '\r\nOK\r\n\r\n+CMTI: "SM",1\r\n\r\n^SMMEMFULL: "SM"\r\n'
    modem.ask("AT+CMGD=1,4")
    assert (modem.network.waiting(NUMBER), len(modem.sim.stores["SM"])) == (0, 1)


def test_a_message_that_is_handed_over_wants_to_be_acknowledged() -> None:
    modem = Bench().ready()
    modem.ask("AT+CSMS=1")
    modem.ask("AT+CNMI=2,2,0,1,0")
    assert modem.deliver().startswith("\r\n+CMT: ,22\r\n0791")
    assert modem.deliver("second") == ""
    said = modem.ask("AT+CNMA")
    assert said.startswith("\r\nOK\r\n\r\n+CMT: ,")
    assert modem.ask("AT+CNMA=0") == "\r\nOK\r\n"
    assert modem.ask("AT+CNMA") == "\r\n+CMS ERROR: 340\r\n"
    assert modem.sim.stores["SM"] == {}


def test_what_is_not_acknowledged_is_stored_and_no_more_is_handed_over() -> None:
    modem = Bench().ready()
    modem.ask("AT+CSMS=1")
    modem.ask("AT+CNMI=2,2,0,1,0")
    modem.deliver()
    modem.pass_time(ACKNOWLEDGE_WITHIN_S)
    assert len(modem.sim.stores["SM"]) == 1
    assert modem.ask("AT+CNMI?") == "\r\n+CNMI: 2,0,0,0,0\r\n\r\nOK\r\n"


def test_a_restart_gives_back_what_was_not_acknowledged() -> None:
    modem = Bench().ready()
    modem.ask("AT+CSMS=1")
    modem.ask("AT+CNMI=2,2,0,1,0")
    modem.deliver()
    modem.reboot()
    assert modem.network.waiting(NUMBER) == 1
    modem.pass_time(1)
    assert len(modem.sim.stores["SM"]) == 1


def test_a_message_can_come_both_ways() -> None:
    modem = Bench().ready()
    modem.faults.receive_twice = True
    said = modem.deliver()
    assert "+CMT: " in said
    assert "+CMTI: " in said


def test_announcements_can_be_lost() -> None:
    modem = Bench().ready()
    modem.faults.lose_unsolicited = True
    assert modem.deliver() == ""
    assert len(modem.sim.stores["SM"]) == 1


def test_a_pdu_can_be_cut_short_or_announced_with_a_wrong_length() -> None:
    modem = Bench().ready()
    modem.deliver()
    whole = modem.ask("AT+CMGR=0").splitlines()[2]
    modem.faults.cut_pdu_octets, modem.faults.length_off_by = 3, 2
    lines = modem.ask("AT+CMGR=0").splitlines()
    assert lines[1:3] == ["+CMGR: 1,,24", whole[:-6]]


def test_parts_come_out_of_order_or_not_at_all() -> None:
    modem = Bench().ready()
    text = "long " * 100
    modem.network.deliver(NUMBER, SENDER, text, order=[3, 0, 2, 1], missing={2}, reference=200)
    # TP-UDH: the last three octets are the reference, the parts and the part.
    header = bytes.fromhex("050003c804")
    tpdus = [message.tpdu for _, message in sorted(modem.sim.stores["SM"].items())]
    assert [tpdu[tpdu.index(header) + 5] for tpdu in tpdus] == [4, 1, 2]


def test_wide_references() -> None:
    modem = Bench().ready()
    modem.network.deliver(
        NUMBER, SENDER, "дом " * 40, reference=0x1234, wide_reference=True, order=[0]
    )
    assert bytes.fromhex("060804123403") in modem.sim.stores["SM"][0].tpdu


# --- messages that go


def test_a_message_goes_and_its_report_comes() -> None:
    modem = Bench().ready()
    assert modem.submit() == "\r\n> \r\n+CMGS: 0\r\n\r\nOK\r\n"
    [message] = modem.network.messages
    assert (message.sender, message.recipient, message.text) == (NUMBER, "+79997776655", "hello")
    modem.said = b""
    modem.pass_time(0)
    assert modem.said.startswith(b"\r\n+CDS: 25\r\n0791")
    assert modem.ask("AT+CNMI=2,1,0,2,0") == "\r\nOK\r\n"
    modem.submit()
    modem.pass_time(0)
    assert modem.said.endswith(b'\r\n+CDSI: "SM",0\r\n')


def test_a_message_is_given_up_with_escape() -> None:
    modem = Bench().ready()
    modem.receive(b"AT+CMGS=18\r0021\x1bAT\r")
    assert modem.said == b"\r\n> \r\nOK\r\n\r\nOK\r\n"
    assert modem.network.parts == []


def test_references_go_round_after_255() -> None:
    modem = Bench().ready()
    for count in range(257):
        assert f"+CMGS: {count % 256}\r\n" in modem.submit()


@pytest.mark.parametrize(
    ("data", "octets", "why"),
    [
        (HELLO, HELLO_OCTETS + 1, "octets came where"),
        (HELLO, HELLO_OCTETS - 1, "octets came where"),
        (HELLO[:-2], HELLO_OCTETS - 1, "TP-UDL 5 says 5 octets, and 4 are there"),
        (HELLO + "00", HELLO_OCTETS + 1, "TP-UDL 5 says 5 octets, and 6 are there"),
        ("00" + "G" * 2 * HELLO_OCTETS, HELLO_OCTETS, "not written in hex"),
        (HELLO + "\r\n", HELLO_OCTETS, "not written in hex"),
        (HELLO.replace("0021", "0020"), HELLO_OCTETS, "no SMS-SUBMIT"),
        (HELLO.replace("56F5", "5625"), HELLO_OCTETS, "a filler stands"),
        (HELLO.replace("9799", "97F9"), HELLO_OCTETS, "a filler stands"),
        (HELLO.replace("0B91", "0B11"), HELLO_OCTETS, "type of address"),
        (HELLO.replace("0B91", "0BD0"), HELLO_OCTETS, "alphanumeric"),
        (HELLO.replace("F50000", "F5000C"), HELLO_OCTETS, "reserved"),
        (HELLO.replace("F50000", "F50020"), HELLO_OCTETS, "compressed"),
        (HELLO.replace("FD06", "FDFE"), HELLO_OCTETS, "spare bits"),
        (HELLO.replace("0021", "0061"), HELLO_OCTETS, "ends in the middle of TP-UDH"),
        ("0021000B919799776756F50008" + "03041F04", 16, "half a character"),
        ("0061000B919799776756F50008" + "08050003000203041F", 21, "part 3 of 2"),
        ("0061000B919799776756F50008" + "08050004000201041F", 21, "an information element"),
        ("0061000B919799776756F50008" + "08050002000201041F", 21, "malformed"),
        ("0021000B919799776756F50000" + "010D" + "1B", 15, "TP-UDL"),
        ("0021000B919799776756F50000" + "011B", 14, "in the middle of an escape"),
        ("0191", 1, "has no number"),
        ("0791", 1, "ends in the middle of the service centre"),
        ("FF00", 1, "the service centre"),
    ],
)
def test_what_a_network_would_refuse_is_an_invalid_parameter(
    data: str, octets: int, why: str
) -> None:
    modem = Bench().ready()
    assert modem.submit(data, octets) == "\r\n> \r\n+CMS ERROR: 304\r\n"
    assert why in modem.refused[0]
    assert modem.network.parts == []


@pytest.mark.parametrize(
    ("fault", "reply", "sent"),
    [
        (Refuse(500), "\r\n> \r\n+CMS ERROR: 500\r\n", 0),
        (Refuse(38), "\r\n> \r\n+CMS ERROR: 38\r\n", 0),
        (Silence(sent=True), "\r\n> ", 1),
        (Silence(sent=False), "\r\n> ", 0),
        (Reboot(sent=True), "\r\n> ", 1),
        (Reboot(sent=False), "\r\n> ", 0),
        (Unplug(sent=True), "\r\n> ", 1),
        (Unplug(sent=False), "\r\n> ", 0),
    ],
)
def test_each_way_in_which_a_submission_fails(fault: SubmitFault, reply: str, sent: int) -> None:
    modem = Bench().ready()
    modem.faults.at_submit.append(fault)
    assert modem.submit() == reply
    assert len(modem.network.parts) == sent
    assert modem.unplugged == isinstance(fault, Unplug)
    if isinstance(fault, Reboot):
        modem.said = b""
        modem.pass_time(1)
        assert modem.said == b"\r\n^BOOT:27710117,0,0,0,75\r\n"
        assert modem.ask("AT+CNMI?").endswith("+CNMI: 0,0,0,0,0\r\n\r\nOK\r\n")
    elif not isinstance(fault, Unplug):
        assert "+CMGS: " in modem.submit()


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        ("ok", ["00"]),
        ("lost", []),
        ("twice", ["00", "00"]),
        ("failed", ["41"]),
        ("pending", ["20", "00"]),
        ("wrong reference", ["00"]),
    ],
)
def test_each_way_in_which_a_report_comes(fault: str, statuses: list[str]) -> None:
    modem = Bench().ready()
    modem.network.report_faults.append(fault)
    modem.submit()
    modem.said = b""
    modem.pass_time(0)
    reports = [line for line in modem.said.decode().splitlines() if line.startswith("0791")]
    assert [report[-2:] for report in reports] == statuses
    # TP-MR stands behind the service centre and the first octet.
    expected = "64" if fault == "wrong reference" else "00"
    assert {report[18:20] for report in reports} <= {expected}


def test_a_stored_message_can_be_sent() -> None:
    modem = Bench().ready()
    assert modem.ask(f"AT+CMGW={HELLO_OCTETS}", HELLO) == "\r\n> \r\n+CMGW: 0\r\n\r\nOK\r\n"
    assert modem.ask("AT+CMSS=0") == "\r\n+CMSS: 0\r\n\r\nOK\r\n"
    assert modem.network.messages[0].text == "hello"


def test_a_text_to_another_modem_is_delivered_there() -> None:
    modem = Bench(SimCard("+79997776655")).ready()
    modem.submit()
    assert len(modem.sim.stores["SM"]) == 1


# --- what else goes wrong


def test_a_line_in_the_middle_of_a_reply() -> None:
    modem = Bench().ready()
    modem.deliver()
    modem.faults.in_reply = lambda: modem.unsolicited("^RSSI:9")
    lines = modem.ask("AT+CMGR=0").splitlines()
    assert lines[1] == "+CMGR: 0,,22"
    assert lines[3] == "^RSSI:9"
    assert lines[4].startswith("0791")


def test_a_reboot_in_the_middle_of_a_reply() -> None:
    modem = Bench().ready()
    modem.deliver()
    modem.faults.in_reply = modem.reboot
    assert modem.ask("AT+CMGR=0") == "\r\n+CMGR: 0,,22\r\n"
    modem.said = b""
    modem.pass_time(1)
    assert modem.said == b"\r\n^BOOT:27710117,0,0,0,75\r\n"


def test_a_message_between_prompt_and_data() -> None:
    modem = Bench().ready()
    modem.faults.at_prompt = lambda: modem.network.deliver(NUMBER, SENDER, "BAL")
    assert modem.submit() == ('\r\n> \r\n+CMTI: "SM",0\r\n\r\n+CMGS: 0\r\n\r\nOK\r\n')


def test_what_comes_while_it_is_busy_waits_for_the_reply() -> None:
    modem = Bench().ready()
    modem.sending_s = 3.0
    modem.submit()
    assert modem.deliver() == ""
    modem.receive(b"AT\r")
    modem.pass_time(3)
    assert modem.said.startswith(b'\r\n+CMGS: 0\r\n\r\nOK\r\n\r\n+CMTI: "SM",0\r\n\r\nOK\r\n')


def test_commands_can_be_answered_otherwise_or_not_at_all() -> None:
    modem = Bench().ready()
    modem.deliver()
    modem.faults.answer_next("+CMGD", "+CMS ERROR: 500", times=2)
    modem.faults.answer_next("+CPIN?", "+CME ERROR: 14")
    modem.faults.answer_next("+CSQ", SILENCE, times=FOREVER)
    for _ in range(2):
        assert modem.ask("AT+CMGD=0") == "\r\n+CMS ERROR: 500\r\n"
    assert len(modem.sim.stores["SM"]) == 1
    assert modem.ask("AT+CMGD=0") == "\r\nOK\r\n"
    assert modem.ask("AT+CPIN?") == "\r\n+CME ERROR: 14\r\n"
    assert modem.ask("AT+CPIN?") == "\r\n+CPIN: READY\r\n\r\nOK\r\n"
    for _ in range(3):
        assert modem.ask("AT+CSQ") == ""
    assert modem.ask("AT") == "\r\nOK\r\n"


def test_some_modems_take_one_store_alone_or_all_three() -> None:
    modem = Bench().ready()
    modem.faults.stores_accepted = frozenset({1, 3})
    assert modem.ask('AT+CPMS="SM","SM"') == "\r\n+CMS ERROR: 302\r\n"
    assert modem.ask('AT+CPMS="ME","ME","ME"') == "\r\n+CPMS: 0,50,0,50,0,50\r\n\r\nOK\r\n"
    assert modem.ask('AT+CPMS="XX"') == "\r\n+CMS ERROR: 302\r\n"
    assert modem.ask('AT+CPMS="SR"') == "\r\n+CMS ERROR: 302\r\n"


@pytest.mark.parametrize("store", [ReportStore.READABLE, ReportStore.UNREADABLE])
def test_27_005_3_2_2_a_memory_of_reports_is_read_at_most(store: ReportStore) -> None:
    modem = Bench().ready()
    modem.faults.report_store = store
    assert modem.ask("AT+CNMI=2,1,0,1,0") == "\r\n+CMS ERROR: 303\r\n"
    assert modem.ask("AT+CNMI=2,1,0,2,0") == "\r\nOK\r\n"
    modem.submit()
    modem.said = b""
    modem.pass_time(0)
    assert modem.said == b'\r\n+CDSI: "SR",0\r\n'
    assert modem.ask('AT+CPMS="SR","SR","SR"') == "\r\n+CMS ERROR: 302\r\n"
    chosen = modem.ask('AT+CPMS="SR","SM","SM"')
    if store is ReportStore.UNREADABLE:
        assert chosen == "\r\n+CMS ERROR: 302\r\n"
        assert '"SR"' not in modem.ask("AT+CPMS=?")
        return
    assert chosen == "\r\n+CPMS: 1,50,0,20,0,20\r\n\r\nOK\r\n"
    assert modem.ask("AT+CPMS=?").count('"SR"') == 1
    assert modem.ask("AT+CMGR=0").startswith("\r\n+CMGR: 0,,")
    assert modem.deliver() == '\r\n+CMTI: "SM",0\r\n'
    modem.ask("AT+CMGD=0")
    assert (len(modem.sim.stores["SR"]), len(modem.sim.stores["SM"])) == (0, 1)


def test_a_hang_swallows_all_that_comes_and_keeps_the_settings() -> None:
    modem = Bench().ready()
    modem.hang(5)
    assert modem.ask("AT") == ""
    assert modem.deliver() == ""
    modem.pass_time(5)
    assert modem.said == b'\r\n+CMTI: "SM",0\r\n'
    assert modem.ask("AT") == "\r\nOK\r\n"
    modem.hang()
    modem.pass_time(1_000)
    assert modem.ask("AT") == ""
    modem.wake()
    assert modem.ask("AT") == "\r\nOK\r\n"


def test_a_reboot_while_it_sends_forgets_the_reply() -> None:
    modem = Bench().ready()
    modem.sending_s = 3.0
    modem.submit()
    modem.reboot()
    modem.said = b""
    modem.pass_time(10)
    assert modem.said == b"\r\n^BOOT:27710117,0,0,0,75\r\n"
    assert modem.network.parts == []


def test_a_reset_answers_first() -> None:
    modem = Bench().ready()
    assert modem.ask("AT+CFUN=1,1") == "\r\nOK\r\n"
    assert modem.ask("AT") == ""
    modem.pass_time(1)
    assert modem.ask("AT") == "AT\r\r\nOK\r\n"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("hello1", '+CUSD: 0,"E8329BFD8E01",15'),
        ("balance", '+CUSD: 0,"E2303BEC1E971B",15'),
        ("дом", '+CUSD: 0,"0434043E043C",72'),
    ],
)
def test_ussd_in_hex(answer: str, line: str) -> None:
    modem = Bench().ready()
    modem.network.ussd["*100#"] = answer
    packed = alphabet.pack(alphabet.to_septets("*100#") or []).hex().upper()
    assert modem.ask(f'AT+CUSD=1,"{packed}",15') == f"\r\nOK\r\n\r\n{line}\r\n"
    assert modem.ask('AT+CUSD=1,"*100#",15') == "\r\n+CME ERROR: 50\r\n"


def test_ussd_as_text() -> None:
    modem = Bench(ussd_packed=False).ready()
    modem.network.ussd["*100#"] = "Balance: 5"
    assert modem.ask('AT+CUSD=1,"*100#",15').endswith('\r\n+CUSD: 0,"Balance: 5",15\r\n')
    assert modem.ask('AT+CUSD=1,"*101#",15').endswith("\r\n+CUSD: 4\r\n")
    modem.ask('AT+CSCS="UCS2"')
    asked = modem.ask('AT+CUSD=1,"002A0031003000300023",15')
    assert asked.endswith('\r\n+CUSD: 0,"00420061006C0061006E00630065003A00200035",15\r\n')


# --- the writers


@given(st.lists(st.integers(0, 127), max_size=160), st.integers(0, 6))
def test_what_is_packed_is_unpacked(septets: list[int], fill_bits: int) -> None:
    packed = alphabet.pack(septets, fill_bits)
    assert alphabet.unpack(packed, len(septets), fill_bits) == septets


@given(st.text(st.sampled_from(alphabet.DEFAULT.replace("\x1b", "") + "{}€^|~[]\\\f")))
def test_texts_of_the_alphabet_come_back(text: str) -> None:
    septets = alphabet.to_septets(text)
    assert septets is not None
    assert alphabet.from_septets(septets) == text


def test_a_sender_and_a_time_as_the_specification_writes_them() -> None:
    # TS 23.040, 9.1.2.5: the length of a name counts the semi-octets that it fills.
    assert pdu.write_address("BANK").hex() == "07d0c2a07309"
    assert pdu.write_address("+12345").hex() == "05912143f5"
    west = datetime(2020, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))
    assert pdu.write_timestamp(west).hex() == "02102030405049"


@given(st.binary(max_size=200))
def test_no_input_breaks_it(data: bytes) -> None:
    modem = Bench()
    modem.receive(data)
    modem.receive(b"\x1b\r")
    assert modem.ask("AT").endswith("\r\nOK\r\n")


@given(st.binary(max_size=180), st.integers(0, 180))
def test_no_pdu_breaks_it(data: bytes, octets: int) -> None:
    modem = Bench().ready()
    reply = modem.submit(data.hex() or "00", octets)
    assert reply.startswith("\r\n> \r\n+CM")
    assert ("+CMS ERROR: 304" in reply) == (modem.network.parts == [])


# --- on a pty


class Line:
    """Whoever has the modem's device open."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self.heard = b""

    async def ask(self, line: str) -> str:
        os.write(self.fd, line.encode() + b"\r")
        return await self.until(b"OK\r\n")

    async def until(self, end: bytes) -> str:
        while end not in self.heard:
            await trio.lowlevel.wait_readable(self.fd)
            self.heard += os.read(self.fd, 4_096)
        heard, self.heard = self.heard.split(end, 1)[0] + end, b""
        return heard.decode("latin-1")

    def close(self) -> None:
        os.close(self.fd)


async def booted(modem: ModemEmulator) -> Line:
    line = Line(modem.link)
    await line.until(b"^BOOT:27710117,0,0,0,75\r\n")
    return line


@pytest.mark.trio
async def test_an_unplugged_modem_comes_back_as_another_device(tmp_path: Path) -> None:
    async with sms_network() as network:
        modem = network.plug_in(tmp_path / "modem", SimCard(NUMBER))
        line = await booted(modem)
        before = modem.path
        modem.unplug()
        assert not modem.link.exists()
        assert not modem.link.is_symlink()
        try:
            ended = os.read(line.fd, 100) == b""
        except OSError as error:
            ended = error.errno == errno.EIO
        assert ended
        with pytest.raises(OSError, match="Input/output"):
            os.write(line.fd, b"AT\r")
        line.close()
        network.deliver(NUMBER, SENDER, "BAL")
        modem.plug_in()
        assert modem.path != before
        assert modem.link.resolve() == modem.path
        line = await booted(modem)
        assert "+CMGL: 0,0,,22" in await line.ask("AT+CMGL=4")
        line.close()


@pytest.mark.trio
async def test_a_reset_can_make_the_device_vanish(tmp_path: Path) -> None:
    async with sms_network() as network:
        modem = network.plug_in(tmp_path / "modem", SimCard(NUMBER))
        modem.faults.vanish_on_reset = True
        line = await booted(modem)
        before = modem.path
        await line.ask("AT+CFUN=1,1")
        line.close()
        while modem.path == before or not modem.link.exists():
            await trio.sleep(0.01)
        line = await booted(modem)
        assert "OK" in await line.ask("AT")
        line.close()


@pytest.mark.trio
async def test_bytes_are_injected_as_they_are(tmp_path: Path) -> None:
    async with sms_network() as network:
        modem = network.plug_in(tmp_path / "modem", SimCard(NUMBER))
        line = await booted(modem)
        modem.inject(b"\x00\xff\x80garbage")
        assert (await line.until(b"garbage")).encode("latin-1") == b"\x00\xff\x80garbage"
        line.close()


@pytest.mark.trio
async def test_a_line_carries_what_its_baud_rate_allows(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pace = Pace(115_200 / 10)
    began_s = trio.current_time()
    for _ in range(11_520 // pace.octets):
        await pace.passed(pace.octets)
    assert trio.current_time() - began_s == pytest.approx(1.0)


@pytest.mark.trio
async def test_thirty_two_modems_in_one_process(tmp_path: Path) -> None:
    async with sms_network() as network:
        modems = [
            network.plug_in(
                tmp_path / f"modem{count}", SimCard(f"+7999000{count:04d}"), baud=115_200
            )
            for count in range(32)
        ]
        assert len({modem.path for modem in modems}) == 32

        async def use(modem: ModemEmulator) -> None:
            line = await booted(modem)
            await line.ask("ATE0")
            network.deliver(modem.number, SENDER, "BAL")
            assert "+CMGL: 0,0,,22" in await line.ask("AT+CMGL=4")
            os.write(line.fd, f"AT+CMGS={HELLO_OCTETS}\r".encode())
            await line.until(b"> ")
            os.write(line.fd, HELLO.encode() + b"\x1a")
            await line.until(b"+CMGS: 0\r\n\r\nOK\r\n")
            line.close()

        async with trio.open_nursery() as nursery:
            for modem in modems:
                nursery.start_soon(use, modem)
        assert {message.sender for message in await network.sent(32)} == {
            modem.number for modem in modems
        }
