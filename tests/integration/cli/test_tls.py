"""TLS and mTLS by configuration: nodes talk to each other and to clients, and to nobody without a certificate."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.cli.conftest import Served, call

Signer = tuple[x509.Name, ec.EllipticCurvePrivateKey]


def make(directory: Path, name: str, signer: Signer | None = None) -> Signer:
    """Writes NAME.pem and NAME.key: an authority, or a certificate for this machine that one has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signing = signer or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signing, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / f"{name}.key").write_bytes(secret)
    return subject, key


@pytest.fixture
def files(tmp_path: Path) -> Path:
    authority = make(tmp_path, "ca")
    make(tmp_path, "node", authority)
    make(tmp_path, "client", authority)
    make(tmp_path, "other-ca")
    return tmp_path


def client(files: Path, ca: str = "ca", *, certificate: bool = True) -> list[str]:
    own = ["--tls-cert", str(files / "client.pem"), "--tls-key", str(files / "client.key")] if certificate else []
    return ["--tls-ca", str(files / f"{ca}.pem"), *own]


def test_mtls(fresh: Served, files: Path) -> None:
    tls = ("--tls-cert", "node.pem", "--tls-key", "node.key", "--tls-ca", "ca.pem")
    fresh.start("--memory", "--nodes", "2", "--triggers", "shop.py", *tls)
    epoch = call(fresh, "put", "shops", "a", "1", "--json", *client(files)).record["epoch"]
    # Closed: the token went from node to node and back.
    assert call(fresh, "get", "shops", "a", "--as-of", str(epoch), *client(files)).out == "1\n"
    for refused in ([], client(files, certificate=False), client(files, "other-ca")):
        result = call(fresh, "get", "shops", "a", "--deadline", "0.5", *refused)
        assert (result.code, result.out) in ((3, ""), (5, "")), refused
        assert "Traceback" not in result.err


def test_tls_of_the_node_alone(fresh: Served, files: Path) -> None:
    fresh.start("--memory", "--triggers", "shop.py", "--tls-cert", "node.pem", "--tls-key", "node.key")
    assert call(fresh, "put", "shops", "a", "1", *client(files, certificate=False)).code == 0
    assert call(fresh, "put", "shops", "a", "1", "--deadline", "0.5", *client(files, "other-ca")).code in (3, 5)
