"""The AT engine in virtual time: what answers, what a modem says by itself, what never comes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridges.gsm.at import (
    ANSWER_LINES_MAXIMUM,
    LINE_BYTES_MAXIMUM,
    PROMPT_TIMEOUT_S,
    RESUME_ATTEMPTS,
    RESUME_QUIET_S,
    RESUME_TIMEOUT_S,
    Answered,
    AtEngine,
    AtError,
    Command,
    ErrorKind,
    Event,
    Hung,
    Resumed,
    TimedOut,
    Unsolicited,
)
from core.units import NS_PER_S

SIGNAL = Command("AT+CSQ", "+CSQ:")
READ = Command("AT+CMGR=1", "+CMGR:", with_pdus=True)
SUBMIT = Command("AT+CMGS=5", "+CMGS:", payload="00AB", timeout_s=60)
PLAIN_ERROR = AtError(ErrorKind.PLAIN, None)


class Line:
    """An engine, and the time."""

    def __init__(self) -> None:
        self.engine = AtEngine()
        self.now_ns = 5 * NS_PER_S

    def ask(self, command: Command) -> bytes:
        self.engine.send(command, self.now_ns)
        return self.engine.data_to_send()

    def hear(self, data: bytes) -> list[Event]:
        return self.engine.receive_untrusted(data, self.now_ns)

    def wait(self, duration_s: float) -> list[Event]:
        self.now_ns += round(duration_s * NS_PER_S)
        return self.engine.tick(self.now_ns)


def test_a_command_and_its_answer() -> None:
    line = Line()
    assert line.ask(SIGNAL) == b"AT+CSQ\r"
    assert not line.engine.is_idle
    assert line.hear(b"\r\n+CSQ: 18,99\r\n\r\nOK\r\n") == [Answered(SIGNAL, ("+CSQ: 18,99",), None)]
    assert line.engine.is_idle
    assert line.engine.next_deadline_ns is None


@given(st.lists(st.integers(1, 20)))
def test_bytes_may_come_in_any_pieces(sizes: list[int]) -> None:
    line = Line()
    line.ask(READ)
    data = b'AT+CMGR=1\r\r\n+CMGR: 0,,2\r\n+CMTI: "SM",4\r\n\r\n00AB\r\nRING\r\n\r\nOK\r\n'
    events: list[Event] = []
    for size in [*sizes, len(data)]:
        events += line.hear(data[:size])
        data = data[size:]
    assert events == [
        Unsolicited('+CMTI: "SM",4'),
        Unsolicited("RING"),
        Answered(READ, ("+CMGR: 0,,2", "00AB"), None),
    ]


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (b"ERROR", PLAIN_ERROR),
        (b"COMMAND NOT SUPPORT", PLAIN_ERROR),
        (b"+CME ERROR: 14", AtError(ErrorKind.CME, 14)),
        (b"+CMS ERROR:500", AtError(ErrorKind.CMS, 500)),
        (b"+CME ERROR: SIM busy", AtError(ErrorKind.CME, None)),
        (b"+CMS ERROR: 9999999999", AtError(ErrorKind.CMS, None)),
    ],
)
def test_27_007_9_2_final_results(result: bytes, error: AtError) -> None:
    line = Line()
    line.ask(SIGNAL)
    assert line.hear(b"\r\n" + result + b"\r\n") == [Answered(SIGNAL, (), error)]


def test_errors_read_as_they_are_written() -> None:
    assert str(PLAIN_ERROR) == "ERROR"
    assert str(AtError(ErrorKind.CMS, 38)) == "CMS 38"
    assert str(AtError(ErrorKind.CME, None)) == "CME ?"


@pytest.mark.parametrize(
    "said",
    [
        '+CMTI: "SM",3',
        '+CDSI: "SR",1',
        "+CREG: 2",
        '+CREG: 1,"00C3","1F2A"',
        '+CUSD: 0,"Balance",15',
        "^RSSI:12",
        "^BOOT:20952548,0,0,0,72",
        '^SMMEMFULL: "SM"',
        "RING",
        "NO CARRIER",
        '+CLIP: "+79991234567",145',
    ],
)
@pytest.mark.parametrize(
    "command",
    [SIGNAL, Command("AT+CREG?", "+CREG:"), Command("AT+CUSD=1", "+CUSD:"), READ],
)
def test_what_is_said_by_itself_is_no_answer(said: str, command: Command) -> None:
    line = Line()
    assert line.hear(f"\r\n{said}\r\n".encode()) == [Unsolicited(said)]
    line.ask(command)
    assert line.hear(f"\r\n{said}\r\n".encode()) == [Unsolicited(said)]
    assert line.hear(b"OK\r\n") == [Answered(command, (), None)]


@pytest.mark.parametrize("answer", ["+CREG: 0,1", "+CREG: 1, 5", '+CREG: 2,1,"00C3","1F2A"'])
def test_27_007_7_2_an_answer_to_creg_has_how_it_is_told(answer: str) -> None:
    line = Line()
    command = Command("AT+CREG?", "+CREG:")
    line.ask(command)
    assert line.hear(f"{answer}\r\nOK\r\n".encode()) == [Answered(command, (answer,), None)]


def test_bare_answers() -> None:
    line = Line()
    command = Command("AT+CCID", "+CCID:", bare=True)
    line.ask(command)
    (answered,) = line.hear(b"\r\n8970199912345678901f\r\n\r\nOK\r\n")
    assert answered == Answered(command, ("8970199912345678901f",), None)
    line.ask(SIGNAL)
    assert line.hear(b"8970199912345678901f\r\nOK\r\n") == [Answered(SIGNAL, (), None)]
    assert line.engine.strays == 1


def test_27_005_3_4_1_a_message_that_is_sent_directly_has_its_pdu_on_the_next_line() -> None:
    line = Line()
    line.ask(READ)
    assert line.hear(b"+CMT: ,2\r\n") == []
    assert line.hear(b'+CMTI: "SM",1\r\n') == [Unsolicited('+CMTI: "SM",1')]
    assert line.hear(b"00ab\r\n") == [Unsolicited("+CMT: ,2", "00ab")]
    line.hear(b"+CMGR: 0,,2\r\n00CD\r\n+CDS: 2\r\n00EF\r\n")
    assert line.hear(b"OK\r\n") == [Answered(READ, ("+CMGR: 0,,2", "00CD"), None)]


def test_a_pdu_that_never_comes_is_told() -> None:
    line = Line()
    assert line.hear(b"+CMT: ,2\r\n+CDS: 3\r\n") == [Unsolicited("+CMT: ,2")]
    line.ask(SIGNAL)
    events = line.hear(b"OK\r\n")
    assert events == [Unsolicited("+CDS: 3"), Answered(SIGNAL, (), None)]


def test_27_007_7_15_an_answer_of_the_network_has_lines() -> None:
    line = Line()
    text = b'\r\n+CUSD: 0,"Balance:\r\nOK\n1.50",15\r\n'
    assert line.hear(text) == [Unsolicited('+CUSD: 0,"Balance:\nOK\n1.50",15')]
    line.hear(b'+CUSD: 0,"never ends\r\n')
    events = line.hear((b"x" * 100 + b"\r\n") * 30)
    assert len(events) == 1
    line.ask(SIGNAL)
    assert line.hear(b"OK\r\n") == [Answered(SIGNAL, (), None)]


# ------------------------------------------------------------ a prompt


@pytest.mark.parametrize(
    "prompt",
    [
        b"\r\n> ",
        b">",
        b"> \r\n",
        b"AT+CMGS=5\r\r\n> ",
        b"\r\n+CREG: 1\r\n\r\n> ",
        b"\r\nOK\r\n> ",
        b'> +CMTI: "SM",2\r\n',
    ],
)
def test_27_005_3_5_1_the_pdu_follows_the_prompt(prompt: bytes) -> None:
    line = Line()
    assert line.ask(SUBMIT) == b"AT+CMGS=5\r"
    assert line.engine.data_to_send() == b""
    line.hear(prompt)
    assert line.engine.submitted
    assert line.engine.data_to_send() == b"00AB\x1a"
    # The PDU echoed, another prompt, and what comes by itself before the result.
    events = line.hear(b'00AB\x1a\r\n> \r\n+CMTI: "SM",1\r\n+CMGS: 44\r\n\r\nOK\r\n')
    assert events == [
        Unsolicited('+CMTI: "SM",1'),
        Answered(SUBMIT, ("+CMGS: 44",), None, submitted=True),
    ]
    assert not line.engine.submitted


def test_a_refusal_in_place_of_the_prompt() -> None:
    line = Line()
    line.ask(SUBMIT)
    error = AtError(ErrorKind.CMS, 304)
    assert line.hear(b"+CMS ERROR: 304\r\n") == [Answered(SUBMIT, (), error)]
    assert line.engine.data_to_send() == b""


def test_no_prompt_no_pdu() -> None:
    line = Line()
    line.ask(SUBMIT)
    assert line.wait(PROMPT_TIMEOUT_S - 0.1) == []
    assert line.wait(0.1) == [TimedOut(SUBMIT, submitted=False)]
    assert line.engine.data_to_send() == b"\x1b\rAT\r"
    # The prompt that comes now is left by the escape.
    line.hear(b"\r\n> ")
    assert line.engine.data_to_send() == b""


def test_what_became_of_a_pdu_without_a_result_is_unknown() -> None:
    line = Line()
    line.ask(SUBMIT)
    line.hear(b"> ")
    assert line.wait(59.9) == []
    assert line.wait(0.1) == [TimedOut(SUBMIT, submitted=True)]
    assert not line.engine.submitted


def test_a_command_can_be_hastened() -> None:
    line = Line()
    line.ask(SUBMIT)
    line.hear(b"> ")
    line.engine.hasten(5, line.now_ns)
    line.engine.hasten(50, line.now_ns)
    assert line.wait(5) == [TimedOut(SUBMIT, submitted=True)]


def test_a_command_that_is_hastened_before_its_prompt_stays_so() -> None:
    line = Line()
    line.ask(SUBMIT)
    line.engine.hasten(5, line.now_ns)
    line.engine.hasten(50, line.now_ns)
    line.hear(b"> ")
    assert line.wait(5) == [TimedOut(SUBMIT, submitted=True)]
    line.hear(b"OK\r\n")
    assert line.wait(RESUME_QUIET_S) == [Resumed()]
    line.ask(SIGNAL)
    assert line.wait(SIGNAL.timeout_s - 1) == []


# ------------------------------------------------------------ silence


def test_what_comes_late_is_no_answer_to_the_next() -> None:
    line = Line()
    line.ask(READ)
    assert line.wait(READ.timeout_s) == [TimedOut(READ, submitted=False)]
    assert line.engine.data_to_send() == b"\x1b\rAT\r"
    late = line.hear(b"+CMGR: 0,,2\r\n00AB\r\nOK\r\n")
    assert not any(isinstance(event, Answered) for event in late)
    assert line.wait(RESUME_QUIET_S / 2) == []
    assert line.hear(b"\r\nOK\r\n") == []
    assert line.wait(RESUME_QUIET_S * 0.9) == []
    assert line.wait(RESUME_QUIET_S * 0.1) == [Resumed()]
    line.ask(SIGNAL)
    assert line.hear(b"+CSQ: 1,99\r\nOK\r\n") == [Answered(SIGNAL, ("+CSQ: 1,99",), None)]


def test_a_modem_that_is_silent_is_asked_again_then_given_up() -> None:
    line = Line()
    line.ask(SIGNAL)
    line.wait(SIGNAL.timeout_s)
    for _ in range(RESUME_ATTEMPTS - 1):
        assert line.engine.data_to_send() == b"\x1b\rAT\r"
        assert line.hear(b"^RSSI: 3\r\n") == [Unsolicited("^RSSI: 3")]
        assert line.wait(RESUME_TIMEOUT_S) == []
    assert line.engine.data_to_send() == b"\x1b\rAT\r"
    assert line.wait(RESUME_TIMEOUT_S) == [Hung()]
    assert not line.engine.is_idle
    assert line.hear(b"OK\r\n") == []
    assert line.wait(1000) == []


# ------------------------------------------------------------ noise


def test_a_line_without_end_is_passed_over() -> None:
    line = Line()
    line.ask(SIGNAL)
    for _ in range(50):
        assert line.hear(b"x" * LINE_BYTES_MAXIMUM) == []
    assert line.hear(b"\r\n+CSQ: 1,99\r\nOK\r\n") == [Answered(SIGNAL, ("+CSQ: 1,99",), None)]
    assert line.engine.strays == 1


def test_an_answer_without_end_is_bounded() -> None:
    line = Line()
    line.ask(SIGNAL)
    line.hear(b"+CSQ: 1,99\r\n" * (ANSWER_LINES_MAXIMUM + 10))
    (answered,) = line.hear(b"OK\r\n")
    assert isinstance(answered, Answered)
    assert len(answered.lines) == ANSWER_LINES_MAXIMUM


def test_noise_before_and_within_a_line() -> None:
    line = Line()
    assert line.hear(b'\xff\x00\xfe+CM\x00TI: "SM",3\r\n') == [Unsolicited('+CMTI: "SM",3')]
    assert line.hear("ы+CREG: 1\r\n".encode()) == [Unsolicited("+CREG: 1")]
    assert line.hear(b"\x80\x81\x82\r\nnonsense\r\nOK\r\n+CSQ 1\r\n00AB\r\n") == [
        Unsolicited("+CSQ 1")
    ]


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.sampled_from(
                [b"OK\r\n", b"> ", b"+CMT: ,2\r\n", b"00AB\r\n", b'+CUSD: 0,"', b"+CMGR: 0,,2\r\n"]
            ),
            st.sampled_from([SIGNAL, READ, SUBMIT]),
            st.floats(0, 200),
        ),
        max_size=40,
    )
)
@example([SUBMIT, b"> ", b"> ", 61.0, b"> ", b"> ", 1.0, 5.0, 5.0, 5.0])
def test_fuzz_each_command_ends_once(steps: list[bytes | Command | float]) -> None:
    line = Line()
    asked = ended = submitted = 0
    events: list[Event] = []
    for step in steps:
        if isinstance(step, Command):
            if line.engine.is_idle:
                line.engine.send(step, line.now_ns)
                asked += 1
        elif isinstance(step, bytes):
            events += line.hear(step)
        else:
            events += line.wait(step)
        submitted += line.engine.data_to_send().count(b"\x1a")
    while line.engine.next_deadline_ns is not None:
        line.now_ns = line.engine.next_deadline_ns
        events += line.engine.tick(line.now_ns)
    ended = sum(isinstance(event, Answered | TimedOut) for event in events)
    assert ended == asked
    assert submitted <= sum(step is SUBMIT for step in steps)
    assert line.engine.is_idle or isinstance(events[-1], Hung) or Hung() in events
