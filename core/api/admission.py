"""Who is let in at the node's socket, by the kernel's word on the process that has connected."""

from __future__ import annotations

import errno
import grp
import logging
import os
import socket
import struct
from enum import Enum, auto

from core.errors import OperationError

GROUPS_MAX = 256
"""Of one process; who is in more than that is not let in by a group (Python asks for no more)."""
_SO_PEERGROUPS = 59
"""socket(7), asm-generic: Python has no name for it."""
_PEER_CREDENTIALS = struct.Struct("3i")
_GROUP = struct.Struct("I")

_log = logging.getLogger("montana.api")


class Rank(Enum):
    """What a process may ask: everything, as the node's own user and root, or what bridges ask."""

    OWNER = auto()
    BRIDGE = auto()


class Admission:
    """Lets in the node's own user and root, and, where one is named, the members of a group.

    Args:
        group: the name of a Unix group.

    Raises:
        OperationError: there is no such group.
    """

    def __init__(self, group: str | None) -> None:
        self._owners = {0, os.geteuid()}
        self.group_id: int | None = None
        if group is not None:
            try:
                self.group_id = grp.getgrnam(group).gr_gid
            except KeyError:
                raise OperationError(
                    f"api.group names the group {group}, which is not there; "
                    f"make it (groupadd --system {group}), or name another"
                ) from None

    def rank(self, connection: socket.socket) -> Rank | None:
        """What the process behind `connection` (AF_UNIX) may ask; None: it is turned away."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        _, uid, gid = _PEER_CREDENTIALS.unpack(raw)
        if uid in self._owners:
            return Rank.OWNER
        if self.group_id is not None and self.group_id in (gid, *_other_groups(connection)):
            return Rank.BRIDGE
        _log.warning("a process of uid %d was turned away from the socket", uid)
        return None


def _other_groups(connection: socket.socket) -> list[int]:
    """The supplementary groups that a peer had when it connected."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, GROUPS_MAX * _GROUP.size)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        return []
    return [gid for (gid,) in _GROUP.iter_unpack(raw)]
