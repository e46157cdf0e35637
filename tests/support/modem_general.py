"""Commands of an emulated modem that are not about messages (V.250, 3GPP TS 27.007): who it is, its
SIM and PIN, the network it is in, USSD.
"""

from __future__ import annotations

from tests.support import modem_alphabet as alphabet
from tests.support.modem_at import AtModem, Reply, Settings
from tests.support.modem_command import (
    INCORRECT_PARAMETERS,
    INCORRECT_PASSWORD,
    OPERATION_NOT_ALLOWED,
    SIM_PIN_REQUIRED,
    SIM_PUK_REQUIRED,
    AtError,
    Command,
)
from tests.support.modem_sim import Lock

MANUFACTURER = "Montana"
MODEL = "Emulated GSM modem"
REVISION = "1.0"
OPERATOR_CODE = "25001"
LOCATION = '"00C3","0000AB12"'
CHARACTER_SETS = ("GSM", "IRA", "UCS2")
USSD_CODES = 15
USSD_UCS2 = 72
# 7.15: what the network had to say, and that it does not know the code.
USSD_NO_FURTHER_ACTION = 0
USSD_NOT_SUPPORTED = 4

# Commands whose value is kept and told, and does nothing here.
_KEPT = ("+CRC", "+CLIP", "+CCWA", "+CVHU", "+CSDH", "+CGATT", "+CTZR", "+CMER", "+CSSN")


class GeneralCommands:
    """See the module. `imei` is the modem's own."""

    def __init__(self, modem: AtModem, imei: str) -> None:
        self._modem = modem
        self._imei = imei
        modem.provide(
            {
                "Z": self._reset,
                "&F": self._reset,
                "E": self._echo,
                "I": lambda _: [MANUFACTURER, MODEL, REVISION, f"IMEI: {imei}"],
                "V": self._verbose,
                "Q": self._verbose,
                **dict.fromkeys(("X", "&C", "&D", "&K", "H", "S"), lambda _: []),
                "+CGMI": lambda _: [MANUFACTURER],
                "+CGMM": lambda _: [MODEL],
                "+CGMR": lambda _: [REVISION],
                "+GMI": lambda _: [MANUFACTURER],
                "+GMM": lambda _: [MODEL],
                "+GMR": lambda _: [REVISION],
                "+CGSN": self._serial,
                "+GSN": self._serial,
                "+GCAP": lambda _: ["+GCAP: +CGSM"],
                "+CIMI": self._subscriber,
                "+CCID": self._card,
                "^ICCID": self._card,
                "+CMEE": self._errors,
                "+CPIN": self._pin,
                "+CFUN": self._radio,
                "+CREG": self._registered,
                "+CGREG": self._registered,
                "+COPS": self._operator,
                "+CSQ": self._signal,
                "+CBC": lambda _: ["+CBC: 0,100"],
                "+CSCS": self._character_set,
                "+CPBS": self._phone_book,
                "+CPBR": self._entries,
                "+CLCC": lambda _: [],
                "+CPAS": lambda _: ["+CPAS: 0"],
                "+CUSD": self._ussd,
                **dict.fromkeys(_KEPT, self._kept),
            }
        )

    def _reset(self, _: Command) -> Reply:
        # V.250, 6.1.1: back to what the modem starts with; the SIM stays open.
        radio = self._modem.settings.radio
        self._modem.settings = Settings(radio=radio)
        return []

    def _echo(self, command: Command) -> Reply:
        value = command.number(0)
        if value > 1:
            raise AtError()
        self._modem.settings.echo = bool(value)
        return []

    def _verbose(self, command: Command) -> Reply:
        # Only what everybody uses: results in words, and told.
        if (command.name, command.number(0)) not in (("V", 1), ("Q", 0)):
            raise AtError()
        return []

    def _kept(self, command: Command) -> Reply:
        kept = self._modem.settings.call_settings
        if command.form == "?":
            return [f"{command.name}: {kept.get(command.name, 0)}"]
        if command.form == "=?":
            return [f"{command.name}: (0,1)"]
        kept[command.name] = command.number(0, 0)
        return []

    def _serial(self, command: Command) -> Reply:
        return [] if command.form == "=?" else [self._imei]

    def _subscriber(self, command: Command) -> Reply:
        require_sim(self._modem)
        return [] if command.form == "=?" else [self._modem.sim.imsi]

    def _card(self, command: Command) -> Reply:
        return [f"{command.name}: {self._modem.sim.iccid}"]

    def _errors(self, command: Command) -> Reply:
        if command.form == "?":
            return [f"+CMEE: {self._modem.settings.errors}"]
        if command.form == "=?":
            return ["+CMEE: (0-2)"]
        self._modem.settings.errors = _within(command, 0, 2)
        return []

    def _pin(self, command: Command) -> Reply:
        sim = self._modem.sim
        if command.form == "?":
            if sim.lock is Lock.BLOCKED:
                raise AtError(cme=OPERATION_NOT_ALLOWED)
            names = {Lock.OPEN: "READY", Lock.PIN: "SIM PIN", Lock.PUK: "SIM PUK"}
            return [f"+CPIN: {names[sim.lock]}"]
        if command.form == "=?":
            return []
        if command.form != "=":
            raise AtError()
        if sim.lock is Lock.OPEN:
            raise AtError(cme=OPERATION_NOT_ALLOWED)
        if len(command.arguments) == 2:
            is_right = sim.enter_puk(command.text(0), command.text(1))
        else:
            if sim.lock is Lock.PUK:
                raise AtError(cme=SIM_PUK_REQUIRED)
            is_right = sim.enter_pin(command.text(0))
        if not is_right:
            is_gone = sim.lock in (Lock.PUK, Lock.BLOCKED)
            raise AtError(cme=SIM_PUK_REQUIRED if is_gone else INCORRECT_PASSWORD)
        self._modem.registration_changed()
        return []

    def _radio(self, command: Command) -> Reply:
        settings = self._modem.settings
        if command.form == "?":
            return [f"+CFUN: {settings.radio}"]
        if command.form == "=?":
            return ["+CFUN: (0,1,4),(0,1)"]
        level = command.number(0)
        if level not in (0, 1, 4):
            raise AtError(cme=INCORRECT_PARAMETERS)
        if command.number(1, 0):
            self._modem.when_answered(self._modem.reset)
            return []
        settings.radio = level
        self._modem.registration_changed()
        return []

    def _registered(self, command: Command) -> Reply:
        settings = self._modem.settings
        is_packet = command.name == "+CGREG"
        if command.form == "=?":
            return [f"{command.name}: (0-2)"]
        if command.form == "=":
            mode = _within(command, 0, 2)
            if is_packet:
                settings.packet_registration_reports = mode
            else:
                settings.registration_reports = mode
            return []
        mode = settings.packet_registration_reports if is_packet else settings.registration_reports
        state = self._modem.registration
        located = f",{LOCATION}" if mode == 2 and state in (1, 5) else ""
        return [f"{command.name}: {mode},{state}{located}"]

    def _operator(self, command: Command) -> Reply:
        require_sim(self._modem)
        settings = self._modem.settings
        if command.form == "=?":
            names = f'"{self._modem.operator}","{self._modem.operator}","{OPERATOR_CODE}"'
            return [f"+COPS: (2,{names}),,(0-4),(0-2)"]
        if command.form == "=":
            if command.number(0) not in (0, 3):
                raise AtError(cme=OPERATION_NOT_ALLOWED)
            if len(command.arguments) > 1:
                settings.operator_format = _within(command, 1, 2)
            return []
        if self._modem.registration not in (1, 5):
            return ["+COPS: 0"]
        numeric = settings.operator_format == 2
        name = OPERATOR_CODE if numeric else self._in_character_set(self._modem.operator)
        return [f'+COPS: 0,{settings.operator_format},"{name}"']

    def _signal(self, command: Command) -> Reply:
        return ["+CSQ: (0-31,99),(0-7,99)" if command.form == "=?" else f"+CSQ: {self._bars()},99"]

    def _bars(self) -> int:
        return self._modem.signal if self._modem.settings.radio == 1 else 99

    def _character_set(self, command: Command) -> Reply:
        if command.form == "?":
            return [f'+CSCS: "{self._modem.settings.character_set}"']
        if command.form == "=?":
            return ["+CSCS: (" + ",".join(f'"{name}"' for name in CHARACTER_SETS) + ")"]
        if command.text(0) not in CHARACTER_SETS:
            raise AtError(cme=INCORRECT_PARAMETERS)
        self._modem.settings.character_set = command.text(0)
        return []

    def _in_character_set(self, text: str) -> str:
        if self._modem.settings.character_set == "UCS2":
            return alphabet.to_ucs2(text).hex().upper()
        return text

    def _phone_book(self, command: Command) -> Reply:
        require_sim(self._modem)
        if command.form == "?":
            return ['+CPBS: "SM",0,250']
        if command.form == "=?":
            return ['+CPBS: ("SM")']
        if command.text(0) != "SM":
            raise AtError(cme=INCORRECT_PARAMETERS)
        return []

    def _entries(self, command: Command) -> Reply:
        require_sim(self._modem)
        return ["+CPBR: (1-250),40,18"] if command.form == "=?" else []

    def _ussd(self, command: Command) -> Reply:
        require_sim(self._modem)
        if command.form == "?":
            return ["+CUSD: 1"]
        if command.form == "=?":
            return ["+CUSD: (0-2)"]
        mode = _within(command, 0, 2)
        if mode == 2 or len(command.arguments) == 1:
            return []
        if self._modem.registration not in (1, 5):
            raise AtError(cme=OPERATION_NOT_ALLOWED)
        code = self._ussd_code(command)
        # It comes after this command's answer, as all that is unsolicited does.
        self._modem.unsolicited(self._ussd_line(self._modem.network.ussd.get(code)))
        return []

    def _ussd_code(self, command: Command) -> str:
        if command.number(2, USSD_CODES) != USSD_CODES:
            raise AtError(cme=INCORRECT_PARAMETERS)
        text = command.text(1)
        try:
            if self._modem.ussd_packed:
                octets = bytes.fromhex(text)
                code = alphabet.from_septets(alphabet.unpack(octets, len(octets) * 8 // 7))
                # TS 23.038, 6.1.2.3.1: what fills up a seventh octet.
                code = code.removesuffix("\r")
            elif self._modem.settings.character_set == "UCS2":
                code = alphabet.from_ucs2(bytes.fromhex(text))
            else:
                code = text
        except ValueError:
            raise AtError(cme=INCORRECT_PARAMETERS) from None
        if not code or set(code) - set("0123456789*#"):
            raise AtError(cme=INCORRECT_PARAMETERS)
        return code

    def _ussd_line(self, answer: str | None) -> str:
        if answer is None:
            return f"+CUSD: {USSD_NOT_SUPPORTED}"
        septets = alphabet.to_septets(answer)
        if septets is None:
            text, scheme = alphabet.to_ucs2(answer).hex().upper(), USSD_UCS2
        elif self._modem.ussd_packed:
            if len(septets) % 8 == 7:
                septets.append(ord("\r"))
            text, scheme = alphabet.pack(septets).hex().upper(), USSD_CODES
        else:
            text, scheme = self._in_character_set(answer), USSD_CODES
        return f'+CUSD: {USSD_NO_FURTHER_ACTION},"{text}",{scheme}'


def require_sim(modem: AtModem) -> None:
    """AtError where the SIM is locked."""
    if modem.sim.lock is Lock.PIN:
        raise AtError(cme=SIM_PIN_REQUIRED)
    if modem.sim.lock is not Lock.OPEN:
        raise AtError(cme=SIM_PUK_REQUIRED)


def _within(command: Command, place: int, maximum: int) -> int:
    value = command.number(place)
    if value > maximum:
        raise AtError(cme=INCORRECT_PARAMETERS)
    return value
