"""What is measured: the suites, each a list of loads that both servers get in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from bench.comparison import in_turn, medians
from bench.process import cpu_time_ns, resident_bytes
from bench.scenario import Load, Measurement, Mode, Traffic, open_clients, traffic
from bench.servers import COTURN, MONTANA, MONTANA_LOW_LATENCY, Server
from bench.turn_client import Client

RATE = 80_000.0
"""Packets a second at which the CPU a packet is compared."""
ALLOCATIONS = 20
BURSTS = (1, 8)
PAYLOADS = (172, 1100)
ROUND_TRIP_RATES = (1_000.0, 50_000.0)
MAXIMUM_LOSS = 0.01
SEARCH_STEPS = 7
QUICK_SEARCH_STEPS = 4
LOSSLESS_STEP = 10_000.0
QUICK_LOSSLESS_STEP = 20_000.0
LOSSLESS_CEILING = 400_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of one server.

    Attributes:
        suite: under which question it was measured: "steady", "saturated", "maximum",
            "lossless", "matrix" or "round trip".
    """

    suite: str
    server: str
    load: Load
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationCost:
    """What allocations cost a server.

    Attributes:
        count: how many were opened, each by a challenge and a request that answers it.
        cpu_us: CPU an allocation.
        memory_bytes: resident memory an allocation.
        a_second: how many were opened a second.
        server_busy: the share of its core; well below one, the client was the slower side.
    """

    server: str
    count: int
    cpu_us: float
    memory_bytes: float
    a_second: float
    server_busy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long to measure, and whom.

    Attributes:
        servers: names of those that are compared, as in `bench.servers`.
        quick: a short run, for trying things out.
        say: is given a line of progress now and then.
    """

    servers: Sequence[str]
    quick: bool
    say: Callable[[str], None]

    def rounds(self, full: int) -> int:
        """How often each server gets its turn."""
        return 1 if self.quick else full

    def seconds(self, full: float) -> float:
        """How long one measurement takes."""
        return min(full, 0.4) if self.quick else full


def steady(plan: Plan) -> list[Cell]:
    """CPU a packet at a rate that all can carry."""
    loads = [
        Load(mode=mode, allocations=ALLOCATIONS, burst=burst, rate=RATE)
        for mode in (Mode.CALL, Mode.TO_PEER, Mode.FROM_PEER)
        for burst in BURSTS
    ]
    return _compare(plan, "steady", loads, rounds=5, seconds=3.0)


def saturated(plan: Plan) -> list[Cell]:
    """Packets delivered a second when more are offered than can be carried."""
    loads = [
        Load(mode=mode, allocations=ALLOCATIONS, burst=burst)
        for mode in (Mode.CALL, Mode.TO_PEER, Mode.FROM_PEER)
        for burst in BURSTS
    ]
    return _compare(plan, "saturated", loads, rounds=5, seconds=2.0)


def maximum(plan: Plan) -> list[Cell]:
    """The highest rate of a call that loses less than one packet in a hundred."""
    loads = [Load(mode=Mode.CALL, allocations=ALLOCATIONS, burst=burst) for burst in BURSTS]
    seconds = plan.seconds(1.0)
    steps = QUICK_SEARCH_STEPS if plan.quick else SEARCH_STEPS

    def work(server: Server) -> dict[Load, Measurement]:
        with traffic(server, Mode.CALL, ALLOCATIONS) as opened:
            found = {load: _highest_rate(opened, load, seconds, steps) for load in loads}
        for load, measurement in found.items():
            plan.say(_line("maximum", server.name, load, measurement))
        return found

    return _cells("maximum", in_turn(plan.servers, plan.rounds(3), work))


def lossless(plan: Plan) -> list[Cell]:
    """All servers at the highest rate at which coturn loses nothing."""
    if COTURN not in plan.servers:
        return []
    modes = (Mode.CALL, Mode.PEER_BOTH)
    shapes = [
        Load(mode=mode, allocations=ALLOCATIONS, burst=burst) for mode in modes for burst in BURSTS
    ]

    step = QUICK_LOSSLESS_STEP if plan.quick else LOSSLESS_STEP

    def climb(server: Server) -> dict[Load, float]:
        found = {}
        for shape in shapes:
            with traffic(server, shape.mode, shape.allocations) as opened:
                rate = step
                while rate < LOSSLESS_CEILING:
                    load = replace(shape, rate=rate + step)
                    measurement = opened.measure(load, plan.seconds(1.5))
                    if measurement.lost or measurement.server_was_full:
                        break
                    rate += step
            found[shape] = rate
            plan.say(f"{'lossless':11} {server.name:10} up to {rate:,.0f} packets/s: {shape.mode}")
        return found

    carried = in_turn([COTURN], 1, climb)[COTURN]
    loads = [replace(shape, rate=carried[shape][0]) for shape in shapes]
    return _compare(plan, "lossless", loads, rounds=2, seconds=5.0)


def matrix(plan: Plan) -> list[Cell]:
    """Packets delivered when saturated, over modes, bursts, sizes and allocations."""
    loads = [
        Load(mode=mode, allocations=allocations, burst=burst, payload_bytes=payload_bytes)
        for mode in (Mode.CALL, Mode.PEER_BOTH)
        for allocations in ((2, 200) if plan.quick else (2, 200, 2000))
        for burst in BURSTS
        for payload_bytes in PAYLOADS
    ]
    return _compare(plan, "matrix", loads, rounds=3, seconds=1.5)


def round_trip(plan: Plan) -> list[Cell]:
    """How long packets take, there and back, at steady rates."""
    loads = [
        Load(mode=mode, allocations=ALLOCATIONS, rate=rate)
        for mode in (Mode.PEER_ECHO, Mode.CALL_ECHO)
        for rate in ROUND_TRIP_RATES
    ]
    servers = list(plan.servers)
    if MONTANA in servers:
        servers.append(MONTANA_LOW_LATENCY)
    return _compare(replace(plan, servers=servers), "round trip", loads, rounds=3, seconds=6.0)


def allocations(plan: Plan) -> list[AllocationCost]:
    """CPU and memory an allocation, and how many can be opened a second."""
    count = 2_000 if plan.quick else 10_000

    def work(server: Server) -> dict[int, AllocationCost]:
        cost = measure_allocations(server, count)
        plan.say(
            f"{'allocations':11} {server.name:10} {cost.a_second:7,.0f}/s {cost.cpu_us:6.0f} us "
            f"{cost.memory_bytes / 1024:6.1f} KiB"
        )
        return {count: cost}

    costs = []
    for measured in in_turn(plan.servers, plan.rounds(3), work).values():
        by_cpu = sorted(measured[count], key=lambda cost: cost.cpu_us)
        costs.append(by_cpu[len(by_cpu) // 2])
    return costs


def measure_allocations(server: Server, count: int) -> AllocationCost:
    """Open so many allocations, each by a challenge and the request that answers it, after some
    that make the server allocate what it needs only once."""
    clients: list[Client] = open_clients(server.address, 50)
    try:
        memory_bytes = resident_bytes(server.pid)
        started_ns, cpu_started_ns = time.monotonic_ns(), cpu_time_ns(server.pid)
        clients += open_clients(server.address, count)
        elapsed_ns = time.monotonic_ns() - started_ns
        cpu_ns = cpu_time_ns(server.pid) - cpu_started_ns
        grown_bytes = resident_bytes(server.pid) - memory_bytes
    finally:
        for client in clients:
            client.close()
    return AllocationCost(
        server=server.name,
        count=count,
        cpu_us=cpu_ns / count / 1000,
        memory_bytes=grown_bytes / count,
        a_second=count / elapsed_ns * 1e9,
        server_busy=cpu_ns / elapsed_ns,
    )


def _compare(
    plan: Plan, suite: str, loads: Sequence[Load], *, rounds: int, seconds: float
) -> list[Cell]:
    """Every load on every server; those of the same clients one after another."""

    def work(server: Server) -> dict[Load, Measurement]:
        found = {}
        for (mode, count), group in groupby(loads, lambda load: (load.mode, load.allocations)):
            with traffic(server, mode, count) as opened:
                for load in group:
                    found[load] = opened.measure(load, plan.seconds(seconds))
                    plan.say(_line(suite, server.name, load, found[load]))
        return found

    return _cells(suite, in_turn(plan.servers, plan.rounds(rounds), work))


def _cells(suite: str, results: dict[str, dict[Load, list[Measurement]]]) -> list[Cell]:
    return [
        Cell(suite=suite, server=name, load=load, measurement=measurement)
        for name, measured in results.items()
        for load, measurement in medians(measured).items()
    ]


def _highest_rate(opened: Traffic, load: Load, seconds: float, steps: int) -> Measurement:
    """The measurement at the highest rate that loses at most one packet in a hundred, between
    nothing and what the generator sends flat out."""
    low, high = 0.0, opened.measure(load, seconds).sent_a_second
    best: Measurement | None = None
    for _ in range(steps):
        rate = (low + high) / 2
        measurement = opened.measure(replace(load, rate=rate), seconds)
        if measurement.loss <= MAXIMUM_LOSS:
            low, best = rate, measurement
        else:
            high = rate
    # Where even the lowest rate tried loses more, that one tells how bad it is.
    return best or measurement


def _line(suite: str, server: str, load: Load, measurement: Measurement) -> str:
    """One line of progress."""
    marks = ""
    if measurement.disturbed:
        marks += "  (the core was shared)"
    if measurement.generator_was_late:
        marks += "  (the generator was late)"
    return (
        f"{suite:11} {server:10} {load.mode:15} {load.allocations:5,} x {load.payload_bytes:4} B"
        f" burst {load.burst}: {measurement.delivered_a_second:9,.0f}/s"
        f" {measurement.cpu_ns:7,.0f} ns  loss {measurement.loss:6.2%}"
        f"  p50 {measurement.latency_p50_us:8,.0f} us{marks}"
    )
