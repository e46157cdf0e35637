"""The `[bridges]` and `[sms]` tables."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from core.bridge_config import sms_bridges
from core.config import NodeConfig
from core.config_file import validate_untrusted
from core.errors import ConfigError

TOKEN = "123456:ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghi"
SECRET = "a secret long enough"
BASE = """
[turn]
listen = ["udp://127.0.0.1:3478"]
secrets = ["a secret of the turn server"]
[http]
public_url = "https://node.example"
[billing]
default_region = "DE"
"""
TWILIO = f"""
[bridges.twilio]
public_url = "https://sms.example"
account_sid = "AC0123456789abcdef0123456789abcdef"
auth_token = "{SECRET}"
sender = "+15005550006"
"""
MODEM = """
[[bridges.gsm.modems]]
name = "sim1"
device = "/dev/serial/by-id/one"
"""


def read(
    text: str, folder: Path = Path("/etc/montana"), base: str = BASE, bridge: str | None = None
) -> NodeConfig:
    return validate_untrusted(tomllib.loads(base + text), folder, bridge)


def complaints(text: str, **options: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        read(text, **options)
    lines = [line.strip().partition(": ") for line in str(caught.value).splitlines()]
    return {key: sentence for key, _, sentence in lines}


def test_without_the_tables_there_is_no_bridge() -> None:
    config = read("")
    assert config.bridges.names == ()
    assert config.sms.default_bridge is None
    assert config.sms.owners == {}


def test_a_token_is_all_that_telegram_needs() -> None:
    text = f'[bridges.telegram]\ntoken = "{TOKEN}"'
    for bridge, token in (("telegram", TOKEN), ("gsm", ""), (None, "")):
        telegram = read(text, bridge=bridge).bridges.telegram
        assert telegram is not None
        assert (telegram.bot_id, telegram.api_url) == (123456, "https://api.telegram.org")
        assert telegram.token == token
        assert TOKEN not in repr(telegram)
    assert set(complaints(f"{text}\nbot_id = 5")) == {"bridges.telegram.bot_id"}
    assert read(f"{text}\nbot_id = 123456").bridges.telegram is not None


def test_telegram_opens_only_pages_of_https() -> None:
    base = BASE.replace("https:", "http:")
    said = complaints(f'[bridges.telegram]\ntoken = "{TOKEN}"', base=base)
    assert "https://" in said["http.public_url"]


@pytest.mark.parametrize("token", ["9876", "abc:def", f"{TOKEN}\n", f"x{TOKEN}", ""])
def test_a_wrong_token_is_refused_and_not_repeated(token: str) -> None:
    said = complaints(f"[bridges.telegram]\napp = 'call'\ntoken = {token!r}".replace("'", '"'))
    assert set(said) == {"bridges.telegram.token"}
    assert not token or token.strip() not in said["bridges.telegram.token"]


def test_a_webhook_is_three_keys() -> None:
    text = f'[bridges.telegram]\ntoken = "{TOKEN}"\nwebhook_url = "https://node.example/telegram"'
    assert set(complaints(text)) == {"bridges.telegram.webhook_url"}
    text += '\nwebhook_listen = "127.0.0.1:8793"\nwebhook_secret = "0123456789abcdef"'
    telegram = read(text).bridges.telegram
    assert telegram is not None
    assert telegram.webhook_url == "https://node.example/telegram"


def test_secrets_come_from_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    text = '[bridges.telegram]\ntoken_file = "token"'
    telegram = read(text, tmp_path, bridge="telegram").bridges.telegram
    assert telegram is not None
    assert (telegram.token, telegram.bot_id) == (TOKEN, 123456)
    said = complaints(text.replace('"token"', '"nothing"'), folder=tmp_path, bridge="telegram")
    assert "can't be read" in said["bridges.telegram.token_file"]
    both = f'[bridges.telegram]\ntoken = "{TOKEN}"\ntoken_file = "token"'
    assert "leave one" in complaints(both, folder=tmp_path)["bridges.telegram.token"]
    (tmp_path / "token").write_bytes(b"\xff" * 10)
    said = complaints(text, folder=tmp_path, bridge="telegram")
    assert "UTF-8" in said["bridges.telegram.token_file"]


def secrets_of(config: NodeConfig) -> set[str]:
    """Every text in a configuration that begins as the secrets of these tests do, found in what
    dataclasses and containers hold."""
    found: set[str] = set()
    waiting: list[object] = [config]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str) and one.startswith(("secret-of-", "555:secret-of-", "4321")):
            found.add(one)
        elif is_dataclass(one):
            waiting += [getattr(one, item.name) for item in fields(one)]
        elif isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, tuple | list):
            waiting += one
    return found


@pytest.mark.parametrize("in_files", [False, True])
def test_a_secret_is_the_bridges_alone_that_it_belongs_to(tmp_path: Path, in_files: bool) -> None:
    secrets = {
        "telegram": {
            "token": "555:secret-of-telegram-0123456789",
            "webhook_secret": "secret-of-telegrams-webhook",
        },
        "twilio": {
            "auth_token": "secret-of-twilio-0123456789",
            "secret": "secret-of-android-012345678",
            "password": "secret-of-the-telephone",
        },
        "gsm": {"pin": "43211234"},
        "webhook": {"forward_secret": "secret-of-forwarding-012345"},
    }
    folder = tmp_path / "node"
    folder.mkdir()
    written = {}
    for bridge, keys in secrets.items():
        for key, value in keys.items():
            (folder / f"{bridge}_{key}").write_text(value + "\n")
            written[key] = f'{key}_file = "{bridge}_{key}"' if in_files else f'{key} = "{value}"'
    text = f"""
[sms]
default_bridge = "twilio"
{written["forward_secret"]}
[sms.owners]
"*" = "https://example.org/sms"
[bridges.telegram]
{written["token"]}
bot_id = 555
webhook_url = "https://node.example/telegram"
webhook_listen = "127.0.0.1:8793"
{written["webhook_secret"]}
[bridges.twilio]
public_url = "https://sms.example"
account_sid = "AC0123456789abcdef0123456789abcdef"
sender = "+15005550006"
{written["auth_token"]}
[bridges.twilio.android]
url = "https://telephone.example"
user = "sms"
{written["secret"]}
{written["password"]}
{MODEM}
{written["pin"]}
"""
    for bridge, keys in secrets.items():
        assert secrets_of(read(text, folder, bridge=bridge)) == set(keys.values())
    # Where there are no files, the node doesn't miss them: they may be there for the bridges' user.
    config = read(text, tmp_path / "elsewhere")
    assert secrets_of(config) == set()
    assert config.bridges.telegram is not None
    assert config.bridges.telegram.bot_id == 555
    assert sms_bridges(config.bridges) == ("twilio", "gsm", "android")
    named = {(one.bridge, one.path.name.partition("_")[2]) for one in config.secret_files}
    assert named == (
        {(bridge, key) for bridge, keys in secrets.items() for key in keys} if in_files else set()
    )
    if in_files:
        for bridge, keys in secrets.items():
            with pytest.raises(ConfigError) as caught:
                read(text, tmp_path / "elsewhere", bridge=bridge)
            assert str(caught.value).count("can't be read") == len(keys)


def test_the_nodes_secrets_are_no_bridges() -> None:
    base = """
[turn]
listen = ["udp://127.0.0.1:3478"]
secrets = ["secret-of-turn-012345", { value = "secret-of-turn-67890", account = "user:alice" }]
[turn.users]
bob = "secret-of-bob"
carol = { password = "secret-of-carol", account = "user:carol" }
[http]
public_url = "https://node.example"
[signaling]
rooms = "free"
room_token = "secret-of-rooms"
"""
    text = f'{TWILIO}[sms]\ncountries = ["DE"]'
    node = read(text, base=base)
    assert len(secrets_of(node)) == 5
    assert len(node.turn.payers) == 2
    bridge = read(text, base=base, bridge="twilio")
    assert secrets_of(bridge) == set()
    assert (bridge.turn.users, bridge.turn.payers) == ({}, {})
    # What is wrong with them is told all the same: it is one file.
    wrong = base.replace("secret-of-rooms", "hush")
    assert set(complaints(text, base=wrong, bridge="twilio")) == {"signaling.room_token"}


def test_a_node_that_does_not_know_its_bot_asks_the_bridge() -> None:
    telegram = read('[bridges.telegram]\ntoken_file = "/nowhere/token"').bridges.telegram
    assert telegram is not None
    assert telegram.bot_id is None


def test_twilio_says_what_it_lacks() -> None:
    said = complaints('[bridges.twilio]\nlisten = "127.0.0.1:8792"')
    assert set(said) == {
        f"bridges.twilio.{key}" for key in ("public_url", "account_sid", "auth_token", "sender")
    }
    twilio = read(TWILIO).bridges.twilio
    assert twilio is not None
    assert str(twilio.listen) == "127.0.0.1:8792"
    assert SECRET not in repr(twilio)


def test_the_only_bridge_that_sends_is_the_default() -> None:
    assert read(TWILIO).sms.default_bridge == "twilio"
    assert read(MODEM).sms.default_bridge == "gsm"
    assert set(complaints(TWILIO + MODEM)) == {"sms.default_bridge"}
    assert read(f'{TWILIO}{MODEM}[sms]\ndefault_bridge = "gsm"').sms.default_bridge == "gsm"
    assert set(complaints('[sms]\ndefault_bridge = "gsm"')) == {"sms.default_bridge"}


def test_a_telephone_that_only_receives_does_not_send() -> None:
    android = f'[bridges.twilio.android]\nsecret = "{SECRET}"\n'
    assert sms_bridges(read(TWILIO + android).bridges) == ("twilio",)
    sends = f'{android}url = "https://telephone.example"\nuser = "sms"\npassword = "password"\n'
    config = read(f'{TWILIO}{sends}[sms]\ndefault_bridge = "android"')
    assert sms_bridges(config.bridges) == ("twilio", "android")


def test_modems_have_names_and_places_of_their_own() -> None:
    gsm = read(MODEM + 'pin = "0000"\npace_s = 0.5', bridge="gsm").bridges.gsm
    assert gsm is not None
    assert (gsm.modems[0].pin, gsm.modems[0].pace_s) == ("0000", 0.5)
    assert "0000" not in repr(gsm)
    assert "same name" in complaints(MODEM + MODEM.replace("one", "two"))["bridges.gsm.modems"]
    assert set(complaints(MODEM.replace("/dev", "dev"))) == {"bridges.gsm.modems[0].device"}
    many = "".join(
        f'[[bridges.gsm.modems]]\nname = "sim{n}"\ndevice = "/dev/{n}"\n' for n in range(33)
    )
    assert "32 are allowed" in complaints(many)["bridges.gsm.modems"]


def test_who_is_forwarded_to_can_be_reached() -> None:
    said = complaints('[sms.owners]\n"*" = "tg:5"')
    assert "bridges.telegram" in said["sms.owners"]
    said = complaints('[sms.owners]\n"*" = "https://example.org/sms"')
    assert set(said) == {"sms.forward_secret"}
    text = f'[sms]\nforward_secret = "{SECRET}"\n[sms.owners]\n"*" = "https://example.org/sms"'
    config = read(text)
    assert config.bridges.names == ("webhook",)
    assert config.sms.owners == {"*": "https://example.org/sms"}
    for owner in ("http://example.org", "https://", "https://example.org/\u00e9", "tg:x", "x"):
        assert set(complaints(f'[sms.owners]\n"*" = "{owner}"')) >= {"sms.owners.*"}


def test_typing_errors_are_named() -> None:
    assert (
        "did you mean token"
        in complaints(f'[bridges.telegram]\ntoken = "{TOKEN}"\ntokem = "x"')[
            "bridges.telegram.tokem"
        ]
    )
    assert "bridges.telegramm" in complaints("[bridges.telegramm]\nx = 1")


def test_sms_that_could_go_nowhere_are_refused() -> None:
    nowhere = BASE.replace('default_region = "DE"', "")
    for sends in (TWILIO, MODEM):
        assert "no SMS could go" in complaints(sends, base=nowhere)["sms.countries"]
        assert read(f'{sends}[sms]\ncountries = ["AT"]', base=nowhere).sms.countries == ("AT",)
    # What is wrong isn't said to be missing.
    said = complaints(f'{MODEM}[sms]\ncountries = ["XX"]', base=nowhere)
    assert set(said) == {"sms.countries[0]"}
    assert read("", base=nowhere).sms.countries == ()


@pytest.mark.parametrize("key", ["sim1", "+4930123456"])
def test_the_owner_of_a_modem_is_found_by_its_name_and_by_its_number(key: str) -> None:
    modem = f'{MODEM}number = "+4930123456"\n'
    telegram = f'[bridges.telegram]\ntoken = "{TOKEN}"\n'
    owners = read(f'{telegram}{modem}[sms.owners]\n"{key}" = "tg:5"').sms.owners
    assert owners == {"sim1": "tg:5", "+4930123456": "tg:5"}


def test_a_short_token_of_twilios_is_not_to_be_made_up() -> None:
    said = complaints(TWILIO.replace(SECRET, "short"))["bridges.twilio.auth_token"]
    assert "console" in said
    assert "openssl" not in said


@pytest.mark.parametrize("readme", ["README.md", "README.ru.md"])
@pytest.mark.parametrize(
    ("bridge", "table", "needed"),
    [
        ("Telegram", "[bridges.telegram]", ["token", "app"]),
        (
            "Twilio",
            "[bridges.twilio]",
            ["public_url", "account_sid", "auth_token", "sender"],
        ),
        ("GSM", "[[bridges.gsm.modems]]", ["name", "device"]),
    ],
)
def test_the_steps_of_the_readme_name_all_that_a_bridge_needs(
    readme: str, bridge: str, table: str, needed: list[str]
) -> None:
    text = (Path(__file__).parents[2] / readme).read_text()
    heading = re.search(rf"^\*\*[^*]*{bridge}[^*]*\*\*", text, re.MULTILINE)
    assert heading is not None
    steps = text[heading.end() :].partition("\n**")[0]
    examples = {
        "account_sid": f'"AC{"0" * 32}"',
        "auth_token": f'"{SECRET}"',
        "token": f'"{TOKEN}"',
        "app": '"call"',
    }
    named = re.findall(r"`(\[http\] )?([a-z_]+)(?: = ([^`]+))?`", steps)
    values = {
        key: examples.get(key) or value.replace("+1...", "+15005550006")
        for of_http, key, value in named
        if not of_http
    }
    keys = "\n".join(f"{key} = {values[key]}" for key in needed)
    base = BASE.replace('default_region = "DE"', "")
    if bridge == "Telegram":
        http = [f"{key} = {value}" for of_http, key, value in named if of_http]
        base = base.replace('public_url = "https://node.example"', "\n".join(http))
        config = read(f"{table}\n{keys}", base=base)
        assert f"`{config.http.public_url}/call`" in steps
    else:
        config = read(f"{table}\n{keys}\n[sms]\ncountries = {values['countries']}", base=base)
        assert config.sms.countries
