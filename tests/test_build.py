"""setup.py: every Cython module is built, and a hidden GIL on the packet path fails the build."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from setuptools import Distribution

ROOT = Path(__file__).parents[1]

TAKES_THE_GIL = """
cdef void work() nogil:
    pass

def go():
    with nogil:
        work()
"""


@pytest.fixture
def setup_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("montana_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command_for(setup_module: ModuleType, folder: Path, source: str) -> Any:
    (folder / "made_up.pyx").write_text(source)
    extensions = [setup_module.extension("made_up.pyx")]
    command = setup_module.BuildExtensions(Distribution({"ext_modules": extensions}))
    command.ensure_finalized()
    return command


def test_a_hidden_gil_fails_the_build_each_time(
    setup_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        command = command_for(setup_module, tmp_path, TAKES_THE_GIL)
        with pytest.raises(SystemExit, match="performance hint"):
            command.translate()


def test_what_never_takes_the_gil_is_translated(
    setup_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = TAKES_THE_GIL.replace("work() nogil:", "work() noexcept nogil:")
    command = command_for(setup_module, tmp_path, source)
    command.translate()
    (extension,) = command.extensions
    assert [Path(path).suffix for path in extension.sources] == [".c"]
    assert Path(extension.sources[0]).exists()


def test_every_compiled_module_exists_and_every_cython_module_is_compiled(
    setup_module: ModuleType,
) -> None:
    sources = {
        *setup_module.CODEC,
        *setup_module.SERVER,
        *setup_module.DATA_PLANE,
        *setup_module.BENCH,
    }
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
