"""What the machine says about itself."""

from __future__ import annotations

import resource
import subprocess
import sys
from ipaddress import ip_address

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
