"""Files that are there once they are whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from core.new_file import new_file


def test_a_file_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with new_file(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with new_file(tmp_path / "file") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert os.listdir(tmp_path) == []


def test_nothing_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"another's")
    with pytest.raises(FileExistsError), new_file(path):
        pytest.fail("it was begun")
    path.unlink()
    with pytest.raises(FileExistsError), new_file(path):
        # Somebody else is faster.
        path.write_bytes(b"another's")
    assert path.read_bytes() == b"another's"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError), new_file(path):
        pass
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links(tmp_path: Path, monkeypatch, number: int) -> None:
    def link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    test_a_file_has_its_name_once_it_is_whole(tmp_path)
    (tmp_path / "file").unlink()
    test_nothing_is_replaced(tmp_path)
    (tmp_path / "file").unlink()
    test_of_two_at_once_the_first_to_be_whole_has_the_name(tmp_path)


def test_a_name_that_can_be_taken_but_not_filled_is_given_back(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"), new_file(tmp_path / "file") as file:
        file.write(b"whole")
    assert os.listdir(tmp_path) == []


def test_of_two_at_once_the_first_to_be_whole_has_the_name(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write_both() -> None:
        with new_file(path) as slow:
            slow.write(b"slow")
            with new_file(path) as fast:
                fast.write(b"fast")

    with pytest.raises(FileExistsError):
        write_both()
    assert path.read_bytes() == b"fast"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in ("file", "nowhere"):
        with pytest.raises(OSError, match=folder), new_file(tmp_path / folder / "new"):
            pytest.fail("it was begun")
