"""The tree of RFC 6962, beside its definition."""

from __future__ import annotations

from hashlib import sha256

import hypothesis.strategies as st
import pytest
from hypothesis import given

from billing.merkle import (
    Frontier,
    full_nodes,
    inclusion_path,
    leaf_hash,
    root_of_path_untrusted,
    tree_root,
)

# Those of the RFC's own implementation's tests (certificate-transparency, merkle_tree_test).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word by word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    return sha256(b"\1" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return []
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    if index < split:
        return [*naive_path(index, leaves[:split]), naive_root(leaves[split:])]
    return [*naive_path(index - split, leaves[split:]), naive_root(leaves[:split])]


class Nodes:
    """Full subtrees, in a dictionary."""

    def __init__(self) -> None:
        self.stored: dict[tuple[int, int], bytes] = {}
        self.size = 0

    def add(self, leaves: list[bytes]) -> None:
        hashes = [leaf_hash(leaf) for leaf in leaves]
        for level, first, values in list(full_nodes(self.read, self.size, hashes)):
            for index, value in enumerate(values, first):
                assert (level, index) not in self.stored
                self.stored[level, index] = value
        self.size += len(leaves)

    def read(self, level: int, index: int) -> bytes:
        return self.stored[level, index]


@pytest.mark.parametrize("size", range(1, 9))
def test_rfc_6962_known_roots(size: int) -> None:
    nodes = Nodes()
    nodes.add(LEAVES[:size])
    assert tree_root(nodes.read, size).hex() == ROOTS[size - 1]


def test_the_root_of_no_leaves() -> None:
    assert tree_root(Nodes().read, 0) == Frontier().root() == sha256(b"").digest()


@given(st.lists(st.lists(st.binary(max_size=4), max_size=9), max_size=9))
def test_roots_and_paths_of_every_size(batches: list[list[bytes]]) -> None:
    nodes, frontier = Nodes(), Frontier()
    leaves: list[bytes] = []
    for batch in batches:
        nodes.add(batch)
        for leaf in batch:
            frontier.add(leaf_hash(leaf))
            leaves.append(leaf)
            assert frontier.root() == naive_root(leaves)
    assert frontier.size == nodes.size == len(leaves)
    # Each full subtree is stored, once.
    assert len(nodes.stored) == sum(len(leaves) >> level for level in range(10))
    for size in range(1, len(leaves) + 1):
        root = tree_root(nodes.read, size)
        assert root == naive_root(leaves[:size])
        for index in range(0, size, 1 + size // 7):
            path = inclusion_path(nodes.read, index, size)
            assert path == naive_path(index, leaves[:size])
            assert root_of_path_untrusted(leaf_hash(leaves[index]), index, size, path) == root


@given(st.integers(1, 40), st.data())
def test_a_wrong_path_leads_elsewhere(size: int, data: st.DataObject) -> None:
    nodes = Nodes()
    nodes.add([bytes([number]) for number in range(size)])
    root = tree_root(nodes.read, size)
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_path(nodes.read, index, size)
    leaf = leaf_hash(bytes([index]))
    other = data.draw(st.integers(-1, size + 1).filter(lambda one: one != index))
    assert root_of_path_untrusted(leaf, other, size, path) != root
    assert root_of_path_untrusted(leaf_hash(b"other"), index, size, path) != root
    assert root_of_path_untrusted(leaf, index, size, [*path, leaf]) is None
    if path:
        assert root_of_path_untrusted(leaf, index, size, path[:-1]) != root
        changed = data.draw(st.integers(0, len(path) - 1))
        path[changed] = bytes(32)
        assert root_of_path_untrusted(leaf, index, size, path) != root


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(-2, 2**70),
    st.integers(-2, 2**70),
    st.lists(st.binary(min_size=32, max_size=32), max_size=70),
)
def test_any_path_is_answered(leaf: bytes, index: int, size: int, path: list[bytes]) -> None:
    found = root_of_path_untrusted(leaf, index, size, path)
    assert found is None or len(found) == 32
