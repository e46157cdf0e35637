"""The node's configuration as the rest of the node reads it: frozen, with its defaults.

Tables and keys of the file have the names of these classes' fields; `deploy/node.toml` explains
each of them. `core.config_file` reads the file, `core.development` is what runs without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from core.bridge_config import BridgesConfig, SecretFile, SmsConfig
from core.stun.address import Address

Network = IPv4Network | IPv6Network

TURN_PORT = 3478
HTTP_PORT = 8790
METRICS_PORT = 9641
DISCOVERY_PORT = 8791


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a listener is bound: ``udp://127.0.0.1:3478``."""

    transport: str
    address: Address

    def __str__(self) -> str:
        return f"{self.transport}://{self.address}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRules:
    """Allow and deny lists over the built-in peer rules; the longest prefix wins, deny on a tie."""

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """Bounds that an operator may move."""

    allocations: int = 10_000
    allocations_per_user: int = 100
    permissions_per_allocation: int = 64
    channels_per_allocation: int = 64
    bytes_per_second: int = 0
    error_replies_per_second: int = 20
    error_replies_exempt: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnConfig:
    """The ``[turn]`` table.

    `payers` leads from a secret or a user to the account that pays, where one is bound to it.
    """

    listen: tuple[Endpoint, ...]
    relay_addresses: tuple[bytes, ...]
    relay_ports: tuple[int, int] = (49152, 65535)
    realm: str = "montana"
    workers: int = 1
    low_latency: bool = False
    secrets: tuple[str, ...] = field(default=(), repr=False)
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    payers: Mapping[str, str] = field(default_factory=dict, repr=False)
    peers: PeerRules = PeerRules()
    external: Mapping[bytes, bytes] = field(default_factory=dict)
    limits: TurnLimits = TurnLimits()
    default_lifetime_s: int = 600
    max_lifetime_s: int = 3600
    nonce_lifetime_s: int = 3600
    drain_timeout_s: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """The ``[http]`` table: where pages are served, over TLS where a certificate is named.

    `public_url` is how people write it, behind a reverse proxy or by a name; empty for the
    address itself. Where it is set, a proxy on this machine is believed who its clients are.
    """

    listen: tuple[Address, ...] = (Address(b"\x7f\x00\x00\x01", HTTP_PORT),)
    certificate: Path | None = None
    private_key: Path | None = None
    public_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """The ``[metrics]`` table: where Prometheus and health checks come."""

    listen: Address = Address(b"\x7f\x00\x00\x01", METRICS_PORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The ``[log]`` table."""

    level: str = "info"
    format: str = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class TariffLine:
    """A table in ``[billing.tariff]``: prices in Ɉ as they are written, and the account that is
    paid.

    Attributes:
        second, megabyte: of an active second, and of 1,000,000 bytes.
        minute: of a room's, each that has begun.
        command: of an SMS command.
    """

    second: str = "0"
    megabyte: str = "0"
    minute: str = "0"
    command: str = "0"
    into: str = "node"


TARIFF: Mapping[str, TariffLine] = {
    "turn": TariffLine(second="1"),
    "voice": TariffLine(second="1"),
    "video": TariffLine(second="2"),
    "screen": TariffLine(second="2"),
    "room": TariffLine(minute="1"),
    "sms": TariffLine(command="1"),
}
"""What things cost unless the file says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingConfig:
    """The ``[billing]`` table.

    Attributes:
        turn: whether relaying is free or metered.
        unknown_account: what becomes of a user whose account is not there, where it is metered:
            refuse or free.
        tariff: what each kind of thing costs.
        default_region: the country, in two letters, of telephone numbers that are written without
            theirs; None where each has to name it.
        welcome: what a new account is given, in Ɉ as it is written; None for nothing.
        keep_ticks_s: for how long the log says who was charged in which second; 0 for ever.
    """

    turn: str = "free"
    unknown_account: str = "refuse"
    default_region: str | None = None
    welcome: str | None = None
    keep_ticks_s: int = 7 * 24 * 3600
    tariff: Mapping[str, TariffLine] = field(default_factory=lambda: TARIFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalingConfig:
    """The ``[signaling]`` table: who may make rooms and calls in the browser, and how much of it.

    Attributes:
        allowed_origins: of pages that may speak to the node beside its own, as browsers write
            them: ``https://example.org``.
        messages_per_second, message_burst: what a page may send, and how much of it at once.
        relay_only: everybody's media flows through the node's relays alone.
        room_token: whoever makes a room has to name it; empty for none.
        rooms: who pays for them: host, by the minute, or free, the node within its quota.
        free_minutes_per_day: the quota in minutes, of all people in free rooms together; 0 for no
            limit.
        free_people: how many of them there may be at once; 0 for no limit.
        free_bytes_per_second: what each of them may send, and what each may receive.
        direct_calls: whether the media of calls that are paid for may flow past the relays.
        calls_per_minute: what one account may begin.
        discovery, discovery_port: whether probes of the local network are answered, and on which
            UDP port.
    """

    allowed_origins: tuple[str, ...] = ()
    messages_per_second: int = 20
    message_burst: int = 200
    relay_only: bool = False
    room_token: str = field(default="", repr=False)
    rooms: str = "host"
    free_minutes_per_day: int = 1_000
    free_people: int = 100
    free_bytes_per_second: int = 1_000_000
    direct_calls: bool = False
    calls_per_minute: int = 10
    discovery: bool = False
    discovery_port: int = DISCOVERY_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """The ``[api]`` table: who may speak to the node's socket beside its own user and root.

    Attributes:
        group: the Unix group whose members may ask what bridges ask; None for nobody else.
    """

    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """The whole file.

    Attributes:
        data_dir: what the node keeps: its key, its socket, its ledger. Made when it is missing.
        development: `montana up --dev` or `--lan`: pages ask for no link.
        environment: names of the variables that stand over the file, see `core.environment`.
        secret_files: what bridges read beside it.
    """

    data_dir: Path
    turn: TurnConfig
    http: HttpConfig = HttpConfig()
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()
    billing: BillingConfig = BillingConfig()
    signaling: SignalingConfig = SignalingConfig()
    sms: SmsConfig = SmsConfig()
    bridges: BridgesConfig = BridgesConfig()
    api: ApiConfig = ApiConfig()
    development: bool = False
    environment: tuple[str, ...] = ()
    secret_files: tuple[SecretFile, ...] = ()
