"""House rules that no linter knows, over every file that is tracked."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("core", "billing", "relay", "bridges")
TEXT = {
    ".py", ".pyi", ".pyx", ".pxd", ".pxi", ".h", ".md", ".toml", ".js", ".css", ".html", ".service",
    ".sh", "",
}  # fmt: skip

# Spelled in pieces, or this file would break the rule.
MACHINE_PATH = re.compile(
    r"(?<![\w.:/-])/(?:" + "|".join(["work", "root", "home/[a-z]+", "tmp"]) + ")/"
)
UNFINISHED = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3]) + r")\b")


def tracked() -> list[Path]:
    """The files of the repository; of an unpacked archive, those that are not made by a build."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
        found = [ROOT / name for name in listed if name]
    else:
        rooms = (*PACKAGES, "bench", "tests", "deploy", ".ci")
        found = [path for room in rooms for path in (ROOT / room).rglob("*")]
        found += ROOT.glob("*")
    return [
        path
        for path in sorted(found)
        if path.is_file() and path.suffix in TEXT and "__pycache__" not in path.parts
    ]


def machine_paths(text: str) -> list[int]:
    """Lines that name a place which only one machine has."""
    return [number for number, line in numbered(text) if MACHINE_PATH.search(line)]


def unfinished(text: str) -> list[int]:
    """Lines that promise work instead of having it done."""
    return [number for number, line in numbered(text) if UNFINISHED.search(line)]


def ragged(text: str) -> list[int]:
    """Lines with trailing blanks."""
    return [number for number, line in numbered(text) if line != line.rstrip()]


def swallowed(source: str) -> list[int]:
    """Handlers of any exception at all that do nothing about it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            idle = all(
                isinstance(step, ast.Pass)
                or (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
                for step in node.body
            )
            if idle and (node.type is None or catches_all(node.type)):
                found.append(node.lineno)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"suppress", "contextlib.suppress"}
            and any(catches_all(argument) for argument in node.args)
        ):
            found.append(node.lineno)
    return found


def catches_all(expression: ast.expr) -> bool:
    return any(
        isinstance(part, ast.Name) and part.id in {"Exception", "BaseException"}
        for part in ast.walk(expression)
    )


def undocumented(source: str) -> list[int]:
    """Lines of the module (1), and of its public classes and functions, that lack a docstring."""
    tree = ast.parse(source)
    found = [] if not tree.body or ast.get_docstring(tree) else [1]
    return found + [
        node.lineno
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]


def numbered(text: str) -> list[tuple[int, str]]:
    return list(enumerate(text.splitlines(), 1))


def offences(rule: Callable[[str], list[int]], paths: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}"
        for path in paths
        for line in rule(path.read_text(encoding="utf-8"))
    ]


def test_no_file_names_a_place_of_one_machine() -> None:
    assert not offences(machine_paths, tracked())


def test_nothing_is_left_to_be_done() -> None:
    assert not offences(unfinished, tracked())


def test_no_line_has_blanks_at_its_end() -> None:
    assert not offences(ragged, tracked())


def test_no_exception_is_swallowed() -> None:
    assert not offences(swallowed, [path for path in tracked() if path.suffix == ".py"])


def test_what_is_public_is_documented() -> None:
    public = [
        path
        for path in tracked()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PACKAGES
    ]
    assert public
    assert not offences(undocumented, public)


def test_cython_lines_end_at_100_columns() -> None:
    """As ruff has it for Python."""
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in {".pyx", ".pxd"}
        for number, line in numbered(path.read_text())
        if len(line) > 100
    ]
    assert not long


def test_compiled_modules_that_python_sees_have_stubs() -> None:
    lacking = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix == ".pyx"
        and re.search(r"^(?:def|class|cdef class) (?!_)", path.read_text(), re.MULTILINE)
        and not path.with_suffix(".pyi").exists()
    ]
    assert not lacking


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in tracked()
        if path.suffix == ".md"
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", path.read_text())
        if not (path.parent / target).exists()
    ]
    assert not broken


@pytest.mark.parametrize(
    ("rule", "offending", "innocent"),
    [
        (machine_paths, "see /" + "work/main", "a/work/b and https://host/home/x"),
        (machine_paths, 'open("/' + 'tmp/x")', "tmp_path / 'x'"),
        (machine_paths, "/home/" + "somebody/x", "/var/lib/montana"),
        (unfinished, "# TO" + "DO: later", "# done"),
        (ragged, "x = 1 ", "x = 1"),
        (
            swallowed,
            "try:\n  f()\nexcept Exception:\n  pass",
            "try:\n  f()\nexcept OSError:\n  pass",
        ),
        (swallowed, "try:\n  f()\nexcept:\n  ...", "try:\n  f()\nexcept Exception:\n  g()"),
        (swallowed, "try:\n  f()\nexcept (OSError, Exception):\n  'no'", "f()"),
        (
            swallowed,
            "with contextlib.suppress(BaseException):\n  f()",
            "with suppress(OSError): f()",
        ),
        (undocumented, "x = 1", "'''Doc.'''\nx = 1"),
        (undocumented, "'''Doc.'''\ndef f(): return 1", "'''Doc.'''\ndef _f(): return 1"),
        (undocumented, "'''Doc.'''\nclass C: x = 1", ""),
    ],
)
def test_each_rule_can_fail(
    rule: Callable[[str], list[int]], offending: str, innocent: str
) -> None:
    assert len(rule(offending)) == 1
    assert rule(innocent) == []
