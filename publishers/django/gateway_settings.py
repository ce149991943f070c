"""The settings: a dictionary GATEWAY in the project's settings, of which each key may be absent.

DATABASE         the alias of the database in which the outbox is: "default"
VALKEY_URL       Valkey of ``get_publisher`` and ``gateway_relay``; absent: GATEWAY_VALKEY_URL in the environment, else the
                 embedded server of the gateway that runs on this machine
PREFIX           of the gateway's keys in Valkey: "gw"
TOKEN_SECRET     the gateway's tokens.hmac_secret; absent: GATEWAY_TOKENS__HMAC_SECRET in the environment
TOKEN_SECONDS    for how long a token is valid: 3600
TOKEN_CLAIMS     the dotted name of a function that returns more claims of a user's token, as {"info": {"name": …}}
TOKEN_AUDIENCE   the gateway's tokens.audience, if it has one
TOKEN_ISSUER     the gateway's tokens.issuer, if it has one
"""

from __future__ import annotations

import dataclasses

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

__all__ = ["GatewaySettings", "gateway_settings"]


@dataclasses.dataclass(frozen=True)
class GatewaySettings:
    """GATEWAY, by the names of its keys in lower case."""

    database: str = "default"
    valkey_url: str = ""
    prefix: str = "gw"
    token_secret: str = ""
    token_seconds: int = 3600
    token_claims: str = ""
    token_audience: str = ""
    token_issuer: str = ""


_KEYS = [field.name.upper() for field in dataclasses.fields(GatewaySettings)]


def gateway_settings() -> GatewaySettings:
    """The project's settings. Raises ImproperlyConfigured for a key that there is not, and for a TOKEN_SECONDS that is no time."""
    given = getattr(settings, "GATEWAY", {})
    unknown = sorted(set(given) - set(_KEYS))
    if unknown:
        raise ImproperlyConfigured(f"GATEWAY has no key {unknown[0]}; its keys are {', '.join(_KEYS)}")
    seconds = given.get("TOKEN_SECONDS", 1)
    if not isinstance(seconds, int | float) or seconds <= 0:
        raise ImproperlyConfigured(f"GATEWAY['TOKEN_SECONDS'] is {seconds!r}: set it to a number of seconds, as 3600")
    return GatewaySettings(**{name.lower(): value for name, value in given.items()})
