"""Every allocation that lives, by what it is asked for, and when the next thing of one ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

from core.stun.address import Address, FiveTuple
from relay.turn.allocation import Allocation
from relay.turn.effects import CloseAllocation, Effect
from relay.turn.ports import RelayPorts
from relay.turn.quotas import Quotas

_STALE_DEADLINES = 256


class AllocationTable:
    """Holds allocations, their ports and their places in the quotas until they end.

    Attributes:
        by_five_tuple: the client's path -> allocation.
        by_number: what effects call it -> allocation.
        live_relays: the relayed transport addresses of all of them, as they are bound.
    """

    def __init__(self, ports: RelayPorts, quotas: Quotas) -> None:
        self.by_five_tuple: dict[FiveTuple, Allocation] = {}
        self.by_number: dict[int, Allocation] = {}
        self.live_relays: set[Address] = set()
        self._ports = ports
        self._quotas = quotas
        # (time, number), the earliest first. Each allocation has one that counts.
        self._deadlines: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.by_number)

    @property
    def deadline_count(self) -> int:
        """Deadlines that are kept, stale ones included."""
        return len(self._deadlines)

    @property
    def next_deadline_ns(self) -> int | None:
        """When `expire` has something to do."""
        return self._deadlines[0][0] if self._deadlines else None

    def add(self, allocation: Allocation) -> None:
        """It lives; its ports are taken and its place in the quotas too."""
        self.by_five_tuple[allocation.five_tuple] = allocation
        self.by_number[allocation.number] = allocation
        self.live_relays.update(allocation.relayed)
        self.schedule(allocation, allocation.expires_ns)

    def remove(self, allocation: Allocation) -> None:
        """Forget it, with its ports and its place in the quotas."""
        del self.by_five_tuple[allocation.five_tuple]
        del self.by_number[allocation.number]
        self._quotas.remove(allocation.account)
        self._release(allocation.relayed)

    def close(self, allocation: Allocation, reason: str) -> CloseAllocation:
        """It has ended."""
        self.remove(allocation)
        return CloseAllocation(allocation.number, reason)

    def drop_family(self, allocation: Allocation, ip_bytes: int) -> list[Effect]:
        """One family of two has ended; its relayed address is free again."""
        before = allocation.relayed
        effects = allocation.drop_family(ip_bytes)
        self._release(address for address in before if address not in allocation.relayed)
        return effects

    def _release(self, addresses: Iterable[Address]) -> None:
        for address in addresses:
            self.live_relays.discard(address)
            self._ports.release(address)

    def close_where(self, ends: Callable[[Allocation], bool], reason: str) -> list[Effect]:
        """End those of which `ends` is true."""
        ending = [allocation for allocation in self.by_number.values() if ends(allocation)]
        return [self.close(allocation, reason) for allocation in ending]

    def schedule(self, allocation: Allocation, end_ns: int) -> None:
        """Have `expire` look at the allocation at `end_ns`, if it would not look earlier."""
        if not allocation.deadline_ns or end_ns < allocation.deadline_ns:
            allocation.deadline_ns = end_ns
            heappush(self._deadlines, (end_ns, allocation.number))
            if len(self._deadlines) > 2 * len(self.by_number) + _STALE_DEADLINES:
                # What was closed early has left entries that would stay until its time.
                self._deadlines = [(one.deadline_ns, one.number) for one in self.by_number.values()]
                heapify(self._deadlines)

    def expire(self, now_ns: int) -> list[Effect]:
        """End what has come to its end by `now_ns`."""
        effects: list[Effect] = []
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            deadline_ns, number = heappop(self._deadlines)
            allocation = self.by_number.get(number)
            # An entry that is not the allocation's newest is left over from an earlier end.
            if allocation is not None and allocation.deadline_ns == deadline_ns:
                effects += self.expire_parts(allocation, now_ns)
        return effects

    def expire_parts(self, allocation: Allocation, now_ns: int) -> list[Effect]:
        """End what has come to its end of one allocation: parts of it, or all."""
        if allocation.expires_ns <= now_ns:
            return [self.close(allocation, "expired")]
        effects = allocation.drop_expired(now_ns)
        for ip_bytes, expires_ns in list(allocation.families.items()):
            if expires_ns <= now_ns:
                effects += self.drop_family(allocation, ip_bytes)
        allocation.deadline_ns = 0
        self.schedule(allocation, allocation.first_end_ns())
        return effects
