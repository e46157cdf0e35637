"""What the files of the pages have in common with the node, and with each other."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import relay.signaling
from relay.signaling.messages import Ended, Error
from relay.web.page_routes import PAGES, page_routes
from relay.web.static_files import static_content, static_names, static_version

STATIC = files("relay.web") / "static"
OF_PAGES = {
    "malformed",
    "too-large",
    "unknown-type",
    "replayed",
    "out-of-order",
    "wrong-state",
    "no-peer",
    "no-call",
    "no-line",
}
"""Mistakes of a page, and what is over before it is heard of: nobody is told of these."""


OF_OPERATORS = {"link-over", "room-over", "sms-price"}
"""What the node's socket alone is asked for: a room's links under an id, a call to a telephone."""


def codes(documentation: str | None) -> set[str]:
    return set(re.findall("``([a-z-]+)``", documentation or ""))


def listed(name: str) -> set[str]:
    """What stands in a set of the pages' `explain.js`."""
    source = (STATIC / "explain.js").read_text()
    found = re.search(rf"const {name} = new Set\(\[(.*?)\]\);", source, re.DOTALL)
    assert found is not None
    return set(re.findall('"([a-z-]+)"', found[1]))


def test_all_that_signaling_refuses_stands_in_the_protocol() -> None:
    sources = "".join(
        path.read_text() for path in Path(relay.signaling.__file__).parent.glob("*.py")
    )
    raised = set(re.findall(r'(?:Signaling|Sequence)Error\(\s*"([a-z-]+)"', sources))
    assert len(raised) > 20
    assert raised - OF_OPERATORS <= codes(Error.__doc__)
    assert not OF_OPERATORS & codes(Error.__doc__)
    assert raised >= OF_OPERATORS


def test_what_the_node_says_has_words_on_the_pages() -> None:
    assert codes(Error.__doc__) - listed("CODES") == OF_PAGES
    assert codes(Ended.__doc__) <= listed("REASONS")
    texts = (STATIC / "text_calls.js").read_text()
    keys = {f"code_{code}" for code in listed("CODES")}
    keys |= {f"over_{reason}" for reason in listed("REASONS")}
    for key in keys:
        for name in (key, f"{key}_advice"):
            languages = re.findall(rf"^    {name.replace('-', '_')}:", texts, re.MULTILINE)
            assert len(languages) == 2, name


def test_the_pages_of_calls_begin_alike() -> None:
    heads = set()
    for page in ("index", "call", "me"):
        head, _, _ = (STATIC / f"{page}.html").read_text().partition("<main")
        head = re.sub("<title.*</title>", "", head)
        head = re.sub(r"/static/\w+_page\.js", "", head)
        heads.add(head.replace(' aria-current="page"', ""))
    assert len(heads) == 1


def test_what_a_page_runs_is_of_its_own_version() -> None:
    served = {path for _, path in page_routes()}
    code = [path for path in served if re.search(r"^/static/.*\.(?:js|css)$", path)]
    assert len(code) > 50
    assert all(path.startswith(f"/static/{static_version()}/") for path in code)
    for page in PAGES.values():
        loaded = re.findall(r'(?:src|href)="(/[^"?#]+)"', static_content(page).decode())
        assert set(loaded) <= served
    # Modules find each other beside themselves.
    for name in static_names():
        if name.endswith(".js"):
            source = (STATIC / name).read_text()
            imported = re.findall(r'^(?:import|export)[^"]*? from "([^"]+)";', source, re.MULTILINE)
            assert all(re.fullmatch(r"\./\w+\.js", path) for path in imported), name
            assert not re.search(r"""["'`]/static/\w+\.(?:js|css)""", source), name
