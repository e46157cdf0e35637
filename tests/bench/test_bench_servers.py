"""The servers are started with what they understand."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.servers import ALLOCATIONS_MAXIMUM, USERS, node_configuration
from core.config_file import load
from core.stun.address import Address


@pytest.mark.parametrize("low_latency", [False, True])
def test_the_node_accepts_the_configuration(tmp_path: Path, low_latency: bool) -> None:
    file = tmp_path / "node.toml"
    address = Address.from_text("127.0.0.1", 3478)
    file.write_text(node_configuration(address, low_latency=low_latency))
    turn = load(file).turn
    assert [endpoint.address for endpoint in turn.listen] == [address]
    assert turn.users == dict(USERS)
    assert (turn.workers, turn.low_latency) == (1, low_latency)
    assert turn.limits.allocations == turn.limits.allocations_per_user == ALLOCATIONS_MAXIMUM
    assert ALLOCATIONS_MAXIMUM >= 10_050
