"""What status and the log say while the Bot API doesn't answer."""

from __future__ import annotations

import logging

import pytest
from telegram.error import Conflict, InvalidToken, NetworkError, TelegramError, TimedOut

from bridges.telegram.reachability import Reachability

API = "https://api.example"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (InvalidToken("the token 1:secret is refused"), "bridges.telegram.token"),
        (Conflict("terminated by other getUpdates request"), "another program"),
        (NetworkError("no route to 1:secret"), API),
        (TimedOut(), API),
    ],
)
def test_what_is_wrong_is_said_once_with_what_to_do(
    error: TelegramError, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    states = ["waits for Telegram"]
    reachability = Reachability(API, states.append)
    for _ in range(3):
        reachability.failed(error)
    assert len(caplog.records) == 1
    assert advice in states[-1]
    assert advice in str(vars(caplog.records[0]))
    assert "secret" not in f"{states} {vars(caplog.records[0])}"
    reachability.state = "@the_bot"
    reachability.answered()
    assert states[-1] == "@the_bot"
    reachability.failed(error)
    assert [one.levelno >= logging.WARNING for one in caplog.records] == [True, False, True]


def test_an_address_in_use_is_not_forgotten_when_the_bot_api_answers() -> None:
    states = [""]
    reachability = Reachability(API, states.append)
    reachability.hindered("change the address")
    reachability.answered()
    assert states[-1] == "change the address"
    reachability.hindered("")
    assert states[-1] == reachability.state
