"""A Bot API server for tests, in place of Telegram's (core.telegram.org/bots/api).

    with bot_api() as api:
        alice = api.person(11, "Alice", "alice", "en")
        alice.write("/start")
        alice.wait_for("Montana")

It takes what Telegram takes and nothing else: each parameter of each method is checked for its type
and its limits, and what breaks one is answered as Telegram does and noted in `problems`. It gives
updates by getUpdates, each until an offset says that it was received, or by the webhook; and fails
on demand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout, web

TOKEN = "4242:AAtests-only-tests-only-tests-only-0"
BOT_ID = 4242
BOT_NAME = "montana_test_bot"
WAIT_S = 120.0
_USERNAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{3,31}")
_COMMAND = re.compile(r"[a-z0-9_]{1,32}")
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,256}")
BURST = 3
"""So many messages at once Telegram bears in a chat, which then has to keep to one a second."""


class BadParameter(Exception):
    """What Telegram answers by 400."""


class Forbidden(Exception):
    """What Telegram answers by 403."""


class TooFast(Exception):
    """What Telegram answers by 429."""


@dataclass
class Message:
    """One of the bot's, as it stands in the chat now.

    Attributes:
        buttons: under it, in the order of reading.
        keyboard: in place of the user's keyboard.
    """

    number: int
    text: str
    buttons: list[dict[str, Any]] = field(default_factory=list)
    keyboard: list[dict[str, Any]] = field(default_factory=list)
    edits: int = 0

    def button(self, label: str) -> dict[str, Any]:
        """The button whose text has `label` in it."""
        (found,) = (one for one in self.buttons + self.keyboard if label in one["text"])
        return found


@dataclass
class FakePerson:
    """A user of Telegram, with a chat with the bot."""

    api: BotApi
    number: int
    name: str
    username: str
    language: str
    has_started: bool = False
    has_blocked: bool = False

    def as_user(self) -> dict[str, Any]:
        """As the Bot API names them."""
        user = {"id": self.number, "is_bot": False, "first_name": self.name}
        if self.username:
            user["username"] = self.username
        if self.language:
            user["language_code"] = self.language
        return user

    def write(self, text: str, *, group: int = 0, **more: Any) -> int:
        """Write a message to the bot, or into a group; returns its update's number."""
        chat = group or self.number
        if not group:
            self.has_started = True
        return self.api.update(
            message={
                "message_id": self.api.next_message(),
                "date": int(time.time()),
                "from": self.as_user(),
                "chat": self.api.chat(chat),
                "text": text,
                **more,
            }
        )

    def pick(self, other: FakePerson) -> int:
        """Pick somebody in Telegram's own list of contacts."""
        shared = {"user_id": other.number, "first_name": other.name, "username": other.username}
        return self.api.update(
            message={
                "message_id": self.api.next_message(),
                "date": int(time.time()),
                "from": self.as_user(),
                "chat": self.api.chat(self.number),
                "users_shared": {"request_id": 1, "user_ids": [other.number], "users": [shared]},
            }
        )

    def press(self, message: Message, label: str, *, group: int = 0) -> int:
        """Press a button under a message."""
        return self.press_data(message, message.button(label)["callback_data"], group=group)

    def press_data(self, message: Message, data: str, *, group: int = 0) -> int:
        """Press a button that says this."""
        chat = group or self.number
        identity = self.api.next_press()
        return self.api.update(
            callback_query={
                "id": identity,
                "from": self.as_user(),
                "chat_instance": "1",
                "data": data,
                "message": {
                    "message_id": message.number,
                    "date": int(time.time()),
                    "chat": self.api.chat(chat),
                    "text": message.text,
                },
            }
        )

    def block(self, blocked: bool = True) -> int:
        """Want nothing of the bot any more, or again."""
        self.has_blocked = blocked
        status, before = ("kicked", "member") if blocked else ("member", "kicked")
        bot = {"id": BOT_ID, "is_bot": True, "first_name": "Montana"}
        return self.api.update(
            my_chat_member={
                "chat": self.api.chat(self.number),
                "from": self.as_user(),
                "date": int(time.time()),
                "old_chat_member": {"user": bot, "status": before},
                "new_chat_member": {"user": bot, "status": status},
            }
        )

    @property
    def messages(self) -> list[Message]:
        """What the bot has written to them."""
        return self.api.messages(self.number)

    def wait_for(self, text: str, count: int = 1, *, chat: int = 0) -> Message:
        """The newest of the bot's messages with `text` in it, once there are `count` of them."""
        found: list[Message] = []

        def look() -> bool:
            found[:] = [one for one in self.api.messages(chat or self.number) if text in one.text]
            return len(found) >= count

        wait_until(look, lambda: f"{text!r} {count}x in {self.texts()}; {self.api.problems}")
        return found[-1]

    def ask(self, text: str, answer: str) -> Message:
        """Write a message to the bot, and wait for one more with `answer` in it than there were.
        All that was asked before in this chat has been carried out then."""
        count = sum(answer in one for one in self.texts())
        self.write(text)
        return self.wait_for(answer, count + 1)

    def texts(self) -> list[str]:
        """What the bot has written to them, as text."""
        return [message.text for message in self.messages]


class BotApi:
    """The server; `bot_api` starts one.

    Attributes:
        problems: what was sent that Telegram does not take.
        calls: methods that were called, with their parameters, in order.
        faults: for the next calls of a method: a status, with its description behind a blank
            where that matters, ``nothing`` for no answer at all, or ``lost`` for one that is
            carried out and then not answered.
        shown: what was shown when a button was pressed, by its identity.
        slowed: how many calls were too fast.
        webhook_target: where the webhook's reverse proxy passes requests on to.
        on_text: called with a chat and what a message there says from now on.
    """

    def __init__(self) -> None:
        self.url = ""
        self.token = TOKEN
        self.problems: list[str] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.faults: dict[str, deque[str]] = {}
        self.shown: dict[str, str] = {}
        self.commands: dict[str, list[dict[str, str]]] = {}
        self.slowed = 0
        self.deliveries: list[int] = []
        self.webhook: dict[str, Any] | None = None
        self.webhook_target = ""
        self.on_text: Callable[[int, str], None] = lambda _chat, _text: None
        self._lock = threading.RLock()
        self._people: dict[int, FakePerson] = {}
        self._chats: dict[int, list[Message]] = {}
        self._updates: deque[dict[str, Any]] = deque()
        self._given: dict[int, dict[str, Any]] = {}
        self._again: list[dict[str, Any]] = []
        self._next_update = 1_000
        self._next_message = 1
        self._next_press = 1
        self._presses: set[str] = set()
        self._sent: deque[float] = deque(maxlen=30)
        self._sent_in: dict[int, deque[float]] = {}
        self._credit: dict[int, tuple[float, float]] = {}
        self._asking = 0

    # ------------------------------------------------------------ for tests

    def person(self, number: int, name: str, username: str = "", language: str = "") -> FakePerson:
        """A new user of Telegram."""
        assert not username or _USERNAME.fullmatch(username)
        person = FakePerson(self, number, name, username, language)
        self._people[number] = person
        return person

    def messages(self, chat: int) -> list[Message]:
        """What the bot has written into a chat."""
        with self._lock:
            return list(self._chats.get(chat, ()))

    def fail(self, method: str, *faults: str) -> None:
        """Have the next calls of a method fail."""
        with self._lock:
            self.faults.setdefault(method, deque()).extend(faults)

    def update(self, **content: Any) -> int:
        """Have an update for the bot; returns its number."""
        with self._lock:
            number = self._next_update
            self._next_update += 1
            self._given[number] = {"update_id": number, **content}
            self._updates.append(self._given[number])
            return number

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is written meanwhile comes in one answer to getUpdates, as far as it has room."""
        with self._lock:
            yield

    def repeat(self, number: int) -> None:
        """Have an update for the bot once more, whatever it has said to have received."""
        with self._lock:
            self._again.append(self._given[number])

    def given(self, number: int) -> dict[str, Any]:
        """An update, whether or not the bot has asked for it."""
        with self._lock:
            return self._given[number]

    def next_message(self) -> int:
        """The number of a new message."""
        with self._lock:
            self._next_message += 1
            return self._next_message

    def next_press(self) -> str:
        """The identity of a button that is pressed."""
        with self._lock:
            self._next_press += 1
            self._presses.add(str(self._next_press))
            return str(self._next_press)

    def chat(self, number: int) -> dict[str, Any]:
        """A chat, as the Bot API names it."""
        if number < 0:
            return {"id": number, "type": "supergroup", "title": "Together"}
        return {"id": number, "type": "private", "first_name": self._people[number].name}

    @property
    def waiting(self) -> int:
        """Updates that were not received yet."""
        with self._lock:
            return len(self._updates) + len(self._again)

    def called(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the calls of a method."""
        with self._lock:
            return [parameters for name, parameters in self.calls if name == method]

    # ------------------------------------------------------------ the server

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a call."""
        token, method = request.match_info["token"], request.match_info["method"]
        if token != self.token:
            return _failure(401, "Unauthorized")
        form = {name: str(value) for name, value in (await request.post()).items()}
        if request.content_type == "application/json":
            form = {
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in (await request.json()).items()
            }
        fault = ""
        with self._lock:
            self.calls.append((method, form))
            waiting = self.faults.get(method)
            if waiting:
                fault = waiting.popleft()
        if fault and fault != "lost":
            return await self._fail(fault)
        handler: Callable[[dict[str, str]], Any] | None = getattr(self, f"do_{method}", None)
        if method == "getUpdates":
            return await self._get_updates(form)
        if handler is None:
            self.problems.append(f"no method {method}")
            return _failure(404, "Not Found")
        try:
            with self._lock:
                result = handler(form)
        except BadParameter as error:
            if "not modified" not in str(error) and "chat not found" not in str(error):
                self.problems.append(f"{method}: {error}")
            return _failure(400, f"Bad Request: {error}")
        except Forbidden as error:
            return _failure(403, f"Forbidden: {error}")
        except TooFast:
            self.slowed += 1
            return _failure(429, "Too Many Requests: retry after 1", retry_after=1)
        if fault == "lost":
            return await self._fail("nothing")
        return web.json_response({"ok": True, "result": result})

    async def _fail(self, fault: str) -> web.StreamResponse:
        if fault == "nothing":
            await asyncio.sleep(3600)
        if fault == "429":
            return _failure(429, "Too Many Requests: retry after 1", retry_after=1)
        if fault == "502":
            return web.Response(status=502, text="<html>Bad Gateway</html>")
        status, _, description = fault.partition(" ")
        return _failure(int(status), description or "Forbidden: bot was blocked by the user")

    async def _get_updates(self, form: dict[str, str]) -> web.StreamResponse:
        try:
            _only(form, "offset", "limit", "timeout", "allowed_updates")
            offset = _integer(form, "offset", 0, 2**53, 0)
            limit = _integer(form, "limit", 1, 100, 100)
            timeout_s = _integer(form, "timeout", 0, 50, 0)
            allowed = json.loads(form.get("allowed_updates", "[]"))
            _check(isinstance(allowed, list), "allowed_updates is no list")
        except BadParameter as error:
            self.problems.append(f"getUpdates: {error}")
            return _failure(400, f"Bad Request: {error}")
        if self.webhook is not None:
            return _failure(409, "Conflict: can't use getUpdates method while webhook is active")
        self._asking += 1
        mine = self._asking
        deadline = time.monotonic() + timeout_s
        while True:
            if mine != self._asking:
                return _failure(409, "Conflict: terminated by other getUpdates request")
            with self._lock:
                while self._updates and self._updates[0]["update_id"] < offset:
                    self._updates.popleft()
                found = [*self._again, *self._updates][:limit]
                self._again.clear()
                self.deliveries += [update["update_id"] for update in found]
            if found or time.monotonic() >= deadline:
                return web.json_response({"ok": True, "result": found})
            await asyncio.sleep(0.02)

    async def deliver(self) -> None:
        """Send updates to the webhook, each until it is taken."""
        async with ClientSession(timeout=ClientTimeout(total=10)) as session:
            while True:
                with self._lock:
                    hook = self.webhook
                    update = self._updates[0] if self._updates and hook is not None else None
                if update is None or hook is None:
                    await asyncio.sleep(0.02)
                    continue
                path = urlsplit(hook["url"]).path or "/"
                headers = {"X-Telegram-Bot-Api-Secret-Token": hook["secret_token"]}
                self.deliveries.append(update["update_id"])
                taken = False
                with contextlib.suppress(ClientError, TimeoutError):
                    async with session.post(
                        self.webhook_target + path, json=update, headers=headers
                    ) as response:
                        taken = response.status == 200
                if taken:
                    with self._lock:
                        self._updates.remove(update)
                else:
                    await asyncio.sleep(0.1)

    # ------------------------------------------------------------ methods

    def do_getMe(self, form: dict[str, str]) -> Any:
        _only(form)
        return {
            "id": BOT_ID,
            "is_bot": True,
            "first_name": "Montana",
            "username": BOT_NAME,
            "can_join_groups": True,
            "can_read_all_group_messages": False,
            "supports_inline_queries": False,
        }

    def do_setMyCommands(self, form: dict[str, str]) -> Any:
        _only(form, "commands", "language_code", "scope")
        commands = json.loads(form["commands"])
        _check(1 <= len(commands) <= 100, "too many commands")
        for command in commands:
            _check(set(command) == {"command", "description"}, "a command has other fields")
            _check(_COMMAND.fullmatch(command["command"]) is not None, "BOT_COMMAND_INVALID")
            _check(1 <= len(command["description"]) <= 256, "BOT_COMMAND_DESCRIPTION_INVALID")
        language = form.get("language_code", "")
        _check(re.fullmatch("([a-z]{2})?", language) is not None, "language_code is invalid")
        self.commands[language] = commands
        return True

    def do_setWebhook(self, form: dict[str, str]) -> Any:
        _only(form, "url", "secret_token", "allowed_updates", "max_connections")
        _check(
            urlsplit(form["url"]).scheme == "https", "bad webhook: An HTTPS URL must be provided"
        )
        _check(_SECRET.fullmatch(form["secret_token"]) is not None, "secret_token is invalid")
        _integer(form, "max_connections", 1, 100, 40)
        self.webhook = form
        return True

    def do_deleteWebhook(self, form: dict[str, str]) -> Any:
        _only(form, "drop_pending_updates")
        _check(form.get("drop_pending_updates", "false") == "false", "updates would be lost")
        self.webhook = None
        return True

    def do_answerCallbackQuery(self, form: dict[str, str]) -> Any:
        _only(form, "callback_query_id", "text", "show_alert")
        _check(len(form.get("text", "")) <= 200, "MESSAGE_TOO_LONG")
        identity = form["callback_query_id"]
        _check(identity in self._presses, "query is too old and response timeout expired")
        self.shown[identity] = form.get("text", "")
        return True

    def do_sendMessage(self, form: dict[str, str]) -> Any:
        _only(form, "chat_id", "text", "reply_markup", "link_preview_options")
        chat = self._writable(form)
        message = Message(self.next_message(), _text(form))
        self._set_markup(message, form, chat, may_reply=True)
        self._chats.setdefault(chat, []).append(message)
        self.on_text(chat, message.text)
        return self._shown_message(chat, message)

    def do_editMessageText(self, form: dict[str, str]) -> Any:
        _only(form, "chat_id", "message_id", "text", "reply_markup", "link_preview_options")
        chat = self._writable(form)
        number = _integer(form, "message_id", 1, 2**53, 0)
        found = [one for one in self._chats.get(chat, ()) if one.number == number]
        _check(bool(found), "message to edit not found")
        new = Message(number, _text(form))
        self._set_markup(new, form, chat, may_reply=False)
        message = found[0]
        if (new.text, new.buttons) == (message.text, message.buttons):
            raise BadParameter(
                "message is not modified: specified new message content and reply markup are "
                "exactly the same as a current content and reply markup of the message"
            )
        message.text, message.buttons = new.text, new.buttons
        message.edits += 1
        self.on_text(chat, message.text)
        return self._shown_message(chat, message)

    def _shown_message(self, chat: int, message: Message) -> dict[str, Any]:
        return {
            "message_id": message.number,
            "date": int(time.time()),
            "chat": self.chat(chat),
            "text": message.text,
        }

    def _writable(self, form: dict[str, str]) -> int:
        chat = _integer(form, "chat_id", -(2**53), 2**53, 0)
        if chat > 0:
            person = self._people.get(chat)
            if person is None:
                raise BadParameter("chat not found")
            if person.has_blocked:
                raise Forbidden("bot was blocked by the user")
            if not person.has_started:
                raise Forbidden("bot can't initiate conversation with a user")
        now = time.monotonic()
        sent = self._sent_in.setdefault(chat, deque(maxlen=20))
        credit, since = self._credit.get(chat, (float(BURST), now))
        credit = min(BURST, credit + now - since)
        if credit < 1:
            raise TooFast
        if chat < 0 and len(sent) == 20 and now - sent[0] < 60:
            raise TooFast
        if len(self._sent) == 30 and now - self._sent[0] < 1:
            raise TooFast
        self._credit[chat] = credit - 1, now
        sent.append(now)
        self._sent.append(now)
        return chat

    def _set_markup(
        self, message: Message, form: dict[str, str], chat: int, *, may_reply: bool
    ) -> None:
        preview = json.loads(form.get("link_preview_options", "{}"))
        _check(set(preview) <= {"is_disabled", "url"}, "link_preview_options is invalid")
        if "reply_markup" not in form:
            return
        markup = json.loads(form["reply_markup"])
        if "inline_keyboard" in markup:
            _check(set(markup) == {"inline_keyboard"}, "object expected as reply markup")
            message.buttons = [one for row in markup["inline_keyboard"] for one in row]
            _check(1 <= len(message.buttons) <= 100, "BUTTONS_TOO_MUCH")
            for button in message.buttons:
                _check_inline(button, chat)
            return
        _check(may_reply, "inline keyboard expected")
        known = {"keyboard", "resize_keyboard", "one_time_keyboard", "is_persistent", "selective"}
        _check(set(markup) <= known and "keyboard" in markup, "object expected as reply markup")
        message.keyboard = [
            {"text": one} if isinstance(one, str) else one
            for row in markup["keyboard"]
            for one in row
        ]
        for button in message.keyboard:
            _check_key(button, chat)


def _check(is_so: bool, sentence: str) -> None:
    if not is_so:
        raise BadParameter(sentence)


def _only(form: dict[str, str], *names: str) -> None:
    _check(set(form) <= set(names), f"unknown parameters {set(form) - set(names)}")


def _integer(form: dict[str, str], name: str, least: int, most: int, default: int) -> int:
    written = form.get(name)
    if written is None:
        return default
    _check(re.fullmatch(r"-?[0-9]{1,16}", written) is not None, f"{name} is no integer")
    _check(least <= int(written) <= most, f"{name} is out of range")
    return int(written)


def _text(form: dict[str, str]) -> str:
    text = form.get("text", "")
    _check(bool(text.strip()), "message text is empty")
    _check(len(text.encode("utf-16-le")) // 2 <= 4096, "message is too long")
    return text.strip()


def _check_inline(button: dict[str, Any], chat: int) -> None:
    _check(isinstance(button.get("text"), str) and bool(button["text"]), "BUTTON_TEXT_EMPTY")
    actions = set(button) - {"text"}
    _check(len(actions) == 1, f"a button has the actions {actions}")
    (action,) = actions
    if action == "callback_data":
        size = len(button[action].encode())
        _check(1 <= size <= 64, "BUTTON_DATA_INVALID")
    elif action == "url":
        parts = urlsplit(button[action])
        is_url = parts.scheme in ("http", "https", "tg") and "." in (parts.hostname or "")
        _check(is_url and len(button[action]) <= 2048, "BUTTON_URL_INVALID")
    elif action == "web_app":
        _check(chat > 0, "BUTTON_TYPE_INVALID: web_app in a group")
        _check(set(button[action]) == {"url"}, "web_app has other fields")
        _check(urlsplit(button[action]["url"]).scheme == "https", "Only HTTPS links are allowed")
    else:
        _check(False, f"a button has the action {action}")


def _check_key(button: dict[str, Any], chat: int) -> None:
    _check(isinstance(button.get("text"), str) and bool(button["text"]), "BUTTON_TEXT_EMPTY")
    _check(set(button) <= {"text", "request_users"}, f"a key has {set(button)}")
    if "request_users" in button:
        request = button["request_users"]
        _check(chat > 0, "request_users outside of a private chat")
        known = {
            "request_id",
            "user_is_bot",
            "max_quantity",
            "request_name",
            "request_username",
        }
        _check(set(request) <= known and isinstance(request["request_id"], int), "request_users")
        _check(1 <= request.get("max_quantity", 1) <= 10, "max_quantity is out of range")


def _failure(status: int, description: str, **parameters: Any) -> web.Response:
    answer: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
    if parameters:
        answer["parameters"] = parameters
    return web.json_response(answer, status=status)


def wait_until(check: Callable[[], bool], explain: Callable[[], str] = lambda: "") -> None:
    """Wait until something has come to pass."""
    deadline = time.monotonic() + WAIT_S
    while not check():
        assert time.monotonic() < deadline, f"it has not come to pass: {explain()}"
        time.sleep(0.02)


@contextlib.contextmanager
def bot_api() -> Iterator[BotApi]:
    """A server on a free port of 127.0.0.1, in a thread of its own."""
    api = BotApi()
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    ended = asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/bot{token}/{method}", api.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        api.url = f"http://{host}:{port}"
        delivering = asyncio.ensure_future(api.deliver())
        ready.set()
        await ended.wait()
        delivering.cancel()
        await runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait(WAIT_S)
    try:
        yield api
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(WAIT_S)
        loop.close()
