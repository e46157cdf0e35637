"""The version that this node says it is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _installed_version() -> str:
    try:
        return version("montana")
    except PackageNotFoundError:
        return "unknown"


VERSION = _installed_version()
