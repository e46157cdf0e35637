"""The composition root: the one place that joins the node's parts.

A start takes, in this order, the data directory's key and socket (so that a second node on the
same directory is told before it touches anything), the ledger, the TURN ports, the pages' and the
metrics' ports. Only when all of them answer is the node ready.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import trio

from billing.charging import Charging
from billing.desk import Desk
from billing.ledger import LmdbLedger, open_ledger
from billing.notices import Notices
from billing.outbox import Outbox
from billing.receipts import origin_of
from billing.sms_desk import SmsDesk
from billing.tariff import tariff_line
from billing.wallet import SMSGateway
from core import identity
from core.api.messages import (
    AuditRequest,
    CheckLinkRequest,
    CredentialsRequest,
    EndReply,
    EndRequest,
    LedgerRequest,
    RequestBody,
    SignalingRequest,
    StatusReply,
    StatusRequest,
)
from core.api.server import ApiServer
from core.api.serving import Answer
from core.api.sms_messages import SmsRequest
from core.clock import Clock, SystemClock
from core.config import Endpoint, NodeConfig, TurnConfig
from core.errors import ConfigError, OperationError
from core.log import log_event, set_up_logging
from core.node_files import ledger_folder, socket_path
from core.stun.address import Address
from core.version import VERSION
from relay.announcer import Announcer
from relay.bridge_board import BridgeBoard
from relay.bridge_desk import BridgeDesk
from relay.credential_issuer import CredentialIssuer
from relay.dataplane.interface import DataPlane
from relay.dataplane.sockets import SocketDataPlane
from relay.event_source import EventSource
from relay.figures import FigureReader
from relay.jobs import Jobs
from relay.listeners.udp import UdpListener
from relay.machine import LocalAddresses, raise_descriptor_limit, usable_cores
from relay.metering import Metering
from relay.pages import Pages
from relay.payers import Payers, bound_payers
from relay.reload import keys_for_restart, take_over, take_over_signaling
from relay.signaling.discovery import Responder, serve_discovery
from relay.signaling.service import Signaling
from relay.supervisor import Supervisor
from relay.turn.server import Server
from relay.upkeep import Upkeep
from relay.web.opening_handshake import origin_is_allowed_untrusted
from relay.web.websocket import WebSocketRoute

SIGNALING_PATH = "/ws"
"""Where pages connect to."""
DESCRIPTORS_BESIDE_RELAYS = 1024
"""For listeners, the socket, HTTP connections, files."""
COLLECT_INTERVAL_S = 1.0
COLLECT_THRESHOLDS = (20_000, 50, 50)
"""Of the garbage collector: requests make no cycles, so it finds next to nothing."""

_log = logging.getLogger("montana.node")

ReadConfig = Callable[[], NodeConfig]


class Node:
    """A node that holds its ports: `run` serves until it is told to end.

    Args:
        config: with the ports that `data_plane` has really got in `turn.listen`.
        first_config: as it was read.
        data_plane: opened, not yet started; the caller closes it.
        read_config: reads the configuration anew on SIGHUP; None where there is no file.
        config_path: that file, which bridges read as well.
    """

    def __init__(
        self,
        config: NodeConfig,
        first_config: NodeConfig,
        data_plane: DataPlane,
        node_key: identity.Identity,
        clock: Clock,
        announcer: Announcer,
        ledger: LmdbLedger,
        charging: Charging,
        read_config: ReadConfig | None = None,
        config_path: Path | None = None,
    ) -> None:
        self._config = config
        self._first_config = first_config
        self._node_key = node_key
        self._ledger = ledger
        self._sized_for = config.turn.limits
        self._clock = clock
        self._data_plane = data_plane
        self._announcer = announcer
        self._outbox = Outbox(ledger.store, clock)
        self._events = EventSource(self._outbox, clock)
        self._notices = Notices(self._outbox, ledger, telegram=config.bridges.telegram is not None)
        self._desk = Desk(ledger, clock, config.billing, self._notices)
        self._wallet = SMSGateway(
            ledger,
            self._desk,
            self._outbox,
            self._notices,
            clock,
            config,
            node_key.derive_secret("sms"),
        )
        self._sms = SmsDesk(self._wallet, self._desk, ledger.store, clock, config)
        self._jobs = Jobs(ledger, config.data_dir, f"/{origin_of(node_key)}")
        self._upkeep = Upkeep(ledger, node_key, config.billing.keep_ticks_s)
        self._read_config = read_config
        self._board = BridgeBoard(config.bridges.names, clock)
        self._supervisor = None
        if config_path is not None and config.bridges.start:
            self._supervisor = Supervisor(config.bridges.names, config_path, self._board, clock)
        self._draining = False
        self._drain_scope: trio.CancelScope | None = None
        self._server = Server(
            config.turn,
            random=clock.random_bytes,
            unix_time_s=clock.unix_s,
            is_local=LocalAddresses(clock),
            metered=config.billing.turn == "metered",
        )
        self._listener = UdpListener(
            self._server, data_plane, clock, rate_bytes_s=config.turn.limits.bytes_per_second
        )
        self._figures = FigureReader(self._listener, data_plane, clock)
        line = None
        if config.billing.turn == "metered":
            line = tariff_line("turn", config.billing, ledger)
            ledger.paid_into.add(line.into)
        is_free = config.billing.unknown_account == "free"
        self._payers = Payers(ledger, self._bound(config.turn), unknown_is_free=is_free)
        self._metering = Metering(
            ledger,
            charging,
            data_plane,
            clock,
            line,
            self._payers,
            collect=self._figures.collect_ended,
            stop=lambda sessions, reason: self._listener.carry_out(
                self._server.close_sessions(sessions, reason)
            ),
        )
        self._listener.sessions = self._metering
        self._figures.on_ended = self._metering.collect_ended
        addresses = client_addresses(config.turn)
        self._issuer = CredentialIssuer(config.turn.secrets, addresses, clock)
        self._signaling = Signaling(
            config,
            node_key,
            clock,
            ledger,
            self._desk,
            self._metering,
            self._issuer,
            self._outbox,
            self._notices,
            ask=lambda body, timeout_s: self._events.ask("telegram", body, timeout_s),
            url=lambda: self._pages.url,
        )
        self._bridge_desk = BridgeDesk(self._desk, self._signaling, self._events, self._board)
        self._bridge_desk.sms = self._sms
        self._signaling.use_sms(self._wallet.sender)
        self._figures.signaling = self._signaling.figures
        self._figures.outbox = self._events.figures
        self._figures.sms = self._sms.figures
        self._pages = Pages(
            config,
            node_key,
            clock,
            self._issuer,
            self._figures,
            addresses,
            lambda: self._draining,
            websockets={
                SIGNALING_PATH: WebSocketRoute(
                    open_app=self._signaling.hub.opened, is_allowed=self._is_own_page_untrusted
                )
            },
            bridges=self._board.items,
        )
        self._figures.connections = self._pages.connections

    async def run(self, api: ApiServer) -> None:
        """Serve, also the requests that come through `api`, until a signal ends it."""
        config = self._config
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with self._pages, trio.open_nursery() as nursery:
                self._data_plane.start()
                await self._signaling.recover()
                nursery.start_soon(self._signaling.run)
                if config.signaling.discovery:
                    responder = Responder(self._node_key, self._pages.url, "", self._clock)
                    await nursery.start(serve_discovery, responder, config.signaling.discovery_port)
                nursery.start_soon(self._listener.run)
                nursery.start_soon(self._pages.serve)
                nursery.start_soon(api.serve, self._answer, self._events)
                nursery.start_soon(self._collect)
                nursery.start_soon(self._jobs.run)
                nursery.start_soon(self._upkeep.run)
                nursery.start_soon(self._events.run)
                nursery.start_soon(self._sms.run)
                nursery.start_soon(self._metering.run)
                if self._supervisor is not None:
                    nursery.start_soon(self._supervisor.run)
                # What lives until the end need not be looked at by every later collection.
                gc.collect()
                gc.freeze()
                gc.set_threshold(*COLLECT_THRESHOLDS)
                links = await self._signaling.prepare_room() if config.development else None
                self._announcer.ready(
                    turn=[str(endpoint) for endpoint in config.turn.listen],
                    http=self._pages.url,
                    socket=str(api.path),
                    metrics=self._pages.metrics_url,
                    check_is_open=config.development,
                    bridges=config.bridges.names,
                    fingerprint=self._pages.fingerprint,
                    room_link=None if links is None else links.room_url,
                    invitation_link=None if links is None else links.invitation_url,
                )
                await self._obey(signals)
                nursery.cancel_scope.cancel()
            # Another signal is not to end it before the last seconds are charged.
            await self._metering.finish()
            await self._upkeep.sign()
        self._announcer.stopped()

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        """Do what signals ask for; return when the node is to end."""
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                await self._drain()
                nursery.cancel_scope.cancel()

            async for number in signals:
                if number == signal.SIGHUP:
                    self._reload()
                elif self._draining:
                    break
                else:
                    self._draining = True
                    nursery.start_soon(drain)
            nursery.cancel_scope.cancel()

    async def _drain(self) -> None:
        """Take no new allocations, and wait for the others to end."""
        timeout_s = self._config.turn.drain_timeout_s
        self._server.drain()
        self._announcer.draining(allocations=self._listener.allocation_count, timeout_s=timeout_s)
        begun_s = trio.current_time()
        with trio.CancelScope() as self._drain_scope:
            self._drain_scope.deadline = begun_s + timeout_s
            await self._listener.wait_until_empty()

    def _reload(self) -> None:
        """Take over what may change while the node runs; a bad file changes nothing."""
        if self._read_config is None:
            log_event(_log, logging.WARNING, "there is no configuration file to read anew")
            return
        try:
            read = self._read_config()
            turn = take_over(self._config.turn, read.turn, self._sized_for)
            # Before anything has changed: it may be that the ledger can't be read.
            bound = self._bound(turn)
            effects = self._server.reconfigure(turn, self._clock.monotonic_ns())
        except (ConfigError, OperationError) as error:
            log_event(_log, logging.ERROR, "the configuration was left as it is", reason=error)
            return
        if self._drain_scope is not None:
            self._drain_scope.deadline += turn.drain_timeout_s - self._config.turn.drain_timeout_s
        signaling = take_over_signaling(self._config.signaling, read.signaling)
        self._config = replace(self._config, turn=turn, signaling=signaling)
        self._signaling.reconfigure(signaling)
        self._issuer.secrets = turn.secrets
        self._payers.bound = bound
        self._listener.set_rate(turn.limits.bytes_per_second)
        self._listener.carry_out(effects)
        log_event(_log, logging.INFO, "the configuration has been read anew")
        waiting = keys_for_restart(self._first_config, read)
        if waiting:
            log_event(
                _log,
                logging.WARNING,
                "what has changed here waits for the next start",
                keys=", ".join(waiting),
            )

    def _bound(self, turn: TurnConfig) -> dict[str, str]:
        """What the configuration names as a payer, where anybody has to pay for relaying.

        Raises:
            OperationError: the ledger can't be read.
        """
        if self._config.billing.turn != "metered":
            return {}
        return bound_payers(turn.payers.values(), self._ledger)

    def _is_own_page_untrusted(self, origin: str | None, host: str, scheme: str) -> bool:
        """Whether a page of this origin may speak to the node."""
        config = self._config
        allowed = [*config.signaling.allowed_origins, config.http.public_url]
        return origin_is_allowed_untrusted(origin, host, scheme, allowed=allowed)

    async def _collect(self) -> None:
        """Have what ended counted and its slots freed, once a second."""
        while True:
            await trio.sleep(COLLECT_INTERVAL_S)
            self._figures.collect_ended()

    def _answer(self, request: RequestBody) -> Answer:
        """Carry out a request that came through the socket."""
        if isinstance(request, CredentialsRequest):
            return self._issuer.issue(request.account, request.ttl_s, request.call)
        if isinstance(request, CheckLinkRequest):
            return self._pages.make_check_link()
        if isinstance(request, EndRequest):
            before = self._listener.allocation_count
            self._listener.carry_out(self._server.close_account(request.account, "operator"))
            return EndReply(before - self._listener.allocation_count)
        if isinstance(request, LedgerRequest):
            return self._desk.answer(request)
        if isinstance(request, SmsRequest):
            return self._sms.answer(request)
        if isinstance(request, AuditRequest):
            return self._jobs.answer(request)
        if isinstance(request, SignalingRequest):
            return self._signaling.answer(request)
        if isinstance(request, StatusRequest):
            return self._status()
        return self._bridge_desk.answer(request)

    def _status(self) -> StatusReply:
        figures = self._figures.read()
        return StatusReply(
            version=VERSION,
            uptime_s=figures.uptime_s,
            draining=self._draining,
            turn=[str(endpoint) for endpoint in self._config.turn.listen],
            http=self._pages.url,
            metrics=self._pages.metrics_url,
            workers=self._config.turn.workers,
            allocations=figures.allocations,
            sessions=figures.sessions,
            flows=figures.flows,
            packets=figures.packets,
            bytes=figures.bytes,
            drops=figures.drops,
            counters=figures.engine,
            signaling=figures.signaling,
            bridges=self._board.items(),
            outbox=figures.outbox,
            sms=figures.sms,
        )


def client_addresses(turn: TurnConfig) -> list[Address]:
    """Where clients reach the node: listening addresses as they are seen from outside; in place of
    a wildcard, the relayed addresses of its family."""
    found: dict[Address, None] = {}
    for endpoint in turn.listen:
        address = endpoint.address
        hosts = [address.ip]
        if not any(address.ip):
            hosts = [ip for ip in turn.relay_addresses if len(ip) == len(address.ip)]
        for host in hosts:
            found[Address(turn.external.get(host, host), address.port)] = None
    return list(found)


def open_data_plane(turn: TurnConfig) -> SocketDataPlane:
    """Bind the TURN ports.

    Raises:
        OperationError: one of them can't be had.
    """
    try:
        return SocketDataPlane(
            [endpoint.address for endpoint in turn.listen],
            workers=turn.workers,
            relay_addresses=turn.relay_addresses,
            external=turn.external,
            max_allocations=turn.limits.allocations,
            flows_per_allocation=(
                turn.limits.permissions_per_allocation + turn.limits.channels_per_allocation
            ),
            low_latency=turn.low_latency,
        )
    except OSError as error:
        addresses = ", ".join(str(endpoint) for endpoint in turn.listen)
        raise OperationError(
            f"the TURN server can't listen on {addresses}: {error.strerror or error}"
        ) from error


def check_relay_address(ip: bytes) -> None:
    """Relays can be bound to it.

    Raises:
        ConfigError: it is not this machine's.
    """
    host = str(ip_address(ip))
    family = socket.AF_INET if len(ip) == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise ConfigError(
            f"turn.relay_addresses: relays can't be opened on {host}: {error.strerror or error}. "
            "It has to be an address of this machine; behind NAT write the machine's own one, and "
            f'in [turn.external]: "its own address" = "{host}"'
        ) from error


def within_descriptors(turn: TurnConfig) -> TurnConfig:
    """No more allocations than there may be open files for, with some left for everything else."""
    families = len({len(ip) for ip in turn.relay_addresses})
    wanted = turn.limits.allocations
    granted = raise_descriptor_limit(wanted * families + DESCRIPTORS_BESIDE_RELAYS)
    beside = min(DESCRIPTORS_BESIDE_RELAYS, granted // 2)
    possible = max(1, (granted - beside) // families)
    if possible >= wanted:
        return turn
    log_event(
        _log,
        logging.WARNING,
        "fewer allocations than turn.limits.allocations, for want of file descriptors; raise the "
        "limit (ulimit -n, or LimitNOFILE= in the systemd unit)",
        wanted=wanted,
        possible=possible,
        descriptors=granted,
    )
    return replace(turn, limits=replace(turn.limits, allocations=possible))


async def run_node(
    config: NodeConfig,
    read_config: ReadConfig | None,
    as_json: bool,
    config_path: Path | None = None,
) -> None:
    """Run a node until a signal ends it.

    Raises:
        ConfigError, OperationError: it can't be started; says why and what to do.
    """
    set_up_logging(
        sys.stderr, level=config.log.level, as_json=as_json or config.log.format == "json"
    )
    first_config = config
    config = replace(config, turn=within_descriptors(config.turn))
    cores = usable_cores()
    if config.turn.workers > cores:
        log_event(
            _log,
            logging.WARNING,
            "turn.workers is more than this process may use of the machine's cores",
            asked=config.turn.workers,
            used=cores,
        )
        config = replace(config, turn=replace(config.turn, workers=cores))
    for ip in config.turn.relay_addresses:
        check_relay_address(ip)
    clock = SystemClock()
    node_key = identity.load_or_create(config.data_dir, clock.random_bytes)
    async with ApiServer(
        socket_path(config.data_dir), software=f"montana {VERSION}", group=config.api.group
    ) as api:
        with open_ledger(ledger_folder(config.data_dir), clock) as ledger:
            charging = Charging(ledger)
            if lost := await charging.recover():
                log_event(
                    _log,
                    logging.WARNING,
                    "sessions that an earlier run has left were closed by what was charged then",
                    sessions=lost,
                )
            data_plane = open_data_plane(config.turn)
            try:
                for line in data_plane.report():
                    log_event(_log, logging.INFO, line)
                listening = tuple(
                    Endpoint(transport="udp", address=address) for address in data_plane.listening
                )
                config = replace(config, turn=replace(config.turn, listen=listening))
                announcer = Announcer(as_json=as_json)
                node = Node(
                    config,
                    first_config,
                    data_plane,
                    node_key,
                    clock,
                    announcer,
                    ledger,
                    charging,
                    read_config,
                    config_path,
                )
                await node.run(api)
            finally:
                data_plane.close()
