"""What people do with their accounts in the browser: see what they have, pay in, call somebody.

An account is a key pair that the browser keeps; it is opened when its key is first used to pay in,
or to call, or just to look. It is given no welcome gift: keys cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from billing.desk import Desk as LedgerDesk
from billing.ledger import LmdbLedger
from core.api.messages import (
    AccountHistoryRequest,
    AccountReply,
    AccountShowRequest,
    VoucherRedeemRequest,
)
from core.clock import Clock
from core.errors import SignalingError
from relay.signaling.call_desk import CallDesk
from relay.signaling.descriptions import Kind
from relay.signaling.hub import Guest, Hub
from relay.signaling.init_data import TelegramProof
from relay.signaling.messages import (
    Account,
    AskAccount,
    AskBlocked,
    AskCalls,
    AskHistory,
    Blocked,
    Calling,
    Calls,
    Decline,
    Ended,
    HangUp,
    History,
    HistoryEntry,
    PageMessage,
    Redeem,
    Resume,
    Ringing,
    RingOver,
    SetBlocked,
    SignedIn,
    SignIn,
    StartCall,
)
from relay.signaling.proof import address_of_untrusted
from relay.signaling.room import new_secret
from relay.signaling.sessions import Handler, Session
from relay.web.client_address import client_network
from relay.web.rate_limit import RateLimiter

NEW_ACCOUNTS_AN_HOUR: Final = 20
"""From one network."""
PAGES_OF_AN_ACCOUNT: Final = 32
"""Those that were lost just now among them."""
REDEEM_A_MINUTE: Final = 10
"""By one network: codes can't be guessed, and are not to be tried."""


class SignedInPage:
    """What a session of an account's has.

    Attributes:
        account, address: its number, and the address by which it was signed in to.
        network: from which it was signed in to.
    """

    __slots__ = ("account", "address", "network")

    def __init__(self, account: int, address: str, network: str) -> None:
        self.account = account
        self.address = address
        self.network = network


class AccountDesk:
    """Carries out what pages of accounts say."""

    def __init__(
        self,
        ledger: LmdbLedger,
        desk: LedgerDesk,
        clock: Clock,
        calls: CallDesk,
        telegram: TelegramProof,
    ) -> None:
        self._ledger = ledger
        self._desk = desk
        self._clock = clock
        self._calls = calls
        self._telegram = telegram
        self._by_account: dict[int, set[Session]] = {}
        self._new_accounts = RateLimiter(NEW_ACCOUNTS_AN_HOUR, 3600, clock)
        self._redeems = RateLimiter(REDEEM_A_MINUTE, 60, clock)
        self.hub: Hub
        self.handlers: Mapping[type[PageMessage], Handler] = {
            AskAccount: self._account,
            AskHistory: self._history,
            AskCalls: self._list_calls,
            Redeem: self._redeem,
            StartCall: self._call,
            Decline: self._decline,
            SetBlocked: self._set_blocked,
            AskBlocked: self._blocked,
            HangUp: self._leave,
        }
        calls.ring = self.ring
        calls.ring_over = self.ring_over

    async def sign_in(self, guest: Guest, message: SignIn) -> None:
        """Use an account, which is opened when it is not there.

        Raises:
            SignalingError: ``bad-proof``, ``stale-proof``, ``too-many``, ``unavailable``.
        """
        channel = guest.channel
        if message.proof is not None:
            address = address_of_untrusted(message.proof, channel.origin, guest.challenge)
            account = await self.account_of(address, channel.client)
        elif message.init_data is not None:
            address = await self._telegram.address_of_untrusted(message.init_data, channel.client)
            account = self._ledger.heir(await self._desk.open_user(address))
        else:
            raise SignalingError("proof-needed", "an account is used by its key or by Telegram")
        secret = new_secret(self._clock)
        if len(self._by_account.get(account, ())) >= PAGES_OF_AN_ACCOUNT:
            raise SignalingError("too-many", "this account is open in too many pages")
        session = guest.enter(self, secret)
        session.place = SignedInPage(account, address, client_network(channel.client))
        self._by_account.setdefault(account, set()).add(session)
        session.tell(SignedIn(message.seq, secret, address))
        self._tell_ringing(session)

    async def account_of(self, address: str, client: str) -> int:
        """The number of the account of a key.

        Raises:
            SignalingError: ``too-many``: it is new, and too many are from this network.
        """
        account = self._ledger.find(address)
        if account is None:
            if not self._new_accounts.take(client_network(client)):
                raise SignalingError("too-many", "too many new accounts from this network")
            account = await self._ledger.open_account([address])
        return self._ledger.heir(account)

    def lost(self, session: Session) -> None:
        """The page's connection is gone: it rings elsewhere, and here when it is back."""

    def back(self, session: Session, message: Resume) -> None:
        """The page is back."""
        session.tell(SignedIn(message.seq, message.session, session.place.address))
        self._tell_ringing(session)

    def over(self, session: Session) -> None:
        """The page has not come back."""
        self._remove(session)

    def ring(self, account: int, ringing: Ringing) -> bool:
        """Have it ring on every page of an account; whether there is one."""
        for session in self._pages_of(account):
            session.tell(ringing)
        return self.has_page(account)

    def has_page(self, account: int) -> bool:
        """Whether an account has a page open on which it can ring."""
        return any(session.channel is not None for session in self._pages_of(account))

    def ring_over(self, account: int, over: RingOver) -> None:
        """It rings no more."""
        for session in self._pages_of(account):
            session.tell(over)

    def _pages_of(self, account: int) -> list[Session]:
        # Some may have signed in before accounts were merged.
        owners = self._ledger.lineage(account)
        return [session for one in owners for session in self._by_account.get(one, ())]

    def _tell_ringing(self, session: Session) -> None:
        for ringing in self._calls.ringing_for(session.place.account):
            session.tell(ringing)

    def _remove(self, session: Session) -> None:
        sessions = self._by_account[session.place.account]
        sessions.discard(session)
        if not sessions:
            del self._by_account[session.place.account]

    def _leave(self, session: Session, _message: HangUp) -> None:
        self._remove(session)
        session.tell(Ended("left"))
        self.hub.end(session)

    # ------------------------------------------------------------ money

    async def _account(self, session: Session, message: AskAccount) -> None:
        session.tell(await self._show(session, message.seq))

    async def _show(self, session: Session, re: int, redeemed: str | None = None) -> Account:
        place: SignedInPage = session.place
        reply = await self._desk.answer(AccountShowRequest(f"#{place.account}"))
        assert isinstance(reply, AccountReply)
        return Account(
            re=re,
            address=place.address,
            number=place.account,
            balance=reply.balance,
            held=reply.held,
            available=reply.available,
            frozen=reply.frozen,
            redeemed=redeemed,
        )

    async def _history(self, session: Session, message: AskHistory) -> None:
        reply: Any = await self._desk.answer(
            AccountHistoryRequest(f"#{session.place.account}", message.before, message.limit)
        )
        items = [
            HistoryEntry(
                id=item.id,
                time=item.time,
                kind=item.kind,
                amount=item.amount,
                currency=item.currency,
                other=item.other,
                detail=item.purpose,
                seconds=None if item.session is None else item.session.seconds,
            )
            for item in reply.lines
        ]
        session.tell(History(message.seq, items, reply.next))

    async def _redeem(self, session: Session, message: Redeem) -> None:
        # Its connection may be gone while it has waited for a message before it.
        if not self._redeems.take(session.place.network):
            raise SignalingError("too-many", "too many vouchers; wait a minute")
        reply: Any = await self._desk.answer(
            VoucherRedeemRequest(message.code, f"#{session.place.account}")
        )
        session.tell(await self._show(session, message.seq, reply.amount))

    # ------------------------------------------------------------ calls

    async def _call(self, session: Session, message: StartCall) -> None:
        place: SignedInPage = session.place
        info = await self._calls.calls.create(place.address, message.to, Kind(message.kind))
        caller, callee = self._calls.calls.secrets_of(info.id)
        session.tell(Calling(message.seq, info.id, caller, callee if message.to is None else None))

    def _list_calls(self, session: Session, message: AskCalls) -> None:
        items, following = self._calls.items_untrusted(
            session.place.account, message.before, message.limit
        )
        session.tell(Calls(message.seq, items, following))

    async def _decline(self, session: Session, message: Decline) -> None:
        await self._calls.decline(session.place.account, message.call)

    async def _set_blocked(self, session: Session, message: SetBlocked) -> None:
        account, blocks = session.place.account, self._calls.calls.blocks
        await blocks.set_untrusted(account, message.address, message.blocked)
        session.tell(Blocked(message.seq, blocks.addresses(account)))

    def _blocked(self, session: Session, message: AskBlocked) -> None:
        blocks = self._calls.calls.blocks
        session.tell(Blocked(message.seq, blocks.addresses(session.place.account)))
