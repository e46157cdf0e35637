"""The policy of conftest.py: a skip is told, and fails a run with CI=true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPED = """
import pytest

@pytest.mark.skip(reason="no moon tonight")
def test_skipped():
    pass
"""
PASSED = """
def test_passed():
    pass
"""


def run(folder: Path, ci: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    if ci is not None:
        environment["CI"] = ci
    conftest = (Path(__file__).parent / "conftest.py").read_text()
    (folder / "conftest.py").write_text(conftest)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(folder)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("false", 0), (None, 0)])
def test_a_skip_is_told_and_fails_under_ci(tmp_path: Path, ci: str | None, code: int) -> None:
    (tmp_path / "test_made_up.py").write_text(SKIPPED + PASSED)
    result = run(tmp_path, ci)
    assert result.returncode == code, result.stdout
    assert "1 skipped: no moon tonight" in result.stdout
    assert "sudo apt install coturn chromium" in result.stdout
    assert ("a skipped test is a failure" in result.stdout) == (ci == "true")


def test_a_whole_run_passes_under_ci(tmp_path: Path) -> None:
    (tmp_path / "test_made_up.py").write_text(PASSED)
    result = run(tmp_path, "true")
    assert result.returncode == 0, result.stdout
    assert "not everything was tested" not in result.stdout


def test_a_module_that_skips_itself_counts(tmp_path: Path) -> None:
    (tmp_path / "test_made_up.py").write_text(
        "import pytest\npytest.importorskip('no_such_module_anywhere')\n" + PASSED
    )
    (tmp_path / "test_other.py").write_text(PASSED)
    assert run(tmp_path, "true").returncode == 1
