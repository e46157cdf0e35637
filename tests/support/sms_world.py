"""An SMS wallet over a real ledger, in virtual time, and what tests ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from billing.desk import Desk
from billing.ledger import ISSUE, LmdbLedger, open_ledger
from billing.money import J, parse_amount_untrusted
from billing.notices import Notices
from billing.outbox import Outbox, Waiting
from billing.sms_desk import SmsDesk
from billing.sms_records import SmsRecord, list_records
from billing.transfers import Code, Transfer, new_id
from billing.wallet import SMSGateway
from core.api.bridge_messages import Event
from core.bridge_config import BridgesConfig, GsmConfig, SmsConfig, TelegramConfig
from core.clock import VirtualClock
from core.config import BillingConfig, NodeConfig, TurnConfig

ALICE, BOB, CAROL = "+79991234567", "+79991234568", "+4915123456789"
SECRET = b"0123456789abcdef0123456789abcdef"
CONFIG = NodeConfig(
    data_dir=Path("data"),
    turn=TurnConfig(listen=(), relay_addresses=()),
    billing=BillingConfig(default_region="RU"),
    sms=SmsConfig(
        default_bridge="gsm",
        countries=("RU", "DE"),
        messages_per_day=0,
        messages_per_number=0,
        commands_per_minute=0,
        commands_in_total=0,
    ),
    bridges=BridgesConfig(telegram=TelegramConfig(bot_id=1), gsm=GsmConfig(modems=())),
)


class World:
    """One node's wallet."""

    def __init__(self, ledger: LmdbLedger, clock: VirtualClock, config: NodeConfig) -> None:
        self.ledger = ledger
        self.clock = clock
        self.outbox = Outbox(ledger.store, clock)
        notices = Notices(self.outbox, ledger, telegram=True)
        self.desk = Desk(ledger, clock, config.billing, notices)
        self.wallet = SMSGateway(ledger, self.desk, self.outbox, notices, clock, config, SECRET)
        self.sms = SmsDesk(self.wallet, self.desk, ledger.store, clock, config)
        self._messages = 0
        self._waiting: dict[bytes, Waiting] = {}

    async def say(
        self,
        body: str,
        sender: str = ALICE,
        message: str | None = None,
        received_ms: int | None = None,
    ) -> str | None:
        """What an SMS is answered that comes through the modems."""
        if message is None:
            self._messages += 1
            message = f"m{self._messages}"
        return await self.wallet.process_incoming(
            sender, body, message, bridge="gsm", recipient="sim1", received_ms=received_ms
        )

    async def told(self, body: str, sender: str = ALICE, message: str | None = None) -> str:
        """The same where there is an answer."""
        reply = await self.say(body, sender, message)
        assert reply is not None
        return reply

    async def give(self, phone: str, amount: str) -> None:
        """Money from nowhere."""
        account = await self.desk.open_user(phone)
        micro = parse_amount_untrusted(amount)
        transfer = Transfer(new_id(self.clock), ISSUE, account, micro, code=Code.CREDIT)
        await self.ledger.transfer([transfer])

    async def befriend(self, phone: str, recipient: str) -> None:
        """Have `phone` send 1 to `recipient`, confirmed, so that it is no new recipient."""
        await self.give(phone, "3")
        question = await self.told(f"SEND {recipient} 1", phone)
        await self.told(question.rsplit(" ", 1)[1], phone)

    def balance(self, phone: str) -> int:
        """Micro-J of a number; 0 where it has no account."""
        account = self.ledger.find(phone)
        return 0 if account is None else self.ledger.balance(account, J).posted

    def total(self) -> int:
        """What all accounts have together, which is nothing."""
        accounts = self.ledger.accounts(0, 1_000_000)
        return sum(self.ledger.balance(info.number, J).posted for info in accounts)

    def records(self) -> list[SmsRecord]:
        """All records, the oldest first."""
        with self.ledger.store.read() as tables:
            return [record for _, record in list_records(tables, None, 1_000_000)][::-1]

    def events(self) -> list[Event]:
        """What waits in the outbox, in its order."""
        for change in self.outbox.take_changes():
            if isinstance(change, bytes):
                self._waiting.pop(change, None)
            else:
                self._waiting[change.id] = change
        return self.outbox.read(list(self._waiting.values()))


def with_sms(**changes: Any) -> NodeConfig:
    """`CONFIG` with other lines in its `[sms]` table."""
    return replace(CONFIG, sms=replace(CONFIG.sms, **changes))


@contextmanager
def open_world(
    folder: Path, config: NodeConfig = CONFIG, clock: VirtualClock | None = None
) -> Iterator[World]:
    """A wallet whose ledger is in `folder`."""
    clock = VirtualClock() if clock is None else clock
    with open_ledger(folder / "ledger", clock, map_bytes=1 << 26) as ledger:
        yield World(ledger, clock, config)
