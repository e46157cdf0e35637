"""The node's long-lived key, and what is derived from it.

One Ed25519 key names the node. It lives in the data directory, as the hexadecimal seed in a
file that its owner alone may read, and is made on the first start.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import stat
from collections.abc import Callable
from pathlib import Path

from nacl.signing import SigningKey

from core.errors import ConfigError
from core.new_file import new_file

FILE_NAME = "identity.key"
SEED_BYTES = 32


class Identity:
    """The node's key pair. Neither its text nor its repr holds the secret half."""

    __slots__ = ("_seed", "_signing_key")

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == SEED_BYTES
        self._seed = seed
        self._signing_key = SigningKey(seed)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes of the Ed25519 public key."""
        return bytes(self._signing_key.verify_key)

    @property
    def node_id(self) -> str:
        """The public key as text for people and for URLs: 52 characters of base32, lower case."""
        return base64.b32encode(self.public_key).decode().rstrip("=").lower()

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the Ed25519 signature of `message`."""
        return self._signing_key.sign(message).signature

    def derive_secret(self, label: str) -> bytes:
        """32 secret bytes for the purpose that `label` names, the same on every start.

        One purpose's secret tells nothing about another's, nor about the key.
        """
        return hmac.digest(self._seed, b"montana secret 1\0" + label.encode(), "sha256")

    def __repr__(self) -> str:
        return f"Identity({self.node_id})"


def node_key_untrusted(node_id: str) -> bytes:
    """The 32 bytes of the public key that a node's id stands for.

    Raises:
        ValueError: it is no id.
    """
    key = base64.b32decode(node_id.upper() + "=" * (-len(node_id) % 8))
    if len(key) != SEED_BYTES or base64.b32encode(key).decode().rstrip("=").lower() != node_id:
        raise ValueError("this is no node's id")
    return key


def load(data_dir: Path) -> Identity | None:
    """Read the key in `data_dir`; None where there is none.

    Raises:
        ConfigError: the file can't be used, or others may read it.
    """
    path = data_dir / FILE_NAME
    try:
        return Identity(_read(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error


def load_or_create(data_dir: Path, random_bytes: Callable[[int], bytes] = os.urandom) -> Identity:
    """Read the key in `data_dir`; on the first start make it, and the directory.

    A start that is cut short leaves either no key or a whole one, and of two first starts at
    once both get the same key.

    Raises:
        ConfigError: the directory or the file can't be used, or others may read the key.
    """
    path = data_dir / FILE_NAME
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # Of two first starts at once, the other one's key is as good.
            with contextlib.suppress(FileExistsError), new_file(path) as file:
                file.write(random_bytes(SEED_BYTES).hex().encode() + b"\n")
        return Identity(_read(path))
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"the node's key {path} can't be used: {error.strerror}")


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"the node's key {path} is no regular file")
        if status.st_uid != os.geteuid():
            raise ConfigError(f"the node's key {path} belongs to another user")
        if status.st_mode & 0o077:
            raise ConfigError(
                f"others may read the node's key {path}; if nobody has, run: chmod 600 {path}"
            )
        content = file.read(2 * SEED_BYTES + 2)
    try:
        seed = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise ConfigError(
            f"the node's key {path} is damaged: it holds {2 * SEED_BYTES} hexadecimal digits; "
            "restore it from a backup, or remove it to give the node a new one"
        )
    return seed
