"""What the configuration says of bridges and of SMS; `core.bridge_config_file` reads it.

A secret is the bridge's alone that it belongs to: everybody else has an empty one (None for a PIN).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.stun.address import Address

TWILIO_PORT = 8792
TELEGRAM_API = "https://api.telegram.org"
TWILIO_API = "https://api.twilio.com"
TELEGRAM_PUBLIC_KEY = "e7bf03a2fa4602af4580703d88dda5bb59f32ed8b02a56c187fe7d34caed242d"
"""With which Telegram signs what a Mini App is given for others (Ed25519)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmsConfig:
    """The ``[sms]`` table: what the wallet lets numbers do, and what sending may cost.

    Attributes:
        default_bridge: who sends to a number that has never written; None for the only one there
            is.
        confirm_above: SENDs of more, in Ɉ, are confirmed by a code or the PIN; as those to a new
            recipient always are.
        daily_limit: what a number may SEND in a day, in Ɉ.
        countries: where SMS are sent to, in two letters; empty for `billing.default_region` alone.
        messages_per_day, messages_per_number, messages_in_total: parts that may be sent: in a day,
            to a number in a day, ever; 0 for no limit. `billing.sms_limits` keeps some of each for
            commands that are paid.
        alarm: who is told in Telegram when that is nearly used up.
        commands_per_minute, commands_in_total: of a number, and of all, a minute.
        owners: by the number or modem that an SMS has come to, ``*`` for any: who is given those
            that are no commands, a Telegram user or an https URL.
        forward_secret: what is signed with that goes to a URL.
    """

    default_bridge: str | None = None
    confirm_above: str = "100"
    daily_limit: str = "1000"
    countries: tuple[str, ...] = ()
    messages_per_day: int = 500
    messages_per_number: int = 20
    messages_in_total: int = 0
    alarm: str | None = None
    commands_per_minute: int = 10
    commands_in_total: int = 6_000
    owners: Mapping[str, str] = field(default_factory=dict)
    forward_secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TelegramConfig:
    """The ``[bridges.telegram]`` table.

    Attributes:
        token: of the bot, by BotFather; the bridge's alone.
        bot_id: the bot's own number, which its token begins with; None where it isn't known, and
            the bridge is asked about everything that Telegram has signed.
        app: the short name of its Mini App, for links in groups; None where it has none.
        api_url: of the Bot API server.
        webhook_url, webhook_listen, webhook_secret: where Telegram sends updates to, and what it
            names with them; empty for long polling.
        public_key: 32 bytes, hexadecimal: what the Mini App's data is signed with.
    """

    token: str = field(default="", repr=False)
    bot_id: int | None = None
    app: str | None = None
    api_url: str = TELEGRAM_API
    webhook_url: str = ""
    webhook_listen: Address | None = None
    webhook_secret: str = field(default="", repr=False)
    public_key: str = TELEGRAM_PUBLIC_KEY


@dataclass(frozen=True, slots=True, kw_only=True)
class AndroidConfig:
    """The ``[bridges.twilio.android]`` table: a telephone that forwards its SMS.

    Attributes:
        secret: what its webhooks are signed with.
        url, user, password: its own interface, by which it sends; empty where it doesn't.
    """

    secret: str = field(repr=False)
    url: str = ""
    user: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwilioConfig:
    """The ``[bridges.twilio]`` table.

    Attributes:
        listen: where webhooks come, from the reverse proxy.
        public_url: what Twilio calls, without a path: its signatures are over it.
        sender: the number that SMS come from, or a messaging service (``MG...``).
        api_url: of Twilio's REST interface.
    """

    listen: Address = Address(b"\x7f\x00\x00\x01", TWILIO_PORT)
    public_url: str
    account_sid: str
    auth_token: str = field(repr=False)
    sender: str
    api_url: str = TWILIO_API
    android: AndroidConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModemConfig:
    """A table in ``[[bridges.gsm.modems]]``.

    Attributes:
        name: what it is called in status and metrics.
        device: a path that names it wherever it is plugged in: ``/dev/serial/by-id/...``.
        pin: of its SIM; None where it asks for none.
        number: of its SIM, where that is known.
        daily_cap: SMS that its SIM sends in a day at most.
        pace_s: from one SMS to the next at least.
        balance_ussd: what tells the SIM's balance, such as ``*100#``; None for nothing.
    """

    name: str
    device: Path
    pin: str | None = field(default=None, repr=False)
    number: str | None = None
    daily_cap: int = 200
    pace_s: float = 3.0
    balance_ussd: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GsmConfig:
    """The ``[bridges.gsm]`` table."""

    modems: tuple[ModemConfig, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgesConfig:
    """The ``[bridges]`` table: each of them that is there is run.

    Attributes:
        start: whether `montana up` starts them; else somebody else does, by `montana bridge`.
        webhook: whether SMS are forwarded to URLs, by a bridge of its own.
    """

    start: bool = True
    telegram: TelegramConfig | None = None
    twilio: TwilioConfig | None = None
    gsm: GsmConfig | None = None
    webhook: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What is configured."""
        return tuple(name for name in BRIDGES if getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFile:
    """A file that a bridge reads when it starts, and nobody else."""

    bridge: str
    path: Path


BRIDGES = ("telegram", "twilio", "gsm", "webhook")
SMS_BRIDGES = ("twilio", "gsm", "android")
"""Those that SMS go out by; `android` is served by twilio's process."""


def sms_bridges(bridges: BridgesConfig) -> tuple[str, ...]:
    """By which of the configured ones SMS can be sent."""
    twilio = bridges.twilio
    has_android = twilio is not None and twilio.android is not None and bool(twilio.android.url)
    configured = {"twilio": twilio is not None, "gsm": bridges.gsm is not None}
    configured["android"] = has_android
    return tuple(name for name in SMS_BRIDGES if configured[name])
