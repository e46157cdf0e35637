"""What a node would make of its configuration, for `montana config check`."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_address

from core.config import BillingConfig, NodeConfig, TurnLimits


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
        "pages": ", ".join(f"{scheme}://{address}" for address in config.http.listen),
        "metrics": f"http://{config.metrics.listen}",
    }
    return "\n".join(f"{name + ':':16}{value}" for name, value in lines.items() if value)


def _price_of_relaying(billing: BillingConfig) -> str:
    if billing.turn == "free":
        return "free"
    line = billing.tariff["turn"]
    others = {"refuse": "are refused", "free": "relay for nothing"}[billing.unknown_account]
    return (
        f"metered, {line.second} Ɉ a second and {line.megabyte} Ɉ a megabyte into {line.into}; "
        f"those without an account {others}"
    )
