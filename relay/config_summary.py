"""What a node would make of its configuration, for `montana config check`."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_address

from core.config import BillingConfig, NodeConfig, SignalingConfig, TurnLimits
from relay.bridge_summary import describe_bridges, warnings_of


def describe(config: NodeConfig) -> str:
    """What the node would do with `config`, a line for each thing. Names no secret."""
    turn = config.turn
    scheme = "https" if config.http.certificate else "http"
    authentication = [
        f"{count} {noun}{'' if count == 1 else 's'}"
        for count, noun in ((len(turn.secrets), "secret"), (len(turn.users), "user"))
        if count
    ]
    lines = {
        "data": str(config.data_dir),
        "TURN": ", ".join(map(str, turn.listen)),
        "relays": ", ".join(str(ip_address(packed)) for packed in turn.relay_addresses)
        + f", ports {turn.relay_ports[0]}-{turn.relay_ports[1]}",
        "external": ", ".join(
            f"{ip_address(inside)} is {ip_address(outside)}"
            for inside, outside in turn.external.items()
        ),
        "authentication": " and ".join(authentication) + f", realm {turn.realm}",
        "peers": ", ".join(
            [f"allow {network}" for network in turn.peers.allow]
            + [f"deny {network}" for network in turn.peers.deny]
        ),
        "relaying": _price_of_relaying(config.billing),
        "workers": str(turn.workers),
        "limits": ", ".join(
            f"{item.name} {getattr(turn.limits, item.name)}"
            for item in fields(TurnLimits)
            if item.type == "int"
        ),
        "rooms": _rooms(config.signaling),
        "calls": _calls(config.signaling),
        "messages": f"{config.signaling.messages_per_second} a second, "
        f"{config.signaling.message_burst} at once",
        "origins": ", ".join(config.signaling.allowed_origins),
        "discovery": f"UDP port {config.signaling.discovery_port}"
        if config.signaling.discovery
        else "",
        "pages": ", ".join(f"{scheme}://{address}" for address in config.http.listen),
        **describe_bridges(config),
        "socket": f"also for the group {config.api.group}" if config.api.group else "",
        "metrics": f"http://{config.metrics.listen}",
        "environment": " and ".join(config.environment),
    }
    said = [f"{name + ':':16}{value}" for name, value in lines.items() if value]
    return "\n".join([*said, *(f"{'warning:':16}{warning}" for warning in warnings_of(config))])


def _price_of_relaying(billing: BillingConfig) -> str:
    if billing.turn == "free":
        return "free"
    line = billing.tariff["turn"]
    others = {"refuse": "are refused", "free": "relay for nothing"}[billing.unknown_account]
    return (
        f"metered, {line.second} Ɉ a second and {line.megabyte} Ɉ a megabyte into {line.into}; "
        f"those without an account {others}"
    )


def _rooms(signaling: SignalingConfig) -> str:
    parts = ["paid for by the host"]
    if signaling.rooms == "free":
        parts = [
            "paid for by the node",
            f"{signaling.free_minutes_per_day} minutes a day",
            f"{signaling.free_people} people",
            f"{signaling.free_bytes_per_second} bytes a second each",
        ]
    if signaling.room_token:
        parts.append("made with the room token")
    return ", ".join(parts)


def _calls(signaling: SignalingConfig) -> str:
    if signaling.relay_only:
        path = "everybody's media through the relays"
    elif signaling.direct_calls:
        path = "directly where that is possible"
    else:
        path = "those that cost something through the relays"
    return f"{path}, {signaling.calls_per_minute} a minute of one account"
