"""Which call was meant by who has hung up and named none.

A bridge that was killed asks once more, when that call is over and another may live. Kept of each
account are its last `KEPT`, under the ids by which they were asked for.
"""

from __future__ import annotations

from typing import Final

import msgspec

from billing.tables import HANG_UPS, account_key
from core.tables import Writing

KEPT: Final = 8
"""More than the chats in which one person hangs up at the same moment."""

_decoder = msgspec.msgpack.Decoder(list[tuple[str, str]])


def choose_hang_up(writing: Writing, *, account: int, effect: str, call: str) -> str:
    """The call that was meant under `effect`; `call` where it is new. Empty: there was none."""
    key = account_key(account)
    stored = writing.get(HANG_UPS, key)
    chosen = [] if stored is None else _decoder.decode(stored)
    for asked, meant in chosen:
        if asked == effect:
            return meant
    chosen.append((effect, call))
    writing.put(HANG_UPS, key, msgspec.msgpack.encode(chosen[-KEPT:]))
    return call
