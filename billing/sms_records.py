"""What is kept of SMS: a record of each, and what is known of each number; never a text.

A record of an SMS that has come is stored in the transaction of its effect, under its message's id:
who asks again is answered from it. Functions that are given a `Writing` belong to the writer's
thread; they leave no memory behind, so that a transaction which is undone leaves nothing.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, Literal

import msgspec

from billing.sms_commands import Language
from billing.sms_texts import Values
from billing.tables import SMS_NUMBERS, SMS_PLACES, SMS_RECIPIENTS, SMS_RECORDS
from core.tables import Tables, Writing
from core.units import DAY_S

KEEP_S: Final = 400 * DAY_S
RECORDS_MAXIMUM: Final = 20_000_000
"""Records that are kept; the oldest go first."""
PRUNED_AT_ONCE: Final = 1_000
NUMBERS_MAXIMUM: Final = 1_000_000
RECIPIENTS_MAXIMUM: Final = 1_000_000
"""What is kept of numbers, and of whom they have sent money to, while it is not idle."""
IDLE_DAYS: Final = (KEEP_S // DAY_S, 100, 25, 6, 2)
"""What is idle for longer than the first is forgotten; for as long as there is too much, what is
idle for longer than the next."""
BUDGET: Final = b"budget"
"""A key among numbers, which is none: what was spent."""

Status = Literal[
    "handled", "waiting", "sent", "delivered", "undelivered", "failed", "unknown", "expired"
]
_OPEN: Final = ("waiting", "expired")
"""Nobody has told of it yet. It can still have been sent: a bridge may have held what expired."""
_REPLACED_BY: Final[dict[Status, tuple[Status, ...]]] = {
    "expired": ("waiting",),
    "sent": _OPEN,
    "unknown": (*_OPEN, "sent"),
    "failed": (*_OPEN, "sent", "unknown"),
    "delivered": (*_OPEN, "sent", "unknown"),
    "undelivered": (*_OPEN, "sent", "unknown"),
}
"""What a status says something newer than, whenever it comes."""
_KEY_BYTES: Final = 8


class SmsRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """An SMS, without its text.

    Attributes:
        id: of the message, or of the event that is to send it.
        time_ms: since 1970.
        incoming: whether it has come.
        phone: the other side: a number, or the name that a carrier has let somebody write.
        bridge: it came, or goes, by.
        action: what it asked for, or why it is sent.
        result: the answer's name, see `billing.sms_texts.TEXTS`; of one without an answer, why.
        values: what stands in that answer; of a code that was told, whose it is.
        language: of the answer.
        cost: micro-J that were charged.
        parts: of the answer, or of the SMS that is sent.
        status: how far that is.
    """

    id: bytes
    time_ms: int
    incoming: bool
    phone: str
    bridge: str
    action: str
    result: str
    values: Values = {}
    language: Language = "en"
    cost: int = 0
    parts: int = 0
    status: Status = "handled"


class Number(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What is known of a number. Days are counted from 1970, in UTC.

    Attributes:
        bridge: it has written through last.
        opted_out: it wants no SMS.
        day: which the next ones are of.
        parts: SMS that it was sent.
        sent: micro-J that it has sent.
        wrong_codes, codes: it has tried; it was given.
        helped_ms: when it was told what commands there are.
        pin_hash: its PIN's, empty for none; `pin_tries` were wrong since it was right.
    """

    bridge: str = ""
    opted_out: bool = False
    day: int = 0
    parts: int = 0
    sent: int = 0
    wrong_codes: int = 0
    codes: int = 0
    helped_ms: int = 0
    pin_hash: str = ""
    pin_tries: int = 0


_records = msgspec.msgpack.Decoder(SmsRecord)
_numbers = msgspec.msgpack.Decoder(Number)
_encode = msgspec.msgpack.encode


def message_identity(bridge: str, message_id: str) -> bytes:
    """The id of what was received under a bridge's message id."""
    content = f"{bridge}\0{message_id}".encode("utf-8", "surrogatepass")
    return sha256(b"sms\0" + content).digest()[:16]


def find_record(tables: Tables, identity: bytes) -> SmsRecord | None:
    """The record of an id."""
    place = tables.get(SMS_PLACES, identity)
    raw = None if place is None else tables.get(SMS_RECORDS, place)
    return None if raw is None else _records.decode(raw)


def add_record(writing: Writing, record: SmsRecord) -> None:
    """Keep a new record."""
    place = _next_place(writing)
    writing.put(SMS_PLACES, record.id, place)
    writing.put(SMS_RECORDS, place, _encode(record))


def set_status(writing: Writing, identity: bytes, status: Status) -> None:
    """How far an SMS is that was sent; what says nothing newer changes nothing."""
    place = writing.get(SMS_PLACES, identity)
    raw = None if place is None else writing.get(SMS_RECORDS, place)
    if place is None or raw is None:
        return
    record = _records.decode(raw)
    if not record.incoming and record.status in _REPLACED_BY[status]:
        changed = msgspec.structs.replace(record, status=status)
        writing.put(SMS_RECORDS, place, _encode(changed))


def list_records(tables: Tables, before: int | None, limit: int) -> list[tuple[int, SmsRecord]]:
    """Places and records, the last first, from below the place `before` on."""
    key = None if before is None else before.to_bytes(_KEY_BYTES, "big")
    return [
        (int.from_bytes(place, "big"), _records.decode(raw))
        for place, raw in tables.items_back(SMS_RECORDS, key, limit)
    ]


def prune_records(writing: Writing, now_ms: int) -> int:
    """Forget some of the records that are too old or too many; how many those were."""
    surplus = writing.count(SMS_RECORDS) - RECORDS_MAXIMUM
    pruned = 0
    for place, raw in writing.items(SMS_RECORDS, limit=PRUNED_AT_ONCE):
        record = _records.decode(raw)
        if pruned >= surplus and record.time_ms >= now_ms - KEEP_S * 1000:
            break
        writing.delete(SMS_RECORDS, place)
        writing.delete(SMS_PLACES, record.id)
        pruned += 1
    return pruned


def read_number(tables: Tables, phone: str, day: int) -> Number:
    """What is known of a number, on a day."""
    raw = tables.get(SMS_NUMBERS, phone.encode())
    number = Number() if raw is None else _numbers.decode(raw)
    if number.day < day:
        number = msgspec.structs.replace(number, day=day, parts=0, sent=0, wrong_codes=0, codes=0)
    return number


def store_number(writing: Writing, phone: str, number: Number) -> None:
    """Keep what is known of a number."""
    writing.put(SMS_NUMBERS, phone.encode(), _encode(number))


def set_opted_out(writing: Writing, phone: str, opted_out: bool) -> None:
    """Somebody wants no SMS any more, or wants them again."""
    number = read_number(writing, phone, 0)
    store_number(writing, phone, msgspec.structs.replace(number, opted_out=opted_out))


def has_sent_to(tables: Tables, phone: str, recipient: str) -> bool:
    """Whether a number has sent money to another one before."""
    return tables.get(SMS_RECIPIENTS, _pair(phone, recipient)) is not None


def note_recipient(writing: Writing, phone: str, recipient: str, day: int) -> None:
    """A number has sent money to another one."""
    writing.put(SMS_RECIPIENTS, _pair(phone, recipient), day.to_bytes(4, "big"))


def prune_numbers(
    writing: Writing, start: bytes, limit: int, *, day: int, idle_days: int
) -> bytes | None:
    """Forget those of `limit` numbers from the key `start` on of which nothing was heard for more
    than `idle_days`; the key to go on from, None at the end. Kept are those that want no SMS, and,
    for the longest time, PINs; what limits a number is of its last day."""

    def is_idle(number: Number) -> bool:
        kept_days = IDLE_DAYS[0] if number.pin_hash else idle_days
        return not number.opted_out and number.day < day - kept_days

    found = writing.items(SMS_NUMBERS, start, limit=limit)
    idle = [key for key, raw in found if key != BUDGET and is_idle(_numbers.decode(raw))]
    writing.delete_many(SMS_NUMBERS, idle)
    return found[-1][0] + b"\0" if len(found) == limit else None


def prune_recipients(
    writing: Writing, start: bytes, limit: int, *, day: int, idle_days: int
) -> bytes | None:
    """Forget, as `prune_numbers`, to whom nothing was sent for so long: a SEND to them is one to a
    new recipient then, and confirmed."""
    found = writing.items(SMS_RECIPIENTS, start, limit=limit)
    idle = [key for key, raw in found if int.from_bytes(raw, "big") < day - idle_days]
    writing.delete_many(SMS_RECIPIENTS, idle)
    return found[-1][0] + b"\0" if len(found) == limit else None


def _pair(phone: str, recipient: str) -> bytes:
    return f"{phone} {recipient}".encode()


def _next_place(tables: Tables) -> bytes:
    last = tables.items_back(SMS_RECORDS, limit=1)
    number = int.from_bytes(last[0][0], "big") if last else 0
    return (number + 1).to_bytes(_KEY_BYTES, "big")
