"""The STUN codec in both of its forms, so that one test tells about the two.

`@each_form` runs a test with the argument `stun`: a `Form` of the plain Python modules, which
are loaded from their sources under another package name even where compiled ones lie beside
them, and one of the compiled modules where they are built. With ``CI=true`` they have to be.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

COMPILED = ("attributes", "channel_data", "classify", "credentials", "message")
"""The modules that the build compiles; the rest holds enumerations and named tuples."""

VECTORS = Path(__file__).parent.parent / "vectors"

_PLAIN_PACKAGE = "core_stun_plain"
_SOURCES = Path(__file__).parent.parent.parent / "core" / "stun"


class Form(NamedTuple):
    """The codec's modules in one form."""

    name: str
    address: ModuleType
    attributes: ModuleType
    channel_data: ModuleType
    classify: ModuleType
    constants: ModuleType
    credentials: ModuleType
    message: ModuleType


class _SourceFinder:
    """Finds the modules of the plain package by their ``.py`` files alone."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Import's own protocol: a specification, or None for what is not of the package."""
        del path, target
        if name == _PLAIN_PACKAGE:
            return importlib.util.spec_from_file_location(
                name, _SOURCES / "__init__.py", submodule_search_locations=[]
            )
        package, _, module = name.rpartition(".")
        if package != _PLAIN_PACKAGE:
            return None
        return importlib.util.spec_from_file_location(name, _SOURCES / f"{module}.py")


def _load(name: str, package: str) -> Form:
    modules = (importlib.import_module(f"{package}.{module}") for module in Form._fields[1:])
    return Form(name, *modules)


def load_plain() -> Form:
    """The codec as plain Python."""
    if _SourceFinder not in sys.meta_path:
        sys.meta_path.insert(0, _SourceFinder)
    return _load("plain", _PLAIN_PACKAGE)


def load_compiled() -> Form | None:
    """The codec as the build compiled it, None where it is not built as a whole."""
    form = _load("compiled", "core.stun")
    for module in COMPILED:
        path = getattr(form, module).__file__
        assert isinstance(path, str), "a module of the codec comes from a file"
        if not path.endswith(tuple(EXTENSION_SUFFIXES)):
            return None
    return form


def _parameters() -> list[object]:
    compiled = load_compiled()
    if compiled is None and os.environ.get("CI") == "true":
        raise RuntimeError("the codec is not compiled: make build")
    absent = pytest.mark.skipif(compiled is None, reason="the codec is not compiled: make build")
    return [
        pytest.param(load_plain(), id="plain"),
        pytest.param(compiled, id="compiled", marks=absent),
    ]


each_form = pytest.mark.parametrize("stun", _parameters())


def read_vector(name: str) -> bytes:
    """The bytes of ``tests/vectors/<name>.hex``; lines that start with ``#`` are comments."""
    lines = (VECTORS / f"{name}.hex").read_text(encoding="ascii").splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))
