"""The messages that an emulated modem sends, or keeps in order to (3GPP TS 27.005, 4.3 to 4.7).

What it is given is read to the last bit: all that a network would refuse, or would have to guess,
is `+CMS ERROR: 304`, and `modem.refused` says why.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.support import modem_pdu as pdu
from tests.support.modem_at import AtModem, Reply
from tests.support.modem_command import (
    CMS_INVALID_PARAMETER,
    CMS_MEMORY_FULL,
    CMS_NO_NETWORK_SERVICE,
    CMS_NOT_ALLOWED,
    CMS_NOT_SUPPORTED,
    CMS_SERVICE_CENTRE_UNKNOWN,
    AtError,
    Command,
)
from tests.support.modem_faults import Reboot, Refuse, Silence, SubmitFault, Unplug
from tests.support.modem_messages import stored_at
from tests.support.modem_sim import Status, StoredMessage


class SendingCommands:
    """See the module."""

    def __init__(self, modem: AtModem) -> None:
        self._modem = modem
        self._reference = 0
        modem.provide(
            {
                "+CMGS": self._send,
                "+CMGW": self._write,
                "+CMSS": self._send_stored,
                "+CMMS": lambda command: ["+CMMS: (0-2)"] if command.form == "=?" else [],
            },
            are_messages=True,
        )

    def _prompt(self, octets: int, use: Callable[[str, bytes], None]) -> None:
        """Ask for a PDU whose TPDU has so many octets; `use` gets the service centre and it."""

        def take(data: bytes | None) -> None:
            if data is None:
                self._modem.finish([])
                return
            try:
                use(*pdu.read_pdu(data, octets))
            except pdu.PduRefused as refused:
                self._modem.refused.append(str(refused))
                self._modem.finish([], AtError(cms=refused.cms_error))

        self._modem.prompt(take)

    def _send(self, command: Command) -> Reply:
        if command.form == "=?":
            return []
        self._prompt(
            command.number(0),
            lambda centre, tpdu: self._submit(centre, pdu.read_submit(tpdu), "+CMGS"),
        )
        return None

    def _submit(self, centre: str, submit: pdu.Submit, name: str) -> None:
        modem = self._modem
        fault: SubmitFault | None = None
        if modem.faults.at_submit:
            fault = modem.faults.at_submit.popleft()
        error: AtError | None = None
        if not (centre or modem.sim.smsc):
            error = AtError(cms=CMS_SERVICE_CENTRE_UNKNOWN)
        elif modem.registration not in (1, 5):
            error = AtError(cms=CMS_NO_NETWORK_SERVICE)

        def done() -> None:
            if error is not None:
                modem.finish([], error)
                return
            reference = self._reference
            if fault is None or fault.sent:
                self._reference = (reference + 1) % 256
                modem.network.submit(modem.number, submit, reference)
            if isinstance(fault, Refuse):
                modem.finish([], AtError(cms=fault.cms_error))
            elif isinstance(fault, Reboot):
                modem.reboot()
            elif isinstance(fault, Unplug):
                modem.unplug()
            elif isinstance(fault, Silence):
                modem.finish_silently()
            else:
                modem.finish([f"{name}: {reference}"])

        modem.later(modem.sending_s, done)

    def _write(self, command: Command) -> Reply:
        if command.form == "=?":
            return []
        status = command.number(1, Status.STORED_UNSENT)
        if status > max(Status):
            raise AtError(cms=CMS_INVALID_PARAMETER)

        def use(centre: str, tpdu: bytes) -> None:
            if status in (Status.STORED_UNSENT, Status.STORED_SENT):
                pdu.read_submit(tpdu)
            message = StoredMessage(Status(status), tpdu, centre)
            index = self._modem.sim.put(self._modem.settings.stores[1], message)
            if index is None:
                self._modem.finish([], AtError(cms=CMS_MEMORY_FULL))
            else:
                self._modem.finish([f"+CMGW: {index}"])

        self._prompt(command.number(0), use)
        return None

    def _send_stored(self, command: Command) -> Reply:
        message = stored_at(self._modem, 1, command.number(0))
        if message.status not in (Status.STORED_UNSENT, Status.STORED_SENT):
            raise AtError(cms=CMS_NOT_ALLOWED)
        if len(command.arguments) > 1:
            raise AtError(cms=CMS_NOT_SUPPORTED)
        message.status = Status.STORED_SENT
        self._submit(message.centre, pdu.read_submit(message.tpdu), "+CMSS")
        return None
