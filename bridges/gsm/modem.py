"""One modem, from the start to the loss of its line: it receives, sends, watches and asks.

What comes to it is `receiving`'s.
"""

from __future__ import annotations

import logging
import re
from typing import Final

import trio

from bridges.gsm.at import Answered, Command, Unsolicited
from bridges.gsm.figures import ModemFigures
from bridges.gsm.inbox import Inbox
from bridges.gsm.outbound import Job, Outbound
from bridges.gsm.port import NoAnswer, Port, PortLost
from bridges.gsm.receiving import Receiver
from bridges.gsm.reports import Reports
from bridges.gsm.starting import Ready, is_busy, number_in, softly, start
from bridges.gsm.ussd import UssdSession, amount_in
from bridges.spool import Spool
from core.bridge_config import ModemConfig
from core.errors import MontanaError, OperationError
from core.log import log_event
from core.units import HOUR_S

WATCH_INTERVAL_S: Final = 30.0
RARELY: Final = 10
"""Every so many looks at a modem, one at its network as well."""
BALANCE_INTERVAL_S: Final = 6 * HOUR_S
SUBMIT_TIMEOUT_S: Final = 120.0
"""The network has about 45 s (TS 24.011 section 10); modems try again by themselves."""
REBOOT_PATIENCE_S: Final = 10.0
"""After a sign of its having started anew, a modem has so long for the answer it owes."""
STOP_PATIENCE_S: Final = 10.0
"""So long a modem has for the answer it owes when the bridge is stopped."""

_HOME, _ROAMING = 1, 5
_REGISTRATION: Final = {0: "not registered", 2: "searching", 3: "registration denied"}
_STARTED: Final = ("^BOOT", "RDY", "^SYSSTART", "+CPIN: SIM PIN", "SMS Ready")

_log = logging.getLogger("montana.bridge.gsm")


class Restarted(MontanaError):
    """The modem has started anew, and forgotten what it was told."""


class Modem:
    """A modem on an open line; `heard` is what the line hands over.

    Attributes:
        serves_since: when it was ready, in trio's time; infinite until it is. `run` leaves it.
    """

    def __init__(
        self,
        config: ModemConfig,
        spool: Spool,
        inbox: Inbox,
        outbound: Outbound,
        reports: Reports,
        figures: ModemFigures,
    ) -> None:
        self._config = config
        self._spool = spool
        self._outbound = outbound
        self._figures = figures
        self._receiver = Receiver(config.name, inbox, reports, outbound.is_sending, figures)
        self._port: Port | None = None
        self._ready: Ready | None = None
        self._has_started = False
        self._wake = trio.Event()
        self._turn = trio.Lock()
        """Whoever sends or receives: a report isn't looked at before what it is about is known."""
        self._ussd = UssdSession(self._ask)
        self._smsc: str | None = None
        self._looks = 0
        self.serves_since = float("inf")

    # ------------------------------------------------------------ its life

    async def run(self, port: Port) -> None:
        """Serve until the line is lost.

        Raises:
            PortLost, NotReady, Refused, NoAnswer, Restarted: it has to be begun again.
            OperationError: the spool takes nothing.
        """
        self._port = port
        self._has_started = False
        self._looks = 0
        try:
            ready = await start(port, self._config, self._spool)
            self._receiver.begin(port, ready)
            # One whose stores can't be looked through isn't said to be ready; until then its state
            # is why it has begun again.
            await self._receiver.take()
            self._ready = ready
            self.serves_since = trio.current_time()
            self._figures.advice = ""
            await self._look_around()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive)
                nursery.start_soon(self._send)
                nursery.start_soon(self._watch)
                if self._config.balance_ussd is not None:
                    nursery.start_soon(self._ask_balance, self._config.balance_ussd)
        finally:
            self._outbound.set_usable(self._config.name, False)
            self._receiver.end()
            self._port = self._ready = None

    def heard(self, said: Unsolicited) -> None:
        """What the modem says by itself."""
        line = said.line
        if line.startswith("+CUSD:"):
            self._ussd.heard(line)
        elif line.startswith("+CREG:"):
            self._registered(number_in([line], 0))
        elif line.startswith(_STARTED):
            self._has_started = True
            if self._port is not None:
                self._port.hasten(REBOOT_PATIENCE_S)
        else:
            self._receiver.heard(said)
        self._wake.set()

    async def _ask(self, command: Command) -> Answered:
        return await softly(self._port_now(), command)

    # ------------------------------------------------------------ receiving

    async def _receive(self) -> None:
        while True:
            self._wake = trio.Event()
            async with self._turn:
                if self._has_started:
                    await self._check_restart()
                await self._receiver.take()
            with trio.move_on_at(self._receiver.next_look_at):
                await self._wake.wait()

    async def _check_restart(self) -> None:
        """Some modems say that they have started long after they have."""
        self._has_started = False
        assert self._ready is not None
        answer = await self._ask(Command("AT+CNMI?", "+CNMI:"))
        told = "".join(answer.lines).partition(":")[2].replace(" ", "")
        if not told.startswith(self._ready.announce.partition("=")[2]):
            raise Restarted("the modem has started anew")

    def _port_now(self) -> Port:
        assert self._port is not None
        return self._port

    # ------------------------------------------------------------ sending

    async def _send(self) -> None:
        name = self._config.name
        while True:
            job = await self._outbound.take(name)
            await self._send_part(job)
            await trio.sleep(self._config.pace_s)

    async def _send_part(self, job: Job) -> None:
        name, outbound = self._config.name, self._outbound
        is_lost = False
        try:
            async with self._turn:
                # It may have waited for minutes, while a store was looked through.
                if await outbound.expire(job):
                    return
                part = outbound.part(job)
                command = Command(
                    f"AT+CMGS={part.tpdu_bytes}",
                    "+CMGS:",
                    payload=part.line,
                    timeout_s=SUBMIT_TIMEOUT_S,
                )
                await outbound.begin(name, job)
                # What is on its way is waited for, or nobody would know what became of it.
                with trio.CancelScope(shield=True):
                    answer = await self._port_now().ask(command)
                    if answer.error is not None:
                        is_lost = await outbound.refused(
                            name, job, answer.error, submitted=answer.submitted
                        )
                    else:
                        await outbound.accepted(name, job, number_in(answer.lines, 0))
        except (NoAnswer, PortLost) as error:
            with trio.CancelScope(shield=True):
                if error.submitted:
                    await outbound.unknown(name, job, str(error))
                else:
                    await outbound.not_sent(name, job, str(error))
            if isinstance(error, PortLost):
                raise
        except trio.Cancelled:
            # It was still waiting for its turn, or for room on the disk.
            outbound.give_back(name, job)
            raise
        if is_lost:
            raise Restarted("the modem isn't as it was when it was started")

    # ------------------------------------------------------------ watching

    async def _watch(self) -> None:
        try:
            while True:
                await trio.sleep(WATCH_INTERVAL_S)
                await self._look_around()
        except trio.Cancelled:
            self._port_now().hasten(STOP_PATIENCE_S)
            raise

    async def _look_around(self) -> None:
        """Signal, registration, service centre; and that messages are still announced, which a
        modem stops when something was not acknowledged."""
        assert self._ready is not None
        signal = number_in((await self._ask(Command("AT+CSQ", "+CSQ:"))).lines, 0)
        self._figures.signal = 99 if signal is None else signal
        announced = await self._ask(Command(self._ready.announce))
        if announced.error is not None and not is_busy(announced.error):
            raise Restarted("the modem has forgotten what it was told")
        if self._looks % RARELY == 0:
            await self._look_at_network()
        self._looks += 1
        self._registered(number_in((await self._ask(Command("AT+CREG?", "+CREG:"))).lines, 1))

    async def _look_at_network(self) -> None:
        operator = (await self._ask(Command("AT+COPS?", "+COPS:", timeout_s=60.0))).lines
        if operator and (named := re.search(r'"([^"]{1,32})"', operator[0])):
            self._figures.operator = named[1]
        centre = (await self._ask(Command("AT+CSCA?", "+CSCA:"))).lines
        if centre and (number := re.search(r'"([^"]*)"', centre[0])):
            self._watch_smsc(number[1])

    def _watch_smsc(self, number: str) -> None:
        if self._smsc not in (None, number):
            log_event(
                _log,
                logging.WARNING,
                "the SMS service centre of a SIM has changed",
                modem=self._config.name,
            )
        self._smsc = number

    def _registered(self, status: int | None) -> None:
        """What the registration means for sending (TS 27.007 section 7.2)."""
        if self._ready is None:
            return
        is_registered = status in (_HOME, _ROAMING)
        if is_registered and self._smsc == "":
            state = "no SMSC"
        elif is_registered:
            state = "ready" if status == _HOME else "roaming"
        else:
            state = _REGISTRATION.get(-1 if status is None else status, "registration unknown")
        if state != self._figures.state:
            level = logging.INFO if state == "ready" else logging.WARNING
            log_event(_log, level, "modem", modem=self._config.name, state=state)
        self._figures.state = state
        self._outbound.set_usable(self._config.name, state in ("ready", "roaming"))

    # ------------------------------------------------------------ USSD

    async def ussd(self, code: str) -> str:
        """Dial a code; returns what the network says.

        Raises:
            OperationError: it says nothing, or the modem can't ask now.
        """
        if self._ready is None or self._port is None:
            raise OperationError(
                f"the modem {self._config.name} is not ready: {self._figures.state}",
                "modem_away",
                modem=self._config.name,
                state=self._figures.state,
            )
        return await self._ussd.dial(code)

    async def _ask_balance(self, code: str) -> None:
        while True:
            if self._figures.state in ("ready", "roaming"):
                try:
                    self._figures.balance = amount_in(await self.ussd(code))
                except OperationError as error:
                    log_event(
                        _log,
                        logging.WARNING,
                        "the balance of a SIM is not known",
                        modem=self._config.name,
                        reason=error.code,
                    )
            await trio.sleep(BALANCE_INTERVAL_S)
