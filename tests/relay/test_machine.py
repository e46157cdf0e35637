"""What the machine says about itself."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from ipaddress import ip_address

import psutil
import pytest

from relay.machine import is_local_address


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("224.0.0.1", False),
        ("ff02::1", False),
    ],
)
def test_own_addresses_are_told_from_others(host: str, local: bool) -> None:
    assert is_local_address(ip_address(host).packed) is local


def test_the_descriptor_limit_is_raised_as_far_as_needed() -> None:
    script = (
        "import resource; from relay.machine import raise_descriptor_limit;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 400));"
        "print(raise_descriptor_limit(300), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["300", "300"]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0


def test_where_everything_can_be_bound_the_interfaces_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.machine._binds_everything", lambda _version: True)
    interfaces = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    assert interfaces
    for host in interfaces:
        assert is_local_address(ip_address(host).packed)
    assert is_local_address(b"\x7f\x03\x02\x01")
    assert not is_local_address(b"\x08\x08\x08\x08")
