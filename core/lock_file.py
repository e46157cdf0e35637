"""A file that one process holds for as long as it lives: what two must not have at once stands
behind it.

    lock = LockFile(Path("node.lock"), "another node is running", "stop it")
    ...
    lock.release()
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from core.errors import OperationError


class LockFile:
    """Held until `release`, or the process's end; whoever holds it stands in it by the process's
    number.

    Args:
        path: the file, which is made where it is missing.
        held: what is said where another process holds it, up to that process's number.
        advice: what can be done about it then.

    Raises:
        OperationError: another process holds it, or this file system has no locks.
        OSError: it can't be made or written.
    """

    def __init__(self, path: Path, held: str, advice: str) -> None:
        self._path = path
        self._held = contextlib.ExitStack()
        while not self._take(held, advice):
            pass

    def _take(self, held: str, advice: str) -> bool:
        """Take what has the name now; False where who held it has removed it meanwhile."""
        with contextlib.ExitStack() as cleanup:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            cleanup.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
                raise OperationError(
                    f"{held}{f' ({holder})' if holder else ''}; {advice}"
                ) from None
            except OSError as error:
                raise OperationError(
                    f"{self._path} can't be locked: {error.strerror}; choose a folder on a disk of "
                    "this machine"
                ) from error
            if not self._path.exists() or not os.path.samestat(os.fstat(fd), self._path.stat()):
                return False
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            self._held = cleanup.pop_all()
        return True

    def release(self) -> None:
        """Let others have it. May be called twice."""
        self._held.close()

    def remove(self) -> None:
        """Leave no file, and let others make it anew."""
        self._path.unlink(missing_ok=True)
        self.release()
