"""What a node would make of the ``[bridges]`` and ``[sms]`` tables, for `montana config check`."""

from __future__ import annotations

import difflib
import os

from core.bridge_config import BridgesConfig, SmsConfig, sms_bridges
from core.config import NodeConfig


def describe_bridges(config: NodeConfig) -> dict[str, str]:
    """What bridges and SMS would do, by name; what there is none of is empty. Names no secret."""
    bridges, sms = config.bridges, config.sms
    parts = [part for part in (_telegram(bridges), _twilio(bridges), _gsm(bridges)) if part]
    if bridges.webhook:
        parts.append("webhook: forwards SMS")
    if parts and not bridges.start:
        parts.append("each started by somebody else (start = false)")
    sends = bool(sms_bridges(bridges))
    region = config.billing.default_region
    countries = sms.countries or ((region,) if region else ())
    return {
        "bridges": "; ".join(parts),
        "bridges' files": ", ".join(f"{one.path} ({one.bridge})" for one in config.secret_files),
        "SMS": f"to {', '.join(countries)}, new numbers by {sms.default_bridge}" if sends else "",
        "SMS budget": _budget(sms) if sends else "",
        "SMS alarm": (sms.alarm or "nobody is told") if sends else "",
        "SMS owners": ", ".join(f"{key} is {owner}" for key, owner in sms.owners.items()),
    }


def warnings_of(config: NodeConfig) -> list[str]:
    """What can be used, and hardly does what was meant; a sentence each."""
    bridges, sms = config.bridges, config.sms
    warnings = []
    if sms.alarm is not None and bridges.telegram is None:
        warnings.append(
            f"sms.alarm: {sms.alarm} is a user of Telegram, and there is no [bridges.telegram]: "
            "nobody will be told"
        )
    known = _own_addresses(bridges)
    for key in sms.owners:
        if key in known or _may_be_own(key, bridges):
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known) or 'none'}"
        warnings.append(
            f"sms.owners.{key}: is neither a modem's name nor a number of this node's; {hint}"
        )
    return warnings + [
        f"{one.path}: can't be read by this user, and the bridge {one.bridge} has to"
        for one in config.secret_files
        if not os.access(one.path, os.R_OK) or not one.path.is_file()
    ]


def _own_addresses(bridges: BridgesConfig) -> list[str]:
    """What an SMS may have come to, as far as the configuration knows it."""
    known = ["*"]
    if bridges.twilio is not None and bridges.twilio.sender.startswith("+"):
        known.append(bridges.twilio.sender)
    for modem in bridges.gsm.modems if bridges.gsm is not None else ():
        known += [modem.name, modem.number] if modem.number else [modem.name]
    return known


def _may_be_own(key: str, bridges: BridgesConfig) -> bool:
    """Whether only Twilio or the telephone know: numbers of a messaging service, SIMs."""
    twilio = bridges.twilio
    if twilio is None:
        return False
    is_number = key.startswith("+")
    return twilio.android is not None or (is_number and not twilio.sender.startswith("+"))


def _telegram(bridges: BridgesConfig) -> str:
    telegram = bridges.telegram
    if telegram is None:
        return ""
    way = "asks for updates"
    if telegram.webhook_listen is not None:
        way = f"updates at {telegram.webhook_url}, on {telegram.webhook_listen}"
    return f"telegram: {way}, {telegram.api_url}"


def _twilio(bridges: BridgesConfig) -> str:
    twilio = bridges.twilio
    if twilio is None:
        return ""
    with_phone = "" if twilio.android is None else ", with an Android telephone"
    return f"twilio: {twilio.public_url} on {twilio.listen}, from {twilio.sender}{with_phone}"


def _gsm(bridges: BridgesConfig) -> str:
    if bridges.gsm is None:
        return ""
    return "gsm: " + ", ".join(f"{modem.name} at {modem.device}" for modem in bridges.gsm.modems)


def _budget(sms: SmsConfig) -> str:
    limits = (
        (sms.messages_per_day, "a day"),
        (sms.messages_per_number, "a day to a number"),
        (sms.messages_in_total, "in total"),
    )
    return ", ".join(f"{count if count else 'no limit'} {what}" for count, what in limits)
