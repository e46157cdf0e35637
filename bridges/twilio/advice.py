"""What the operator should do about Twilio's errors (https://www.twilio.com/docs/api/errors)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Remedy = Literal["never", "operator", "later"]
"""Of an SMS that was refused: it never goes, it goes when the operator has done something, or it
goes in a while."""
OPTED_OUT: Final = 21610
"""The recipient has sent STOP."""


class Advice(NamedTuple):
    """Each sentence has so few characters that it goes into a status line."""

    remedy: Remedy
    english: str
    russian: str

    def in_language(self, language: str) -> str:
        """The sentence in "ru" or in "en"."""
        return self.russian if language == "ru" else self.english


_VALIDITY: Final = Advice(
    "operator",
    "a wrong validity period: set the messaging service's between 1 and 14400 s",
    "неверный срок действия: задайте в messaging service от 1 до 14400 секунд",
)
"""Twilio has two codes for it."""
ADVICE: Final[Mapping[int, Advice]] = {
    11200: Advice(
        "operator",
        "the webhook was not reached: check public_url, the proxy and the certificate",
        "вебхук не отвечает: проверьте public_url, прокси и сертификат",
    ),
    11205: Advice(
        "operator",
        "Twilio could not connect: open the proxy's port to the internet",
        "Twilio не может соединиться: откройте порт прокси в интернет",
    ),
    12300: Advice(
        "operator",
        "the answer had a wrong content type: let the proxy pass text/xml unchanged",
        "неверный тип ответа: прокси не должен менять text/xml",
    ),
    20003: Advice(
        "operator",
        "Twilio refuses account_sid and auth_token: copy them from its console again",
        "Twilio не принимает account_sid и auth_token: возьмите их из консоли заново",
    ),
    20005: Advice(
        "operator",
        "the account is not active: look into Twilio's console",
        "аккаунт не активен: посмотрите в консоли Twilio",
    ),
    20404: Advice(
        "operator",
        "there is no such account: check account_sid and api_url",
        "такого аккаунта нет: проверьте account_sid и api_url",
    ),
    20429: Advice(
        "later",
        "too many requests at once; they are repeated",
        "слишком много запросов сразу; они будут повторены",
    ),
    21211: Advice(
        "never",
        "the recipient is no telephone number",
        "получатель - не телефонный номер",
    ),
    21212: Advice(
        "operator",
        "`sender` is no number that can send: buy one, or write it in full, +1...",
        "с номера `sender` нельзя отправлять: купите номер или запишите его целиком, +1...",
    ),
    21408: Advice(
        "never",
        "allow the country in the console: Messaging, Settings, Geo permissions",
        "разрешите страну в консоли: Messaging, Settings, Geo permissions",
    ),
    21606: Advice(
        "operator",
        "`sender` is not a number of this account that can send SMS",
        "`sender` - не номер этого аккаунта, способный отправлять SMS",
    ),
    21608: Advice(
        "never",
        "a trial account sends to verified numbers alone: verify it, or upgrade",
        "пробный аккаунт шлёт лишь на проверенные номера: проверьте номер или оплатите",
    ),
    21610: Advice(
        "never",
        "the recipient has sent STOP; only their START lets SMS through again",
        "получатель прислал STOP; снова разрешить может только он сам, словом START",
    ),
    21611: Advice(
        "later",
        "the number's queue is full: add numbers or a messaging service",
        "очередь номера полна: добавьте номера или messaging service",
    ),
    21612: Advice(
        "never",
        "`sender` can't reach this number: take one of the same country",
        "с `sender` на этот номер не отправить: нужен номер той же страны",
    ),
    21614: Advice(
        "never",
        "the number takes no SMS: it is a landline",
        "номер не принимает SMS: это стационарный телефон",
    ),
    21617: Advice(
        "never",
        "the text is longer than 1,600 characters",
        "текст длиннее 1600 знаков",
    ),
    21624: _VALIDITY,
    21703: Advice(
        "operator",
        "the messaging service has no numbers: add one to it",
        "в messaging service нет номеров: добавьте",
    ),
    30001: Advice(
        "never",
        "the queue ran over: more numbers, or fewer SMS at once",
        "очередь переполнилась: больше номеров или меньше SMS сразу",
    ),
    30002: Advice(
        "operator",
        "the account was suspended: look into Twilio's console",
        "аккаунт заблокирован: посмотрите в консоли Twilio",
    ),
    30003: Advice(
        "never",
        "the telephone is off or out of reach",
        "телефон выключен или вне сети",
    ),
    30004: Advice(
        "never",
        "the recipient or the carrier blocks these SMS",
        "получатель или оператор связи блокирует эти SMS",
    ),
    30005: Advice(
        "never",
        "no such number, or it is not in use",
        "такого номера нет, или он не используется",
    ),
    30006: Advice(
        "never",
        "a landline, or a carrier that can't be reached",
        "стационарный телефон или недоступный оператор связи",
    ),
    30007: Advice(
        "never",
        "the carrier filtered it as spam: register the sender (A2P 10DLC)",
        "оператор связи счёл это спамом: зарегистрируйте отправителя (A2P 10DLC)",
    ),
    30008: Advice(
        "never",
        "the carrier did not say why; if there are many, ask Twilio's support",
        "оператор связи не сказал почему; если таких много - в поддержку Twilio",
    ),
    30034: Advice(
        "operator",
        "numbers of the USA have to be registered (A2P 10DLC)",
        "номера США нужно зарегистрировать (A2P 10DLC)",
    ),
    30036: Advice(
        "never",
        "its time ran out in Twilio's queue: more numbers, or fewer SMS at once",
        "время вышло в очереди Twilio: больше номеров или меньше SMS сразу",
    ),
    90007: _VALIDITY,
}
_OTHER: Final = Advice(
    "never",
    "twilio.com/docs/api/errors has this code",
    "код описан на twilio.com/docs/api/errors",
)


def advice_on(code: int) -> Advice:
    """What to do about an error."""
    return ADVICE.get(code, _OTHER)


def operators_language(environment: Mapping[str, str] = os.environ) -> str:
    """That of LC_ALL, LC_MESSAGES or LANG, in this order, as POSIX has it: "ru" or "en"."""
    names = (environment.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return "ru" if next((name for name in names if name), "").startswith("ru") else "en"
