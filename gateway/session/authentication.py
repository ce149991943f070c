"""Authentication: from a client's tokens to its identity and its grants.

A token that is refused never makes its bearer anonymous. Where a token names a key that is not known yet, the key server is
asked: the methods that wait for it are coroutines; the others raise KeyUnknown, and may be called again after ``learn``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeVar

from ..auth.admin_keys import LIVE_PREFIX, AdminKeys
from ..auth.tokens import Verifier
from ..channel_rules import CONSOLE
from ..config import Config
from ..control.revocations import Revocations
from ..errors import Disconnect, Internal, KeyUnknown, PermissionDenied, TokenEarly, TokenExpired, TokenInvalid, TokenStale
from ..rules.identity import ANONYMOUS, ANYTHING, Grant, Identity, ServerSubscription

__all__ = ["Authentication"]

Checked = TypeVar("Checked")
Verified = TypeVar("Verified", Identity, Grant)


class Authentication:
    """Checks tokens with the configured keys, and against what was revoked. ``admin_keys`` check those of the console's pages."""

    def __init__(self, config: Config, verifier: Verifier, revocations: Revocations, admin_keys: AdminKeys | None = None) -> None:
        self._config = config
        self._verifier = verifier
        self._revocations = revocations
        self._admin_keys = admin_keys or AdminKeys()

    async def learn(self) -> None:
        """Fetches the keys again, after KeyUnknown."""
        await self._verifier.learn()

    def authenticate(self, token: str) -> Identity:
        """The client that a connection token identifies; an anonymous one for "".

        Raises TokenExpired; Disconnect 3500 for any other bad token, and 3501 for "" if no channel is open to anonymous clients;
        KeyUnknown.
        """
        insecure = self._config.insecure.clients
        if not token:
            if not self._config.admits_anonymous:
                raise Disconnect(
                    3501, 'no token, and no channel that anyone may follow: send a token, or let a namespace have subscribe = "anyone"'
                )
            return ANYTHING if insecure else ANONYMOUS
        if self._admin_keys and token.startswith(LIVE_PREFIX):
            return self._verified(self._operator, token, partial(Disconnect, 3500))  # ``insecure.clients`` gives it no rights
        identity = self._verified(self._verifier.connection, token, partial(Disconnect, 3500))
        return identity._replace(unchecked=True) if insecure else identity

    def _operator(self, token: str) -> Identity:
        """A page of the console: it follows the console's own channel, and has no more rights than an anonymous client."""
        session = self._admin_keys.session_of_live(token)
        if session is None:
            raise TokenInvalid("it is no token of the console, or of a key that was removed")
        if session.until <= time.time():
            raise TokenStale("token expired")
        own = {CONSOLE: ServerSubscription()}
        return Identity(expires_at=session.until, token_id=session.id, channels=own, operator=True)

    async def identify(self, token: str) -> Identity:
        """``authenticate``, which fetches keys if they are needed. Raises Internal where the key server does not answer, instead of KeyUnknown."""
        try:
            return await self._with_keys(self.authenticate, token)
        except KeyUnknown as error:
            raise Internal(str(error)) from None

    def grant(self, token: str, channel: str, user: str, client: str) -> Grant:
        """What a subscription token allows this user in this channel, on the connection with the id ``client``.

        Raises PermissionDenied, TokenExpired, KeyUnknown, or Disconnect 3500 if the token names another channel, user or connection.
        """
        return self._grant(token, (channel,), user, client)

    async def grant_one_of(self, token: str, channels: Collection[str], user: str) -> Grant:
        """``grant`` for that one of ``channels`` which the token names, on no connection with an id; fetches keys if they are needed."""
        try:
            return await self._with_keys(self._grant, token, channels, user)
        except KeyUnknown as error:
            raise Internal(str(error)) from None

    def _grant(self, token: str, channels: Collection[str], user: str, client: str = "") -> Grant:
        grant = self._verified(self._verifier.subscription, token, PermissionDenied)
        if grant.channel not in channels or grant.user != user:
            raise Disconnect(3500, "the subscription token names another channel or user")
        if grant.client not in ("", client):
            raise Disconnect(3500, "the subscription token is for another connection: its claim client names that")
        return grant

    def _verified(self, verify: Callable[[str], Verified], token: str, refusal: Callable[[str], Exception]) -> Verified:
        """What a good token says. Raises TokenExpired, KeyUnknown, or ``refusal`` of a sentence for any other fault."""
        try:
            found = verify(token)
        except KeyUnknown:
            raise
        except (TokenStale, TokenEarly) as error:  # a refusal as invalid would be final to SDKs, and clocks are set right one day
            raise TokenExpired(str(error)) from None
        except TokenInvalid as error:
            raise refusal(str(error)) from None
        if self._revocations.covers(found):
            raise refusal("the token was revoked")
        return found

    async def _with_keys(self, check: Callable[..., Checked], *token: Any) -> Checked:
        """``check``, once more if keys had to be fetched for it. Raises KeyUnknown if they do not help."""
        try:
            return check(*token)
        except KeyUnknown:
            await self.learn()
        return check(*token)
