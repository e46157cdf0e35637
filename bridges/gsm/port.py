"""A serial line with a modem on it: carries out what the AT engine wants. The only I/O of modems.

One task a line reads (`Port.run`); it needs no thread. Whoever asks waits for those who have asked
before.
"""

from __future__ import annotations

import errno
import os
import re
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn

import serial
import trio

from bridges.gsm.at import Answered, AtEngine, Command, Event, Hung, Resumed, TimedOut, Unsolicited
from core.errors import MontanaError
from core.units import NS_PER_S

BAUD: Final = 115_200
"""What USB modems take for granted; they send as fast as USB does."""
RECEIVE_BYTES: Final = 4096


class PortLost(MontanaError):
    """The line is gone or dead: unplugged, or the modem answers nothing.

    Attributes:
        submitted: whether a message was on its way, whose fate nobody can tell now.
        advice: what the operator has to do; empty where it may come by itself.
    """

    def __init__(self, message: str, *, submitted: bool = False, advice: str = "") -> None:
        super().__init__(message)
        self.submitted = submitted
        self.advice = advice


class NoAnswer(MontanaError):
    """A command got no result in time; the modem does answer others.

    Attributes:
        submitted: as in `PortLost`.
    """

    def __init__(self, message: str, *, submitted: bool) -> None:
        super().__init__(message)
        self.submitted = submitted


class Port:
    """An open line; made by `open_port`. What the modem says by itself goes to `on_unsolicited`."""

    def __init__(self, descriptor: int, on_unsolicited: Callable[[Unsolicited], None]) -> None:
        self._descriptor = descriptor
        self._on_unsolicited = on_unsolicited
        self._engine = AtEngine()
        self._busy = trio.Lock()
        self._changed = trio.Event()
        self._answer: Answered | TimedOut | None = None
        self._lost: PortLost | None = None
        self._deadline_ns: int | None = None
        self._waiting = trio.CancelScope()
        self._running = trio.CancelScope(shield=True)

    def hasten(self, within_s: float) -> None:
        """Wait for the present command's result for so long at most."""
        self._engine.hasten(within_s, _now_ns())
        self._set_deadline()

    async def ask(self, command: Command) -> Answered:
        """Have `command` carried out.

        Raises:
            NoAnswer: there was no result in time, and the modem answers again.
            PortLost: the line is of no use any more.
        """
        async with self._busy:
            # Who asked before may have been cancelled.
            while not self._engine.is_idle:
                self._check(submitted=False)
                await self._changed.wait()
            self._check(submitted=False)
            self._answer = None
            self._engine.send(command, _now_ns())
            self._set_deadline()
            self._write()
            while not (self._answer is not None and self._engine.is_idle):
                self._check(submitted=_was_submitted(self._answer))
                await self._changed.wait()
            if isinstance(self._answer, TimedOut):
                # The name alone: an argument may be a PIN.
                name = command.text.partition("=")[0]
                raise NoAnswer(f"{name} got no answer", submitted=self._answer.submitted)
            return self._answer

    async def run(self) -> None:
        """Read until `stop`; what is cancelled meanwhile can wait for an answer that is due.

        Raises:
            PortLost: the line is lost.
        """
        with self._running:
            while True:
                with trio.CancelScope() as self._waiting:
                    self._set_deadline(anew=True)
                    while True:
                        await trio.lowlevel.wait_readable(self._descriptor)
                        self._take(self._engine.receive_untrusted(self._read(), _now_ns()))
                        self._write()
                        self._set_deadline()
                self._check(submitted=False)
                self._take(self._engine.tick(_now_ns()))
                self._write()

    def stop(self) -> None:
        """End `run`."""
        self._running.cancel()

    def _take(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Unsolicited():
                    self._on_unsolicited(event)
                case Answered() | TimedOut():
                    self._answer = event
                case Hung():
                    self._lose("the modem answers nothing")
                case Resumed():
                    pass
        if any(not isinstance(event, Unsolicited) for event in events):
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _read(self) -> bytes:
        """What has come; empty where nothing has."""
        try:
            data = os.read(self._descriptor, RECEIVE_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            self._lose(f"the line can't be read: {error.strerror}")
        if not data:
            self._lose("the line was closed")
        return data

    def _write(self) -> None:
        data = self._engine.data_to_send()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except BlockingIOError:
            # A kernel's buffer has room for ten of the longest commands.
            self._lose("the line takes nothing")
        except OSError as error:
            self._lose(f"the line can't be written: {error.strerror}")

    def _set_deadline(self, *, anew: bool = False) -> None:
        """Wake the reader when the engine wants to be told the time."""
        deadline_ns = self._engine.next_deadline_ns
        if deadline_ns == self._deadline_ns and not anew:
            return
        self._deadline_ns = deadline_ns
        self._waiting.deadline = trio.current_time() + (
            float("inf") if deadline_ns is None else (deadline_ns - _now_ns()) / NS_PER_S
        )

    def _check(self, *, submitted: bool) -> None:
        if self._lost is not None:
            raise PortLost(str(self._lost), submitted=submitted or self._lost.submitted)

    def _lose(self, reason: str) -> NoReturn:
        self._lost = PortLost(
            reason, submitted=self._engine.submitted or _was_submitted(self._answer)
        )
        self._wake()
        self._waiting.cancel()
        raise self._lost


def _was_submitted(answer: Answered | TimedOut | None) -> bool:
    return isinstance(answer, TimedOut) and answer.submitted


def _now_ns() -> int:
    return round(trio.current_time() * NS_PER_S)


@asynccontextmanager
async def open_port(
    device: Path, on_unsolicited: Callable[[Unsolicited], None]
) -> AsyncIterator[Port]:
    """The line behind `device`, closed at the end; nobody else can open it meanwhile.

    Raises:
        PortLost: it can't be opened.
    """
    try:
        line = await trio.to_thread.run_sync(_open, device)
    except (OSError, ValueError, termios.error) as error:
        raise PortLost(f"{device} can't be opened: {error}", advice=_advice(error)) from error
    try:
        yield Port(line.fileno(), on_unsolicited)
    finally:
        trio.lowlevel.notify_closing(line.fileno())
        line.close()


def may_be_another(device: Path) -> bool:
    """Whether the kernel gives the path to whichever modem it finds first: ``/dev/ttyUSB0``."""
    return re.fullmatch("/dev/tty(USB|ACM)[0-9]+", str(device)) is not None


def _advice(error: Exception) -> str:
    """What to do about a device that can't be opened."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        # What pyserial says of what takes no settings of a line.
        number = errno.ENOTTY
    return _ADVICE.get(number, os.strerror(number))


_ADVICE: Final = {
    errno.ENOENT: "no such device: plug the modem in, or take its path from /dev/serial/by-id/",
    errno.EACCES: "not allowed: sudo usermod -aG dialout and the bridge's user, then start it anew",
    errno.EAGAIN: "another program has the device: end that one; ModemManager does such things",
    errno.ENOTTY: "the device is no serial line: take its path from /dev/serial/by-id/",
}


def _open(device: Path) -> serial.Serial:
    # Its exclusive mode is a lock that other programs heed as well.
    line = serial.Serial(str(device), BAUD, timeout=0, exclusive=True)
    # pyserial has an empty read mean that nothing has come; here it means the end.
    settings = termios.tcgetattr(line.fileno())
    settings[6][termios.VMIN] = 1
    termios.tcsetattr(line.fileno(), termios.TCSANOW, settings)
    os.set_blocking(line.fileno(), False)
    return line
