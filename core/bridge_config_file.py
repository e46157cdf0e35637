"""Reads the ``[bridges]`` and ``[sms]`` tables.

A secret stands in the file, or in one of its own that `..._file` names, such as systemd's
credentials. It is kept by the bridge alone that it belongs to: see `Secrets`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from core import config_reader as read
from core import limits
from core.bridge_config import (
    SMS_BRIDGES,
    TELEGRAM_API,
    TELEGRAM_PUBLIC_KEY,
    TWILIO_API,
    TWILIO_PORT,
    AndroidConfig,
    BridgesConfig,
    GsmConfig,
    ModemConfig,
    SecretFile,
    SmsConfig,
    TelegramConfig,
    TwilioConfig,
    sms_bridges,
)
from core.config_reader import Table
from core.stun.address import Address

T = TypeVar("T")

_TELEGRAM_TOKEN = re.compile(r"[1-9][0-9]{2,15}:[A-Za-z0-9_-]{20,100}")
_BOT_ID_MAXIMUM = 2**52 - 1
"""Telegram's numbers have 52 bits at most (Bot API, `User`)."""
_TELEGRAM_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{2,63}")
_TELEGRAM_USER = re.compile(r"tg:[1-9][0-9]{0,18}")
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_TWILIO_ID = re.compile(r"[A-Z]{2}[0-9a-f]{32}")
_MODEM_NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
_USSD = re.compile(r"[0-9*#+]{1,40}")


class Secrets:
    """The secrets of one bridge. Those of the others are checked as far as they stand in the
    configuration, and let go; their files aren't opened.

    Attributes:
        files: of all bridges.

    Args:
        folder: where the files' paths start.
        bridge: whose they are; None for nobody's.
    """

    def __init__(self, folder: Path, bridge: str | None) -> None:
        self._folder = folder
        self._bridge = bridge
        self.files: list[SecretFile] = []

    def value(self, bridge: str, table: Table, key: str, parse: Callable[[Any], str]) -> str:
        """What stands under `key`, or in the file that stands under `key` with `_file` behind it;
        nothing where it is another bridge's."""
        is_ours = bridge == self._bridge

        def from_file(value: object) -> str:
            path = self._folder / read.text(value)
            self.files.append(SecretFile(bridge=bridge, path=path))
            return _read_secret(path, parse) if is_ours else ""

        if key in table and f"{key}_file" in table:
            table.complain(key, f"stands beside {key}_file; leave one of them out")
        written = table.value(key, parse, "")
        read_from_file = table.value(f"{key}_file", from_file, "")
        return (read_from_file or written) if is_ours else ""

    def needed(self, bridge: str, table: Table, key: str, parse: Callable[[Any], str]) -> str:
        """As `value`, of what can't be left out."""
        if key not in table and f"{key}_file" not in table:
            table.complain(key, f"is missing; write it here, or its file's name as {key}_file")
        return self.value(bridge, table, key, parse)

    @staticmethod
    def are_given(table: Table, key: str) -> bool:
        """Whether there is one, right or wrong."""
        return table.fills(key) or table.fills(f"{key}_file")


def read_sms(
    table: Table, bridges: BridgesConfig, secrets: Secrets, region: str | None = None
) -> SmsConfig:
    """The ``[sms]`` table. `region` is where SMS go to unless the table names countries."""
    default = SmsConfig()
    senders = sms_bridges(bridges)
    default_bridge = table.value("default_bridge", read.choice(*SMS_BRIDGES), None)
    if default_bridge is not None and default_bridge not in senders:
        table.complain("default_bridge", f"{default_bridge} is not configured in [bridges]")
    if default_bridge is None and len(senders) > 1:
        table.complain(
            "default_bridge",
            f"is missing: SMS can go out by {', '.join(senders)}; write the one that is to send "
            "to numbers that have never written",
        )

    def bound(key: str, maximum: int) -> int:
        return table.value(key, read.number(0, maximum), int(getattr(default, key)))

    owners_table = table.table("owners")
    owners: dict[str, str] = {}
    for key in owners_table.pairs(limits.SMS_OWNERS_MAXIMUM):
        owner = owners_table.value(key, _owner, "")
        if not (key == "*" or _E164.fullmatch(key) or _MODEM_NAME.fullmatch(key)):
            owners_table.complain(key, 'is a number such as "+79991234567", a modem\'s name or "*"')
        elif owner:
            owners[key] = owner
    forward_secret = secrets.value("webhook", table, "forward_secret", read.secret)
    if bridges.webhook and not secrets.are_given(table, "forward_secret"):
        table.complain(
            "forward_secret",
            "is missing, and SMS are forwarded to a URL; add what `openssl rand -base64 32` prints",
        )
    if bridges.telegram is None and any(owner.startswith("tg:") for owner in owners.values()):
        table.complain("owners", "names a Telegram user, and there is no [bridges.telegram]")
    countries = table.items("countries", read.region, limits.COUNTRIES_MAXIMUM)
    if senders and region is None and not countries and not table.fills("countries"):
        table.complain(
            "countries",
            "is missing, so that no SMS could go anywhere, answers neither; write countries = "
            '["DE"] with those that SMS are to go to, or [billing] default_region',
        )
    sms = SmsConfig(
        default_bridge=default_bridge or (senders[0] if senders else None),
        confirm_above=table.value("confirm_above", read.amount, default.confirm_above),
        daily_limit=table.value("daily_limit", read.amount, default.daily_limit),
        countries=countries,
        messages_per_day=bound("messages_per_day", limits.SMS_MAXIMUM),
        messages_per_number=bound("messages_per_number", limits.SMS_MAXIMUM),
        messages_in_total=bound("messages_in_total", limits.SMS_MAXIMUM),
        alarm=table.value("alarm", _telegram_user, default.alarm),
        commands_per_minute=bound("commands_per_minute", limits.SMS_MAXIMUM),
        commands_in_total=bound("commands_in_total", limits.SMS_MAXIMUM),
        owners=_by_name_and_number(owners, bridges),
        forward_secret=forward_secret,
    )
    table.finish()
    return sms


def _by_name_and_number(owners: dict[str, str], bridges: BridgesConfig) -> dict[str, str]:
    """The owner of a modem's SMS stands under its name and under its number."""
    for modem in bridges.gsm.modems if bridges.gsm is not None else ():
        if modem.number is not None:
            owner = owners.get(modem.number) or owners.get(modem.name)
            if owner is not None:
                owners |= {modem.number: owner, modem.name: owner}
    return owners


def read_bridges(table: Table, sms: object, secrets: Secrets) -> BridgesConfig:
    """The ``[bridges]`` table. `sms` is the other one as it stands in the file: who forwards to a
    URL needs a bridge for it."""
    owners = sms.get("owners") if isinstance(sms, dict) else None
    bridges = BridgesConfig(
        start=table.value("start", read.flag, True),
        telegram=_where_filled(table, "telegram", secrets, _telegram),
        twilio=_where_filled(table, "twilio", secrets, _twilio),
        gsm=_where_filled(table, "gsm", secrets, _gsm),
        webhook=isinstance(owners, dict)
        and any(str(owner).startswith("https:") for owner in owners.values()),
    )
    table.finish()
    return bridges


def _where_filled(
    table: Table, name: str, secrets: Secrets, parse: Callable[[Table, Secrets], T]
) -> T | None:
    # As the sample has them: an empty table is one whose lines are commented out.
    one = table.table(name)
    return parse(one, secrets) if table.fills(name) else None


def _telegram(table: Table, secrets: Secrets) -> TelegramConfig:
    token = secrets.value("telegram", table, "token", _telegram_token)
    listen = table.value("webhook_listen", read.host_port, None)
    webhook_url = table.value("webhook_url", _https_url, "")
    webhook_secret = secrets.value("telegram", table, "webhook_secret", _webhook_secret)
    has_secret = secrets.are_given(table, "webhook_secret")
    if not secrets.are_given(table, "token"):
        table.complain("token", "is missing; BotFather (https://t.me/BotFather) gives one")
    if len({bool(webhook_url), listen is not None, has_secret}) > 1:
        table.complain(
            "webhook_url", "comes with webhook_listen and webhook_secret: all three, or none"
        )
    telegram = TelegramConfig(
        token=token,
        bot_id=_bot_id(table, token),
        app=table.value("app", _matching(_TELEGRAM_NAME, "a name such as call"), None),
        api_url=table.value("api_url", read.origin, TELEGRAM_API),
        webhook_url=webhook_url,
        webhook_listen=listen,
        webhook_secret=webhook_secret,
        public_key=table.value("public_key", _public_key, TELEGRAM_PUBLIC_KEY),
    )
    table.finish()
    return telegram


def _bot_id(table: Table, token: str) -> int | None:
    """What stands there, or what a token begins with that is ours or stands in the file."""
    written = table.value("bot_id", read.number(1, _BOT_ID_MAXIMUM), None)
    whole = token or table.raw("token")
    if not isinstance(whole, str) or not _TELEGRAM_TOKEN.fullmatch(whole):
        return written
    of_token = int(whole.partition(":")[0])
    if written not in (None, of_token):
        table.complain("bot_id", "is another bot's than the token; leave it out, or correct it")
    return of_token


def _twilio(table: Table, secrets: Secrets) -> TwilioConfig:
    default = Address(b"\x7f\x00\x00\x01", TWILIO_PORT)
    android_table = table.table("android")
    android = None
    if table.fills("android"):
        android = AndroidConfig(
            secret=secrets.needed("twilio", android_table, "secret", read.secret),
            url=android_table.value("url", read.origin, ""),
            user=android_table.value("user", read.text, ""),
            password=secrets.value("twilio", android_table, "password", read.text),
        )
        has_password = secrets.are_given(android_table, "password")
        if len({bool(android.url), bool(android.user), has_password}) > 1:
            android_table.complain("url", "comes with user and password: all three, or none")
        android_table.finish()
    sid = _matching(_TWILIO_ID, "an id such as AC and 32 hexadecimal digits")
    twilio = TwilioConfig(
        listen=table.value("listen", read.host_port, default),
        public_url=_needed(table, "public_url", read.origin, "such as https://sms.example"),
        account_sid=_needed(table, "account_sid", sid, "Twilio's console shows it (AC...)"),
        auth_token=secrets.needed("twilio", table, "auth_token", _auth_token),
        sender=_needed(table, "sender", _twilio_sender, "a number, or a messaging service MG..."),
        api_url=table.value("api_url", read.origin, TWILIO_API),
        android=android,
    )
    table.finish()
    return twilio


def _gsm(table: Table, secrets: Secrets) -> GsmConfig:
    modems = []
    for modem in table.tables("modems", limits.MODEMS_MAXIMUM):
        modems.append(
            ModemConfig(
                name=_needed(modem, "name", _matching(_MODEM_NAME, "a name such as sim1"), "sim1"),
                device=Path(_needed(modem, "device", _device, "/dev/serial/by-id/...")),
                pin=secrets.value("gsm", modem, "pin", _pin) or None,
                number=modem.value("number", _matching(_E164, "such as +79991234567"), None),
                daily_cap=modem.value("daily_cap", read.number(0, limits.SMS_MAXIMUM), 200),
                pace_s=modem.value("pace_s", _pace, 3.0),
                balance_ussd=modem.value("balance_ussd", _matching(_USSD, "such as *100#"), None),
            )
        )
        modem.finish()
    if not modems and not table.fills("modems"):
        table.complain("modems", "names no modem; add [[bridges.gsm.modems]]")
    for key in ("name", "device"):
        values = [getattr(modem, key) for modem in modems]
        if len(set(values)) < len(values):
            table.complain("modems", f"two of them have the same {key}")
    table.finish()
    return GsmConfig(modems=tuple(modems))


def _needed(table: Table, key: str, parse: Callable[[Any], str], advice: str) -> str:
    if key not in table:
        table.complain(key, f"is missing: {advice}")
    return table.value(key, parse, "")


def _read_secret(path: Path, parse: Callable[[Any], str]) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(limits.SECRET_FILE_MAXIMUM_BYTES + 1)
        if len(content) > limits.SECRET_FILE_MAXIMUM_BYTES:
            raise ValueError("is too large to be a secret")
        return parse(content.decode().strip())
    except UnicodeDecodeError:
        raise ValueError("is no UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None


def _matching(pattern: re.Pattern[str], example: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        written = read.text(value)
        if not pattern.fullmatch(written):
            raise ValueError(f"has to be {example}")
        return written

    return parse


def _telegram_token(value: object) -> str:
    # Never the value in the sentence: it is a secret, though a wrong one.
    return _matching(_TELEGRAM_TOKEN, "a token as BotFather gives it, 123456:ABC...")(value)


def _auth_token(value: object) -> str:
    written = read.text(value)
    if len(written.strip()) < limits.SECRET_MINIMUM_CHARACTERS:
        raise ValueError("is too short; Twilio's console shows it beside the account's SID")
    return written


def _telegram_user(value: object) -> str:
    return _matching(_TELEGRAM_USER, "a Telegram user such as tg:123456")(value)


def _webhook_secret(value: object) -> str:
    # What Telegram takes as secret_token.
    return _matching(re.compile("[A-Za-z0-9_-]{16,256}"), "16 to 256 of A-Z a-z 0-9 _ -")(value)


def _public_key(value: object) -> str:
    return _matching(re.compile("[0-9a-f]{64}"), "64 hexadecimal digits")(value)


def _twilio_sender(value: object) -> str:
    written = read.text(value)
    if _E164.fullmatch(written) or (written.startswith("MG") and _TWILIO_ID.fullmatch(written)):
        return written
    raise ValueError("is a number such as +15005550006, or a messaging service MG...")


def _owner(value: object) -> str:
    written = read.text(value)
    return written if _TELEGRAM_USER.fullmatch(written) else _https_url(written)


def _https_url(value: object) -> str:
    written = read.text(value)
    origin, path = re.fullmatch(r"([^/]*//[^/]*)(.*)", written, re.DOTALL), ""
    if origin is not None:
        path = origin[2]
        read.origin(origin[1])
    if not written.startswith("https://") or not re.fullmatch(r"[!-~]*", path):
        raise ValueError("is an https:// URL, or a Telegram user such as tg:123456")
    return written


def _pin(value: object) -> str:
    return _matching(re.compile("[0-9]{4,8}"), "4 to 8 digits")(value)


def _device(value: object) -> str:
    written = read.text(value)
    if not written.startswith("/"):
        raise ValueError("is a path from the root on, such as /dev/serial/by-id/usb-...")
    return written


def _pace(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 3600:
        raise ValueError("is a number of seconds from 0 to 3600")
    return float(value)
