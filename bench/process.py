"""What the kernel knows of a process: CPU time, memory, descriptors, datagrams dropped."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from core.units import NS_PER_S

SERVER_CORE = 0
GENERATOR_CORE = 1


def cpu_time_ns(pid: int) -> int:
    """CPU time of all threads of a process, dead ones included, to the nanosecond.

    The process's CPU clock (clock_getcpuclockid(3)) is the sum of its threads' run times that
    /proc/PID/task/*/schedstat shows too, but it also counts the time slice that is not over yet
    and threads that have ended.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


def waited_ns(pid: int) -> int:
    """How long the living threads of a process have waited for a core that something else used:
    the second number of schedstat."""
    waited = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            waited += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
    return waited


def core_time_ns(core: int) -> int:
    """For how long a core of this machine has worked, for whomever: /proc/stat, in steps of a tick,
    without idle and iowait, with what a hypervisor has taken for others."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *columns = line.split()
        if name == f"cpu{core}":
            # proc(5): guest time is within user and nice already.
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, columns[:8])
            ticks = user + nice + system + irq + softirq + steal
            return ticks * NS_PER_S // os.sysconf("SC_CLK_TCK")
    raise AssertionError(f"/proc/stat has a line of core {core}")


def core_of(pid: int) -> int:
    """The one core that a process may use, or the first of them."""
    return min(os.sched_getaffinity(pid))


def resident_bytes(pid: int) -> int:
    """Resident memory, exactly: VmRSS of status lags by some pages a thread."""
    return _rollup_bytes(pid, "Rss")


def proportional_bytes(pid: int) -> int:
    """Memory of a process with its share of what it shares with others (PSS)."""
    return _rollup_bytes(pid, "Pss")


def _rollup_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"smaps_rollup has a line {name}")


def descriptor_count(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def dropped_datagrams(pid: int) -> int:
    """Datagrams that the kernel dropped at the UDP sockets which a process has open now, mostly
    because a receive buffer was full."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    drops = 0
    for table in ("udp", "udp6"):
        path = Path("/proc/net") / table
        if path.exists():
            for line in path.read_text().splitlines()[1:]:
                columns = line.split()
                if columns[9] in inodes:
                    drops += int(columns[12])
    return drops


def use_core(core: int, pid: int = 0) -> None:
    """Keep a process (0: this one) on one core, where the machine has several."""
    allowed = sorted(os.sched_getaffinity(pid))
    os.sched_setaffinity(pid, {core if core < _cores() else allowed[0]})


def have_two_cores() -> bool:
    """Whether the generator has a core of its own."""
    return _cores() >= 2


def allow_many_descriptors() -> None:
    """Raise this process's limit, which servers inherit, as far as it may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _cores() -> int:
    return os.cpu_count() or 1
