"""Moments as people and other programs read them: RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime

from core.units import NS_PER_S


def format_time(time_ns: int, digits: int = 6) -> str:
    """RFC 3339, UTC, with so many digits behind the second, from 1 to 9; the rest is cut off."""
    seconds, rest_ns = divmod(time_ns, NS_PER_S)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{rest_ns:09d}"[: len(whole) + 1 + digits] + "Z"
