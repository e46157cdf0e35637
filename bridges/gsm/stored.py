"""The messages that a modem shows of a store (3GPP TS 27.005 sections 3.4.2 and 3.4.3), and the
command lines that delete them; sans-I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, zip_longest
from typing import Final, NamedTuple

from bridges.gsm.at import Command
from bridges.gsm.pdu import PduError, tpdu_untrusted

PLACE_MAXIMUM: Final = 99_999
"""Of five digits."""
LISTING_TIMEOUT_S: Final = 60.0

NEW: Final = (0, 1)
"""<stat> of `+CMGL` and `+CMGR`: received, unread and read."""
UNSENT: Final = (2,)
SENT: Final = (3,)
"""What was written here: drafts, and copies of what was sent."""
LIST: Final = Command("AT+CMGL=4", "+CMGL:", with_pdus=True, timeout_s=LISTING_TIMEOUT_S)
LISTED: Final = re.compile(r"\+CMGL: *([0-9]{1,5}) *, *([0-9]) *,.*, *([0-9]{1,3})\Z")
READ: Final = re.compile(r"\+CMGR: *()([0-9]) *,.*, *([0-9]{1,3})\Z")


class Stored(NamedTuple):
    """A message in a store.

    Attributes:
        place: its <index>; 0 where the answer doesn't say.
        length: octets of its TPDU.
        line: its PDU, empty where that has got lost.
        is_sure: whether the place is in its order among those of its answer.
    """

    place: int
    length: int
    line: str
    is_sure: bool

    @property
    def is_whole(self) -> bool:
        """Whether the PDU is as long as the modem says."""
        try:
            return bool(tpdu_untrusted(self.line, self.length))
        except PduError:
            return False


def messages_untrusted(
    form: re.Pattern[str], lines: Sequence[str], statuses: Sequence[int]
) -> list[Stored]:
    """The messages in an answer of this form, `LISTED` or `READ`, that have one of these <stat>.

    They come in the order of their indexes. One that isn't above all before it and below all after
    it may have lost a digit on the line, and be another message's.
    """
    headers = [
        (header, following)
        for line, following in zip_longest(lines, lines[1:], fillvalue="")
        if (header := form.match(line))
    ]
    places = [int(header[1] or 0) for header, _ in headers]
    below = accumulate(places, max, initial=-1)
    above = [*accumulate(reversed(places), min, initial=PLACE_MAXIMUM + 1)][-2::-1]
    return [
        Stored(place, int(header[3]), "" if pdu.startswith("+") else pdu, highest < place < lowest)
        for (header, pdu), place, highest, lowest in zip(
            headers, places, below, above, strict=False
        )
        if int(header[2]) in statuses
    ]


def deletions(indexes: Sequence[int], line_maximum: int) -> list[str]:
    """Command lines that delete messages, of several commands each as far as they fit (V.250
    section 5.4.1)."""
    lines: list[str] = []
    for index in indexes:
        command = f"+CMGD={index}"
        if lines and len(lines[-1]) + len(command) < line_maximum:
            lines[-1] += ";" + command
        else:
            lines.append("AT" + command)
    return lines
