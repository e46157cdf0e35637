"""What the environment's variables say over the configuration, and what holds only for the whole.

    PROD=1                      media flows through relays alone, pages come over TLS, no --dev
    ROOM_TOKEN=...              signaling.room_token
    ALLOWED_ORIGINS=https://a   signaling.allowed_origins, more of them behind commas

A variable that is set counts, an empty one too, which is a mistake: it may have been meant to
protect something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from core import config_reader as read
from core import limits
from core.config import NodeConfig
from core.config_reader import Table
from core.errors import ConfigError

_TRUTH = {"1": True, "true": True, "0": False, "false": False}


def with_environment(config: NodeConfig, environ: Mapping[str, str]) -> NodeConfig:
    """`config` as it is to be run where the environment is `environ`.

    Raises:
        ConfigError: a line for each variable or key that can't be used, its name first.
    """
    problems: list[str] = []
    values: dict[str, object] = {
        name: environ[name] for name in ("PROD", "ROOM_TOKEN") if name in environ
    }
    if (origins := environ.get("ALLOWED_ORIGINS")) is not None:
        values["ALLOWED_ORIGINS"] = [one.strip() for one in origins.split(",")]
    table = Table(values, "", problems)
    signaling = replace(
        config.signaling,
        room_token=table.value("ROOM_TOKEN", read.room_token, config.signaling.room_token),
        allowed_origins=table.items(
            "ALLOWED_ORIGINS",
            read.origin,
            limits.ALLOWED_ORIGINS_MAXIMUM,
            config.signaling.allowed_origins,
        ),
    )
    if is_production := table.value("PROD", _truth, False):
        signaling = replace(signaling, relay_only=True, direct_calls=False)
        problems += [f"PROD: {sentence}" for sentence in _unfit_for_production(config)]
    if signaling.rooms == "free" and not (signaling.room_token or config.development):
        problems.append(
            "signaling.rooms: is free, and whoever comes could make rooms that the node pays for; "
            'add room_token = "..." with what `openssl rand -base64 32` prints, or ROOM_TOKEN in '
            'the environment, or write rooms = "host"'
        )
    if problems:
        raise ConfigError("\n".join(problems))
    names = tuple(name for name in values if name != "PROD" or is_production)
    return replace(config, signaling=signaling, environment=names)


def _truth(value: object) -> bool:
    if (truth := _TRUTH.get(read.text(value))) is None:
        raise ValueError("is 1 or true, 0 or false")
    return truth


def _unfit_for_production(config: NodeConfig) -> list[str]:
    if config.development:
        return ["is not for --dev and --lan; write a file and use --config, or unset PROD"]
    http = config.http
    if http.public_url.startswith("https:") or (http.certificate and not http.public_url):
        return []
    return [
        "asks for pages over TLS; set http.certificate and http.private_key, or http.public_url "
        "to the https:// URL of the reverse proxy in front"
    ]
