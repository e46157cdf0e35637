"""The buttons under the bot's messages.

What a button says when it is pressed has a letter, a colon and at most 62 bytes: of an offer its
token, of a call its id, of a list where its next page begins, of a telephone number the code that
links it.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from telegram import (
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    KeyboardButton,
    KeyboardButtonRequestUsers,
    ReplyKeyboardMarkup,
    WebAppInfo,
)

from bridges.telegram.texts import Language, say

CALLBACK_MAXIMUM_BYTES: Final = 64
PICK_REQUEST: Final = 1

SEND: Final = "o"
VOICE: Final = "v"
VIDEO: Final = "w"
CANCEL: Final = "x"
REJECT: Final = "r"
HANG_UP: Final = "e"
HISTORY: Final = "h"
CALLS: Final = "c"
LANGUAGE: Final = "l"
LINK: Final = "k"
LEAVE: Final = "n"


def press(letter: str, value: str) -> str:
    """What a button says."""
    data = f"{letter}:{value}"
    assert len(data.encode()) <= CALLBACK_MAXIMUM_BYTES
    return data


def fits(letter: str, value: str) -> bool:
    """Whether a button can say it."""
    return len(f"{letter}:{value}".encode()) <= CALLBACK_MAXIMUM_BYTES


def menu(language: Language) -> ReplyKeyboardMarkup:
    """What stands in place of the keyboard in the bot's own chat."""
    return ReplyKeyboardMarkup(
        [
            [_picker(say(language, "button_call")), say(language, "button_balance")],
            [say(language, name) for name in ("button_calls", "button_history", "button_help")],
        ],
        resize_keyboard=True,
        is_persistent=True,
    )


def picker(language: Language) -> ReplyKeyboardMarkup:
    """Telegram's own list of contacts."""
    return ReplyKeyboardMarkup(
        [[_picker(say(language, "pick_button"))], [say(language, "button_help")]],
        resize_keyboard=True,
    )


def _picker(text: str) -> KeyboardButton:
    request = KeyboardButtonRequestUsers(
        PICK_REQUEST, user_is_bot=False, max_quantity=1, request_name=True, request_username=True
    )
    return KeyboardButton(text, request_users=request)


def languages() -> InlineKeyboardMarkup:
    """Both languages, each in itself."""
    return InlineKeyboardMarkup(
        [
            [
                InlineKeyboardButton("English", callback_data=press(LANGUAGE, "en")),
                InlineKeyboardButton("Русский", callback_data=press(LANGUAGE, "ru")),
            ]
        ]
    )


def confirm_send(language: Language, token: str) -> InlineKeyboardMarkup:
    """Whether to send money."""
    return InlineKeyboardMarkup(
        [[_button(language, "button_send", SEND, token), _cancel(language, token)]]
    )


def confirm_call(language: Language, token: str) -> InlineKeyboardMarkup:
    """Whether to call, and how."""
    return InlineKeyboardMarkup(
        [
            [
                _button(language, "button_voice", VOICE, token),
                _button(language, "button_video", VIDEO, token),
            ],
            [_cancel(language, token)],
        ]
    )


def confirm_link(language: Language, code: str) -> InlineKeyboardMarkup:
    """Whether to have a telephone number and this chat be one account."""
    return InlineKeyboardMarkup(
        [
            [_button(language, "button_link", LINK, code)],
            [_button(language, "button_cancel", LEAVE, "")],
        ]
    )


def more(language: Language, letter: str, place: str | None) -> InlineKeyboardMarkup | None:
    """The next page, where there is one."""
    if place is None or not fits(letter, place):
        return None
    return InlineKeyboardMarkup([[_button(language, "button_more", letter, place)]])


def caller_buttons(language: Language, call: str, url: str) -> InlineKeyboardMarkup:
    """What opens the caller's side, in a chat of their own."""
    return InlineKeyboardMarkup(
        [
            *_open(language, "button_open", call, url),
            [_button(language, "button_hang_up", HANG_UP, call)],
        ]
    )


def ring_buttons(language: Language, call: str, url: str) -> InlineKeyboardMarkup:
    """What answers a call, in a chat of the callee's own."""
    answers = _open(language, "button_answer", call, url)
    return InlineKeyboardMarkup(
        [*answers, [_button(language, "button_reject", REJECT, call)]],
    )


def group_buttons(language: Language, bot: str, app: str, call: str) -> InlineKeyboardMarkup:
    """What opens a call in a group: by whose Mini App it is, since all may press it."""
    url = f"https://t.me/{bot}/{app}?startapp={call}"
    return InlineKeyboardMarkup(
        [[InlineKeyboardButton(say(language, "button_open"), url=url)]],
    )


def _open(language: Language, key: str, call: str, url: str) -> list[list[InlineKeyboardButton]]:
    # In Telegram the fragment is Telegram's: there the call's id and initData are the proof.
    page, _, _ = url.partition("#")
    if "?" not in page:
        page = f"{page}?id={quote(call)}"
    return [
        [InlineKeyboardButton(say(language, key), web_app=WebAppInfo(page))],
        [InlineKeyboardButton(say(language, "button_browser"), url=url)],
    ]


def _button(language: Language, key: str, letter: str, value: str) -> InlineKeyboardButton:
    return InlineKeyboardButton(say(language, key), callback_data=press(letter, value))


def _cancel(language: Language, token: str) -> InlineKeyboardButton:
    return _button(language, "button_cancel", CANCEL, token)
