"""A way to a node's TURN server that can be opened and closed: datagrams pass through it while it
is open, and nobody listens while it is not.

    with udp_way(node.turn[0], "127.0.0.77") as way:
        way.open()

A node whose `turn.external` names that address sends its clients here.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from core.stun.address import Address

LARGEST_BYTES = 65_536
WAIT_S = 0.1


class UdpWay:
    """See the module. Each client has a socket of its own towards the node."""

    def __init__(self, target: Address, host: str) -> None:
        self._target = (target.host, target.port)
        self._host = host
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Let datagrams through from now on."""
        assert self._thread is None
        near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        near.bind((self._host, self._target[1]))
        self._thread = threading.Thread(target=self._carry, args=(near,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._ends.set()
        if self._thread is not None:
            self._thread.join()

    def _carry(self, near: socket.socket) -> None:
        clients: dict[socket.socket, tuple[str, int]] = {}
        towards: dict[tuple[str, int], socket.socket] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ)
            while not self._ends.is_set():
                for key, _ in selector.select(WAIT_S):
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    # What nobody has taken is heard of here; UDP promises nothing.
                    with suppress(ConnectionError):
                        data, sender = source.recvfrom(LARGEST_BYTES)
                        if source is not near:
                            near.sendto(data, clients[source])
                            continue
                        if sender not in towards:
                            far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                            far.connect(self._target)
                            selector.register(far, selectors.EVENT_READ)
                            towards[sender], clients[far] = far, sender
                        towards[sender].send(data)
        for one in (near, *clients):
            one.close()


@contextmanager
def udp_way(target: Address, host: str) -> Iterator[UdpWay]:
    """A way from `host` to `target`, on the same port; closed at first, and ended on leaving."""
    way = UdpWay(target, host)
    try:
        yield way
    finally:
        way.close()
