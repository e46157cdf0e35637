"""The conversation with a modem (3GPP TS 27.007 and 27.005), sans-I/O.

    engine.send(Command("AT+CSQ", "+CSQ:"), now_ns)
    write(engine.data_to_send())
    for event in engine.receive_untrusted(read(), now_ns): ...    # Answered, Unsolicited
    for event in engine.tick(now_ns): ...                         # at next_deadline_ns

One command at a time. What a modem says by itself is told from what it answers by the answer's
prefix, wherever it comes. A command that is not answered in time is given up (`TimedOut`), and the
conversation is found again: an escape, `AT`, and silence behind the result, so that what comes late
is no answer to the next command. Then `Resumed` comes, or `Hung`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from core.units import NS_PER_S

LINE_BYTES_MAXIMUM: Final = 2048
"""A PDU has 352 hex digits; what is longer than this is noise, and is passed over."""
ANSWER_LINES_MAXIMUM: Final = 2048
"""`+CMGL` has two lines a message; no SIM has room for 1,024."""
PROMPT_TIMEOUT_S: Final = 10.0
RESUME_TIMEOUT_S: Final = 3.0
RESUME_ATTEMPTS: Final = 5
RESUME_QUIET_S: Final = 1.0
"""So long after a result nothing more may come."""

_ESCAPE: Final = b"\x1b"
_END_OF_PDU: Final = b"\x1a"
_HEX: Final = re.compile(r"[0-9A-Fa-f]+\Z")
_BARE: Final = re.compile(r"[0-9A-Fa-f]{6,22}\Z")
_ERROR: Final = re.compile(r"\+CM([ES]) ERROR: *([0-9]{1,5}\Z)?")
_SPOKEN: Final = ("+", "^", "*", "RING", "NO CARRIER", "RDY", "Call Ready", "SMS Ready")
_WITH_PDU: Final = ("+CMT:", "+CDS:", "+CBM:")
_NEVER_ANSWERS: Final = (*_WITH_PDU, "+CMTI:", "+CDSI:", "+CUSD:")
_REGISTRATION: Final = re.compile(r"\+C[GE]?REG: *([0-9]+ *(, *[^0-9 ]|\Z))")
"""What `+CREG` says by itself: the state alone, or with quoted places behind it. An answer has
how it is told first, then the state."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a modem is asked.

    Attributes:
        text: the line, without its end.
        prefix: how lines of the answer begin; where empty, none is expected.
        with_pdus: whether each of them is followed by a line of hex.
        bare: whether the answer may be a line of digits without the prefix.
        payload: hex that is sent when the modem prompts for it, with 0x1A behind it.
        timeout_s: how long the result may take; with a payload, from when that was sent.
    """

    text: str
    prefix: str = ""
    with_pdus: bool = False
    bare: bool = False
    payload: str = ""
    timeout_s: float = 15.0


class ErrorKind(Enum):
    """Whose numbers an error has: nobody's, TS 27.007 section 9.2's or 27.005 section 3.2.5's."""

    PLAIN = auto()
    CME = auto()
    CMS = auto()


class AtError(NamedTuple):
    """A final result that is no OK; `code` is None where the modem named none."""

    kind: ErrorKind
    code: int | None

    def __str__(self) -> str:
        if self.kind is ErrorKind.PLAIN:
            return "ERROR"
        return f"{self.kind.name} {'?' if self.code is None else self.code}"


class Answered(NamedTuple):
    """A command's final result, and the lines before it; `submitted` where its payload had been
    sent."""

    command: Command
    lines: tuple[str, ...]
    error: AtError | None
    submitted: bool = False


class Unsolicited(NamedTuple):
    """What a modem says by itself; with the line of hex that follows `+CMT`, `+CDS` and `+CBM`,
    empty where it was missing."""

    line: str
    pdu: str = ""


class TimedOut(NamedTuple):
    """The command was given up; `submitted` where its payload has been sent, so that nobody can
    tell what became of it."""

    command: Command
    submitted: bool


class Resumed(NamedTuple):
    """The conversation has been found again."""


class Hung(NamedTuple):
    """The modem answers nothing at all."""


Event = Answered | Unsolicited | TimedOut | Resumed | Hung


class _State(Enum):
    IDLE = auto()
    WAITING = auto()
    RESUMING = auto()
    HUNG = auto()


class AtEngine:
    """One conversation. Times are monotonic nanoseconds.

    Attributes:
        next_deadline_ns: when `tick` is due; None while nothing is.
        strays: how many lines belonged to nothing.
    """

    def __init__(self) -> None:
        self.next_deadline_ns: int | None = None
        self.strays = 0
        self._state = _State.IDLE
        self._command: Command | None = None
        self._submitted = False
        self._latest_ns: int | None = None
        self._lines: list[str] = []
        self._attempts = 0
        self._heard = False
        self._buffer = bytearray()
        self._skips = False
        self._head: str | None = None
        self._open_text: str | None = None
        self._output = bytearray()

    @property
    def is_idle(self) -> bool:
        """Whether a command can be sent."""
        return self._state is _State.IDLE

    @property
    def submitted(self) -> bool:
        """Whether a payload is on its way whose result hasn't come."""
        return self._submitted

    def data_to_send(self) -> bytes:
        """What is to be written now; it is not given again."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def send(self, command: Command, now_ns: int) -> None:
        """Begin with `command`; the engine is idle."""
        assert self._state is _State.IDLE
        assert command.text.isascii()
        assert command.text.isprintable()
        self._state = _State.WAITING
        self._command = command
        self._submitted = False
        self._lines = []
        self._latest_ns = None
        timeout_s = PROMPT_TIMEOUT_S if command.payload else command.timeout_s
        self.next_deadline_ns = now_ns + round(timeout_s * NS_PER_S)
        self._output += command.text.encode() + b"\r"

    def hasten(self, within_s: float, now_ns: int) -> None:
        """Give the command that waits `within_s` at most from now on: there is reason to think
        that it won't be answered."""
        if self._state is _State.WAITING:
            assert self.next_deadline_ns is not None
            latest_ns = now_ns + round(within_s * NS_PER_S)
            self._latest_ns = min(latest_ns, self._latest_ns or latest_ns)
            self.next_deadline_ns = min(self.next_deadline_ns, self._latest_ns)

    def tick(self, now_ns: int) -> list[Event]:
        """What follows from `next_deadline_ns` being reached."""
        if self.next_deadline_ns is None or now_ns < self.next_deadline_ns:
            return []
        events: list[Event] = []
        if self._state is _State.WAITING:
            assert self._command is not None
            events += self._close_open()
            events.append(TimedOut(self._command, self._submitted))
            self._command = None
            self._submitted = False
            self._state = _State.RESUMING
            self._attempts = 0
            self._resume(now_ns)
        elif self._heard:
            self._state = _State.IDLE
            self.next_deadline_ns = None
            events.append(Resumed())
        elif self._attempts < RESUME_ATTEMPTS:
            self._resume(now_ns)
        else:
            self._state = _State.HUNG
            self.next_deadline_ns = None
            events.append(Hung())
        return events

    def _resume(self, now_ns: int) -> None:
        self._attempts += 1
        self._heard = False
        self._buffer.clear()
        # The escape leaves a prompt; as a line of its own it spoils no command.
        self._output += _ESCAPE + b"\rAT\r"
        self.next_deadline_ns = now_ns + round(RESUME_TIMEOUT_S * NS_PER_S)

    # ------------------------------------------------------------ what the modem says

    def receive_untrusted(self, data: bytes, now_ns: int) -> list[Event]:
        """What `data` completes. Whatever it is, nothing is raised."""
        events: list[Event] = []
        for piece in re.split(rb"([\r\n])", data):
            if piece in (b"\r", b"\n"):
                if not self._skips and self._buffer:
                    line = _clean(bytes(self._buffer))
                    self._buffer.clear()
                    if line:
                        events += self._line(line, now_ns)
                self._skips = False
            elif not self._skips:
                self._buffer += piece
                if len(self._buffer) > LINE_BYTES_MAXIMUM:
                    self._buffer.clear()
                    self._skips = True
                    self.strays += 1
        if self._waits_for_prompt() and self._buffer.lstrip().startswith(b">"):
            self._buffer.clear()
            self._submit(now_ns)
        return events

    def _waits_for_prompt(self) -> bool:
        return self._command is not None and bool(self._command.payload) and not self._submitted

    def _submit(self, now_ns: int) -> None:
        assert self._command is not None
        self._submitted = True
        self._output += self._command.payload.encode() + _END_OF_PDU
        self.next_deadline_ns = now_ns + round(self._command.timeout_s * NS_PER_S)
        if self._latest_ns is not None:
            self.next_deadline_ns = min(self.next_deadline_ns, self._latest_ns)

    def _line(self, line: str, now_ns: int) -> list[Event]:
        if self._open_text is not None:
            return self._more_text(line)
        if self._waits_for_prompt() and line.startswith(">"):
            self._submit(now_ns)
            line = line[1:].strip()
            if not line:
                return []
        if _HEX.match(line):
            if self._head is not None:
                head, self._head = self._head, None
                return [Unsolicited(head, line)]
            if self._command is not None and self._command.with_pdus:
                return self._answer_line(line)
        if line == "OK" or line in ("ERROR", "COMMAND NOT SUPPORT", "TOO MANY PARAMETERS"):
            return self._result(None if line == "OK" else AtError(ErrorKind.PLAIN, None), now_ns)
        if error := _ERROR.match(line):
            kind = ErrorKind.CME if error[1] == "E" else ErrorKind.CMS
            return self._result(AtError(kind, int(error[2]) if error[2] else None), now_ns)
        if self._is_answer(line):
            return self._answer_line(line)
        return self._spoken(line)

    def _is_answer(self, line: str) -> bool:
        command = self._command
        if command is None or line.startswith(_NEVER_ANSWERS) or _REGISTRATION.match(line):
            return False
        if command.bare and _BARE.match(line):
            return True
        return bool(command.prefix) and line.startswith(command.prefix)

    def _answer_line(self, line: str) -> list[Event]:
        if len(self._lines) < ANSWER_LINES_MAXIMUM:
            self._lines.append(line)
        else:
            self.strays += 1
        return []

    def _result(self, error: AtError | None, now_ns: int) -> list[Event]:
        events = self._close_open()
        if self._state is _State.RESUMING:
            self._heard = True
            self.next_deadline_ns = now_ns + round(RESUME_QUIET_S * NS_PER_S)
        elif self._command is None:
            self.strays += 1
        elif self._waits_for_prompt() and error is None:
            # A modem that ends CMGS before it has asked for anything has heard something else.
            self.strays += 1
        else:
            events.append(Answered(self._command, tuple(self._lines), error, self._submitted))
            self._command = None
            self._submitted = False
            self._lines = []
            self._state = _State.IDLE
            self.next_deadline_ns = None
        return events

    def _spoken(self, line: str) -> list[Event]:
        if not line.startswith(_SPOKEN):
            # An echo, of which some modems can't be cured, or noise.
            self.strays += 1
            return []
        if line.startswith("+CUSD:") and line.count('"') % 2:
            self._open_text = line
            return []
        if line.startswith(_WITH_PDU):
            events = self._close_open()
            self._head = line
            return events
        return [Unsolicited(line)]

    def _more_text(self, line: str) -> list[Event]:
        """`+CUSD` has line feeds within its quotes."""
        assert self._open_text is not None
        self._open_text += "\n" + line
        if self._open_text.count('"') % 2 and len(self._open_text) < LINE_BYTES_MAXIMUM:
            return []
        text, self._open_text = self._open_text, None
        return [Unsolicited(text)]

    def _close_open(self) -> list[Event]:
        """What was begun and won't be ended."""
        begun = [line for line in (self._head, self._open_text) if line is not None]
        self._head = self._open_text = None
        return [Unsolicited(line) for line in begun]


def _clean(line: bytes) -> str:
    """A line without what noise has put into it or before it."""
    text = line.decode("utf-8", "ignore")
    if text.isascii() and text.isprintable():
        return text.strip()
    text = "".join(filter(str.isprintable, text))
    return re.sub(r"^[^\x20-\x7e]+(?=[+^])", "", text).strip()
