"""Calls that bridges ask for, over a real ledger, outbox and metering, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from billing.charging import Charging
from billing.desk import Desk
from billing.ledger import NODE, LmdbLedger
from billing.money import J, format_amount, parse_amount_untrusted
from billing.notices import Notices
from billing.outbox import Outbox, Waiting
from billing.tables import HANG_UPS, OUTBOX
from billing.transfers import TransferRefused
from core.api.bridge_messages import (
    CallHangUpRequest,
    CallQuoteReply,
    CallQuoteRequest,
    CallRejectRequest,
    CallSideReply,
    CallSideRequest,
    CallStartRequest,
    Event,
    ReceiptBody,
    RingBody,
    RingOverBody,
    SmsBody,
    effect_id,
)
from core.api.messages import CallEndReply, CallLinkReply
from core.bridge_config import BridgesConfig
from core.clock import VirtualClock
from core.config import BillingConfig, NodeConfig, SignalingConfig, TurnConfig
from core.errors import OperationError, SignalingError
from core.identity import Identity
from core.sms_parts import sms_parts
from core.stun.address import Address
from core.tables import Writing
from relay.credential_issuer import CredentialIssuer
from relay.event_source import EventSource
from relay.signaling.account_desk import AccountDesk
from relay.signaling.bridge_calls import INVITATION_S
from relay.signaling.call_states import Status
from relay.signaling.calls import PENDING_S, RINGING_S
from relay.signaling.hang_ups import KEPT
from relay.signaling.service import Signaling
from tests.support.call_world import RELAY, World, description
from tests.support.signaling_channel import FakeChannel
from tests.support.small_ledger import open_small
from tests.support.telegram_user import CONFIG, init_data

pytestmark = pytest.mark.trio

ANN, BEN, PHONE, PHONE_RU = "tg:5", "tg:6", "+4915112345678", "+79161234567"
TARIFF = BillingConfig().tariff
SMS_PRICE = parse_amount_untrusted(TARIFF["sms"].command)
AGREED = format_amount(SMS_PRICE)
VOICE_PRICE = parse_amount_untrusted(TARIFF["voice"].second)


class Sender:
    """Sends SMS through the real outbox; `left` is what the operator still allows."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.left = 1_000

    def may_send(self, phone: str, parts: int) -> bool:
        assert phone.startswith("+")
        return self.left >= parts

    def put_sms(
        self, writing: Writing, phone: str, text: str, *, key: bytes, lifetime_s: int
    ) -> None:
        assert lifetime_s == 15 * 60
        assert writing.count(OUTBOX) < 100
        parts = sms_parts(text)
        if not self.may_send(phone, parts):
            raise OperationError("no more SMS are sent today", "sms_budget")
        body = SmsBody(text)
        assert self.outbox.put(writing, "twilio", phone, body, key=key, lifetime_s=lifetime_s)
        writing.after_commit(lambda: self._count(parts))

    def _count(self, parts: int) -> None:
        self.left -= parts


class Bridged(World):
    """A node's signaling with an outbox, and what waits there for bridges."""

    def __init__(self, ledger: LmdbLedger, clock: VirtualClock, **config: Any) -> None:
        super().__init__(ledger, clock)
        self.outbox = Outbox(ledger.store, clock)
        self.sms = Sender(self.outbox)
        self.source = EventSource(self.outbox, clock)
        self.desk = Desk(ledger, clock, BillingConfig())
        relay = ip_address(RELAY).packed
        self.signaling = Signaling(
            NodeConfig(
                data_dir=Path(),
                turn=TurnConfig(listen=(), relay_addresses=(relay,)),
                signaling=SignalingConfig(**({"message_burst": 10_000} | config)),
                bridges=BridgesConfig(telegram=CONFIG),
            ),
            Identity(bytes(32)),
            clock,
            ledger,
            self.desk,
            self.metering,
            CredentialIssuer(["a secret of the tests"], [Address(relay, 3478)], clock),
            self.outbox,
            Notices(self.outbox, ledger, telegram=True),
            lambda body, timeout_s: self.source.ask("telegram", body, timeout_s),
            lambda: "https://node.example",
        )
        self.signaling.use_sms(self.sms)
        self.calls = self.signaling.calls
        self.hub = self.signaling.hub
        self._waiting: dict[bytes, Waiting] = {}

    def waiting(self) -> list[Event]:
        """What waits for bridges now, in its order."""
        for change in self.outbox.take_changes():
            if isinstance(change, Waiting):
                self._waiting[change.id] = change
            else:
                self._waiting.pop(change, None)
        return self.outbox.read(sorted(self._waiting.values(), key=lambda one: one.sequence))

    async def take(self, to: str) -> list[Any]:
        """What a recipient is told; the bridge has said that it was."""
        taken = [event for event in self.waiting() if event.to == to]
        for event in taken:
            await self.outbox.acknowledge(bytes.fromhex(event.id), "done")
        return [event.body for event in taken]

    async def start(self, caller: str, callee: str, **more: Any) -> CallLinkReply:
        reply = await self.ask(CallStartRequest(caller, callee, **more))
        assert isinstance(reply, CallLinkReply)
        return reply

    async def ask(self, request: Any) -> Any:
        """As a bridge does; the metering ticks meanwhile."""
        return await self.ticking(self.signaling.answer_bridge, request)

    async def quote(self, caller: str, callee: str, kind: Any = "voice") -> CallQuoteReply:
        reply = await self.ask(CallQuoteRequest(caller, callee, kind))
        assert isinstance(reply, CallQuoteReply)
        return reply

    async def open(self, url: str) -> FakeChannel:
        """A page that opens a call's link."""
        call, _, secret = url.partition("?id=")[2].partition("#")
        page = FakeChannel(self.hub)
        await page.ask("open_call", call=call, secret=secret)
        await self.stored()
        return page

    async def stored(self) -> None:
        """Wait until what was to be stored by now is."""
        await self.ledger.store.write(lambda _writing: None)


@asynccontextmanager
async def open_bridged(
    folder: Path, clock: VirtualClock | None = None, **config: Any
) -> AsyncIterator[Bridged]:
    clock = clock or VirtualClock(monotonic_ns=1_900_000_000)
    with open_small(folder, clock) as ledger:
        async with trio.open_nursery() as nursery:
            world = Bridged(ledger, clock, **config)
            await Charging(ledger).recover()
            await world.calls.recover()
            nursery.start_soon(world.hub.run)
            await trio.testing.wait_all_tasks_blocked()
            yield world
            nursery.cancel_scope.cancel()


async def refusal(world: Bridged, request: Any) -> str:
    with pytest.raises((SignalingError, OperationError)) as refused:
        await world.signaling.answer_bridge(request)
    assert isinstance(refused.value, SignalingError | OperationError)
    return refused.value.code


async def test_a_quote_says_how_the_callee_hears_of_it_and_what_that_costs(tmp_path: Path) -> None:
    async with open_bridged(tmp_path) as world:
        await world.account(ANN, 100)
        await world.account(BEN)
        await world.account("user:carl")
        quote = await world.quote(ANN, BEN)
        assert quote == CallQuoteReply(
            reach="telegram",
            price_second=format_amount(VOICE_PRICE),
            minimum=format_amount(60 * VOICE_PRICE),
            available=format_amount(100 * J.unit),
            sms_price=format_amount(0),
        )
        quote = await world.quote(ANN, PHONE, "video")
        assert quote.reach == "sms"
        assert quote.sms_price == format_amount(SMS_PRICE)
        video = parse_amount_untrusted(TARIFF["video"].second)
        assert quote.minimum == format_amount(60 * video + SMS_PRICE)
        # In Russian it takes two SMS, and both are paid for.
        assert (await world.quote(ANN, PHONE_RU)).sms_price == format_amount(2 * SMS_PRICE)
        world.sms.left = 1
        assert (await world.quote(ANN, PHONE_RU)).reach == "none"
        assert (await world.quote(ANN, PHONE)).reach == "sms"
        assert (await world.quote(ANN, "user:carl")).reach == "none"
        assert (await world.quote(ANN, "tg:999")).reach == "none", "who has never come is not told"
        world.sms.left = 0
        assert (await world.quote(ANN, PHONE)).reach == "none"
        page = FakeChannel(world.hub)
        now_s = int(world.clock.unix_s())
        dora = await page.ask("sign_in", init_data=init_data(7, now_s))
        assert dora["address"] == "tg:7"
        assert (await world.quote(ANN, "tg:7")).reach == "telegram"
        assert await refusal(world, CallQuoteRequest(ANN, ANN)) == "blocked"
        assert await refusal(world, CallQuoteRequest("tg:404", BEN)) == "no-account"
        assert not world.waiting()


async def test_a_call_is_started_once_for_its_id_also_over_a_start_of_the_node(
    tmp_path: Path,
) -> None:
    clock = VirtualClock(monotonic_ns=1_900_000_000)
    request = CallStartRequest(ANN, BEN, id=effect_id("telegram", "update 7"))
    async with open_bridged(tmp_path, clock) as world:
        await world.account(ANN, 1_000)
        await world.account(BEN)
        replies: list[CallLinkReply] = []

        async def start() -> None:
            replies.append(await world.signaling.answer_bridge(request))  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(start)
        first = replies[0]
        assert set(replies) == {first}
        assert len(world.calls.living()) == 1
        other = await world.start(ANN, BEN, id=effect_id("telegram", "update 8"))
        assert other.call_id != first.call_id
        # What is asked again is not one of the calls that may be begun in a minute.
        for _ in range(20):
            assert await world.ask(request) == first
    async with open_bridged(tmp_path, clock) as world:
        assert await world.ask(request) == first
        await world.ask(CallHangUpRequest(first.call_id, ANN))
        assert await world.ask(request) == first, "nor is one made anew that is over"
        assert len(world.calls.living()) == 1


async def test_calls_a_minute_and_busy_hold_for_bridges(tmp_path: Path) -> None:
    async with open_bridged(tmp_path, calls_per_minute=3) as world:
        for who in (ANN, BEN, "tg:7"):
            await world.account(who, 1_000)
        link = await world.start(ANN, BEN)
        await world.open(link.caller_url)
        assert await refusal(world, CallStartRequest("tg:7", BEN)) == "busy"
        assert await refusal(world, CallStartRequest(ANN, "tg:7")) == "busy"
        assert await refusal(world, CallStartRequest(ANN, "tg:7")) == "busy"
        assert await refusal(world, CallStartRequest(ANN, "tg:7")) == "too-many"
        await world.ask(CallHangUpRequest(None, ANN))
        await world.start("tg:7", BEN)


async def test_it_rings_in_telegram_when_the_caller_has_come_and_no_longer_than_it_rings(
    tmp_path: Path,
) -> None:
    async with open_bridged(tmp_path) as world:
        await world.account(ANN, 1_000)
        await world.account(BEN)
        link = await world.start(ANN, BEN, kind="video")
        await world.seconds(3)
        assert not world.waiting(), "a callee who answered now would find nobody"
        caller = await world.open(link.caller_url)
        (ring,) = world.waiting()
        assert ring.to == BEN
        assert ring.body == RingBody(link.call_id, ANN, "video", link.callee_url)
        assert ring.expires_ms == ring.created_ms + RINGING_S * 1000
        assert world.call(link.call_id).status is Status.RINGING
        # A page that is opened anew rings no second time.
        caller.close()
        await world.open(link.caller_url)
        assert world.waiting() == [ring]
        await world.seconds(RINGING_S + 1)
        assert await world.take(BEN) == [RingOverBody(link.call_id, "missed", 0)]
        (receipt,) = await world.take(ANN)
        assert receipt == ReceiptBody(
            call=link.call_id,
            other=BEN,
            kind="video",
            seconds=0,
            cost=format_amount(0),
            balance=format_amount(1_000 * J.unit),
            reason="missed",
        )


async def test_a_ring_is_told_of_in_the_transaction_that_stores_it(tmp_path: Path) -> None:
    clock = VirtualClock(monotonic_ns=1_900_000_000)
    async with open_bridged(tmp_path, clock) as world:
        await world.account(ANN, 1_000)
        await world.account(BEN)
        link = await world.start(ANN, BEN)
        await world.open(link.caller_url)
        # No second has gone by: what a kill leaves now is what is stored.
        assert world.calls.records.find(link.call_id) == world.call(link.call_id)
    async with open_bridged(tmp_path, clock) as world:
        assert [event.body for event in world.waiting()] == [
            RingBody(link.call_id, ANN, "voice", link.callee_url)
        ]
        assert world.call(link.call_id).status is Status.RINGING
        await world.seconds(RINGING_S + 1)
        assert await world.take(BEN) == [RingOverBody(link.call_id, "missed", 0)]


async def test_an_answered_call_is_told_of_to_both_and_what_it_cost_to_who_paid(
    tmp_path: Path,
) -> None:
    async with open_bridged(tmp_path) as world:
        ann = await world.account(ANN, 1_000)
        await world.account(BEN)
        link = await world.start(ANN, BEN)
        await world.open(link.caller_url)
        assert len(await world.take(BEN)) == 1
        await world.open(link.callee_url)
        world.calls.set_offer(link.call_id, description())
        await world.calls.answer_call(link.call_id, description())
        await world.seconds(1)
        assert await world.take(BEN) == [RingOverBody(link.call_id, "active", 0)]
        world.connect(link.call_id)
        await world.seconds(7, link.call_id)
        reply = await world.ask(CallHangUpRequest(None, BEN))
        assert isinstance(reply, CallEndReply)
        seconds = reply.call.seconds
        assert seconds >= 6
        cost = seconds * VOICE_PRICE
        over, received = await world.take(BEN)
        assert over == RingOverBody(link.call_id, "ended", seconds)
        assert (received.cost, received.balance, received.other) == ("", "", ANN)
        (receipt,) = await world.take(ANN)
        left = world.ledger.balance(ann, J).posted
        assert left == 1_000 * J.unit - cost
        assert receipt == ReceiptBody(
            call=link.call_id,
            other=BEN,
            kind="voice",
            seconds=seconds,
            cost=format_amount(cost),
            balance=format_amount(left),
            reason="hung-up",
        )
        await world.seconds(3)
        assert not world.waiting(), "nothing is told twice"


@pytest.mark.parametrize("gives_up", ["hangs up", "lets it wait", "hangs up after a start"])
async def test_who_was_given_a_call_before_it_rang_is_told_when_it_is_over(
    tmp_path: Path, gives_up: str
) -> None:
    clock = VirtualClock(monotonic_ns=1_900_000_000)
    async with open_bridged(tmp_path, clock) as world:
        await world.account(ANN, 1_000)
        await world.account(BEN)
        link, other = await world.start(ANN, BEN), await world.start(ANN, BEN)
        for _ in range(2):
            side = await world.ask(CallSideRequest(link.call_id, BEN))
            assert side.status == "pending"
        # Of the caller's own side, and of a call that nobody was given, nobody is told.
        await world.ask(CallSideRequest(other.call_id, ANN))
        if gives_up == "hangs up":
            for call in (link, other):
                await world.ask(CallHangUpRequest(call.call_id, ANN))
        elif gives_up == "lets it wait":
            clock.advance_s(PENDING_S)
            await world.seconds(2)
        else:
            await world.seconds(1)
    async with open_bridged(tmp_path, clock) as world:
        if gives_up == "hangs up after a start":
            for call in (link, other):
                await world.ask(CallHangUpRequest(call.call_id, ANN))
        assert not world.calls.living()
        assert await world.take(BEN) == [RingOverBody(link.call_id, "missed", 0)]
        assert {type(body) for body in await world.take(ANN)} <= {ReceiptBody}
        # Who looks again is told of what it is, and no second time.
        side = await world.ask(CallSideRequest(link.call_id, BEN))
        assert side.status == "missed"
        await world.seconds(2)
        assert not await world.take(BEN)


async def test_a_call_that_was_given_and_then_rang_is_told_to_be_over_as_others_are(
    tmp_path: Path,
) -> None:
    async with open_bridged(tmp_path) as world:
        await world.account(ANN, 1_000)
        ben = await world.account(BEN)
        link = await world.start(ANN, BEN)
        await world.ask(CallSideRequest(link.call_id, BEN))
        await world.open(link.caller_url)
        assert [type(body) for body in await world.take(BEN)] == [RingBody]
        await world.ask(CallHangUpRequest(link.call_id, ANN))
        assert await world.take(BEN) == [RingOverBody(link.call_id, "missed", 0)]
        # It rings on no page and in no Telegram, and is answered by its link.
        await world.calls.blocks.set_untrusted(ben, ANN, False)
        answered = await world.start(ANN, BEN)
        await world.ask(CallSideRequest(answered.call_id, BEN))
        await world.calls.blocks.set_untrusted(ben, ANN, True)
        await world.open(answered.caller_url)
        await world.open(answered.callee_url)
        assert not await world.take(BEN)
        world.calls.set_offer(answered.call_id, description())
        await world.calls.answer_call(answered.call_id, description())
        await world.seconds(1)
        assert await world.take(BEN) == [RingOverBody(answered.call_id, "active", 0)]
        await world.ask(CallHangUpRequest(answered.call_id, ANN))
        assert RingOverBody not in [type(body) for body in await world.take(BEN)]


async def test_who_is_given_a_call_that_ends_meanwhile_is_told_of_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_bridged(tmp_path) as world:
        await world.account(ANN, 1_000)
        await world.account(BEN)
        link = await world.start(ANN, BEN)
        store = world.calls.store_changes

        async def end_meanwhile() -> None:
            monkeypatch.undo()
            await store()
            await world.ask(CallHangUpRequest(link.call_id, ANN))

        monkeypatch.setattr(world.calls, "store_changes", end_meanwhile)
        side = await world.ask(CallSideRequest(link.call_id, BEN))
        assert (side.role, side.status) == ("callee", "missed")


async def test_of_a_call_that_was_answered_it_is_not_noted_who_was_given_it(
    tmp_path: Path,
) -> None:
    async with open_bridged(tmp_path) as world:
        await world.account(ANN, 1_000)
        await world.account(BEN)
        link = await world.start(ANN, BEN)
        await world.open(link.caller_url)
        await world.open(link.callee_url)
        world.calls.set_offer(link.call_id, description())
        await world.calls.answer_call(link.call_id, description())
        side = await world.ask(CallSideRequest(link.call_id, BEN))
        assert side.status == "active"
        await world.seconds(1)
        stored = world.calls.records.find(link.call_id)
        assert stored is not None
        assert (stored.status, stored.shown_address) == (Status.ACTIVE, "")


async def test_who_is_blocked_rings_in_no_telegram(tmp_path: Path) -> None:
    async with open_bridged(tmp_path) as world:
        await world.account(ANN, 1_000)
        ben = await world.account(BEN)
        link = await world.start(ANN, BEN)
        await world.calls.blocks.set_untrusted(ben, ANN, True)
        await world.open(link.caller_url)
        await world.seconds(2)
        assert not world.waiting()
        assert await refusal(world, CallStartRequest(ANN, BEN)) == "blocked"
        assert await refusal(world, CallQuoteRequest(ANN, BEN)) == "blocked"


async def test_a_callee_who_is_linked_is_rung_in_telegram_by_any_address(tmp_path: Path) -> None:
    async with open_bridged(tmp_path) as world:
        await world.account(ANN, 1_000)
        ben = await world.account(BEN)
        await world.ledger.link(ben, PHONE)
        assert (await world.quote(ANN, PHONE)).reach == "telegram"
        link = await world.start(ANN, PHONE)
        await world.open(link.caller_url)
        assert [(event.to, type(event.body)) for event in world.waiting()] == [(BEN, RingBody)]


@pytest.mark.parametrize(
    ("phone", "words", "parts"),
    [(PHONE, "Someone in Telegram calls you.", 1), (PHONE_RU, "Звонит кто-то из Telegram,", 2)],
)
async def test_a_telephone_is_sent_the_link_and_the_caller_pays_for_it(
    tmp_path: Path, phone: str, words: str, parts: int
) -> None:
    async with open_bridged(tmp_path) as world:
        ann = await world.account(ANN, 1_000)
        node = world.ledger.balance(NODE, J).posted
        identity = effect_id("telegram", "call", "9")
        price = parts * SMS_PRICE
        agreed = format_amount(price)
        link = await world.start(ANN, phone, id=identity, sms_price=agreed)
        (event,) = world.waiting()
        assert event.to == phone
        assert isinstance(event.body, SmsBody)
        assert link.callee_url in event.body.text
        assert event.body.text.startswith(words)
        assert ANN not in event.body.text
        assert sms_parts(event.body.text) == parts
        assert (await world.quote(ANN, phone)).sms_price == format_amount(price)
        # Asked again, and again after the SMS has gone: neither sent nor paid for twice.
        for _ in range(2):
            assert await world.start(ANN, phone, id=identity) == link
            await world.take(phone)
        assert world.sms.left == 1_000 - parts
        assert world.ledger.balance(ann, J).posted == 1_000 * J.unit - price
        assert world.ledger.balance(NODE, J).posted == node + price
        await world.open(link.callee_url)
        assert world.call(link.call_id).status is Status.PENDING
        await world.open(link.caller_url)
        assert world.call(link.call_id).status is Status.RINGING
        assert not [event for event in world.waiting() if isinstance(event.body, RingBody)]


@pytest.mark.parametrize(
    ("caller", "username", "name"),
    [
        (ANN, "ann_1", "@ann_1 (Telegram) calls you."),
        (ANN, "Your bank: evil.example", "Someone in Telegram calls you."),
        (PHONE_RU, "", f"{PHONE_RU} calls you."),
        ("key:" + "a" * 52, "ann_1", "Someone calls you."),
        ("user:carl", "", "user:carl calls you."),
    ],
)
async def test_an_invitation_names_the_caller_as_the_callee_may_know_them(
    tmp_path: Path, caller: str, username: str, name: str
) -> None:
    async with open_bridged(tmp_path) as world:
        account = await world.account(caller, 1_000)
        request = CallQuoteRequest(caller, PHONE, username=username)
        shown = (await world.ask(request)).sms_price
        quoted = parse_amount_untrusted(shown)
        await world.start(caller, PHONE, username=username, sms_price=shown)
        (event,) = world.waiting()
        assert isinstance(event.body, SmsBody)
        assert event.body.text.startswith(name)
        assert world.ledger.balance(account, J).posted == 1_000 * J.unit - quoted


async def test_a_link_that_was_sent_leads_nowhere_after_a_quarter_of_an_hour(
    tmp_path: Path,
) -> None:
    clock = VirtualClock(monotonic_ns=1_900_000_000)
    async with open_bridged(tmp_path, clock) as world:
        await world.account(ANN, 1_000)
        link = await world.start(ANN, PHONE, sms_price=AGREED)
        waits = await world.start(ANN, BEN)
    clock.advance_s(INVITATION_S - 2)
    async with open_bridged(tmp_path, clock) as world:
        await world.seconds(1)
        assert world.call(link.call_id).status is Status.PENDING
        await world.seconds(2)
        assert world.call(link.call_id).status is Status.MISSED
        assert world.call(waits.call_id).status is Status.PENDING
        (receipt,) = await world.take(ANN)
        assert (receipt.call, receipt.reason, receipt.cost) == (
            link.call_id,
            "missed",
            format_amount(0),
        )
        page = await world.open(link.callee_url)
        assert {"type": "ended", "reason": "missed"} in page.heard


async def test_what_can_not_be_sent_or_paid_for_is_no_call(tmp_path: Path) -> None:
    async with open_bridged(tmp_path) as world:
        ann = await world.account(ANN, 60)
        # Enough for the first minute, and not for the SMS besides.
        assert 60 * J.unit == 60 * VOICE_PRICE
        request = CallStartRequest(ANN, PHONE, id="a" * 32, sms_price=AGREED)
        assert await refusal(world, request) == "no-money"
        await world.bench.credit(ann, 1)
        assert parse_amount_untrusted((await world.quote(ANN, PHONE)).minimum) == 61 * J.unit
        before = world.ledger.balance(ann, J)
        put = world.sms.put_sms

        def refuse(*_: object, **__: object) -> None:
            raise OperationError("no more SMS are sent today", "sms_budget")

        world.sms.put_sms = refuse  # type: ignore[method-assign]
        assert await refusal(world, request) == "sms_budget"
        assert world.ledger.balance(ann, J) == before
        assert not world.calls.living()
        assert not world.calls.page_untrusted(ann, None, 10).calls
        assert not world.waiting()
        # The same id may be tried again, and is done then.
        world.sms.put_sms = put  # type: ignore[method-assign]
        await world.start(ANN, PHONE, id="a" * 32, sms_price=AGREED)
        assert len(world.waiting()) == 1
        assert world.ledger.balance(ann, J).posted == before.posted - SMS_PRICE


async def test_no_sms_is_sent_that_costs_more_than_was_agreed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_page: list[int] = []
    monkeypatch.setattr(AccountDesk, "has_page", lambda _desk, account: account in with_page)
    async with open_bridged(tmp_path) as world:
        ann = await world.account(ANN, 1_000)
        with_page.append(await world.account(PHONE))
        quote = await world.quote(ANN, PHONE)
        assert quote.reach == "page"
        # The page is closed while the caller reads what it costs.
        with_page.clear()
        request = CallStartRequest(ANN, PHONE, id="a" * 32, sms_price=quote.sms_price)
        assert await refusal(world, request) == "sms-price"
        smaller = CallStartRequest(ANN, PHONE, sms_price=format_amount(SMS_PRICE - 1))
        for unagreed in (CallStartRequest(ANN, PHONE), smaller):
            assert await refusal(world, unagreed) == "sms-price"
        unreadable = CallStartRequest(ANN, PHONE, sms_price="free")
        assert await refusal(world, unreadable) == "no_amount"
        assert world.ledger.balance(ann, J).posted == 1_000 * J.unit
        assert not world.calls.living()
        assert not world.waiting()
        # What was agreed to then is done; asked for again it is not held against another price.
        shown = (await world.quote(ANN, PHONE)).sms_price
        made = await world.ask(msgspec.structs.replace(request, sms_price=shown))
        assert await world.ask(request) == made
        assert world.ledger.balance(ann, J).posted == 1_000 * J.unit - SMS_PRICE
        assert len(world.waiting()) == 1


async def test_of_calls_that_can_be_paid_for_once_one_is_made(tmp_path: Path) -> None:
    async with open_bridged(tmp_path, calls_per_minute=100) as world:
        ann = await world.account(ANN, 61)
        made: list[object] = []

        request = CallStartRequest(ANN, PHONE, sms_price=AGREED)

        async def start(number: int) -> None:
            with suppress(SignalingError, TransferRefused):
                made.append(await world.signaling.answer_bridge(request))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(start, number)
        assert world.ledger.balance(ann, J).posted == (61 - len(made)) * J.unit
        assert len(world.waiting()) == len(made) == len(world.calls.living())
        assert made


async def test_sides_belong_to_addresses(tmp_path: Path) -> None:
    async with open_bridged(tmp_path) as world:
        await world.account(ANN, 1_000)
        ben = await world.account(BEN)
        await world.ledger.link(ben, PHONE)
        await world.account("tg:7")
        link = await world.start(ANN, BEN)
        for address, url, role, other in (
            (ANN, link.caller_url, "caller", BEN),
            (BEN, link.callee_url, "callee", ANN),
            (PHONE, link.callee_url, "callee", ANN),
        ):
            side = await world.ask(CallSideRequest(link.call_id, address))
            assert isinstance(side, CallSideReply)
            assert (side.url, side.role, side.other) == (url, role, other)
            assert (side.status, side.kind) == ("pending", "voice")
        for address in ("tg:7", "tg:404", "+49", "nobody", "fees"):
            assert await refusal(world, CallSideRequest(link.call_id, address)) == "no-call"
            assert await refusal(world, CallHangUpRequest(link.call_id, address)) == "no-call"
            assert await refusal(world, CallHangUpRequest(None, address)) == "no-call"
            assert await refusal(world, CallRejectRequest(link.call_id, address)) == "no-call"
        assert await refusal(world, CallSideRequest("CALL-AAAAAAAA", ANN)) == "no-call"
        assert await refusal(world, CallRejectRequest(link.call_id, ANN)) == "no-call"
        # Who was called before they had an account has the side still.
        phone_link = await world.start(ANN, "+4915187654321", sms_price=AGREED)
        await world.account("+4915187654321")
        side = await world.ask(CallSideRequest(phone_link.call_id, "+4915187654321"))
        assert side.url == phone_link.callee_url


async def test_rejecting_and_hanging_up_say_the_same_when_repeated(tmp_path: Path) -> None:
    async with open_bridged(tmp_path) as world:
        await world.account(ANN, 1_000)
        await world.account(BEN)
        link = await world.start(ANN, BEN)
        await world.open(link.caller_url)
        # The callee, who names none, means what rings, and the caller the same.
        first = await world.ask(CallRejectRequest(link.call_id, BEN))
        assert first.call.status == "rejected"
        assert await world.ask(CallRejectRequest(link.call_id, BEN)) == first
        assert await world.ask(CallHangUpRequest(link.call_id, ANN)) == first
        assert await world.take(BEN) == [RingOverBody(link.call_id, "rejected", 0)]
        waiting = await world.start(ANN, BEN)
        # It was not told of yet, so that its callee can't mean it.
        assert await refusal(world, CallHangUpRequest(None, BEN)) == "no-call"
        ended = await world.ask(CallHangUpRequest(None, ANN))
        assert (ended.call.id, ended.call.status) == (waiting.call_id, "missed")


async def test_who_names_no_call_means_the_same_one_when_repeated(tmp_path: Path) -> None:
    clock = VirtualClock(monotonic_ns=1_900_000_000)
    none, one = (
        CallHangUpRequest(None, ANN, effect_id("telegram", f"update {number}")) for number in (1, 2)
    )
    async with open_bridged(tmp_path, clock) as world:
        await world.account(ANN, 1_000)
        await world.account(BEN)
        assert await refusal(world, none) == "no-call"
        first = await world.start(ANN, BEN)
        assert await refusal(world, none) == "no-call"
        replies: list[object] = []

        async def hang_up() -> None:
            replies.append((await world.ask(one)).call.id)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(hang_up)
        assert replies == [first.call_id] * 3
        assert not world.calls.living()
        ended = await world.ask(one)
        assert ended.call.status == "missed"
        following = await world.start(ANN, BEN)
    async with open_bridged(tmp_path, clock) as world:
        assert await world.ask(one) == ended
        assert await refusal(world, none) == "no-call"
        assert [info.id for info in world.calls.living()] == [following.call_id]
        # It is no more than the last ones that are kept, and each hangs up but once.
        for number in range(2 * KEPT):
            request = CallHangUpRequest(None, ANN, effect_id("telegram", f"update 1{number}"))
            if number:
                assert await refusal(world, request) == "no-call"
            else:
                assert (await world.ask(request)).call.id == following.call_id
        with world.ledger.store.read() as tables:
            ((_, kept),) = tables.items(HANG_UPS, limit=2)
        assert len(msgspec.msgpack.decode(kept)) == KEPT


async def test_a_side_is_opened_by_what_telegram_has_signed(tmp_path: Path) -> None:
    async with open_bridged(tmp_path) as world:
        await world.account(ANN, 1_000)
        await world.account(BEN)
        link = await world.start(ANN, BEN)
        now_s = int(world.clock.unix_s())
        caller, callee, stranger = (FakeChannel(world.hub) for _ in range(3))
        entered = await caller.ask("open_call", call=link.call_id, init_data=init_data(5, now_s))
        await world.stored()
        assert entered["call"]["role"] == "caller"
        assert f"#{entered['secret']}" in link.caller_url
        assert isinstance(world.waiting()[0].body, RingBody)
        entered = await callee.ask("open_call", call=link.call_id, init_data=init_data(6, now_s))
        assert entered["call"]["role"] == "callee"
        for shown, code in (
            ({"init_data": init_data(7, now_s)}, "bad-secret"),
            ({"init_data": init_data(6, now_s - 4_000)}, "stale-proof"),
            ({"init_data": init_data(6, now_s) + "&user=5"}, "bad-proof"),
            ({}, "proof-needed"),
        ):
            answer = await stranger.ask("open_call", call=link.call_id, **shown)
            assert (answer["type"], answer["code"]) == ("error", code)
        again = FakeChannel(world.hub)
        secret = link.callee_url.partition("#")[2]
        entered = await again.ask("open_call", call=link.call_id, secret=secret)
        assert entered["call"]["role"] == "callee"
        assert "secret" not in entered or entered["secret"] is None


async def test_an_account_is_used_by_what_telegram_has_signed(tmp_path: Path) -> None:
    async with open_bridged(tmp_path) as world:
        ann = await world.account(ANN, 1_000)
        now_s = int(world.clock.unix_s())
        page = FakeChannel(world.hub)
        signed_in = await page.ask("sign_in", init_data=init_data(5, now_s))
        assert signed_in["address"] == ANN
        assert (await page.ask("account"))["number"] == ann
        refused = await FakeChannel(world.hub).ask("sign_in", init_data="user=5")
        assert refused["code"] == "bad-proof"
        assert (await FakeChannel(world.hub).ask("sign_in"))["code"] == "proof-needed"
        # It rings on that page, too.
        await world.account(BEN, 1_000)
        link = await world.start(BEN, ANN)
        await world.open(link.caller_url)
        assert (await page.take(type="ringing"))["call"] == link.call_id
        assert [event.to for event in world.waiting()] == [ANN]
