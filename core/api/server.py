"""The node's Unix socket: who holds it, and who is let in.

Processes of the node's own user, and root's, may ask for everything; those of a group that the
configuration names may ask what bridges ask. The socket's mode says so, and the kernel's word on
each peer is checked besides. `serving` has what is answered.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from types import TracebackType

import trio

from core.api.admission import Admission
from core.api.serving import Conversations, EventSource, Handler
from core.errors import OperationError
from core.lock_file import LockFile

PATH_BYTES_MAX = 107
"""What fits into `sockaddr_un` with its closing zero."""
_ACCEPT_AGAIN_S = 0.1
_BACKLOG = 64


class ApiServer:
    """Holds a Unix socket from `async with` on, and answers on it in `serve`.

    Args:
        group: the Unix group whose members are let in, too; None for nobody else.
    """

    def __init__(self, path: Path, *, software: str, group: str | None = None) -> None:
        self.path = path
        self._software = software
        self._group = group
        self._lock: LockFile | None = None
        self._socket: socket.socket | None = None
        self._admission: Admission | None = None

    async def __aenter__(self) -> ApiServer:
        """Bind the socket.

        Raises:
            OperationError: another node holds it, or the path or the group can't be used.
        """
        if len(os.fsencode(self.path)) > PATH_BYTES_MAX:
            raise OperationError(
                f"the socket's path is longer than {PATH_BYTES_MAX} bytes: {self.path}; "
                "choose a shorter data_dir"
            )
        self._admission = Admission(self._group)
        with contextlib.ExitStack() as cleanup:
            try:
                lock = LockFile(
                    self.path.with_name(f"{self.path.name}.lock"),
                    f"another node is running with the socket {self.path}",
                    "stop it, or give this one another data_dir",
                )
                cleanup.callback(lock.release)
                # Holding the lock, we know that no node stands behind a socket that lies there.
                self.path.unlink(missing_ok=True)
                unix_socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC
                )
                cleanup.callback(unix_socket.close)
                # Before bind, so that at no moment anybody else may connect (unix(7): Linux gives
                # the file the mode of the socket's inode).
                os.fchmod(unix_socket.fileno(), 0o600)
                unix_socket.bind(str(self.path))
                if self._admission.group_id is not None:
                    _open_to_group(self.path, self._admission.group_id)
                unix_socket.listen(_BACKLOG)
                unix_socket.setblocking(False)
            except OSError as error:
                raise OperationError(
                    f"the node's socket {self.path} can't be made: {error.strerror}"
                ) from error
            self._socket = unix_socket
            self._lock = lock
            cleanup.pop_all()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._socket is not None
        assert self._lock is not None
        self._socket.close()
        self.path.unlink(missing_ok=True)
        self._lock.release()

    async def serve(self, handler: Handler, source: EventSource | None = None) -> None:
        """Answer until cancelled.

        Args:
            handler: carries out requests, but for subscriptions;
            source: is who takes these.
        """
        assert self._socket is not None
        assert self._admission is not None
        conversations = Conversations(self._software, handler, source)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conversations.run)
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    connection, _ = self._socket.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                        raise
                    await trio.sleep(_ACCEPT_AGAIN_S)
                    continue
                connection.setblocking(False)
                rank = self._admission.rank(connection)
                if rank is None:
                    connection.close()
                else:
                    conversations.adopt(connection, rank)


def _open_to_group(path: Path, group_id: int) -> None:
    """Let a group's members connect to the socket at `path`, and pass through its folder: what else
    is there has modes of its own.

    Raises:
        OperationError: this user isn't in the group.
    """
    try:
        folder = path.parent.stat()
        if not folder.st_mode & stat.S_IXOTH:
            os.chown(path.parent, -1, group_id)
            path.parent.chmod(stat.S_IMODE(folder.st_mode) | stat.S_IXGRP)
        os.chown(path, -1, group_id)
        path.chmod(0o660)
    except PermissionError:
        raise OperationError(
            f"the group of api.group can't be given {path}: the node's user has to be one of its "
            "members, and the folder its own"
        ) from None
