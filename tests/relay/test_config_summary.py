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


def test_it_names_files_that_bridges_read_and_says_which_of_them_can_not_be_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("what no token looks like")
    (tmp_path / "folder").mkdir()
    text = (
        EXAMPLE
        + """public_url = "https://node.example"
[bridges.telegram]
token_file = "token"
webhook_url = "https://node.example/telegram"
webhook_listen = "127.0.0.1:8793"
webhook_secret_file = "absent"
[billing]
default_region = "DE"
[[bridges.gsm.modems]]
name = "sim1"
device = "/dev/serial/by-id/one"
pin_file = "folder"
"""
    )
    config = validate_untrusted(tomllib.loads(text), tmp_path)
    said = describe(config)
    assert f"bridges' files: {tmp_path}/token (telegram), {tmp_path}/absent (telegram)" in said
    assert "what no token" not in said
    assert [line.split()[1:] for line in said.splitlines() if line.startswith("warning")] == [
        f"{tmp_path}/{name}: can't be read by this user, and the bridge {bridge} has to".split()
        for name, bridge in (("absent", "telegram"), ("folder", "gsm"))
    ]


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


BRIDGES = """
[billing]
default_region = "DE"
[bridges.twilio]
public_url = "https://sms.example"
account_sid = "AC0123456789abcdef0123456789abcdef"
auth_token = "a token of the console"
sender = "+15005550006"
[[bridges.gsm.modems]]
name = "sim1"
device = "/dev/serial/by-id/one"
pin = "9173"
number = "+4930123456"
[sms]
default_bridge = "gsm"
"""


def test_it_says_what_bridges_do_and_where_sms_go() -> None:
    said = summary(BRIDGES)
    assert said["bridges"] == (
        "twilio: https://sms.example on 127.0.0.1:8792, from +15005550006; "
        "gsm: sim1 at /dev/serial/by-id/one"
    )
    assert said["SMS"] == "to DE, new numbers by gsm"
    assert said["SMS budget"] == "500 a day, 20 a day to a number, no limit in total"
    assert said["SMS alarm"] == "nobody is told"
    assert "warning" not in said
    assert not {"a token of the console", "9173"} & set(str(said).replace(",", " ").split())
    assert not {"bridges", "SMS"} & set(summary())


def test_it_warns_of_an_alarm_that_nobody_gets() -> None:
    assert "no [bridges.telegram]" in summary(f'{BRIDGES}alarm = "tg:5"')["warning"]


@pytest.mark.parametrize(
    ("key", "told"),
    [("sim2", "did you mean sim1?"), ("+4930123457", "did you mean +4930123456?")],
)
def test_it_warns_of_owners_to_whom_nothing_comes(key: str, told: str) -> None:
    forwarded = 'forward_secret = "a secret to sign with"\n[sms.owners]\n'
    said = summary(f'{BRIDGES}{forwarded}"{key}" = "https://example.org/sms"')
    assert key in said["warning"]
    assert said["warning"].endswith(told)
    assert "warning" not in summary(f'{BRIDGES}{forwarded}sim1 = "https://example.org/sms"')
