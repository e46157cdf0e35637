"""Finding a node in the local network: a probe by UDP, answered with the node's URL, signed.

    datagram -> responder.answer_untrusted(datagram, source) -> datagram or None

A probe is a JSON object, ``{"type": "montana-discover", "version": 1, "nonce": "..."}``, with
blanks behind it up to `PROBE_BYTES`: no answer is larger than what has asked for it, so that a
forged source gets no more than the forger has spent. The answer is ``{"type": "montana-node",
"version": 1, "nonce", "url", "name", "time", "key", "signature"}``: `time` in seconds since 1970,
`key` the node's Ed25519 key in base32, `signature` in base64url over `signed_bytes`. It proves that
the node which has this key has said so now, and for this probe; whether to trust the key is for
others to say.

Sources that are not of a private network, a link or this machine are ignored, and so is what is no
probe. `serve_discovery` and `discover` do the sending and receiving.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket as stdlib_socket
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
import psutil
import trio
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from core.clock import Clock
from core.config import DISCOVERY_PORT
from core.errors import ConfigError, OperationError
from core.identity import Identity, node_key_untrusted
from relay.signaling.messages import KeyText, Signature
from relay.signaling.token_bucket import TokenBucket
from relay.web.rate_limit import RateLimiter

PROBE_BYTES: Final = 1_024
"""Of a probe, and at most of an answer."""
DATAGRAM_MAXIMUM_BYTES: Final = 2_048
"""What is larger is no probe."""
ANSWERS_PER_SECOND: Final = 20
ANSWERS_BURST: Final = 50
ANSWERS_PER_SOURCE: Final = 20
"""In `SOURCE_INTERVAL_S`."""
SOURCE_INTERVAL_S: Final = 10
FOUND_MAXIMUM: Final = 256
PROBES: Final = 3
"""Sent one after the other within the time that there is: UDP loses some."""

_ALL_NODES: Final = "ff02::1"
_BROADCAST: Final = "255.255.255.255"
_RESERVED: Final = ipaddress.ip_network("240.0.0.0/4")
"""The broadcast of all networks is among them."""

Nonce = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{16,64}\Z")]
Url = Annotated[str, msgspec.Meta(pattern=r"^https?://[!-~]{1,400}\Z")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{0,64}\Z")]


class _Probe(msgspec.Struct, frozen=True, tag="montana-discover"):
    version: Literal[1]
    nonce: Nonce


class _Answer(msgspec.Struct, frozen=True, tag="montana-node"):
    version: Literal[1]
    nonce: Nonce
    url: Url
    name: Name
    time: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    key: KeyText
    signature: Signature


class Found(NamedTuple):
    """A node that has answered.

    Attributes:
        url: where its pages are.
        name: what its operator calls it; from the network, as the rest.
        node_id: its key, as in its proofs.
        address: the IP address that the answer came from.
        time_s: the node's clock, seconds since 1970.
    """

    url: str
    name: str
    node_id: str
    address: str
    time_s: int


_probe_decoder = msgspec.json.Decoder(_Probe)
_answer_decoder = msgspec.json.Decoder(_Answer)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# ------------------------------------------------------------ sans-I/O


def signed_bytes(nonce: str, time_s: int, url: str, name: str) -> bytes:
    """What a node signs: five lines of UTF-8, without an end of the last; none of them holds an
    end of a line."""
    return "\n".join(["montana discovery 1", nonce, str(time_s), url, name]).encode()


class Responder:
    """Answers probes.

    Args:
        url: of the node's pages, as others in the network reach them.
        name: for people; may be empty.

    Raises:
        ConfigError: the URL or the name doesn't fit into an answer.
    """

    def __init__(self, identity: Identity, url: str, name: str, clock: Clock) -> None:
        self._identity = identity
        self._url = url
        self._name = name
        self._clock = clock
        self._sources = RateLimiter(ANSWERS_PER_SOURCE, SOURCE_INTERVAL_S, clock)
        self._all = TokenBucket(ANSWERS_PER_SECOND, ANSWERS_BURST, clock.monotonic_ns())
        longest = self._answer("n" * 64)
        try:
            _answer_decoder.decode(longest)
        except msgspec.ValidationError as error:
            raise ConfigError(f"discovery can't tell this URL or name: {error}") from error
        if len(longest) > PROBE_BYTES:
            raise ConfigError("discovery can't tell this URL and name: they are too long")

    def answer_untrusted(self, datagram: bytes, source: str) -> bytes | None:
        """The answer to what may be a probe; None where there is none.

        Args:
            source: the IP address that it came from.
        """
        if len(datagram) > DATAGRAM_MAXIMUM_BYTES or not is_local(source):
            return None
        try:
            probe = _probe_decoder.decode(datagram)
        except _UNREADABLE:
            return None
        now_ns = self._clock.monotonic_ns()
        if not self._sources.take(source) or not self._all.take(now_ns):
            return None
        answer = self._answer(probe.nonce)
        return answer if len(answer) <= len(datagram) else None

    def _answer(self, nonce: str) -> bytes:
        time_s = int(self._clock.unix_s())
        signature = self._identity.sign(signed_bytes(nonce, time_s, self._url, self._name))
        return msgspec.json.encode(
            _Answer(
                1,
                nonce,
                self._url,
                self._name,
                time_s,
                self._identity.node_id,
                urlsafe_b64encode(signature).decode().rstrip("="),
            )
        )


class Seeker:
    """Makes the probe, and believes no answer but those to it."""

    def __init__(self, clock: Clock) -> None:
        self._nonce = urlsafe_b64encode(clock.random_bytes(24)).decode()
        self.found: dict[str, Found] = {}
        """By the nodes' ids; the first answer of each."""

    @property
    def probe(self) -> bytes:
        """What is to be sent, the same each time."""
        return msgspec.json.encode(_Probe(1, self._nonce)).ljust(PROBE_BYTES)

    def take_untrusted(self, datagram: bytes, source: str) -> None:
        """Note a node, if this is its answer."""
        try:
            answer = _answer_decoder.decode(datagram)
            if answer.nonce != self._nonce or len(self.found) >= FOUND_MAXIMUM:
                return
            key = node_key_untrusted(answer.key)
            signature = urlsafe_b64decode(answer.signature + "==")
            said = signed_bytes(answer.nonce, answer.time, answer.url, answer.name)
            VerifyKey(key).verify(said, signature)
        except (*_UNREADABLE, BadSignatureError, ValueError):
            return
        found = Found(answer.url, answer.name, answer.key, source, answer.time)
        self.found.setdefault(answer.key, found)


def is_local(source: str) -> bool:
    """Whether an IP address is one of a private network, of a link or of this machine."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return (
        (address.is_private or address.is_link_local)
        and not address.is_unspecified
        and not address.is_multicast
        and address not in _RESERVED
    )


# ------------------------------------------------------------ I/O


async def serve_discovery(
    responder: Responder,
    port: int = DISCOVERY_PORT,
    *,
    hosts: Sequence[str] = ("0.0.0.0", "::"),  # noqa: S104
    task_status: trio.TaskStatus[list[int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer probes until cancelled; tells the ports that are bound.

    Broadcasts reach wildcard addresses alone; who may ask is decided by where it comes from. Nodes
    of one user may share a port: each hears broadcasts, one of them the rest.

    Raises:
        OperationError: no address can be bound.
    """
    with contextlib.ExitStack() as open_sockets:
        sockets = []
        for host in hosts:
            # A machine may have one family alone.
            with contextlib.suppress(OSError):
                sockets.append(
                    open_sockets.enter_context(await _bound(host, port, stdlib_socket.SO_REUSEPORT))
                )
        if not sockets:
            raise OperationError(f"discovery can't listen on UDP port {port}")
        async with trio.open_nursery() as nursery:
            for one in sockets:
                nursery.start_soon(_serve, one, responder)
            task_status.started([one.getsockname()[1] for one in sockets])


async def _serve(one: trio.socket.SocketType, responder: Responder) -> None:
    while True:
        try:
            datagram, source = await one.recvfrom(DATAGRAM_MAXIMUM_BYTES + 1)
            answer = responder.answer_untrusted(datagram, source[0])
            if answer is not None:
                await one.sendto(answer, source)
        except OSError:
            # Whoever asked can't be reached; an earlier answer's ICMP error shows here too.
            await trio.lowlevel.checkpoint()


async def discover(
    clock: Clock,
    timeout_s: float = 2.0,
    port: int = DISCOVERY_PORT,
    *,
    targets: Sequence[str] | None = None,
) -> list[Found]:
    """The nodes of the local network and of this machine that answer in time.

    Args:
        targets: IP addresses to ask in place of all of the network.
    """
    seeker = Seeker(clock)
    places = _places() if targets is None else list(targets)
    with contextlib.ExitStack() as open_sockets:
        sockets: dict[int, trio.socket.SocketType] = {}
        for family, host in (
            (stdlib_socket.AF_INET, "0.0.0.0"),  # noqa: S104
            (stdlib_socket.AF_INET6, "::"),
        ):
            with contextlib.suppress(OSError):
                sockets[family] = open_sockets.enter_context(
                    await _bound(host, 0, stdlib_socket.SO_BROADCAST)
                )
        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                for one in sockets.values():
                    nursery.start_soon(_listen, one, seeker)
                for _ in range(PROBES):
                    await _ask(seeker.probe, places, port, sockets)
                    await trio.sleep(timeout_s / (PROBES + 1))
    return sorted(seeker.found.values(), key=lambda found: (found.name, found.node_id))


async def _ask(
    probe: bytes, places: Sequence[str], port: int, sockets: dict[int, trio.socket.SocketType]
) -> None:
    for place in places:
        family = stdlib_socket.AF_INET6 if ":" in place else stdlib_socket.AF_INET
        if family in sockets:
            host, _, interface = place.partition("%")
            # An interface without a network, or one that has gone since.
            with contextlib.suppress(OSError):
                scope = (0, stdlib_socket.if_nametoindex(interface)) if interface else ()
                await sockets[family].sendto(probe, (host, port, *scope))


async def _listen(one: trio.socket.SocketType, seeker: Seeker) -> None:
    while True:
        try:
            datagram, source = await one.recvfrom(DATAGRAM_MAXIMUM_BYTES)
        except OSError:
            await trio.lowlevel.checkpoint()
        else:
            seeker.take_untrusted(datagram, source[0])


def _places() -> list[str]:
    """Broadcasts of all interfaces, all nodes of all links, and this machine."""
    places = ["127.0.0.1", "::1", _BROADCAST]
    for interface, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family == stdlib_socket.AF_INET and one.broadcast:
                places.append(one.broadcast)
            elif one.family == stdlib_socket.AF_INET6 and one.address.startswith("fe80"):
                places.append(f"{_ALL_NODES}%{interface}")
    return list(dict.fromkeys(places))


async def _bound(host: str, port: int, option: int) -> trio.socket.SocketType:
    """A UDP socket with an option of sockets set."""
    family = stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET
    one = trio.socket.socket(family, stdlib_socket.SOCK_DGRAM)
    try:
        if family == stdlib_socket.AF_INET6:
            one.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, 1)
        one.setsockopt(stdlib_socket.SOL_SOCKET, option, 1)
        await one.bind((host, port))
    except BaseException:
        one.close()
        raise
    return one
