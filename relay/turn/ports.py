"""Which relayed transport addresses are in use, and which one comes next.

A port that could be guessed would let a stranger send into a call before it begins (RFC 8656
section 7.2), so ports come from the operating system's random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.stun.address import Address

_RANDOM_TRIES = 16


class RelayPorts:
    """Chooses free ports.

    Args:
        addresses: packed IP addresses to relay from.
        ports: the first and the last port.
        random: gives as many random bytes as asked for.
    """

    def __init__(
        self,
        addresses: Sequence[bytes],
        ports: tuple[int, int],
        random: Callable[[int], bytes],
    ) -> None:
        self._addresses = {size: [ip for ip in addresses if len(ip) == size] for size in (4, 16)}
        self._first, self._last = ports
        self._random = random
        self._turn = {4: 0, 16: 0}
        self._used: set[Address] = set()

    def __len__(self) -> int:
        return len(self._used)

    def has_family(self, ip_bytes: int) -> bool:
        """Whether there is an address of 4 or 16 bytes to relay from."""
        return bool(self._addresses[ip_bytes])

    def choose_ip(self, ip_bytes: int, preferred: bytes) -> bytes:
        """The address to relay from: the one that the client talks to, or each in its turn."""
        addresses = self._addresses[ip_bytes]
        if preferred in addresses:
            return preferred
        self._turn[ip_bytes] = (self._turn[ip_bytes] + 1) % len(addresses)
        return addresses[self._turn[ip_bytes]]

    def take(self, ip: bytes, *, even: bool = False, pair: bool = False) -> Address | None:
        """A free port of `ip`, marked as used; None when there is none.

        Args:
            even: an even one.
            pair: with the next higher port free, which is marked as used as well.
        """
        first, last = self._first, self._last
        step = 1
        if even or pair:
            first += first & 1
            step = 2
        if pair:
            last -= 1
        count = (last - first) // step + 1
        if count <= 0:
            return None
        offset = int.from_bytes(self._random(8), "big")
        for _ in range(_RANDOM_TRIES):
            found = self._take_port(ip, first + step * (offset % count), pair)
            if found is not None:
                return found
            offset = int.from_bytes(self._random(8), "big")
        # Crowded: take the next free one after a random place.
        for distance in range(count):
            found = self._take_port(ip, first + step * ((offset + distance) % count), pair)
            if found is not None:
                return found
        return None

    def _take_port(self, ip: bytes, port: int, pair: bool) -> Address | None:
        address = Address(ip, port)
        if address in self._used:
            return None
        if pair:
            sibling = Address(ip, port + 1)
            if sibling in self._used:
                return None
            self._used.add(sibling)
        self._used.add(address)
        return address

    def release(self, address: Address) -> None:
        """It is free again."""
        self._used.discard(address)
