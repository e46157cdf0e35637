"""People who use their wallets by SMS or in Telegram, and know what each answer has to be.

Somebody asks the next thing when the last one is answered, and remembers every text that has come,
with when each of its copies has. All answers to one person differ, so that one that was never sent
is missed, and one that was sent twice is seen.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import httpx
import trio
from twilio.request_validator import RequestValidator

from bridges.telegram.texts import say
from tests.bridges.twilio.world import PUBLIC_URL, TOKEN, sms_fields, texts
from tests.support.bot_api import FakePerson
from tests.support.killed_process import Progress
from tests.support.modem_emulator import EmulatedNetwork

ANSWER_TIMEOUT_S = 120
AGAIN_S = 0.25
"""After which somebody calls again whom nobody has heard."""
CREDIT = 1_000
VOUCHERS = (10_000, 100_000)
"""What they are worth: no balance comes twice."""
AWAY = say("en", "node_away")
"""What is said beside an answer, to whoever waits long for one."""

SaySms = Callable[[str, str], Awaitable[None]]
"""From which number, and what."""


class Person:
    """One end of a wallet.

    Attributes:
        said: each text that has come, with when its copies have (`time.monotonic`).
        asked: those that have answered something, with when that was asked.
    """

    def __init__(self, address: str, progress: tuple[Progress, ...]) -> None:
        self.address = address
        self.said: dict[str, list[float]] = {}
        self.asked: dict[str, float] = {}
        self._progress = progress
        self._heard = trio.Event()

    def hear(self, text: str, moment: float) -> None:
        """A text has come."""
        if text != AWAY:
            self.said.setdefault(text, []).append(moment)
            self._heard.set()

    async def ask(self, ask: Callable[[], Awaitable[None]], answer: str | None = None) -> str:
        """Ask something; returns its answer, which has to be `answer` where that is given."""
        known = set(self.said)
        moment = time.monotonic()
        with trio.move_on_after(ANSWER_TIMEOUT_S):
            await ask()
            while self.said.keys() == known:
                self._heard = trio.Event()
                await self._heard.wait()
        new = [text for text in self.said if text not in known]
        assert len(new) == 1, f"{self.address} waits for {answer!r}, and has {new}"
        assert answer in (None, new[0])
        self.asked[new[0]] = moment
        for progress in self._progress:
            progress.step()
        return new[0]

    def doubled(self, texts: Iterable[str]) -> int:
        """How many copies of these texts have come that were there already."""
        return sum(max(0, len(self.said.get(text, ())) - 1) for text in texts)


class People:
    """All of them, by their addresses; they are told things from whichever thread."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._people: dict[str, Person] = {}

    def add(self, person: Person) -> Person:
        """One more."""
        self._people[person.address] = person
        return person

    def tell(self, address: str, text: str) -> None:
        """A text has come for somebody, now."""
        moment = time.monotonic()
        self._token.run_sync_soon(self._people[address].hear, text, moment)


class Pair(ABC):
    """Somebody who uses a wallet, and somebody who is sent money.

    Attributes:
        balance: what the first has to have left, in Ɉ.
        sent: the amounts that the other was sent.
        notices: what that one is told of them, in the same order.
        redeemed: how many vouchers the first has redeemed.
    """

    def __init__(self, sender: Person, recipient: Person) -> None:
        self.sender = sender
        self.recipient = recipient
        self.balance = CREDIT
        self.sent: list[int] = []
        self.notices: list[str] = []
        self.redeemed = 0

    @abstractmethod
    async def run(self) -> None:
        """Use it."""

    @property
    def people(self) -> tuple[Person, Person]:
        """Both."""
        return self.sender, self.recipient

    @property
    def doubled_answers(self) -> int:
        """How many answers to both came that were there already."""
        return sum(person.doubled(person.asked) for person in self.people)

    @property
    def doubled_notices(self) -> int:
        """How many times the second was told again of what was sent."""
        return self.recipient.doubled(self.notices)

    def assert_answered(self, commands: int, crashes: list[float]) -> None:
        """Each command was answered by a text of its own, doubled at most once a crash, and nobody
        was told anything else.

        Args:
            crashes: when what they speak through was killed.
        """
        assert sum(len(person.asked) for person in self.people) == commands
        for person in self.people:
            for text, asked in person.asked.items():
                copies = person.said[text]
                meanwhile = sum(asked < moment < copies[-1] for moment in crashes)
                assert len(copies) <= 1 + meanwhile, (person.address, text, copies, crashes)
        assert set(self.sender.said) == set(self.sender.asked)
        assert set(self.recipient.said) - set(self.recipient.asked) <= set(self.notices)


class SmsPair(Pair):
    """By SMS. A command costs 1 Ɉ, a transfer's fee is 1 Ɉ."""

    def __init__(
        self,
        sender: Person,
        recipient: Person,
        say_sms: SaySms,
        voucher: str,
        sends: int,
        balances: int,
        chance: random.Random,
    ) -> None:
        super().__init__(sender, recipient)
        self._say_sms = say_sms
        self._voucher = voucher
        self._turns = ["send"] * sends + ["balance"] * balances + ["redeem"]
        self.commands = 3 + len(self._turns)
        self.cost = 2 * (1 + sends) + balances
        chance.shuffle(self._turns)

    async def run(self) -> None:
        """See `Pair`."""
        # From now on what it is told comes by the same bridge.
        await self._ask(self.recipient, "BAL", "Balance: 0 J")
        asked = await self._ask(self.sender, f"SEND {self.recipient.address} 1")
        # It is the first one to this recipient.
        question, _, code = asked.rpartition(" ")
        assert question == f"To send 1 J to {self.recipient.address} (fee 1 J) reply with the code"
        await self._send(code, 1)
        for number, turn in enumerate(self._turns):
            if turn == "send":
                amount = 2 + number
                await self._send(f"SEND {self.recipient.address} {amount}", amount)
            elif turn == "balance":
                self.balance -= 1
                # The same words again within a second would be the same SMS.
                await self._ask(self.sender, "BAL" + " " * number, f"Balance: {self.balance} J")
            else:
                worth = VOUCHERS[0]
                self.balance += worth
                self.redeemed += 1
                answer = f"Voucher: +{worth} J. Balance: {self.balance} J"
                await self._ask(self.sender, f"REDEEM {self._voucher}", answer)

    async def _send(self, body: str, amount: int) -> None:
        to = self.recipient.address
        self.balance -= amount + 2
        self.sent.append(amount)
        total = sum(self.sent)
        self.notices.append(f"+{amount} J from {self.sender.address}. Balance: {total} J")
        answer = f"Sent {amount} J to {to}, fee 1 J. Balance: {self.balance} J"
        await self._ask(self.sender, body, answer)

    async def _ask(self, person: Person, body: str, answer: str | None = None) -> str:
        return await person.ask(lambda: self._say_sms(person.address, body), answer)


class TelegramPair(Pair):
    """In Telegram. A transfer's fee is 1 Ɉ, commands are free."""

    def __init__(
        self,
        sender: Person,
        recipient: Person,
        chats: tuple[FakePerson, FakePerson],
        vouchers: tuple[str, str],
        sends: int,
        balances: int,
        chance: random.Random,
    ) -> None:
        super().__init__(sender, recipient)
        self._chat, self._other = chats
        self._vouchers = vouchers
        self._turns = ["send"] * sends + ["redeem"] * len(vouchers)
        chance.shuffle(self._turns)
        # Two of them with nothing in between would be answered alike.
        for place in sorted(chance.sample(range(len(self._turns) + 1), balances), reverse=True):
            self._turns.insert(place, "balance")
        # A transfer is a command and a button.
        self.commands = 2 + len(self._turns) + sends

    async def run(self) -> None:
        """See `Pair`."""
        # Nobody is sent anything who has never written.
        for person, chat, balance in (
            (self.recipient, self._other, 0),
            (self.sender, self._chat, CREDIT),
        ):
            await self._write(person, chat, "/start", say("en", "hello", balance=balance))
        for number, turn in enumerate(self._turns):
            if turn == "send":
                await self._send(2 + number)
            elif turn == "balance":
                answer = say("en", "balance", available=self.balance, held="")
                await self._write(self.sender, self._chat, "/balance", answer)
            else:
                worth, code = VOUCHERS[self.redeemed], self._vouchers[self.redeemed]
                self.balance += worth
                self.redeemed += 1
                answer = say("en", "redeemed", amount=worth, currency="Ɉ")
                await self._write(self.sender, self._chat, f"/redeem {code}", answer)

    async def _send(self, amount: int) -> None:
        to = self._other
        name = f"{to.name} (@{to.username})"
        offer = say(
            "en",
            "confirm_send",
            amount=amount,
            name=name,
            fee=1,
            total=amount + 1,
            available=self.balance,
        )
        await self._write(self.sender, self._chat, f"/send @{to.username} {amount}", offer)
        shown = [message for message in self._chat.messages if message.text == offer][-1]
        self.balance -= amount + 1
        self.sent.append(amount)
        self.notices.append(
            say(
                "en",
                "received",
                name=f"{self._chat.name} (@{self._chat.username})",
                amount=amount,
                currency="Ɉ",
                balance=sum(self.sent),
            )
        )

        async def press() -> None:
            self._chat.press(shown, "Send")

        await self.sender.ask(press, say("en", "sent", amount=amount, name=name, fee=1))

    async def _write(self, person: Person, chat: FakePerson, text: str, answer: str) -> None:
        async def write() -> None:
            chat.write(text)

        await person.ask(write, answer)


class TwilioPhones:
    """Has SMS come by the webhook, again under the same id while it is not taken.

    Attributes:
        again: how many were not taken at first.
    """

    def __init__(self, url: str, people: People, client: httpx.AsyncClient) -> None:
        self._url = url
        self._people = people
        self._client = client
        self._numbers = iter(range(1_000_000))
        self.again: Counter[str] = Counter()

    async def say(self, sender: str, body: str) -> None:
        """One SMS; what the response says has come to its sender."""
        fields = sms_fields(next(self._numbers), body, sender=sender)
        signature = RequestValidator(TOKEN).compute_signature(f"{PUBLIC_URL}/sms", fields)
        headers = {"X-Twilio-Signature": signature}
        while True:
            try:
                response = await self._client.post(f"{self._url}/sms", data=fields, headers=headers)
            except httpx.TransportError:
                pass
            else:
                if response.status_code == 200:
                    break
            self.again[sender] += 1
            await trio.sleep(AGAIN_S)
        for text in texts(response):
            self._people.tell(sender, text)


class ModemPhones:
    """Has SMS come to emulated modems, from one number always to the same, and what they send come
    to people."""

    def __init__(self, network: EmulatedNetwork, people: People) -> None:
        self._network = network
        self._people = people

    async def say(self, sender: str, body: str) -> None:
        """One SMS."""
        modems = self._network.modems
        modem = modems[int(sender[-2:]) % len(modems)]
        self._network.deliver(modem.number, sender, body)

    async def deliver(self) -> None:
        """Give people what is sent to them, until cancelled."""
        given = 0
        while True:
            messages = await self._network.sent(given + 1)
            for message in messages[given:]:
                given += 1
                self._people.tell(message.recipient, message.text)
