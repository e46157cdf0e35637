"""Names for the units that times and sizes are counted in."""

from __future__ import annotations

from typing import Final

NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

MINUTE_S: Final = 60
HOUR_S: Final = 60 * MINUTE_S
DAY_S: Final = 24 * HOUR_S

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
