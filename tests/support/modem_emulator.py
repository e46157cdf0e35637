"""GSM modems on ptys, in a network of their own: what gateways are tested with where no radio is.

    async with sms_network() as network:
        modem = network.plug_in(tmp_path / "modem0", SimCard("+79990000001", pin="1234"))
        network.deliver(modem.number, "+79991112233", "BAL")
        ... a gateway that has opened modem.link ...
        [message] = await network.sent(1)

`gammu` and `gammu-smsd` take such a modem for a real one (tests/interop/test_gammu.py). What can go
wrong is in `modem.faults`. All of it runs in one thread, under trio.
"""

from __future__ import annotations

import os
import tty
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trio

from tests.support import modem_pdu as pdu
from tests.support.modem_at import AtModem
from tests.support.modem_general import GeneralCommands
from tests.support.modem_messages import MessageCommands
from tests.support.modem_network import SentMessage, SentPart, SmsNetwork
from tests.support.modem_sending import SendingCommands
from tests.support.modem_sim import SimCard

ZONE = timezone(timedelta(hours=3))
BITS_AN_OCTET = 10
READ_OCTETS = 4_096
# What a paced line carries at a time: less than what a reader could notice.
PACED_OCTETS = 64
# What nobody reads is lost beyond this, as in the modem's own buffer.
OUTPUT_MAXIMUM = 1 << 20


class _Pty:
    """A pty: the emulator's end, and the other one held open so that it outlives its users."""

    def __init__(self) -> None:
        self.master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self.master, False)
        self.path = Path(os.ttyname(self._slave))
        self.output = bytearray()
        self.has_output = trio.Event()
        self.scope = trio.CancelScope()

    def write(self, data: bytes) -> None:
        if len(self.output) + len(data) <= OUTPUT_MAXIMUM:
            self.output += data
            self.has_output.set()

    async def ready(self, wait: Callable[[int], Awaitable[None]]) -> None:
        """Wait for the emulator's end; cancelled, and never on another file, when it is closed."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await wait(self.master)
        await trio.lowlevel.checkpoint_if_cancelled()

    def close(self) -> None:
        """Whoever has the other end open reads its end, and can't write."""
        self.scope.cancel()
        trio.lowlevel.notify_closing(self.master)
        os.close(self.master)
        os.close(self._slave)


class ModemEmulator(AtModem):
    """See the module; made by `EmulatedNetwork.plug_in`.

    Attributes:
        link: where the device is found, whichever pty it is.
        octets_carried: what its line has carried, both ways.
    """

    def __init__(
        self,
        link: Path,
        sim: SimCard,
        network: SmsNetwork,
        nursery: trio.Nursery,
        *,
        imei: str,
        baud: int | None,
        sending_s: float,
        boot_s: float,
        ussd_packed: bool,
    ) -> None:
        super().__init__(sim, network, sending_s=sending_s, boot_s=boot_s, ussd_packed=ussd_packed)
        self.link = link
        self._nursery = nursery
        self._octets_a_second = None if baud is None else baud / BITS_AN_OCTET
        self.octets_carried = 0
        self._pty: _Pty | None = None
        self._next_pty = _Pty()
        GeneralCommands(self, imei)
        self.messages = MessageCommands(self)
        SendingCommands(self)

    @property
    def path(self) -> Path:
        """The pty's name; while unplugged, the one that it will have."""
        return (self._pty or self._next_pty).path

    def take(self, tpdu: bytes, *, is_report: bool) -> bool:
        """See `modem_network.Phone`."""
        return self.messages.take(tpdu, is_report=is_report)

    def plug_in(self) -> None:
        """Appear under `link`, and start."""
        assert self._pty is None
        self._pty = self._next_pty
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(self._pty.path)
        self._nursery.start_soon(self._carry, self._pty)
        self.reboot()

    def unplug(self) -> None:
        """Vanish, in the midst of whatever it is."""
        assert self._pty is not None
        self.power_off()
        # Taken before the old one is given up, so that the number is another one.
        self._next_pty = _Pty()
        self.link.unlink()
        self._pty.close()
        self._pty = None

    def reset(self) -> None:
        """What +CFUN=1,1 does: start anew, perhaps as a new device."""
        if self.faults.vanish_on_reset:
            # Its answer gets out before the device is gone.
            self.power_off()
            self.later(self.boot_s, self._vanish)
        else:
            self.reboot()

    def _vanish(self) -> None:
        self.unplug()
        self.later(self.boot_s, self.plug_in)

    def close(self) -> None:
        """End it."""
        if self._pty is not None:
            self.unplug()
        self._next_pty.close()

    def write(self, data: bytes) -> None:
        """Bytes to whoever has the line open."""
        if self._pty is not None:
            self._pty.write(data)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run it then."""
        _run_after(self._nursery, delay_s, action)

    async def _carry(self, pty: _Pty) -> None:
        with pty.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, pty)
                nursery.start_soon(self._write, pty)

    async def _read(self, pty: _Pty) -> None:
        pace = Pace(self._octets_a_second)
        while True:
            await pty.ready(trio.lowlevel.wait_readable)
            data = os.read(pty.master, pace.octets)
            self.octets_carried += len(data)
            await pace.passed(len(data))
            self.receive(data)

    async def _write(self, pty: _Pty) -> None:
        pace = Pace(self._octets_a_second)
        while True:
            if not pty.output:
                await pty.has_output.wait()
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                written = os.write(pty.master, pty.output[: pace.octets])
            except BlockingIOError:
                await pty.ready(trio.lowlevel.wait_writable)
                continue
            self.octets_carried += written
            del pty.output[:written]
            if not pty.output:
                pty.has_output = trio.Event()
            await pace.passed(written)


class Pace:
    """How fast octets go one way; None: at once."""

    def __init__(self, octets_a_second: float | None) -> None:
        self._octets_a_second = octets_a_second
        self._free_at = 0.0
        self.octets = READ_OCTETS if octets_a_second is None else PACED_OCTETS

    async def passed(self, octets: int) -> None:
        """Wait as long as they take, no longer: a late wake-up is made up for."""
        if self._octets_a_second is None:
            await trio.lowlevel.checkpoint()
            return
        now = trio.current_time()
        self._free_at = max(self._free_at, now - octets / self._octets_a_second)
        self._free_at += octets / self._octets_a_second
        await trio.sleep_until(self._free_at)


class EmulatedNetwork(SmsNetwork):
    """The network, the modems that are in it, and what waits for them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(
            lambda delay_s, action: _run_after(nursery, delay_s, action),
            lambda: datetime.now(ZONE),
        )
        self._nursery = nursery
        self._sent = trio.Event()
        self.modems: list[ModemEmulator] = []

    def plug_in(
        self,
        link: Path,
        sim: SimCard,
        *,
        baud: int | None = None,
        sending_s: float = 0.0,
        boot_s: float = 0.05,
        ussd_packed: bool = True,
    ) -> ModemEmulator:
        """A modem with that SIM, which appears at `link` and answers after `boot_s`.

        `baud` is what its line carries, each way; `sending_s` how long a CMGS takes.
        """
        modem = ModemEmulator(
            link,
            sim,
            self,
            self._nursery,
            imei=f"35693803564{len(self.modems):04d}",
            baud=baud,
            sending_s=sending_s,
            boot_s=boot_s,
            ussd_packed=ussd_packed,
        )
        self.modems.append(modem)
        self.join(modem)
        modem.plug_in()
        return modem

    async def sent(self, count: int) -> list[SentMessage]:
        """What has been sent whole, as soon as there is so much of it."""
        while len(self.messages) < count:
            await self._sent.wait()
        return self.messages

    def submit(self, sender: str, submit: pdu.Submit, reference: int) -> None:
        """See `SmsNetwork`; wakes whoever waits for it."""
        super().submit(sender, submit, reference)
        self._sent.set()
        self._sent = trio.Event()


@asynccontextmanager
async def sms_network() -> AsyncIterator[EmulatedNetwork]:
    """A network, whose modems end on leaving."""
    async with trio.open_nursery() as nursery:
        network = EmulatedNetwork(nursery)
        try:
            yield network
        finally:
            for modem in network.modems:
                modem.close()
            nursery.cancel_scope.cancel()


def _run_after(nursery: trio.Nursery, delay_s: float, action: Callable[[], None]) -> None:
    async def wait() -> None:
        await trio.sleep(delay_s)
        action()

    nursery.start_soon(wait)


__all__ = ["EmulatedNetwork", "ModemEmulator", "SentMessage", "SentPart", "SimCard", "sms_network"]
