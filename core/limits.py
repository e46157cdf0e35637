"""The hard bounds: what no configuration may pass, checked against each other on import.

What an operator may move within them is in `core.config.TurnLimits`. A bound that concerns one
protocol alone stands with its codec (`core.stun.constants`, `core.api.framing`).
"""

from __future__ import annotations

from typing import Final

from core.units import DAY_S, HOUR_S, MIB

CONFIG_FILE_MAXIMUM_BYTES: Final = 16 * MIB
"""A configuration with every user that is allowed fits; a wrong file, a log say, does not."""

WORKERS_MAXIMUM: Final = 64
LISTENERS_MAXIMUM: Final = 16
RELAY_ADDRESSES_MAXIMUM: Final = 16

RELAY_PORT_MINIMUM: Final = 1024
"""Below are ports of well-known services, which a firewall may trust."""
PORT_MAXIMUM: Final = 65_535

ALLOCATIONS_MAXIMUM: Final = 262_144
PERMISSIONS_PER_ALLOCATION_MAXIMUM: Final = 1_024
CHANNELS_PER_ALLOCATION_MAXIMUM: Final = 1_024
BYTES_PER_SECOND_MAXIMUM: Final = 100_000_000_000
ERROR_REPLIES_PER_SECOND_MAXIMUM: Final = 1_000_000

LIFETIME_MINIMUM_S: Final = 10
LIFETIME_MAXIMUM_S: Final = DAY_S
NONCE_LIFETIME_MAXIMUM_S: Final = HOUR_S
"""RFC 8489 section 9.2: a nonce should change at least once an hour."""
DRAIN_TIMEOUT_MAXIMUM_S: Final = DAY_S

KEEP_TICKS_MAXIMUM_S: Final = 100 * 365 * DAY_S
PRICE_MAXIMUM_J: Final = 1_000_000
"""Of a second, a megabyte, a command."""

SECRETS_MAXIMUM: Final = 16
"""Each is tried in turn on every request of a time-limited user name."""
SECRET_MINIMUM_CHARACTERS: Final = 12
PASSWORD_MAXIMUM_BYTES: Final = 512
USERS_MAXIMUM: Final = 100_000
USERNAME_MAXIMUM_BYTES: Final = 508
"""RFC 8489 section 14.3: fewer than 509 bytes."""
ACCOUNT_MAXIMUM_CHARACTERS: Final = 128
REALM_MAXIMUM_CHARACTERS: Final = 127
"""RFC 8489 section 14.9: fewer than 128 characters."""
PEER_RULES_MAXIMUM: Final = 1_024
"""Networks in one list."""

ALLOWED_ORIGINS_MAXIMUM: Final = 64
ROOM_TOKEN_MAXIMUM_CHARACTERS: Final = 256
MESSAGES_PER_SECOND_MAXIMUM: Final = 100_000
FREE_MINUTES_PER_DAY_MAXIMUM: Final = 1_000_000_000
FREE_PEOPLE_MAXIMUM: Final = 100_000
CALLS_PER_MINUTE_MAXIMUM: Final = 1_000

MODEMS_MAXIMUM: Final = 32
SMS_MAXIMUM: Final = 1_000_000_000
SMS_OWNERS_MAXIMUM: Final = 1_024
COUNTRIES_MAXIMUM: Final = 300
SECRET_FILE_MAXIMUM_BYTES: Final = 4_096

# The channel numbers 0x4000-0x7FFF are all that an allocation can name.
assert CHANNELS_PER_ALLOCATION_MAXIMUM <= 0x7FFF - 0x4000 + 1
# Flow slots are numbered in 32 bits, of which 0 means none.
assert (
    ALLOCATIONS_MAXIMUM * (PERMISSIONS_PER_ALLOCATION_MAXIMUM + CHANNELS_PER_ALLOCATION_MAXIMUM)
    < 2**32
)
# Each of a node's relayed addresses can carry one allocation a port.
assert ALLOCATIONS_MAXIMUM <= RELAY_ADDRESSES_MAXIMUM * (PORT_MAXIMUM - RELAY_PORT_MINIMUM + 1)
assert LIFETIME_MINIMUM_S < NONCE_LIFETIME_MAXIMUM_S <= LIFETIME_MAXIMUM_S
# Deadlines are signed 64-bit nanoseconds since boot: a year of uptime and a lifetime have room.
assert (366 * DAY_S + LIFETIME_MAXIMUM_S) * 1_000_000_000 < 2**63
assert USERS_MAXIMUM * 64 < CONFIG_FILE_MAXIMUM_BYTES
