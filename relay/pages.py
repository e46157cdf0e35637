"""The node's HTTP: one server for pages, one of its own for metrics and health checks."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from types import TracebackType
from typing import Self

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from core.api.bridge_messages import BridgeItem
from core.api.messages import CheckLinkReply, CredentialsReply
from core.clock import Clock
from core.config import NodeConfig
from core.identity import Identity
from core.stun.address import Address
from relay.credential_issuer import CredentialIssuer
from relay.figures import FigureReader
from relay.metrics import CONTENT_TYPE, Metrics
from relay.web.check import KEY_LABEL, LINK_TTL_S, CheckPage, make_link
from relay.web.http_message import (
    Request,
    Response,
    Routes,
    error_response,
    names_no_domain_untrusted,
)
from relay.web.server import HttpServer
from relay.web.tls import CertificateFiles
from relay.web.websocket import WebSocketRoute

CHECK_ACCOUNT = "check"
CHECK_TTL_S = 600


class Pages:
    """Binds both servers as an async context manager, then serves.

    Args:
        client_addresses: where clients reach the TURN server.
        is_draining: whether the node takes no new allocations any more.
        websockets: by path, what pages connect to.
        bridges: how they do, for the metrics.

    Raises:
        ConfigError: the certificate can't be used.
        OperationError: on entering: a port can't be had.
    """

    def __init__(
        self,
        config: NodeConfig,
        node_key: Identity,
        clock: Clock,
        issuer: CredentialIssuer,
        figures: FigureReader,
        client_addresses: Sequence[Address],
        is_draining: Callable[[], bool],
        websockets: Mapping[str, WebSocketRoute],
        bridges: Callable[[], list[BridgeItem]],
    ) -> None:
        self._clock = clock
        self._key = node_key.derive_secret(KEY_LABEL)
        self._issuer = issuer
        page = CheckPage(
            self._make_credentials,
            self._key,
            clock,
            is_open=config.development,
        )
        http = config.http
        files = None
        self.fingerprint: str | None = None
        """SHA-256 of a certificate that the node has made itself, which people compare."""
        if http.certificate is not None:
            assert http.private_key is not None
            files = CertificateFiles(certificate=http.certificate, private_key=http.private_key)
            if config.development:
                self.fingerprint = _fingerprint(files)
        self._http = HttpServer(
            http.listen,
            page.routes(in_telegram=config.bridges.telegram is not None),
            clock=clock,
            certificate=files,
            websockets=websockets,
            strict_transport=not config.development,
            behind_proxy=bool(http.public_url),
        )
        routes = _metrics_routes(
            Metrics(figures.read, bridges).render,
            is_draining,
            any_name=not ip_address(config.metrics.listen.ip).is_loopback,
        )
        self._metrics = HttpServer([config.metrics.listen], routes, clock=clock, what="metrics")
        self._public_url = http.public_url
        self._client_addresses = client_addresses

    async def __aenter__(self) -> Self:
        await self._http.bind()
        try:
            await self._metrics.bind()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._http.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with trio.CancelScope(shield=True):
            await self._http.close()
            await self._metrics.close()

    @property
    def url(self) -> str:
        """Where people reach the pages, without a path."""
        if self._public_url:
            return self._public_url
        address = self._http.addresses[0]
        if any(address.ip):
            return self._http.url
        # A wildcard tells nobody where to go; the address that clients have for TURN does.
        for client_address in self._client_addresses:
            if len(client_address.ip) == len(address.ip):
                return f"{self._http.scheme}://{Address(client_address.ip, address.port)}"
        return self._http.url

    @property
    def metrics_url(self) -> str:
        """Where metrics and health are, without a path."""
        return self._metrics.url

    def connections(self) -> dict[str, int]:
        """How many live now, by kind, without those for metrics and health."""
        return {
            "http": self._http.connections,
            "websocket": self._http.websocket_connections,
        }

    async def serve(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._http.serve)
            nursery.start_soon(self._metrics.serve)

    def make_check_link(self) -> CheckLinkReply:
        """A link that opens the check page to whoever has it."""
        return CheckLinkReply(url=make_link(self.url, self._key, self._clock), ttl_s=LINK_TTL_S)

    def _make_credentials(self) -> CredentialsReply:
        return self._issuer.issue(CHECK_ACCOUNT, CHECK_TTL_S)


def _fingerprint(files: CertificateFiles) -> str:
    certificate = x509.load_der_x509_certificate(
        ssl.PEM_cert_to_DER_cert(files.certificate.read_text())
    )
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _metrics_routes(
    render: Callable[[], bytes], is_draining: Callable[[], bool], *, any_name: bool
) -> Routes:
    """`any_name`: whether to answer also who names the node by a domain, as no browser on this
    machine needs to, but a scraper of another may."""

    async def metrics(request: Request) -> Response:
        if not (any_name or names_no_domain_untrusted(request)):
            return error_response(403)
        return Response(
            body=render(), content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"}
        )

    async def healthz(_request: Request) -> Response:
        headers = {"Cache-Control": "no-store"}
        if is_draining():
            # A load balancer is to send nobody here any more.
            return Response(status=503, body=b"draining\n", headers=headers)
        return Response(body=b"ok\n", headers=headers)

    return {("GET", "/metrics"): metrics, ("GET", "/healthz"): healthz}
