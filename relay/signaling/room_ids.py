"""Rooms that operators have asked for under an id (`core.api.fields.EffectId`), so that whoever has
had no answer may ask again.

A room's name and links come of the id and of what was drawn when it was made: they are the same for
as long as there is the room, and nobody's ever after. Its id makes no other one for a day.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from core.units import DAY_S, NS_PER_S

IDS_MAXIMUM: Final = 100_000
"""Of rooms that there are, and of those that have ended."""
ENDED_S: Final = DAY_S
"""For how long it is remembered of an id that its room has ended."""
DRAWN_BYTES: Final = 16


class Named(NamedTuple):
    """What a room was asked for under, and what was drawn for it."""

    effect: str
    drawn: bytes


class RoomEnds:
    """The ids whose rooms have ended of late. The caller bounds how many there are."""

    def __init__(self) -> None:
        self._ended_ns: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ended_ns)

    def __contains__(self, effect: str) -> bool:
        return effect in self._ended_ns

    def add(self, effect: str, ended_ns: int) -> None:
        """The room of an id has ended, later than all others that are here."""
        self._ended_ns[effect] = ended_ns

    def forget(self, now_ns: int) -> list[str]:
        """Let ids go that are remembered no more; returns them."""
        gone = []
        for effect, ended_ns in self._ended_ns.items():
            if now_ns < ended_ns + ENDED_S * NS_PER_S:
                break
            gone.append(effect)
        for effect in gone:
            del self._ended_ns[effect]
        return gone
