"""Tokens of the gateway for the users of a Django project.

urlpatterns = [path("my-token", token_view)]
new Gateway({ token: () => fetch("/my-token") })       // in the page
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import jwt
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.utils.module_loading import import_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from gateway.config import load

from .gateway_settings import GatewaySettings, gateway_settings

__all__ = ["token_for", "token_view"]


@never_cache
@require_GET
def token_view(request: HttpRequest) -> HttpResponse:
    """Returns the token of the user who is logged in, as text; 401 without one."""
    user = request.user
    if not user.is_authenticated:
        return HttpResponse("log in first", status=401, content_type="text/plain")
    return HttpResponse(token_for(user), content_type="text/plain")


def token_for(user: Any) -> str:
    """A connection token of the user, whose id in the gateway is the primary key as text.

    Raises ImproperlyConfigured without a secret, and where TOKEN_CLAIMS names no function; ValueError for a user without a primary key,
    whom the gateway would take for an anonymous client, or for one called None.
    """
    if user.pk is None or user.pk == "":
        raise ValueError("the user has no primary key, and so no id for the gateway: save it first")
    configured = gateway_settings()
    now = int(time.time())
    claims = {"sub": str(user.pk), "iat": now, "exp": now + configured.token_seconds, **_more_claims(configured, user)}
    for name, value in (("aud", configured.token_audience), ("iss", configured.token_issuer)):
        if value:
            claims[name] = value
    return jwt.encode(claims, _secret(configured), algorithm="HS256")


def _more_claims(configured: GatewaySettings, user: Any) -> dict[str, Any]:
    if not configured.token_claims:
        return {}
    try:
        function: Callable[[Any], dict[str, Any]] = import_string(configured.token_claims)
    except ImportError as error:
        raise ImproperlyConfigured(f"GATEWAY['TOKEN_CLAIMS'] names no function: {error}") from None
    return function(user)


def _secret(configured: GatewaySettings) -> str:
    # The variable itself comes first: a token is made for each page, and reading all settings takes milliseconds.
    secret = configured.token_secret or os.environ.get("GATEWAY_TOKENS__HMAC_SECRET") or load().tokens.hmac_secret
    if not secret:
        raise ImproperlyConfigured(
            "GATEWAY['TOKEN_SECRET'] is missing: set it to the tokens.hmac_secret of the gateway's configuration; where that has none, "
            "to the hmac_secret of credentials.json in the gateway's data folder"
        )
    return secret
