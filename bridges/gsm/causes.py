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

_TEMPORARY: Final = frozenset(
    {
        # TS 24.011 section E.2: the network, for now.
        38, 41, 42, 47,
        # TS 23.040 section 9.2.3.22: the service centre is busy or has no room, ...
        192, 193, 194, 195, 196,
        # ... and the phone.
        208, 211, 212,
        # TS 27.005 section 3.2.5: the modem or the SIM is busy or has failed, no service; 500 is
        # anything else that a modem has no number for.
        300, 301, 313, 314, 320, 322, 331, 500,
    }
)  # fmt: skip
_UNKNOWN: Final = frozenset({332})
"""A timeout of the network: it may have taken the message."""


class Verdict(Enum):
    """What an error in place of +CMGS says about the message."""

    LATER = "later"
    NEVER = "never"
    UNKNOWN = "unknown"


def verdict(error: AtError) -> Verdict:
    """Whether a message that was refused with `error` can be tried again."""
    if error.kind is ErrorKind.CMS and error.code in _UNKNOWN:
        return Verdict.UNKNOWN
    if error.kind is ErrorKind.CMS and error.code is not None and error.code < 512:
        return Verdict.LATER if error.code in _TEMPORARY else Verdict.NEVER
    # A plain ERROR, and the manufacturer's own numbers: not sent, and nobody knows for how long.
    return Verdict.LATER


def describe(error: AtError) -> str:
    """The error for an operator's eye."""
    if error.kind is ErrorKind.CMS and error.code in _SENTENCES:
        return f"{error} ({_SENTENCES[error.code]})"
    return str(error)


_SENTENCES: Final[dict[int | None, str]] = {
    1: "no such number",
    8: "barred by the operator",
    10: "calls are barred",
    21: "rejected by the network: often no credit is left",
    27: "the recipient can't be reached",
    28: "the recipient is unknown",
    30: "the SIM is unknown to the network",
    38: "the network is out of order",
    41: "a temporary failure of the network",
    42: "the network is congested",
    50: "SMS isn't in this SIM's contract",
    69: "the network doesn't offer this",
    304: "the modem takes the PDU for invalid",
    310: "no SIM",
    330: "the service centre's number is not set",
    331: "no network",
    332: "the network has not answered",
    500: "no cause was told",
}
