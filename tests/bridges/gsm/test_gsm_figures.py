"""What status shows of a modem with more than one trouble."""

from __future__ import annotations

import pytest

from bridges.gsm.figures import ModemFigures


def figures(state: str) -> ModemFigures:
    """Of a modem whose SIM had no room the last time that it was in its network."""
    one = ModemFigures("sim0", 200)
    one.state = state
    one.full = "SM"
    one.rest = "rests"
    return one


@pytest.mark.parametrize("state", ["ready", "roaming"])
def test_in_its_network_the_trouble_is_shown(state: str) -> None:
    shown = figures(state).as_figures()
    assert shown["modem.sim0.state"] == "receives no SMS: no room in SM; rests"
    assert "delete messages" in shown["modem.sim0.advice"]


@pytest.mark.parametrize("state", ["away", "wrong PIN", "searching"])
def test_out_of_its_network_only_why_it_is(state: str) -> None:
    shown = figures(state).as_figures()
    assert shown["modem.sim0.state"] == state
    assert "modem.sim0.advice" not in shown


@pytest.mark.parametrize("state", ["wrong PIN", "ready"])
def test_what_has_to_be_done_first_is_advised_first(state: str) -> None:
    one = figures(state)
    one.advice = "correct pin"
    assert one.as_figures()["modem.sim0.advice"] == "correct pin"
