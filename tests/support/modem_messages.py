"""The messages that an emulated modem gets (3GPP TS 27.005, PDU mode): its stores, what it
announces, and what it hands over.
"""

from __future__ import annotations

from tests.support import modem_pdu as pdu
from tests.support.modem_at import AtModem, Reply
from tests.support.modem_command import (
    CMS_INVALID_INDEX,
    CMS_INVALID_PARAMETER,
    CMS_NO_ACKNOWLEDGEMENT_EXPECTED,
    CMS_NOT_ALLOWED,
    CMS_NOT_SUPPORTED,
    AtError,
    Command,
)
from tests.support.modem_faults import ReportStore
from tests.support.modem_sim import Status, StoredMessage

ACKNOWLEDGE_WITHIN_S = 2.0
ALL_MESSAGES = 4
_STORES = ("SM", "ME")
_REPORT_STORE = "SR"


class MessageCommands:
    """See the module."""

    def __init__(self, modem: AtModem) -> None:
        self._modem = modem
        self._has_told_full = False
        # What was handed over and is not acknowledged yet, and which of them it is.
        self._handed: tuple[bytes, bool] | None = None
        self._handed_count = 0
        self.acknowledge_within_s = ACKNOWLEDGE_WITHIN_S
        modem.provide(
            {
                "+CMGF": self._format,
                "+CPMS": self._stores,
                "+CSMS": self._service,
                "+CNMI": self._routing,
                "+CSCA": self._service_centre,
                "+CMGL": self._list,
                "+CMGR": self._read,
                "+CMGD": self._delete,
                "+CNMA": self._acknowledge,
            },
            self._forget,
            are_messages=True,
        )

    def _forget(self) -> None:
        self._has_told_full = False
        handed, self._handed = self._handed, None
        if handed is not None:
            tpdu, is_report = handed
            self._modem.network.give_back(self._modem.number, tpdu, is_report=is_report)

    # --- settings

    def _format(self, command: Command) -> Reply:
        if command.form == "?":
            return ["+CMGF: 0"]
        if command.form == "=?":
            return ["+CMGF: (0)"]
        if command.number(0, 0) != 0:
            raise AtError(cms=CMS_NOT_SUPPORTED)
        return []

    def _stores(self, command: Command) -> Reply:
        settings = self._modem.settings
        # 3.2.2: of the three, the first is what is read and deleted.
        of_reports = self._modem.faults.report_store is ReportStore.READABLE
        read = (*_STORES, _REPORT_STORE) if of_reports else _STORES
        if command.form == "=?":
            there = (",".join(f'"{name}"' for name in names) for names in (read, _STORES, _STORES))
            return ["+CPMS: " + ",".join(f"({names})" for names in there)]
        if command.form == "?":
            used = (f'"{store}",{self._used(store)}' for store in settings.stores)
            return ["+CPMS: " + ",".join(used)]
        names = [command.text(place) for place in range(len(command.arguments))]
        if not 1 <= len(names) <= 3 or names[0] not in read or not {*names[1:]} <= {*_STORES}:
            raise AtError(cms=CMS_NOT_ALLOWED)
        if len(names) not in self._modem.faults.stores_accepted:
            raise AtError(cms=CMS_NOT_ALLOWED)
        settings.stores[: len(names)] = names
        return ["+CPMS: " + ",".join(self._used(name) for name in settings.stores)]

    def _used(self, store: str) -> str:
        return f"{len(self._modem.sim.stores[store])},{self._modem.sim.size(store)}"

    def _service(self, command: Command) -> Reply:
        settings = self._modem.settings
        if command.form == "=?":
            return ["+CSMS: (0,1)"]
        if command.form == "?":
            return [f"+CSMS: {settings.message_service},1,1,1"]
        if command.number(0) > 1:
            raise AtError(cms=CMS_NOT_SUPPORTED)
        settings.message_service = command.number(0)
        return ["+CSMS: 1,1,1"]

    def _routing(self, command: Command) -> Reply:
        settings = self._modem.settings
        if command.form == "=?":
            return [f"+CNMI: (0-2),(0-3),(0,2),({'0-2' if self._hands_reports else '0,2'}),(0,1)"]
        if command.form == "?":
            return ["+CNMI: " + ",".join(map(str, settings.message_routing))]
        limits = (2, 3, 2, 2, 1)
        if len(command.arguments) > len(limits):
            raise AtError(cms=CMS_INVALID_PARAMETER)
        # What is left out stays as it is.
        values = [command.number(place, now) for place, now in enumerate(settings.message_routing)]
        if any(value > limit for value, limit in zip(values, limits, strict=True)):
            raise AtError(cms=CMS_NOT_SUPPORTED)
        if values[3] == 1 and not self._hands_reports:
            raise AtError(cms=CMS_NOT_SUPPORTED)
        settings.message_routing = values
        self._ask_network()
        return []

    @property
    def _hands_reports(self) -> bool:
        return self._modem.faults.report_store is ReportStore.AMONG_MESSAGES

    def _service_centre(self, command: Command) -> Reply:
        sim = self._modem.sim
        if command.form == "?":
            kind = 145 if sim.smsc.startswith("+") else 129
            return [f'+CSCA: "{sim.smsc}",{kind}']
        if command.form == "=?":
            return []
        number = command.text(0)
        digits = number.removeprefix("+")
        if not digits.isdecimal() or len(digits) > pdu.SERVICE_CENTRE_DIGITS:
            raise AtError(cms=CMS_INVALID_PARAMETER)
        kind = command.number(1, 145 if number.startswith("+") else 129)
        sim.smsc = "+" + digits if kind == 145 else digits
        return []

    # --- what is stored

    def _list(self, command: Command) -> Reply:
        if command.form == "=?":
            return ["+CMGL: (0-4)"]
        wanted = command.number(0, Status.RECEIVED_UNREAD)
        if wanted > ALL_MESSAGES:
            raise AtError(cms=CMS_INVALID_PARAMETER)
        store = self._modem.sim.stores[self._modem.settings.stores[0]]
        return [
            f"+CMGL: {index},{self._shown(message)}"
            for index, message in sorted(store.items())
            if wanted in (ALL_MESSAGES, message.status)
        ]

    def _read(self, command: Command) -> Reply:
        if command.form == "=?":
            return []
        message = stored_at(self._modem, 0, command.number(0))
        return [f"+CMGR: {self._shown(message)}"]

    def _shown(self, message: StoredMessage) -> str:
        status = message.status
        if status is Status.RECEIVED_UNREAD:
            message.status = Status.RECEIVED_READ
        return f"{int(status)},{self._with_length(message.centre, message.tpdu)}"

    def _with_length(self, centre: str, tpdu: bytes) -> str:
        """TS 27.005, 3.1: nothing for <alpha>, the TPDU's length, and on its own line the PDU."""
        faults = self._modem.faults
        whole = pdu.write_service_centre(centre) + tpdu
        given = whole[: len(whole) - faults.cut_pdu_octets].hex().upper()
        return f",{len(tpdu) + faults.length_off_by}\n{given}"

    def _delete(self, command: Command) -> Reply:
        name = self._modem.settings.stores[0]
        store = self._modem.sim.stores[name]
        if command.form == "=?":
            return ["+CMGD: (" + ",".join(map(str, sorted(store))) + "),(0-4)"]
        index, which = command.number(0), command.number(1, 0)
        # 3.5.4: 1 those that are read, 2 and those sent, 3 and those unsent, 4 all.
        doomed = {
            0: [],
            1: [Status.RECEIVED_READ],
            2: [Status.RECEIVED_READ, Status.STORED_SENT],
            3: [Status.RECEIVED_READ, Status.STORED_SENT, Status.STORED_UNSENT],
            4: list(Status),
        }.get(which)
        if doomed is None:
            raise AtError(cms=CMS_INVALID_PARAMETER)
        if which == 0 and index >= self._modem.sim.size(name):
            raise AtError(cms=CMS_INVALID_INDEX)
        for place, message in list(store.items()):
            if message.status in doomed or (which == 0 and place == index):
                del store[place]
        if not self._modem.sim.is_full(name):
            self._has_told_full = False
        self._ask_network()
        return []

    # --- what comes

    def take(self, tpdu: bytes, *, is_report: bool) -> bool:
        """A message or report from the network; False where it can't be taken now."""
        mode, for_messages, _, for_reports, _ = self._modem.settings.message_routing
        if not mode:
            for_messages = for_reports = 0
        if is_report:
            if for_reports == 1:
                return self._hand_over("+CDS: ", tpdu, is_report=True)
            store = None if self._hands_reports else _REPORT_STORE
            return for_reports == 0 or self._store(tpdu, "+CDSI", store)
        # Only class 3 goes to the line under 3, and nobody here sends any.
        if for_messages != 2:
            if self._modem.faults.receive_twice:
                self._announce("+CMT: ", tpdu)
            return self._store(tpdu, "+CMTI" if for_messages else None)
        if self._modem.faults.receive_twice and not self._store(tpdu, "+CMTI"):
            return False
        return self._hand_over("+CMT: ", tpdu, is_report=False)

    def _store(self, tpdu: bytes, announcement: str | None, store: str | None = None) -> bool:
        sim, name = self._modem.sim, store or self._modem.settings.stores[2]
        index = sim.put(name, StoredMessage(Status.RECEIVED_UNREAD, tpdu, sim.smsc))
        if index is None:
            if not self._has_told_full:
                self._has_told_full = True
                self._tell(f'^SMMEMFULL: "{name}"')
            return False
        if announcement:
            self._tell(f'{announcement}: "{name}",{index}')
        return True

    def _hand_over(self, announcement: str, tpdu: bytes, *, is_report: bool) -> bool:
        """3.4.1: to the line; under +CSMS=1 the network is answered when the line has answered."""
        if self._handed is not None:
            return False
        self._announce(announcement, tpdu)
        if self._modem.settings.message_service == 1:
            self._handed = (tpdu, is_report)
            self._handed_count += 1
            count = self._handed_count
            self._modem.later(self.acknowledge_within_s, lambda: self._give_up(count))
        return True

    def _announce(self, announcement: str, tpdu: bytes) -> None:
        described = self._with_length(self._modem.sim.smsc, tpdu)
        if announcement == "+CDS: ":
            # A report has no <alpha>.
            described = described[1:]
        self._tell(announcement + described)

    def _tell(self, line: str) -> None:
        if not self._modem.faults.lose_unsolicited:
            self._modem.unsolicited(line)

    def _give_up(self, count: int) -> None:
        """3.4.4: the line does not acknowledge, so nothing is handed to it any more."""
        if self._handed is None or count != self._handed_count:
            return
        self._stop_handing_over()

    def _stop_handing_over(self) -> None:
        if not self._modem.faults.hands_over_again:
            routing = self._modem.settings.message_routing
            routing[1] = routing[3] = 0
        assert self._handed is not None
        tpdu, is_report = self._handed
        self._handed = None
        self._modem.network.give_back(self._modem.number, tpdu, is_report=is_report)

    def _acknowledge(self, command: Command) -> Reply:
        if command.form == "=?":
            return ["+CNMA: (0-2)"]
        if self._handed is None:
            raise AtError(cms=CMS_NO_ACKNOWLEDGEMENT_EXPECTED)
        how = command.number(0, 0)
        if how not in (0, 1, 2) or len(command.arguments) > 1:
            raise AtError(cms=CMS_INVALID_PARAMETER)
        if how == 2:
            self._stop_handing_over()
            return []
        self._handed = None
        self._ask_network()
        return []

    def _ask_network(self) -> None:
        if self._modem.is_reachable:
            self._modem.network.try_again(self._modem.number)


def stored_at(modem: AtModem, place: int, index: int) -> StoredMessage:
    """What stands there in the store for reading (0) or for sending (1)."""
    store = modem.sim.stores[modem.settings.stores[place]]
    if index not in store:
        raise AtError(cms=CMS_INVALID_INDEX)
    return store[index]
