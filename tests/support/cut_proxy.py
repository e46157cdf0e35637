"""A way to a node that can be cut: TCP connections pass through it until `cut`, and again after
`mend`.

    with cut_proxy(node.http) as proxy:
        page.goto(proxy.url)
        proxy.cut()

Pages that are loaded through it have its address for their origin, and it knows nothing of what it
carries. Media does not go this way.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

PIECE_BYTES = 65_536


class CutProxy:
    """See the module. `url` stands for the node's."""

    def __init__(self, http: str) -> None:
        parts = urlsplit(http)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._is_cut = False
        self._passing: set[socket.socket] = set()
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """Lose all connections, and take none any more."""
        with self._lock:
            self._is_cut = True
            passing, self._passing = self._passing, set()
        for one in passing:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Take connections again."""
        with self._lock:
            self._is_cut = False

    def close(self) -> None:
        """End it."""
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                is_cut = self._is_cut
            try:
                far = None if is_cut else socket.create_connection(self._target)
            except OSError:
                far = None
            if far is None:
                near.close()
                continue
            with self._lock:
                self._passing |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(PIECE_BYTES):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._lock:
            # Each of the two directions ends here once; the first only says that it is over.
            is_last = sink not in self._passing
            self._passing.discard(source)
        if is_last:
            source.close()
            sink.close()


@contextmanager
def cut_proxy(http: str) -> Iterator[CutProxy]:
    """A proxy before the pages at `http`, ended on leaving."""
    proxy = CutProxy(http)
    try:
        yield proxy
    finally:
        proxy.close()
