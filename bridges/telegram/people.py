"""Who has been seen: a bot can't look up anybody's ``@name``, so that it remembers those whom it
has met, and how they want to be spoken to.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bridges.spool import Spool
from bridges.telegram.table import Table
from bridges.telegram.texts import Language
from bridges.telegram.updates import Person

PEOPLE_MAXIMUM: Final = 100_000
"""Of more, whoever was seen longest ago is forgotten; they need but write again."""
RUSSIAN_TAGS: Final = ("ru", "be", "kk", "uk")
"""Languages of apps whose users are spoken to in Russian until they choose."""


class Acquaintance(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of somebody.

    Attributes:
        chosen: the language that they have chosen; empty while they have not.
        writes: they have written to the bot, so that it may write to them.
        blocked: they want nothing of the bot any more.
        has_account: the node has one for them.
    """

    username: str = ""
    name: str = ""
    language: str = ""
    chosen: str = ""
    writes: bool = False
    blocked: bool = False
    has_account: bool = False


_STRANGER = Acquaintance()
_decoder = msgspec.json.Decoder(Acquaintance)


class People:
    """Those that were seen, by their numbers and by their user names."""

    def __init__(self, spool: Spool, maximum: int = PEOPLE_MAXIMUM) -> None:
        self._table = Table(spool, "person", maximum)
        self._names: dict[str, int] = {}
        for key, value in self._table:
            one = _decoder.decode(value)
            if one.username:
                self._names[one.username.lower()] = int(key)

    def __len__(self) -> int:
        return len(self._table)

    def of(self, user: int) -> Acquaintance:
        """What is known of a user."""
        value = self._table.get(str(user))
        return _STRANGER if value is None else _decoder.decode(value)

    def find(self, username: str) -> int | None:
        """Whose ``@name`` it is, as far as anybody has been seen with it."""
        name = username.removeprefix("@").lower()
        user = self._names.get(name)
        # They may have been forgotten, or have another name by now.
        return user if user is not None and self.of(user).username.lower() == name else None

    def language_of(self, user: int) -> Language:
        """Which language somebody is spoken to in."""
        one = self.of(user)
        if one.chosen:
            return "ru" if one.chosen == "ru" else "en"
        return "ru" if one.language.lower().split("-")[0] in RUSSIAN_TAGS else "en"

    def called(self, user: int) -> str:
        """How a user is called when others are told of them."""
        one = self.of(user)
        if not one.username:
            return one.name or f"tg:{user}"
        return f"{one.name} (@{one.username})" if one.name else f"@{one.username}"

    async def see(self, person: Person, **more: bool) -> None:
        """Somebody was named by Telegram; `more` is what else has become known of them."""
        before = self.of(person.user)
        await self._store(
            person.user,
            before,
            msgspec.structs.replace(
                before,
                username=person.username,
                name=person.name or before.name,
                language=person.language or before.language,
                **more,
            ),
        )

    async def know(self, user: int, **more: bool | str) -> None:
        """Something has become known of somebody."""
        before = self.of(user)
        await self._store(user, before, msgspec.structs.replace(before, **more))

    async def _store(self, user: int, before: Acquaintance, after: Acquaintance) -> None:
        if before == after:
            return
        key = str(user)
        await self._table.put(key, msgspec.json.encode(after))
        if before.username.lower() != after.username.lower():
            if self._names.get(before.username.lower()) == user:
                del self._names[before.username.lower()]
            if after.username:
                self._names[after.username.lower()] = user
        if len(self._names) > 2 * len(self._table):
            # Names of those who were forgotten.
            self._names = {
                name: one for name, one in self._names.items() if str(one) in self._table
            }
