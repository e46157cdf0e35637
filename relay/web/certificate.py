"""A certificate of the node's own, for pages on the local network (`montana up --lan`).

Browsers let only a page from HTTPS use a microphone, and nobody issues certificates for private
addresses. So the node signs its own; people compare its fingerprint with what their browser shows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.clock import Clock, SystemClock
from core.errors import ConfigError
from relay.web.tls import CertificateFiles

CERTIFICATE_NAME = "lan.crt"
PRIVATE_KEY_NAME = "lan.key"
VALID = timedelta(days=365)
"""Apple's browsers take nothing longer than 398 days."""
RENEW_BEFORE = timedelta(days=30)
ALWAYS_NAMED = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificate(CertificateFiles):
    """The files, and the SHA-256 of the certificate as browsers show it: ``AB:CD:...``."""

    fingerprint: str


def ensure_certificate(
    data_dir: Path, addresses: Sequence[str], clock: Clock | None = None
) -> OwnCertificate:
    """The certificate in `data_dir` for localhost and the IP addresses `addresses`; made when there
    is none, when it is near its end, and when it is for other addresses.

    Raises:
        ConfigError: the directory can't be written.
    """
    now = datetime.fromtimestamp((clock or SystemClock()).unix_s(), UTC)
    # In one order, so that the same addresses make no new certificate.
    hosts = tuple(str(ip_address(host)) for host in dict.fromkeys((*ALWAYS_NAMED, *addresses)))
    certificate_path = data_dir / CERTIFICATE_NAME
    private_key_path = data_dir / PRIVATE_KEY_NAME
    files = CertificateFiles(certificate=certificate_path, private_key=private_key_path)
    certificate = _usable(files, hosts, now)
    if certificate is None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(key, hosts, now)
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(private_key_path, _key_bytes(key), 0o600)
            _write(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        except OSError as error:
            raise ConfigError(
                f"no certificate can be kept in {data_dir}: {error.strerror or error}"
            ) from error
    digest = certificate.fingerprint(hashes.SHA256())
    return OwnCertificate(
        certificate=certificate_path,
        private_key=private_key_path,
        fingerprint=digest.hex(":").upper(),
    )


def _usable(
    files: CertificateFiles, hosts: Sequence[str], now: datetime
) -> x509.Certificate | None:
    """The certificate that is there, if it will do."""
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        files.context()
    except (OSError, ValueError, x509.ExtensionNotFound, ConfigError):
        return None
    named = {str(host) for host in names.get_values_for_type(x509.IPAddress)}
    lasts = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW_BEFORE
    return certificate if lasts and named == set(hosts) else None


def _sign(key: ec.EllipticCurvePrivateKey, hosts: Sequence[str], now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Montana node")])
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(ip_address(host)) for host in hosts]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A day back, for clocks of others that are slow.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace `path` as a whole, readable by those whom `mode` names from its first moment on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)
