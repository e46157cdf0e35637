"""What Telegram tells of: an update as it comes, and the little of it that the bridge keeps
(core.telegram.org/bots/api, "Getting updates").

Edited messages, forwarded ones and those of bots and channels are nobody's commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from unicodedata import category

import msgspec

from core.errors import PeerError

ALLOWED_UPDATES: Final = ("message", "callback_query", "my_chat_member")
TEXT_MAXIMUM: Final = 4_096
NAME_MAXIMUM: Final = 64
"""Of a person, as others are shown it."""
SHARED_MAXIMUM: Final = 10
"""Telegram lets ten people be picked at once."""

Id = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
ChatId = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53 - 1)]
ShortString = Annotated[str, msgspec.Meta(max_length=1024)]


class UpdateError(PeerError):
    """Not an update of Telegram's."""


class Person(msgspec.Struct, frozen=True):
    """Somebody, as an update names them.

    Attributes:
        language: IETF's tag of their app's language; empty where it isn't told.
    """

    user: int
    username: str = ""
    name: str = ""
    language: str = ""


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """What was received, and is kept until it was carried out.

    Attributes:
        update: its number, the same whenever Telegram tells of it again.
        kind: a message; a button under one; people that were picked; a contact's card; the bot
            blocked or allowed.
        text: of a message, or what a button says.
        message: that it is, or that the button is under.
        press: what answers a button.
        others: whom the text mentions, or who was picked.
        answered: whose message this one answers, where others see both.
    """

    update: int
    kind: Literal["text", "press", "picked", "contact", "blocked", "allowed"]
    chat: int
    is_private: bool
    sender: Person
    text: str = ""
    message: int = 0
    press: str = ""
    others: tuple[Person, ...] = ()
    answered: Person | None = None


class _User(msgspec.Struct):
    id: Id
    is_bot: bool = False
    first_name: ShortString = ""
    last_name: ShortString = ""
    username: ShortString = ""
    language_code: ShortString = ""


class _Chat(msgspec.Struct):
    id: ChatId
    type: ShortString


class _Shared(msgspec.Struct):
    user_id: Id
    first_name: ShortString = ""
    last_name: ShortString = ""
    username: ShortString = ""


class _UsersShared(msgspec.Struct):
    users: list[_Shared] = []


class _Entity(msgspec.Struct):
    type: ShortString
    user: _User | None = None


class _Answered(msgspec.Struct):
    sender: _User | None = msgspec.field(name="from", default=None)
    sender_chat: Any = None
    forum_topic_created: Any = None


class _Message(msgspec.Struct):
    chat: _Chat
    message_id: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    sender: _User | None = msgspec.field(name="from", default=None)
    text: str = ""
    entities: list[_Entity] = []
    reply_to_message: _Answered | None = None
    users_shared: _UsersShared | None = None
    contact: Any = None
    forward_origin: Any = None
    via_bot: Any = None
    sender_chat: Any = None


class _Press(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    sender: _User = msgspec.field(name="from")
    data: Annotated[str, msgspec.Meta(max_length=64)] = ""
    message: _Message | None = None


class _Member(msgspec.Struct):
    status: ShortString


class _MemberChange(msgspec.Struct):
    chat: _Chat
    sender: _User = msgspec.field(name="from")
    new_chat_member: _Member = msgspec.field()


class _Update(msgspec.Struct):
    update_id: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    message: _Message | None = None
    callback_query: _Press | None = None
    my_chat_member: _MemberChange | None = None


_JOINER: Final = "\N{ZERO WIDTH JOINER}"
_EMOJI_STYLE: Final = "\N{VARIATION SELECTOR-16}"
_decoder = msgspec.json.Decoder(_Update)


def number_untrusted(update: object) -> int | None:
    """The number of what should be an update; None where it has none."""
    number = update.get("update_id") if isinstance(update, Mapping) else None
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    return number if 0 <= number < 2**53 else None


def read_untrusted(update: bytes | object) -> Incoming | None:
    """An update as JSON, or as what came of it; None for one that asks nothing of the bot.

    Raises:
        UpdateError: it is none; says what is wrong without quoting it.
    """
    try:
        if isinstance(update, bytes):
            parsed = _decoder.decode(update)
        else:
            parsed = msgspec.convert(update, _Update)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpdateError(f"not an update: {error}") from None
    if parsed.callback_query is not None:
        return _press(parsed.update_id, parsed.callback_query)
    if parsed.message is not None:
        return _message(parsed.update_id, parsed.message)
    if parsed.my_chat_member is not None:
        return _member(parsed.update_id, parsed.my_chat_member)
    return None


def _press(update: int, press: _Press) -> Incoming | None:
    message = press.message
    if message is None or press.sender.is_bot:
        return None
    return Incoming(
        update=update,
        kind="press",
        chat=message.chat.id,
        is_private=message.chat.type == "private",
        sender=_person(press.sender),
        text=press.data,
        message=message.message_id,
        press=press.id,
    )


def _message(update: int, message: _Message) -> Incoming | None:
    sender = message.sender
    if sender is None or sender.is_bot or message.sender_chat is not None:
        return None
    # Somebody else has written what is forwarded.
    if message.forward_origin is not None or message.via_bot is not None:
        return None
    if message.users_shared is not None:
        kind: Literal["text", "picked", "contact"] = "picked"
        others = [_person(one) for one in message.users_shared.users[:SHARED_MAXIMUM]]
    else:
        kind = "text" if message.contact is None else "contact"
        named = [entity.user for entity in message.entities if entity.type == "text_mention"]
        others = [_person(user) for user in named if user is not None and not user.is_bot]
    is_private = message.chat.type == "private"
    return Incoming(
        update=update,
        kind=kind,
        chat=message.chat.id,
        is_private=is_private,
        sender=_person(sender),
        text=message.text[:TEXT_MAXIMUM],
        message=message.message_id,
        others=tuple(others[:SHARED_MAXIMUM]),
        answered=None if is_private else _answered(message.reply_to_message),
    )


def _answered(message: _Answered | None) -> Person | None:
    # All that is written in a topic answers what has opened it, as far as Telegram tells.
    if (
        message is None
        or message.sender_chat is not None
        or message.forum_topic_created is not None
    ):
        return None
    sender = message.sender
    return None if sender is None or sender.is_bot else _person(sender)


def _member(update: int, change: _MemberChange) -> Incoming | None:
    if change.chat.type != "private" or change.sender.is_bot:
        return None
    return Incoming(
        update=update,
        kind="blocked" if change.new_chat_member.status == "kicked" else "allowed",
        chat=change.chat.id,
        is_private=True,
        sender=_person(change.sender),
    )


def _person(user: _User | _Shared) -> Person:
    name = " ".join(part for part in (user.first_name, user.last_name) if part)
    # What turns the direction of text could make one name look like another.
    shown = "".join(
        character
        for place, character in enumerate(name)
        if character.isprintable() or _joins_emoji(name, place)
    )
    if isinstance(user, _Shared):
        return Person(user.user_id, user.username[:NAME_MAXIMUM], shown[:NAME_MAXIMUM])
    language = user.language_code[:16]
    return Person(user.id, user.username[:NAME_MAXIMUM], shown[:NAME_MAXIMUM], language)


def _joins_emoji(name: str, place: int) -> bool:
    """Whether this is what makes one picture of two (Unicode TS 51, "ZWJ sequence")."""
    around = name[place - 1 : place] + name[place + 1 : place + 2]
    if name[place] != _JOINER or len(around) < 2:
        return False
    before, after = map(category, around)
    return after == "So" and (before in ("So", "Sk") or around[0] == _EMOJI_STYLE)
