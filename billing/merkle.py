"""The Merkle tree of RFC 6962 and RFC 9162 section 2.1, kept as the hashes of its full subtrees.

A node is named by its level, 0 for leaves, and its index there; it covers the leaves from index <<
level on. Those that are full never change again: they are stored once, and what a root or a proof
needs beside them is made of a few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
PATH_MAXIMUM = 64
"""Hashes of a proof: no tree has more leaves than a 64-bit index can name."""

ReadNode = Callable[[int, int], bytes]
"""(level, index) -> hash of a full subtree."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over two others."""
    return sha256(b"\1" + left + right).digest()


def full_nodes(
    read: ReadNode, size: int, leaves: Sequence[bytes]
) -> Iterable[tuple[int, int, list[bytes]]]:
    """(level, index, hashes) of the subtrees that become full when leaf hashes are added to a tree
    of `size` leaves: those of a level beside each other, from `index` on; in the order of their
    names."""
    level, first, hashes = 0, size, list(leaves)
    while hashes:
        yield level, first, hashes
        if first & 1:
            first -= 1
            hashes = [read(level, first), *hashes]
        hashes = [
            node_hash(hashes[index], hashes[index + 1]) for index in range(0, len(hashes) - 1, 2)
        ]
        first >>= 1
        level += 1


def tree_root(read: ReadNode, size: int) -> bytes:
    """The root over the first `size` leaves."""
    return _range_root(read, 0, size) if size else sha256(b"").digest()


def inclusion_path(read: ReadNode, index: int, size: int) -> list[bytes]:
    """What proves that leaf `index` is in the tree of `size` leaves, from the leaf upwards."""
    assert 0 <= index < size
    path: list[bytes] = []
    first = 0
    while size > 1:
        split = _split(size)
        if index < first + split:
            path.append(_range_root(read, first + split, size - split))
            size = split
        else:
            path.append(_range_root(read, first, split))
            first += split
            size -= split
    return path[::-1]


def root_of_path_untrusted(
    leaf: bytes, index: int, size: int, path: Sequence[bytes]
) -> bytes | None:
    """The root to which a path leads (RFC 9162 section 2.1.3.2); None when it fits no tree of
    `size` leaves."""
    if not 0 <= index < size or len(path) > PATH_MAXIMUM:
        return None
    last, value = size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if index & 1 or index == last:
            value = node_hash(sibling, value)
            while index and not index & 1:
                index >>= 1
                last >>= 1
        else:
            value = node_hash(value, sibling)
        index >>= 1
        last >>= 1
    return value if last == 0 else None


class Frontier:
    """A tree of which only the right edge is kept: for whoever adds leaves and asks for roots.

    Attributes:
        size: leaves.
    """

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Add the hash of a leaf."""
        full = self.size
        while full & 1:
            leaf = node_hash(self._edge.pop(), leaf)
            full >>= 1
        self._edge.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root over all leaves."""
        if not self._edge:
            return sha256(b"").digest()
        value = self._edge[-1]
        for left in reversed(self._edge[:-1]):
            value = node_hash(left, value)
        return value


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _range_root(read: ReadNode, first: int, size: int) -> bytes:
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return read(level, first >> level)
    split = _split(size)
    return node_hash(
        _range_root(read, first, split), _range_root(read, first + split, size - split)
    )
