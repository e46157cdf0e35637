"""What `montana up` says when it is ready."""

from __future__ import annotations

import json

import pytest

from relay.announcer import Announcer

ROOM, INVITATION = "http://127.0.0.1:8790/#host", "http://127.0.0.1:8790/#other"


def ready(*, as_json: bool, room: str | None, invitation: str | None) -> None:
    Announcer(as_json=as_json).ready(
        turn=["udp://127.0.0.1:3478"],
        http="http://127.0.0.1:8790",
        socket="data/node.sock",
        metrics="http://127.0.0.1:9641",
        check_is_open=True,
        bridges=(),
        fingerprint=None,
        room_link=room,
        invitation_link=invitation,
    )


@pytest.mark.parametrize(
    ("locale", "first", "second"),
    [
        ("C", f"To talk, open {ROOM}", f"and send somebody {INVITATION}"),
        (
            "ru_RU.UTF-8",
            f"Чтобы поговорить, откройте {ROOM}",
            f"и отправьте собеседнику {INVITATION}",
        ),
    ],
)
def test_newcomers_are_given_two_links(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    locale: str,
    first: str,
    second: str,
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    ready(as_json=False, room=ROOM, invitation=INVITATION)
    assert capsys.readouterr().out.splitlines()[1:3] == [first, second]
    ready(as_json=False, room=None, invitation=None)
    assert "#" not in capsys.readouterr().out


def test_programs_are_given_them_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    ready(as_json=True, room=ROOM, invitation=INVITATION)
    event = json.loads(capsys.readouterr().out)
    assert (event["room_link"], event["invitation_link"]) == (ROOM, INVITATION)
    ready(as_json=True, room=None, invitation=None)
    event = json.loads(capsys.readouterr().out)
    assert (event["room_link"], event["invitation_link"]) == (None, None)
