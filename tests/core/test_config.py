"""The configuration file: what is taken, and what each mistake is told."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import limits
from core.bridge_config import (
    AndroidConfig,
    ModemConfig,
    SmsConfig,
    TelegramConfig,
    TwilioConfig,
)
from core.config import (
    ApiConfig,
    BillingConfig,
    HttpConfig,
    LogConfig,
    MetricsConfig,
    NodeConfig,
    PeerRules,
    SignalingConfig,
    TurnConfig,
    TurnLimits,
)
from core.config_file import load, validate_untrusted
from core.development import development_config, has_ipv6_loopback, lan_addresses
from core.errors import ConfigError
from core.stun.address import Address

ROOT = Path(__file__).parents[2]

EXAMPLE = """
[node]
data_dir = "data"
[turn]
listen = ["udp://127.0.0.1:3478", "udp://[::1]:3478"]
relay_addresses = ["127.0.0.1", "::1"]
relay_ports = [49152, 65535]
realm = "montana"
workers = 1
secrets = ["a long secret"]
[turn.users]
alice = "password"
[turn.peers]
allow = ["127.0.0.0/8", "::1/128"]
[http]
listen = "127.0.0.1:8790"
"""


def changed(key: str, value: Any) -> dict[str, Any]:
    """The example with `key` (dotted; a list of keys where one holds a dot) set, or removed."""
    document: dict[str, Any] = copy.deepcopy(tomllib.loads(EXAMPLE))
    *parents, last = key.split("/") if "/" in key else key.split(".")
    table = document
    for parent in parents:
        table = table.setdefault(parent, {})
    if value is None:
        del table[last]
    else:
        table[last] = value
    return document


def complaint(document: Mapping[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        validate_untrusted(document, Path("/etc/montana"))
    return str(caught.value)


def accepted(key: str, value: Any) -> NodeConfig:
    return validate_untrusted(changed(key, value), Path("/etc/montana"))


def test_the_example(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(EXAMPLE)
    config = load(path)
    assert config.data_dir == tmp_path / "data"
    assert [str(endpoint) for endpoint in config.turn.listen] == [
        "udp://127.0.0.1:3478",
        "udp://[::1]:3478",
    ]
    assert config.turn.relay_addresses == (bytes([127, 0, 0, 1]), bytes(15) + b"\1")
    assert config.turn.relay_ports == (49152, 65535)
    assert config.turn.secrets == ("a long secret",)
    assert config.turn.users == {"alice": "password"}
    assert config.turn.peers.allow == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert config.http.listen == (Address.from_text("127.0.0.1", 8790),)
    assert config.metrics.listen == Address.from_text("127.0.0.1", 9641)
    assert not config.development


def test_the_sample_lacks_authentication_alone() -> None:
    """Whoever runs it unread gets no open relay, and no secret that others know."""
    with pytest.raises(ConfigError) as caught:
        load(ROOT / "deploy" / "node.toml")
    problems = [line for line in str(caught.value).splitlines() if line.startswith("  turn.")]
    assert len(problems) == 1
    assert "without authentication" in problems[0]


def test_the_sample_explains_every_key() -> None:
    """What an operator gets who removes every '#' before a key."""
    lines = [
        line.removeprefix("#") if line.startswith("#") and line[1:2].strip() else line
        for line in (ROOT / "deploy" / "node.toml").read_text().splitlines()
    ]
    document = tomllib.loads("\n".join(lines))
    said = complaint(document).splitlines()
    secret = "long_enough_now_0123456789"
    bridges = document["bridges"]
    examples: list[tuple[dict[str, Any], str, list[Any]]] = [
        (document["turn"], "turn.secrets[0]", ["secrets", [secret]]),
        (document["signaling"], "signaling.room_token", ["room_token", secret]),
        (document["sms"], "sms.forward_secret", ["forward_secret", secret]),
        (bridges["telegram"], "bridges.telegram.token", ["token", f"123456:{secret}"]),
        (bridges["telegram"], "bridges.telegram.webhook_secret", ["webhook_secret", secret]),
        (bridges["twilio"], "bridges.twilio.auth_token", ["auth_token", secret]),
        (bridges["twilio"]["android"], "bridges.twilio.android.secret", ["secret", secret]),
    ]
    complaints = {line.strip().partition(":")[0] for line in said}
    for table, name, (key, value) in examples:
        assert name in complaints, "examples must not be secrets"
        table[key] = value
    config = validate_untrusted(document, Path("/etc/montana"))
    assert config.turn.external
    for table, owner in (
        (document["turn"], TurnConfig),
        (document["turn"]["limits"], TurnLimits),
        (document["turn"]["peers"], PeerRules),
        (document["http"], HttpConfig),
        (document["metrics"], MetricsConfig),
        (document["billing"], BillingConfig),
        (document["signaling"], SignalingConfig),
        (document["log"], LogConfig),
        (document["sms"], SmsConfig),
        (bridges["telegram"], TelegramConfig),
        (bridges["twilio"], TwilioConfig),
        (bridges["twilio"]["android"], AndroidConfig),
        (bridges["gsm"]["modems"][0], ModemConfig),
        (document["api"], ApiConfig),
    ):
        # Who pays stands beside a secret or a user.
        assert set(table) == {item.name for item in fields(owner)} - {"payers"}


def test_the_sample_shows_the_defaults() -> None:
    """A commented number is the default, so that what it says of them stays true."""
    text = (ROOT / "deploy" / "node.toml").read_text()
    default = TurnConfig(listen=(), relay_addresses=())
    for owner in (default, default.limits, BillingConfig(), SignalingConfig(), SmsConfig()):
        for item in fields(owner):
            value = getattr(owner, item.name)
            if isinstance(value, int) and not isinstance(value, bool):
                assert f"\n#{item.name} = {value}\n" in text


@pytest.mark.parametrize(
    ("key", "value", "where", "sentence"),
    [
        ("turn.realms", "x", "turn.realms", "unknown; did you mean realm?"),
        ("turn.relay_adresses", [], "turn.relay_adresses", "did you mean relay_addresses?"),
        ("turn.zzzz", 1, "turn.zzzz", "unknown; known here: listen"),
        ("htpp", {}, "htpp", "unknown; did you mean http?"),
        ("turn.limits.allocation", 1, "turn.limits.allocation", "did you mean allocations?"),
        ("turn.peers.alow", [], "turn.peers.alow", "did you mean allow?"),
        ("node.datadir", "x", "node.datadir", "did you mean data_dir?"),
        ("metrics.port", 1, "metrics.port", "known here: listen"),
        ("log.levle", "info", "log.levle", "did you mean level?"),
        ("turn.workers", 0, "turn.workers", "from 1 to 64"),
        ("turn.workers", 65, "turn.workers", "from 1 to 64"),
        ("turn.workers", True, "turn.workers", "a whole number, not true or false"),
        ("turn.workers", 1.0, "turn.workers", "not a number with a point"),
        ("turn.low_latency", 1, "turn.low_latency", "true or false, not a number"),
        ("turn", 5, "turn", "is a table, not a number; write [turn]"),
        ("turn.listen", None, "turn.listen", "is missing; add listen"),
        ("turn.listen", "udp://[::]:1", "turn.listen", "is a list, not text"),
        ("turn.listen", ["udp://[::1]:1"] * 2, "turn.listen[1]", "twice"),
        ("turn.listen", ["127.0.0.1:1"], "turn.listen[0]", "begins with its transport"),
        ("turn.listen", ["tcp://127.0.0.1:1"], "turn.listen[0]", "udp is the one there is"),
        ("turn.listen", ["udp://::1:3478"], "turn.listen[0]", "in brackets"),
        ("turn.listen", ["udp://localhost:1"], "turn.listen[0]", "is no IP address"),
        ("turn.listen", ["udp://127.0.0.1:x"], "turn.listen[0]", "lacks its port"),
        ("turn.listen", ["udp://127.0.0.1:"], "turn.listen[0]", "lacks its port"),
        ("turn.listen", ["udp://127.0.0.1:65536"], "turn.listen[0]", "ports end at 65535"),
        ("turn.listen", ["udp://[127.0.0.1]:1"], "turn.listen[0]", "such as 127.0.0.1"),
        ("turn.listen", ["udp://[::1:1"], "turn.listen[0]", "such as 127.0.0.1"),
        ("turn.listen", ["udp://[fe80::1%eth0]:1"], "turn.listen[0]", "names an interface"),
        ("turn.listen", [f"udp://[::1]:{n}" for n in range(17)], "turn.listen", "16 are allowed"),
        ("turn.relay_addresses", [], "turn.relay_addresses", "names no address"),
        ("turn.relay_addresses", ["0.0.0.0"], "turn.relay_addresses[0]", "is a wildcard"),
        ("turn.relay_addresses", ["::"], "turn.relay_addresses[0]", "is a wildcard"),
        ("turn.relay_addresses", ["224.0.0.1"], "turn.relay_addresses[0]", "of many"),
        ("turn.relay_addresses", ["255.255.255.255"], "turn.relay_addresses[0]", "of many"),
        ("turn.listen", [], "turn.listen", "names no address"),
        ("turn.listen", ["udp://224.0.0.1:1"], "turn.listen[0]", "multicast"),
        (
            "turn.listen",
            ["udp://0.0.0.0:1", "udp://127.0.0.1:1"],
            "turn.listen",
            "udp://127.0.0.1:1 is within udp://0.0.0.0:1",
        ),
        ("turn.secrets", [" " * 30], "turn.secrets[0]", "too short"),
        ("node.data_dir", "a\0b", "node.data_dir", "NUL"),
        ("turn.relay_addresses", ["fe80::1"], "turn.relay_addresses[0]", "link-local"),
        ("turn.relay_addresses", ["::ffff:1.2.3.4"], "turn.relay_addresses[0]", "write 1.2.3.4"),
        ("turn.relay_ports", [65535, 49152], "turn.relay_ports", "write [49152, 65535]"),
        ("turn.relay_ports", [1023, 49152], "turn.relay_ports", "from 1024 to 65535"),
        ("turn.relay_ports", [49152], "turn.relay_ports", "the first and the last"),
        ("turn.realm", "", "turn.realm", "is empty"),
        ("turn.realm", "x" * 128, "turn.realm", "127 printable characters"),
        ("turn.realm", "a\nb", "turn.realm", "127 printable characters"),
        ("turn.secrets", ["short"], "turn.secrets[0]", "too short to be a secret"),
        ("turn.secrets", "one long secret", "turn.secrets", "put it in [ ]"),
        ("turn.secrets", [{"value": "s" * 20}], "turn.secrets[0]", "is text in quotes"),
        ("turn.secrets", [{"account": "user:shop"}], "turn.secrets[0]", "lacks value"),
        (
            "turn.secrets",
            [{"value": "s" * 20, "account": "a"}, "s" * 20],
            "turn.secrets",
            "twice, for different accounts",
        ),
        ("turn.users.alice", {"password": "p", "acount": "a"}, "turn.users.alice", "not acount"),
        ("turn.secrets", [7], "turn.secrets[0]", "is text in quotes"),
        ("turn.users.alice", "", "turn.users.alice", "the password is empty"),
        ("turn.users.alice", 5, "turn.users.alice", "the password is text"),
        ("turn.users.alice", "x" * 513, "turn.users.alice", "512 bytes at most"),
        ("turn.users.alice", "a\tb", "turn.users.alice", "U+0009"),
        ("turn.users.al\xadice", "password", "turn.users.al\xadice", "U+00AD"),
        ("turn.realm", "a\u0378b", "turn.realm", "127 printable"),
        ("turn.realm", "a\u302eb", "turn.realm", "U+302E"),
        ("turn.users.", "password", "turn.users.", "from 1 to 508 bytes"),
        ("turn.users.17:bob", "password", "turn.users.17:bob", "reads as a time-limited name"),
        ("turn.peers.allow", ["10.0.0.1/8"], "turn.peers.allow[0]", "the network is 10.0.0.0/8"),
        ("turn.peers.deny", ["ten"], "turn.peers.deny[0]", "is a network such as"),
        ("turn.peers.deny", ["::ffff:0:0/96"], "turn.peers.deny[0]", "write it as an IPv4"),
        ("turn/external/127.0.0.1", "::2", "turn.external.127.0.0.1", "of one family"),
        ("turn/external/10.0.0.5", "203.0.113.7", "turn.external.10.0.0.5", "is neither in listen"),
        ("turn/external/127.0.0.1", "127.0.0.1", "turn.external.127.0.0.1", "already stands"),
        ("turn/external/127.0.0.1", "x", "turn.external.127.0.0.1", "is no IP address"),
        ("turn.default_lifetime_s", 7200, "turn.default_lifetime_s", "more than max_lifetime_s"),
        ("turn.default_lifetime_s", 1, "turn.default_lifetime_s", "from 10 to 86400"),
        ("turn.nonce_lifetime_s", 3601, "turn.nonce_lifetime_s", "from 1 to 3600"),
        ("turn.drain_timeout_s", -1, "turn.drain_timeout_s", "from 0 to 86400"),
        ("turn.limits.allocations", 0, "turn.limits.allocations", "from 1 to 262144"),
        ("turn.limits.bytes_per_second", "1M", "turn.limits.bytes_per_second", "not text"),
        ("http.listen", [], "http.listen", "names no address"),
        ("http.listen", "8790", "http.listen", "is no IP address"),
        ("http.certificate", "c.pem", "http.private_key", "come together"),
        ("http.private_key", "k.pem", "http.certificate", "come together"),
        ("http.public_url", "node.example", "http.public_url", "is a URL such as"),
        ("http.public_url", "https://a b", "http.public_url", "without blanks"),
        ("http.public_url", "ftp://node.example", "http.public_url", "is a URL such as"),
        ("http.public_url", "https://node.example/a", "http.public_url", "without a path"),
        ("http.public_url", "https://a:b@node.example", "http.public_url", "without a path"),
        ("http.public_url", "https://node.example:x", "http.public_url", "is a URL such as"),
        ("http.public_url", "https://[::1", "http.public_url", "is a URL such as"),
        ("signaling.room", "free", "signaling.room", "did you mean rooms?"),
        ("signaling.rooms", "guest", "signaling.rooms", "one of host, free"),
        ("signaling.room_token", "short", "signaling.room_token", "too short to be a secret"),
        ("signaling.room_token", "x" * 257, "signaling.room_token", "256 printable characters"),
        ("signaling.room_token", "twelve\nletters", "signaling.room_token", "256 printable"),
        ("signaling.allowed_origins", "https://a", "signaling.allowed_origins", "put it in [ ]"),
        ("signaling.allowed_origins", ["a.example"], "signaling.allowed_origins[0]", "such as"),
        ("signaling.allowed_origins", ["null"], "signaling.allowed_origins[0]", "such as"),
        (
            "signaling.allowed_origins",
            ["https://a/b"],
            "signaling.allowed_origins[0]",
            "without a path",
        ),
        (
            "signaling.allowed_origins",
            ["https://*.example"],
            "signaling.allowed_origins[0]",
            "names one host",
        ),
        (
            "signaling.allowed_origins",
            ["https://a.example", "HTTPS://A.example:443/"],
            "signaling.allowed_origins[1]",
            "twice",
        ),
        ("signaling.messages_per_second", 0, "signaling.messages_per_second", "from 1 to 100000"),
        ("signaling.message_burst", 0, "signaling.message_burst", "from 1 to 100000"),
        ("signaling.free_people", -1, "signaling.free_people", "from 0 to 100000"),
        ("signaling.free_minutes_per_day", "1", "signaling.free_minutes_per_day", "not text"),
        ("signaling.free_bytes_per_second", -1, "signaling.free_bytes_per_second", "from 0 to"),
        ("signaling.calls_per_minute", 1001, "signaling.calls_per_minute", "from 1 to 1000"),
        ("signaling.relay_only", 1, "signaling.relay_only", "true or false, not a number"),
        ("signaling.discovery_port", 65536, "signaling.discovery_port", "from 0 to 65535"),
        (
            "signaling",
            {"relay_only": True, "direct_calls": True},
            "signaling.direct_calls",
            "can't be where relay_only is",
        ),
        ("metrics.listen", "[::1]", "metrics.listen", "lacks its port"),
        ("metrics.listen", "127.0.0.1:8790", "metrics.listen", "is the pages' address"),
        ("billing.welcome", 5, "billing.welcome", "is text in quotes"),
        ("billing.welcome", "0.000", "billing.welcome", "more than nothing"),
        ("billing.welcome", "-5", "billing.welcome", "more than nothing"),
        ("billing.welcome", "٥", "billing.welcome", "more than nothing"),
        ("billing.welcome", "0.0000001", "billing.welcome", "more than nothing"),
        ("billing.default_region", "de", "billing.default_region", "such as DE"),
        ("billing.default_region", "XX", "billing.default_region", "such as DE"),
        ("billing.turn", "meterd", "billing.turn", "one of free, metered"),
        ("billing.keep_ticks_s", -1, "billing.keep_ticks_s", "from 0 to 3153600000"),
        ("billing.keep_ticks_s", 1.5, "billing.keep_ticks_s", "a whole number"),
        ("billing.tariff.turn.second", 1, "billing.tariff.turn.second", "in quotes"),
        ("billing.tariff.turn.second", "-1", "billing.tariff.turn.second", "is a price"),
        (
            "billing.tariff.turn.second",
            "1000000.000001",
            "billing.tariff.turn.second",
            "is a price of 1,000,000 J at most",
        ),
        ("billing.tariff.turn.command", "1", "billing.tariff.turn.command", "is unknown"),
        ("billing.tariff.sms.second", "1", "billing.tariff.sms.second", "is unknown"),
        ("billing.tariff.fax.second", "1", "billing.tariff.fax", "is unknown"),
        ("log.level", "loud", "log.level", "one of debug, info, warning, error"),
        ("api.group", 1000, "api.group", "text in quotes, not a number"),
        ("api.group", "", "api.group", "is empty"),
        ("log.format", 3, "log.format", "is text in quotes"),
    ],
)
def test_a_mistake_names_its_key_and_what_to_write(
    key: str, value: Any, where: str, sentence: str
) -> None:
    said = complaint(changed(key, value))
    line = next(line for line in said.splitlines() if sentence in line)
    assert line.strip().startswith(f"{where}: "), said


def test_every_problem_is_told_at_once() -> None:
    document = changed("turn.workers", 0)
    document["turn"]["realm"] = 5
    document["http"]["lisen"] = 1
    assert len(complaint(document).splitlines()) == 3


@pytest.mark.parametrize("secrets", [None, []])
@pytest.mark.parametrize("users", [None, {}])
def test_without_authentication_there_is_no_configuration(secrets: Any, users: Any) -> None:
    """Item 1 of what a server must withstand: the error says what to add."""
    document = changed("turn.secrets", secrets)
    if users is None:
        del document["turn"]["users"]
    else:
        document["turn"]["users"] = users
    said = complaint(document)
    assert "without authentication" in said
    assert 'secrets = ["' in said
    assert "[turn.users]" in said


def test_either_kind_of_authentication_will_do() -> None:
    assert accepted("turn.secrets", None).turn.users == {"alice": "password"}
    assert accepted("turn.users", {}).turn.secrets == ("a long secret",)


def test_a_numeric_user_name_may_hold_a_colon_where_no_secret_is_set() -> None:
    document = changed("turn/users/17:bob", "password")
    del document["turn"]["secrets"]
    assert "17:bob" in validate_untrusted(document, Path()).turn.users


def test_relay_addresses_are_those_that_are_listened_on() -> None:
    assert accepted("turn.relay_addresses", None).turn.relay_addresses == (
        ip_address("127.0.0.1").packed,
        ip_address("::1").packed,
    )


def test_a_wildcard_listener_needs_relay_addresses() -> None:
    document = changed("turn.listen", ["udp://0.0.0.0:3478", "udp://[::]"])
    config = validate_untrusted(document, Path())
    assert config.turn.listen[1].address == Address(bytes(16), 3478)
    del document["turn"]["relay_addresses"]
    assert "has a wildcard address" in complaint(document)


def test_behind_nat_each_address_has_one_that_others_see() -> None:
    document = changed("turn.listen", ["udp://0.0.0.0:3478"])
    document["turn"]["external"] = {"10.0.0.5": "203.0.113.7"}
    assert validate_untrusted(document, Path()).turn.external == {
        ip_address("10.0.0.5").packed: ip_address("203.0.113.7").packed
    }
    document["turn"]["external"]["10.0.0.6"] = "203.0.113.7"
    assert "already stands for another address" in complaint(document)


def test_relative_paths_start_at_the_file_s_folder() -> None:
    document = changed("http.certificate", "tls/c.pem")
    document["http"]["private_key"] = "/keys/k.pem"
    http = validate_untrusted(document, Path("/etc/montana")).http
    assert http.certificate == Path("/etc/montana/tls/c.pem")
    assert http.private_key == Path("/keys/k.pem")


def test_http_may_listen_on_several_addresses() -> None:
    listen = accepted("http.listen", ["127.0.0.1:0", "[::1]:8790"]).http.listen
    assert listen == (Address.from_text("127.0.0.1", 0), Address.from_text("::1", 8790))


def test_origins_are_as_browsers_write_them() -> None:
    written = ["HTTPS://Example.org:443", "http://a.example:80/", "https://[2001:DB8::1]:8443"]
    assert accepted("signaling.allowed_origins", written).signaling.allowed_origins == (
        "https://example.org",
        "http://a.example",
        "https://[2001:db8::1]:8443",
    )
    assert accepted("http.public_url", "https://Node.example/").http.public_url == (
        "https://node.example"
    )


@pytest.mark.parametrize("content", [b"[turn", b"\xff\xfe", b"a = 1\na = 2", b"a=" + b"[" * 5000])
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"node\.toml is no"):
        load(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "node.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="too large"):
        load(Path("/dev/zero"))


def test_no_secret_is_shown() -> None:
    config = accepted("signaling.room_token", "the token of the rooms")
    for shown in (repr(config), str(config.turn)):
        assert "a long secret" not in shown
        assert "the token of the rooms" not in shown
        assert "password" not in shown
        assert "alice" not in shown


def test_no_complaint_shows_a_secret() -> None:
    document = changed("turn.secrets", ["hush", 1234567])
    document["signaling"] = {"room_token": "silent", "allowed_origins": ["spoken://quietly"]}
    document["turn"]["users"] = {"alice": ["hidden"]}
    said = complaint(document)
    assert "hush" not in said
    assert "silent" not in said
    assert "1234567" not in said
    assert "hidden" not in said


def test_development_is_on_loopback_alone(tmp_path: Path) -> None:
    config = development_config(tmp_path)
    addresses = [endpoint.address for endpoint in config.turn.listen]
    addresses += [*config.http.listen, config.metrics.listen]
    assert all(ip_address(address.ip).is_loopback for address in addresses)
    assert all(ip_address(packed).is_loopback for packed in config.turn.relay_addresses)
    assert len(config.turn.listen) == 1 + has_ipv6_loopback()
    assert config.turn.workers == 1
    assert config.turn.peers.allow == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert config.development


def test_development_has_a_secret_of_its_own(tmp_path: Path) -> None:
    one, other = development_config(tmp_path), development_config(tmp_path)
    assert one.turn.secrets != other.turn.secrets
    assert all(len(secret) >= 32 for secret in one.turn.secrets)
    assert development_config(tmp_path, secret="given").turn.secrets == ("given",)


def test_rooms_are_free_where_nobody_else_comes(tmp_path: Path) -> None:
    for config in (development_config(tmp_path), development_config(tmp_path, lan=["10.0.0.5"])):
        # On one's own machine nobody has to be kept from taking too much.
        assert config.signaling == SignalingConfig(rooms="free", free_bytes_per_second=0)
    assert SignalingConfig().rooms == "host"


def test_lan_is_on_the_given_addresses_and_keeps_loopback_closed(tmp_path: Path) -> None:
    config = development_config(tmp_path, lan=["192.168.1.5"])
    assert [str(endpoint) for endpoint in config.turn.listen] == ["udp://192.168.1.5:3478"]
    assert config.turn.relay_addresses == (ip_address("192.168.1.5").packed,)
    assert config.http.listen == (Address.from_text("192.168.1.5", 8790),)
    assert config.turn.peers.allow == ()
    assert config.development


def test_lan_addresses_are_private_ones() -> None:
    found = [ip_address(host) for host in lan_addresses()]
    assert all(address.is_private and not address.is_loopback for address in found)


def test_defaults_lie_within_the_hard_limits() -> None:
    """A file that spells out each default means the same as one without it."""
    default = TurnConfig(listen=(), relay_addresses=())
    document = changed("turn.realm", default.realm)
    for name in ("workers", "default_lifetime_s", "max_lifetime_s", "nonce_lifetime_s"):
        document["turn"][name] = getattr(default, name)
    document["turn"]["limits"] = {
        item.name: getattr(TurnLimits(), item.name)
        for item in fields(TurnLimits)
        if item.name != "error_replies_exempt"
    }
    document["signaling"] = {
        item.name: getattr(SignalingConfig(), item.name)
        for item in fields(SignalingConfig)
        if item.name not in ("allowed_origins", "room_token")
    }
    assert validate_untrusted(document, Path("/etc/montana")) == accepted("turn.realm", "montana")


toml_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["", "::1", "udp://[::1]", "x" * 20]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
KEYS = [item.name for owner in (TurnConfig, TurnLimits, PeerRules) for item in fields(owner)]
TABLES = ["node", "turn", "http", "metrics", "log", "signaling", "api", "other"]


SIGNALING_KEYS = [item.name for item in fields(SignalingConfig)]


@given(st.dictionaries(st.sampled_from(SIGNALING_KEYS), toml_values | st.text(max_size=40)))
def test_any_signaling_is_taken_or_refused_by_one_error(signaling: dict[str, Any]) -> None:
    try:
        config = accepted("signaling", signaling).signaling
    except ConfigError:
        return
    assert 1 <= config.messages_per_second <= limits.MESSAGES_PER_SECOND_MAXIMUM
    assert all(origin.startswith(("http://", "https://")) for origin in config.allowed_origins)


@given(
    st.dictionaries(st.sampled_from(KEYS), toml_values, max_size=4),
    st.dictionaries(st.sampled_from(TABLES), toml_values, max_size=2),
)
def test_any_document_is_taken_or_refused_by_one_error(
    turn: dict[str, Any], others: dict[str, Any]
) -> None:
    document = tomllib.loads(EXAMPLE)
    document.update(others)
    if isinstance(document["turn"], dict):
        document["turn"] = {**document["turn"], **turn}
    try:
        config = validate_untrusted(document, Path("/etc/montana"))
    except ConfigError:
        return
    assert config.turn.secrets or config.turn.users
    assert 1 <= config.turn.workers <= limits.WORKERS_MAXIMUM


def test_user_names_are_as_clients_send_them() -> None:
    config = accepted("turn.users", {"u\u0308n": "password"})
    assert dict(config.turn.users) == {"\u00fcn": "password"}
    both = changed("turn.users", {"u\u0308n": "password", "\u00fcn": "another"})
    assert "stands there twice" in complaint(both)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"\xef\xbb\xbf[turn]\nlisten = ['udp://127.0.0.1:1']\n[turn.users]\na = 'b'\n")
    assert load(path).turn.users == {"a": "b"}


def test_secrets_and_users_may_be_bound_to_an_account() -> None:
    secret = "a long secret indeed"
    config = accepted("turn.secrets", [{"value": secret, "account": "user:shop"}])
    assert config.turn.secrets == (secret,)
    assert config.turn.payers == {secret: "user:shop"}
    config = accepted("turn.users", {"bob": {"password": "word", "account": "tg:7"}, "carol": "c"})
    assert dict(config.turn.users) == {"bob": "word", "carol": "c"}
    assert config.turn.payers == {"bob": "tg:7"}
