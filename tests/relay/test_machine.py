"""What the machine says about itself."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from ipaddress import ip_address

import psutil
import pytest

from core.clock import VirtualClock
from relay.machine import LocalAddresses, is_local_address


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
    assert is_local_address(ip_address(host).packed, bind_all=False) is local


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


def test_where_everything_can_be_bound_the_interfaces_tell() -> None:
    interfaces = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    assert interfaces
    for host in interfaces:
        assert is_local_address(ip_address(host).packed, bind_all=True)
    assert is_local_address(b"\x7f\x03\x02\x01", bind_all=True)
    assert not is_local_address(b"\x08\x08\x08\x08", bind_all=True)


def test_the_system_is_asked_about_an_address_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bytes] = []

    def ask(packed_ip: bytes, *, bind_all: bool) -> bool:
        del bind_all
        asked.append(packed_ip)
        return len(asked) > 1

    monkeypatch.setattr("relay.machine.is_local_address", ask)
    clock = VirtualClock()
    addresses = LocalAddresses(clock)
    assert not addresses(b"\x08\x08\x08\x08")
    assert not addresses(b"\x08\x08\x08\x08")
    assert len(asked) == 1
    clock.advance_s(61)
    assert addresses(b"\x08\x08\x08\x08")
    assert len(asked) == 2
