"""Long messages put together from their parts (3GPP TS 23.040 section 9.2.3.24.1), sans-I/O.

Parts come in any order, and some never. What is still incomplete after `PARTS_LIFETIME_S` is given
out with a mark where parts lack, and so is the oldest one where too many wait: nothing is lost. A
mark also keeps half a command from being read as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bridges.gsm.alphabet import Alphabet
from bridges.gsm.pdu import Part, join
from core.units import HOUR_S

PARTS_LIFETIME_S: Final = 24 * HOUR_S
"""Service centres try for days to send a part; nobody waits so long for an answer."""
GROUPS_MAXIMUM: Final = 1024
GROUPS_OF_A_SENDER_MAXIMUM: Final = 8


class Piece(NamedTuple):
    """A part as it came.

    Attributes:
        key: names it; the same for a part that comes twice.
        sim: which SIM it came to; a sender's references are its own for each.
        received_s: Unix seconds.
    """

    key: str
    sim: str
    sender: str
    part: Part
    alphabet: Alphabet
    content: bytes
    received_s: float


class Whole(NamedTuple):
    """A message of several parts; `keys` are those of the pieces, in order."""

    sim: str
    sender: str
    text: str
    keys: tuple[str, ...]
    received_s: float
    is_complete: bool


@dataclass(slots=True)
class _Group:
    first_s: float
    pieces: dict[int, Piece] = field(default_factory=dict)


_GroupKey = tuple[str, str, int, int]


class Reassembly:
    """All messages that wait for parts. Times are Unix seconds, for they outlive the process."""

    def __init__(self) -> None:
        self._groups: dict[_GroupKey, _Group] = {}

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def next_deadline_s(self) -> float | None:
        """When `expire` has something to give, or None."""
        if not self._groups:
            return None
        return min(group.first_s for group in self._groups.values()) + PARTS_LIFETIME_S

    def add(self, piece: Piece) -> list[Whole]:
        """What `piece` completes, and what had to go so that it has room."""
        assert 0 < piece.part.number <= piece.part.total
        key = (piece.sim, piece.sender, piece.part.reference, piece.part.total)
        given: list[Whole] = []
        group = self._groups.get(key)
        if group is not None and (there := group.pieces.get(piece.part.number)) is not None:
            if there.key == piece.key:
                return given
            # The reference has come round: this is another message.
            given.append(self._take(key))
            group = None
        if group is None:
            given += self._make_room(piece.sender)
            group = self._groups[key] = _Group(piece.received_s)
        group.pieces[piece.part.number] = piece
        if len(group.pieces) == piece.part.total:
            given.append(self._take(key))
        return given

    def expire(self, now_s: float) -> list[Whole]:
        """The messages that have waited too long, oldest first."""
        due = [
            key for key, group in self._groups.items() if now_s >= group.first_s + PARTS_LIFETIME_S
        ]
        due.sort(key=lambda key: self._groups[key].first_s)
        return [self._take(key) for key in due]

    def _make_room(self, sender: str) -> list[Whole]:
        own = [key for key in self._groups if key[1] == sender]
        if len(own) >= GROUPS_OF_A_SENDER_MAXIMUM:
            return [self._take(self._oldest(own))]
        if len(self._groups) >= GROUPS_MAXIMUM:
            return [self._take(self._oldest(list(self._groups)))]
        return []

    def _oldest(self, keys: Sequence[_GroupKey]) -> _GroupKey:
        return min(keys, key=lambda key: self._groups[key].first_s)

    def _take(self, key: _GroupKey) -> Whole:
        group = self._groups.pop(key)
        sim, sender, _, total = key
        pieces = [group.pieces.get(number) for number in range(1, total + 1)]
        text = join([piece and (piece.alphabet, piece.content) for piece in pieces])
        there = [piece for piece in pieces if piece is not None]
        return Whole(
            sim,
            sender,
            text,
            tuple(piece.key for piece in there),
            group.first_s,
            len(there) == total,
        )
