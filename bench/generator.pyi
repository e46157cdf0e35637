"""The load generator, compiled: sends and counts datagrams over sockets that the caller made.

It knows nothing of TURN's control plane: the caller has opened allocations and bound channels,
by a client's requests or by calling a data plane's methods. For a call between two clients whose
sockets are connected to the server, channel 0x4000 of each bound to the relayed address of the
other::

    paths = [
        Path(a.fileno(), b.fileno(), send_channel=0x4000, receive_channel=0x4000),
        Path(b.fileno(), a.fileno(), send_channel=0x4000, receive_channel=0x4000),
    ]
    generator = Generator(paths, payload_bytes=172, burst=8, rate=80_000)
    generator.run(0.5)      # warm-up
    generator.reset()
    generator.run(3.0)      # measured; the GIL is released
    generator.drain()       # waits for what is under way
    print(generator.counters())

To a plain peer and back (`peer` is connected to the client's relayed address)::

    Path(client.fileno(), peer.fileno(), send_channel=0x4000)
    Path(peer.fileno(), client.fileno(), receive_channel=0x4000)

A round trip: the same two with `answers=0` on the second, which then sends nothing but echoes.
The thread that calls `run` spins: give it a core that the server does not use.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.path import Path

def bucket_starts_ns() -> NDArray[np.uint64]:
    """The smallest latency, in nanoseconds, that each bucket of `latency_histogram` counts."""

class Generator:
    """Traffic over paths, one datagram or burst at a time round robin.

    Not thread safe: every method is called between two calls of `run`, never during one.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        payload_bytes: int,
        burst: int = 1,
        rate: float = 0.0,
        tag: int | None = None,
    ) -> None:
        """Watch the receiving sockets; they stay the caller's to close, after this is gone.

        Args:
            paths: all that there will be; see `replace`.
            payload_bytes: 32 to 2044, without the ChannelData header.
            burst: datagrams back to back a path, 1 to 64.
            rate: packets a second over all paths, 0 for as many as go.
            tag: marks the packets; those of another tag are counted as `other`.

        Raises:
            ValueError: an argument is out of its range.
            OSError: a socket can't be watched.
        """

    def run(self, duration_s: float) -> None:
        """Send and receive for `duration_s`. May be called again; pacing goes on where it was."""

    def drain(self, quiet_s: float = 0.2, timeout_s: float = 3.0) -> None:
        """Send nothing of its own, receive until `quiet_s` pass without a packet."""

    def reset(self) -> None:
        """Set the totals and the latencies to zero; the counters of paths stay."""

    def set_rate(self, rate: float) -> None:
        """Change `rate`."""

    def set_active(self, index: int, active: bool) -> None:
        """Start or stop sending on a path; it receives either way."""

    def replace(self, index: int, path: Path) -> None:
        """Put another path in the place of an inactive one, whose sockets are still open. The
        counters of the place go on."""

    def counters(self) -> dict[str, int]:
        """Totals since `reset`.

        - sent: datagrams that the kernel took.
        - delivered: arrived where they should, each counted once.
        - duplicates: arrived again.
        - beyond_window: so late, 8192 packets of its path, that it can't be told whether again.
        - misdirected: arrived at another socket, on another channel, with another length.
        - other: anything else: STUN, Data indications, packets of another generator.
        - send_failures: datagrams that the kernel did not take.
        - missed: datagrams of the rate that were due while the generator was late; it is too
          slow for the rate where they are many.
        - send_calls, receive_calls, polls: system calls.
        """

    def path_counters(self) -> NDArray[np.uint64]:
        """One row a path: sent and delivered since the generator was made."""

    def latency_histogram(self) -> NDArray[np.uint64]:
        """How many packets took how long since `reset`, by the buckets of `bucket_starts_ns`:
        one way, or there and back for paths that are answered."""
