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
        self._used: dict[bytes, set[int]] = {ip: set() for ip in addresses}

    def __len__(self) -> int:
        return sum(len(used) for used in self._used.values())

    def has_family(self, ip_bytes: int) -> bool:
        """Whether there is an address of 4 or 16 bytes to relay from."""
        return bool(self._addresses[ip_bytes])

    def take(
        self, ip_bytes: int, preferred: bytes, *, even: bool = False, pair: bool = False
    ) -> Address | None:
        """A free port, marked as used; None when there is none on any address.

        Args:
            ip_bytes: the length of the IP address, 4 or 16.
            preferred: the IP address that the client talks to, used where it can be; the others
                have their turns.
            even: an even port.
            pair: an even one with the next higher port free, which is marked as used as well.
        """
        addresses = self._addresses[ip_bytes]
        if preferred in addresses:
            start = addresses.index(preferred)
        else:
            start = self._turn[ip_bytes] = (self._turn[ip_bytes] + 1) % len(addresses)
        for ip in (*addresses[start:], *addresses[:start]):
            port = self._take_port(ip, even or pair, pair)
            if port is not None:
                return Address(ip, port)
        return None

    def release(self, address: Address) -> None:
        """It is free again."""
        self._used[address.ip].discard(address.port)

    def _take_port(self, ip: bytes, even: bool, pair: bool) -> int | None:
        used = self._used[ip]
        first, last = self._first, self._last
        if len(used) > last - first:
            return None
        step = 1
        if even:
            first += first & 1
            step = 2
        if pair:
            last -= 1
        count = (last - first) // step + 1
        if count <= 0:
            return None
        offset = 0
        for _ in range(_RANDOM_TRIES):
            offset = int.from_bytes(self._random(8), "big") % count
            port = first + step * offset
            if port not in used and not (pair and port + 1 in used):
                break
        else:
            # Crowded: the next free one after a random place.
            for distance in range(count):
                port = first + step * ((offset + distance) % count)
                if port not in used and not (pair and port + 1 in used):
                    break
            else:
                return None
        used.add(port)
        if pair:
            used.add(port + 1)
        return port
