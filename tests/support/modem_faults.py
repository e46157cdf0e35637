"""What can go wrong with an emulated modem: each a switch, and those in a queue used up one by one.

modem.faults.answer_next("+CMGD", "+CMS ERROR: 500", times=3)
modem.faults.at_submit += [Refuse(38), Reboot(sent=True)]
modem.faults.at_prompt = lambda: network.deliver(number, "+491701234567", "in between")
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

SILENCE = ""
FOREVER = -1


@dataclass(frozen=True)
class Refuse:
    """The modem answers `+CMS ERROR` with that number (TS 27.005, 3.2.5), or `ERROR`; mostly as the
    network has taken no message, but it may have been `sent` all the same."""

    cms_error: int | None
    sent: bool = False


@dataclass(frozen=True)
class Silence:
    """There is no reply, whether or not the message went out."""

    sent: bool


@dataclass(frozen=True)
class Reboot:
    """The modem starts anew in the midst of it, and says nothing of the message's fate."""

    sent: bool


@dataclass(frozen=True)
class Unplug:
    """Its cable is pulled in the midst of it."""

    sent: bool


SubmitFault = Refuse | Silence | Reboot | Unplug


class Combined(Enum):
    """What becomes of several commands in one line (V.250, 5.4.1 and 5.7.3): they are carried out,
    with one result for all of them; refused; only the first is carried out; or each has a result.
    """

    CARRIED_OUT = auto()
    REFUSED = auto()
    ONLY_FIRST = auto()
    RESULT_EACH = auto()


class ReportStore(Enum):
    """Where reports lie that are not handed over (TS 27.005, 3.1): among the messages; or in SR, a
    memory of their own, which +CPMS takes for what is read and deleted, or for nothing. A modem
    that has it hands none over."""

    AMONG_MESSAGES = auto()
    READABLE = auto()
    UNREADABLE = auto()


@dataclass
class _Answer:
    command: str
    answer: str
    times: int


@dataclass
class Faults:
    """See the module; without any, the modem does what the specifications say."""

    at_submit: deque[SubmitFault | None] = field(default_factory=deque)
    """One for each CMGS to come, once its PDU is in."""

    at_prompt: Callable[[], None] | None = None
    """Called once, between the prompt of a CMGS and its data."""

    in_reply: Callable[[], None] | None = None
    """Called once, after `in_reply_after_lines` lines of the next reply that has so many."""

    in_reply_after_lines: int = 1

    echo_always: bool = False
    """Commands are echoed, whatever ATE0 says."""

    receive_twice: bool = False
    """Each message is both stored and sent to the line."""

    lose_unsolicited: bool = False
    """No message or report is ever announced or sent to the line."""

    hands_over_again: bool = False
    """What the line doesn't acknowledge is handed to it again, against TS 27.005, 3.4.4."""

    combined: Combined = Combined.CARRIED_OUT

    stores_accepted: frozenset[int] = frozenset({1, 2, 3})
    """How many stores +CPMS may be given."""

    report_store: ReportStore = ReportStore.AMONG_MESSAGES

    starts_silently: bool = False
    """A restart isn't told by `^BOOT`."""

    vanish_on_reset: bool = False
    """+CFUN=1,1 takes the device away; it comes back under another pty number."""

    cut_pdu_octets: int = 0
    """PDUs that the modem gives out lack so many octets at their end."""

    length_off_by: int = 0
    """The length that stands before such a PDU is wrong by so much."""

    _answers: list[_Answer] = field(default_factory=list)

    def answer_next(self, command: str, answer: str, times: int = 1) -> None:
        """Commands that begin so ("+CMGD", "+CPIN?") get that answer, and are not carried out.

        SILENCE: no answer at all. FOREVER: all that come.
        """
        self._answers.append(_Answer(command, answer, times))

    def answer_to(self, command: str) -> str | None:
        """What is to be answered instead of carrying it out; counts as one of the times."""
        for answer in self._answers:
            if command.startswith(answer.command):
                if answer.times != FOREVER:
                    answer.times -= 1
                    if answer.times == 0:
                        self._answers.remove(answer)
                return answer.answer
        return None
