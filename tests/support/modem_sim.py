"""A virtual SIM, and the messages that it and the modem beside it hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

PIN_TRIES = 3
PUK_TRIES = 10
DEFAULT_PUK = "12345678"


class Status(IntEnum):
    """TS 27.005, 3.1: what a stored message is."""

    RECEIVED_UNREAD = 0
    RECEIVED_READ = 1
    STORED_UNSENT = 2
    STORED_SENT = 3


class Lock(IntEnum):
    """What the SIM waits for."""

    OPEN = 0
    PIN = 1
    PUK = 2
    BLOCKED = 3


@dataclass
class StoredMessage:
    """A message at its place. `centre` is the service centre's number."""

    status: Status
    tpdu: bytes
    centre: str


@dataclass
class SimCard:
    """See the module. `slots` are what its own store holds, `slots_me` what each of the modem's
    own does: ME, and SR for reports.

    `pin_entries` are the PINs and PUKs that have been entered, in their order.
    """

    number: str
    pin: str | None = None
    slots: int = 20
    slots_me: int = 50
    smsc: str = "+79168999100"
    imsi: str = "250017912345678"
    iccid: str = "8970101000000012345"
    puk: str = DEFAULT_PUK
    pin_tries: int = PIN_TRIES
    puk_tries: int = PUK_TRIES
    pin_entries: list[str] = field(default_factory=list)
    stores: dict[str, dict[int, StoredMessage]] = field(
        default_factory=lambda: {"SM": {}, "ME": {}, "SR": {}}
    )
    lock: Lock = Lock.OPEN

    def __post_init__(self) -> None:
        self.power_on()

    def power_on(self) -> None:
        """Lock it again, as it is whenever it gets its current anew."""
        if self.puk_tries == 0:
            self.lock = Lock.BLOCKED
        elif self.pin_tries == 0:
            self.lock = Lock.PUK
        else:
            self.lock = Lock.OPEN if self.pin is None else Lock.PIN

    def enter_pin(self, pin: str) -> bool:
        """Whether that was right. After three wrong ones it wants the PUK."""
        self.pin_entries.append(pin)
        if self.lock is not Lock.PIN:
            return False
        if pin == self.pin:
            self.pin_tries, self.lock = PIN_TRIES, Lock.OPEN
            return True
        self.pin_tries -= 1
        if self.pin_tries == 0:
            self.lock = Lock.PUK
        return False

    def enter_puk(self, puk: str, new_pin: str) -> bool:
        """Whether that was right. After ten wrong ones it is blocked for good."""
        self.pin_entries.append(puk)
        if self.lock is not Lock.PUK:
            return False
        if puk == self.puk:
            self.pin, self.pin_tries, self.puk_tries = new_pin, PIN_TRIES, PUK_TRIES
            self.lock = Lock.OPEN
            return True
        self.puk_tries -= 1
        if self.puk_tries == 0:
            self.lock = Lock.BLOCKED
        return False

    def size(self, store: str) -> int:
        """How many messages that store holds at most."""
        return self.slots if store == "SM" else self.slots_me

    def is_full(self, store: str) -> bool:
        """Whether nothing more fits."""
        return len(self.stores[store]) >= self.size(store)

    def put(self, store: str, message: StoredMessage) -> int | None:
        """Its index, the lowest that is free; None where the store is full."""
        if self.is_full(store):
            return None
        index = next(index for index in range(self.size(store)) if index not in self.stores[store])
        self.stores[store][index] = message
        return index
