"""Which pages may talk to the gateway: the setting ``allowed_origins``.

An origin is what a browser sends as ``Origin``: scheme, host and port of a page. The setting lists origins. In a host, ``*`` is
a whole label, and matches one label or more, as in a Content-Security-Policy: ``https://*.example.org`` admits pages of
``a.example.org`` and ``a.b.example.org``, neither of ``example.org`` itself nor of ``evil-example.org``. As a port, ``*`` is any port.

``"*"`` admits the pages of all origins, so it names none. What a browser or the network adds by itself to a request of any page (a
cookie, an address that needs no key) counts only for pages of origins that are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Origins", "origin_fault"]

ANY = "*"
ORIGIN_MOST = 300  # characters: a host has at most 253
DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}

_PATTERN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9_.*-]+)(?::([0-9]{1,5}|\*))?")
_LABELS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"


def origin_fault(pattern: str) -> str:
    """What is wrong with an entry of ``allowed_origins``, in a sentence; "" for one that is fine."""
    if pattern in (ANY, "null"):
        return ""
    match = _PATTERN.fullmatch(pattern.lower())
    if match is None:
        return f'{pattern!r} is not an origin; write a scheme, a host and maybe a port, with no path, as in "https://app.example.org"'
    if any(ANY in label and label != ANY for label in match[2].split(".")):
        return f'the * in {pattern!r} is not a whole label of the host; write it between dots, as in "https://*.example.org"'
    return ""


class Origins:
    """The origins of ``allowed_origins``. Entries in which ``origin_fault`` finds a fault match nothing."""

    def __init__(self, patterns: Iterable[str]) -> None:
        listed = [pattern.lower() for pattern in patterns if not origin_fault(pattern)]
        self._any = ANY in listed
        self._listed = re.compile("|".join(_expression(pattern) for pattern in listed if pattern != ANY) or "(?!)")
        self._named = re.compile("|".join(_expression(pattern) for pattern in listed if _names_somebody(pattern)) or "(?!)")

    def admit(self, origin: str, host: str = "") -> bool:
        """Whether pages of ``origin`` may talk to this server, which the request calls ``host``; pages of its own host always may."""
        return self._any or _is_own(origin, host) or self._listed.fullmatch(_plain(origin)) is not None

    def name(self, origin: str, host: str = "") -> bool:
        """Whether pages of ``origin`` may use what their visitor's browser adds by itself: they are of its own host, or named here."""
        return _is_own(origin, host) or self._named.fullmatch(_plain(origin)) is not None


def _is_own(origin: str, host: str) -> bool:
    return bool(host) and origin.partition("://")[2].lower() == host.lower()


def _names_somebody(pattern: str) -> bool:
    """Whether it names the origins it admits: not ``"*"``, not ``null``, which any page can send, and no host that ends with ``*``."""
    match = _PATTERN.fullmatch(pattern)
    return match is not None and not match[2].endswith(ANY)


def _expression(pattern: str) -> str:
    """A regular expression of the origins that a pattern in lower case admits, written as ``_plain`` writes them."""
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        return re.escape(pattern)
    scheme, host, port = match[1], match[2], match[3]
    labels = r"\.".join(_LABELS if label == ANY else re.escape(label) for label in host.split("."))
    if port == ANY:
        ending = "(?::[0-9]+)?"
    else:
        ending = "" if port in (None, DEFAULT_PORTS.get(scheme)) else f":{port}"
    return f"{re.escape(scheme)}://{labels}{ending}"


def _plain(origin: str) -> str:
    """The origin in lower case, without the port that is its scheme's default; "" for a text that is too long to be one."""
    origin = origin.lower() if len(origin) <= ORIGIN_MOST else ""
    return origin.removesuffix(f":{DEFAULT_PORTS.get(origin.partition(':')[0], '-')}")
