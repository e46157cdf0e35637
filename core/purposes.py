"""What money moved for, as people read it in English and in Russian, by the names in the ledger's
history."""

from __future__ import annotations

from typing import Final

PURPOSES: Final[dict[str, tuple[str, str]]] = {
    "other": ("transfer", "перевод"),
    "credit": ("credit", "зачисление"),
    "operator": ("operator's transfer", "перевод оператора"),
    "user": ("transfer", "перевод"),
    "fee": ("fee", "комиссия"),
    "welcome": ("welcome", "приветствие"),
    "voucher": ("voucher", "ваучер"),
    "refund": ("refund", "возврат"),
    "merge": ("merged account", "слияние счетов"),
    "escrow": ("escrow", "эскроу"),
    "sms": ("SMS", "SMS"),
    "room": ("minute of a room", "минута комнаты"),
    "turn": ("relaying", "передача"),
    "voice": ("voice", "голос"),
    "video": ("video", "видео"),
    "screen": ("screen", "экран"),
}
OWN_ACCOUNTS: Final = ("issue", "burn", "fees", "node", "escrow")
"""The ledger's own, which tell people less than the purpose does."""
