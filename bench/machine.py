"""The machine that figures were taken on, named."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.servers import version_of

_TMPFS, _RAMFS = 0x01021994, 0x858458F6
"""The kernel's numbers of file systems, of linux/magic.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where and when.

    Attributes:
        versions: of each server, by name.
        receive_buffer_maximum_bytes: net.core.rmem_max.
    """

    processor: str
    cores: int
    kernel: str
    system: str
    python: str
    versions: dict[str, str]
    receive_buffer_maximum_bytes: int
    date: str

    def describe(self) -> str:
        """One sentence for people."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.processor}, {self.cores} cores, {self.system}, Linux {self.kernel}, "
            f"Python {self.python}; {versions}; {self.date}"
        )


def this_machine(servers: Sequence[str]) -> Machine:
    """Describe the machine that this runs on."""
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        kernel=platform.release(),
        system=platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
        python=platform.python_version(),
        versions={name: version_of(name) for name in servers},
        receive_buffer_maximum_bytes=int(Path("/proc/sys/net/core/rmem_max").read_text()),
        date=datetime.now(UTC).date().isoformat(),
    )


def is_in_memory(folder: Path) -> bool:
    """Whether a folder is on a file system without a disk: tmpfs or ramfs."""
    # f_type is the first word of struct statfs, of which 120 bytes are used; os.statvfs lacks it.
    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(folder), buffer):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))
    kind = ctypes.c_ulong.from_buffer(buffer).value
    return kind in (_TMPFS, _RAMFS)


def _processor() -> str:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", platform.machine())
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    if "hypervisor" in fields.get("flags", ""):
        name += ", a virtual machine"
    return name
