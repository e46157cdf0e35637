"""What people do with each other's accounts through bridges, and who is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from billing.audit import verify
from billing.desk import Desk
from billing.journal import SideWrite
from billing.ledger import FEES, ISSUE, NODE, LmdbLedger
from billing.money import EMC, J
from billing.notices import LIFETIME_S, Notices, PayeeRefused
from billing.outbox import Outbox, Waiting
from billing.tables import OUTBOX
from billing.transfers import Code, Result, Transfer, TransferRefused, new_id
from core.api.bridge_messages import (
    Event,
    SmsBody,
    TransferReceivedBody,
    UserOpenRequest,
    UserTransferRequest,
)
from core.api.messages import AccountLinkRequest, AccountReply, TransferReply
from core.clock import VirtualClock
from core.config import BillingConfig
from core.errors import OperationError
from core.tables import Writing
from tests.support.ledgers import everything
from tests.support.small_ledger import open_small

pytestmark = pytest.mark.trio
ID, OTHER_ID = "ab" * 16, "cd" * 16
ALICE, BOB = "tg:1", "tg:2"
PHONE, OTHER_PHONE = "+79991234567", "+4915112345678"


class House:
    """A ledger whose users are told what comes.

    Attributes:
        notices: Telegram is there, SMS too.
    """

    def __init__(self, ledger: LmdbLedger, clock: VirtualClock, **config: Any) -> None:
        self.ledger = ledger
        self.clock = clock
        self.outbox = Outbox(ledger.store, clock)
        self.notices = Notices(self.outbox, ledger, telegram=True)
        self.notices.by_sms = self.write_sms
        self.notices.check_sms = self.check_sms
        self.config = BillingConfig(default_region="RU", **config)
        self.desk = Desk(ledger, clock, self.config, self.notices)

    def write_sms(
        self, writing: Writing, phone: str, body: TransferReceivedBody, key: bytes
    ) -> None:
        """As the wallet does it."""
        text = f"{body.sender} {body.amount} {body.balance}"
        self.outbox.put(writing, "gsm", phone, SmsBody(text), key=key, lifetime_s=60)

    def check_sms(self, phone: str) -> None:
        """As the wallet does it: but for Austria's."""
        if phone.startswith("+43"):
            raise PayeeRefused("no SMS go there", "payee_country")

    async def fill(self, address: str, amount: int = 100) -> int:
        """An account with so many Ɉ."""
        account = await self.desk.open_user(address)
        gift = Transfer(new_id(self.clock), ISSUE, account, amount * J.unit, code=Code.CREDIT)
        assert await self.ledger.transfer([gift]) == [Result.DONE]
        return account

    async def send(
        self, credit: str, amount: str = "10", identity: str | None = ID, debit: str = ALICE
    ) -> TransferReply:
        """A transfer as a bridge asks for it."""
        request = UserTransferRequest(debit, credit, amount, id=identity)
        reply = await self.desk.answer(request)
        assert isinstance(reply, TransferReply)
        return reply

    def told(self) -> list[Event]:
        """What has come into the outbox since the last look."""
        waiting = [one for one in self.outbox.take_changes() if isinstance(one, Waiting)]
        return self.outbox.read(waiting)

    def balance(self, address: str) -> int:
        """Posted micro-J."""
        number = self.ledger.find(address)
        assert number is not None
        return self.ledger.balance(number, J).posted


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    clock = VirtualClock()
    with open_small(tmp_path / "ledger", clock) as ledger:
        yield House(ledger, clock)


async def refused(house: House, *arguments: str, **options: Any) -> Exception:
    """Why; nothing has changed, and nobody was told."""
    before, count = everything(house.ledger), len(house.ledger.accounts(0, 1000))
    with pytest.raises(OperationError) as caught:
        await house.send(*arguments, **options)
    assert everything(house.ledger) == before
    assert len(house.ledger.accounts(0, 1000)) == count
    assert house.told() == []
    return caught.value


# ---------------------------------------------------------------- accounts


async def test_a_users_account_is_opened_once(house: House) -> None:
    for _ in range(2):
        reply = await house.desk.answer(UserOpenRequest("tg:77"))
        assert isinstance(reply, AccountReply)
        assert (reply.account, reply.addresses) == ("6", ["tg:77"])
    opened: list[int] = []

    async def open_user() -> None:
        opened.append(await house.desk.open_user("tg:78"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(open_user)
    assert opened == [7] * 20


@pytest.mark.parametrize("address", ["user:a", PHONE, "issue", "tg:0", "tg:", "key:a", "tg:1x"])
async def test_a_bridge_opens_accounts_of_telegram_alone(house: House, address: str) -> None:
    before = everything(house.ledger)
    with pytest.raises(OperationError):
        await house.desk.answer(UserOpenRequest(address))
    assert everything(house.ledger) == before


async def test_a_new_user_is_welcomed_once(tmp_path: Path) -> None:
    clock = VirtualClock()
    with open_small(tmp_path / "welcome", clock) as ledger:
        house = House(ledger, clock, welcome="5")
        for _ in range(2):
            await house.desk.answer(UserOpenRequest(ALICE))
        assert house.balance(ALICE) == 5 * J.unit
        await house.send(PHONE, "1")
        assert house.balance(PHONE) == 6 * J.unit


# ---------------------------------------------------------------- transfers


async def test_a_transfer_is_done_once_with_its_fee_and_told_once(house: House) -> None:
    await house.fill(ALICE)
    bob = await house.fill(BOB, 1)
    replies = [await house.send(BOB) for _ in range(3)]
    expected = TransferReply(
        id=ID, debit="6", credit="7", amount="10.000000", currency="J", fee="1.000000"
    )
    assert replies == [expected] * 3
    assert (house.balance(ALICE), house.balance(BOB)) == (89 * J.unit, 11 * J.unit)
    (event,) = house.told()
    assert event.to == BOB
    assert event.body == TransferReceivedBody(
        amount="10.000000", currency="J", sender=ALICE, balance="11.000000"
    )
    assert event.expires_ms - event.created_ms == LIFETIME_S * 1000
    # Also where it had been delivered and erased when the answer got lost.
    await house.outbox.acknowledge(bytes.fromhex(event.id), "done")
    assert await house.send(BOB) == expected
    assert house.told() == []
    assert (await house.ledger.history(bob, limit=1))[0].transfer is not None


async def test_addresses_are_those_of_the_first_time(house: House) -> None:
    await house.fill(ALICE)
    await house.fill(BOB)
    first = await house.send(PHONE)
    await house.desk.answer(AccountLinkRequest(BOB, PHONE))
    assert await house.send(PHONE) == first
    assert (await house.send(PHONE, identity=OTHER_ID)).credit == "7"
    # Under the same id there is no other transfer, whatever differs.
    for arguments in ((PHONE, "11"), (OTHER_PHONE,), (BOB,)):
        error = await refused_quietly(house, *arguments)
        assert isinstance(error, TransferRefused)
        assert error.result is Result.ID_REUSED


async def refused_quietly(house: House, *arguments: str) -> Exception:
    house.told()
    return await refused(house, *arguments)


async def test_a_telephone_number_that_nobody_has_becomes_a_wallet(house: House) -> None:
    await house.fill(ALICE)
    # As it is written in its country.
    replies = [await house.send("8 (999) 123-45-67") for _ in range(2)]
    assert replies[0] == replies[1]
    assert house.balance(PHONE) == 10 * J.unit
    assert house.ledger.account(int(replies[0].credit)).addresses == (PHONE,)
    (event,) = house.told()
    assert (event.to, event.body) == (PHONE, SmsBody(f"{ALICE} 10.000000 10.000000"))
    assert (await verify(house.ledger)).ok


async def test_of_many_who_pay_a_new_number_at_once_each_is_done(house: House) -> None:
    await house.fill(ALICE)
    replies: list[TransferReply] = []

    async def send(identity: str) -> None:
        replies.append(await house.send(PHONE, "1", identity))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            # Each asks twice, as one does who has had no answer.
            for _ in range(2):
                nursery.start_soon(send, f"{number + 1:032x}")
    assert {reply.credit for reply in replies} == {"7"}
    assert house.balance(PHONE) == 20 * J.unit
    assert house.balance(ALICE) == 60 * J.unit
    assert len(house.told()) == 20


async def test_what_is_refused_leaves_no_wallet(house: House) -> None:
    await house.fill(ALICE, 10)
    for amount in ("10", "9.000001", "1000000000"):
        error = await refused(house, PHONE, amount)
        assert isinstance(error, TransferRefused)
        assert error.result is Result.NO_FUNDS
    assert house.ledger.find(PHONE) is None
    await house.ledger.freeze(6, True)
    error = await refused(house, PHONE, "1")
    assert isinstance(error, TransferRefused)
    assert error.result is Result.FROZEN
    assert house.ledger.find(PHONE) is None
    await house.ledger.freeze(6, False)
    await house.send(PHONE, "9")
    assert (house.balance(ALICE), house.balance(PHONE)) == (0, 9 * J.unit)


@pytest.mark.parametrize(
    ("credit", "code"),
    [
        ("tg:5", "no_account"),
        ("user:nobody", "no_account"),
        ("#99", "no_account"),
        ("99", "no_account"),
        ("112", "no_account"),
        ("fees", "own_account"),
        ("issue", "own_account"),
        ("#3", "own_account"),
        ("+7999", "no_address"),
        ("SPAM", "no_address"),
        ("+7999123456712345678", "no_address"),
        ("", "no_address"),
        ("\0", "no_address"),
        ("$(reboot)", "no_address"),
        (ALICE, "transfer_same_account"),
    ],
)
async def test_a_recipient_that_is_none_is_refused(house: House, credit: str, code: str) -> None:
    await house.fill(ALICE)
    error = await refused(house, credit)
    assert isinstance(error, OperationError)
    assert error.code == code


@pytest.mark.parametrize("amount", ["0", "-5", "1e9", "0.0000001", "", "NaN", "1" * 50, "1,5"])
async def test_an_amount_that_is_none_is_refused(house: House, amount: str) -> None:
    await house.fill(ALICE)
    await refused(house, PHONE, amount)
    assert house.ledger.find(PHONE) is None


async def test_only_users_pay(house: House) -> None:
    await house.fill(BOB)
    for debit, code in (("issue", "own_account"), ("tg:9", "no_account"), (PHONE, "no_account")):
        error = await refused(house, BOB, debit=debit)
        assert isinstance(error, OperationError)
        assert error.code == code


# ---------------------------------------------------------------- what stands beside it


async def test_what_goes_with_a_transfer_is_done_with_it_or_not_at_all(house: House) -> None:
    alice = await house.fill(ALICE, 12)
    noted: list[str] = []

    async def send(number: int, credit: str, amount: int) -> TransferReply:
        identity = number.to_bytes(16, "big")
        charge = Transfer((number + 100).to_bytes(16, "big"), alice, NODE, J.unit, code=Code.SMS)
        return await house.desk.user_transfer(
            alice,
            credit,
            amount * J.unit,
            J,
            identity,
            beside=[charge],
            side_writes=[SideWrite("deduplication", b"sms %d" % number, b"done")],
            also=lambda _: noted.append(credit),
        )

    for credit in (PHONE, ALICE):
        with pytest.raises(TransferRefused):
            await send(1, credit, 11)
    assert noted == []
    assert house.ledger.find(PHONE) is None
    assert house.ledger.read_side("deduplication", b"sms 1") is None
    for _ in range(2):
        reply = await send(2, PHONE, 10)
        assert (reply.amount, reply.fee) == ("10.000000", "1.000000")
    assert noted == [PHONE]
    assert (house.balance(ALICE), house.balance(PHONE)) == (0, 10 * J.unit)
    assert (house.balance("node"), house.balance("fees")) == (J.unit, J.unit)
    assert house.ledger.read_side("deduplication", b"sms 2") == b"done"
    (event,) = house.told()
    assert event.to == PHONE


async def test_what_goes_with_it_can_refuse_it(house: House) -> None:
    await house.fill(ALICE)
    await house.fill(BOB)
    before = everything(house.ledger)

    def refuse(_: Writing) -> None:
        raise OperationError("the limit of today is reached", "daily_limit")

    for credit in (BOB, PHONE):
        with pytest.raises(OperationError, match="limit of today"):
            await house.desk.user_transfer(ALICE, credit, J.unit, J, bytes.fromhex(ID), also=refuse)
    assert everything(house.ledger) == before
    assert house.ledger.find(PHONE) is None
    assert house.told() == []


# ---------------------------------------------------------------- who is told, and where


async def test_who_has_telegram_is_told_there_and_others_by_sms(house: House) -> None:
    await house.fill(ALICE)
    bob = await house.fill(BOB)
    await house.ledger.link(bob, PHONE)
    carol = await house.ledger.open_account(["user:carol", OTHER_PHONE])
    await house.ledger.open_account(["user:dora"])
    for number, credit in enumerate((PHONE, "user:carol", "user:dora"), 1):
        await house.send(credit, "1", f"{number:032x}")
    told = house.told()
    assert [event.to for event in told] == [BOB, OTHER_PHONE]
    assert [type(event.body) for event in told] == [TransferReceivedBody, SmsBody]
    with house.ledger.store.read() as tables:
        assert house.notices.telegram_of(tables, bob) == BOB
        assert house.notices.telegram_of(tables, carol) is None
        assert house.notices.phone_of(tables, bob) == PHONE
        assert house.notices.phone_of(tables, FEES) is None


async def test_a_sender_is_shown_as_they_have_sent(house: House) -> None:
    alice = await house.fill("user:alice")
    await house.ledger.link(alice, ALICE)
    await house.ledger.link(alice, PHONE)
    bob = await house.fill(BOB)
    await house.send(BOB, "1", "01" * 16, debit=PHONE)
    await house.send(BOB, "1", "02" * 16, debit=ALICE)
    await house.desk.user_transfer(alice, bob, J.unit, J, bytes.fromhex("03" * 16))
    senders = [event.body.sender for event in house.told() if hasattr(event.body, "sender")]
    assert senders == [PHONE, ALICE, "user:alice"]


async def test_no_account_is_opened_that_nobody_could_be_told_of(house: House) -> None:
    await house.fill(ALICE)
    silent = Notices(house.outbox, house.ledger, telegram=True)
    mute = Desk(house.ledger, house.clock, house.config, silent)
    phone = "+436641234567"
    for desk, code in ((house.desk, "payee_country"), (mute, "payee_no_sms")):
        with pytest.raises(PayeeRefused) as refused_by:
            await desk.answer(UserTransferRequest(ALICE, phone, "1", id=ID))
        assert refused_by.value.code == code
        assert house.ledger.find(phone) is None
    await house.desk.open_user(phone)
    await mute.answer(UserTransferRequest(ALICE, phone, "1", id=ID))
    account = house.ledger.find(phone)
    assert account is not None
    assert house.ledger.balance(account, J).posted == J.unit


async def test_where_nothing_is_configured_nobody_is_told(house: House) -> None:
    await house.fill(ALICE)
    bob = await house.fill(BOB)
    await house.ledger.link(bob, PHONE)
    silent = Notices(house.outbox, house.ledger, telegram=False)
    desk = Desk(house.ledger, house.clock, house.config, silent)
    await desk.answer(UserTransferRequest(ALICE, BOB, "1", id=ID))
    with house.ledger.store.read() as tables:
        assert tables.count(OUTBOX) == 0
        assert silent.telegram_of(tables, bob) is None
    silent.by_sms = house.write_sms
    await desk.answer(UserTransferRequest(ALICE, BOB, "1", id=OTHER_ID))
    assert [event.to for event in house.told()] == [PHONE]


async def test_another_currency_is_told_in_its_places(house: House) -> None:
    alice = await house.fill(ALICE)
    await house.fill(BOB)
    gift = Transfer(new_id(house.clock), ISSUE, alice, 5 * EMC.unit, EMC.number)
    await house.ledger.transfer([gift])
    await house.desk.answer(UserTransferRequest(ALICE, BOB, "2", "EMC", ID))
    (event,) = house.told()
    assert event.body == TransferReceivedBody(
        amount="2.00000000", currency="EMC", sender=ALICE, balance="2.00000000"
    )


async def test_an_outbox_that_is_full_keeps_nobody_from_paying(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.outbox.CHATTER_MAXIMUM", 1)
    await house.fill(ALICE)
    await house.fill(BOB)
    for number in range(1, 4):
        await house.send(BOB, "1", f"{number:032x}")
    assert house.balance(BOB) == 103 * J.unit
    assert len(house.told()) == 1
    assert house.outbox.outcomes() == {"dropped": 2}
