"""What Telegram makes for a Mini App: initData, signed with a bot's token and with a key pair that
stands for Telegram's own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from urllib.parse import urlencode

from nacl.signing import SigningKey

from core.bridge_config import TelegramConfig

BOT = 7654321
TOKEN = f"{BOT}:a-token-of-the-tests"
KEY = SigningKey(hashlib.sha256(b"Telegram of the tests").digest())
PUBLIC_KEY = KEY.verify_key.encode().hex()
CONFIG = TelegramConfig(bot_id=BOT, public_key=PUBLIC_KEY)


def fields_of(user: int, made_s: int, **more: str) -> dict[str, str]:
    """What initData names, not signed yet."""
    person = {"id": user, "first_name": 'Ann "=&" Аня', "language_code": "en"}
    return {
        "query_id": "AAHdF6IQAAAAAN0XohDhrOrc",
        "user": json.dumps(person, ensure_ascii=False),
        "auth_date": str(made_s),
        **more,
    }


def signed(fields: dict[str, str], *, key: SigningKey | None = KEY, token: str = TOKEN) -> str:
    """initData of these fields.

    Args:
        key: makes the signature for third parties; None for none.
        token: the bot's, for the hash.
    """
    fields = dict(fields)
    if key is not None:
        lines = [f"{name}={fields[name]}" for name in sorted(fields)]
        bot = token.partition(":")[0]
        message = "\n".join([f"{bot}:WebAppData", *lines]).encode()
        signature = base64.urlsafe_b64encode(key.sign(message).signature).decode()
        fields["signature"] = signature.rstrip("=")
    return urlencode({**fields, "hash": hash_of(fields, token)})


def hash_of(fields: dict[str, str], token: str = TOKEN) -> str:
    """The hash that proves to the bot's owner that its fields are Telegram's."""
    secret = hmac.digest(b"WebAppData", token.encode(), "sha256")
    lines = [f"{name}={fields[name]}" for name in sorted(fields) if name != "hash"]
    return hmac.new(secret, "\n".join(lines).encode(), hashlib.sha256).hexdigest()


def init_data(user: int, made_s: int, *, token: str = TOKEN, **more: str) -> str:
    """initData as a Mini App of this user has it."""
    return signed(fields_of(user, made_s, **more), token=token)
