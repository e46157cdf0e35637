"""Moments as they are written."""

from core.timestamps import format_time


def test_times() -> None:
    assert format_time(0) == "1970-01-01T00:00:00.000000Z"
    assert format_time(1_800_000_000_123_456_789) == "2027-01-15T08:00:00.123456Z"
    assert format_time(1_800_000_000_001_999_999, 3) == "2027-01-15T08:00:00.001Z"
