"""What SMS say, in English and in Russian.

An answer fits into one part where it can: 160 characters of the GSM alphabet, which has no Ɉ, or 70
of any other. A result is kept by its name and values (`Answer`), so that the same text can be made
of it again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from billing.sms_commands import Language

Values = dict[str, str]

TEXTS: Final[dict[str, tuple[str, str]]] = {
    "balance": ("Balance: {balance} J", "Баланс: {balance} J"),
    "history": ("{lines}\nBalance: {balance} J", "{lines}\nБаланс: {balance} J"),
    "no_history": ("No payments yet. Balance: {balance} J", "Платежей нет. Баланс: {balance} J"),
    "info": (
        "Account #{account} since {opened}. BAL, TX, INFO, SEND: {price} J each; transfers 1 %, "
        "1 J at least",
        "Счет #{account} с {opened}. Команда {price} J, перевод 1 %, от 1 J",
    ),
    "sent": (
        "Sent {amount} J to {to}, fee {fee} J. Balance: {balance} J",
        "{to}: {amount} J, сбор {fee} J. Баланс {balance} J",
    ),
    "redeemed": (
        "Voucher: +{amount} {currency}. Balance: {balance} J",
        "Ваучер: +{amount} {currency}. Баланс: {balance} J",
    ),
    "confirm": (
        "To send {amount} J to {to} (fee {fee} J) reply with the code {code}",
        "{amount} J на {to}, сбор {fee} J: ответьте {code}",
    ),
    "link": (
        "Code {code}. In Telegram, to our bot: /link {code}. It holds for 10 minutes; give it to "
        "nobody",
        "Код {code}, 10 минут. Боту в Telegram: /link {code}",
    ),
    "link_started": (
        "Code {code} lets a Telegram account spend what this number has. Not you? Ignore it, give "
        "it to nobody",
        "Код {code} даст Telegram тратить с номера. Не вы? Никому не давайте",
    ),
    "pin_confirm": (
        "To set the new PIN reply with the code {code}",
        "Чтобы задать PIN, ответьте кодом {code}",
    ),
    "pin_set": (
        "The PIN is set: SEND +79991234567 10 PIN ****",
        "PIN задан: ПЕРЕВОД +79991234567 10 PIN ****",
    ),
    "help": (
        "BAL balance, TX payments, INFO, SEND +79991234567 10: {price} J. Free: REDEEM code, LINK "
        "(Telegram), PIN 1234, HELP",
        "БАЛ, TX, INFO, ПЕРЕВОД +7.. 10: {price} J; ВАУЧЕР, LINK, PIN 1234",
    ),
    "started": ("SMS are on again. HELP tells the commands", "SMS снова включены. Команды: ПОМОЩЬ"),
    "missing": (
        "Not enough: this takes {needed} J, you have {balance} J",
        "Не хватает: нужно {needed} J, есть {balance} J",
    ),
    "frozen": (
        "The account is frozen; ask the operator",
        "Счет заморожен; обратитесь к оператору",
    ),
    "refused": (
        "This can't be done with this account",
        "С этим счетом это невозможно",
    ),
    "bad_send": (
        "Write: SEND +79991234567 10",
        "Напишите: ПЕРЕВОД +79991234567 10",
    ),
    "bad_number": (
        "This is no telephone number. Write: SEND +79991234567 10",
        "Это не номер. Напишите: ПЕРЕВОД +79991234567 10",
    ),
    "bad_amount": (
        "An amount, in J, is a number without blanks such as 1500 or 10.5, with 6 decimal places "
        "at most; for 1.250 write 1250 or 1.25",
        "Сумма в J - число без пробелов: 1500, 10.5; вместо 1.250 - 1.25",
    ),
    "ambiguous_send": (
        "Where does the number end? Write both without blanks: SEND +79991234567 1500",
        "Пишите номер и сумму без пробелов: ПЕРЕВОД +79991234567 1500",
    ),
    "payee_country": (
        "Not sent: this number has no account, and no SMS go to its country to tell it of one",
        "Не отправлено: у номера нет счета, а SMS в его страну не идут",
    ),
    "payee_not_mobile": (
        "Not sent: this number has no account, and is no mobile telephone's, which could be told",
        "Не отправлено: у номера нет счета, и он не мобильный",
    ),
    "payee_no_sms": (
        "Not sent: this number has no account, and gets no SMS to tell it of one",
        "Не отправлено: у номера нет счета, и SMS он не получает",
    ),
    "limited": (
        "Too many SMS in a minute: this one was not carried out. Send it again in a minute",
        "Много SMS за минуту, это не выполнено. Повторите через минуту",
    ),
    "own_number": (
        "This number is your own account",
        "Это ваш собственный счет",
    ),
    "daily_limit": (
        "Over the limit of a day: {limit} J; left today: {left} J",
        "Больше дневного лимита {limit} J; осталось {left} J",
    ),
    "bad_redeem": (
        "Write: REDEEM and the 20 characters of the voucher",
        "Напишите: ВАУЧЕР и 20 знаков его кода",
    ),
    "no_voucher": (
        "There is no such voucher",
        "Такого ваучера нет",
    ),
    "voucher_redeemed": (
        "This voucher has been redeemed already",
        "Этот ваучер уже погашен",
    ),
    "no_code": (
        "This code is wrong or too old; start anew",
        "Код неверен или устарел; начните заново",
    ),
    "too_many_codes": (
        "Too many codes; try again tomorrow",
        "Слишком много кодов; попробуйте завтра",
    ),
    "too_many_tries": (
        "Too many wrong codes today: no code works before tomorrow. Nothing was done",
        "Слишком много неверных кодов: новые - завтра. Ничего не сделано",
    ),
    "bad_pin": (
        "Write: PIN and 4 to 8 digits",
        "Напишите: PIN и от 4 до 8 цифр",
    ),
    "wrong_pin": (
        "Wrong PIN; tries left: {left}",
        "PIN неверен; осталось попыток: {left}",
    ),
    "no_pin": (
        "The PIN is blocked or not set. To set one: PIN 1234",
        "PIN заблокирован или не задан. Задать: PIN 1234",
    ),
    "received": (
        "+{amount} {currency} from {sender}. Balance: {balance} {currency}",
        "+{amount} {currency} от {sender}. Баланс {balance}",
    ),
}


class Answer(msgspec.Struct, frozen=True):
    """What an SMS is answered, or says: a sentence's name and what stands in its places."""

    name: str
    values: Values = {}

    def text(self, language: Language) -> str:
        """The sentence."""
        return TEXTS[self.name][language == "ru"].format_map(self.values)


def show_amount(written: str) -> str:
    """`12.500000` as people write it: `12.5`."""
    return written.rstrip("0").rstrip(".") if "." in written else written


def masked(phone: str) -> str:
    """A number with most of its digits hidden, for logs and for others: `+7999***67`."""
    return f"{phone[:5]}***{phone[-2:]}" if len(phone) > 8 else "***"
