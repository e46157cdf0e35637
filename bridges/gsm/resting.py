"""SIMs that can't send for a reason of their own, such as that no credit is left: they rest, so
that what others could send isn't given to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REST_FIRST_S: Final = 600.0
REST_LAST_S: Final = 3600.0


@dataclass(slots=True)
class _Sim:
    doubted_for: str = ""
    ends_at_s: float = -float("inf")
    next_s: float = REST_FIRST_S


class Resting:
    """Of all SIMs, by name; times are seconds of any clock that doesn't go back.

    What may be a message's fault is held against a SIM only when two messages in a row have had it:
    one that nobody can send puts no SIM to rest. A SIM that has rested has to send something before
    it is trusted with as much again; until then it rests for twice as long after each fault.
    """

    def __init__(self) -> None:
        self._sims: dict[str, _Sim] = {}

    def fault(self, sim: str, message: str, now_s: float, *, is_certain: bool) -> bool:
        """A message was not sent, or perhaps not; whether the SIM rests for it."""
        one = self._sims.setdefault(sim, _Sim())
        is_first = one.doubted_for in ("", message)
        one.doubted_for = one.doubted_for or message
        if is_first and not is_certain:
            return False
        one.ends_at_s = now_s + one.next_s
        one.next_s = min(2 * one.next_s, REST_LAST_S)
        return True

    def sent(self, sim: str) -> None:
        """It has sent something."""
        self._sims.pop(sim, None)

    def ends_at_s(self, sim: str) -> float:
        """Until when a SIM rests; in the past where it doesn't."""
        one = self._sims.get(sim)
        return -float("inf") if one is None else one.ends_at_s
