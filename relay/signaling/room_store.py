"""Rooms on the disk, so that a node that was killed has them again when it is back.

They stand beside the ledger, in its environment, and are no part of its log: nothing of a room is
left there when it has ended, but that it has, under the id that an operator has asked for it by.
What is stored says who may come back, by hashes, and no more: no name, no key, no description.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from billing.tables import ROOMS
from core.store import Store
from core.tables import Writing
from relay.signaling.room import effect_of
from relay.signaling.rooms import Rooms

_ROOM: Final = b"room "
_ROOM_END: Final = b"room!"
"""The first key behind all of them."""
_MOMENT_BYTES: Final = 8
_ENDED: Final = b"ended "
_ENDED_END: Final = b"ended!"
_QUOTA: Final = b"quota"

_log = logging.getLogger("montana.rooms")


class RoomStore:
    """The rooms of one node, and what is used of their quota."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(
        self,
        records: Mapping[str, bytes | None],
        quota: bytes | None = None,
        ends: Mapping[str, int | None] | None = None,
    ) -> None:
        """Store rooms as they are now, in one transaction; None for those that have ended.

        Args:
            ends: by the id of a room, when it has ended (nanoseconds since 1970); None for what is
                forgotten.

        Raises:
            OperationError: it can't be stored.
        """

        def write(writing: Writing) -> None:
            for room, record in records.items():
                key = _ROOM + room.encode()
                if record is None:
                    writing.delete(ROOMS, key)
                else:
                    writing.put(ROOMS, key, record)
            for effect, ended_ns in (ends or {}).items():
                key = _ENDED + effect.encode()
                if ended_ns is None:
                    writing.delete(ROOMS, key)
                else:
                    writing.put(ROOMS, key, ended_ns.to_bytes(_MOMENT_BYTES))
            if quota is not None:
                writing.put(ROOMS, _QUOTA, quota)

        if records or ends or quota is not None:
            await self._store.write(write)

    def quota(self) -> bytes | None:
        """What was stored of the quota."""
        with self._store.read() as tables:
            return tables.get(ROOMS, _QUOTA)

    async def restore(self, rooms: Rooms, now_ns: int, *, host_pays: bool) -> None:
        """Take up what was stored. Rooms that can't be, and those whose host pays while the
        node does now, are removed.

        Raises:
            OperationError: it can't be read.
        """
        with self._store.read() as tables:
            count = tables.count(ROOMS)
            stored = tables.items(ROOMS, _ROOM, _ROOM_END, limit=count)
            ended = tables.items(ROOMS, _ENDED, _ENDED_END, limit=count)
        for key, moment in sorted(ended, key=lambda one: int.from_bytes(one[1])):
            rooms.ends.add(key.removeprefix(_ENDED).decode(), int.from_bytes(moment))
        dropped: dict[str, bytes | None] = {}
        ends: dict[str, int | None] = {}
        for key, record in stored:
            try:
                rooms.restore(record, now_ns, host_pays=host_pays)
            except ValueError:
                dropped[key.removeprefix(_ROOM).decode()] = None
                effect = effect_of(record)
                if effect:
                    rooms.ends.add(effect, now_ns)
                    ends[effect] = now_ns
        if dropped:
            _log.info("rooms that are not taken up: %d", len(dropped))
        await self.write(dropped, ends=ends)
