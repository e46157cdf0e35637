"""The calls that the node has in memory: those that live, and those that have ended and are not
charged and stored yet. And whom they keep busy."""

from __future__ import annotations

from collections import Counter

from billing.ledger import LmdbLedger
from core.errors import SignalingError
from relay.signaling.call_records import CallInfo, CallRecords, Page, page_of_untrusted
from relay.signaling.living_call import LivingCall


class CallTable:
    """A node's calls by their ids.

    Args:
        records: where those are found that are over.

    Attributes:
        calls: those that live.
        ending: those that are over, and to be charged and stored.
    """

    def __init__(self, records: CallRecords, ledger: LmdbLedger) -> None:
        self._records = records
        self._ledger = ledger
        self.calls: dict[str, LivingCall] = {}
        self.ending: dict[str, LivingCall] = {}
        self._occupied: dict[int, str] = {}
        """By account, the call that makes it busy."""
        self._made: Counter[int] = Counter()
        """By account, how many calls of its making live."""

    def __len__(self) -> int:
        return len(self.calls) + len(self.ending)

    # ------------------------------------------------------------ coming and going

    def add(self, info: CallInfo) -> LivingCall:
        """A call lives from now on."""
        call = self.calls[info.id] = LivingCall(info)
        self._made[info.caller] += 1
        return call

    def drop(self, call_id: str) -> LivingCall:
        """A call lives no more, and keeps nobody busy."""
        call = self.calls.pop(call_id)
        self._made[call.info.caller] -= 1
        if not self._made[call.info.caller]:
            del self._made[call.info.caller]
        for account in _accounts_of(call.info):
            if self._occupied.get(account) == call_id:
                del self._occupied[account]
        return call

    def end(self, call_id: str) -> None:
        """A call is over, and to be charged and stored."""
        self.ending[call_id] = self.drop(call_id)

    def made_by(self, account: int) -> int:
        """How many calls of an account's making live."""
        return self._made[account]

    # ------------------------------------------------------------ who is busy

    def occupy(self, call: LivingCall) -> None:
        """Have a call make its two sides busy."""
        for account in _accounts_of(call.info):
            self._occupied[account] = call.info.id

    def is_free(self, account: int | None, for_call: str = "") -> bool:
        """Whether no call but `for_call` makes an account busy."""
        return account is None or self._occupied.get(account, for_call) == for_call

    # ------------------------------------------------------------ looking

    def find(self, call_id: str) -> CallInfo | None:
        """A call, also one that is over."""
        call = self.in_memory(call_id)
        return self._records.find(call_id) if call is None else call.info

    def in_memory(self, call_id: str) -> LivingCall | None:
        """A call that is not charged and stored to its end."""
        return self.calls.get(call_id) or self.ending.get(call_id)

    def found_untrusted(self, call_id: str) -> CallInfo:
        """As `find`.

        Raises:
            SignalingError: ``no-call``.
        """
        info = self.find(call_id)
        if info is None:
            raise SignalingError("no-call", "there is no such call")
        return info

    def living_untrusted(self, call_id: str) -> LivingCall:
        """A call that lives.

        Raises:
            SignalingError: ``no-call``; ``wrong-state``: it is over.
        """
        call = self.calls.get(call_id)
        if call is None:
            self.found_untrusted(call_id)
            raise SignalingError("wrong-state", "the call is over")
        return call

    def living(self, account: int | None = None) -> list[CallInfo]:
        """The calls that are not over, of an account or of all, the newest first."""
        owners = None if account is None else set(self._ledger.lineage(account))
        found = [
            call.info
            for call in self.calls.values()
            if owners is None or not owners.isdisjoint((call.info.caller, call.info.callee))
        ]
        return sorted(found, key=lambda info: info.created_ns, reverse=True)

    def are_one(self, account: int, other: int) -> bool:
        """Whether two accounts are the same one, or were merged since."""
        return self._ledger.heir(account) == self._ledger.heir(other)

    def page_untrusted(self, account: int, before: str | None, limit: int) -> Page:
        """The calls of an account, and of those that it has taken over, the newest first; see
        `CallRecords.page_untrusted`."""
        page = self._records.page_untrusted(self._ledger.lineage(account), before, limit)
        return page._replace(calls=[self._latest(info) for info in page.calls])

    def living_page_untrusted(self, before: str | None, limit: int) -> Page:
        """All calls that are not over, as `page_untrusted` has an account's."""
        return page_of_untrusted(self.living(), before, limit)

    def _latest(self, info: CallInfo) -> CallInfo:
        call = self.in_memory(info.id)
        return info if call is None else call.info


def _accounts_of(info: CallInfo) -> list[int]:
    return [account for account in (info.caller, info.callee) if account is not None]
