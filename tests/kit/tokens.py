"""Tokens of the tests: signed with the secret of their gateways, with any claims, right and wrong ones.

token     of a connection: ``token("ann", seconds=4, aud="here")``
ticket    of a subscription: ``ticket("chat:1", "ann", jti="7")``
claiming  of exactly the claims that are given
"""

from __future__ import annotations

import time
from typing import Any

import jwt

__all__ = ["SECRET", "claiming", "ticket", "token"]

SECRET = "a secret of the tests, long enough for HS256"


def token(user: str = "u1", *, seconds: float | None = 3600, secret: str = SECRET, **claims: Any) -> str:
    """Issued now, and good for so many seconds: none are for ever, and less than none make an expired token.

    A claim that is None is left out, the user's (``sub``) too where it is "".
    """
    now = time.time()
    made = {"sub": user or None, "iat": int(now), "exp": None if seconds is None else int(now + seconds)} | claims
    return jwt.encode({name: value for name, value in made.items() if value is not None}, secret, algorithm="HS256")


def claiming(**claims: Any) -> str:
    """A token of exactly these claims."""
    return jwt.encode(claims, SECRET, algorithm="HS256")


def ticket(channel: str, user: str = "u1", **options: Any) -> str:
    """A subscription token."""
    return token(user, channel=channel, **options)
