"""A URL that leads to a gateway, taken apart."""

from __future__ import annotations

import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

from ...config import is_loopback

__all__ = ["Target"]

SCHEMES = {"http": False, "https": True, "ws": False, "wss": True}


class Target(NamedTuple):
    """Where requests go. ``prefix`` is a path before the gateway's own, without a slash at its end; ``checks``: whether certificates are checked."""

    by_tls: bool
    host: str
    port: int
    prefix: str = ""
    checks: bool = True

    @classmethod
    def of(cls, url: str) -> Target:
        """Raises ValueError with a sentence."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise ValueError('write the URL by which pages reach the gateway, as in "https://live.example.org"')
        if "@" in parts.netloc:
            raise ValueError("write the URL without a login")
        by_tls = SCHEMES[parts.scheme]
        return cls(by_tls, parts.hostname, parts.port or (443 if by_tls else 80), parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """Host and port as a browser writes them into ``Host``: without the port that is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.by_tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http{'s' * self.by_tls}://{self.authority}{self.prefix}"

    @property
    def is_of_this_machine(self) -> bool:
        """Whether its host is a loopback address."""
        return is_loopback(self.host)

    def tls(self) -> ssl.SSLContext | None:
        """What a connection is secured with, None for one in the clear."""
        if not self.by_tls:
            return None
        context = ssl.create_default_context()
        if not self.checks:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
