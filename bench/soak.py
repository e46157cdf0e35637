"""Minutes of traffic over allocations that come and go: nothing may be lost, nothing may grow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from bench.generator import Generator
from bench.process import descriptor_count, dropped_datagrams, resident_bytes
from bench.scenario import CHANNEL, call_paths, open_clients
from bench.servers import Server
from bench.turn_client import Client, run_all

RATE = 50_000.0
PAIRS = 100
SLICE_S = 0.01
CHURN_S = 0.5
"""A pair of allocations is closed, and another opened, this often: each lives for less than a
minute, so that none needs refreshing."""
QUIET_S = 0.3
"""How long a pair sends nothing before it is closed: what was under way has arrived by then."""
SAMPLE_S = 1.0
WARM_UP_SHARE = 0.2
GROWTH_BYTES = 1 << 20
"""What the interpreter's and the C library's allocators may move by themselves."""
RELEASE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakResult:
    """What became of the server.

    Attributes:
        lost: packets that were sent over an open allocation and never arrived.
        strays: duplicates, misdirected and unreadable packets.
        missed: packets of the rate that the generator was too late to offer.
        churned: allocations that were closed under traffic.
        memory_bytes: resident at the end of the warm-up and at the end, medians over a while.
        growth_a_minute_bytes: the slope of resident memory between the two.
        descriptors: open before the first allocation and after the last.
    """

    seconds: float
    sent: int
    lost: int
    strays: int
    missed: int
    churned: int
    server_drops: int
    memory_bytes: tuple[int, int]
    growth_a_minute_bytes: float
    descriptors: tuple[int, int]

    def complaints(self) -> list[str]:
        """What is not as it must be; nothing when all is well."""
        found = []
        if self.lost:
            found.append(
                f"{self.lost:,} of {self.sent:,} packets were lost, {self.server_drops:,} of them "
                "for want of room in the buffers of the server's sockets"
            )
        if self.strays:
            found.append(f"{self.strays:,} packets came twice or where they do not belong")
        if self.missed > 0.05 * self.sent:
            found.append(f"the generator was too slow: {self.missed:,} packets were not offered")
        grown = self.memory_bytes[1] - self.memory_bytes[0]
        if grown > GROWTH_BYTES:
            found.append(f"resident memory has grown by {grown / 1024:,.0f} KiB")
        if self.descriptors[1] > self.descriptors[0]:
            left = self.descriptors[1] - self.descriptors[0]
            found.append(f"{left} descriptors are left open")
        return found


Pair = tuple[Client, Client]


def soak(
    server: Server,
    *,
    seconds: float,
    say: Callable[[str], None],
    pairs: int = PAIRS,
    rate: float = RATE,
) -> SoakResult:
    """Calls of `pairs` pairs at `rate` packets a second altogether, for so many seconds.

    Loss is exact: a pair first stops, then its last packets arrive, then it is closed.
    """
    descriptors_before = descriptor_count(server.pid)
    living = [_open_pair(server) for _ in range(pairs)]
    generator = Generator(
        [path for pair in living for path in call_paths(*pair)], payload_bytes=172, rate=rate
    )
    started_s = now_s = time.monotonic()
    next_churn_s, next_sample_s = started_s + CHURN_S, started_s + SAMPLE_S
    samples: list[tuple[float, int]] = []
    opening: Future[Pair] | None = None
    closing: list[Future[None]] = []
    # The pair's place and when it fell silent.
    silent: tuple[int, float] | None = None
    place = churned = 0
    with ThreadPoolExecutor(max_workers=1) as control:
        while now_s < started_s + seconds or silent is not None:
            generator.run(SLICE_S)
            now_s = time.monotonic()
            if opening is None and now_s >= next_churn_s and now_s < started_s + seconds:
                opening = control.submit(_open_pair, server)
                next_churn_s = max(next_churn_s + CHURN_S, now_s)
            if opening is not None and opening.done() and silent is None:
                _set_active(generator, place, False)
                silent = (place, now_s)
            if silent is not None and now_s >= silent[1] + QUIET_S:
                assert opening is not None
                fresh, old = opening.result(), living[place]
                for offset, path in enumerate(call_paths(*fresh)):
                    generator.replace(2 * place + offset, path)
                _set_active(generator, place, True)
                living[place] = fresh
                closing.append(control.submit(_close_pairs, [old]))
                place, churned = (place + 1) % pairs, churned + 2
                silent = opening = None
            if now_s >= next_sample_s:
                samples.append((now_s - started_s, resident_bytes(server.pid)))
                next_sample_s = now_s + SAMPLE_S
                if len(samples) % 10 == 0:
                    say(_progress(samples, generator, churned))
            closing = [future for future in closing if not _is_over(future)]
        generator.drain()
        if opening is not None:
            closing.append(control.submit(_close_pairs, [opening.result()]))
        for future in closing:
            future.result()
    elapsed_s = time.monotonic() - started_s
    server_drops = dropped_datagrams(server.pid)
    counters = generator.counters()
    strays = ("duplicates", "beyond_window", "misdirected", "other")
    del generator
    _close_pairs(living)
    deadline_s = time.monotonic() + RELEASE_TIMEOUT_S
    while descriptor_count(server.pid) > descriptors_before and time.monotonic() < deadline_s:
        time.sleep(0.1)
    memory_bytes, slope = _growth(samples)
    return SoakResult(
        seconds=elapsed_s,
        sent=counters["sent"],
        lost=counters["sent"] - counters["delivered"],
        strays=sum(counters[name] for name in strays),
        missed=counters["missed"],
        churned=churned,
        server_drops=server_drops,
        memory_bytes=memory_bytes,
        growth_a_minute_bytes=slope * 60,
        descriptors=(descriptors_before, descriptor_count(server.pid)),
    )


def _open_pair(server: Server) -> Pair:
    one, other = open_clients(server.address, 2)
    run_all(
        [
            (one, one.bind_channel(CHANNEL, other.relayed_address())),
            (other, other.bind_channel(CHANNEL, one.relayed_address())),
        ]
    )
    return one, other


def _close_pairs(pairs: list[Pair]) -> None:
    clients = [client for pair in pairs for client in pair]
    run_all((client, client.refresh(0)) for client in clients)
    for client in clients:
        client.close()


def _set_active(generator: Generator, place: int, active: bool) -> None:
    for index in (2 * place, 2 * place + 1):
        generator.set_active(index, active)


def _is_over(future: Future[None]) -> bool:
    """Whether it is; what it raised is raised here."""
    if future.done():
        future.result()
        return True
    return False


def _growth(samples: list[tuple[float, int]]) -> tuple[tuple[int, int], float]:
    """Resident bytes after the warm-up and at the end, and the slope in bytes a second."""
    steady = samples[int(len(samples) * WARM_UP_SHARE) :]
    if len(steady) < 2:
        return (0, 0), 0.0
    part = max(1, len(steady) // 8)
    ends = tuple(
        int(statistics.median(size for _, size in some)) for some in (steady[:part], steady[-part:])
    )
    slope = statistics.linear_regression(*zip(*steady, strict=True)).slope
    return (ends[0], ends[1]), slope


def _progress(samples: list[tuple[float, int]], generator: Generator, churned: int) -> str:
    counters = generator.counters()
    under_way = counters["sent"] - counters["delivered"]
    return (
        f"{samples[-1][0]:5.0f} s  {counters['sent']:12,} sent, {under_way:6,} under way or lost, "
        f"{churned:5,} allocations closed, {samples[-1][1] / 2**20:7.2f} MiB"
    )
