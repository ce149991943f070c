"""Certificates for TLS: one of a gateway on 127.0.0.1, and a certificate authority that issues others."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "certificate"]

Key = ec.EllipticCurvePrivateKey

_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _builder(subject: str, issuer: str, key: Key) -> x509.CertificateBuilder:
    today = datetime.datetime.now(datetime.UTC)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    builder = x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(today - datetime.timedelta(1)).not_valid_after(today + datetime.timedelta(1))


def _write(folder: Path, name: str, certificate: x509.Certificate, key: Key) -> Path:
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path = folder / ("key.pem" if name == "cert" else f"{name}.key")
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / f"{name}.pem"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, signed by itself, with the key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _write(tmp_path, "cert", _builder("127.0.0.1", "127.0.0.1", key).sign(key, hashes.SHA256()), key)


class Authority:
    """A certificate authority; ``path`` is its own certificate in ``folder``, where all that it issues is written, with the keys beside."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, name, self._key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        self.path = _write(folder, name, builder.sign(self._key, hashes.SHA256()), self._key)

    def issue(self, name: str, address: str = "127.0.0.1") -> Path:
        """A certificate of ``name`` for that IP address; its key is the file of that name that ends with .key."""
        key = ec.generate_private_key(ec.SECP256R1())
        for_address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())  # Python 3.13 takes none without it
        builder = _builder(name, self._name, key).add_extension(for_address, critical=False).add_extension(issuer, critical=False)
        return _write(self._folder, name, builder.sign(self._key, hashes.SHA256()), key)
