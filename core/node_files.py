"""Where a node keeps what others look for."""

from __future__ import annotations

from pathlib import Path

DEFAULT_DATA_DIR = "data"
"""Of `--dev` and `--lan`, and where commands look for a node that no option names."""


def socket_path(data_dir: Path) -> Path:
    """The node's Unix socket."""
    return data_dir / "node.sock"


def ledger_folder(data_dir: Path) -> Path:
    """Where the ledger's files are."""
    return data_dir / "ledger"


def bridge_folder(data_dir: Path, name: str) -> Path:
    """What a bridge keeps of its own."""
    return data_dir / "bridges" / name
