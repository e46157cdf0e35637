"""Updates are taken apart: what people ask is kept, the rest is left out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.spool import VALUE_MAXIMUM_BYTES
from bridges.telegram.updates import (
    TEXT_MAXIMUM,
    Incoming,
    UpdateError,
    number_untrusted,
    read_untrusted,
)

USER = {"id": 7, "is_bot": False, "first_name": "A", "username": "alice", "language_code": "ru"}
CHAT = {"id": 7, "type": "private"}
MESSAGE = {"message_id": 3, "date": 1, "from": USER, "chat": CHAT, "text": "/start"}
ANSWER: dict[str, Any] = {
    **MESSAGE,
    "chat": {"id": -8, "type": "supergroup"},
    "reply_to_message": {"message_id": 2, "from": {**USER, "id": 9}},
}
PRESS = {"id": "9", "from": USER, "data": "x:1", "chat_instance": "1", "message": MESSAGE}
UPDATES: list[dict[str, Any]] = [
    {"update_id": 1, "message": MESSAGE},
    {"update_id": 2, "callback_query": PRESS},
    {"update_id": 5, "message": ANSWER},
    {
        "update_id": 3,
        "my_chat_member": {
            "chat": CHAT,
            "from": USER,
            "date": 1,
            "old_chat_member": {"status": "member", "user": USER},
            "new_chat_member": {"status": "kicked", "user": USER},
        },
    },
    {
        "update_id": 4,
        "message": {
            "message_id": 3,
            "from": USER,
            "chat": CHAT,
            "users_shared": {"request_id": 1, "users": [{"user_id": 8, "first_name": "B"}]},
        },
    },
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_each_kind_is_read() -> None:
    kinds = [incoming.kind for update in UPDATES if (incoming := read_untrusted(update))]
    assert kinds == ["text", "press", "text", "blocked", "picked"]
    picked = read_untrusted(UPDATES[-1])
    assert picked is not None
    assert [person.user for person in picked.others] == [8]


def test_a_card_is_told_from_what_was_written() -> None:
    card = {key: value for key, value in MESSAGE.items() if key != "text"}
    card["contact"] = {"phone_number": "+4930123456", "first_name": "B"}
    incoming = read_untrusted({"update_id": 1, "message": card})
    assert incoming is not None
    assert (incoming.kind, incoming.text) == ("contact", "")
    assert "4930123456" not in repr(incoming)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Анна 👨‍👩‍👧", "Анна 👨‍👩‍👧"),
        ("👩🏽‍💻", "👩🏽‍💻"),
        ("❤️‍🔥", "❤️‍🔥"),
        ("a\u200db", "ab"),
        ("\u200d👧", "👧"),
        ("👧\u200d", "👧"),
        ("👧\u200da", "👧a"),
        ("👧\u200d\u200d👧", "👧👧"),
    ],
)
def test_pictures_of_several_stay_whole_and_nothing_hides(name: str, shown: str) -> None:
    message = MESSAGE | {"from": USER | {"first_name": name}}
    incoming = read_untrusted({"update_id": 1, "message": message})
    assert incoming is not None
    assert incoming.sender.name == shown


@pytest.mark.parametrize("field", ["edited_message", "channel_post", "inline_query", "poll"])
def test_what_is_no_command_is_left_out(field: str) -> None:
    assert read_untrusted({"update_id": 1, field: MESSAGE}) is None


@pytest.mark.parametrize(
    ("of_message", "of_answered", "answered"),
    [
        ({}, {}, 9),
        ({"chat": CHAT}, {}, None),
        ({}, {"from": {**USER, "is_bot": True}}, None),
        ({}, {"from": None}, None),
        ({}, {"sender_chat": {"id": -9, "type": "channel"}}, None),
        ({}, {"forum_topic_created": {"name": "News", "icon_color": 1}}, None),
    ],
)
def test_a_message_answers_a_person_in_a_group(
    of_message: dict[str, Any], of_answered: dict[str, Any], answered: int | None
) -> None:
    message = {
        **ANSWER,
        **of_message,
        "reply_to_message": {**ANSWER["reply_to_message"], **of_answered},
    }
    incoming = read_untrusted({"update_id": 1, "message": message})
    assert incoming is not None
    assert (incoming.answered.user if incoming.answered else None) == answered
    assert incoming.others == ()


def test_names_can_not_turn_the_text_around() -> None:
    sender = {**USER, "first_name": "A\u202etxt.exe\n\x00"}
    incoming = read_untrusted({"update_id": 1, "message": {**MESSAGE, "from": sender}})
    assert incoming is not None
    assert incoming.sender.name == "Atxt.exe"


def places(value: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [()]
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        found += [(key, *place) for place in places(inner)]
    return found


@given(st.data())
def test_whatever_is_changed_it_is_read_or_one_error(data: st.DataObject) -> None:
    update = json.loads(json.dumps(data.draw(st.sampled_from(UPDATES))))
    *way, last = data.draw(st.sampled_from([place for place in places(update) if place]))
    target = update
    for key in way:
        target = target[key]
    target[last] = data.draw(JSON)
    for form in (update, json.dumps(update).encode("utf-8", "surrogatepass")):
        try:
            incoming = read_untrusted(form)
        except UpdateError:
            continue
        if incoming is not None:
            assert number_untrusted(update) == incoming.update
            # What is stored is found again as it was, and has room.
            stored = msgspec.json.encode(incoming)
            assert len(stored) <= VALUE_MAXIMUM_BYTES
            assert msgspec.json.decode(stored, type=Incoming) == incoming


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_one_error(body: bytes) -> None:
    try:
        read_untrusted(body)
    except UpdateError:
        return


@pytest.mark.parametrize("character", ["a", "\0", "ж", "😀", '"'])
def test_the_longest_text_has_room(character: str) -> None:
    message = {**ANSWER, "text": character * 9_000}
    incoming = read_untrusted({"update_id": 1, "message": message})
    assert incoming is not None
    assert incoming.answered is not None
    assert incoming.text == character * TEXT_MAXIMUM
    assert len(msgspec.json.encode(incoming)) <= VALUE_MAXIMUM_BYTES
