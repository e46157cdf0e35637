"""Emulated modems on lines of their true speed, and a bridge in a process of its own.

What the bridge hands on is taken by the node's own socket server in this process, so that nothing
but the bridge is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from bench.process import cpu_time_ns, waited_ns
from bench.servers import bench_folder, last_words, spawn, stop
from core.api.bridge_messages import DoneReply, Event, SmsReceivedReply, SmsReceivedRequest
from core.api.messages import ReplyBody, RequestBody
from core.api.server import ApiServer
from core.errors import OperationError
from core.limits import SMS_MAXIMUM
from core.node_files import socket_path
from core.units import NS_PER_S
from tests.support.modem_emulator import BITS_AN_OCTET, ModemEmulator, sms_network
from tests.support.modem_sim import SimCard

BAUD = 115_200
SENDER = "+491701234567"
SLOTS = 100
READY_WITHIN_S = 60.0
DONE_WITHIN_S = 120.0
_LOOK_EVERY_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What became of messages that came to modems.

    Attributes:
        messages: that came; of them `lost` were never handed on, or never answered where they
            were to be, and `doubled` more than once.
        elapsed_s: until the last was handed on and deleted in its modem.
        line_s: what the line needs for the octets that it carried, of the median modem; where it
            had a backlog, in `modem_s`.
        modem_s: from the bridge's first look into that modem until nothing was left in it; None
            where messages came one by one.
        cpu_s: of the bridge.
        waited_s: for how long it, and the process with the modems in it, have waited for a core
            that something else used.
    """

    messages: int
    lost: int
    doubled: int
    elapsed_s: float
    line_s: float
    modem_s: float | None
    cpu_s: float
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GsmLoad:
    """How much of everything.

    Attributes:
        steady_s: for how long each modem gets a message a second.
        answered_s: for how long it also sends an answer to each.
        backlog: how many wait for each modem after an outage.
    """

    modems: int
    steady_s: int
    answered_s: int
    backlog: int


class _Node:
    """Where the bridge is connected to: takes all that it says, and counts the texts."""

    def __init__(self) -> None:
        self.texts: Counter[str] = Counter()
        self.answers = False
        self._seen: dict[str, str | None] = {}

    def handle(self, body: RequestBody) -> ReplyBody:
        """A request of the bridge's."""
        if not isinstance(body, SmsReceivedRequest):
            return DoneReply()
        # One that is asked again under its own id is carried out once, as in a node.
        is_new = body.message_id not in self._seen
        if is_new:
            self._seen[body.message_id] = answer_to(body.body) if self.answers else None
            self.texts[body.body] += 1
        return SmsReceivedReply(self._seen[body.message_id], not is_new)

    def subscribe(self, bridge: str, window: int, send: Callable[[Event], None]) -> _Node:
        """There is nothing to tell it."""
        assert bridge == "gsm"
        assert window > 0
        assert callable(send)
        return self

    def close(self) -> None:
        """The bridge is gone."""


class _Field:
    """The modems, the bridge's process, and the node that it talks to."""

    def __init__(
        self, modems: Sequence[ModemEmulator], node: _Node, process: subprocess.Popen[bytes]
    ) -> None:
        self.modems = modems
        self.node = node
        self.process = process
        self._serial = 0

    def deliver(self, modem: ModemEmulator) -> str:
        """Send it a text like no other."""
        self._serial += 1
        text = f"message {self._serial}"
        modem.network.deliver(modem.number, SENDER, text)
        return text

    def sent(self) -> Counter[str]:
        """The texts that the modems have sent."""
        return Counter(message.text for message in self.modems[0].network.messages)

    async def until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Whether it came true."""
        with trio.move_on_after(within_s):
            while not condition():
                if self.process.poll() is not None:
                    return False
                await trio.sleep(_LOOK_EVERY_S)
        return condition()


def answer_to(text: str) -> str:
    """What a message is answered with."""
    return f"answer to {text}"


def serve(load: GsmLoad) -> tuple[Served, Served, Served]:
    """A message a second for each modem, then one that is answered, and a backlog after an outage
    of all of them.

    Raises:
        OperationError: the bridge can't be started, or doesn't get ready.
    """
    return trio.run(_serve, load)


async def _serve(load: GsmLoad) -> tuple[Served, Served, Served]:
    with bench_folder() as folder:
        async with _field(folder, load.modems) as field:
            served = await _all_of_it(field, load)
        # Outside of all that, so that it comes out as it is.
        if served is None:
            raise OperationError(f"the bridge doesn't get ready:\n{last_words(folder)}")
        return served


async def _all_of_it(field: _Field, load: GsmLoad) -> tuple[Served, Served, Served] | None:
    """None: the bridge was not ready in time, or not again after the outage."""
    if not await field.until(lambda: all(map(_is_swept, field.modems)), READY_WITHIN_S):
        return None
    steady = await _steady(field, load.steady_s)
    field.node.answers = True
    answered = await _steady(field, load.answered_s)
    field.node.answers = False
    backlog = await _backlog(field, load.backlog)
    return None if backlog is None else (steady, answered, backlog)


@asynccontextmanager
async def _field(folder: Path, count: int) -> AsyncIterator[_Field]:
    node = _Node()
    path = socket_path(folder / "data")
    path.parent.mkdir()
    async with (
        ApiServer(path, software="a benchmark") as server,
        sms_network() as network,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.serve, node.handle, node)
        sims = [SimCard(f"+7999000{number:04d}", slots=SLOTS) for number in range(count)]
        modems = [
            network.plug_in(folder / f"modem{number}", sim, baud=BAUD)
            for number, sim in enumerate(sims)
        ]
        config = folder / "node.toml"
        config.write_text(_configuration(modems))
        process = spawn(
            [sys.executable, "-m", "bridges", "gsm", "--config", str(config)],
            folder,
            {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        try:
            yield _Field(modems, node, process)
        finally:
            stop(process)
        nursery.cancel_scope.cancel()


def _configuration(modems: Sequence[ModemEmulator]) -> str:
    lines = [
        '[node]\ndata_dir = "data"\n[turn]\nlisten = ["udp://127.0.0.1:3478"]',
        'secrets = ["a secret for benchmarks"]\n[log]\nlevel = "warning"',
        '[sms]\ncountries = ["DE"]',
    ]
    for number, modem in enumerate(modems):
        lines += [
            "[[bridges.gsm.modems]]",
            f'name = "sim{number}"\ndevice = "{modem.link}"\nnumber = "{modem.number}"',
            f"pace_s = 0\ndaily_cap = {SMS_MAXIMUM}",
        ]
    return "\n".join(lines) + "\n"


def _is_swept(modem: ModemEmulator) -> bool:
    """Whether the bridge has looked at what lies in it: it is ready then."""
    return any("+CMGL" in line for line in modem.commands)


async def _steady(field: _Field, duration_s: int) -> Served:
    measuring = _Measuring(field)
    count = len(field.modems)
    texts = []
    for turn in range(duration_s * count):
        await trio.sleep_until(measuring.began + turn / count)
        texts.append(field.deliver(field.modems[turn % count]))
    return await measuring.finish(texts)


async def _backlog(field: _Field, count: int) -> Served | None:
    for modem in field.modems:
        modem.unplug()
    texts = [field.deliver(modem) for modem in field.modems for _ in range(count)]
    for modem in field.modems:
        modem.commands.clear()
        modem.plug_in()
    if not await field.until(lambda: any(map(_is_swept, field.modems)), READY_WITHIN_S):
        return None
    measuring = _Measuring(field)
    served = await measuring.finish(texts)
    if not measuring.emptied:
        return served
    modem_s, octets = sorted(measuring.emptied)[len(measuring.emptied) // 2]
    return replace(served, modem_s=modem_s, line_s=_line_s(octets))


class _Measuring:
    """From now on, until what came has been handed on, deleted, and answered.

    Attributes:
        emptied: of each modem, how long it took from the first look into it until nothing was left
            there, and the octets that its line has carried meanwhile.
    """

    def __init__(self, field: _Field) -> None:
        self._field = field
        self._cpu_ns = cpu_time_ns(field.process.pid)
        self._waited_ns = self._all_waited_ns()
        self._octets = [modem.octets_carried for modem in field.modems]
        self._looked_at: dict[str, tuple[float, int]] = {}
        self._filled = list(field.modems)
        self.emptied: list[tuple[float, int]] = []
        self.began = trio.current_time()

    async def finish(self, texts: Sequence[str]) -> Served:
        field = self._field
        answers = {answer_to(text) for text in texts} if field.node.answers else set()
        await field.until(
            lambda: (
                self._are_empty()
                and field.node.texts.keys() >= set(texts)
                and field.sent().keys() >= answers
            ),
            DONE_WITHIN_S,
        )
        elapsed_s = trio.current_time() - self.began
        pid, handed_on, sent = field.process.pid, field.node.texts, field.sent()
        carried = zip(field.modems, self._octets, strict=True)
        octets = sorted(modem.octets_carried - before for modem, before in carried)
        return Served(
            messages=len(texts),
            lost=sum(not handed_on[text] for text in texts)
            + sum(not sent[answer] for answer in answers),
            doubled=sum(handed_on[text] > 1 for text in texts)
            + sum(sent[answer] > 1 for answer in answers),
            elapsed_s=elapsed_s,
            line_s=_line_s(octets[len(octets) // 2]),
            modem_s=None,
            cpu_s=(cpu_time_ns(pid) - self._cpu_ns) / NS_PER_S,
            # What a thread has waited that has ended meanwhile isn't known any more.
            waited_s=max(0, self._all_waited_ns() - self._waited_ns) / NS_PER_S,
        )

    def _all_waited_ns(self) -> int:
        return waited_ns(self._field.process.pid) + waited_ns(os.getpid())

    def _are_empty(self) -> bool:
        now = trio.current_time()
        for modem in list(self._filled):
            number, octets = modem.number, modem.octets_carried
            if number not in self._looked_at and _is_swept(modem):
                self._looked_at[number] = now, octets
            if number in self._looked_at and not _holds(modem):
                began, before = self._looked_at[number]
                self._filled.remove(modem)
                self.emptied.append((now - began, octets - before))
        return not self._filled and not any(map(_holds, self._field.modems))


def _line_s(octets: int) -> float:
    """How long a line takes for them, one way at a time."""
    return octets * BITS_AN_OCTET / BAUD


def _holds(modem: ModemEmulator) -> bool:
    """Whether a message lies in it, or is on its way to it."""
    return bool(any(modem.sim.stores.values()) or modem.network.waiting(modem.number))
