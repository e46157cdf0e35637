"""One place that answers what bridges ask: it hands each request to whoever carries it out.

Bridges speak for people of other networks, who are known there by an address of theirs, ``tg:...``
or a telephone number. In nobody else's name may anything be asked here.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Protocol

from billing.desk import Desk as LedgerDesk
from billing.sms_desk import BridgeWalletRequest
from core.api.bridge_messages import (
    AcknowledgeRequest,
    BridgeAnswerReply,
    BridgeAnswerRequest,
    BridgeAskRequest,
    BridgeRequest,
    BridgeStatusRequest,
    CallHangUpRequest,
    CallQuoteRequest,
    CallRejectRequest,
    CallSideRequest,
    CallStartRequest,
    CommandBody,
    DoneReply,
    LinkConfirmRequest,
    LinkLookRequest,
    LinkStartRequest,
    PingRequest,
    SmsOptOutRequest,
    SmsReceivedRequest,
    SmsStatusRequest,
    SubscribeRequest,
    UserOpenRequest,
    UserTransferRequest,
)
from core.api.messages import ReplyBody
from core.api.serving import Answer
from core.errors import OperationError
from relay.bridge_board import BridgeBoard
from relay.event_source import EventSource
from relay.signaling.service import Signaling

PEOPLE: Final = ("tg:", "+")
"""How the addresses begin for whom bridges speak."""

CallRequest = (
    CallQuoteRequest | CallStartRequest | CallSideRequest | CallRejectRequest | CallHangUpRequest
)


class SmsDesk(Protocol):
    """Who carries out what has to do with SMS."""

    def answer(self, request: BridgeWalletRequest) -> Awaitable[ReplyBody]:
        """Carry out a request.

        Raises:
            OperationError: it can't be done; says why.
        """


class BridgeDesk:
    """Answers bridges.

    Attributes:
        sms: the SMS wallet; None where the node has no SMS.
    """

    def __init__(
        self, desk: LedgerDesk, signaling: Signaling, events: EventSource, board: BridgeBoard
    ) -> None:
        self._desk = desk
        self._signaling = signaling
        self._events = events
        self._board = board
        self.sms: SmsDesk | None = None

    def answer(self, request: BridgeRequest | BridgeAskRequest) -> Answer:
        """Carry out a request, at once or when what is returned is awaited.

        Raises:
            OperationError, SignalingError: it can't be done, or not by a bridge; says why.
        """
        match request:
            case PingRequest():
                return DoneReply()
            case AcknowledgeRequest():
                return self._events.acknowledge(request)
            case BridgeAnswerRequest():
                return self._events.answer(request)
            case BridgeStatusRequest():
                self._board.take(request)
                return DoneReply()
            case BridgeAskRequest():
                return self._ask(request)
            case UserOpenRequest():
                return self._desk.answer(request)
            case UserTransferRequest():
                _assert_of_people(request.debit)
                return self._desk.answer(request)
            case CallQuoteRequest() | CallStartRequest():
                _assert_of_people(request.caller)
                return self._signaling.answer_bridge(request)
            case CallSideRequest() | CallRejectRequest() | CallHangUpRequest():
                _assert_of_people(request.address)
                return self._signaling.answer_bridge(request)
            case LinkStartRequest() | LinkLookRequest() | LinkConfirmRequest():
                _assert_of_people(request.address)
                return self._sms_desk().answer(request)
            case SmsReceivedRequest() | SmsStatusRequest() | SmsOptOutRequest():
                return self._sms_desk().answer(request)
            case SubscribeRequest():
                # The socket's server takes those itself, where there is a source of events.
                raise OperationError("this node has no bridges", "no_bridges")

    async def _ask(self, request: BridgeAskRequest) -> BridgeAnswerReply:
        body = CommandBody(request.command, request.arguments)
        answer = await self._events.ask(request.bridge, body)
        return BridgeAnswerReply(answer.ok, answer.text)

    def _sms_desk(self) -> SmsDesk:
        if self.sms is None:
            raise OperationError(
                "this node has no SMS; configure bridges.twilio or bridges.gsm", "no_sms"
            )
        return self.sms


def _assert_of_people(address: str) -> None:
    """Refuse what a bridge asks in the name of the node's own accounts, or of anybody else's whom
    it can't know.

    Raises:
        OperationError: ``not_admitted``.
    """
    if not address.startswith(PEOPLE):
        raise OperationError(
            "bridges speak for Telegram's users and telephone numbers alone", "not_admitted"
        )
