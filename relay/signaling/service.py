"""Signaling as the node has it: joins the hub with its desks, the calls and the rooms."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import trio

from billing.desk import Desk as LedgerDesk
from billing.ledger import LmdbLedger
from billing.money import format_amount
from billing.notices import Notices
from billing.outbox import Outbox
from billing.tariff import tariff_line
from core.api.bridge_messages import (
    BridgeReply,
    CallHangUpRequest,
    CallQuoteRequest,
    CallRejectRequest,
    CallSideRequest,
    CallStartRequest,
)
from core.api.messages import (
    CallEndReply,
    CallEndRequest,
    CallItem,
    CallLinkReply,
    CallLinkRequest,
    CallListReply,
    CallListRequest,
    RoomLinkReply,
    SignalingReply,
    SignalingRequest,
)
from core.clock import Clock
from core.config import NodeConfig, SignalingConfig
from core.identity import Identity
from core.timestamps import format_time
from relay.credential_issuer import CredentialIssuer
from relay.metering import Metering
from relay.signaling.account_desk import AccountDesk
from relay.signaling.bridge_calls import BridgeCalls, SmsSender
from relay.signaling.call_desk import CallDesk
from relay.signaling.call_notices import CallNotices
from relay.signaling.call_records import CallInfo
from relay.signaling.calls import CallManager
from relay.signaling.descriptions import Kind
from relay.signaling.hub import Hub
from relay.signaling.init_data import Ask, TelegramProof
from relay.signaling.messages import CreateRoom, JoinRoom, OpenCall, SignIn
from relay.signaling.room_billing import HostBilling
from relay.signaling.room_desk import RoomDesk

CALL_KEY_LABEL = "call-secrets"
"""What the node's identity derives the secrets of calls from."""
ROOM_KEY_LABEL = "room-links"
"""And those of rooms that operators make."""


class Signaling:
    """Rooms and calls of one node.

    Args:
        outbox, notices: how people are told of calls elsewhere than on pages.
        ask: asks the Telegram bridge something.
        url: where people reach the pages, without a path; asked when a link is made.

    Raises:
        ConfigError: the tariff pays into an account that is not there.
    """

    def __init__(
        self,
        config: NodeConfig,
        node_key: Identity,
        clock: Clock,
        ledger: LmdbLedger,
        desk: LedgerDesk,
        metering: Metering,
        issuer: CredentialIssuer,
        outbox: Outbox,
        notices: Notices,
        ask: Ask,
        url: Callable[[], str],
    ) -> None:
        billing = config.billing
        signaling = config.signaling
        turn = config.turn
        self._url = url
        self._desk = desk
        own_relays = {turn.external.get(ip, ip) for ip in turn.relay_addresses}
        lines = {kind: tariff_line(kind.value, billing, ledger) for kind in Kind}
        room_line = tariff_line("room", billing, ledger)
        sms_line = tariff_line("sms", billing, ledger)
        for line in (*lines.values(), room_line, sms_line):
            ledger.paid_into.add(line.into)
        hosts = None if signaling.rooms == "free" else HostBilling(ledger, room_line, clock)
        self.rooms = RoomDesk(
            signaling,
            ledger,
            clock,
            metering,
            issuer,
            own_relays.__contains__,
            hosts,
            secret=node_key.derive_secret(ROOM_KEY_LABEL),
        )
        call_notices = CallNotices(outbox, ledger, notices, lambda info: self._links(info.id)[1])
        telegram = TelegramProof(config.bridges.telegram, clock, ask)
        call_desk = CallDesk(issuer, telegram)
        self.calls = CallManager(
            ledger,
            metering,
            clock,
            line_of=lines.__getitem__,
            is_own=own_relays.__contains__,
            tell=call_desk.tell,
            secret=node_key.derive_secret(CALL_KEY_LABEL),
            region=billing.default_region,
            direct_calls=signaling.direct_calls,
            calls_per_minute=signaling.calls_per_minute,
            on_stored=call_notices.stored,
        )
        metering.on_call_cut = self.calls.billing_cut
        accounts = AccountDesk(ledger, desk, clock, call_desk, telegram)
        self._bridge_calls = BridgeCalls(
            self.calls,
            ledger,
            clock,
            call_notices,
            line_of=lines.__getitem__,
            has_page=accounts.has_page,
            links=self._links,
            sms_line=sms_line,
            region=billing.default_region,
        )
        call_desk.side_of = self._bridge_calls.side_untrusted
        call_desk.telegram_of = call_notices.callee_of
        self.hub = Hub(
            signaling,
            clock,
            {
                CreateRoom: self.rooms.create,
                JoinRoom: self.rooms.join,
                OpenCall: call_desk.open,
                SignIn: accounts.sign_in,
            },
            self.rooms.restored,
        )
        call_desk.calls = self.calls
        for one in (self.rooms, call_desk, accounts):
            one.hub = self.hub

    async def recover(self) -> None:
        """Take up what an earlier run has left, before any page comes."""
        await self.rooms.recover()
        await self.calls.recover()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.hub.run)
            nursery.start_soon(self.rooms.run)
            nursery.start_soon(self.calls.run)

    def figures(self) -> dict[str, int]:
        """What lives now: pages that are connected, rooms, people in them, calls."""
        return {
            "pages": self.hub.connections,
            "rooms": len(self.rooms),
            "people": self.rooms.people,
            "calls": len(self.calls.living()),
        }

    def reconfigure(self, config: SignalingConfig) -> None:
        """Take over what may change while the node runs."""
        self.hub.config = config
        self.rooms.room_token = config.room_token
        self.calls.admission.calls_per_minute = config.calls_per_minute

    async def prepare_room(self, effect: str = "") -> RoomLinkReply:
        """A room that waits for its first visitor, and the links to it; see `RoomDesk.prepare`.

        Raises:
            SignalingError: too many of them wait.
            OperationError: it can't be stored.
        """
        first, second = await self.rooms.prepare(effect)
        url = self._url()
        return RoomLinkReply(room_url=f"{url}/#{first}", invitation_url=f"{url}/#{second}")

    async def answer(self, request: SignalingRequest) -> SignalingReply:
        """What an operator asks for.

        Raises:
            SignalingError: it can't be done; says why.
        """
        match request:
            case CallLinkRequest():
                asked = request.caller, request.callee, Kind(request.kind)
                info = await self.calls.create_once(request.id or "", *asked)
                return CallLinkReply(info.id, *self._links(info.id))
            case CallListRequest():
                return self._list(request)
            case CallEndRequest():
                _, info = await self.calls.end_call(request.call)
                return CallEndReply(_item(info))
            case _:
                return await self.prepare_room(request.id or "")

    async def answer_bridge(
        self,
        request: CallQuoteRequest
        | CallStartRequest
        | CallSideRequest
        | CallRejectRequest
        | CallHangUpRequest,
    ) -> SignalingReply | BridgeReply:
        """What a bridge asks for in the name of somebody who has an address with it.

        Raises:
            SignalingError, OperationError: it can't be done; says why.
        """
        match request:
            case CallQuoteRequest():
                return self._bridge_calls.quote(request)
            case CallStartRequest():
                info = await self._bridge_calls.start(request)
                return CallLinkReply(info.id, *self._links(info.id))
            case CallSideRequest():
                return await self._bridge_calls.side(request)
            case CallRejectRequest():
                return CallEndReply(_item(await self._bridge_calls.reject(request)))
            case CallHangUpRequest():
                return CallEndReply(_item(await self._bridge_calls.hang_up(request)))

    def use_sms(self, sms: SmsSender) -> None:
        """Have callees who are nowhere else told by SMS."""
        self._bridge_calls.sms = sms

    def _links(self, call_id: str) -> tuple[str, str]:
        """The links of a call's caller and callee, with their secrets."""
        page = f"{self._url()}/call?id={quote(call_id)}"
        caller, callee = self.calls.secrets_of(call_id)
        return f"{page}#{caller}", f"{page}#{callee}"

    def _list(self, request: CallListRequest) -> CallListReply:
        if request.account is None:
            page = self.calls.living_page_untrusted(request.before, request.limit)
        else:
            account = self._desk.find_account_untrusted(request.account)
            page = self.calls.page_untrusted(account, request.before, request.limit)
        return CallListReply([_item(info) for info in page.calls], page.next)


def _item(info: CallInfo) -> CallItem:
    return CallItem(
        id=info.id,
        caller=info.from_address,
        callee=info.to_address,
        kind=info.kind.value,
        status=info.status.value,
        created=format_time(info.created_ns, 3),
        started=format_time(info.started_ns, 3) if info.started_ns else None,
        ended=format_time(info.ended_ns, 3) if info.ended_ns else None,
        seconds=info.seconds,
        cost=format_amount(info.cost),
    )
