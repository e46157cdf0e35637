"""What things cost, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the tariff.

    Attributes:
        kind: what is charged: turn, voice, video, screen.
        price_second, price_megabyte: micro-J an active second, and 1,000,000 bytes.
        into: the account that is paid.
    """

    kind: str
    price_second: int
    price_megabyte: int
    into: int
