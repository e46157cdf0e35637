"""The messages in which a call rings: the one that the node has asked for, and those that the
callee has asked for. When it rings no more the buttons of all of them go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from bridges.spool import Spool
from bridges.telegram.outgoing import Outgoing
from bridges.telegram.people import People
from bridges.telegram.table import Table, until_stored
from bridges.telegram.texts import say, status_text

RINGS_MAXIMUM: Final = 10_000
COPIES_MAXIMUM: Final = 64
"""A chat is written to once a second, and a call rings for less than so many."""


class _Ring(msgspec.Struct, frozen=True, kw_only=True):
    """A call that rings, or has rung.

    Attributes:
        caller: as the callee is shown them.
        has_rung: the node's own ring was delivered.
        copies: chats and numbers of the messages that have buttons still.
        status, seconds: what has become of it; an empty status while it rings.
    """

    caller: str
    has_rung: bool = False
    copies: tuple[tuple[int, int], ...] = ()
    status: str = ""
    seconds: int = 0


_decoder = msgspec.json.Decoder(_Ring)


class Rings:
    """The rings of late, by their calls."""

    def __init__(self, spool: Spool, out: Outgoing, people: People) -> None:
        self._table = Table(spool, "ring", RINGS_MAXIMUM)
        self._out = out
        self._people = people
        self._closing: set[str] = set()

    def has_rung(self, call: str) -> bool:
        """Whether the node's own ring was delivered."""
        ring = self._find(call)
        return ring is not None and ring.has_rung

    def is_over(self, call: str) -> bool:
        """Whether it is known that a call rings no more."""
        ring = self._find(call)
        return ring is not None and bool(ring.status)

    async def expect(self, call: str, caller: str) -> None:
        """A message that says that a call rings is about to be written: what has become of the
        call meanwhile is not to be missed."""
        await self._change(call, lambda ring: ring or _Ring(caller=caller))

    async def add(
        self, call: str, chat: int, message: int, caller: str, *, has_rung: bool = False
    ) -> None:
        """A message says that a call rings, with buttons under it.

        Args:
            has_rung: the node has asked for it.

        Raises:
            NotSent: the call is over already, and Telegram doesn't let the message say so.
        """
        copy = chat, message

        def with_copy(before: _Ring | None) -> _Ring:
            ring = before or _Ring(caller=caller)
            copies = tuple(one for one in ring.copies if one != copy)
            return msgspec.structs.replace(
                ring,
                copies=(*copies, copy)[-COPIES_MAXIMUM:],
                has_rung=ring.has_rung or has_rung,
            )

        await self._change(call, with_copy)
        if self.is_over(call):
            await self._close(call, None)

    async def end(
        self, call: str, status: str, seconds: int, *, until_s: float | None = None
    ) -> None:
        """A call rings no more; its messages say what has become of it, the first that was told.

        Args:
            until_s: since 1970; none is changed afterwards.

        Raises:
            NotSent: Telegram does not take it.
        """

        def ended(ring: _Ring | None) -> _Ring | None:
            if ring is None or ring.status:
                return ring
            return msgspec.structs.replace(ring, status=status, seconds=seconds)

        await self._change(call, ended)
        await self._close(call, until_s)

    async def _close(self, call: str, until_s: float | None) -> None:
        if call in self._closing:
            # Whoever is at it sees those that come to it meanwhile; and does it again after a
            # crash, since neither an update nor an event is done with before that.
            return
        self._closing.add(call)
        try:
            while (ring := self._find(call)) is not None and ring.copies:
                chat, message = copy = ring.copies[0]
                language = self._people.language_of(chat)
                status = status_text(language, ring.status, ring.seconds)
                text = say(language, "over", name=ring.caller, status=status)
                await self._out.edit(chat, message, text, until_s=until_s)
                await self._forget(call, copy)
        finally:
            self._closing.discard(call)

    async def _forget(self, call: str, copy: tuple[int, int]) -> None:
        def without_copy(ring: _Ring | None) -> _Ring | None:
            if ring is None:
                return None
            left = tuple(one for one in ring.copies if one != copy)
            return msgspec.structs.replace(ring, copies=left)

        await self._change(call, without_copy)

    def _find(self, call: str) -> _Ring | None:
        value = self._table.get(call)
        return None if value is None else _decoder.decode(value)

    async def _change(self, call: str, change: Callable[[_Ring | None], _Ring | None]) -> None:
        """Store what a ring becomes, however long the disk is full: a message that was written
        isn't written again for that."""

        async def store() -> None:
            before = self._find(call)
            after = change(before)
            if after is not None and after != before:
                await self._table.put(call, msgspec.json.encode(after))

        await until_stored(store)
