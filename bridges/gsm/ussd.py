"""USSD: what is dialled to ask a network something, and its answer (3GPP TS 27.007 section 7.15).

Some modems take and give text, others the octets of GSM-7 in hex; an answer beyond GSM-7 is UCS-2
in hex for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import Final, NamedTuple

import trio

from bridges.gsm.alphabet import (
    CARRIAGE_RETURN,
    decode_gsm7_untrusted,
    decode_ucs2_untrusted,
    encode_gsm7,
    pack,
    unpack,
)
from bridges.gsm.at import Answered, Command
from core.errors import OperationError

GSM7_CODING: Final = 15
"""TS 23.038 section 5: the default alphabet, of no language."""
WANTS_MORE: Final = 1
TIMEOUT_S: Final = 45.0
CODE: Final = re.compile(r"[0-9*#+]{1,40}\Z")
"""What may be dialled here; more goes through the menus of a phone."""

_LINE: Final = re.compile(r'\+CUSD: *([0-9])(?: *, *"(.*)"(?: *, *([0-9]{1,3}))?)?', re.DOTALL)
_HEX: Final = re.compile(r"(?:[0-9A-F]{2}|[0-9a-f]{2})+\Z")
_CERTAINLY_PACKED_DIGITS: Final = 14
"""So many hex digits and nothing else is no text for people."""
_AMOUNTS: Final = (
    re.compile(r"-?[0-9]{1,12}[.,][0-9]{1,2}(?![0-9])"),
    re.compile(r"-?[0-9]{1,12}"),
)


class UssdAnswer(NamedTuple):
    """What the network says; `status` is <m> of section 7.15: 0 no more, 1 it wants more, 2 it has
    ended it, 4 it doesn't support it, 5 it has not answered."""

    status: int
    text: str


def pack_code(code: str) -> str:
    """A code as the octets of GSM-7, in hex (TS 23.038 section 6.1.2.3)."""
    septets = encode_gsm7(code)
    assert septets is not None
    if len(septets) % 8 == 7:
        # Seven bits that are left would read as one more character.
        septets += bytes([CARRIAGE_RETURN])
    return pack(septets).hex().upper()


def decode_answer_untrusted(line: str, *, was_packed: bool) -> UssdAnswer | None:
    """The answer in a line of ``+CUSD``, or None where there is none in it.

    Args:
        was_packed: whether the modem wanted the code packed, and so gives the answer.
    """
    found = _LINE.match(line)
    if found is None:
        return None
    status, text, coding = int(found[1]), found[2] or "", int(found[3] or GSM7_CODING)
    if not _HEX.match(text):
        return UssdAnswer(status, text)
    octets = bytes.fromhex(text)
    if _is_ucs2(coding):
        return UssdAnswer(status, decode_ucs2_untrusted(octets).strip())
    if not (was_packed or len(text) >= _CERTAINLY_PACKED_DIGITS):
        return UssdAnswer(status, text)
    septets = unpack(octets, len(octets) * 8 // 7)
    if len(septets) % 8 == 0:
        septets = septets.removesuffix(bytes([CARRIAGE_RETURN]))
    return UssdAnswer(status, decode_gsm7_untrusted(septets).strip())


def _is_ucs2(coding: int) -> bool:
    """TS 23.038 section 5."""
    return coding == 0x11 or (0x40 <= coding < 0x80 and coding >> 2 & 0x03 == 2)


def amount_in(text: str) -> Decimal | None:
    """The balance in what a network says: the first number with a fraction, else the first."""
    for pattern in _AMOUNTS:
        if found := pattern.search(text):
            try:
                return Decimal(found[0].replace(",", "."))
            except InvalidOperation:
                return None
    return None


class UssdSession:
    """What one modem asks the network, a code at a time; `ask` has a command carried out."""

    def __init__(self, ask: Callable[[Command], Awaitable[Answered]]) -> None:
        self._ask = ask
        self._busy = trio.Lock()
        self._is_packed = False
        self._answer: UssdAnswer | None = None
        self._heard = trio.Event()

    def heard(self, line: str) -> None:
        """A line of `+CUSD`, which the modem says by itself."""
        self._answer = decode_answer_untrusted(line, was_packed=self._is_packed)
        self._heard.set()

    async def dial(self, code: str) -> str:
        """What the network says to a code.

        Raises:
            OperationError: it is no code, or nothing is said.
            PortLost: the line to the modem is.
        """
        if not CODE.match(code):
            raise OperationError("write a code such as *100#", "ussd_code")
        async with self._busy:
            answer = await self._dial(code)
            if answer is not None and answer.status == WANTS_MORE:
                await self._ask(Command("AT+CUSD=2"))
        if answer is None or not answer.text:
            raise OperationError("the network has given no answer; try again", "ussd_silent")
        return answer.text

    async def _dial(self, code: str) -> UssdAnswer | None:
        for is_packed, text in ((False, code), (True, pack_code(code))):
            self._is_packed = is_packed
            self._answer = None
            self._heard = trio.Event()
            command = Command(f'AT+CUSD=1,"{text}",{GSM7_CODING}', timeout_s=30.0)
            if (await self._ask(command)).error is None:
                with trio.move_on_after(TIMEOUT_S):
                    await self._heard.wait()
                return self._answer
        return None
