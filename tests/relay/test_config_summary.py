"""What `montana config check` says of a configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from core.config_file import validate_untrusted
from core.environment import with_environment
from relay.config_summary import describe

EXAMPLE = """
[turn]
listen = ["udp://127.0.0.1:3478", "udp://[::1]:3478"]
secrets = ["a long secret"]
[turn.users]
alice = "password"
[turn.peers]
allow = ["::1/128"]
[http]
listen = "127.0.0.1:8790"
"""


def summary(more: str = "", **environ: str) -> dict[str, str]:
    """Each line by its name."""
    config = validate_untrusted(tomllib.loads(EXAMPLE + more), Path("/etc/montana"))
    said = describe(with_environment(config, environ))
    return {name: value.strip() for name, _, value in (s.partition(":") for s in said.splitlines())}


def test_it_tells_what_is_served() -> None:
    said = summary()
    assert said["TURN"] == "udp://127.0.0.1:3478, udp://[::1]:3478"
    assert said["relays"] == "127.0.0.1, ::1, ports 49152-65535"
    assert said["authentication"] == "1 secret and 1 user, realm montana"
    assert said["peers"] == "allow ::1/128"
    assert said["pages"] == "http://127.0.0.1:8790"


def test_it_shows_no_secret() -> None:
    said = str(summary())
    for secret in ("a long secret", "password", "alice"):
        assert secret not in said


@pytest.mark.parametrize(
    ("billing", "told"),
    [
        ("", "free"),
        (
            'turn = "metered"',
            "metered, 1 Ɉ a second and 0 Ɉ a megabyte into node; those without an account are "
            "refused",
        ),
        (
            'turn = "metered"\nunknown_account = "free"\n'
            'tariff.turn = {second = "0", megabyte = "0.05", into = "burn"}',
            "metered, 0 Ɉ a second and 0.05 Ɉ a megabyte into burn; those without an account "
            "relay for nothing",
        ),
    ],
)
def test_it_says_whether_relaying_is_paid_for(billing: str, told: str) -> None:
    assert summary(f"[billing]\n{billing}")["relaying"] == told


@pytest.mark.parametrize(
    ("signaling", "rooms", "calls"),
    [
        (
            "",
            "paid for by the host",
            "those that cost something through the relays, 10 a minute of one account",
        ),
        (
            'rooms = "free"\nroom_token = "the token of the rooms"\ndirect_calls = true\n'
            "calls_per_minute = 3",
            "paid for by the node, 1000 minutes a day, 100 people, 1000000 bytes a second each, "
            "made with the room token",
            "directly where that is possible, 3 a minute of one account",
        ),
        (
            'room_token = "the token of the rooms"\nrelay_only = true',
            "paid for by the host, made with the room token",
            "everybody's media through the relays, 10 a minute of one account",
        ),
    ],
)
def test_it_says_who_pays_for_rooms_and_where_media_flows(
    signaling: str, rooms: str, calls: str
) -> None:
    said = summary(f"[signaling]\n{signaling}")
    assert (said["rooms"], said["calls"]) == (rooms, calls)
    assert "environment" not in said
    assert "the token of the rooms" not in str(said)


def test_it_says_what_came_from_the_environment_and_not_the_token() -> None:
    token = "the token of the rooms"
    said = summary(
        "[signaling]\ndiscovery = true", ROOM_TOKEN=token, ALLOWED_ORIGINS="https://a.example"
    )
    assert said["environment"] == "ROOM_TOKEN and ALLOWED_ORIGINS"
    assert said["origins"] == "https://a.example"
    assert said["discovery"] == "UDP port 8791"
    assert said["rooms"] == "paid for by the host, made with the room token"
    assert token not in str(said)
