"""The data plane under ThreadSanitizer: one writer, lock-free readers, and no race."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = ("counters", "sockets", "tables", "udp_socket", "worker")
SECONDS = 8


def library() -> str:
    """ThreadSanitizer's runtime, which has to be loaded before Python's own libraries."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed")
    path = subprocess.run(
        [compiler, "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip("gcc's libtsan is not installed")
    return path


def build(folder: Path) -> None:
    """A copy of the packages whose data plane is instrumented."""
    for package in ("core", "relay", "tests/support"):
        shutil.copytree(
            ROOT / package,
            folder / package,
            ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"),
        )
    shutil.copy(ROOT / "tests/__init__.py", folder / "tests/__init__.py")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    compilers = [
        subprocess.Popen(
            [
                "gcc",
                *("-shared", "-fPIC", "-O1", "-g", "-fsanitize=thread", "-pthread", "-w"),
                # Cython's assertions stay on: a broken promise is as bad as a race.
                f"-I{sysconfig.get_path('include')}",
                f"-I{ROOT}",
                str(ROOT / f"build/cython/relay/dataplane/{name}.c"),
                *("-o", str(folder / f"relay/dataplane/{name}{suffix}")),
            ]
        )
        for name in MODULES
    ]
    assert [compiler.wait() for compiler in compilers] == [0] * len(MODULES)


def test_no_race_while_allocations_come_and_go(tmp_path: Path) -> None:
    runtime = library()
    build(tmp_path)
    result = subprocess.run(
        # Without address randomisation: the sanitizer's shadow needs its fixed places.
        [
            *("setarch", "-R", sys.executable),
            str(ROOT / "tests/sanitizer/churn.py"),
            str(SECONDS),
        ],
        env={
            **os.environ,
            "LD_PRELOAD": runtime,
            "PYTHONPATH": str(tmp_path),
            "TSAN_OPTIONS": "exitcode=66 halt_on_error=0 history_size=4",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert "WARNING: ThreadSanitizer" not in result.stderr, result.stderr[:6000]
    assert result.returncode == 0, result.stderr[-3000:]
    totals = json.loads(result.stdout)
    for name in ("packets_to_peer", "packets_to_client", "short_cuts", "control_datagrams"):
        assert totals[name] > 100, totals
