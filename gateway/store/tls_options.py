"""TLS to Valkey: the options of an address, checked before they are used, and what is wrong where a connection fails.

    valkeys://host:6380?ssl_ca_certs=ca.pem&ssl_certfile=client.pem&ssl_keyfile=client.key

The server's certificate has to be signed by a certificate authority (CA) that the system trusts or that ``ssl_ca_certs`` holds, and has to
be one of the host that the address names.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..errors import ConfigurationError

__all__ = ["explained", "tls_options"]

_KNOWN = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs", "ssl_ca_data", "ssl_ciphers")

# Words of a failed connection's error → what is wrong, and the remedy.
_CAUSES = (
    (("Hostname mismatch", "IP address mismatch"), "its certificate is one of another host; name the host as the certificate does"),
    (("certificate has expired",), "its certificate has expired"),
    (
        ("Missing Authority Key Identifier", "Missing Subject Key Identifier", "does not include key usage"),
        "its certificate, or that of its CA, lacks an extension that Python requires since 3.13; issue it again with that extension",
    ),
    (("CERTIFICATE_VERIFY_FAILED",), "its certificate is not trusted; name the file of its CA: ?ssl_ca_certs=FILE"),
    (("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"), "it does not speak TLS there; use valkey://, or its port for TLS"),
    (
        ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "BAD_CERTIFICATE", "UNKNOWN_CA"),
        "it trusts no client without a certificate of the right CA: ?ssl_certfile=FILE&ssl_keyfile=FILE",
    ),
)

# Words of the error, whether it is a connection by TLS → what may be wrong: the server said nothing.
_CUT = ("reset by peer", "closed by server", "violation of protocol", "Broken pipe")
_DOUBTS = (
    (("Timeout",), True, "perhaps it does not speak TLS there"),
    (_CUT, True, "perhaps it wants a certificate of the client: ?ssl_certfile=FILE&ssl_keyfile=FILE; or it does not speak TLS there"),
    (_CUT, False, "perhaps it speaks only TLS there: valkeys://"),
)


def tls_options(url: str) -> dict[str, Any]:
    """What valkey-py takes for the TLS options in a URL; empty without TLS. Raises ConfigurationError for what cannot work."""
    parts = urlsplit(url)
    pairs = [(name, value) for name, value in parse_qsl(parts.query) if name.startswith("ssl_")]
    given: dict[str, Any] = dict(pairs)
    if not parts.scheme.startswith("valkeys"):
        if given:
            raise ConfigurationError(f"valkey_url: {next(iter(given))} is an option of TLS; write valkeys:// for it")
        return {}
    if len(given) < len(pairs):  # valkey-py takes the first of them
        raise ConfigurationError("valkey_url: each option of TLS is given once")
    for name in given:
        if name not in _KNOWN:
            raise ConfigurationError(f"valkey_url: there is no option {name}; those of TLS are {', '.join(_KNOWN)}")
    if given.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise ConfigurationError("valkey_url: ssl_cert_reqs is none, optional or required")
    _check_files(given)
    verifies = given.get("ssl_cert_reqs", "required") == "required"
    given["ssl_check_hostname"] = verifies and given.get("ssl_check_hostname", "").lower() not in ("0", "f", "false", "n", "no", "off")
    if "ssl_certfile" in given:
        given.setdefault("ssl_keyfile", given["ssl_certfile"])  # a PEM file may hold both
    return given


def _check_files(given: dict[str, Any]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca := given.get("ssl_ca_certs"):
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            raise ConfigurationError(f"valkey_url: ssl_ca_certs: {ca} holds no certificates that can be read: {_reason(error)}") from None
    if certificate := given.get("ssl_certfile"):
        try:
            context.load_cert_chain(certificate, given.get("ssl_keyfile"))
        except OSError as error:
            what = f"{certificate} and {given.get('ssl_keyfile', 'the key in it')}"
            raise ConfigurationError(
                f"valkey_url: ssl_certfile, ssl_keyfile: {what} are no pair that can be used: {_reason(error)}"
            ) from None
    elif "ssl_keyfile" in given:
        raise ConfigurationError("valkey_url: ssl_keyfile is the key of a certificate: name that too, with ssl_certfile")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def explained(error: Exception, by_tls: bool, *, has_answered: bool = False) -> str:
    """Why a connection failed, with what is wrong with TLS in words where it is that, or, unless the server ``has_answered`` before, may be."""
    text = str(error) or type(error).__name__
    for signs, cause in _CAUSES:
        if any(sign in text for sign in signs):
            return f"{cause} ({text})"
    for signs, is_tls, doubt in () if has_answered else _DOUBTS:
        if by_tls == is_tls and any(sign in text for sign in signs):
            return f"{text} ({doubt})"
    return text
