"""TLS from certificate files, which may be renewed while the server runs."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from core.clock import Clock
from core.errors import ConfigError
from core.units import NS_PER_S

LOOK_AGAIN_S = 10

_log = logging.getLogger("montana.web")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """PEM files: the certificate with its chain, and its private key."""

    certificate: Path
    private_key: Path

    def context(self) -> ssl.SSLContext:
        """A server's context of both.

        Raises:
            ConfigError: they can't be read or don't belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the certificate {self.certificate} can't be used with the key "
                f"{self.private_key}: {error.strerror or error}"
            ) from error
        return context

    def version(self) -> tuple[int, ...]:
        """Changes when one of the files does; empty while one of them is missing."""
        try:
            found = [path.stat() for path in (self.certificate, self.private_key)]
        except OSError:
            return ()
        return tuple(figure for stat in found for figure in (stat.st_mtime_ns, stat.st_ino))


class ReloadingContext:
    """The context of certificate files, made anew when they have changed.

    Raises:
        ConfigError: at construction, when they can't be used. Later such files are left
            alone, and logged, while those before them go on serving.
    """

    def __init__(self, files: CertificateFiles, clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._version = files.version()
        self._context = files.context()
        self._look_at_ns = clock.monotonic_ns() + LOOK_AGAIN_S * NS_PER_S

    def current(self) -> ssl.SSLContext:
        """The context for the next connection."""
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._look_at_ns:
            self._look_at_ns = now_ns + LOOK_AGAIN_S * NS_PER_S
            version = self._files.version()
            if version and version != self._version:
                try:
                    self._context = self._files.context()
                    self._version = version
                except ConfigError as error:
                    _log.warning("the former certificate goes on serving: %s", error)
        return self._context
