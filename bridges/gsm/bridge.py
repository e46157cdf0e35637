"""The GSM bridge: 1 to 32 modems, each a task of its own that begins again whatever happens."""

from __future__ import annotations

import logging
from typing import Final

import trio

from bridges.gsm.figures import ModemFigures
from bridges.gsm.inbox import Inbox
from bridges.gsm.modem import Modem, Restarted
from bridges.gsm.outbound import Outbound
from bridges.gsm.port import NoAnswer, PortLost, may_be_another, open_port
from bridges.gsm.reports import Reports
from bridges.gsm.starting import NotReady, Refused
from bridges.process import BridgeContext
from core.api.bridge_messages import BridgeAnswerRequest, CommandBody, Event, SmsBody
from core.errors import OperationError
from core.log import log_event

RETRY_FIRST_S: Final = 1.0
RETRY_LAST_S: Final = 60.0
LIVED_S: Final = 60.0
"""A modem that has served so long begins again at once."""
FIGURES_INTERVAL_S: Final = 2.0
QUESTIONS_MAXIMUM: Final = 32
"""That wait for modems; more are refused."""

_log = logging.getLogger("montana.bridge.gsm")


async def run(context: BridgeContext) -> None:
    """Serve until cancelled."""
    await Bridge(context).run()


class Bridge:
    """All modems of the configuration, what came to them, and what they are to send."""

    def __init__(self, context: BridgeContext) -> None:
        assert context.config.bridges.gsm is not None
        modems = context.config.bridges.gsm.modems
        self._context = context
        self._figures = {one.name: ModemFigures(one.name, one.daily_cap) for one in modems}
        numbers = {one.name: one.number for one in modems if one.number}
        self._inbox = Inbox(context, numbers)
        self._reports = Reports(context, self._figures)
        caps = {one.name: one.daily_cap for one in modems}
        self._outbound = Outbound(context, caps, self._figures, self._reports)
        self._devices = {one.name: one.device for one in modems}
        self._modems = {
            one.name: Modem(
                one,
                context.spool,
                self._inbox,
                self._outbound,
                self._reports,
                self._figures[one.name],
            )
            for one in modems
        }
        self._questions = trio.CapacityLimiter(QUESTIONS_MAXIMUM)

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._inbox.load()
        self._reports.load()
        await self._outbound.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._inbox.run, self._outbound.answer)
            nursery.start_soon(self._reports.run)
            nursery.start_soon(self._outbound.run)
            nursery.start_soon(self._tell_figures)
            nursery.start_soon(self._take_events, nursery)
            for name, device in self._devices.items():
                if may_be_another(device):
                    log_event(
                        _log,
                        logging.WARNING,
                        "a modem's device may be another one after a restart",
                        modem=name,
                        device=str(device),
                        advice="take its path from /dev/serial/by-id/ or by-path/",
                    )
                nursery.start_soon(self._keep_alive, name)

    # ------------------------------------------------------------ modems

    async def _keep_alive(self, name: str) -> None:
        """Begin with a modem again and again, after longer and longer pauses."""
        figures, modem = self._figures[name], self._modems[name]
        delay_s = RETRY_FIRST_S
        told: tuple[str, str] | None = None
        while True:
            modem.serves_since = float("inf")
            ended = await self._live(name)
            # How long it took to start counts for nothing: one that falls silent there does so for
            # a minute and more, each time.
            if trio.current_time() - modem.serves_since >= LIVED_S:
                delay_s = RETRY_FIRST_S
                told = None
            figures.state, figures.advice = ended
            if ended != told:
                more = {"advice": figures.advice} if figures.advice else {}
                log_event(_log, logging.WARNING, "modem", modem=name, state=figures.state, **more)
                told = ended
            figures.signal = 99
            figures.restarts += 1
            await trio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_LAST_S)

    async def _live(self, name: str) -> tuple[str, str]:
        """One life; returns the state that it has ended in, and what to do about it."""
        modem = self._modems[name]
        state, advice = "away", ""
        try:
            async with open_port(self._devices[name], modem.heard) as port:
                state = "lost"
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(port.run)
                    try:
                        await modem.run(port)
                    finally:
                        port.stop()
        except* NotReady as group:
            state, advice = str(_first_error(group)), getattr(_first_error(group), "advice", "")
        except* (PortLost, Refused, NoAnswer, Restarted) as group:
            reason = _first_error(group)
            advice = getattr(reason, "advice", "")
            if isinstance(reason, Refused | NoAnswer):
                state = str(reason)
            if not advice:
                log_event(
                    _log, logging.INFO, "a modem has to begin again", modem=name, reason=reason
                )
        except* OperationError as group:
            state = "spool full"
            log_event(
                _log,
                logging.ERROR,
                "nothing can be received",
                modem=name,
                reason=_first_error(group),
            )
        return state, advice

    # ------------------------------------------------------------ the node

    async def _take_events(self, nursery: trio.Nursery) -> None:
        async for event in self._context.node.events():
            if isinstance(event.body, CommandBody):
                nursery.start_soon(self._answer, event)
            elif isinstance(event.body, SmsBody):
                await self._accept(event)
            else:
                await self._context.node.acknowledge(event.id, "failed", "no SMS")

    async def _accept(self, event: Event) -> None:
        while True:
            try:
                await self._outbound.accept(event)
            except OperationError as error:
                log_event(_log, logging.ERROR, "an SMS can't be taken", reason=error)
                await trio.sleep(RETRY_LAST_S)
            else:
                return

    async def _answer(self, event: Event) -> None:
        """A question of the operator's: arguments are the modem's name and what to dial."""
        assert isinstance(event.body, CommandBody)
        try:
            text, ok = await self._ask(event.body), True
        except OperationError as error:
            text, ok = str(error), False
        try:
            await self._context.node.request(BridgeAnswerRequest(event.id, ok, text[:4096]))
        except OperationError as error:
            # It came too late.
            log_event(_log, logging.INFO, "nobody waits for an answer", reason=error.code)

    async def _ask(self, body: CommandBody) -> str:
        if len(body.arguments) != 2:
            raise OperationError("say which modem, and what to dial", "ussd_arguments")
        name, code = body.arguments
        if name not in self._modems:
            there = ", ".join(self._modems)
            raise OperationError(f"there is no modem {name}; there are {there}", "no_modem")
        try:
            self._questions.acquire_on_behalf_of_nowait(body)
        except trio.WouldBlock:
            raise OperationError("too many questions wait; try again", "ussd_busy") from None
        try:
            return await self._modems[name].ussd(code)
        except PortLost:
            raise OperationError("the modem went away; try again", "modem_away") from None
        finally:
            self._questions.release_on_behalf_of(body)

    async def _tell_figures(self) -> None:
        while True:
            figures = {
                "waiting_to_be_sent": str(self._outbound.waiting),
                "waiting_for_the_node": str(self._inbox.waiting),
                "received_again": str(self._inbox.doubled),
                "unreadable": str(self._inbox.broken),
                "kept_from_full_sims": str(self._inbox.written),
                "reports_of_nothing": str(self._reports.unmatched),
            }
            for one in self._figures.values():
                figures |= one.as_figures()
            self._context.node.figures = figures
            up = sum(one.is_ready for one in self._figures.values())
            self._context.node.state = f"{up} of {len(self._figures)} modems ready"
            await trio.sleep(FIGURES_INTERVAL_S)


def _first_error(error: BaseException) -> BaseException:
    """The first of what a group's tasks have raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
