"""A file that one process holds."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from core.errors import OperationError
from core.lock_file import LockFile


def lock(path: Path) -> LockFile:
    return LockFile(path, "somebody is here", "go away")


def test_one_at_a_time_and_who_it_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("a longer line than any process's number\n")
    held = lock(path)
    assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(OperationError) as refused:
        lock(path)
    assert str(refused.value) == f"somebody is here ({os.getpid()}); go away"
    held.release()
    again = lock(path)
    # Released twice, it does not take the other's.
    held.release()
    with pytest.raises(OperationError, match="somebody is here"):
        lock(path)
    again.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_an_error_is_no_other_process(tmp_path: Path, monkeypatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    descriptors = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", fail)
        with pytest.raises(OperationError, match=f"can't be locked: {os.strerror(number)}"):
            lock(tmp_path / "lock")
    assert os.listdir("/proc/self/fd") == descriptors
    lock(tmp_path / "lock").release()


def test_one_that_was_removed_while_it_was_taken(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "lock"
    first, flock = lock(path), fcntl.flock

    def remove_before(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.remove()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", remove_before)
    second = lock(path)
    with pytest.raises(OperationError, match="somebody is here"):
        lock(path)
    second.remove()
    assert os.listdir(tmp_path) == []
