"""What people read at the terminal, in English and in Russian.

The language is that of LC_ALL, LC_MESSAGES or LANG, in this order, as POSIX has it; English where
they name no language that is here. What programs read (JSON, log lines) is never translated.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from core.errors import MontanaError, OperationError
from core.purposes import PURPOSES

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
    "bad_call_id": (
        "a call's id is CALL- and 8 letters and digits, as montana call list shows it.",
        "номер звонка - CALL- и 8 букв и цифр, как его показывает montana call list.",
    ),
    "bad_kind": ("voice, video or screen.", "voice, video или screen."),
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
    "not_yours": (
        "The files in {folder} belong to {user}, and what another user writes there the node "
        "can't open. Run it as {user}: sudo -u {user} {command} ...",
        "Файлы в {folder} принадлежат {user}: что напишет там другой, узел не откроет. Запустите "
        "от имени {user}: sudo -u {user} {command} ...",
    ),
    "created_without_config": (
        "No node is running and no --config is named: the account has no welcome grant, and "
        "telephone numbers have to begin with +.",
        "Узел не запущен, и --config не указан: приветственного начисления нет, и номера телефонов "
        "должны начинаться с +.",
    ),
    "bad_text": ("What was typed is no UTF-8 text.", "Набранное - не текст в UTF-8."),
    "bad_number": ("a whole number.", "целое число."),
    "bad_port": ("a port from 1 to 65535.", "порт от 1 до 65535."),
    "bad_limit": ("a whole number from 1 to 1000.", "целое число от 1 до 1000."),
    "bad_id": ("32 hexadecimal digits.", "32 шестнадцатеричные цифры."),
    "bad_path": ("a path of 4096 characters at most.", "путь не длиннее 4096 знаков."),
    "bad_format": ("csv, jsonl or cloudevents.", "csv, jsonl или cloudevents."),
    "bad_time": (
        "a date or a time such as 2026-11-01 or 2026-11-01T12:00:00Z.",
        "дата или время, например 2026-11-01 или 2026-11-01T12:00:00Z.",
    ),
    "bad_key": ("{digits} hexadecimal digits.", "{digits} шестнадцатеричных цифр."),
    "cant_read": ("{path} can't be read: {reason}", "{path} не прочесть: {reason}"),
    "cant_write": ("{path} can't be written: {reason}", "{path} не записать: {reason}"),
    "not_here": (
        "The node has written {path}, and here it isn't: a node under systemd has a /tmp of its "
        "own. Name a folder that both see, such as {folder}.",
        "Узел записал {path}, но здесь этого файла нет: у узла под systemd свой /tmp. Укажите "
        "папку, которую видят оба, например {folder}.",
    ),
    "stop_first": (
        "A node is running behind {path}. Stop it first; nothing was restored.",
        "За {path} работает узел. Сначала остановите его; ничего не восстановлено.",
    ),
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
users, secrets, limits and rules of signaling anew. PROD=1, ROOM_TOKEN and ALLOWED_ORIGINS in the
environment stand over the file.""",
        """Запустить узел; он работает, пока его видно. Ctrl-C или SIGTERM завершает его мягко:
новых соединений нет, прежние живут, пока не кончатся или пока не пройдёт turn.drain_timeout_s;
второй раз - сразу. SIGHUP перечитывает пользователей, секреты, пределы и правила звонков. PROD=1,
ROOM_TOKEN и ALLOWED_ORIGINS в окружении важнее файла.""",
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
    "help_discover": (
        "Look for nodes in the local network that want to be found (discovery = true).",
        "Найти в локальной сети узлы, которые это разрешают (discovery = true).",
    ),
    "help_probe_port": (
        "The UDP port at which they are asked; 8791 unless told.",
        "UDP-порт, на котором их спрашивают; иначе 8791.",
    ),
    "no_node_found": (
        "No node has answered on UDP port {port}. One that is to be found needs discovery = true "
        "in its [signaling], and has to be in the same network.",
        "На UDP-порту {port} никто не ответил. Узлу нужно discovery = true в [signaling], и он "
        "должен быть в той же сети.",
    ),
    "found_url": ("pages", "страницы"),
    "found_name": ("name", "имя"),
    "found_key": ("key", "ключ"),
    "help_check_link": (
        "Print a link to /check that holds for some minutes.",
        "Напечатать ссылку на /check; она действует несколько минут.",
    ),
    "help_call_group": (
        "Calls in the browser. ACCOUNT is an address: user:alice, tg:123, +4930123456.",
        "Звонки в браузере. ACCOUNT - адрес: user:alice, tg:123, +4930123456.",
    ),
    "help_call_link": (
        "Make a call and print the links of both sides. The caller pays for each second.",
        "Создать звонок и напечатать ссылки обеих сторон. За каждую секунду платит звонящий.",
    ),
    "help_caller": (
        "Who calls, and pays; has to be named.",
        "Кто звонит и платит; указать обязательно.",
    ),
    "help_callee": (
        "Who is called; otherwise whoever has the link.",
        "Кому звонят; иначе - кто откроет ссылку.",
    ),
    "help_kind": (
        "How it begins; voice unless told.",
        "С чего он начнётся; иначе voice.",
    ),
    "help_call_list": (
        "List an account's calls, the newest first; without --account, those that have not ended.",
        "Перечислить звонки счёта, новые - первыми; без --account - те, что не закончились.",
    ),
    "help_call_account": ("Whose calls.", "Чьи звонки."),
    "help_call_before": (
        "Calls before this place, which the page before names.",
        "Звонки до этого места; его называет предыдущая страница.",
    ),
    "help_call_end": ("End a call, now.", "Сразу завершить звонок."),
    "help_room_group": ("Rooms in the browser.", "Комнаты в браузере."),
    "help_room_link": (
        "Make a room and print a link for its host, and one for the others.",
        "Создать комнату и напечатать ссылку для ведущего и ссылку для остальных.",
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
    "help_account_statement": (
        "Show what came and went on an account, and the balance after each line.",
        "Показать приход и расход по счёту и баланс после каждой строки.",
    ),
    "help_account_statement_long": (
        """Show what came and went on an account, from the first line to the last, and the balance
after each. What waits changes no balance; what a session costs counts when the session has ended,
so that the balance of an account with a running session is less by then.""",
        """Показать приход и расход по счёту от первой строки к последней и баланс после каждой.
Ожидающие переводы баланса не меняют; стоимость сессии учитывается, когда та закончилась: пока она
идёт, баланс счёта уже меньше.""",
    ),
    "help_statement_since": (
        "Lines from then on: 2026-11-01 or 2026-11-01T12:00:00Z. UTC unless told.",
        "Строки с этого времени: 2026-11-01 или 2026-11-01T12:00:00Z; иначе UTC.",
    ),
    "help_statement_until": (
        "Lines before then.",
        "Строки до этого времени.",
    ),
    "no_statement": (
        "Sessions pay into {account}, and their seconds stand in no line of its history, so that "
        "no statement would add up. montana ledger export tells what each session has paid.",
        "На {account} платят сессии, и в его истории нет строк об этом: выписка не сошлась бы. "
        "Сколько заплатила каждая сессия, говорит montana ledger export.",
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
    "help_ledger_group": (
        "The ledger as a whole. A running node is asked; without one, its ledger's files.",
        "Книга целиком. Отвечает работающий узел, без него - файлы его книги.",
    ),
    "help_ledger_verify": (
        "Make the ledger anew from its log, and compare.",
        "Построить книгу заново по её журналу и сравнить.",
    ),
    "help_ledger_verify_long": (
        """Make the ledger anew from its log, and compare: every balance, the sums, the chain of
hashes, the tree of records and its signed roots. The node goes on meanwhile. Exits with 1 where
anything is wrong. Keep the last link elsewhere, and name it with --link later: who rewrites the log
can't keep it the same.""",
        """Построить книгу заново по её журналу и сравнить: каждый баланс, суммы, цепь хешей, дерево
записей и его подписанные корни. Узел при этом работает. Если что-то не так, код выхода 1. Храните
последнее звено отдельно и укажите его потом с --link: переписав журнал, его не сохранить.""",
    ),
    "help_ledger_backup": (
        "Write the ledger into FILE, a new one. A running node writes it by itself, and goes on.",
        "Записать книгу в новый файл FILE. Работающий узел пишет его сам, не останавливаясь.",
    ),
    "help_ledger_restore": (
        "Make a ledger from a backup, for a node that doesn't run and has none.",
        "Построить книгу из копии; узел не должен работать, и книги у него быть не должно.",
    ),
    "help_ledger_export": (
        "Export the records of closed sessions.",
        "Выгрузить записи о закрытых сессиях.",
    ),
    "help_ledger_prove": (
        "Prove that the record with this id stands in the log; an export tells the ids.",
        "Доказать, что запись с этим номером есть в журнале; номера - в выгрузке.",
    ),
    "help_ledger_check_proof": (
        "Check a proof; neither a node nor a ledger is needed.",
        "Проверить доказательство; ни узел, ни книга не нужны.",
    ),
    "help_ledger_check_proof_long": (
        """Check a proof; neither a node nor a ledger is needed. Exits with 1 where it proves
nothing or isn't signed. The node's name is its key: with --node it has to be the one that you know
(montana ledger key shows it on the node).""",
        """Проверить доказательство; ни узел, ни книга не нужны. Если оно ничего не доказывает или
не подписано, код выхода 1. Имя узла - его ключ: с --node он должен быть тем, который вы знаете (на
узле его показывает montana ledger key).""",
    ),
    "help_ledger_key": (
        "Show the node's name and the key by which its proofs are known, for those who check them.",
        "Показать имя узла и ключ, по которым узнают его доказательства, - для проверяющих.",
    ),
    "help_link": (
        "A last link that was kept: what was written until then has to be the same.",
        "Сохранённое последнее звено: записанное до него не должно было измениться.",
    ),
    "bad_link": (
        "a link is 64 hexadecimal digits, as montana ledger verify shows it",
        "звено - 64 шестнадцатеричные цифры, как его показывает montana ledger verify",
    ),
    "help_proof_node": (
        "The node's name, montana/..., where you have it from a place that you trust.",
        "Имя узла, montana/..., если оно у вас из надёжного места.",
    ),
    "proof_of_another_node": (
        "it is a proof of another node: {node}",
        "это доказательство другого узла: {node}",
    ),
    "help_format": ("csv unless told.", "Вид; иначе csv."),
    "help_since": (
        "Sessions closed since then: 2026-11-01 or 2026-11-01T12:00:00Z. UTC unless told.",
        "Сессии, закрытые с этого времени: 2026-11-01 или 2026-11-01T12:00:00Z; иначе UTC.",
    ),
    "help_output": (
        "A new file; standard output unless told.",
        "Новый файл; иначе стандартный вывод.",
    ),
    "help_public_key": (
        "The node's key (ML-DSA-65), where you have it from a place that you trust.",
        "Ключ узла (ML-DSA-65), если он у вас из надёжного места.",
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
    "room_link": ("To talk, open {url}", "Чтобы поговорить, откройте {url}"),
    "invitation_link": (
        "and send somebody {url}",
        "и отправьте собеседнику {url}",
    ),
    "fingerprint": (
        "The browser will warn of its certificate; its SHA-256 is {fingerprint}",
        "Браузер предупредит о сертификате; его SHA-256: {fingerprint}",
    ),
    "bridges_start": ("Bridges: {names}", "Мосты: {names}"),
    "no_bridges": (
        "Bridges: none. Telegram and SMS are added in a configuration file: deploy/node.toml, "
        "[bridges]",
        "Мосты: нет. Telegram и SMS добавляются в файле настроек: deploy/node.toml, [bridges]",
    ),
    "help_bridge": ("Run one bridge by itself", "Запустить один мост отдельно"),
    "help_bridge_long": (
        "Run one bridge of a configuration by itself: telegram, twilio, gsm or webhook. "
        "`montana up` starts those that are configured; this is for service managers and for "
        "looking at one of them.",
        "Запустить отдельно один мост из настроек: telegram, twilio, gsm или webhook. "
        "`montana up` сам запускает те, что настроены; эта команда для системных служб и чтобы "
        "посмотреть на один из них.",
    ),
    "bad_bridge": (
        "there is no such bridge; there are {names}.",
        "такого моста нет; есть {names}.",
    ),
    "help_gsm_group": ("Ask the GSM modems", "Спросить модемы GSM"),
    "help_gsm_ussd": (
        "Dial a USSD code on a modem and print the answer",
        "Набрать код USSD на модеме и показать ответ",
    ),
    "bad_modem": ("a modem has a name such as sim1.", "модем называется, например, sim1."),
    "bad_ussd": (
        "a USSD code is made of digits, * and #: *100#.",
        "код USSD состоит из цифр, * и #: *100#.",
    ),
    "bridge": ("bridge", "мост"),
    "bridge_away": ("away", "нет связи"),
    "bridge_restarts": ("restarts: {count}", "перезапусков: {count}"),
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
    # Calls.
    "call_caller_url": (
        "To call as {caller}, open {url}",
        "Чтобы позвонить от имени {caller}, откройте {url}",
    ),
    "call_callee_url": ("and send {callee} {url}", "и отправьте {callee} {url}"),
    "call_anybodys_url": (
        "and send whom you call {url}",
        "и отправьте тому, кому звоните, {url}",
    ),
    "call_made": (
        "{call}. Whoever opens a link is that side of the call.",
        "{call}. Кто откроет ссылку, тот и будет этой стороной звонка.",
    ),
    "call": ("call", "звонок"),
    "call_anybody": ("who has the link", "у кого ссылка"),
    "call_kind": ("kind", "вид"),
    "call_status": ("status", "состояние"),
    "call_created": ("made (UTC)", "создан (UTC)"),
    "call_status_pending": ("made", "создан"),
    "call_status_ringing": ("rings", "вызов"),
    "call_status_active": ("goes on", "идёт"),
    "call_status_ended": ("ended", "закончен"),
    "call_status_missed": ("missed", "пропущен"),
    "call_status_rejected": ("rejected", "отклонён"),
    "call_status_failed": ("failed", "не удался"),
    # The ledger's tables.
    "account": ("account", "счёт"),
    "addresses": ("addresses", "адреса"),
    "balance": ("balance", "баланс"),
    "opening": ("at first", "в начале"),
    "incoming": ("came", "приход"),
    "outgoing": ("went", "расход"),
    "closing": ("at the end", "в конце"),
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
    "verifying": ("verifying:", "проверка:"),
    "backing_up": ("backup:", "копия:"),
    "restoring": ("restoring:", "восстановление:"),
    "exporting": ("export:", "выгрузка:"),
    "exported": ("records: {count}", "записей: {count}"),
    "ledger_entries": ("entries", "записей в журнале"),
    "ledger_accounts": ("accounts", "счетов"),
    "ledger_transfers": ("transfers", "переводов"),
    "ledger_records": ("records of sessions", "записей о сессиях"),
    "ledger_sealed": ("sealed up to entry", "опечатано до записи"),
    "ledger_signers": ("signed by", "подписано"),
    "ledger_unsigned_roots": ("roots not signed", "корней без подписи"),
    "ledger_unchecked_signatures": ("signatures not checked", "подписей не проверено"),
    "ledger_link": ("last link", "последнее звено"),
    "ledger_folder": ("ledger", "книга"),
    "ledger_file": ("file", "файл"),
    "ledger_size": ("size", "размер"),
    "ledger_fine": ("All is as the log says.", "Всё так, как говорит журнал."),
    "ledger_wrong": (
        "Problems: {count}. Keep a copy of the files, and restore the last backup.",
        "Проблем: {count}. Сохраните файлы и восстановите книгу из последней копии.",
    ),
    "proof_written": ("The proof is in {path}", "Доказательство - в {path}"),
    "proof_session": ("session", "сессия"),
    "proof_closed": ("closed", "закрыта"),
    "proof_seconds": ("seconds", "секунд"),
    "proof_bytes": ("bytes", "байт"),
    "proof_cost": ("cost", "стоимость"),
    "proof_reason": ("why it ended", "почему кончилась"),
    "proof_origin": ("node", "узел"),
    "proof_place": ("record", "запись"),
    "proof_of_key": (
        "It is signed with the key that you have named.",
        "Подписано названным вами ключом.",
    ),
    "proof_of_a_node": (
        "It is signed by this node. Whose name that is, you have to know: name it with --node.",
        "Подписано этим узлом. Чьё это имя, надо знать: укажите его с --node.",
    ),
    "proof_unsigned": (
        "It isn't signed: it holds together, and yet anybody could have made it.",
        "Не подписано: всё сходится, но сделать такое мог кто угодно.",
    ),
    "kind_pending": ("waits", "ожидает"),
    "kind_posted": ("was waiting", "ожидал"),
    "kind_voided": ("given up", "отменён"),
    "kind_expired": ("ran out", "истёк"),
    **{f"purpose_{name}": texts for name, texts in PURPOSES.items()},
    # What the ledger refuses, by the codes of its errors.
    "refused_transfer_id_reused": (
        "this id belongs to another transfer; make a new id for a new transfer",
        "под этим номером сделан другой перевод; новому переводу нужен новый номер",
    ),
    "refused_transfer_linked_failed": (
        "another transfer that is linked with this one was refused",
        "отказано в другом переводе, связанном с этим",
    ),
    "refused_transfer_bad_amount": (
        "the amount can't be moved: it has to be more than nothing",
        "такую сумму не перевести: она должна быть больше нуля",
    ),
    "refused_transfer_same_account": (
        "a transfer leads from one account to another",
        "перевод идёт с одного счёта на другой",
    ),
    "refused_transfer_no_account": ("there is no such account", "такого счёта нет"),
    "refused_transfer_frozen": (
        "the account is frozen: nothing leaves it",
        "счёт заморожен: с него ничего не уходит",
    ),
    "refused_transfer_closed": ("the account is closed", "счёт закрыт"),
    "refused_transfer_no_funds": (
        "there is not enough on the account",
        "на счёте недостаточно денег",
    ),
    "refused_transfer_overflow": (
        "the account can't hold so much",
        "столько на счёте не поместится",
    ),
    "refused_transfer_bad_kind": (
        "there is no such kind of transfer",
        "такого вида переводов нет",
    ),
    "refused_transfer_no_reference": (
        "the transfer that this one refers to is not there, or another kind",
        "перевода, на который ссылается этот, нет, или он другого вида",
    ),
    "refused_transfer_resolved": (
        "the transfer has been posted or voided already, or its time was over",
        "перевод уже проведён или отменён, или его время вышло",
    ),
    "refused_transfer_exceeds": (
        "this is more than the transfer that it refers to has left",
        "это больше, чем осталось от перевода, на который он ссылается",
    ),
    "refused_transfer_open_chain": (
        "the last transfer is linked with one that does not follow",
        "последний перевод связан со следующим, а его нет",
    ),
    "refused_not_admitted": (
        "only the node's own user and root may ask for this",
        "об этом могут просить только пользователь узла и root",
    ),
    "refused_no_bridges": ("this node has no bridges", "у этого узла нет мостов"),
    "refused_subscribed": (
        "somebody is subscribed to this already",
        "на это уже кто-то подписан",
    ),
    "refused_own_account": (
        "this is one of the ledger's own accounts",
        "это собственный счёт книги",
    ),
    "refused_no_transfer": ("there is no transfer {id}", "перевода {id} нет"),
    "refused_no_account": ("there is no account {account}", "счёта {account} нет"),
    "refused_account_closed": ("the account is closed", "счёт закрыт"),
    "refused_no_address": (
        "{written} is no address; write tg:123, +79991234567, user:alice or key: and the 52 "
        "characters of a key",
        "{written} - не адрес; пишите tg:123, +79991234567, user:alice или key: и 52 знака ключа",
    ),
    "refused_system_address": (
        "{address} is the ledger's own",
        "{address} - собственный адрес книги",
    ),
    "refused_address_taken": (
        "{address} belongs to an account already",
        "{address} уже принадлежит счёту",
    ),
    "refused_address_frozen": (
        "{address} belongs to an account that is frozen",
        "{address} принадлежит замороженному счёту",
    ),
    "refused_too_many_addresses": (
        "an account has {maximum} addresses at most",
        "адресов у счёта не больше {maximum}",
    ),
    "refused_others_address": (
        "{address} is no address of this account",
        "{address} - не адрес этого счёта",
    ),
    "refused_no_currency": (
        "there is no currency {currency}; there are {known}",
        "валюты {currency} нет; есть {known}",
    ),
    "refused_no_amount": (
        "an amount is a number such as 12 or 12.5, not {written}",
        "сумма - число, например 12 или 12.5, а не {written}",
    ),
    "refused_too_many_places": (
        "{currency} has {places} decimal places at most",
        "знаков после точки у {currency} не больше {places}",
    ),
    "refused_zero_amount": ("an amount is more than nothing", "сумма должна быть больше нуля"),
    "refused_largest_amount": (
        "the largest amount is {amount} {currency}",
        "самая большая сумма - {amount} {currency}",
    ),
    "refused_no_line": (
        "the account's history has no line at this place",
        "в истории счёта на этом месте нет строки",
    ),
    "refused_not_empty": (
        "only an empty account can be closed",
        "закрыть можно только пустой счёт",
    ),
    "refused_other_act": (
        "something else was done under this id; make a new id for what is new",
        "под этим номером сделано другое; новому нужен новый номер",
    ),
    "refused_tariff_account": (
        "the tariff pays into this account; name another one there first",
        "на этот счёт платят по тарифу; сначала укажите там другой",
    ),
    "refused_pending_first": (
        "the account has pending transfers: they come first",
        "у счёта есть ожидающие переводы: сначала они",
    ),
    "refused_voucher_count": (
        "from 1 to {maximum} vouchers can be made at once",
        "за раз можно создать от 1 до {maximum} ваучеров",
    ),
    "refused_vouchers_made_before": (
        "vouchers were made under this id already; their codes were shown then and are not kept",
        "под этим номером ваучеры уже созданы; их коды были показаны тогда и не хранятся",
    ),
    "refused_bad_voucher": (
        "a voucher's code has {characters} letters and digits: {example}",
        "в коде ваучера {characters} латинских букв и цифр: {example}",
    ),
    "refused_no_voucher": (
        "there is no voucher with this code",
        "ваучера с таким кодом нет",
    ),
    "refused_voucher_redeemed": (
        "this voucher has been redeemed already, by another account",
        "этот ваучер уже погашен, на другой счёт",
    ),
    "refused_no_id": (
        "an id is {digits} hexadecimal digits, not all of them zero: {written}",
        "номер - {digits} шестнадцатеричные цифры, не все из них нули: {written}",
    ),
    "refused_no_telegram_user": (
        "{address} is no user of Telegram; write tg: and the user's number",
        "{address} - не пользователь Telegram; напишите tg: и его номер",
    ),
    "refused_bridge_away": (
        "the bridge {bridge} is not connected; montana status says how it does",
        "мост {bridge} не подключён; что с ним, скажет montana status",
    ),
    "refused_bridge_busy": (
        "the bridge {bridge} is asked too much at a time; try again",
        "у моста {bridge} спрашивают слишком много сразу; повторите",
    ),
    "refused_bridge_silent": (
        "the bridge {bridge} has not answered; montana status says how it does",
        "мост {bridge} не ответил; что с ним, скажет montana status",
    ),
    # What signaling refuses, by the codes of its errors.
    "refused_no-money": (
        "there is not enough on the account that pays",
        "на счёте, с которого платят, недостаточно денег",
    ),
    "refused_no-account": ("there is no such account", "такого счёта нет"),
    "refused_busy": (
        "one of the two is in another call",
        "один из двоих занят другим звонком",
    ),
    "refused_blocked": ("who is called can't be reached", "до этого собеседника не дозвониться"),
    "refused_too-many": (
        "that was too many in a minute; wait a little",
        "за минуту это слишком много; подождите немного",
    ),
    "refused_full": (
        "the node has as many calls or rooms as it takes",
        "звонков или комнат на узле больше не поместится",
    ),
    "refused_quota": (
        "what the node pays for rooms is used up for today, or all places are taken",
        "на сегодня узел исчерпал оплату комнат, или заняты все места",
    ),
    "refused_disk_full": (
        "the disk is full: nothing of this was stored; make room on it and try again",
        "диск полон: ничего не сохранено; освободите на нём место и повторите",
    ),
    "refused_sms_number": (
        "{written} is no telephone number; write +79991234567",
        "{written} - не номер телефона; напишите +79991234567",
    ),
    "refused_sms_country": (
        "no SMS are sent to this country; add it to [sms] countries",
        "в эту страну SMS не отправляются; добавьте её в [sms] countries",
    ),
    "refused_sms_not_mobile": (
        "SMS go to mobile telephones alone, and this number is of another kind: a landline's, or "
        "that of a service which may cost more",
        "SMS отправляются только на мобильные телефоны, а этот номер другого вида: городской или "
        "платной службы",
    ),
    "refused_sms_opted_out": (
        "this number wants no SMS; it has to send START first",
        "этот номер отказался от SMS; сначала с него должно прийти START",
    ),
    "refused_sms_budget": (
        "the budget for SMS is used up; see `montana sms budget`, and messages_per_day, "
        "messages_per_number and messages_in_total in [sms]",
        "бюджет на SMS исчерпан; см. `montana sms budget`, а в [sms] - messages_per_day, "
        "messages_per_number и messages_in_total",
    ),
    "refused_sms_full": (
        "too many SMS wait; try again later",
        "слишком много SMS ждут отправки; попробуйте позже",
    ),
    "refused_sms_rate": (
        "too many SMS in a minute; try again later",
        "слишком много SMS за минуту; попробуйте позже",
    ),
    "refused_sms_length": (
        "an SMS has from 1 character to {maximum} parts",
        "в SMS от 1 знака до {maximum} частей",
    ),
    "refused_sms_no_bridge": (
        "no bridge sends SMS; see [bridges.twilio] and [bridges.gsm]",
        "SMS отправлять нечем; см. [bridges.twilio] и [bridges.gsm]",
    ),
    "refused_no_code": (
        "this code is wrong or too old; ask for a new one",
        "код неверен или устарел; запросите новый",
    ),
    "refused_too_many_codes": (
        "too many codes were asked for; try again tomorrow",
        "кодов запрошено слишком много; попробуйте завтра",
    ),
    "refused_too_many_tries": (
        "too many wrong codes were tried; try again later",
        "неверных кодов было слишком много; попробуйте позже",
    ),
    "refused_no-call": ("there is no such call", "такого звонка нет"),
    "refused_link-over": (
        "a link of this room was ended when somebody was put out who had come by it; the host has "
        "another",
        "ссылка этой комнаты закрыта, по ней пришёл тот, кого вывели; новая есть у ведущего",
    ),
    "refused_room-over": (
        "the room of this --id has ended; choose another --id",
        "комната с этим номером закончилась; выберите другой номер",
    ),
    "refused_wrong-state": ("the call is over already", "звонок уже закончен"),
    "refused_unavailable": (
        "the node can't do this now; its log may tell why",
        "сейчас узел этого не может; причину может назвать его журнал",
    ),
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
    "status_pages": ("pages connected", "открыто страниц"),
    "status_rooms": ("rooms", "комнат"),
    "status_people": ("people in rooms", "человек в комнатах"),
    "status_calls": ("calls", "звонков"),
    "status_outbox": ("messages", "сообщения"),
    "outbox_events": ("waiting", "ждут"),
    "outbox_oldest_s": ("the oldest for", "старейшее"),
    "outbox_done": ("delivered", "доставлены"),
    "outbox_failed": ("failed", "не доставлены"),
    "outbox_unknown": ("fate unknown", "судьба неизвестна"),
    "outbox_expired": ("expired", "устарели"),
    "outbox_dropped": ("dropped for want of room", "отброшены: не было места"),
    "status_sms": ("SMS", "SMS"),
    "sms_received": ("handled", "обработано"),
    "sms_sent": ("sent", "отправлено"),
    "sms_parts_today": ("parts today", "частей за сегодня"),
    "sms_parts_ever": ("parts ever", "частей всего"),
    "sms_limited": ("over the rate", "сверх темпа"),
    "sms_duplicates": ("come twice", "пришли дважды"),
    "sms_not_understood": ("not understood", "не поняты"),
    "sms_other": ("not answered", "без ответа"),
    # The tables of `montana sms`.
    "sms_id": ("id", "id"),
    "sms_time": ("time", "время"),
    "sms_number": ("number", "номер"),
    "sms_action": ("what", "что"),
    "sms_result": ("result", "итог"),
    "sms_status": ("status", "состояние"),
    "sms_parts": ("parts", "частей"),
    "sms_today": ("today", "сегодня"),
    "sms_ever": ("ever", "всего"),
    "sms_per_number": ("to a number in a day", "на номер в день"),
    "sms_reserved": ("of each, for paid commands alone", "из них только для платных команд"),
    "sms_countries": ("countries", "страны"),
    "sms_bridge": ("bridge", "мост"),
    "sms_of": ("{used} of {limit}", "{used} из {limit}"),
    "sms_no_limit": ("no limit", "без предела"),
    "sms_nowhere": ("none: see [sms] countries", "никакие: см. [sms] countries"),
    "sms_queued": (
        "{number} gets it in {parts} SMS; its fate: `montana sms list`, {id}.",
        "Для {number} в очереди, SMS: {parts}; что стало с ним - `montana sms list`, {id}.",
    ),
    "help_sms_group": (
        "SMS that come and go, and what they may cost.",
        "SMS: что пришло и ушло и сколько можно потратить.",
    ),
    "help_sms_list": (
        "List SMS, the last first; never their texts.",
        "Список SMS, последние сверху; тексты не хранятся.",
    ),
    "help_sms_before": ("The lines before this place.", "Строки до этого места."),
    "help_sms_send": ("Send an SMS.", "Отправить SMS."),
    "help_sms_budget": (
        "How many SMS were sent, and how many may be.",
        "Сколько SMS отправлено и сколько можно.",
    ),
    "bad_place": ("a place as the list has shown it.", "место, каким его показал список."),
    "bad_phone": (
        "a telephone number such as +79991234567.",
        "номер телефона, например +79991234567.",
    ),
    "bad_sms": ("a text of 1 to 4096 characters.", "текст от 1 до 4096 знаков."),
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


def sentence_of(error: MontanaError) -> str:
    """What an error says, in the reader's language where it is known by its code."""
    if isinstance(error, OperationError) and f"refused_{error.code}" in CATALOGUE:
        # A node of another version may have other values for it.
        with contextlib.suppress(KeyError):
            return text(f"refused_{error.code}", **error.values)
    return str(error)
