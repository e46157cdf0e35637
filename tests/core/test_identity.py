"""The node's key: made once, kept private, refused when it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from nacl.signing import VerifyKey

from core.errors import ConfigError
from core.identity import FILE_NAME, Identity, load, load_or_create


def test_the_first_start_makes_a_private_key(tmp_path: Path) -> None:
    data_dir = tmp_path / "a" / "b"
    identity = load_or_create(data_dir)
    assert (data_dir / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert os.listdir(data_dir) == [FILE_NAME]
    assert load_or_create(data_dir).public_key == identity.public_key


def test_the_first_start_uses_the_given_randomness(tmp_path: Path) -> None:
    identity = load_or_create(tmp_path, lambda count: bytes(range(count)))
    assert identity.public_key == Identity(bytes(range(32))).public_key


def test_a_key_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    def random_bytes(count: int) -> bytes:
        load_or_create(tmp_path, lambda _: bytes(count))
        return b"\1" * count

    assert load_or_create(tmp_path, random_bytes).public_key == Identity(bytes(32)).public_key
    assert os.listdir(tmp_path) == [FILE_NAME]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    load_or_create(tmp_path)
    (tmp_path / FILE_NAME).chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_or_create(tmp_path)


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"00" * 33, b"zz" * 32, b"\xff" * 64])
def test_a_damaged_key_is_refused(tmp_path: Path, content: bytes) -> None:
    load_or_create(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        load_or_create(tmp_path)


def test_a_link_or_a_directory_is_no_key(tmp_path: Path) -> None:
    load_or_create(tmp_path / "other")
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "other" / FILE_NAME)
    with pytest.raises(ConfigError, match="can't be used"):
        load_or_create(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        load_or_create(tmp_path)


def test_a_pipe_is_no_key_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE_NAME, 0o600)
    with pytest.raises(ConfigError, match="no regular file"):
        load_or_create(tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        load_or_create(tmp_path / "file" / "data")


def test_derived_secrets_differ_by_label_and_key() -> None:
    one, other = Identity(bytes(32)), Identity(b"\1" * 32)
    assert one.derive_secret("check-link") == Identity(bytes(32)).derive_secret("check-link")
    derived = {
        one.derive_secret("check-link"),
        one.derive_secret("check"),
        other.derive_secret("check-link"),
        bytes(32),
    }
    assert len(derived) == 4
    assert all(len(secret) == 32 for secret in derived)


def test_rfc_8032_section_7_1_test_1() -> None:
    identity = Identity(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    assert identity.public_key.hex() == (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
    VerifyKey(identity.public_key).verify(b"", identity.sign(b""))


def test_the_secret_half_is_never_shown() -> None:
    seed = bytes(range(32))
    shown = repr(Identity(seed)) + str(Identity(seed))
    assert Identity(seed).node_id in shown
    assert seed.hex() not in shown
    assert len(Identity(seed).node_id) == 52


def test_reading_the_key_makes_none(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    assert load(tmp_path / "nowhere") is None
    assert list(tmp_path.iterdir()) == []
    made = load_or_create(tmp_path)
    found = load(tmp_path)
    assert found is not None
    assert found.node_id == made.node_id
    (tmp_path / FILE_NAME).chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        load(tmp_path)
