"""What is wrong with ``tls_cert`` and ``tls_key``, before a socket uses them."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path

from ..config import Config

__all__ = ["certificate_end", "certificate_fault"]


class _Encrypted(Exception):
    """The key has a password."""


def _password() -> str:
    """Is called where the key has a password. OpenSSL itself would ask at the terminal, which a service does not have: it would wait, or fail without a reason."""
    raise _Encrypted


def certificate_fault(config: Config) -> str:
    """A sentence with the file and the reason; "" where both files can be used, or none is set."""
    if not config.tls_cert:
        return ""
    for path in (config.tls_cert, config.tls_key):
        try:
            with open(path, "rb"):  # the module ssl names no file
                pass
        except OSError as error:
            return f"tls_cert or tls_key cannot be used: {path}: {error.strerror}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key, _password)
    except _Encrypted:
        return (
            f"tls_key cannot be used: {config.tls_key} is encrypted, and nobody is asked for its password; write it without one: openssl pkey -in "
            "ENCRYPTED.pem -out KEY.pem, readable by the gateway's user alone"
        )
    except (OSError, ssl.SSLError) as error:
        return f"tls_cert or tls_key cannot be used: {error}"
    return ""


def certificate_end(config: Config) -> datetime | None:
    """Until when the certificate is valid; None where there is none, or it cannot be read, which is a fault of its own."""
    from cryptography import x509  # a gateway that only serves does not need it

    if not config.tls_cert:
        return None
    try:
        return x509.load_pem_x509_certificate(Path(config.tls_cert).read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
