"""What comes to a modem: it is found, kept, and only then deleted or acknowledged.

It is found in three ways, each enough by itself: it is announced (`+CMTI`), it comes directly
(`+CMT`, `+CDS`), or it lies in a store when that is looked through. A store is read in one answer
(`+CMGL`), kept in one commit, and emptied by the few lines that its indexes fit on; never by the
`+CMGD` that deletes whatever was read, for what noise has kept from the bridge was read too.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from bridges.gsm.at import Answered, AtError, Command, ErrorKind, Unsolicited
from bridges.gsm.figures import ModemFigures
from bridges.gsm.inbox import Inbox
from bridges.gsm.pdu import Deliver, PduError, StatusReport, decode_untrusted
from bridges.gsm.port import NoAnswer, Port
from bridges.gsm.reports import Reports
from bridges.gsm.starting import Ready, must, select_store
from bridges.gsm.stored import (
    LIST,
    LISTED,
    NEW,
    READ,
    SENT,
    UNSENT,
    Stored,
    deletions,
    messages_untrusted,
)
from core.log import log_event

SWEEP_INTERVAL_S: Final = 60.0
READ_ATTEMPTS: Final = 3
"""Noise on a line spoils another place each time."""
ANNOUNCED_MAXIMUM: Final = 256
DIRECT_MAXIMUM: Final = 64
SPOILT_MAXIMUM: Final = 16
LISTED_FROM: Final = 4
"""So many announced messages are read by one look through their store."""
LOOKS_MAXIMUM: Final = 8
"""While one modem's store fills as fast as it is emptied, its SIM has to send as well."""
LINE_MAXIMUM: Final = 200
"""Characters of a command line. V.250 section 5.2.1 promises 40; modems that take several SMS
commands in one have room for 256 and more."""
ROOM_MESSAGES: Final = 10
"""So many are moved from a store that is full of what somebody has written: a long message comes as
several, and no more is taken from its owner than has to be."""
DELETION_TIMEOUT_S: Final = 60.0

_USED: Final = re.compile(r'\+CPMS: *"[A-Z]{2}" *, *([0-9]{1,5}) *, *([0-9]{1,5})')
_ANNOUNCED: Final = re.compile(r'\+C(?:MT|DS)I: *"([A-Z]{2})" *, *([0-9]{1,5})')
_LENGTH: Final = re.compile(r"(?:^|[,: ])([0-9]{1,3}) *\Z")

_log = logging.getLogger("montana.bridge.gsm")


class Receiver:
    """Of one modem."""

    def __init__(
        self,
        name: str,
        inbox: Inbox,
        reports: Reports,
        is_sending: Callable[[str], bool],
        figures: ModemFigures,
    ) -> None:
        self._name = name
        self._inbox = inbox
        self._reports = reports
        self._is_sending = is_sending
        self._figures = figures
        self._port: Port | None = None
        self._ready: Ready | None = None
        self._store = ""
        self._combines = False
        self._has_told_full = False
        self._announced: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._direct: deque[Unsolicited] = deque()
        self._spoilt: deque[str] = deque(maxlen=SPOILT_MAXIMUM)
        self._spoilt_in_a_row = 0
        self._sweep_at = -float("inf")

    @property
    def next_look_at(self) -> float:
        """When `take` has something to do, unless something comes before."""
        return self._sweep_at

    def begin(self, port: Port, ready: Ready) -> None:
        """The modem is ready, on this line, and has `ready.stores[0]` in use."""
        self._port = port
        self._ready = ready
        self._store = ready.stores[0]
        self._combines = ready.combines
        # It may be another SIM than on the line before.
        self._figures.full = ""
        self.want_sweep()

    def end(self) -> None:
        """The line is lost. What it has handed over and nobody has acknowledged comes again; to
        acknowledge it on the next line would be to acknowledge another one."""
        if self._ready is not None and self._ready.acknowledges:
            self._direct.clear()
        self._port = self._ready = None

    def want_sweep(self) -> None:
        """Have all stores looked through the next time."""
        self._sweep_at = -float("inf")

    def heard(self, said: Unsolicited) -> None:
        """What the modem says by itself; what is about no message is passed over."""
        if found := _ANNOUNCED.match(said.line):
            self._announced[found[1], int(found[2])] = None
            if len(self._announced) > ANNOUNCED_MAXIMUM:
                self._announced.clear()
                self.want_sweep()
        elif said.line.startswith(("+CMT:", "+CDS:")):
            # What has no room is not acknowledged, and so comes again.
            if len(self._direct) < DIRECT_MAXIMUM:
                self._direct.append(said)
        elif said.line.startswith("^SMMEMFULL"):
            self.want_sweep()

    async def take(self) -> None:
        """Take all that is there.

        Raises:
            Refused, NoAnswer, PortLost: as `must`.
            OperationError: the spool takes nothing.
        """
        while self._direct:
            await self._take_direct(self._direct[0])
            self._direct.popleft()
        assert self._ready is not None
        while self._announced:
            store, index = next(iter(self._announced))
            if len(self._announced) < LISTED_FROM:
                del self._announced[store, index]
                await self._take_stored(store, index)
            else:
                for one in [one for one in self._announced if one[0] == store]:
                    del self._announced[one]
                await self._empty(store)
                await self._use(self._ready.stores[0])
        if trio.current_time() >= self._sweep_at:
            self._sweep_at = trio.current_time() + SWEEP_INTERVAL_S
            await self._sweep()

    # ------------------------------------------------------------ what comes directly

    async def _take_direct(self, said: Unsolicited) -> None:
        """Keep what came without being stored, then say so (TS 27.005 section 3.4.4).

        One that can't be read isn't acknowledged, so that it comes again, for noise may have spoilt
        it. It is where it comes the same again, or after some in a row, or it would come for ever.
        """
        assert self._ready is not None
        length = int(found[1]) if (found := _LENGTH.search(said.line)) else None
        is_last_try = (
            not self._ready.acknowledges
            or (said.pdu != "" and said.pdu in self._spoilt)
            or self._spoilt_in_a_row + 1 >= READ_ATTEMPTS
        )
        if await self._keep(said.pdu, length, is_last_try=is_last_try):
            self._spoilt_in_a_row = 0
            if self._ready.acknowledges:
                await self._ask(Command("AT+CNMA"))
        else:
            self._spoilt.append(said.pdu)
            self._spoilt_in_a_row += 1

    # ------------------------------------------------------------ what is stored

    async def _sweep(self) -> None:
        """Look through all that is stored, and see that there is room for more."""
        assert self._ready is not None
        first, *others = self._ready.stores
        for store in (*self._ready.readable, *others):
            await self._empty(store)
        # To it messages come; to the others, only while these are looked through.
        if await self._empty(first):
            is_full = await self._is_full()
            if is_full and await self._make_room(first):
                # What has waited for room has come.
                is_full = await self._empty(first) and await self._is_full()
            if is_full is not None:
                self._tell_full(first if is_full else "")

    async def _empty(self, store: str) -> bool:
        """Keep and delete what has come to a store, which is in use then; whether nothing new is in
        it any more.

        A modem that has not carried out all of a line is told one thing at a time from then on.
        """
        assert self._ready is not None
        before: set[Stored] = set()
        was_combined = False
        for _ in range(LOOKS_MAXIMUM):
            listed = messages_untrusted(LISTED, await self._list(store), NEW)
            if was_combined and not before.isdisjoint(listed):
                self._combines = False
            elif before.issuperset(listed):
                return True
            was_combined = self._combines
            before = set(listed)
            await self._take_listed(store, listed)
        return False

    async def _list(self, store: str) -> Sequence[str]:
        """What is in a store, which is in use then; nothing where it can't be read but needn't."""
        assert self._ready is not None
        if not await self._use(store):
            return ()
        if store in self._ready.stores:
            return (await must(self._port_now(), LIST)).lines
        return (await self._ask(LIST)).lines

    async def _is_full(self) -> bool | None:
        """Whether nothing more can come to the store that is in use; None where the modem doesn't
        tell."""
        answer = await self._ask(Command("AT+CPMS?", "+CPMS:"))
        found = _USED.match("".join(answer.lines))
        return int(found[1]) >= int(found[2]) > 0 if found else None

    async def _make_room(self, store: str) -> bool:
        """Move some of what was written in the store that is in use, copies of what was sent first,
        to the spool; whether there is room then, or will be when the store is emptied again."""
        lines = await self._list(store)
        if messages_untrusted(LISTED, lines, NEW):
            # It is what has filled the store, since that was emptied.
            return True
        written = messages_untrusted(LISTED, lines, SENT) + messages_untrusted(
            LISTED, lines, UNSENT
        )
        moved = [one for one in written if one.is_sure and one.is_whole][:ROOM_MESSAGES]
        if not moved or not await self._inbox.keep_written(self._name, [one.line for one in moved]):
            return False
        await self._delete(store, [one.place for one in moved])
        return True

    def _tell_full(self, store: str) -> None:
        if store and not self._has_told_full:
            log_event(_log, logging.ERROR, "a store for SMS is full", modem=self._name, store=store)
        self._has_told_full = bool(store)
        self._figures.full = store

    async def _take_listed(self, store: str, listed: Sequence[Stored]) -> None:
        messages: list[Deliver] = []
        taken: list[int] = []
        again: list[int] = []
        for index, length, line, is_sure in listed:
            try:
                message = decode_untrusted(line, length)
            except PduError:
                again.append(index)
                continue
            if not is_sure:
                # What lies there is read before it is deleted.
                again.append(index)
                continue
            taken.append(index)
            if isinstance(message, StatusReport):
                await self._reports.take(self._name, message, self._is_sending)
            else:
                messages.append(message)
        self._figures.received += await self._inbox.keep(self._name, messages)
        await self._delete(store, taken)
        for index in again:
            await self._take_stored(store, index)

    async def _take_stored(self, store: str, index: int) -> None:
        """Read a message, keep it, delete it: in this order."""
        command = Command(f"AT+CMGR={index}", "+CMGR:", with_pdus=True)
        for attempt in range(1, READ_ATTEMPTS + 1):
            if not await self._use(store):
                break
            answer = await self._ask(command)
            found = messages_untrusted(READ, answer.lines, NEW)
            if not found:
                if answer.error is not None and attempt < READ_ATTEMPTS:
                    continue
                # It is gone: it was found in another way already.
                break
            _, length, line, _ = found[0]
            if await self._keep(line, length, is_last_try=attempt == READ_ATTEMPTS):
                await self._delete(store, [index])
                break
        assert self._ready is not None
        await self._use(self._ready.stores[0])

    async def _keep(self, line: str, length: int | None, *, is_last_try: bool) -> bool:
        """Store what a line holds; False where it can't be read, and may be another time."""
        try:
            message = decode_untrusted(line, length)
        except PduError as error:
            if is_last_try:
                await self._inbox.keep_broken(self._name, line, str(error))
            return is_last_try
        if isinstance(message, StatusReport):
            await self._reports.take(self._name, message, self._is_sending)
        else:
            self._figures.received += await self._inbox.keep(self._name, [message])
        return True

    async def _delete(self, store: str, indexes: Sequence[int]) -> None:
        """Delete what was kept. What can't be deleted is found again, and known then; an index
        of which nothing is known isn't deleted again before it was read, for another message may
        lie there."""
        for index in indexes:
            # Told before it was deleted, so of what was kept.
            self._announced.pop((store, index), None)
        for line in deletions(indexes, LINE_MAXIMUM if self._combines else 0):
            answer = await self._ask(Command(line, timeout_s=DELETION_TIMEOUT_S))
            if answer.error is not None and ";" in line:
                self._combines = False
                return
            if self._store != store:
                # What follows would be deleted from another one.
                return

    async def _use(self, store: str) -> bool:
        """Whether a store can be read and emptied now. Those that messages come to have to be;
        another, which `+CDSI` may name for reports, has to be in no modem."""
        assert self._ready is not None
        if store == self._store:
            return True
        if store in self._ready.stores:
            await select_store(self._port_now(), store)
        else:
            # What is refused may have been half done.
            self._store = ""
            # TS 27.005 section 3.2.2: often nothing can be written into it, nor come to it.
            first = self._ready.stores[0]
            command = Command(f'AT+CPMS="{store}","{first}","{first}"', "+CPMS:")
            if (await self._ask(command)).error is not None:
                return False
        self._store = store
        return True

    async def _ask(self, command: Command) -> Answered:
        """As `softly`. A modem that doesn't answer may be starting anew; then another store is in
        use than it was told, and what is read or deleted by a place there is another message."""
        try:
            return await self._port_now().ask(command)
        except NoAnswer:
            self._store = ""
            return Answered(command, (), AtError(ErrorKind.PLAIN, None))

    def _port_now(self) -> Port:
        assert self._port is not None
        return self._port
