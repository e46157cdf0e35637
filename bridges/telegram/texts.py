"""All that the bot says, in English and in Russian."""

from __future__ import annotations

from typing import Final, Literal

from core.errors import OperationError
from core.purposes import PURPOSES

Language = Literal["en", "ru"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "ru")

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "start": ("Begin", "Начать"),
    "call": ("Call: @user, +79991234567, or pick", "Позвонить: @user, +79991234567 или выбрать"),
    "answer": ("Answer the call that rings", "Ответить на звонок"),
    "hangup": ("End the call", "Завершить звонок"),
    "calls": ("Your calls", "Ваши звонки"),
    "balance": ("What you have", "Сколько у вас"),
    "send": ("Send Ɉ: @user 10, +79991234567 10", "Перевести Ɉ: @user 10, +79991234567 10"),
    "redeem": ("Redeem a voucher", "Погасить ваучер"),
    "history": ("What came and went", "Приход и расход"),
    "link": ("Add your telephone number", "Добавить свой номер телефона"),
    "help": ("What the bot can do, and languages", "Что умеет бот, и языки"),
}
"""In the order of Telegram's menu."""

_TEXTS: Final[dict[str, tuple[str, str]]] = {
    "hello": (
        "Montana: calls in the browser, and money by the second.\n\nYou have {balance} Ɉ. "
        "/call rings somebody, /help shows the rest.",
        "Montana: звонки в браузере и деньги по секундам.\n\nУ вас {balance} Ɉ. "
        "/call - позвонить, /help - всё остальное.",
    ),
    "help": ("What I can do:\n\n{commands}", "Что я умею:\n\n{commands}"),
    "language": ("English from now on.", "Теперь по-русски."),
    "what": (
        "This is no command of mine. /help shows what I can do.",
        "Такой команды нет. /help покажет, что я умею.",
    ),
    "contact": (
        "A contact alone tells me nothing. To call them, press /call and pick them; to send them "
        "Ɉ, or to call by number, write it: /send +79991234567 10, /call +79991234567.",
        "Одной карточки мне мало. Чтобы позвонить, нажмите /call и выберите человека; чтобы "
        "перевести Ɉ или позвонить по номеру, напишите его: /send +79991234567 10, "
        "/call +79991234567.",
    ),
    "private": (
        "Not in front of everybody: write this to me, https://t.me/{bot}",
        "Это не при всех: напишите мне, https://t.me/{bot}",
    ),
    "node_away": (
        "The node is away. What you asked for is kept, and done once as soon as it is back.",
        "Узел сейчас недоступен. Ваша просьба сохранена и будет выполнена один раз, когда он "
        "вернётся.",
    ),
    "too_many": (
        "That was too much at once: the last {count} messages were not carried out. Send them "
        "again, more slowly.",
        "Слишком много сразу: последние сообщения ({count}) не выполнены. Повторите их, "
        "помедленнее.",
    ),
    "failed": (
        "This could not be done, by no fault of yours. Try again later; if it stays so, tell "
        "whoever runs this bot.",
        "Не получилось, и не по вашей вине. Попробуйте позже; если не пройдёт, скажите тому, кто "
        "держит этого бота.",
    ),
    "unsure": (
        "Something went wrong here, by no fault of yours, and I can't tell whether it was done. "
        "Look before you ask again: /balance, /history and /calls show it. If it stays so, tell "
        "whoever runs this bot.",
        "Что-то сломалось, и не по вашей вине; выполнено ли это, неизвестно. Прежде чем повторять, "
        "проверьте: /balance, /history и /calls покажут. Если не пройдёт, скажите тому, кто держит "
        "этого бота.",
    ),
    "refused": ("Not done: {message}.", "Не выполнено: {message}."),
    "button_call": ("📞 Call", "📞 Позвонить"),
    "button_balance": ("💰 Balance", "💰 Баланс"),
    "button_history": ("📜 History", "📜 История"),
    "button_calls": ("🕘 Calls", "🕘 Звонки"),
    "button_help": ("❓ Help", "❓ Помощь"),
    "button_send": ("✅ Send", "✅ Перевести"),
    "button_cancel": ("Cancel", "Отмена"),
    "button_voice": ("🔊 Voice", "🔊 Голос"),
    "button_video": ("📹 Video", "📹 Видео"),
    "button_open": ("📞 Open the call", "📞 Открыть звонок"),
    "button_answer": ("✅ Answer", "✅ Ответить"),
    "button_reject": ("❌ Reject", "❌ Отклонить"),
    "button_browser": ("🌐 Open in browser", "🌐 Открыть в браузере"),
    "button_hang_up": ("End", "Завершить"),
    "button_more": ("Earlier", "Раньше"),
    "button_link": ("✅ It is mine, link it", "✅ Это мой, привязать"),
    "balance": (
        "You have {available} Ɉ.{held}",
        "У вас {available} Ɉ.{held}",
    ),
    "held": (" Calls hold {held} Ɉ more.", " Ещё {held} Ɉ удержано звонками."),
    "how_to_send": (
        "Write whom and how much: /send @user 10, or /send +79991234567 10.",
        "Напишите кому и сколько: /send @user 10 или /send +79991234567 10.",
    ),
    "bad_amount": (
        "An amount is a number such as 1500 or 12.5, more than nothing, without blanks, with 6 "
        "decimal places at most; for 1.250 write 1250 or 1.25.",
        "Сумма - число больше нуля, например 1500 или 12.5, без пробелов, не больше 6 знаков после "
        "точки; вместо 1.250 напишите 1250 или 1.25.",
    ),
    "bad_number": (
        "This is no telephone number. Write it as +79991234567.",
        "Такого номера нет. Напишите его как +79991234567.",
    ),
    "ambiguous_send": (
        "Where does the amount begin? Write the number and the amount without blanks: "
        "/send +79991234567 1500.",
        "Непонятно, где начинается сумма. Напишите номер и сумму без пробелов: "
        "/send +79991234567 1500.",
    ),
    "unknown_user": (
        "I have never seen {name}. Bots can't look up anybody: have them write to me first, "
        "https://t.me/{bot} - or pick them by /call.",
        "Я ещё не встречал {name}. Боты не могут искать людей: пусть напишут мне, "
        "https://t.me/{bot} - или выберите их через /call.",
    ),
    "not_started": (
        "{name} has not written to me yet, and bots can't write first. Have them open "
        "https://t.me/{bot}",
        "{name} ещё не писал(а) мне, а боты не могут писать первыми. Пусть откроет "
        "https://t.me/{bot}",
    ),
    "has_blocked": (
        "{name} has blocked this bot, and can't be reached here.",
        "{name} заблокировал(а) бота, здесь не дозвониться.",
    ),
    "yourself": ("That is you.", "Это вы сами."),
    "confirm_send": (
        "Send {amount} Ɉ to {name}?\nFee {fee} Ɉ, {total} Ɉ in all. You have {available} Ɉ.",
        "Перевести {amount} Ɉ: {name}?\nКомиссия {fee} Ɉ, всего {total} Ɉ. У вас {available} Ɉ.",
    ),
    "sent": (
        "Sent {amount} Ɉ to {name}. Fee {fee} Ɉ.",
        "Переведено {amount} Ɉ: {name}. Комиссия {fee} Ɉ.",
    ),
    "cancelled": ("Cancelled; nothing was done.", "Отменено; ничего не сделано."),
    "stale": (
        "This is too old. Send the command again.",
        "Это устарело. Отправьте команду ещё раз.",
    ),
    "not_yours": ("This button is for somebody else.", "Эта кнопка не для вас."),
    "how_to_redeem": (
        "Write the voucher's code: /redeem XXXX-XXXX-...",
        "Напишите код ваучера: /redeem XXXX-XXXX-...",
    ),
    "redeemed": ("Redeemed: {amount} {currency}.", "Погашено: {amount} {currency}."),
    "no_history": ("Nothing has come or gone yet.", "Пока ничего не было."),
    "how_to_link": (
        "Write your number: /link +79991234567. A code comes by SMS; send it here.",
        "Напишите свой номер: /link +79991234567. По SMS придёт код, отправьте его сюда.",
    ),
    "code_sent": (
        "A code is on its way by SMS, good for {minutes} minutes. Send it here.",
        "Код отправлен по SMS, он действует {minutes} мин. Пришлите его сюда.",
    ),
    "linked": (
        "Linked: one account now, with {balance} Ɉ.",
        "Привязано: теперь это один счёт, на нём {balance} Ɉ.",
    ),
    "confirm_link": (
        "Link {phone} with this chat?\n\nThey become one wallet: this phone will be able to spend "
        "from your wallet by SMS, and what it alone has comes to you.\n\nOnly go on if it is "
        "yours. Whoever has given you the code and wants it typed here is after your money.",
        "Привязать {phone} к этому чату?\n\nБудет один кошелёк: с этого телефона можно будет "
        "тратить ваши деньги по SMS, а то, что есть лишь у него, перейдёт к вам.\n\nСоглашайтесь, "
        "только если это ваш телефон. Кто дал вам код и просит ввести его здесь, хочет ваших "
        "денег.",
    ),
    "already_linked": (
        "{phone} and this chat are one account already.",
        "{phone} и этот чат - уже один счёт.",
    ),
    "phone_unlinked": (
        "{phone} was linked with another Telegram account, by a code sent to that phone, and no "
        "longer spends from yours. Your {balance} Ɉ stay here.",
        "{phone} привязан к другому счёту Telegram, по коду с этого телефона, и больше не тратит "
        "с вашего. Ваши {balance} Ɉ остались здесь.",
    ),
    "pick": (
        "Whom shall I ring? Pick, or write /call @user or /call +79991234567.",
        "Кому позвонить? Выберите или напишите /call @user или /call +79991234567.",
    ),
    "pick_button": ("👤 Pick somebody", "👤 Выбрать"),
    "confirm_call": (
        "Call {name}?\n{price} Ɉ a second, {minimum} Ɉ needed. You have {available} Ɉ.{sms}",
        "Позвонить: {name}?\n{price} Ɉ за секунду, нужно {minimum} Ɉ. У вас {available} Ɉ.{sms}",
    ),
    "confirm_call_here": ("Call {name}?", "Позвонить: {name}?"),
    "by_sms": (
        "\nThey get an SMS with a link; it costs you {price} Ɉ.",
        "\nТуда придёт SMS со ссылкой; она стоит вам {price} Ɉ.",
    ),
    "unreachable": (
        "{name} can't be reached: neither by Telegram nor by a page nor by SMS.",
        "{name}: не дозвониться ни в Telegram, ни на странице, ни по SMS.",
    ),
    "calling": (
        "Call to {name}. Open it: then it rings there.",
        "Звонок: {name}. Откройте его, и там зазвонит.",
    ),
    "calling_here": (
        "{caller} calls {name}. Both open the call here; nobody else is let in.",
        "{caller} звонит: {name}. Оба открывают звонок здесь; других не пустят.",
    ),
    "no_app": (
        "Calls can't be opened in groups here. Call from our own chat: https://t.me/{bot}",
        "Здесь в группах не позвонить. Позвоните из нашего чата: https://t.me/{bot}",
    ),
    "rings": ("📞 {name} calls you: {kind}.", "📞 Вам звонит {name}: {kind}."),
    "kind_voice": ("voice", "голос"),
    "kind_video": ("video", "видео"),
    "kind_screen": ("screen", "экран"),
    "nothing_rings": ("Nobody calls you.", "Вам никто не звонит."),
    "rejected": ("You have rejected the call.", "Вы отклонили звонок."),
    "hung_up": ("The call has ended: {status}.", "Звонок завершён: {status}."),
    "over": ("📞 {name}: {status}.", "📞 {name}: {status}."),
    "status_pending": ("waiting", "ожидает"),
    "status_ringing": ("ringing", "звонит"),
    "status_active": ("answered", "принят"),
    "status_ended": ("ended after {time}", "окончен, {time}"),
    "status_missed": ("missed", "пропущен"),
    "status_rejected": ("rejected", "отклонён"),
    "status_failed": ("failed", "не удался"),
    "no_calls": ("You have had no calls yet.", "Звонков ещё не было."),
    "receipt": (
        "Call with {name}: {time}, {cost} Ɉ. You have {balance} Ɉ.",
        "Разговор: {name}, {time}, {cost} Ɉ. У вас {balance} Ɉ.",
    ),
    "receipt_free": ("Call with {name}: {time}.", "Разговор: {name}, {time}."),
    "somebody": ("somebody", "кто-то"),
    "received": (
        "{name} has sent you {amount} {currency}. You have {balance} {currency}.",
        "Вам перевод {amount} {currency}, от: {name}. У вас {balance} {currency}.",
    ),
    "forward": (
        "SMS from {sender} to {recipient}:\n{text}",
        "SMS от {sender} на {recipient}:\n{text}",
    ),
    "alarm": ("⚠️ {text}", "⚠️ {text}"),
}

_REFUSALS: Final[dict[str, tuple[str, str]]] = {
    "transfer_no_funds": ("there is not enough on the account", "на счёте недостаточно денег"),
    "transfer_same_account": ("that is your own account", "это ваш собственный счёт"),
    "transfer_frozen": (
        "the account is frozen: nothing leaves it",
        "счёт заморожен: с него ничего не уходит",
    ),
    "transfer_closed": ("the account is closed", "счёт закрыт"),
    "transfer_no_account": ("there is no such account", "такого счёта нет"),
    "transfer_overflow": ("the account can't hold so much", "столько на счёте не поместится"),
    "own_account": ("this is the node's own account", "это собственный счёт узла"),
    "no_account": ("there is no such account", "такого счёта нет"),
    "no-account": ("there is no such account", "такого счёта нет"),
    "no_address": (
        "this is no number that can be called; write it as +79991234567",
        "такого номера нет; напишите его как +79991234567",
    ),
    "no_amount": ("this is no amount; write 12 or 12.5", "это не сумма; напишите 12 или 12.5"),
    "zero_amount": ("an amount is more than nothing", "сумма должна быть больше нуля"),
    "largest_amount": ("this is more than there is anywhere", "столько нет ни у кого"),
    "bad_voucher": (
        "a voucher's code has {characters} letters and digits: {example}",
        "в коде ваучера {characters} латинских букв и цифр: {example}",
    ),
    "no_voucher": ("there is no voucher with this code", "ваучера с таким кодом нет"),
    "voucher_redeemed": (
        "this voucher has been redeemed already, by another account",
        "этот ваучер уже погашен, на другой счёт",
    ),
    "payee_country": (
        "nobody has this number here, and no SMS go to its country to tell them",
        "у этого номера нет счёта, а SMS в его страну не отправляются",
    ),
    "payee_not_mobile": (
        "nobody has this number here, and it is no mobile telephone's, which could be told by SMS",
        "у этого номера нет счёта, и он не мобильный: сообщить по SMS нельзя",
    ),
    "payee_no_sms": (
        "nobody has this number here, and it gets no SMS to tell them",
        "у этого номера нет счёта, и SMS ему отправить нельзя",
    ),
    "no_sms": ("this node sends no SMS", "этот узел не отправляет SMS"),
    "sms_country": (
        "no SMS are sent to this country",
        "в эту страну SMS не отправляются",
    ),
    "sms_not_mobile": (
        "SMS go to mobile telephones alone, and this number is of another kind",
        "SMS отправляются только на мобильные телефоны, а этот номер другого вида",
    ),
    "sms_budget": (
        "no more SMS are sent for now; try again tomorrow",
        "SMS пока больше не отправляются; попробуйте завтра",
    ),
    "sms_opted_out": (
        "this number wants no SMS",
        "этот номер отказался от SMS",
    ),
    "no_code": (
        "this code is wrong or too old; ask for a new one",
        "код неверен или устарел; запросите новый",
    ),
    "too_many_codes": (
        "too many codes were asked for; try again tomorrow",
        "слишком много запросов кода; попробуйте завтра",
    ),
    "disk_full": (
        "there is no room on the node's disk; its operator has to make some",
        "на диске узла нет места; его должен освободить оператор",
    ),
    "sms_full": (
        "too many SMS wait to be sent; try again later",
        "слишком много SMS ждут отправки; попробуйте позже",
    ),
    "too_many_tries": (
        "too many wrong codes were tried; try again later",
        "слишком много неверных кодов; попробуйте позже",
    ),
    "no-money": (
        "there is not enough on your account for this call",
        "на вашем счёте недостаточно для этого звонка",
    ),
    "busy": ("one of the two is in another call", "один из двоих занят другим звонком"),
    "blocked": ("who is called can't be reached", "до этого собеседника не дозвониться"),
    "too-many": (
        "that was too many calls in a minute; wait a little",
        "за минуту это слишком много; подождите немного",
    ),
    "full": ("the node has as many calls as it takes", "звонков на узле больше не поместится"),
    "no-call": ("there is no such call", "такого звонка нет"),
    "wrong-state": ("the call is over already", "звонок уже закончен"),
    "unavailable": ("the node can't do this now", "сейчас узел этого не может"),
}
"""What the node refuses, by the codes of its errors."""
_REFUSED_IN_RUSSIAN: Final = "узел этого не делает; проверьте, что написано, или спросите оператора"
"""What has no sentence here: the node's own is English."""


def say(language: Language, key: str, **values: object) -> str:
    """A text."""
    return _TEXTS[key][LANGUAGES.index(language)].format(**values)


def say_all(key: str) -> tuple[str, str]:
    """A text in all languages."""
    return _TEXTS[key]


def refusal(language: Language, error: OperationError) -> str:
    """Why the node does not do something."""
    known = _REFUSALS.get(error.code)
    message = str(error).rstrip(".") if language == "en" else _REFUSED_IN_RUSSIAN
    if known is not None:
        try:
            message = known[LANGUAGES.index(language)].format(**error.values)
        except KeyError:
            message = known[LANGUAGES.index(language)]
    return say(language, "refused", message=message)


def command_list(language: Language) -> str:
    """What the bot can do, a line each."""
    place = LANGUAGES.index(language)
    return "\n".join(f"/{name} - {texts[place]}" for name, texts in COMMANDS.items())


def duration(seconds: int) -> str:
    """`1:05`, `1:00:05`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def status_text(language: Language, status: str, seconds: int) -> str:
    """How far a call is, or what has become of it."""
    if f"status_{status}" not in _TEXTS:
        return status
    return say(language, f"status_{status}", time=duration(seconds))


def purpose_text(language: Language, purpose: str) -> str:
    """What money moved for."""
    known = PURPOSES.get(purpose)
    return purpose if known is None else known[LANGUAGES.index(language)]


def kind_text(language: Language, kind: str) -> str:
    """What a call carries."""
    return say(language, f"kind_{kind}") if f"kind_{kind}" in _TEXTS else kind


def short(amount: str) -> str:
    """A decimal number without the zeros that mean nothing."""
    return amount.rstrip("0").rstrip(".") if "." in amount else amount
