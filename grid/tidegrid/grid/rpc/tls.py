"""TLS by configuration, and the rule that an address others can reach is not served without it.

Loopback needs nothing. Any other address needs a certificate and key, and a CA by which clients authenticate (mTLS).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import grpc
from tidegrid.grid.model.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths to PEM files. `ca`: clients and peers have to show a certificate that it has signed."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @property
    def given(self) -> bool:
        return any((self.certificate, self.key, self.ca))

    def validate(self, host: str) -> None:
        """Raises ConfigurationError."""
        if self.given and (self.certificate is None or self.key is None):
            raise ConfigurationError("TLS needs both --tls-cert and --tls-key")
        if not is_loopback(host) and not (self.certificate and self.key and self.ca):
            raise ConfigurationError(
                f"{host} can be reached from other machines: serve it with --tls-cert, --tls-key and --tls-ca (clients then show certificates), or listen on 127.0.0.1"
            )

    def server_credentials(self) -> grpc.ServerCredentials | None:
        if self.certificate is None or self.key is None:
            return None
        ca = _read(self.ca) if self.ca is not None else None
        pair = (_read(self.key), _read(self.certificate))
        return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """For node-to-node calls: this node shows its own certificate."""
        if self.certificate is None or self.key is None:
            return None
        ca = _read(self.ca) if self.ca is not None else _read(self.certificate)
        return grpc.ssl_channel_credentials(ca, _read(self.key), _read(self.certificate))


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
