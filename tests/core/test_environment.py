"""What the environment's variables say over the configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.config import Endpoint, HttpConfig, NodeConfig, SignalingConfig, TurnConfig
from core.development import development_config
from core.environment import with_environment
from core.errors import ConfigError
from core.stun.address import Address

TOKEN = "the token of the rooms"
SECURE = HttpConfig(certificate=Path("c.pem"), private_key=Path("k.pem"))


def config(signaling: SignalingConfig | None = None, http: HttpConfig | None = None) -> NodeConfig:
    address = Address.from_text("192.0.2.1", 3478)
    return NodeConfig(
        data_dir=Path("data"),
        turn=TurnConfig(
            listen=(Endpoint(transport="udp", address=address),), relay_addresses=(address.ip,)
        ),
        http=http or HttpConfig(),
        signaling=signaling or SignalingConfig(),
    )


def complaint(config: NodeConfig, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        with_environment(config, environ)
    return str(caught.value)


def test_nothing_of_ours_changes_nothing() -> None:
    assert with_environment(config(), {"HOME": "/root"}) == config()
    assert with_environment(config(), {"PROD": "0"}) == config()
    assert with_environment(config(), {"PROD": "false"}) == config()


@pytest.mark.parametrize("written", ["1", "true"])
def test_prod_has_everything_relayed(written: str) -> None:
    direct = config(SignalingConfig(direct_calls=True), SECURE)
    made = with_environment(direct, {"PROD": written})
    assert made == replace(
        direct, signaling=SignalingConfig(relay_only=True), environment=("PROD",)
    )


def test_the_room_token_and_the_origins_stand_over_the_file() -> None:
    written = config(SignalingConfig(room_token="another token", allowed_origins=("https://a",)))
    environ = {"ROOM_TOKEN": TOKEN, "ALLOWED_ORIGINS": "https://B.example, http://c.example:8080"}
    made = with_environment(written, environ)
    assert made.signaling.room_token == TOKEN
    assert made.signaling.allowed_origins == ("https://b.example", "http://c.example:8080")
    assert made.environment == ("ROOM_TOKEN", "ALLOWED_ORIGINS")
    assert TOKEN not in repr(made)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PROD": ""}, "PROD: is empty"),
        ({"PROD": "yes"}, "PROD: is 1 or true, 0 or false"),
        ({"ROOM_TOKEN": ""}, "ROOM_TOKEN: is empty"),
        ({"ROOM_TOKEN": "hush"}, "ROOM_TOKEN: is too short to be a secret"),
        ({"ROOM_TOKEN": "a token in \udcff bytes"}, "ROOM_TOKEN: has 256 printable"),
        ({"ALLOWED_ORIGINS": ""}, "ALLOWED_ORIGINS[0]: is empty"),
        ({"ALLOWED_ORIGINS": "https://a, b"}, "ALLOWED_ORIGINS[1]: is a URL such as"),
        ({"ALLOWED_ORIGINS": "https://a,https://A:443"}, "ALLOWED_ORIGINS[1]: stands in the"),
        ({"ALLOWED_ORIGINS": ",".join(f"https://a{n}" for n in range(65))}, "64 are allowed"),
    ],
)
def test_a_mistake_names_its_variable_and_shows_no_secret(
    environ: dict[str, str], said: str
) -> None:
    sentences = complaint(config(), **environ)
    assert said in sentences
    assert "hush" not in sentences


def test_every_problem_is_told_at_once() -> None:
    said = complaint(config(), PROD="on", ROOM_TOKEN="x", ALLOWED_ORIGINS="y").splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "ROOM_TOKEN",
        "ALLOWED_ORIGINS[0]",
        "PROD",
    ]


def test_prod_asks_for_tls() -> None:
    proxied = HttpConfig(public_url="https://node.example")
    plain = replace(SECURE, public_url="http://node.example")
    for http in (SECURE, proxied):
        assert with_environment(config(http=http), {"PROD": "1"}).signaling.relay_only
    for http in (HttpConfig(), plain):
        assert "PROD: asks for pages over TLS" in complaint(config(http=http), PROD="1")


def test_prod_is_not_for_development(tmp_path: Path) -> None:
    for lan in ([], ["192.168.1.5"]):
        said = complaint(development_config(tmp_path, lan=lan), PROD="1")
        assert said == (
            "PROD: is not for --dev and --lan; write a file and use --config, or unset PROD"
        )


def test_free_rooms_ask_for_a_token_outside_of_development(tmp_path: Path) -> None:
    free = config(SignalingConfig(rooms="free"))
    said = complaint(free)
    assert said.startswith("signaling.rooms: ")
    for remedy in ('room_token = "..."', "ROOM_TOKEN", 'rooms = "host"'):
        assert remedy in said
    assert with_environment(free, {"ROOM_TOKEN": TOKEN}).signaling.rooms == "free"
    tokened = config(SignalingConfig(rooms="free", room_token=TOKEN))
    assert with_environment(tokened, {}) == tokened
    development = development_config(tmp_path)
    assert with_environment(development, {}) == development
