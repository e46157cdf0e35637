"""What people read at the terminal, in English and in Russian.

The language is that of LC_ALL, LC_MESSAGES or LANG, in this order, as POSIX has it; English where
they name no language that is here. What programs read (JSON, log lines) is never translated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

LANGUAGES = ("en", "ru")

CATALOGUE: dict[str, tuple[str, str]] = {
    # The command line's own words.
    "usage": ("Usage: ", "Вызов: "),
    "options": ("Options", "Параметры"),
    "commands": ("Commands", "Команды"),
    "help": ("Show this and exit.", "Показать это и выйти."),
    "version": ("Show the version and exit.", "Показать версию и выйти."),
    "error": ("Error: {message}", "Ошибка: {message}"),
    "try_help": ("`{command} --help` explains more.", "Подробнее: `{command} --help`."),
    "no_such_option": ("There is no option {name}.", "Параметра {name} нет."),
    "no_such_command": ("There is no command {name}.", "Команды {name} нет."),
    "perhaps": ("Did you mean {name}?", "Может быть, {name}?"),
    "missing": ("{name} is missing.", "Не хватает {name}."),
    "bad_value": ("{name}: {message}", "{name}: {message}"),
    "options_metavar": ("[OPTIONS]", "[ПАРАМЕТРЫ]"),
    "command_metavar": ("COMMAND ...", "КОМАНДА ..."),
    "bad_account": (
        "an account has from 1 to 128 characters, none of them a blank or `#`.",
        "в имени счёта от 1 до 128 знаков, без пробелов и `#`.",
    ),
    "bad_call": (
        "a call is named CALL- and up to 59 letters, digits, dots or dashes.",
        "имя звонка: CALL- и до 59 латинских букв, цифр, точек и дефисов.",
    ),
    "bad_ttl": ("a whole number from 1 to {maximum}.", "целое число от 1 до {maximum}."),
    "no_node": (
        "No node is running behind {path}. Start one, or say where it is: --config or --socket.",
        "За {path} узла нет. Запустите его или укажите, где он: --config или --socket.",
    ),
    "no_ledger": (
        "No node is running behind {path}, and there is no ledger in {folder}. Start a node, or "
        "say where it is: --config or --socket.",
        "За {path} узла нет, и в {folder} нет книги. Запустите узел или укажите, где он: --config "
        "или --socket.",
    ),
    "bad_text": ("What was typed is no UTF-8 text.", "Набранное - не текст в UTF-8."),
    "bad_number": ("a whole number.", "целое число."),
    "bad_limit": ("a whole number from 1 to 1000.", "целое число от 1 до 1000."),
    "bad_id": ("32 hexadecimal digits.", "32 шестнадцатеричные цифры."),
    "ask_again": (
        "It may have been done: the same command with --id {id} does it once at most.",
        "Возможно, это сделано: та же команда с --id {id} сделает это не больше одного раза.",
    ),
    # Help.
    "help_montana": (
        "A node that relays WebRTC media (TURN).",
        "Узел, через который идут звук и видео WebRTC (TURN).",
    ),
    "help_up": ("Run a node in the foreground.", "Запустить узел; он работает, пока его видно."),
    "help_up_long": (
        """Run a node in the foreground. Ctrl-C or SIGTERM drains it: no new allocations, the
others until they end or turn.drain_timeout_s is over; a second one ends it at once. SIGHUP reads
users, secrets and limits anew.""",
        """Запустить узел; он работает, пока его видно. Ctrl-C или SIGTERM завершает его мягко:
новых соединений нет, прежние живут, пока не кончатся или пока не пройдёт turn.drain_timeout_s;
второй раз - сразу. SIGHUP перечитывает пользователей, секреты и пределы.""",
    ),
    "help_config": ("The configuration file (TOML).", "Файл настроек (TOML)."),
    "help_dev": (
        "For this machine alone: loopback, a secret of its own, no file.",
        "Только для этой машины: loopback, свой секрет, без файла.",
    ),
    "help_lan": (
        "As --dev, for the local network, over HTTPS.",
        "Как --dev, но для локальной сети, по HTTPS.",
    ),
    "help_data_dir": (
        "Where --dev and --lan keep the node's key and socket.",
        "Где --dev и --lan держат ключ и сокет узла.",
    ),
    "help_json": ("One JSON object a line.", "По объекту JSON в строке."),
    "help_socket": (
        "The node's socket. Otherwise that of --config, or data/node.sock here.",
        "Сокет узла. Иначе - из --config или data/node.sock здесь.",
    ),
    "help_of_config": (
        "The running node's configuration file, which tells where its socket is.",
        "Файл настроек работающего узла: он говорит, где сокет.",
    ),
    "help_end": (
        "End all allocations of an account, now.",
        "Сразу завершить все аллокации счёта.",
    ),
    "ended": ("allocations ended: {count}", "завершено аллокаций: {count}"),
    "help_credentials": (
        "Make time-limited TURN credentials for an account.",
        "Выдать временные имя и пароль TURN для счёта.",
    ),
    "help_ttl": (
        "For how many seconds they hold; 600 unless told.",
        "Сколько секунд они действуют; иначе 600.",
    ),
    "help_call": ("The call that they are for: CALL-...", "Звонок, для которого они: CALL-..."),
    "help_status": ("Show how the node does.", "Показать, как дела у узла."),
    "help_config_group": ("Look at configuration files.", "Работа с файлом настроек."),
    "help_config_check": (
        "Say what a node would make of FILE, or what is wrong with it.",
        "Сказать, что узел сделает с FILE или что в нём не так.",
    ),
    "help_check_group": ("The page that tests the node.", "Страница проверки узла."),
    "help_check_link": (
        "Print a link to /check that holds for some minutes.",
        "Напечатать ссылку на /check; она действует несколько минут.",
    ),
    "help_account_group": (
        "Accounts and what they hold. ACCOUNT is an address (user:alice, tg:123, +4930123456), "
        "17 or '#17'. A running node is asked; without one, its ledger's files.",
        "Счета и что на них есть. ACCOUNT - адрес (user:alice, tg:123, +4930123456), 17 или '#17'. "
        "Отвечает работающий узел, без него - файлы его книги.",
    ),
    "help_account_create": (
        "Open an account with these addresses, or with none.",
        "Открыть счёт с этими адресами или без них.",
    ),
    "help_account_show": ("Show what an account has.", "Показать, что есть на счёте."),
    "help_account_list": (
        "List accounts in the order of their numbers.",
        "Перечислить счета по номерам.",
    ),
    "help_account_credit": (
        "Make money and put it on an account.",
        "Создать деньги и зачислить их на счёт.",
    ),
    "help_account_transfer": (
        "Move money from one account to another, without a fee.",
        "Перевести деньги с одного счёта на другой, без комиссии.",
    ),
    "help_account_refund": (
        "Undo a transfer: all of it and its fee, or AMOUNT of it.",
        "Вернуть перевод: весь, с комиссией, или AMOUNT из него.",
    ),
    "help_account_link": (
        "Give an account one more address. Another account that has it is merged into this one, "
        "once and for all.",
        "Добавить счёту адрес. Если он у другого счёта, тот вольётся в этот навсегда.",
    ),
    "help_account_unlink": (
        "Take an address away from an account.",
        "Убрать адрес у счёта.",
    ),
    "help_account_freeze": (
        "Let nothing leave an account.",
        "Заморозить счёт: с него ничего не уйдёт.",
    ),
    "help_account_unfreeze": ("End a freeze.", "Разморозить счёт."),
    "help_account_close": (
        "Close an account, which has to be empty.",
        "Закрыть счёт; он должен быть пуст.",
    ),
    "help_account_history": (
        "Show an account's transfers and sessions, the last first.",
        "Показать переводы и сессии счёта, последние - первыми.",
    ),
    "help_voucher_group": (
        "Codes that are worth money to who redeems them first.",
        "Коды, за которые первый предъявитель получает деньги.",
    ),
    "help_voucher_create": (
        "Make vouchers of AMOUNT each and print their codes, which are kept nowhere else.",
        "Создать ваучеры по AMOUNT и напечатать коды; больше их нигде нет.",
    ),
    "help_voucher_redeem": (
        "Put on an account what a voucher is worth.",
        "Зачислить на счёт, чего стоит ваучер.",
    ),
    "help_currency": ("J unless told.", "Валюта; иначе J."),
    "help_id": (
        "32 hexadecimal digits; what was done under them is not done again.",
        "32 шестнадцатеричные цифры; сделанное под ними не повторится.",
    ),
    "help_from": ("The number to begin at.", "С какого номера начать."),
    "help_before": (
        "Lines before this place, which the page before names.",
        "Строки до этого места; его называет предыдущая страница.",
    ),
    "help_limit": ("At most so many; 100 unless told.", "Не больше стольких; иначе 100."),
    "help_count": ("How many; 1 unless told, 1000 at most.", "Сколько; иначе 1, не больше 1000."),
    "examples": ("Examples:", "Примеры:"),
    # What commands say.
    "one_of_three": (
        "Say what to run: --config FILE, --dev or --lan - one of them.",
        "Укажите, что запустить: --config ФАЙЛ, --dev или --lan - одно из трёх.",
    ),
    "no_lan": (
        "This machine has no private address in a local network; --lan has nothing to bind to. "
        "Write a file and use --config.",
        "У этой машины нет частного адреса в локальной сети, и --lan не к чему привязаться. "
        "Напишите файл и возьмите --config.",
    ),
    "no_answer": (
        "the node behind {path} has not answered for {seconds} seconds; its log may tell why",
        "узел за {path} не ответил за {seconds} секунд; причину может назвать его журнал",
    ),
    "config_fine": ("{path} can be used:", "{path} годится:"),
    "ready": ("Montana {version} relays at {turn}", "Montana {version} работает на {turn}"),
    "open_check": ("To try it, open {url}", "Чтобы проверить, откройте {url}"),
    "make_link": (
        "To try it: montana check link",
        "Чтобы проверить: montana check link",
    ),
    "fingerprint": (
        "The browser will warn of its certificate; its SHA-256 is {fingerprint}",
        "Браузер предупредит о сертификате; его SHA-256: {fingerprint}",
    ),
    "ctrl_c": ("Ctrl-C ends it.", "Ctrl-C завершит работу."),
    "draining": (
        "No new allocations; {allocations} to end within {timeout_s} s. Ctrl-C again ends it now.",
        "Новых соединений нет; осталось {allocations}, не дольше {timeout_s} с. "
        "Ещё раз Ctrl-C - сразу.",
    ),
    "stopped": ("Stopped.", "Остановлен."),
    "holds_for": ("Holds for {seconds} s.", "Действует {seconds} с."),
    "user": ("user", "имя"),
    "password": ("password", "пароль"),
    "uris": ("URIs", "адреса"),
    # The ledger's tables.
    "account": ("account", "счёт"),
    "addresses": ("addresses", "адреса"),
    "balance": ("balance", "баланс"),
    "held": ("held for sessions", "удержано сессиями"),
    "reserved": ("reserved", "зарезервировано"),
    "available": ("available", "доступно"),
    "state": ("state", "состояние"),
    "opened": ("opened", "открыт"),
    "frozen": ("frozen", "заморожен"),
    "closed": ("closed", "закрыт"),
    "merged_into": ("merged into #{account}", "влит в #{account}"),
    "transfer": ("transfer", "перевод"),
    "from": ("from", "откуда"),
    "to": ("to", "куда"),
    "amount": ("amount", "сумма"),
    "fee": ("fee", "комиссия"),
    "time": ("time (UTC)", "время (UTC)"),
    "other_side": ("with", "с кем"),
    "purpose": ("what for", "за что"),
    "id": ("id", "номер"),
    "more": ("There is more: {option}", "Есть ещё: {option}"),
    "vouchers_made": (
        "{count} of {amount} each. Keep the codes: they can't be shown again.",
        "{count} по {amount}. Сохраните коды: показать их снова нельзя.",
    ),
    "kind_pending": ("waits", "ожидает"),
    "kind_posted": ("was waiting", "ожидал"),
    "kind_voided": ("given up", "отменён"),
    "kind_expired": ("ran out", "истёк"),
    "purpose_other": ("transfer", "перевод"),
    "purpose_credit": ("credit", "зачисление"),
    "purpose_operator": ("operator's transfer", "перевод оператора"),
    "purpose_user": ("transfer", "перевод"),
    "purpose_fee": ("fee", "комиссия"),
    "purpose_welcome": ("welcome", "приветствие"),
    "purpose_voucher": ("voucher", "ваучер"),
    "purpose_refund": ("refund", "возврат"),
    "purpose_merge": ("merged account", "слияние счетов"),
    "purpose_escrow": ("escrow", "эскроу"),
    "purpose_sms": ("SMS", "SMS"),
    "purpose_turn": ("relaying", "передача"),
    "purpose_voice": ("voice", "голос"),
    "purpose_video": ("video", "видео"),
    "purpose_screen": ("screen", "экран"),
    # The table of `montana status`.
    "status_version": ("version", "версия"),
    "status_uptime": ("uptime", "работает"),
    "status_draining": ("draining", "завершается"),
    "status_turn": ("TURN", "TURN"),
    "status_http": ("pages", "страницы"),
    "status_metrics": ("metrics", "метрики"),
    "status_workers": ("workers", "потоков"),
    "status_allocations": ("allocations", "соединений"),
    "status_sessions": ("sessions", "сессий"),
    "status_flows": ("permissions and channels", "разрешений и каналов"),
    "status_relayed": ("relayed", "передано"),
    "to_peer": ("to peers", "собеседникам"),
    "to_client": ("to clients", "клиентам"),
    "packets": ("packets", "пакетов"),
    "drops": ("dropped", "отброшено"),
    "nothing": ("nothing", "ничего"),
    "yes": ("yes", "да"),
    "days": ("d", "д"),
    "hours": ("h", "ч"),
    "minutes": ("min", "мин"),
    "seconds": ("s", "с"),
}


def language_of(environment: Mapping[str, str]) -> str:
    """The language that POSIX's variables choose: the first that is set decides."""
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environment.get(variable, ""):
            language = value.replace("-", "_").partition("_")[0].partition(".")[0].lower()
            return language if language in LANGUAGES else LANGUAGES[0]
    return LANGUAGES[0]


def text(name: str, /, **values: object) -> str:
    """The sentence called `name`, its places filled with `values`."""
    return CATALOGUE[name][LANGUAGES.index(language_of(os.environ))].format(**values)
