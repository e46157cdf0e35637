"""What the bench reads of the kernel about a process is right."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bench.process import (
    core_of,
    core_time_ns,
    cpu_time_ns,
    descriptor_count,
    dropped_datagrams,
    use_core,
)


@pytest.fixture
def all_cores() -> Iterator[set[int]]:
    cores = os.sched_getaffinity(0)
    yield cores
    os.sched_setaffinity(0, cores)


def test_cpu_time_is_the_process_clock_and_keeps_threads_that_ended() -> None:
    def work() -> None:
        until_ns = time.thread_time_ns() + 20_000_000
        while time.thread_time_ns() < until_ns:
            pass

    before_ns = cpu_time_ns(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    after_ns = cpu_time_ns(os.getpid())
    assert after_ns - before_ns >= 20_000_000
    assert after_ns <= time.process_time_ns()


@pytest.mark.usefixtures("all_cores")
def test_a_core_has_worked_at_least_as_much_as_a_process_on_it() -> None:
    core = core_of(os.getpid())
    os.sched_setaffinity(0, {core})
    before_ns, until_ns = core_time_ns(core), time.process_time_ns() + 200_000_000
    while time.process_time_ns() < until_ns:
        pass
    # The kernel counts ticks, each for whoever it finds running.
    assert core_time_ns(core) - before_ns >= 100_000_000


def test_drops_are_those_of_the_own_sockets() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        receiver.bind(("127.0.0.1", 0))
        before = dropped_datagrams(os.getpid())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(100):
                sender.sendto(bytes(1000), receiver.getsockname())
        receiver.setblocking(False)
        arrived = 0
        while True:
            try:
                receiver.recv(2000)
            except BlockingIOError:
                break
            arrived += 1
        assert arrived < 100
        assert dropped_datagrams(os.getpid()) - before == 100 - arrived


def test_descriptors_are_counted() -> None:
    before = descriptor_count(os.getpid())
    with socket.socket():
        assert descriptor_count(os.getpid()) == before + 1
    assert descriptor_count(os.getpid()) == before


def test_a_core_that_is_not_there_is_not_asked_for(all_cores: set[int]) -> None:
    use_core(10_000)
    assert os.sched_getaffinity(0) == {min(all_cores)}
