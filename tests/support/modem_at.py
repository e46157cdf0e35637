"""The command line of an emulated modem (ITU-T V.250, 3GPP TS 27.007): lines in, replies out.

Sans-I/O: whoever has the line calls `receive`, and overrides what writes and what waits. Messages
are in `modem_messages`, all other commands in `modem_general`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.modem_command import (
    CME_TEXTS,
    CMS_INVALID_PARAMETER,
    CMS_SIM_PIN_REQUIRED,
    CMS_SIM_PUK_REQUIRED,
    AtError,
    Command,
    parse,
)
from tests.support.modem_faults import SILENCE, Combined, Faults
from tests.support.modem_network import SmsNetwork
from tests.support.modem_sim import Lock, SimCard

LINE_MAXIMUM = 1_024
INPUT_MAXIMUM = 65_536
HELD_MAXIMUM = 256
COMMANDS_MAXIMUM = 100_000

CTRL_Z, ESCAPE = 0x1A, 0x1B
_ENDS_COMMAND = b"\r"
_ENDS_DATA = bytes([CTRL_Z, ESCAPE])

# Lines of the reply; one with its PDU is one entry, with "\n" between. None: it answers later.
Reply = list[str] | None
Handler = Callable[[Command], Reply]


@dataclass
class Settings:
    """What a restart forgets."""

    echo: bool = True
    errors: int = 0
    character_set: str = "IRA"
    registration_reports: int = 0
    packet_registration_reports: int = 0
    operator_format: int = 0
    radio: int = 1
    message_service: int = 0
    message_routing: list[int] = field(default_factory=lambda: [0, 0, 0, 0, 0])
    stores: list[str] = field(default_factory=lambda: ["SM", "SM", "SM"])
    call_settings: dict[str, int] = field(default_factory=dict)


class AtModem(ABC):
    """See the module. Who inherits it gives what is abstract."""

    def __init__(
        self,
        sim: SimCard,
        network: SmsNetwork,
        *,
        sending_s: float,
        boot_s: float,
        ussd_packed: bool,
    ) -> None:
        self.sim = sim
        self.network = network
        self.sending_s = sending_s
        self.boot_s = boot_s
        self.ussd_packed = ussd_packed
        self.faults = Faults()
        self.settings = Settings()
        self.commands: list[str] = []
        self.refused: list[str] = []
        self.signal = 18
        self.operator = "MTS RUS"
        self._registration = 1
        self._handlers: dict[str, Handler] = {}
        self._message_commands: set[str] = set()
        self._on_restart: list[Callable[[], None]] = []
        self._is_awake = False
        self._life = 0
        self._input = bytearray()
        self._typed = bytearray()
        self._prompted: Callable[[bytes | None], None] | None = None
        self._rest: deque[Command] = deque()
        self._is_busy = False
        self._is_going = False
        self._goes_through = False
        self._held: deque[str] = deque(maxlen=HELD_MAXIMUM)
        self._when_answered: Callable[[], None] | None = None

    # --- what the line is

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Bytes to whoever has the line open."""

    @abstractmethod
    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run it then."""

    @abstractmethod
    def unplug(self) -> None:
        """Pull the cable."""

    @abstractmethod
    def reset(self) -> None:
        """What +CFUN=1,1 does."""

    # --- its life

    @property
    def number(self) -> str:
        """Of its SIM."""
        return self.sim.number

    @property
    def is_reachable(self) -> bool:
        """Whether the network can give it messages."""
        return self._is_awake and self.registration in (1, 5)

    @property
    def registration(self) -> int:
        """TS 27.007, 7.2: 0 not, 1 home, 2 searching, 3 denied, 5 roaming."""
        if self.sim.lock is not Lock.OPEN or self.settings.radio != 1:
            return 0
        return self._registration

    @registration.setter
    def registration(self, state: int) -> None:
        self._registration = state
        self.registration_changed()

    def registration_changed(self) -> None:
        """Tell whom it concerns."""
        if self.settings.registration_reports:
            self.unsolicited(f"+CREG: {self.registration}")
        if self.is_reachable:
            self.network.try_again(self.number)

    def provide(
        self,
        handlers: dict[str, Handler],
        on_restart: Callable[[], None] = lambda: None,
        *,
        are_messages: bool = False,
    ) -> None:
        """Add commands, and what is to happen when the modem forgets everything.

        Those of messages want an open SIM, and fail with +CMS ERROR (TS 27.005, 3.2.5).
        """
        assert not handlers.keys() & self._handlers.keys()
        self._handlers |= handlers
        if are_messages:
            self._message_commands |= handlers.keys()
        self._on_restart.append(on_restart)

    def power_off(self) -> None:
        """Forget what is in the air: what it was doing, what it would have said."""
        self._is_awake = False
        self._life += 1
        self._input.clear()
        self._typed.clear()
        self._rest.clear()
        self._held.clear()
        self._prompted = self._when_answered = None
        self._is_busy = False
        for forget in self._on_restart:
            forget()

    def reboot(self) -> None:
        """Start anew: settings are lost, the SIM is locked again, and it is away for `boot_s`."""
        self.power_off()
        self.settings = Settings()
        self.sim.power_on()
        self.later(self.boot_s, self._booted)

    def _booted(self) -> None:
        self._is_awake = True
        if not self.faults.starts_silently:
            self.unsolicited("^BOOT:27710117,0,0,0,75")
        if self.is_reachable:
            self.network.try_again(self.number)

    def hang(self, duration_s: float | None = None) -> None:
        """Hear nothing and say nothing, for that long or for ever. Settings stay."""
        self.power_off()
        if duration_s is not None:
            self.later(duration_s, self.wake)

    def wake(self) -> None:
        """Go on after a hang."""
        self._is_awake = True
        if self.is_reachable:
            self.network.try_again(self.number)

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run it then, unless the modem has been started anew, hung or unplugged meanwhile."""
        life = self._life

        def unless_dead() -> None:
            if life == self._life:
                action()

        if delay_s:
            self.after(delay_s, unless_dead)
        else:
            unless_dead()

    # --- what it says

    def unsolicited(self, line: str) -> None:
        """A line that no command asked for: at once, or when the reply that is being made is out.

        A PDU follows its line behind a "\\n".
        """
        if not self._is_awake:
            return
        if (self._is_busy or self._prompted) and not self._goes_through:
            self._held.append(line)
        else:
            self._say(line)

    def inject(self, data: bytes) -> None:
        """Those bytes, whatever they are, here and now."""
        self.write(data)

    def _say(self, line: str) -> None:
        if self._is_awake:
            for piece in _pieces(line):
                self.write(piece)

    def _happen(self, event: Callable[[], None]) -> None:
        """Have it happen right here, in the midst of what the modem is saying."""
        self._goes_through = True
        event()
        self._goes_through = False

    def _say_reply(self, lines: list[str]) -> None:
        pieces = [piece for line in lines for piece in _pieces(line)]
        for count, piece in enumerate(pieces, 1):
            if not self._is_awake:
                # What came in the middle of it was the modem's end.
                return
            self.write(piece)
            if self.faults.in_reply and count == self.faults.in_reply_after_lines:
                event, self.faults.in_reply = self.faults.in_reply, None
                self._happen(event)

    def finish(self, lines: list[str], error: AtError | None = None) -> None:
        """Answer the command that was to be answered later."""
        self._answer(lines, error)
        self._is_busy = False
        self._go_on()

    def finish_silently(self) -> None:
        """Be done with that command without an answer."""
        self._rest.clear()
        self._end_line()
        self._go_on()

    def _answer(self, lines: list[str], error: AtError | None) -> None:
        self._say_reply(lines)
        if error is not None:
            self._rest.clear()
            self._say(self._error_line(error))
        elif not self._rest or self.faults.combined is Combined.RESULT_EACH:
            self._say("OK")
        if not self._rest:
            self._end_line()

    def when_answered(self, action: Callable[[], None]) -> None:
        """Have that done when the line that is being carried out has its answer."""
        self._when_answered = action

    def _end_line(self) -> None:
        self._is_busy = False
        while self._held:
            self._say(self._held.popleft())
        if self._when_answered is not None:
            action, self._when_answered = self._when_answered, None
            action()

    def _error_line(self, error: AtError) -> str:
        if error.cms is not None:
            return f"+CMS ERROR: {error.cms}"
        if error.cme is None or self.settings.errors == 0:
            return "ERROR"
        if self.settings.errors == 2:
            return f"+CME ERROR: {CME_TEXTS[error.cme]}"
        return f"+CME ERROR: {error.cme}"

    # --- what it hears

    def receive(self, data: bytes) -> None:
        """Bytes from the line. What comes while a command runs is looked at after it."""
        if not self._is_awake:
            return
        self._input += data[: INPUT_MAXIMUM - len(self._input)]
        self._go_on()

    def _go_on(self) -> None:
        if self._is_going:
            return
        self._is_going = True
        while self._is_awake and not self._is_busy:
            if self._rest and self._prompted is None:
                self._run(self._rest.popleft())
            elif self._input:
                self._hear()
            else:
                break
        self._is_going = False

    def _hear(self) -> None:
        """Take what comes up to the next octet that ends something."""
        ends = _ENDS_DATA if self._prompted is not None else _ENDS_COMMAND
        heard = _heard_to(self._input, ends)
        del self._input[: len(heard)]
        if self.settings.echo or self.faults.echo_always:
            self.write(heard)
        is_ended = heard[-1] in ends
        typed = heard[:-1] if is_ended else heard
        if self._prompted is None:
            typed = typed.translate(None, b"\n" + _ENDS_DATA)
        self._typed += typed
        # What is too long is refused when its end has come.
        del self._typed[LINE_MAXIMUM:]
        if not is_ended:
            return
        line, self._typed = bytes(self._typed), bytearray()
        if self._prompted is None:
            self._begin(line)
            return
        take, self._prompted = self._prompted, None
        self._is_busy = True
        take(None if heard[-1] == ESCAPE else line)

    def prompt(self, take: Callable[[bytes | None], None]) -> None:
        """Ask for data: `take` gets it, or None where it was given up with <ESC>.

        The command is still to be answered by then.
        """
        self._is_busy = False
        self._prompted = take
        self.write(b"\r\n> ")
        if self.faults.at_prompt:
            event, self.faults.at_prompt = self.faults.at_prompt, None
            self._happen(event)

    def _begin(self, line: bytes) -> None:
        """V.250, 5.2.1: what stands before AT is nothing to the modem."""
        start = line.upper().find(b"AT")
        if start < 0:
            return
        text = line[start:].decode("latin-1")
        if len(self.commands) < COMMANDS_MAXIMUM:
            self.commands.append(text)
        commands = None if len(line) == LINE_MAXIMUM else parse(text[2:])
        self._is_busy = True
        combined = self.faults.combined
        if commands is None or (len(commands) > 1 and combined is Combined.REFUSED):
            self._answer([], AtError())
            return
        self._rest.extend(commands[:1] if combined is Combined.ONLY_FIRST else commands)
        if not commands:
            self._answer([], None)
        self._is_busy = False

    def _run(self, command: Command) -> None:
        self._is_busy = True
        spelled = command.name + command.form
        instead = self.faults.answer_to(spelled)
        if instead == SILENCE:
            self._rest.clear()
            self._end_line()
            return
        if instead is not None:
            self._rest.clear()
            self._say(instead)
            self._end_line()
            return
        try:
            lines = self._handle(command)
        except AtError as error:
            self._answer([], error)
            return
        if lines is not None:
            self._answer(lines, None)
            self._is_busy = False

    def _handle(self, command: Command) -> Reply:
        if command.name not in self._handlers:
            raise AtError()
        handler = self._handlers[command.name]
        if command.name not in self._message_commands:
            return handler(command)
        if self.sim.lock is not Lock.OPEN:
            is_pin = self.sim.lock is Lock.PIN
            raise AtError(cms=CMS_SIM_PIN_REQUIRED if is_pin else CMS_SIM_PUK_REQUIRED)
        try:
            return handler(command)
        except AtError as error:
            raise AtError(cms=error.cms or CMS_INVALID_PARAMETER) from None


def _heard_to(data: bytes | bytearray, ends: bytes) -> bytes:
    """What there is up to one of `ends`, and it; all where none of them is."""
    places = [place for place in map(data.find, ends) if place >= 0]
    return bytes(data[: min(places) + 1] if places else data)


def _pieces(line: str) -> list[bytes]:
    """A line as it is written (V.250, 5.7.1), in pieces between which something can come."""
    first, *others = line.split("\n")
    return [f"\r\n{first}\r\n".encode("latin-1")] + [
        f"{other}\r\n".encode("latin-1") for other in others
    ]
