"""setup.py: every Cython module is built, and a hidden GIL on the packet path fails the build."""

from __future__ import annotations

import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TAKES_THE_GIL = """
cdef void work() nogil:
    pass

def go():
    with nogil:
        work()
"""


# In a process of its own, since Cython remembers folders and dependencies for as long as it runs.
TRANSLATE = """
import runpy, sys
from setuptools import Distribution
names = runpy.run_path(sys.argv[1], run_name="setup")
distribution = Distribution({"ext_modules": [names["extension"]("made_up.pyx")]})
command = names["BuildExtensions"](distribution)
command.ensure_finalized()
command.translate()
"""


def translate(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    made_up = folder / "made_up.pyx"
    if not made_up.exists():
        made_up.write_text(source)
    return subprocess.run(
        [sys.executable, "-c", TRANSLATE, str(ROOT / "setup.py")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_hidden_gil_fails_the_build_each_time(tmp_path: Path) -> None:
    for _ in range(2):
        result = translate(tmp_path, TAKES_THE_GIL)
        assert result.returncode == 1
        assert "performance hints are errors here" in result.stderr
        assert "made_up.pyx:2" in result.stderr


def test_what_never_takes_the_gil_is_translated(tmp_path: Path) -> None:
    result = translate(tmp_path, TAKES_THE_GIL.replace("work() nogil:", "work() noexcept nogil:"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "build" / "cython" / "made_up.c").exists()


def test_every_compiled_module_exists_and_every_cython_module_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    names = runpy.run_path("setup.py", run_name="setup")
    rooms = ("CODEC", "BILLING", "DATA_PLANE", "WEB", "BENCH")
    sources = {source for room in rooms for source in names[room]}
    assert all((ROOT / source).is_file() for source in sources)
    cython = {
        path.relative_to(ROOT).as_posix()
        for room in ("core", "billing", "relay", "bridges", "bench")
        for path in (ROOT / room).rglob("*.pyx")
    }
    assert cython <= sources


def test_every_package_is_shipped() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for room in ("core", "billing", "relay", "bridges")
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(listed) == found
