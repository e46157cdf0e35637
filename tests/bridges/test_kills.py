"""Fifty kills of the node and of three bridges while a thousand commands run: each has exactly one
effect, and is answered.

Sixty people use their wallets at once, by Twilio's webhook, by modems and in Telegram. What stands
for Twilio, for the mobile network and for Telegram outlives the kills, and has seen all that was
sent.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
import trio

from bridges.spool import open_spool
from bridges.twilio.sending import AT_ONCE_MAXIMUM
from core.api.client import connect
from core.api.messages import (
    AccountCreateRequest,
    AccountCreditRequest,
    AccountHistoryRequest,
    AccountReply,
    AccountShowRequest,
    HistoryReply,
    ReplyBody,
    RequestBody,
    StatusReply,
    StatusRequest,
    TransferReply,
    VoucherCreateRequest,
    VouchersReply,
)
from core.api.sms_messages import SmsItem, SmsListReply
from core.errors import OperationError
from core.node_files import bridge_folder
from tests.bridges.twilio.world import (
    Sent,
    StandInHttp,
    sms_records,
    twilio_table,
)
from tests.support.bot_api import BotApi, bot_api
from tests.support.fixed_ports import free_port
from tests.support.killed_process import KilledProcess, Progress
from tests.support.modem_emulator import EmulatedNetwork, sms_network
from tests.support.modem_sim import SimCard
from tests.support.node import montana_command, run_montana, write_config
from tests.support.telegram_bridge import PUBLIC_URL as PAGES_URL
from tests.support.telegram_bridge import telegram_config
from tests.support.wallet_users import (
    ANSWER_TIMEOUT_S,
    CREDIT,
    VOUCHERS,
    ModemPhones,
    Pair,
    People,
    Person,
    SmsPair,
    TelegramPair,
    TwilioPhones,
)

pytestmark = pytest.mark.trio

PAIRS = 20
"""Of each way."""
COMMANDS = {"twilio": 400, "gsm": 300, "telegram": 300}
KILLS = {"node": 14, "twilio": 12, "gsm": 12, "telegram": 12}
MODEMS = 3
SENDING_S = 0.05
"""What giving an SMS to a carrier takes: long enough for a kill in the midst of it."""
ACKNOWLEDGED_WITHIN_S = 15.0
"""A modem's patience with a report that it has handed over (TR2M of TS 24.011)."""
SETTLED_S = 120
POLL_S = 0.05
R = TypeVar("R", bound=ReplyBody)


class World:
    """The node, its bridges, and all who speak with them.

    Attributes:
        pairs: who uses wallets, by the bridge that they are reached through.
        progress: how many of their commands were answered; "node" for all.
        begun: the SMS that Twilio's bridge was sending when it was killed.
    """

    def __init__(
        self,
        folder: Path,
        rest: StandInHttp,
        network: EmulatedNetwork,
        api: BotApi,
        client: httpx.AsyncClient,
    ) -> None:
        self.folder = folder
        self.rest = rest
        self.network = network
        self.api = api
        self.people = People()
        self.port = free_port()
        self.twilio = TwilioPhones(f"http://127.0.0.1:{self.port}", self.people, client)
        self.modems = ModemPhones(network, self.people)
        self.pairs: dict[str, list[Pair]] = {"twilio": [], "gsm": [], "telegram": []}
        self.progress = {name: Progress() for name in KILLS}
        self.processes: dict[str, KilledProcess] = {}
        self.begun: set[str] = set()
        self.chance = random.Random(5)
        self.socket = folder / "data" / "node.sock"
        rest.on_accept = self._deliver_by_twilio
        api.on_text = lambda chat, text: self.people.tell(f"tg:{chat}", text)

    def _deliver_by_twilio(self, sent: Sent) -> None:
        self.people.tell(sent.to, sent.text)
        time.sleep(SENDING_S)

    def write_config(self) -> Path:
        """All three bridges, which the node leaves to us."""
        modems = "".join(
            f"""
[[bridges.gsm.modems]]
name = "sim{number}"
device = "{modem.link}"
number = "{modem.number}"
daily_cap = 10000
pace_s = 0
"""
            for number, modem in enumerate(self.network.modems)
        )
        more = f"""
[sms]
default_bridge = "gsm"
countries = ["DE"]
daily_limit = "1000"
messages_per_day = 0
messages_per_number = 0
commands_per_minute = 0
commands_in_total = 0
[bridges]
start = false
{twilio_table(self.port, self.rest.url)}
{telegram_config(self.api)}
{modems}
"""
        config = write_config(self.folder, more=more)
        written = config.read_text()
        assert "[http]\n" in written
        # Telegram opens no other pages.
        config.write_text(written.replace("[http]\n", f'[http]\npublic_url = "{PAGES_URL}"\n'))
        return config

    def start(self, config: Path) -> None:
        """Start the node and the bridges."""
        node = montana_command("up", "--config", str(config))
        self.processes["node"] = KilledProcess("node", node, self.folder, "")
        for name in self.pairs:
            command = [sys.executable, "-m", "bridges", name, "--config", str(config)]
            note = self._note_begun if name == "twilio" else lambda: None
            self.processes[name] = KilledProcess(name, command, self.folder, "bridge started", note)

    def _note_begun(self) -> None:
        with open_spool(bridge_folder(self.folder / "data", "twilio")) as spool:
            sending = spool.items("sending_twilio", 2 * AT_ONCE_MAXIMUM)
        begun = {event for event, ended in sending if not ended}
        assert len(begun) <= AT_ONCE_MAXIMUM
        self.begun |= begun

    async def ask(self, request: RequestBody, reply: type[R]) -> R:
        """What the node answers, as soon as it is there."""
        with trio.fail_after(SETTLED_S):
            while True:
                try:
                    async with connect(self.socket, software="test") as client:
                        answer = await client.request(request)
                except OperationError as error:
                    if error.code:
                        raise
                    await trio.sleep(POLL_S)
                else:
                    assert isinstance(answer, reply)
                    return answer

    async def invite(self) -> None:
        """Everybody who uses a wallet, with money in it, and with vouchers."""
        vouchers = []
        for worth, count in zip(VOUCHERS, (3 * PAIRS, PAIRS), strict=True):
            request = VoucherCreateRequest(str(worth), count)
            vouchers.append((await self.ask(request, VouchersReply)).codes)
        for number in range(PAIRS):
            by_twilio = self._two("twilio", f"+49151234560{number:02}", f"+49151234561{number:02}")
            by_modem = self._two("gsm", f"+49151234562{number:02}", f"+49151234563{number:02}")
            in_chat = self._two("telegram", f"tg:{100 + number}", f"tg:{200 + number}")
            chats = (
                self.api.person(100 + number, f"Ann{number}", f"ann_{number}", "en"),
                self.api.person(200 + number, f"Ben{number}", f"ben_{number}", "en"),
            )
            codes = vouchers[0].pop(), vouchers[1].pop()
            self.pairs["twilio"].append(
                SmsPair(*by_twilio, self.twilio.say, vouchers[0].pop(), 8, 8, self.chance)
            )
            self.pairs["gsm"].append(
                SmsPair(*by_modem, self.modems.say, vouchers[0].pop(), 6, 5, self.chance)
            )
            self.pairs["telegram"].append(TelegramPair(*in_chat, chats, codes, 4, 3, self.chance))
        for pair in self.all_pairs():
            address = pair.sender.address
            await self.ask(AccountCreateRequest((address,)), AccountReply)
            await self.ask(AccountCreditRequest(address, str(CREDIT)), TransferReply)

    def _two(self, name: str, sender: str, recipient: str) -> tuple[Person, Person]:
        progress = self.progress[name], self.progress["node"]
        return (
            self.people.add(Person(sender, progress)),
            self.people.add(Person(recipient, progress)),
        )

    def all_pairs(self) -> list[Pair]:
        """Of all ways."""
        return [pair for pairs in self.pairs.values() for pair in pairs]

    async def run(self) -> None:
        """Have everybody do everything, and kill meanwhile."""
        async with trio.open_nursery() as nursery:
            for pair in self.all_pairs():
                nursery.start_soon(pair.run)
            for name, process in self.processes.items():
                work = COMMANDS.get(name, sum(COMMANDS.values()))
                nursery.start_soon(
                    process.kill_now_and_then, KILLS[name], self.progress[name], work, self.chance
                )

    async def settle(self) -> list[SmsItem]:
        """Wait until nobody is to be told anything more; returns the records of all SMS."""
        with trio.fail_after(SETTLED_S):
            while True:
                status = await self.ask(StatusRequest(), StatusReply)
                records = await self.sms()
                is_told = all(one.status != "waiting" for one in records) and all(
                    set(pair.notices) <= set(pair.recipient.said) for pair in self.pairs["telegram"]
                )
                modems = self.network.modems
                is_deleted = not any(any(modem.sim.stores.values()) for modem in modems)
                if status.outbox["events"] == 0 and is_told and is_deleted:
                    return records
                await trio.sleep(POLL_S)

    async def sms(self) -> list[SmsItem]:
        """The records of all SMS, the first first."""
        return await sms_records(lambda request: self.ask(request, SmsListReply))

    async def stop(self) -> None:
        """End all processes by SIGTERM."""
        async with trio.open_nursery() as nursery:
            for process in self.processes.values():
                nursery.start_soon(process.stop)


@asynccontextmanager
async def a_world(folder: Path) -> AsyncIterator[World]:
    rest = StandInHttp()
    with rest.running(), bot_api() as api:
        async with (
            httpx.AsyncClient(timeout=ANSWER_TIMEOUT_S, trust_env=False) as client,
            sms_network() as network,
            trio.open_nursery() as nursery,
        ):
            for number in range(MODEMS):
                sim = SimCard(number=f"+4930123450{number}")
                modem = network.plug_in(folder / f"modem{number}", sim, sending_s=SENDING_S)
                modem.messages.acknowledge_within_s = ACKNOWLEDGED_WITHIN_S
            world = World(folder, rest, network, api, client)
            nursery.start_soon(world.modems.deliver)
            try:
                yield world
            finally:
                for process in world.processes.values():
                    process.abandon()
                nursery.cancel_scope.cancel()


async def test_each_command_has_one_effect_whatever_is_killed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with a_world(tmp_path) as world:
        config = world.write_config()
        world.start(config)
        await world.invite()
        await world.run()
        records = await world.settle()
        for name, pairs in world.pairs.items():
            crashes = [*world.processes["node"].kills, *world.processes[name].kills]
            for pair in pairs:
                pair.assert_answered(COMMANDS[name] // PAIRS, crashes)
                await assert_paid(world, pair)
            answers = sum(pair.doubled_answers for pair in pairs)
            # Everybody asks one thing at a time.
            assert answers <= len(crashes) * PAIRS
            record_property(f"doubled_answers_{name}", answers)
            notices = sum(pair.doubled_notices for pair in pairs)
            assert notices <= (len(crashes) * PAIRS if name == "telegram" else 0)
            record_property(f"doubled_notices_{name}", notices)
        unknown: dict[str, set[str]] = {"twilio": set(), "gsm": set()}
        for name, found in unknown.items():
            for pair in world.pairs[name]:
                assert isinstance(pair, SmsPair)
                found |= assert_recorded(pair, records)
            record_property(f"unknown_{name}", len(found))
        # Of those that were being sent when their bridge was killed, and of no others. Of a modem's
        # a report may have told later.
        assert unknown["twilio"] == world.begun
        assert len(unknown["gsm"]) <= KILLS["gsm"] * MODEMS
        for modem in world.network.modems:
            assert world.network.waiting(modem.number) == 0
        assert world.api.problems == []
        killed = {name: len(process.kills) for name, process in world.processes.items()}
        assert killed == KILLS
        record_property("posted_again", world.twilio.again.total())
        await world.stop()
    verified = run_montana("ledger", "verify", "--config", str(config), check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


async def assert_paid(world: World, pair: Pair) -> None:
    """Both have what they have to have, by as many transfers and vouchers as were asked for."""
    for person, expected in zip(pair.people, (pair.balance, sum(pair.sent)), strict=True):
        account = await world.ask(AccountShowRequest(person.address), AccountReply)
        assert float(account.balance) == expected, person.address
        assert float(account.available) == expected, person.address
        history = await world.ask(AccountHistoryRequest(person.address, None, 1_000), HistoryReply)
        done = Counter(line.purpose for line in history.lines)
        assert done["user"] == len(pair.sent), (person.address, done)
        assert done["voucher"] == (pair.redeemed if person is pair.sender else 0), done


def assert_recorded(pair: SmsPair, records: list[SmsItem]) -> set[str]:
    """Each SMS that has come has one record, and each that was to go out; no one of those went
    out twice, and each whose fate was told did. Returns those of which it was not."""
    for person, commands, cost in (
        (pair.sender, pair.commands - 1, pair.cost),
        (pair.recipient, 1, 0),
    ):
        came = [one for one in records if one.number == person.address and one.direction == "in"]
        assert len(came) == len({one.id for one in came}) == commands
        assert sum(float(one.cost) for one in came) == cost
    went = [
        one for one in records if one.number == pair.recipient.address and one.direction == "out"
    ]
    assert len(went) == len(pair.notices)
    unknown = set()
    for record, text in zip(went, pair.notices, strict=True):
        given = len(pair.recipient.said.get(text, ()))
        if record.status == "unknown":
            assert given <= 1, (record, text)
            unknown.add(record.id)
        else:
            assert record.status in ("sent", "delivered"), (record, text)
            assert given == 1, (record, text)
    return unknown
