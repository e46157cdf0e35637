"""A relay that carries calls in the very process whose ledger ticks, on one core:
`bench.signaling_ticking` starts it and tells it when to tick.

    python -m bench.signaling_child FOLDER SESSIONS

It says the port of its relay as a line of JSON, is told the ports of the clients, two of them a
call, and says when their channels are bound. After that ``tick`` has it tick once a second until
``rest``, which is answered by how long each tick has taken, in milliseconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import trio

from bench.ledger_child import Metered, ledger_folder, metered
from bench.process import SERVER_CORE, use_core
from bench.scenario import CHANNEL
from bench.servers import RELAY_PORTS
from billing.ledger import open_ledger
from core.clock import SystemClock
from core.stun.address import Address, FiveTuple
from core.units import HOUR_S, NS_PER_MS, NS_PER_S
from relay.dataplane.interface import OWN_RELAYS_ONLY, RelayUnavailable
from relay.dataplane.sockets import SocketDataPlane

HOST: Final = Address.from_text("127.0.0.1", 0)
ALLOCATIONS_MAXIMUM: Final = 1_000


@contextmanager
def _relay() -> Iterator[SocketDataPlane]:
    data_plane = SocketDataPlane(
        [HOST],
        workers=1,
        relay_addresses=[HOST.ip],
        external={},
        max_allocations=ALLOCATIONS_MAXIMUM,
        flows_per_allocation=4,
    )
    try:
        data_plane.start()
        yield data_plane
    finally:
        data_plane.close()


def _open_calls(data_plane: SocketDataPlane, ports: Sequence[int]) -> None:
    """Have each two clients, one after the other, in a call."""
    expires_ns = time.monotonic_ns() + HOUR_S * NS_PER_S
    session = data_plane.open_session()
    (listening,) = data_plane.listening
    free = iter(range(*RELAY_PORTS))
    opened: list[tuple[int, Address]] = []
    for port in ports:
        five_tuple = FiveTuple("udp", Address(HOST.ip, port), listening)
        relay, relayed = _open_relay(data_plane, free)
        allocation = data_plane.open_allocation(five_tuple, [relay], session, expires_ns, 0)
        opened.append((allocation, relayed))
    for pair in zip(opened[::2], opened[1::2], strict=True):
        for (allocation, _), (_, peer) in (pair, pair[::-1]):
            data_plane.install_permission(allocation, peer.ip, expires_ns, OWN_RELAYS_ONLY)
            data_plane.install_channel(allocation, CHANNEL, peer, expires_ns)


def _open_relay(data_plane: SocketDataPlane, free: Iterator[int]) -> tuple[int, Address]:
    for port in free:
        relayed = Address(HOST.ip, port)
        try:
            return data_plane.open_relay(relayed), relayed
        except RelayUnavailable:
            continue
    raise AssertionError("there are more ports than allocations")


async def _tick(all_of_them: Metered, took_ms: list[float]) -> None:
    """Tick once a second until cancelled; a tick that has begun comes to its end."""
    started_ns = time.monotonic_ns()
    for number in count(1):
        with trio.CancelScope(shield=True):
            all_of_them.relay()
            began_ns = time.monotonic_ns()
            await all_of_them.tick()
            took_ms.append((time.monotonic_ns() - began_ns) / NS_PER_MS)
        await trio.sleep(max(0, started_ns + number * NS_PER_S - time.monotonic_ns()) / NS_PER_S)


async def _obey(data_plane: SocketDataPlane, all_of_them: Metered) -> None:
    (listening,) = data_plane.listening
    _tell(listening.port)
    _open_calls(data_plane, json.loads(await _next_line()))
    _tell("open")
    while await _next_line() == "tick":
        took_ms: list[float] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tick, all_of_them, took_ms)
            assert await _next_line() == "rest"
            nursery.cancel_scope.cancel()
        _tell(took_ms)
    all_of_them.check()
    _tell("checked")


async def _next_line() -> str:
    """What is said next; empty at the end."""
    return (await trio.to_thread.run_sync(sys.stdin.readline)).strip()


def _tell(result: Any) -> None:
    print(json.dumps(result), flush=True)


def _say(line: str) -> None:
    print(f"            {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Serve until the input ends."""
    folder, sessions = Path(sys.argv[1]), int(sys.argv[2])
    use_core(SERVER_CORE)
    clock = SystemClock()

    async def run() -> None:
        all_of_them, _ = await metered(ledger, clock, sessions, _say)
        with _relay() as data_plane:
            await _obey(data_plane, all_of_them)

    with open_ledger(ledger_folder(folder), clock) as ledger:
        trio.run(run)


if __name__ == "__main__":
    main()
