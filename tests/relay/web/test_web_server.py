"""The pages' HTTP server: routes, limits, TLS, and what hostile clients can't do to it."""

from __future__ import annotations

import json
import os
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509

from core.clock import Clock, SystemClock, VirtualClock
from core.errors import ConfigError, OperationError
from core.stun.address import Address
from relay.web.certificate import ensure_certificate
from relay.web.check import CREDENTIALS_PER_MINUTE, LINK_TTL_S, CheckPage, make_link, make_token
from relay.web.connection import HttpLimits
from relay.web.http_message import SECURITY_HEADERS, Request, Response
from relay.web.page_routes import MINI_APPS, page_routes
from relay.web.server import HttpServer
from relay.web.static_files import static_file, static_path
from relay.web.tls import CertificateFiles

KEY = bytes(range(32))
LOOPBACK = Address.from_text("127.0.0.1", 0)


@dataclass
class Credentials:
    username: str = "1:check"
    password: str = "password"
    ttl: int = 600
    uris: list[str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.uris = ["turn:192.0.2.1:3478?transport=udp"]


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


async def read_answer(stream: trio.abc.ReceiveStream, *, has_body: bool = True) -> Answer:
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65_536)
        assert more, data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])
    }
    length = int(headers.get("content-length", "0")) if has_body else 0
    while len(body) < length:
        more = await stream.receive_some(65_536)
        assert more
        body += more
    return Answer(int(lines[0].split()[1]), headers, body)


def request_bytes(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {headers.pop('host', '127.0.0.1')}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def serving(
    *,
    clock: Clock | None = None,
    is_open: bool = False,
    limits: HttpLimits | None = None,
    certificate: CertificateFiles | None = None,
    can_make: bool = True,
) -> AsyncIterator[HttpServer]:
    clock = clock or SystemClock()

    def make_credentials() -> Credentials:
        if not can_make:
            raise OperationError("no secret")
        return Credentials()

    page = CheckPage(make_credentials, KEY, clock, is_open=is_open)

    async def fail(_request: Request) -> Response:
        raise ValueError("our own mistake")

    routes = {**page.routes(), ("GET", "/fail"): fail}
    server = HttpServer([LOOPBACK], routes, clock=clock, limits=limits, certificate=certificate)
    await server.bind()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        yield server
        nursery.cancel_scope.cancel()


async def connect(server: HttpServer) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", server.addresses[0].port)


async def ask(server: HttpServer, *arguments: object, **headers: str) -> Answer:
    async with await connect(server) as stream:
        await stream.send_all(request_bytes(*arguments, **headers))  # type: ignore[arg-type]
        return await read_answer(stream, has_body=arguments[0] != "HEAD")


async def ask_credentials(server: HttpServer, token: str = "", **headers: str) -> Answer:
    body = json.dumps({"token": token}).encode()
    return await ask(server, "POST", "/check/credentials", body, **headers)


@pytest.mark.trio
async def test_pages_come_with_strict_headers() -> None:
    async with serving() as server:
        for path in ("/", "/check", static_path("check.js"), "/load_anew.js", "/nothing"):
            answer = await ask(server, "GET", path)
            policy = answer.headers["content-security-policy"]
            directives = {name: values for name, *values in map(str.split, policy.split("; "))}
            assert directives["default-src"] == ["'none'"]
            assert directives["frame-ancestors"] == ["'none'"]
            assert directives["require-trusted-types-for"] == ["'script'"]
            for name in ("script-src", "connect-src", "worker-src", "manifest-src"):
                assert directives[name] == ["'self'"]
            assert "unsafe" not in policy
            allowed = answer.headers["permissions-policy"].split(", ")
            for name in ("camera", "microphone", "display-capture", "screen-wake-lock"):
                assert f"{name}=(self)" in allowed
            assert "geolocation=()" in allowed
            assert "strict-transport-security" not in answer.headers
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
            assert b"http://" not in answer.body.replace(b"http://www.w3.org", b"")


@pytest.mark.trio
async def test_telegram_may_have_mini_apps_in_its_frames_and_nothing_else() -> None:
    routes = page_routes(in_telegram=True)
    server = HttpServer([LOOPBACK], routes, clock=VirtualClock())
    await server.bind()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        for path in ("/", "/call", "/me", "/check", static_path("call_page.js"), "/nothing"):
            headers = (await ask(server, "GET", path)).headers
            policy = headers["content-security-policy"]
            of_nobody = SECURITY_HEADERS["Content-Security-Policy"]
            if path in MINI_APPS:
                clients = "https://web.telegram.org https://*.web.telegram.org"
                assert policy == of_nobody.replace(
                    "frame-ancestors 'none'", f"frame-ancestors {clients}"
                )
                assert headers["cross-origin-resource-policy"] == "cross-origin"
            else:
                assert policy == of_nobody
                assert headers["cross-origin-resource-policy"] == "same-origin"
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_head_tags_and_methods() -> None:
    async with serving() as server:
        page = await ask(server, "GET", "/check")
        assert page.status == 200
        assert page.body.startswith(b"<!doctype html>")
        head = await ask(server, "HEAD", "/check")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(page.body))
        cached = await ask(server, "GET", "/check", If_None_Match=page.headers["etag"])
        assert (cached.status, cached.body) == (304, b"")
        assert page.headers["cache-control"] == "no-cache"
        # A version's own files never change; another version's are not there.
        own = static_path("check.js")
        assert "immutable" in (await ask(server, "GET", own)).headers["cache-control"]
        assert (await ask(server, "GET", own.replace("/static/", "/static/0"))).status == 404
        assert (await ask(server, "GET", "/static/../check.html")).status == 404
        assert (await ask(server, "GET", "/static/text.txt")).status == 404
        wrong = await ask(server, "POST", "/check", b"x")
        assert wrong.status == 405
        assert wrong.headers["allow"] == "GET, HEAD"


async def receive_until(stream: trio.abc.ReceiveStream, wanted: bytes, times: int) -> bytes:
    """What comes until `wanted` has come so often."""
    data = b""
    while data.count(wanted) < times:
        more = await stream.receive_some(65_536)
        assert more, data
        data += more
    return data


@pytest.mark.trio
async def test_requests_share_a_connection_and_may_come_at_once() -> None:
    async with serving() as server, await connect(server) as stream:
        await stream.send_all(request_bytes("GET", "/") * 3)
        data = await receive_until(stream, b"HTTP/1.1 200", 3)
        await stream.send_all(request_bytes("GET", "/nothing"))
        data += await receive_until(stream, b"HTTP/1.1 404", 1)
        assert data.count(b"HTTP/1.1 ") == 4


@pytest.mark.trio
async def test_credentials_need_a_link() -> None:
    clock = VirtualClock()
    async with serving(clock=clock) as server:
        link = make_link("http://127.0.0.1", KEY, clock)
        base, _, token = link.partition("#")
        assert base == "http://127.0.0.1/check"
        answer = await ask_credentials(server, token)
        assert answer.status == 200
        assert answer.headers["cache-control"] == "no-store"
        assert json.loads(answer.body)["username"] == "1:check"
        none = await ask_credentials(server)
        assert (none.status, json.loads(none.body)) == (401, {"error": "link-needed"})
        clock.advance_s(LINK_TTL_S)
        expired = await ask_credentials(server, token)
        assert (expired.status, json.loads(expired.body)) == (401, {"error": "link-expired"})


@pytest.mark.trio
async def test_a_token_can_be_neither_made_nor_changed() -> None:
    clock = VirtualClock()
    token = make_token(KEY, clock)
    other = make_token(bytes(32), clock)
    changed = [
        token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        for place in range(0, len(token) - 1, 5)
    ]
    for bad in ["x", "é", token + "A", token[:-4], other, *changed]:
        # A server for each: guesses are limited, which is tested on its own.
        async with serving(clock=clock) as server:
            answer = await ask_credentials(server, bad)
            assert (answer.status, json.loads(answer.body)) == (401, {"error": "link-invalid"})


@pytest.mark.trio
@pytest.mark.parametrize("body", [b"{", b"[]", b'{"token": 5}', b"\xff", b"[" * 20_000])
async def test_bodies_that_are_no_request(body: bytes) -> None:
    async with serving() as server:
        answer = await ask(server, "POST", "/check/credentials", body)
        assert (answer.status, json.loads(answer.body)) == (400, {"error": "bad-request"})


@pytest.mark.trio
async def test_guesses_are_limited() -> None:
    async with serving(clock=VirtualClock()) as server:
        answers = [await ask_credentials(server, "x") for _ in range(CREDENTIALS_PER_MINUTE + 1)]
    assert [answer.status for answer in answers[:-1]] == [401] * CREDENTIALS_PER_MINUTE
    assert answers[-1].status == 429
    assert answers[-1].headers["retry-after"] == "60"


@pytest.mark.trio
async def test_other_sites_are_refused() -> None:
    async with serving(is_open=True) as server:
        assert (await ask_credentials(server)).status == 200
        assert (await ask_credentials(server, Sec_Fetch_Site="same-origin")).status == 200
        assert (await ask_credentials(server, Sec_Fetch_Site="cross-site")).status == 403


@pytest.mark.trio
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8790", 200),
        ("localhost:8790", 200),
        ("[::1]:8790", 200),
        ("evil.example", 401),
        ("127.0.0.1.evil.example", 401),
        ("a b", 401),
    ],
)
async def test_an_open_page_is_not_open_to_rebound_names(host: str, status: int) -> None:
    async with serving(is_open=True) as server:
        assert (await ask_credentials(server, host=host)).status == status


@pytest.mark.trio
async def test_without_a_secret_it_says_so() -> None:
    async with serving(is_open=True, can_make=False) as server:
        answer = await ask_credentials(server)
        assert (answer.status, json.loads(answer.body)) == (503, {"error": "no-secret"})


@pytest.mark.trio
async def test_a_handler_that_fails_ends_one_request_alone() -> None:
    async with serving() as server:
        assert (await ask(server, "GET", "/fail")).status == 500
        assert (await ask(server, "GET", "/")).status == 200


@pytest.mark.trio
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"POST /check/credentials HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413),
        (
            b"POST /check/credentials HTTP/1.1\r\nHost: a\r\nContent-Length: "
            + b"9" * 30
            + b"\r\n\r\n",
            400,
        ),
        (b"POST /check/credentials HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET ftp://x/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ],
)
async def test_requests_that_are_none(sent: bytes, status: int) -> None:
    async with serving() as server, await connect(server) as stream:
        await stream.send_all(sent)
        answer = await read_answer(stream)
        assert answer.status == status
        assert answer.headers["connection"] == "close"


@pytest.mark.trio
async def test_a_body_without_a_length_is_limited_too() -> None:
    async with serving() as server, await connect(server) as stream:
        await stream.send_all(
            b"POST /check/credentials HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
        with trio.fail_after(5):
            for _ in range(6):
                await stream.send_all(chunk)
            assert (await read_answer(stream)).status == 413


@pytest.mark.trio
async def test_slow_clients_are_left() -> None:
    limits = HttpLimits(idle_s=0.2, request_s=0.2)
    async with serving(limits=limits) as server:
        with trio.fail_after(10):
            async with await connect(server) as idle:
                assert await idle.receive_some(10) == b""
            async with await connect(server) as slow:
                await slow.send_all(b"GET / HT")
                assert await slow.receive_some(10) == b""
        assert (await ask(server, "GET", "/")).status == 200


@pytest.mark.trio
async def test_connections_are_limited_by_client() -> None:
    limits = HttpLimits(connections_per_client=3)
    async with serving(limits=limits) as server:
        open_ones = [await connect(server) for _ in range(3)]
        for stream in open_ones:
            await stream.send_all(request_bytes("GET", "/"))
            await read_answer(stream)
        assert server.connections == 3
        async with await connect(server) as refused:
            with trio.fail_after(5):
                assert await refused.receive_some(10) == b""
        for stream in open_ones:
            await stream.aclose()
        with trio.fail_after(5):
            while server.connections:
                await trio.sleep(0.01)
        assert (await ask(server, "GET", "/")).status == 200


@pytest.mark.trio
async def test_random_and_mangled_requests_end_nothing() -> None:
    chance = random.Random(5)
    whole = request_bytes("POST", "/check/credentials", b'{"token": "x"}', If_None_Match="*")
    async with serving(limits=HttpLimits(idle_s=1, request_s=1)) as server:

        async def attack() -> None:
            for _ in range(25):
                if chance.random() < 0.3:
                    sent = chance.randbytes(chance.randrange(1, 400))
                else:
                    mangled = bytearray(whole)
                    for _ in range(chance.randrange(1, 6)):
                        mangled[chance.randrange(len(mangled))] = chance.randrange(256)
                    sent = bytes(mangled[: chance.randrange(1, len(mangled) + 1)])
                stream = await connect(server)
                try:
                    await stream.send_all(sent)
                    if chance.random() < 0.5:
                        with trio.move_on_after(0.02):
                            await stream.receive_some(65_536)
                except trio.BrokenResourceError:
                    pass
                finally:
                    await trio.aclose_forcefully(stream)

        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(attack)
        with trio.fail_after(10):
            while server.connections:
                await trio.sleep(0.05)
        assert (await ask(server, "GET", "/check")).status == 200


@pytest.mark.trio
async def test_a_taken_port_is_told() -> None:
    async with serving() as server:
        second = HttpServer([server.addresses[0]], {}, clock=SystemClock())
        with pytest.raises(OperationError, match=str(server.addresses[0].port)):
            await second.bind()


@pytest.mark.trio
async def test_tls_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path, ["127.0.0.1"])
    trusting = ssl.create_default_context(cafile=str(files.certificate))
    async with serving(certificate=files) as server:
        assert server.url.startswith("https://127.0.0.1:")
        stream = trio.SSLStream(await connect(server), trusting, server_hostname="127.0.0.1")
        await stream.send_all(request_bytes("GET", "/check"))
        assert (await read_answer(stream)).status == 200
        await stream.aclose()
        # A browser that was given the address alone begins with plain HTTP.
        plain = await ask(server, "GET", "/check", host=str(server.addresses[0]))
        assert plain.status == 308
        assert plain.headers["location"] == f"{server.url}/check"
        assert (await ask(server, "GET", "/check", host="a b")).status == 400


@pytest.mark.trio
@pytest.mark.parametrize(
    ("has_tls", "is_strict", "said"),
    [(True, True, "max-age=63072000"), (True, False, None), (False, True, None)],
)
async def test_browsers_are_bound_to_tls_where_they_came_by_it(
    tmp_path: Path, has_tls: bool, is_strict: bool, said: str | None
) -> None:
    files = ensure_certificate(tmp_path, ["127.0.0.1"])
    server = HttpServer(
        [LOOPBACK],
        {("GET", "/"): static_file("index.html")},
        clock=SystemClock(),
        certificate=files if has_tls else None,
        strict_transport=is_strict,
    )
    await server.bind()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        plain = await ask(server, "GET", "/")
        # Nobody can believe what is said without TLS.
        assert "strict-transport-security" not in plain.headers
        if has_tls:
            trusting = ssl.create_default_context(cafile=str(files.certificate))
            stream = trio.SSLStream(await connect(server), trusting, server_hostname="127.0.0.1")
            await stream.send_all(request_bytes("GET", "/"))
            secure = await read_answer(stream)
            assert (plain.status, secure.status) == (308, 200)
            assert secure.headers.get("strict-transport-security") == said
        nursery.cancel_scope.cancel()


def test_a_certificate_is_kept_until_it_has_to_be_another(tmp_path: Path) -> None:
    first = ensure_certificate(tmp_path, ["192.168.1.5"])
    assert first.private_key.stat().st_mode & 0o777 == 0o600
    assert ensure_certificate(tmp_path, ["192.168.1.5"]).fingerprint == first.fingerprint
    certificate = x509.load_pem_x509_certificate(first.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.168.1.5" in [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]
    moved = ensure_certificate(tmp_path, ["192.168.1.6"])
    assert moved.fingerprint != first.fingerprint
    later = VirtualClock(unix_s=int((datetime.now(UTC) + timedelta(days=340)).timestamp()))
    assert ensure_certificate(tmp_path, ["192.168.1.6"], later).fingerprint != moved.fingerprint
    moved.private_key.write_text("damaged")
    assert ensure_certificate(tmp_path, ["192.168.1.6"]).fingerprint != moved.fingerprint


def test_a_certificate_that_cant_be_used_is_told(tmp_path: Path) -> None:
    files = CertificateFiles(certificate=tmp_path / "none.crt", private_key=tmp_path / "none.key")
    with pytest.raises(ConfigError, match=r"none\.crt"):
        files.context()


@pytest.mark.trio
async def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    clock = VirtualClock(unix_s=int(datetime.now(UTC).timestamp()))
    first = ensure_certificate(tmp_path, ["127.0.0.1"])
    async with serving(certificate=first, clock=clock) as server:

        async def fingerprint() -> bytes:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            stream = trio.SSLStream(await connect(server), context)
            await stream.do_handshake()
            found: bytes = stream.getpeercert(binary_form=True)
            await stream.aclose()
            return found

        before = await fingerprint()
        os.unlink(first.certificate)
        clock.advance_s(60)
        assert await fingerprint() == before
        ensure_certificate(tmp_path, ["127.0.0.1"])
        clock.advance_s(60)
        assert await fingerprint() != before
