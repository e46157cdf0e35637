"""What modems' error numbers mean for a message that was to be sent, and for a SIM."""

from __future__ import annotations

from enum import Enum
from typing import Final

from bridges.gsm.at import AtError, ErrorKind

CME_SIM_ABSENT: Final = frozenset({10, 13, 15})
CME_PIN_WANTED: Final = 11
CME_PUK_WANTED: Final = 12
CME_BUSY: Final = 14
CME_WRONG_PIN: Final = 16
"""3GPP TS 27.007 section 9.2.1."""

CMS_BUSY: Final = 314
"""3GPP TS 27.005 section 3.2.5."""

_CMS_MESSAGE: Final = frozenset(
    {
        # TS 24.011 section E.2: no such number, and what can't be read.
        1, 81, *range(95, 100),
        # TS 23.040 section 9.2.3.22: a kind of message, or its recipient.
        *range(128, 192), 195, 196, 197, 198, 199,
        # TS 27.005 section 3.2.5: the PDU.
        304, 305,
    }
)  # fmt: skip
_CMS_SIM: Final = frozenset(
    {
        # TS 24.011 section E.2: barred, not registered, not in the contract; the service centre's
        # number isn't set.
        8, 50, 330,
    }
)  # fmt: skip
_CMS_SIM_PERHAPS: Final = frozenset(
    {
        # TS 24.011 section E.2, TS 23.040 section 9.2.3.22 (193): mostly no credit, or a SIM that
        # the network doesn't know; but also a recipient, or a text that an operator doesn't like.
        10, 21, 28, 29, 30, 69, 111, 127, 193,
        # TS 27.005 section 3.2.5: what this modem can't do another can.
        303,
    }
)  # fmt: skip
_CMS_START: Final = frozenset(
    {
        # TS 27.005 section 3.2.5: the SIM is locked, or away: the modem has started by itself.
        302, 310, 311, 312, 313, 315, 316, 317, 318,
    }
)  # fmt: skip
_CMS_NOT_YET: Final = frozenset({301, 314, 331})
"""TS 27.005 section 3.2.5: the modem is in use, the SIM is busy, no network."""
_CME_START: Final = CME_SIM_ABSENT | {CME_PIN_WANTED, CME_PUK_WANTED}


class Verdict(Enum):
    """What an error in place of +CMGS says.

    LATER, SIM and START say for certain that the message was not sent.

    Attributes:
        LATER: it can be tried again.
        NEVER: the message can't be sent by anybody.
        SIM: this SIM can't send, another may.
        START: the modem isn't as it was when it was started.
        UNKNOWN: the message may have been sent.
    """

    LATER = "later"
    NEVER = "never"
    SIM = "sim"
    START = "start"
    UNKNOWN = "unknown"


def verdict(error: AtError, *, submitted: bool) -> Verdict:
    """Whose fault `error` is; `submitted` where the modem had got the message before."""
    match error:
        case (ErrorKind.CMS, int(code)):
            if code in _CMS_MESSAGE:
                return Verdict.NEVER
            if code in _CMS_SIM or code in _CMS_SIM_PERHAPS:
                return Verdict.SIM
            if code in _CMS_START:
                return Verdict.START
            # TS 24.011 section E.2: causes without a meaning are temporary failures.
            if code in _CMS_NOT_YET or code < 300:
                return Verdict.LATER
        case (ErrorKind.CME, int(code)) if code in _CME_START:
            return Verdict.START
        case (ErrorKind.CME, code) if code == CME_BUSY:
            return Verdict.LATER
    # Any other cause, and none: it may have come when the network had taken the message.
    if submitted:
        return Verdict.UNKNOWN
    # A modem that was told to name causes, and doesn't, has forgotten it.
    return Verdict.LATER if error.code is not None else Verdict.START


def is_certain(error: AtError) -> bool:
    """Whether a SIM's fault can't be a message's."""
    return error.kind is ErrorKind.CMS and error.code in _CMS_SIM


def describe(error: AtError) -> str:
    """The error for an operator's eye."""
    if error.kind is ErrorKind.CMS and error.code in _SENTENCES:
        return f"{error} ({_SENTENCES[error.code]})"
    return str(error)


def advice(error: AtError) -> str:
    """What an operator can do about a SIM's fault."""
    if error.kind is ErrorKind.CMS and error.code in _ADVICE:
        return _ADVICE[error.code]
    return "check the SIM's credit and contract"


_SENTENCES: Final[dict[int | None, str]] = {
    1: "no such number",
    8: "barred by the operator",
    10: "SMS to there are barred",
    21: "rejected by the network",
    27: "the recipient's network can't be reached",
    28: "the SIM is unknown to the network",
    29: "the network can't do this now",
    30: "the SIM or the recipient is unknown",
    38: "the network is out of order",
    41: "a temporary failure of the network",
    42: "the network is congested",
    50: "SMS isn't in this SIM's contract",
    69: "the network doesn't offer this",
    193: "no contract with the service centre",
    302: "not allowed now",
    303: "the modem can't do this",
    304: "the modem takes the PDU for invalid",
    310: "no SIM",
    311: "the SIM wants its PIN",
    316: "the SIM wants its PUK",
    330: "the service centre's number is not set",
    331: "no network",
    332: "the network has not answered",
    500: "no cause was told",
}

_ADVICE: Final[dict[int | None, str]] = {
    8: "ask the operator to lift the bar",
    10: "lift the SIM's call barring",
    50: "change the SIM's contract",
    303: "try another modem",
    330: "set it with AT+CSCA",
}
