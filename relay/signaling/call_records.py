"""What is kept of calls: who called whom, when, and what it cost. No session description, no
candidate, no secret.

A call that lives is in one table and one that is over in another, so that a start reads those that
live alone. Beside them stands each account's list of its calls, by time. What is older than
`KEEP_S` goes when new calls come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from billing.money import format_amount
from billing.tables import CALL_LISTS, CALLS, LIVING_CALLS
from core.errors import SignalingError
from core.store import Store
from core.tables import Tables, Writing
from core.units import DAY_S, NS_PER_S
from relay.signaling.call_states import Status
from relay.signaling.descriptions import Kind

KEEP_S: Final = 400 * DAY_S
LIVING_MAXIMUM: Final = 10_000
PAGE_MAXIMUM: Final = 1_000
_PRUNED_AT_A_TIME: Final = 4
"""More than one new call brings, so that none is kept for ever."""
_ALL: Final = 0
"""No account has this number: its list is that of all calls."""
_PLACE = re.compile(r"([0-9a-f]{16})-([A-Z2-7]{8})")


class CallInfo(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A call as its hub, its pages and its operator see it.

    Attributes:
        caller, callee: account numbers; the caller pays. The callee's is None where nobody had the
            address when the call was made, and where none was named.
        from_address, to_address: as they are written; None for whoever has the link.
        reason: why it is over; empty while it is not.
        relayed: whether its media may flow through the node's relays alone.
        price_second: micro-J, at present.
        created_ns, rung_ns, answered_ns, started_ns, ended_ns: on the ledger's clock, 0 for never.
            `started_ns`: both sides were connected.
        seconds, cost: what was charged until now; micro-J.
        effect: the id under which it was asked for, see `CallManager.create_once`; empty for none.
        expires_ns: when its link leads nowhere any more, if nobody has come; 0 for the usual time.
        rung_address: where in Telegram it has rung for the callee; empty for nowhere.
        shown_address: where in Telegram the callee was given its link before it was answered;
            empty for nowhere.
    """

    id: str
    caller: int
    callee: int | None
    from_address: str
    to_address: str | None
    kind: Kind
    relayed: bool
    price_second: int
    created_ns: int
    status: Status = Status.PENDING
    reason: str = ""
    rung_ns: int = 0
    answered_ns: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    seconds: int = 0
    cost: int = 0
    effect: str = ""
    expires_ns: int = 0
    rung_address: str = ""
    shown_address: str = ""

    @property
    def duration_seconds(self) -> int:
        """For how long it was charged."""
        return self.seconds

    @property
    def cost_coins(self) -> str:
        """What it cost, in Ɉ as they are written."""
        return format_amount(self.cost)


class Page(NamedTuple):
    """A part of a list of calls, the newest first; `next` is what the following one is `before`,
    None behind the last."""

    calls: list[CallInfo]
    next: str | None


OnStored = Callable[[Writing, CallInfo, CallInfo], None]
"""Is told what a call was and what it is now, in the transaction that stores it; it may be told
again, since a transaction that was aborted is done anew."""

_decoder = msgspec.msgpack.Decoder(CallInfo)


class CallRecords:
    """The records of calls in the ledger's environment; `on_stored` is told of what changes."""

    def __init__(self, store: Store, on_stored: OnStored | None = None) -> None:
        self._store = store
        self._on_stored = on_stored

    async def create(self, info: CallInfo) -> bool:
        """Keep a new call; whether its id was free. What is too old goes.

        Raises:
            OperationError: it can't be stored.
        """
        return await self._store.write(lambda writing: self.put_new(writing, info))

    def put_new(self, writing: Writing, info: CallInfo) -> bool:
        """As `create`, in a transaction that writes other things as well."""
        if _find(writing, info.id) is not None:
            return False
        _prune(writing, info.created_ns - KEEP_S * NS_PER_S)
        _put(writing, LIVING_CALLS, info)
        for account in _listed_by(info):
            writing.put(CALL_LISTS, _list_key(account, info), b"")
        return True

    async def update(self, infos: Sequence[CallInfo]) -> None:
        """Keep calls that live as they are now.

        Raises:
            OperationError: they can't be stored.
        """

        def write(writing: Writing) -> None:
            for info in infos:
                self._tell(writing, info)
                _put(writing, LIVING_CALLS, info)

        await self._store.write(write)

    async def finish(self, info: CallInfo) -> None:
        """Keep a call that is over.

        Raises:
            OperationError: it can't be stored.
        """
        assert info.status.is_over

        def write(writing: Writing) -> None:
            self._tell(writing, info)
            writing.delete(LIVING_CALLS, info.id.encode())
            _put(writing, CALLS, info)

        await self._store.write(write)

    def _tell(self, writing: Writing, info: CallInfo) -> None:
        before = _find(writing, info.id)
        if self._on_stored is not None and before is not None:
            self._on_stored(writing, before, info)

    def find(self, call_id: str) -> CallInfo | None:
        """What is kept of a call."""
        with self._store.read() as tables:
            return _find(tables, call_id)

    def living(self) -> list[CallInfo]:
        """The calls that were not over when they were last stored."""
        with self._store.read() as tables:
            found = tables.items(LIVING_CALLS, limit=LIVING_MAXIMUM)
        return [_decoder.decode(value) for _, value in found]

    def page_untrusted(self, accounts: Sequence[int], before: str | None, limit: int) -> Page:
        """The calls of accounts that are one by now, the newest first, as they are stored.

        Args:
            before: the `next` of the page before.
            limit: from 1 to `PAGE_MAXIMUM`.

        Raises:
            SignalingError: `before` is nothing that a page had.
        """
        assert 0 < limit <= PAGE_MAXIMUM
        stop = None if before is None else _place_untrusted(before)
        calls: list[CallInfo] = []
        places: set[bytes] = set()
        with self._store.read() as tables:
            for account in accounts:
                start = account.to_bytes(4, "big")
                end = (account + 1).to_bytes(4, "big") if stop is None else start + stop
                found = tables.items_back(CALL_LISTS, end, limit)
                # A call between two of them stands in both lists.
                places.update(key[4:] for key, _ in found if key.startswith(start))
            shown = sorted(places, reverse=True)[:limit]
            for place in shown:
                info = _find(tables, f"CALL-{place[8:].decode()}")
                assert info is not None, "a call and its places in lists come and go together"
                calls.append(info)
        if len(shown) < limit:
            return Page(calls, None)
        return Page(calls, _name_place(shown[-1]))


def page_of_untrusted(infos: Iterable[CallInfo], before: str | None, limit: int) -> Page:
    """Calls, the newest first.

    Args:
        before: the `next` of the page before.

    Raises:
        SignalingError: `before` is nothing that a page had.
    """
    places = {_place(info): info for info in infos}
    end = None if before is None else _place_untrusted(before)
    keys = sorted((one for one in places if end is None or one < end), reverse=True)
    shown = keys[:limit]
    following = _name_place(shown[-1]) if len(keys) > limit else None
    return Page([places[one] for one in shown], following)


def unavailable() -> SignalingError:
    """What is told where something of a call can't be stored."""
    return SignalingError("unavailable", "the node can't do this now; its log may tell why")


def _find(tables: Tables, call_id: str) -> CallInfo | None:
    key = call_id.encode()
    value = tables.get(LIVING_CALLS, key) or tables.get(CALLS, key)
    return None if value is None else _decoder.decode(value)


def _put(writing: Writing, table: str, info: CallInfo) -> None:
    writing.put(table, info.id.encode(), msgspec.msgpack.encode(info))


def _listed_by(info: CallInfo) -> list[int]:
    accounts = [_ALL, info.caller]
    return accounts if info.callee is None else [*accounts, info.callee]


def _list_key(account: int, info: CallInfo) -> bytes:
    return account.to_bytes(4, "big") + _place(info)


def _place(info: CallInfo) -> bytes:
    """Where a call stands among others: older ones come before it."""
    return info.created_ns.to_bytes(8, "big") + info.id.removeprefix("CALL-").encode()


def _name_place(place: bytes) -> str:
    return f"{place[:8].hex()}-{place[8:].decode()}"


def _place_untrusted(name: str) -> bytes:
    match = _PLACE.fullmatch(name)
    if match is None:
        raise SignalingError("malformed", "there is no such place in the list of calls")
    return bytes.fromhex(match[1]) + match[2].encode()


def _prune(writing: Writing, before_ns: int) -> None:
    """Forget the oldest calls, those that were made before then."""
    stop = _ALL.to_bytes(4, "big") + max(0, before_ns).to_bytes(8, "big")
    for key, _ in writing.items(CALL_LISTS, stop=stop, limit=_PRUNED_AT_A_TIME):
        value = writing.get(CALLS, b"CALL-" + key[12:])
        if value is None:
            # A call of so many days that still goes on.
            continue
        info = _decoder.decode(value)
        writing.delete(CALLS, info.id.encode())
        for account in _listed_by(info):
            writing.delete(CALL_LISTS, _list_key(account, info))
