"""The floors of the house: which package may import which, cimports included.

    bridges -> core        relay -> billing, core        billing -> core

Nobody imports `bridges`, and no package imports `bench` or `tests`. An import inside a function
counts as any other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "core": {"core"},
    "billing": {"billing", "core"},
    "relay": {"relay", "billing", "core"},
    "bridges": {"bridges", "core"},
}
ROOMS = {*MAY_IMPORT, "bench", "tests"}

CYTHON_FROM = re.compile(r"^\s*from\s+(\.*[\w.]*)\s+c?import\s+\(?\s*(.*)$")
CYTHON_IMPORT = re.compile(r"^\s*c?import\s+(.+)$")
CYTHON_INCLUDE = re.compile(r"""^\s*include\s+["']([^"']+)["']""")


def imported(source: str, path: PurePosixPath) -> Iterator[tuple[int, str]]:
    """The line and the absolute dotted name of everything that the module at `path` (relative to
    the root of the house) imports."""
    found = python_imports(source) if path.suffix in {".py", ".pyi"} else cython_imports(source)
    package = path.parent.parts
    for line, name in found:
        dots = len(name) - len(name.lstrip("."))
        if dots:
            base = package[: len(package) - dots + 1]
            yield line, ".".join([*base, name[dots:]])
        else:
            yield line, name.removeprefix("cython.cimports.")


def python_imports(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = "." * node.level + (node.module or "")
                yield node.lineno, module if module.endswith(".") else f"{module}.{alias.name}"
                if module.endswith("."):
                    yield node.lineno, f"{module}{alias.name}"
        elif (
            isinstance(node, ast.Call)
            and (
                (
                    isinstance(node.func, ast.Name)
                    and node.func.id in {"import_module", "__import__"}
                )
                or (isinstance(node.func, ast.Attribute) and node.func.attr == "import_module")
            )
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            yield node.lineno, node.args[0].value


def cython_imports(source: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.splitlines(), 1):
        for statement in line.split("#")[0].split(";"):
            if match := CYTHON_FROM.match(statement):
                module = match[1]
                yield number, module
                for name in re.findall(r"\w+", match[2].replace(" as ", " ")):
                    yield number, f"{module}{'' if module.endswith('.') else '.'}{name}"
            elif match := CYTHON_IMPORT.match(statement):
                for name in match[1].split(","):
                    yield number, name.split(" as ")[0].strip()
            elif match := CYTHON_INCLUDE.match(statement):
                yield number, PurePosixPath(match[1]).with_suffix("").as_posix().replace("/", ".")


def broken_floors(source: str, path: PurePosixPath) -> list[str]:
    """A sentence for each import in `source` that goes up."""
    room = path.parts[0]
    return sorted(
        {
            f"{path}:{line}: {room} may not import {target.split('.')[0]}"
            for line, target in imported(source, path)
            if target.split(".")[0] in ROOMS - MAY_IMPORT[room]
        }
    )


def modules() -> list[PurePosixPath]:
    return [
        PurePosixPath(path.relative_to(ROOT).as_posix())
        for room in MAY_IMPORT
        for path in sorted((ROOT / room).rglob("*"))
        if path.suffix in {".py", ".pyi", ".pyx", ".pxd", ".pxi"}
    ]


def test_no_arrow_points_up() -> None:
    found = modules()
    assert {path.parts[0] for path in found} == set(MAY_IMPORT)
    broken = [line for path in found for line in broken_floors((ROOT / path).read_text(), path)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("path", "source", "target"),
    [
        ("core/a.py", "import relay", "relay"),
        ("core/a.py", "import os, billing.money as m", "billing"),
        ("core/stun/a.py", "from relay.turn import server", "relay"),
        ("core/a.py", "def f():\n    from bridges import process\n", "bridges"),
        ("core/a.py", "if TYPE_CHECKING:\n    import relay.cli\n", "relay"),
        ("core/a.py", "import importlib\nimportlib.import_module('relay.cli')", "relay"),
        ("core/a.py", "__import__('relay')", "relay"),
        ("core/stun/a.py", "from ... import relay", "relay"),
        ("core/stun/a.py", "from ...relay import turn", "relay"),
        ("core/a.py", "from cython.cimports.relay.dataplane import packet", "relay"),
        ("billing/a.py", "from relay import metering", "relay"),
        ("relay/a.py", "import bridges", "bridges"),
        ("relay/a.py", "from tests.support import node", "tests"),
        ("relay/a.py", "from bench.turn_client import Client", "bench"),
        ("bridges/a.py", "import billing", "billing"),
        ("bridges/a.py", "from relay.turn import server", "relay"),
        ("core/a.pyx", "cimport relay.dataplane.packet", "relay"),
        ("core/a.pyx", "from relay.dataplane.packet cimport Addr", "relay"),
        ("core/a.pyx", "from relay.dataplane cimport (\n    packet,\n)", "relay"),
        ("core/a.pyx", "cdef int f():\n    from billing cimport meter\n", "billing"),
        ("core/a.pyx", "import os; import relay", "relay"),
        ("core/a.pxd", "from ..relay.dataplane cimport tables", "relay"),
        ("core/a.pxd", "from .. cimport relay", "relay"),
        ("core/a.pyx", "cimport libc.string as s, billing.meter", "billing"),
        ("core/a.pyx", 'include "relay/dataplane/x.pxi"', "relay"),
        ("billing/meter.pyx", "from relay.dataplane.tables cimport Tables", "relay"),
        ("core/a.pyi", "from relay import cli", "relay"),
    ],
)
def test_an_arrow_that_points_up_is_found(path: str, source: str, target: str) -> None:
    (line,) = broken_floors(source, PurePosixPath(path))
    assert line.endswith(f"may not import {target}")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("relay/a.py", "import core.config, billing.money\nfrom relay.turn import server"),
        ("relay/turn/a.py", "from . import effects\nfrom .. import cli\nfrom ...core import units"),
        ("relay/dataplane/a.pyx", "from relay.dataplane.packet cimport Addr\ncimport cython"),
        ("billing/a.py", "from core.errors import MontanaError"),
        ("bridges/a.py", "from core.api import client"),
        ("core/a.py", "import os\n'import relay'\n# import relay\nimport relay_tools"),
        ("core/a.pyx", '# cimport relay\ncdef extern from "relay.h":\n    pass'),
    ],
)
def test_an_arrow_that_points_down_is_not(path: str, source: str) -> None:
    assert broken_floors(source, PurePosixPath(path)) == []
