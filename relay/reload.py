"""What a node takes over from its configuration file on SIGHUP, and what waits for a restart."""

from __future__ import annotations

from dataclasses import fields, replace

from core.config import NodeConfig, SignalingConfig, TurnConfig, TurnLimits

_LIVE = (
    "users",
    "secrets",
    "payers",
    "peers",
    "limits",
    "default_lifetime_s",
    "max_lifetime_s",
    "nonce_lifetime_s",
    "drain_timeout_s",
)
_SIZED = ("allocations", "permissions_per_allocation", "channels_per_allocation")
"""The limits that the engine's tables have been sized for."""
_BOUND = ("discovery", "discovery_port")
"""What of signaling has a socket."""


def take_over(running: TurnConfig, read: TurnConfig, sized_for: TurnLimits) -> TurnConfig:
    """`running` with all of `read` that can change while the node runs; `sized_for` are the limits
    that it was started with, and that it can't pass."""
    changed = {name: getattr(read, name) for name in _LIVE}
    sizes = {name: min(getattr(read.limits, name), getattr(sized_for, name)) for name in _SIZED}
    changed["limits"] = replace(read.limits, **sizes)
    return replace(running, **changed)


def take_over_signaling(running: SignalingConfig, read: SignalingConfig) -> SignalingConfig:
    """`read`, but for what needs a socket of its own."""
    return replace(read, **{name: getattr(running, name) for name in _BOUND})


def keys_for_restart(first: NodeConfig, read: NodeConfig) -> list[str]:
    """The keys, as the file has them, that differ from those that the node was started with and
    that only a restart takes over."""
    keys = [] if first.data_dir == read.data_dir else ["node.data_dir"]
    keys += [
        f"turn.{item.name}"
        for item in fields(TurnConfig)
        if item.name not in _LIVE
        and getattr(first.turn, item.name) != getattr(read.turn, item.name)
    ]
    keys += [
        f"turn.limits.{name}"
        for name in _SIZED
        if getattr(first.turn.limits, name) < getattr(read.turn.limits, name)
    ]
    keys += [
        f"signaling.{name}"
        for name in _BOUND
        if getattr(first.signaling, name) != getattr(read.signaling, name)
    ]
    for table in ("http", "metrics", "log", "billing", "api", "sms", "bridges"):
        before, now = getattr(first, table), getattr(read, table)
        keys += [
            f"{table}.{item.name}"
            for item in fields(before)
            if getattr(before, item.name) != getattr(now, item.name)
        ]
    return keys
