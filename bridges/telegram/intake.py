"""Takes updates in: each is on the disk before Telegram is told that it was received, and stays
there until it was carried out. Those of a chat are carried out one after another, chats beside each
other.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
import anyio.abc
import msgspec

from bridges.spool import FULL_RETRY_S, Change, Spool, SpoolFull
from bridges.telegram.mistakes import log_mistake
from bridges.telegram.table import Table
from bridges.telegram.updates import Incoming
from core.errors import OperationError
from core.log import log_event

PENDING_MAXIMUM: Final = 2_000
"""With so many nothing more is taken from Telegram, which keeps it."""
CHAT_MAXIMUM: Final = 50
"""Of one chat; what comes beyond is refused, so that one can't fill the place of all."""
DONE_MAXIMUM: Final = 10_000
"""Updates of late that are known again when Telegram tells of them twice."""
_KIND: Final = "update"

CarryOut = Callable[[Incoming], Awaitable[None]]
TellTooMany = Callable[[Incoming, int], Awaitable[None]]
TellFailed = Callable[[Incoming, bool], Awaitable[None]]
"""Given what nobody has foreseen, and whether an earlier process may have begun it."""
_log = logging.getLogger("montana.bridge.telegram")


class _Storing:
    """Updates whose commit is under way.

    Attributes:
        error: why they are not stored; None where they are.
    """

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.error: OperationError | None = OperationError("the update was not stored")


class Intake:
    """The updates that wait.

    Attributes:
        taken, refused, failed: how many were received, were too many, and could not be carried out.
    """

    def __init__(
        self,
        spool: Spool,
        carry_out: CarryOut,
        tell_too_many: TellTooMany,
        tell_failed: TellFailed,
    ) -> None:
        self._spool = spool
        self._carry_out = carry_out
        self._tell_too_many = tell_too_many
        self._tell_failed = tell_failed
        self._done = Table(spool, "done", DONE_MAXIMUM)
        self._chats: dict[int, deque[Incoming]] = {}
        self._pending: set[int] = set()
        self._storing: dict[int, _Storing] = {}
        self._too_many = Counter[int]()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._room = anyio.Event()
        self.taken = 0
        self.refused = 0
        self.failed = 0
        for _, value in spool.items(_KIND, 2 * PENDING_MAXIMUM):
            self._queue(msgspec.json.decode(value, type=Incoming))
        self._found = set(self._pending)
        """Those that an earlier process had."""

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def has_room(self) -> bool:
        """Whether more may be taken."""
        return len(self._pending) < PENDING_MAXIMUM

    async def run(self) -> None:
        """Carry out what waits and what comes, until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for chat in list(self._chats):
                    tasks.start_soon(self._work, chat)
                await anyio.sleep_forever()
        finally:
            # What is being stored while the bridge ends is for its next start.
            self._tasks = None

    async def wait_for_room(self) -> None:
        """Return when more may be taken."""
        while not self.has_room:
            self._room = anyio.Event()
            await self._room.wait()

    async def take(self, updates: Sequence[Incoming]) -> None:
        """Take updates; they are durable when this returns. Those that were taken before are left
        alone; where that is not done yet, it is waited for.

        Raises:
            OperationError: the disk is full; some were not taken.
        """
        new: dict[int, Incoming] = {}
        others: set[_Storing] = set()
        refused = Counter[int]()
        for incoming in updates:
            if (other := self._storing.get(incoming.update)) is not None:
                others.add(other)
                continue
            if incoming.update in self._pending or str(incoming.update) in self._done:
                continue
            waiting = len(self._chats.get(incoming.chat, ()))
            waiting += sum(one.chat == incoming.chat for one in new.values())
            if waiting >= CHAT_MAXIMUM:
                refused[incoming.chat] += 1
            else:
                new[incoming.update] = incoming
        if new:
            await self._store(new)
        for other in others:
            await other.ended.wait()
            if other.error is not None:
                raise other.error
        # Not before: what fails comes again, with those that were refused.
        self.refused += refused.total()
        self._too_many.update(refused)

    async def _store(self, new: dict[int, Incoming]) -> None:
        # Before the disk is waited for: the same one may come again meanwhile.
        mine = _Storing()
        self._pending.update(new)
        self._storing.update(dict.fromkeys(new, mine))
        try:
            await self._spool.change(
                *(
                    Change(_KIND, _key(incoming), msgspec.json.encode(incoming))
                    for incoming in new.values()
                )
            )
            mine.error = None
        except OperationError as error:
            mine.error = error
            raise
        finally:
            if mine.error is not None:
                self._pending.difference_update(new)
            for update in new:
                del self._storing[update]
            mine.ended.set()
        self.taken += len(new)
        for incoming in new.values():
            self._queue(incoming)

    def _queue(self, incoming: Incoming) -> None:
        self._pending.add(incoming.update)
        waiting = self._chats.get(incoming.chat)
        if waiting is not None:
            waiting.append(incoming)
            return
        self._chats[incoming.chat] = deque([incoming])
        if self._tasks is not None:
            self._tasks.start_soon(self._work, incoming.chat)

    async def _work(self, chat: int) -> None:
        waiting = self._chats[chat]
        while waiting:
            incoming = waiting[0]
            await self._carry_out_one(incoming)
            if len(waiting) == 1 and (count := self._too_many.pop(chat, 0)):
                try:
                    await self._tell_too_many(incoming, count)
                except Exception as error:
                    log_mistake("nobody was told that messages were too many", error)
            # Else it would be carried out again by the next process, and answered again.
            await self._spool.change_at_last(
                Change(_KIND, _key(incoming), None),
                *self._done.put_changes(str(incoming.update), b""),
            )
            waiting.popleft()
            self._pending.discard(incoming.update)
            self._found.discard(incoming.update)
            self._room.set()
        del self._chats[chat]

    async def _carry_out_one(self, incoming: Incoming) -> None:
        while True:
            try:
                await self._try_to_carry_out(incoming)
            except SpoolFull as error:
                # Telegram has forgotten it; whatever of it was done is not done again.
                log_event(_log, logging.ERROR, "an update has to wait", reason=error)
                await anyio.sleep(FULL_RETRY_S)
            else:
                return

    async def _try_to_carry_out(self, incoming: Incoming) -> None:
        try:
            await self._carry_out(incoming)
        except SpoolFull:
            raise
        except Exception as error:
            # It would fail after each start, and nobody would be answered any more.
            self.failed += 1
            log_mistake("an update could not be carried out", error)
            try:
                await self._tell_failed(incoming, incoming.update in self._found)
            except Exception as again:
                log_mistake("nobody was told of it", again)


def _key(incoming: Incoming) -> str:
    return f"{incoming.update:020d}"
