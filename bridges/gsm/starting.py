"""How a modem is made ready, from whatever state it is in (3GPP TS 27.007, 27.005)."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Final, NamedTuple

import msgspec
import trio

from bridges.gsm.at import Answered, AtError, Command, ErrorKind
from bridges.gsm.causes import (
    CME_BUSY,
    CME_PIN_WANTED,
    CME_PUK_WANTED,
    CME_SIM_ABSENT,
    CME_WRONG_PIN,
    CMS_BUSY,
)
from bridges.gsm.port import NoAnswer, Port
from bridges.spool import Change, Spool
from core.bridge_config import ModemConfig
from core.errors import MontanaError
from core.log import log_event

BUSY_ATTEMPTS: Final = 30
BUSY_INTERVAL_S: Final = 2.0
"""A SIM that has just got its power is busy for up to a minute."""
RESULTS_APART_S: Final = 1.0
"""So long the results of two commands that do nothing may be apart."""

_STORES: Final = ("SM", "ME")
"""Where messages lie: the SIM, and the modem's own memory."""
_REPORT_STORE: Final = "SR"
_REPORTS_DIRECTLY: Final = "AT+CNMI=2,1,0,1,0"
_REPORTS_STORED: Final = "AT+CNMI=2,1,0,2,0"
_ANNOUNCE: Final = (_REPORTS_DIRECTLY, _REPORTS_STORED, "AT+CNMI=1,1,0,1,0", "AT+CNMI=2,1")
"""Messages are stored and announced, reports come directly; else as much of it as there is."""
STATE_MAXIMUM_CHARACTERS: Final = 32
"""What a SIM waits for has at most 13 (TS 27.007 section 8.3); the rest is noise."""
_CORRECT_PIN: Final = "correct pin in the configuration; or take it out, start once, put it back"
_QUOTED: Final = re.compile(r'"([A-Z]{2})"')

_log = logging.getLogger("montana.bridge.gsm")


class NotReady(MontanaError):
    """The modem can't be used for now; the message is its state, for status: ``no SIM`` ...

    Attributes:
        advice: what the operator has to do; empty where it may come by itself.
    """

    def __init__(self, state: str, advice: str = "") -> None:
        super().__init__(state)
        self.advice = advice


class Refused(MontanaError):
    """A command that has to succeed has not."""


class Ready(NamedTuple):
    """What the start has found out.

    Attributes:
        stores: where messages come to as they are told, the one that is in use first.
        readable: others, which may be no more than read and emptied, or not even that.
        acknowledges: whether what comes directly is to be acknowledged (`+CNMA`).
        announce: the `+CNMI` that the modem has taken.
        combines: whether several commands of messages can stand on a line (V.250 section 5.4.1).
    """

    stores: tuple[str, ...]
    readable: tuple[str, ...]
    acknowledges: bool
    announce: str
    combines: bool


async def start(port: Port, config: ModemConfig, spool: Spool) -> Ready:
    """Bring a modem from any state to one in which it receives and sends.

    Raises:
        NotReady: its SIM is missing, locked or spoilt.
        Refused: it doesn't do what each modem can.
        NoAnswer, PortLost: as `Port.ask`.
    """
    # One that is starting by itself hears nothing at first.
    await softly(port, Command("AT", timeout_s=1.0))
    await must(port, Command("AT"))
    await softly(port, Command("ATZ"))
    await softly(port, Command("ATE0"))
    await must(port, Command("AT+CMEE=1"))
    await _switch_on(port)
    await _open_sim(port, config, spool)
    await softly(port, Command("AT+CREG=1"))
    await patiently(port, Command("AT+CMGF=0"))
    stores, readable = await _choose_stores(port)
    acknowledges = (await softly(port, Command("AT+CSMS=1", "+CSMS:"))).error is None
    if acknowledges:
        # What was handed to a process that is dead was not received. Without a word the modem would
        # hand over nothing more, and announce nothing after a while (TS 27.005 section 3.4.4).
        await softly(port, Command("AT+CNMA=2"))
    announce = await _announce(port)
    if announce == _REPORTS_STORED:
        # What was announced to nobody would fill it, and no report come any more.
        readable += (_REPORT_STORE,)
    return Ready(stores, readable, acknowledges, announce, await _combines(port))


async def must(port: Port, command: Command) -> Answered:
    """The answer to a command that has to succeed.

    Raises:
        Refused: it doesn't.
        NoAnswer, PortLost: as `Port.ask`.
    """
    answer = await port.ask(command)
    if answer.error is not None:
        raise Refused(f"{command.text} is refused: {answer.error}")
    return answer


async def softly(port: Port, command: Command) -> Answered:
    """The answer to a command that the modem may refuse, or not even answer.

    Raises:
        PortLost: as `Port.ask`.
    """
    try:
        return await port.ask(command)
    except NoAnswer:
        return Answered(command, (), AtError(ErrorKind.PLAIN, None))


async def patiently(port: Port, command: Command) -> Answered:
    """As `must`, for a command that a busy SIM refuses at first."""
    for _ in range(BUSY_ATTEMPTS):
        answer = await port.ask(command)
        if not is_busy(answer.error):
            break
        await trio.sleep(BUSY_INTERVAL_S)
    if answer.error is not None:
        raise Refused(f"{command.text} is refused: {answer.error}")
    return answer


async def select_store(port: Port, store: str) -> None:
    """Have messages read, written and received in `store`: all three, for some modems refuse
    fewer.

    Raises:
        Refused, NoAnswer, PortLost: as `must`.
    """
    await patiently(port, Command(f'AT+CPMS="{store}","{store}","{store}"', "+CPMS:"))


def is_busy(error: AtError | None) -> bool:
    """Whether the SIM may do in a moment what it has refused."""
    return error in (AtError(ErrorKind.CME, CME_BUSY), AtError(ErrorKind.CMS, CMS_BUSY))


async def _switch_on(port: Port) -> None:
    answer = await softly(port, Command("AT+CFUN?", "+CFUN:"))
    if answer.lines and not answer.lines[0].replace(" ", "").startswith("+CFUN:1"):
        await softly(port, Command("AT+CFUN=1", timeout_s=30.0))


async def _choose_stores(port: Port) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`Ready.stores` and `Ready.readable`. The modem says what can be read, what can be written
    into, and what messages can come to (TS 27.005 section 3.2.2)."""
    answer = await patiently(port, Command("AT+CPMS=?", "+CPMS:"))
    lists = [set(_QUOTED.findall(one)) for one in "".join(answer.lines).split(")")[:3]]
    told = [one for one in lists if one] or [set()]
    stores = tuple(store for store in _STORES if all(store in one for one in told)) or _STORES[:1]
    readable = tuple(store for store in _STORES if store in told[0] and store not in stores)
    await select_store(port, stores[0])
    return stores, readable


async def _announce(port: Port) -> str:
    for text in _ANNOUNCE:
        if (await softly(port, Command(text))).error is None:
            return text
    # Without announcements messages are found when the store is looked through.
    return _ANNOUNCE[-1]


async def _combines(port: Port) -> bool:
    """Whether the modem takes two commands of messages in a line, carries out both, and has one
    result for them, as it should; manuals of some say that they don't."""
    answer = await softly(port, Command("AT+CMGF=0;+CPMS?", "+CPMS:"))
    if answer.error is None and not answer.lines:
        # Of two results the second is no answer to what is asked next.
        await trio.sleep(RESULTS_APART_S)
    return answer.error is None and bool(answer.lines)


# ------------------------------------------------------------ the SIM's lock


async def _open_sim(port: Port, config: ModemConfig, spool: Spool) -> None:
    lock = await _lock(port)
    if lock == "READY":
        await _confirm_attempt(port, config, spool)
        return
    if lock != "SIM PIN":
        raise NotReady(f"SIM locked: {lock}", "unlock the SIM in a telephone, then put it back")
    if config.pin is None:
        await _forget_attempts(config, spool, await _serial(port))
        raise NotReady("PIN missing", "write the SIM's pin into its [[bridges.gsm.modems]]")
    await _enter_pin(port, config, config.pin, spool)
    for _ in range(BUSY_ATTEMPTS):
        if await _lock(port) == "READY":
            return
        await trio.sleep(BUSY_INTERVAL_S)
    raise NotReady("SIM locked")


async def _lock(port: Port) -> str:
    """What the SIM waits for (TS 27.007 section 8.3)."""
    answer = await _sim_answer(port, Command("AT+CPIN?", "+CPIN:"))
    if answer.lines:
        return answer.lines[0].removeprefix("+CPIN:").strip()[:STATE_MAXIMUM_CHARACTERS]
    error = answer.error
    if error is not None and error.kind is ErrorKind.CME:
        if error.code in CME_SIM_ABSENT:
            raise NotReady("no SIM", "put a SIM card into the modem, and plug it in anew")
        if error.code == CME_PIN_WANTED:
            return "SIM PIN"
        if error.code == CME_PUK_WANTED:
            return "SIM PUK"
    raise NotReady(f"SIM unusable: {error or 'no state'}")


async def _sim_answer(port: Port, command: Command) -> Answered:
    for _ in range(BUSY_ATTEMPTS):
        answer = await softly(port, command)
        if not is_busy(answer.error):
            return answer
        await trio.sleep(BUSY_INTERVAL_S)
    raise NotReady("SIM busy")


async def _serial(port: Port) -> str:
    """The SIM's; empty where the modem doesn't tell it, as some don't of one that is locked."""
    told = "".join((await _sim_answer(port, Command("AT+CCID", "+CCID:", bare=True))).lines)
    return re.sub("[^0-9A-Fa-f]", "", told.removeprefix("+CCID:"))[-22:]


class _Attempt(msgspec.Struct, frozen=True):
    """The last PIN that was entered by a modem, or into a SIM.

    Attributes:
        serial: of the SIM; empty where the modem doesn't tell it of one that is locked.
        pin: its hash. Who reads the spool can try all PINs on it; the configuration beside it has
            it in the clear.
        state: tried, good or wrong.
    """

    serial: str
    pin: bytes
    state: str

    def forbids(self, other: _Attempt) -> bool:
        """Whether `other`, which is about to be made, may be the same and as wrong."""
        is_same = self.may_be_of(other.serial) and compare_digest(self.pin, other.pin)
        return is_same and self.state != "good"

    def may_be_of(self, serial: str) -> bool:
        """Whether it may have been entered into the SIM of this serial, which is empty where nobody
        knows it."""
        return not self.serial or not serial or self.serial == serial

    def vouches_for(self, other: _Attempt) -> bool:
        """Whether `other` is the one that was right the last time."""
        is_same = self.serial == other.serial and compare_digest(self.pin, other.pin)
        return is_same and self.state == "good"


async def _enter_pin(port: Port, config: ModemConfig, pin: str, spool: Spool) -> None:
    """Enter the PIN, unless this SIM has refused it before: three wrong ones lock it, and a
    modem or a process that starts again and again would have entered them soon.

    That it was entered is stored before it is; who dies before the answer doesn't enter it again.
    """
    serial = await _serial(port)
    attempt = _Attempt(serial, sha256(pin.encode()).digest(), "tried")
    known = _known_attempts(config, spool, serial)
    if any(one.forbids(attempt) for one in known):
        raise NotReady("wrong PIN", _CORRECT_PIN)
    if not any(one.vouches_for(attempt) for one in known):
        await _remember(config, spool, attempt)
    answer = await port.ask(Command(f'AT+CPIN="{pin}"', timeout_s=30.0))
    if answer.error is None:
        await _remember(config, spool, msgspec.structs.replace(attempt, state="good"))
        return
    if is_busy(answer.error):
        # It was not looked at.
        await _forget_attempts(config, spool, serial)
        raise NotReady("SIM busy")
    await _remember(config, spool, msgspec.structs.replace(attempt, state="wrong"))
    log_event(_log, logging.ERROR, "the PIN was refused", modem=config.name, reason=answer.error)
    raise NotReady(
        "wrong PIN" if answer.error.code == CME_WRONG_PIN else "PIN refused", _CORRECT_PIN
    )


async def _confirm_attempt(port: Port, config: ModemConfig, spool: Spool) -> None:
    """A SIM that is open: if its PIN was entered and nothing heard of it, it was right."""
    if not spool.items("pin", 1):
        return
    serial = await _serial(port)
    for known in _known_attempts(config, spool, serial):
        if known.state == "tried" and known.may_be_of(serial):
            await _remember(config, spool, msgspec.structs.replace(known, state="good"))


def _attempt_keys(config: ModemConfig, serial: str) -> list[str]:
    """Where an attempt is kept: with its SIM, for modems are renamed and SIMs put into others; and
    with its modem, for one that doesn't tell the serial, or not each time."""
    return [config.name, *([f"serial:{serial}"] if serial else [])]


def _known_attempts(config: ModemConfig, spool: Spool, serial: str) -> list[_Attempt]:
    stored = [spool.get("pin", key) for key in _attempt_keys(config, serial)]
    return [msgspec.json.decode(one, type=_Attempt) for one in stored if one is not None]


async def _remember(config: ModemConfig, spool: Spool, attempt: _Attempt) -> None:
    value = msgspec.json.encode(attempt)
    keys = _attempt_keys(config, attempt.serial)
    await spool.change(*(Change("pin", key, value) for key in keys))


async def _forget_attempts(config: ModemConfig, spool: Spool, serial: str) -> None:
    keys = _attempt_keys(config, serial)
    await spool.change(*(Change("pin", key, None) for key in keys))


def number_in(lines: Sequence[str], place: int) -> int | None:
    """The number at `place` among those behind an answer's colon, or None."""
    if not lines:
        return None
    values = lines[0].partition(":")[2].split(",")
    try:
        return int(values[place].strip()) if place < len(values) else None
    except ValueError:
        return None
