"""Clients' tokens: JSON Web Tokens signed with HS256. Source of the claims: PROTOCOL.md 1.11.

A token that is refused is refused: it never turns its bearer into an anonymous client.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
from jwt.warnings import InsecureKeyLengthWarning

from .config import Tokens
from .errors import TokenInvalid, TokenStale
from .permissions import Grant, Identity
from .protocol import encode

__all__ = ["SHORT_SECRET", "Verifier", "mint"]

SHORT_SECRET = 32  # bytes: what RFC 7518, 3.2 asks of an HS256 key


class Verifier:
    """Checks tokens against the configured secret, audience and issuer."""

    def __init__(self, settings: Tokens) -> None:
        self._settings = settings
        self._options: dict[str, Any] = {"verify_aud": bool(settings.audience), "verify_iss": bool(settings.issuer)}

    def connection(self, token: str) -> Identity:
        """Raises TokenInvalid or TokenStale."""
        claims = self._claims(token)
        if "channel" in claims:
            raise TokenInvalid("it is a subscription token, not a connection token")
        return Identity(claims.get("sub", ""), False, _json(claims.get("info")), _expiry(claims))

    def subscription(self, token: str) -> Grant:
        """Raises TokenInvalid or TokenStale."""
        claims = self._claims(token)
        channel = claims.get("channel")
        if not isinstance(channel, str) or not channel:
            raise TokenInvalid("it names no channel")
        return Grant(claims.get("sub", ""), channel, _expiry(claims), _json(claims.get("info")))

    def _claims(self, token: str) -> dict[str, Any]:
        settings = self._settings
        if not settings.hmac_secret:
            raise TokenInvalid("no tokens.hmac_secret is configured")
        try:
            with _no_warning(settings.hmac_secret):
                claims: dict[str, Any] = jwt.decode(
                    token,
                    settings.hmac_secret,
                    algorithms=["HS256"],
                    audience=settings.audience or None,
                    issuer=settings.issuer or None,
                    options=self._options,
                )
        except jwt.ExpiredSignatureError:
            raise TokenStale("token expired") from None
        except (jwt.InvalidTokenError, UnicodeError, RecursionError) as error:
            raise TokenInvalid(str(error) or type(error).__name__) from None
        if 0 < _expiry(claims) <= time.time():
            raise TokenStale("token expired")
        return claims


def mint(secret: str, *, user: str = "", seconds: float = 3600, channel: str = "", info: Any = None, audience: str = "", issuer: str = "") -> str:
    """A connection token, or with ``channel`` a subscription token. ``seconds`` 0 is one that does not expire."""
    now = int(time.time())
    claims: dict[str, Any] = {"sub": user, "iat": now}
    if seconds:
        claims["exp"] = now + int(seconds)
    for name, value in (("channel", channel), ("info", info), ("aud", audience), ("iss", issuer)):
        if value not in ("", None):
            claims[name] = value
    with _no_warning(secret):
        return jwt.encode(claims, secret, algorithm="HS256")


@contextmanager
def _no_warning(secret: str) -> Iterator[None]:
    """Whoever configures a short secret is told once, at the start, and not with every token."""
    if len(secret.encode()) >= SHORT_SECRET:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyLengthWarning)
        yield


def _expiry(claims: dict[str, Any]) -> float:
    expires = claims.get("expire_at", claims.get("exp", 0))
    return float(expires) if isinstance(expires, int | float) else 0.0


def _json(value: Any) -> bytes | None:
    return None if value is None else encode(value)
