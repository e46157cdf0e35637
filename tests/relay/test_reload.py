"""What SIGHUP takes over: signaling at once, and nothing where the ledger can't be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from billing.charging import Charging
from billing.ledger import LmdbLedger, open_ledger
from core import identity
from core.clock import SystemClock
from core.config import BillingConfig, NodeConfig, SignalingConfig
from core.errors import OperationError
from relay.announcer import Announcer
from relay.node import Node
from relay.reload import keys_for_restart, take_over_signaling
from tests.support.fake_dataplane import FakeDataPlane
from tests.support.turn_client import turn_config

CLOCK = SystemClock()
PAYERS = {"the secret of a shop": "user:shop", "the secret of a school": "user:school"}
SECRETS: tuple[str, ...] = tuple(PAYERS)

CHANGED = SignalingConfig(
    allowed_origins=("https://a.example",),
    messages_per_second=5,
    message_burst=50,
    relay_only=True,
    room_token="the token of the rooms",
    rooms="free",
    free_minutes_per_day=1,
    free_people=2,
    free_bytes_per_second=3,
    calls_per_minute=4,
)


def config(folder: Path, secrets: int) -> NodeConfig:
    """Of a node with so many of the secrets."""
    named = SECRETS[:secrets]
    turn = replace(turn_config(), secrets=named, payers={name: PAYERS[name] for name in named})
    return NodeConfig(data_dir=folder, turn=turn, billing=BillingConfig(turn="metered"))


def test_a_damaged_ledger_changes_nothing_on_sighup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable(self: LmdbLedger, address: str) -> int:
        raise OperationError(f"the storage is damaged, and so is where {address} stands")

    first = config(tmp_path, 1)
    with open_ledger(tmp_path / "ledger", CLOCK, map_bytes=1 << 26) as ledger:
        node = Node(
            first,
            first,
            FakeDataPlane(CLOCK),
            identity.load_or_create(tmp_path, CLOCK.random_bytes),
            CLOCK,
            Announcer(as_json=True),
            ledger,
            Charging(ledger),
            lambda: replace(config(tmp_path, 2), signaling=CHANGED),
        )
        assert node._metering is not None
        with monkeypatch.context() as patch:
            patch.setattr(LmdbLedger, "find", unreadable)
            node._reload()
        assert "the storage is damaged" in str(vars(caplog.records[-1]))
        assert node._config.signaling == SignalingConfig()
        assert node._issuer.secrets == SECRETS[:1]
        assert list(node._payers.bound) == ["user:shop"]
        node._reload()
        assert node._config.signaling == CHANGED
        assert node._issuer.secrets == SECRETS
        assert list(node._payers.bound) == ["user:shop", "user:school"]


def test_signaling_is_taken_over_but_for_its_socket(tmp_path: Path) -> None:
    bound = replace(CHANGED, direct_calls=True, discovery=True, discovery_port=9000)
    assert take_over_signaling(SignalingConfig(), bound) == replace(
        bound, discovery=False, discovery_port=8791
    )
    first = config(tmp_path, 1)
    assert keys_for_restart(first, replace(first, signaling=CHANGED)) == []
    assert keys_for_restart(first, replace(first, signaling=bound)) == [
        "signaling.discovery",
        "signaling.discovery_port",
    ]
