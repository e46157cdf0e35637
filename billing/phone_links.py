"""Has a telephone number and a Telegram user become one account, by a code that was sent to the
telephone and typed in Telegram. Who types it is shown the number, and says once more that they want
that: whoever has the telephone can spend what the account has.
"""

from __future__ import annotations

from billing.accounts import normalise_address_untrusted
from billing.desk import Desk
from billing.ledger import LmdbLedger
from billing.link_codes import LinkCode, LinkCodes, no_code, shown
from billing.money import J, format_amount
from billing.notices import TELEGRAM, Notices
from billing.outbox import Outbox
from billing.sms_codes import CODE_LIFETIME_S, CodeRefused
from billing.sms_commands import language_of, parse_phone_untrusted
from billing.sms_records import find_record
from billing.sms_sender import SmsSender
from billing.sms_texts import Answer, masked
from billing.transfers import derive_id, new_id
from core.api.bridge_messages import UnlinkedBody
from core.clock import Clock
from core.config import NodeConfig
from core.errors import OperationError
from core.tables import Writing
from core.units import DAY_S


class PhoneLinks:
    """Links of one node's ledger."""

    def __init__(
        self,
        ledger: LmdbLedger,
        desk: Desk,
        sender: SmsSender,
        outbox: Outbox,
        notices: Notices,
        clock: Clock,
        config: NodeConfig,
        secret: bytes,
    ) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._desk = desk
        self._sender = sender
        self._outbox = outbox
        self._notices = notices
        self._clock = clock
        self._region = config.billing.default_region
        self._codes = LinkCodes(secret)

    def code(self, identity: bytes) -> str:
        """The code of a request: always the same."""
        return self._codes.code(identity)

    def put_code(self, writing: Writing, phone: str, address: str, identity: bytes) -> None:
        """Have the code of a request wait to be typed, by `address` alone unless that is empty.

        Raises:
            CodeRefused: too many were asked for.
        """
        self._codes.put(writing, phone, address, identity, self._now_ms(), self._day)

    async def start(self, address: str, phone: str, identity: bytes | None = None) -> int:
        """Send a code to a telephone that links it with `address`; for how many seconds it holds.

        Args:
            address: of a Telegram user, who alone may type the code.
            identity: 16 bytes; the same ones send it once.

        Raises:
            OperationError: no code is sent, and why.
        """
        telegram = _telegram_untrusted(address)
        number = parse_phone_untrusted(phone, self._region)
        if number is None:
            raise OperationError(
                f"{phone[:40]!r} is no telephone number; write +79991234567",
                "sms_number",
                written=repr(phone[:40]),
            )
        asked = new_id(self._clock) if identity is None else identity
        event = derive_id(asked, b"link " + f"{telegram} {number}".encode())
        answer = Answer("link_started", {"code": self._codes.code(event)})

        def write(writing: Writing) -> None:
            if find_record(writing, event) is None:
                self.put_code(writing, number, telegram, event)
                text = answer.text(language_of(number))
                self._sender.put_sms(
                    writing, number, text, key=event, lifetime_s=CODE_LIFETIME_S, why="link"
                )

        await self._store.write(write)
        return CODE_LIFETIME_S

    async def look(self, address: str, code: str) -> tuple[str, bool]:
        """The number that `code` would link with `address`, of a Telegram user, with most of its
        digits hidden; and whether it is linked with them already.

        Raises:
            CodeRefused: the code does nothing for them.
        """
        telegram = _telegram_untrusted(address)
        kept = await self._find_untrusted(telegram, code)
        return shown(kept.phone), self._are_one(telegram, kept.phone)

    async def confirm(self, address: str, code: str) -> int:
        """Link `address`, of a Telegram user, with the number that `code` was sent to; the number
        of their account. It is the same when it is asked for again, as long as they are linked.

        A wallet that the number alone has passes on whole. Where another Telegram user has the
        number, it alone passes on, for SIM cards find new owners: the account stays whose it is.

        Raises:
            OperationError: the code does not do it, or the accounts can't be made one.
        """
        telegram = _telegram_untrusted(address)
        kept = await self._find_untrusted(telegram, code)
        now_ms, day = self._now_ms(), self._day
        account = await self._desk.open_user(telegram)
        if kept.used_by:
            return account

        def also(writing: Writing) -> None:
            self._codes.use(writing, telegram, code, now_ms, day)

        def keeps(writing: Writing, other: int) -> bool:
            former = self._notices.telegram_of(writing, other)
            if former is not None:
                self._tell(writing, former, kept.phone, other)
            return former is not None

        return await self._ledger.link(account, kept.phone, also=also, keeps=keeps)

    async def _find_untrusted(self, telegram: str, code: str) -> LinkCode:
        """What a code does, or has done for this user alone.

        Raises:
            CodeRefused: nothing; it is counted.
        """
        day = self._day
        try:
            with self._store.read() as tables:
                kept = self._codes.find_untrusted(tables, telegram, code, self._now_ms(), day)
            # Used up, and the number has passed on since.
            if kept.used_by and not self._are_one(telegram, kept.phone):
                raise no_code()
        except CodeRefused:
            await self._store.write(lambda writing: self._codes.count_wrong(writing, telegram, day))
            raise
        return kept

    def _are_one(self, telegram: str, phone: str) -> bool:
        account = self._ledger.find(phone)
        return account is not None and account == self._ledger.find(telegram)

    def _tell(self, writing: Writing, telegram: str, phone: str, account: int) -> None:
        """Tell who had the number until now; `account` is theirs."""
        balance = format_amount(self._ledger.balance(account, J).posted, J)
        body = UnlinkedBody(phone=masked(phone), balance=balance)
        key = new_id(self._clock)
        self._outbox.put(writing, TELEGRAM, telegram, body, key=key, lifetime_s=DAY_S)

    def _now_ms(self) -> int:
        return int(self._clock.unix_s() * 1000)

    @property
    def _day(self) -> int:
        return self._sender.budget.day


def _telegram_untrusted(address: str) -> str:
    normal = normalise_address_untrusted(address)
    if not normal.startswith("tg:"):
        raise OperationError(
            f"{normal} is no user of Telegram; write tg: and the user's number",
            "no_telegram_user",
            address=normal,
        )
    return normal
