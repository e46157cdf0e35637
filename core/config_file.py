"""The configuration's file: TOML, read and validated once.

`load` reads a file, `validate_untrusted` a document; both name every problem at once, each by
its key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from core import config_reader as read
from core import limits
from core.bridge_config_file import Secrets, read_bridges, read_sms
from core.config import (
    TARIFF,
    TURN_PORT,
    ApiConfig,
    BillingConfig,
    Endpoint,
    HttpConfig,
    LogConfig,
    MetricsConfig,
    NodeConfig,
    PeerRules,
    SignalingConfig,
    TariffLine,
    TurnConfig,
    TurnLimits,
)
from core.config_reader import Table
from core.errors import ConfigError
from core.stun.address import Address
from core.stun.credentials import opaque_string


def load(path: Path, bridge: str | None = None) -> NodeConfig:
    """Read and validate the file at `path`; relative paths in it start at its folder.

    Args:
        bridge: whose secrets are kept, and read from files of their own, the node's not; None for
            the node, which keeps its own alone.

    Raises:
        ConfigError: it can't be read, is no TOML, or says something that can't be used.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limits.CONFIG_FILE_MAXIMUM_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    if len(content) > limits.CONFIG_FILE_MAXIMUM_BYTES:
        raise ConfigError(f"{path} is too large to be a configuration")
    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from error
    try:
        return validate_untrusted(document, path.absolute().parent, bridge)
    except ConfigError as error:
        raise ConfigError(f"{path} can't be used:\n{error}") from None


def validate_untrusted(
    document: Mapping[str, Any], folder: Path, bridge: str | None = None
) -> NodeConfig:
    """Turn a parsed TOML document into a configuration; relative paths start at `folder`. `bridge`
    as for `load`.

    Raises:
        ConfigError: one line for each problem, the key first.
    """
    problems: list[str] = []
    root = Table(document, "", problems)

    node = root.table("node")
    data_dir = folder / node.value("data_dir", read.text, "data")
    node.finish()

    turn = _turn(root.table("turn"))
    http = _http(root.table("http"), folder)

    metrics_table = root.table("metrics")
    metrics = MetricsConfig(
        listen=metrics_table.value("listen", read.host_port, MetricsConfig().listen)
    )
    metrics_table.finish()

    if metrics.listen in http.listen and metrics.listen.port:
        metrics_table.complain("listen", f"{metrics.listen} is the pages' address as well")
    log_table = root.table("log")
    log = LogConfig(
        level=log_table.value("level", read.choice("debug", "info", "warning", "error"), "info"),
        format=log_table.value("format", read.choice("text", "json"), "text"),
    )
    log_table.finish()

    billing = _billing(root.table("billing"))
    signaling = _signaling(root.table("signaling"))
    secrets = Secrets(folder, bridge)
    bridges = read_bridges(root.table("bridges"), root.raw("sms"), secrets)
    sms = read_sms(root.table("sms"), bridges, secrets, billing.default_region)
    if bridges.telegram is not None and not http.public_url.startswith("https:"):
        root.complain("http.public_url", "is missing: Telegram opens pages of an https:// URL only")
    api_table = root.table("api")
    api = ApiConfig(group=api_table.value("group", read.text, None))
    api_table.finish()

    root.finish()
    if problems:
        raise ConfigError("\n".join(f"  {problem}" for problem in problems))
    if bridge is not None:
        turn = replace(turn, secrets=(), users={}, payers={})
        signaling = replace(signaling, room_token="")
    return NodeConfig(
        data_dir=data_dir,
        turn=turn,
        http=http,
        metrics=metrics,
        log=log,
        billing=billing,
        signaling=signaling,
        sms=sms,
        bridges=bridges,
        api=api,
        secret_files=tuple(secrets.files),
    )


def _turn(table: Table) -> TurnConfig:
    listen = table.items("listen", _endpoint, limits.LISTENERS_MAXIMUM)
    if "listen" not in table:
        table.complain("listen", f'is missing; add listen = ["udp://0.0.0.0:{TURN_PORT}"]')
    elif not listen:
        table.complain("listen", f'names no address; write listen = ["udp://0.0.0.0:{TURN_PORT}"]')
    for endpoint in listen:
        wild = Address(bytes(len(endpoint.address.ip)), endpoint.address.port)
        if endpoint.address != wild and any(other.address == wild for other in listen):
            table.complain("listen", f"{endpoint} is within udp://{wild}; leave one of them out")
    bound = tuple(dict.fromkeys(endpoint.address.ip for endpoint in listen))
    wildcard = any(not any(packed) for packed in bound)
    relay_addresses = table.items("relay_addresses", read.ip, limits.RELAY_ADDRESSES_MAXIMUM)
    if "relay_addresses" not in table:
        relay_addresses = bound
        if wildcard:
            table.complain(
                "relay_addresses",
                "is missing, and listen has a wildcard address that doesn't tell them; "
                'add relay_addresses = ["192.0.2.1"] with this machine\'s own address',
            )
    elif not relay_addresses:
        table.complain("relay_addresses", "names no address that can be used")

    bound_secrets = table.items("secrets", _secret, limits.SECRETS_MAXIMUM)
    secrets = tuple(secret for secret, _ in bound_secrets)
    if len(set(secrets)) < len(secrets):
        table.complain("secrets", "has a secret twice, for different accounts")
    payers = {secret: account for secret, account in bound_secrets if account}
    users = _users(table.table("users"), payers, time_limited=bool(secrets))
    if not (table.fills("secrets") or table.fills("users")):
        table.complain(
            "secrets",
            "is missing, and so is [turn.users]; a relay without authentication is open to "
            'everybody. Add secrets = ["..."] with what `openssl rand -base64 32` prints, or '
            'users, such as\n    [turn.users]\n    alice = "her password"',
        )

    peers_table = table.table("peers")
    peers = PeerRules(
        allow=peers_table.items("allow", read.network, limits.PEER_RULES_MAXIMUM),
        deny=peers_table.items("deny", read.network, limits.PEER_RULES_MAXIMUM),
    )
    peers_table.finish()

    default = TurnConfig(listen=(), relay_addresses=())
    lifetime = read.number(limits.LIFETIME_MINIMUM_S, limits.LIFETIME_MAXIMUM_S)
    config = TurnConfig(
        listen=listen,
        relay_addresses=relay_addresses,
        relay_ports=table.value("relay_ports", read.port_range, default.relay_ports),
        realm=table.value("realm", _realm, default.realm),
        workers=table.value("workers", read.number(1, limits.WORKERS_MAXIMUM), default.workers),
        low_latency=table.value("low_latency", read.flag, default.low_latency),
        secrets=secrets,
        users=users,
        payers=payers,
        peers=peers,
        external=_external(
            table.table("external"), set() if wildcard else {*bound, *relay_addresses}
        ),
        limits=_limits(table.table("limits")),
        default_lifetime_s=table.value("default_lifetime_s", lifetime, default.default_lifetime_s),
        max_lifetime_s=table.value("max_lifetime_s", lifetime, default.max_lifetime_s),
        nonce_lifetime_s=table.value(
            "nonce_lifetime_s",
            read.number(1, limits.NONCE_LIFETIME_MAXIMUM_S),
            default.nonce_lifetime_s,
        ),
        drain_timeout_s=table.value(
            "drain_timeout_s",
            read.number(0, limits.DRAIN_TIMEOUT_MAXIMUM_S),
            default.drain_timeout_s,
        ),
    )
    if config.default_lifetime_s > config.max_lifetime_s:
        table.complain(
            "default_lifetime_s",
            f"is {config.default_lifetime_s}, more than max_lifetime_s, {config.max_lifetime_s}",
        )
    table.finish()
    return config


def _endpoint(value: object) -> Endpoint:
    written = read.text(value)
    transport, separator, address = written.partition("://")
    if not separator:
        raise ValueError(f"begins with its transport, such as udp://127.0.0.1:{TURN_PORT}")
    if transport != "udp":
        raise ValueError(f"has the transport {transport!r}; udp is the one there is")
    endpoint = Endpoint(transport=transport, address=read.host_port(address, TURN_PORT))
    if ip_address(endpoint.address.ip).is_multicast:
        raise ValueError(f"{endpoint.address.host} is a multicast address")
    return endpoint


def _with_account(value: object, key: str) -> tuple[str, str]:
    """A text alone, or a table of it under `key` and of the account that pays, else empty."""
    if not isinstance(value, dict):
        return read.text(value), ""
    for name in value:
        if name not in (key, "account"):
            raise ValueError(f"has {key} and account, not {name}")
    if key not in value:
        raise ValueError(f"lacks {key}")
    account = read.text(value.get("account", None))
    if len(account) > limits.ACCOUNT_MAXIMUM_CHARACTERS or not account.isprintable():
        raise ValueError("names an account such as user:alice")
    return read.text(value[key]), account


def _secret(value: object) -> tuple[str, str]:
    secret, account = _with_account(value, "value")
    return read.secret(secret), account


def _realm(value: object) -> str:
    realm = read.text(value)
    if len(realm) > limits.REALM_MAXIMUM_CHARACTERS or not realm.isprintable():
        raise ValueError(
            f"has {limits.REALM_MAXIMUM_CHARACTERS} printable characters at most "
            "(RFC 8489 section 14.9)"
        )
    if (problem := _unusable(realm)) is not None:
        raise ValueError(f"can't be used: {problem}")
    return realm


def _users(table: Table, payers: dict[str, str], *, time_limited: bool) -> Mapping[str, str]:
    users: dict[str, str] = {}
    for name, value in table.pairs(limits.USERS_MAXIMUM).items():
        try:
            password, account = _with_account(value, "password")
        except ValueError as error:
            table.complain(name, f"the password {error}")
            continue
        if len(password.encode()) > limits.PASSWORD_MAXIMUM_BYTES:
            table.complain(name, f"the password has {limits.PASSWORD_MAXIMUM_BYTES} bytes at most")
        elif not 0 < len(name.encode()) <= limits.USERNAME_MAXIMUM_BYTES:
            table.complain(name, f"a name has from 1 to {limits.USERNAME_MAXIMUM_BYTES} bytes")
        elif (problem := _unusable(name, password)) is not None:
            table.complain(name, problem)
        elif time_limited and name.partition(":")[0].isdigit() and ":" in name:
            table.complain(name, "reads as a time-limited name, which the secrets are for")
        elif opaque_string(name) in users:
            table.complain(name, "stands there twice, once as other characters that look the same")
        else:
            # As clients send it (RFC 8489 section 14.3).
            users[opaque_string(name)] = password
            if account:
                payers[opaque_string(name)] = account
    return users


def _unusable(*texts: str) -> str | None:
    """Why no key can be made of a name and a password; None when one can."""
    try:
        for each in texts:
            opaque_string(each)
    except ConfigError as error:
        return str(error)
    return None


def _external(table: Table, own: set[bytes]) -> Mapping[bytes, bytes]:
    """The 1:1 NAT map; `own` are the addresses that it may speak of, empty for any."""
    external: dict[bytes, bytes] = {}
    for key, value in table.pairs(limits.RELAY_ADDRESSES_MAXIMUM).items():
        try:
            inside, outside = read.ip(key), read.ip(value)
        except ValueError as error:
            table.complain(key, str(error))
            continue
        if len(inside) != len(outside):
            table.complain(key, "maps between IPv4 and IPv6; both have to be of one family")
        elif own and inside not in own:
            table.complain(key, "is neither in listen nor in relay_addresses")
        elif outside in external.values() or outside in own:
            table.complain(key, f"{ip_address(outside)} already stands for another address")
        else:
            external[inside] = outside
    return external


def _limits(table: Table) -> TurnLimits:
    default = TurnLimits()

    def bound(key: str, minimum: int, maximum: int) -> int:
        return table.value(key, read.number(minimum, maximum), int(getattr(default, key)))

    turn_limits = TurnLimits(
        allocations=bound("allocations", 1, limits.ALLOCATIONS_MAXIMUM),
        allocations_per_user=bound("allocations_per_user", 1, limits.ALLOCATIONS_MAXIMUM),
        permissions_per_allocation=bound(
            "permissions_per_allocation", 1, limits.PERMISSIONS_PER_ALLOCATION_MAXIMUM
        ),
        channels_per_allocation=bound(
            "channels_per_allocation", 1, limits.CHANNELS_PER_ALLOCATION_MAXIMUM
        ),
        bytes_per_second=bound("bytes_per_second", 0, limits.BYTES_PER_SECOND_MAXIMUM),
        error_replies_per_second=bound(
            "error_replies_per_second", 1, limits.ERROR_REPLIES_PER_SECOND_MAXIMUM
        ),
        error_replies_exempt=table.items(
            "error_replies_exempt", read.network, limits.PEER_RULES_MAXIMUM
        ),
    )
    table.finish()
    return turn_limits


def _http(table: Table, folder: Path) -> HttpConfig:
    default = HttpConfig()
    if table.holds_text("listen"):
        one = table.value("listen", read.host_port, default.listen[0])
        listen: tuple[Address, ...] = (one,)
    else:
        listen = table.items("listen", read.host_port, limits.LISTENERS_MAXIMUM, default.listen)
        if not listen:
            table.complain("listen", f'names no address; write listen = "{default.listen[0]}"')
    files: dict[str, Path | None] = {}
    for key in ("certificate", "private_key"):
        name = table.value(key, read.text, "")
        files[key] = folder / name if name else None
    if (files["certificate"] is None) != (files["private_key"] is None):
        absent = "certificate" if files["certificate"] is None else "private_key"
        table.complain(absent, "is missing; certificate and private_key come together")
    public_url = table.value("public_url", read.origin, default.public_url)
    table.finish()
    return HttpConfig(listen=listen, public_url=public_url, **files)


def _billing(table: Table) -> BillingConfig:
    default = BillingConfig()
    billing = BillingConfig(
        default_region=table.value("default_region", read.region, default.default_region),
        welcome=table.value("welcome", read.amount, default.welcome),
        turn=table.value("turn", read.choice("free", "metered"), default.turn),
        unknown_account=table.value(
            "unknown_account", read.choice("refuse", "free"), default.unknown_account
        ),
        keep_ticks_s=table.value(
            "keep_ticks_s", read.number(0, limits.KEEP_TICKS_MAXIMUM_S), default.keep_ticks_s
        ),
        tariff=_tariff(table.table("tariff")),
    )
    table.finish()
    return billing


def _tariff(table: Table) -> Mapping[str, TariffLine]:
    tariff: dict[str, TariffLine] = {}
    for kind, default in TARIFF.items():
        line = table.table(kind)
        units = {"sms": ("command",), "room": ("minute",)}.get(kind, ("second", "megabyte"))
        prices = {unit: line.value(unit, read.price, getattr(default, unit)) for unit in units}
        tariff[kind] = TariffLine(**prices, into=line.value("into", read.text, default.into))
        line.finish()
    table.finish()
    return tariff


def _signaling(table: Table) -> SignalingConfig:
    default = SignalingConfig()

    def bound(key: str, minimum: int, maximum: int) -> int:
        return table.value(key, read.number(minimum, maximum), int(getattr(default, key)))

    signaling = SignalingConfig(
        allowed_origins=table.items("allowed_origins", read.origin, limits.ALLOWED_ORIGINS_MAXIMUM),
        messages_per_second=bound("messages_per_second", 1, limits.MESSAGES_PER_SECOND_MAXIMUM),
        message_burst=bound("message_burst", 1, limits.MESSAGES_PER_SECOND_MAXIMUM),
        relay_only=table.value("relay_only", read.flag, default.relay_only),
        room_token=table.value("room_token", read.room_token, default.room_token),
        rooms=table.value("rooms", read.choice("host", "free"), default.rooms),
        free_minutes_per_day=bound("free_minutes_per_day", 0, limits.FREE_MINUTES_PER_DAY_MAXIMUM),
        free_people=bound("free_people", 0, limits.FREE_PEOPLE_MAXIMUM),
        free_bytes_per_second=bound("free_bytes_per_second", 0, limits.BYTES_PER_SECOND_MAXIMUM),
        direct_calls=table.value("direct_calls", read.flag, default.direct_calls),
        calls_per_minute=bound("calls_per_minute", 1, limits.CALLS_PER_MINUTE_MAXIMUM),
        discovery=table.value("discovery", read.flag, default.discovery),
        discovery_port=bound("discovery_port", 0, limits.PORT_MAXIMUM),
    )
    if signaling.direct_calls and signaling.relay_only:
        table.complain("direct_calls", "can't be where relay_only is; leave one of them out")
    table.finish()
    return signaling
