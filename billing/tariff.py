"""What things cost, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from billing.money import parse_amount_untrusted
from core.config import BillingConfig
from core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the tariff.

    Attributes:
        kind: what is charged: turn, voice, video, screen, room, sms.
        price_second, price_megabyte: micro-J an active second, and 1,000,000 bytes.
        price_minute: micro-J a minute of a room.
        price_command: micro-J an SMS command.
        into: the account that is paid.
    """

    kind: str
    price_second: int
    price_megabyte: int
    into: int
    price_command: int = 0
    price_minute: int = 0


class _Finds(Protocol):
    def find(self, address: str) -> int | None: ...


def tariff_line(kind: str, config: BillingConfig, accounts: _Finds) -> Line:
    """A line of the configured tariff.

    Raises:
        ConfigError: the account that it pays into is not there.
    """
    line = config.tariff[kind]
    into = accounts.find(line.into)
    if into is None:
        raise ConfigError(
            f"billing.tariff.{kind}.into: there is no account {line.into}; create it with "
            f"`montana account create {line.into}`, or write node or burn"
        )
    return Line(
        kind,
        _micro(line.second),
        _micro(line.megabyte),
        into,
        _micro(line.command),
        _micro(line.minute),
    )


def _micro(written: str) -> int:
    return parse_amount_untrusted(written) if written.strip("0.") else 0
