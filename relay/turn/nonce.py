"""Nonces that the server need not remember: what proves them is a MAC over the client's address.

    obMatJos2 <features: 4> <time: 6> <MAC: 12>         all but the first in base64

The first two are RFC 8489 section 9.2: a client that knows them sees what the server can do, and
nobody on the path can take it away, since the nonce comes back under the client's integrity.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from hashlib import blake2b
from struct import Struct

from core.stun.address import Address

COOKIE = b"obMatJos2"
_PASSWORD_ALGORITHMS = 0x800000
_USER_ANONYMITY = 0x400000
_TIME = Struct("!I")
_PORT = Struct("!H")
_MAC_BYTES = 9
"""Enough against guessing over a network, and small: 401 goes to forged senders too."""
_NONCE_CHARACTERS = len(COOKIE) + 4 + 6 + 12


class NonceMint:
    """Makes and checks nonces.

    Args:
        key: 32 random bytes; nonces die with it.
        lifetime_s: how long a nonce is good.
        user_anonymity: whether USERHASH is understood.
    """

    def __init__(self, key: bytes, lifetime_s: int, *, user_anonymity: bool) -> None:
        self._key = key
        self._lifetime_s = lifetime_s
        features = _PASSWORD_ALGORITHMS | (_USER_ANONYMITY if user_anonymity else 0)
        self._prefix = COOKIE + b64encode(features.to_bytes(3, "big"))

    def make(self, client: Address, now_s: int) -> bytes:
        """A nonce for the client; `now_s` is of a clock that only goes forward."""
        time = _TIME.pack(now_s & 0xFFFFFFFF)
        return self._prefix + b64encode(time)[:6] + b64encode(self._mac(client, time))

    def is_fresh(self, nonce: bytes, client: Address, now_s: int) -> bool:
        """Whether it was made here, for this client, and not too long ago."""
        if len(nonce) != _NONCE_CHARACTERS:
            return False
        # The time is not secret: of the few that may be meant, remake the one that it names.
        age_s = self._age_s(nonce, now_s)
        if age_s is None or age_s > self._lifetime_s:
            return False
        return hmac.compare_digest(nonce, self.make(client, now_s - age_s))

    def _age_s(self, nonce: bytes, now_s: int) -> int | None:
        start = len(self._prefix)
        value = 0
        for character in nonce[start : start + 6]:
            digit = _BASE64.find(character)
            if digit < 0:
                return None
            value = value << 6 | digit
        # 36 bits hold the time's 32 and four that are zero.
        return (now_s - (value >> 4)) & 0xFFFFFFFF

    def _mac(self, client: Address, time: bytes) -> bytes:
        covered = self._prefix + time + _PORT.pack(client.port) + client.ip
        # Keyed BLAKE2 is a MAC, at a third of what HMAC costs.
        return blake2b(covered, digest_size=_MAC_BYTES, key=self._key).digest()


_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
