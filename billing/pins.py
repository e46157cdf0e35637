"""PINs of SMS users, as argon2id hashes (RFC 9106) of what a secret of the node's makes of them.

Four digits are guessed in no time by whoever has the hash alone; without the secret, which is not
stored beside it, they aren't.
"""

from __future__ import annotations

import hmac
from functools import partial
from typing import Final

import msgspec
import nacl.exceptions
import nacl.pwhash.argon2id
import trio

from billing.sms_answers import Answered
from billing.sms_limits import Budget
from billing.sms_records import read_number, store_number
from billing.sms_texts import Answer
from core.store import Store
from core.tables import Writing
from core.units import MIB

TRIES: Final = 3
"""Wrong PINs, one after the other, after which none is right any more."""
MEMORY_BYTES: Final = 19 * MIB
PASSES: Final = 2


class Pins:
    """Hashes and compares PINs, one at a time, in a thread: each takes memory and some 20 ms."""

    def __init__(self, store: Store, budget: Budget, secret: bytes) -> None:
        self._store = store
        self._budget = budget
        self._secret = secret
        self._limiter = trio.CapacityLimiter(1)

    async def hash(self, pin: str) -> str:
        """What is stored of a PIN."""
        return await trio.to_thread.run_sync(self._hash, pin, limiter=self._limiter)

    async def check(self, phone: str, pin: str) -> None:
        """The number's PIN is this one.

        Raises:
            Answered: it isn't, or none holds any more.
        """

        def count_try(writing: Writing) -> tuple[str, int]:
            number = read_number(writing, phone, self._budget.day)
            if not number.pin_hash or number.pin_tries >= TRIES:
                raise Answered(Answer("no_pin"))
            tries = number.pin_tries + 1
            store_number(writing, phone, msgspec.structs.replace(number, pin_tries=tries))
            return number.pin_hash, tries

        # A try counts before it is made, or many at once would all be made.
        stored, tries = await self._store.write(count_try)
        matches = partial(self._matches, pin, stored)
        if not await trio.to_thread.run_sync(matches, limiter=self._limiter):
            raise Answered(Answer("wrong_pin", {"left": str(TRIES - tries)}))

        def forgive(writing: Writing) -> None:
            # It may have got another PIN meanwhile.
            if read_number(writing, phone, self._budget.day).pin_hash == stored:
                self.set(writing, phone, stored)

        await self._store.write(forgive)

    def set(self, writing: Writing, phone: str, hashed: str) -> None:
        """The PIN is the one that was hashed, and may be tried anew."""
        number = read_number(writing, phone, self._budget.day)
        changed = msgspec.structs.replace(number, pin_hash=hashed, pin_tries=0)
        store_number(writing, phone, changed)

    def _hash(self, pin: str) -> str:
        hashed = nacl.pwhash.argon2id.str(
            self._peppered(pin), opslimit=PASSES, memlimit=MEMORY_BYTES
        )
        return hashed.decode()

    def _matches(self, pin: str, stored: str) -> bool:
        try:
            return nacl.pwhash.argon2id.verify(stored.encode(), self._peppered(pin))
        except nacl.exceptions.InvalidkeyError:
            return False

    def _peppered(self, pin: str) -> bytes:
        return hmac.digest(self._secret, b"pin " + pin.encode(), "sha256")
