"""Sessions of a node that charges nobody: allocations of one name share one of the engine's."""

from __future__ import annotations

from collections import Counter

from relay.dataplane.interface import DataPlane


class FreeSessions:
    """Opens and closes the engine's sessions as allocations join and leave."""

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane
        self._handles: dict[str, int] = {}
        self._joined: dict[int, str] = {}
        self._allocations: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._handles)

    async def join(self, allocation: int, name: str, payer: str | None) -> int:
        """Nobody has to pay: a server that is not metered never asks."""
        raise AssertionError((allocation, name, payer))

    def enter(self, allocation: int, name: str) -> int:
        """The handle of an allocation's session, which begins with the first.

        Raises:
            RelayUnavailable: no slot is left.
        """
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = self._data_plane.open_session()
        self._joined[allocation] = name
        self._allocations[name] += 1
        return handle

    def leave(self, allocation: int, reason: str) -> None:
        """An allocation has ended, or has not come to be; a session ends with its last."""
        del reason
        name = self._joined.pop(allocation, None)
        if name is None:
            return
        self._allocations[name] -= 1
        if not self._allocations[name]:
            del self._allocations[name]
            self._data_plane.close_session(self._handles.pop(name))
