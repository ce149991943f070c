"""What the configuration would refuse to a client: its tokens, the origin of its page, what it does in a channel.

The answers come from what a gateway asks too: ``session.authentication`` for tokens, ``origins`` for pages, ``rules.permissions`` for channels.
Only the sentences are made here. Nothing of a token is shown but its user, its times, its channels, its audience and its issuer.
"""

from __future__ import annotations

import difflib
import time
from typing import Any, NamedTuple

import jwt

from ...auth.keys import Keys
from ...auth.tokens import Verifier, claimed_channel
from ...channel_rules import ALERTS, ChannelRules
from ...config import Config
from ...control.revocations import Revocations
from ...errors import ClientError, ConfigurationError, Disconnect, TokenExpired
from ...origins import origin_fault
from ...rules.identity import Grant, Identity
from ...rules.permissions import admits, may_subscribe, owner_of, reason_of
from ...session.authentication import Authentication
from .diagnosis import Diagnosis, Finding, Weight

__all__ = ["Asked", "check_access", "check_origin"]


class Asked(NamedTuple):
    """What the doctor was asked about; empty where it was not. ``tokens`` are connection and subscription tokens in any order."""

    tokens: tuple[str, ...] = ()
    origin: str = ""
    channel: str = ""


async def check_access(config: Config, asked: Asked, revocations: Revocations, diagnosis: Diagnosis) -> None:
    """Adds what would be refused to a client with these tokens, in this channel. ``config`` has the secrets of a first run."""
    if not asked.tokens and not asked.channel:
        return
    try:
        keys = Keys(config.tokens)
    except ConfigurationError:
        return  # it is a fault of the configuration, which is reported as such
    authentication = Authentication(config, Verifier(config.tokens, keys), revocations)
    identity, grants = await _check_tokens(config, authentication, asked, diagnosis)
    if asked.channel and (rules := _rules_of(config, asked.channel, diagnosis)) is not None:
        diagnosis.add(*_lacks(config, asked.channel, rules))
        if identity is not None:
            _check_channel(config, identity, asked.channel, grants.get(asked.channel), diagnosis)


# Tokens.


async def _check_tokens(
    config: Config, authentication: Authentication, asked: Asked, diagnosis: Diagnosis
) -> tuple[Identity | None, dict[str, Grant]]:
    """Who the client is, None if it is not let in, and what its subscription tokens allow, by channel."""
    connection = [token for token in asked.tokens if not claimed_channel(token)]
    subscription = [token for token in asked.tokens if claimed_channel(token)]
    identity: Identity | None = None
    for token in connection or ([] if subscription else [""]):
        identity = await _check_connection_token(config, authentication, token, diagnosis)
    grants: dict[str, Grant] = {}
    for token in subscription:
        user = identity.user if identity is not None else str(_claims_of(token).get("sub") or "")
        if not connection:
            identity = Identity(user=user)  # a client that was given this token has a connection token of the same user
        if (grant := await _check_subscription_token(config, authentication, token, user, diagnosis)) is not None:
            grants[grant.channel] = grant
    return identity, grants


async def _check_connection_token(config: Config, authentication: Authentication, token: str, diagnosis: Diagnosis) -> Identity | None:
    try:
        identity = await authentication.identify(token)
        _check_own_channels(config, identity)
    except (ClientError, Disconnect) as error:
        diagnosis.add(_token_refusal(config, "the connection token" if token else "a client without a token", token, error))
        return None
    if token:
        diagnosis.fine["token"] = f"user {identity.user!r}, {_time_left(identity.expires_at)}{_named(identity.channels)}"
    return identity


def _check_own_channels(config: Config, identity: Identity) -> None:
    """Checks the token's channels as connecting does. Raises Disconnect for too many channels, ClientError for one that cannot be."""
    most = config.limits.channels_per_client
    if len(identity.channels) > most:
        raise Disconnect(3505, f"the token names {len(identity.channels)} channels; limits.channels_per_client is {most}")
    for name in identity.channels:
        config.rules(name)


async def _check_subscription_token(
    config: Config, authentication: Authentication, token: str, user: str, diagnosis: Diagnosis
) -> Grant | None:
    channel = claimed_channel(token)
    try:
        config.rules(channel)
        grant = await authentication.grant_one_of(token, (channel,), user)
    except (ClientError, Disconnect) as error:
        diagnosis.add(_token_refusal(config, f"the subscription token for {channel}", token, error))
        return None
    diagnosis.fine[f"subscription token for {channel}"] = f"user {grant.user!r}, {_time_left(grant.expires_at)}"
    return grant


def _token_refusal(config: Config, what: str, token: str, error: ClientError | Disconnect) -> Finding:
    text, reason = (error.reason if isinstance(error, Disconnect) else error.message), error.hint
    sentence = f"{what} is refused with {error.code} {text}" + (f": {reason}" if reason and reason != text else "")
    claims = _claims_of(token)
    if isinstance(error, TokenExpired) and isinstance(claims.get("exp"), int | float) and claims["exp"] <= time.time():
        sentence += f", {_ago(time.time() - claims['exp'])} ago"
    return Finding(Weight.FAULT, sentence, _token_change(config, error, reason, claims))


def _token_change(config: Config, error: ClientError | Disconnect, reason: str, claims: dict[str, Any]) -> str:
    """Which line lets a token like this one in, by the words of the refusal."""
    words, settings = reason.lower(), config.tokens
    if error.code == 3501:
        return 'give the client a token; or let anyone follow a namespace: namespaces.NAME.subscribe = "anyone"'
    if error.code == 3505:
        return f"limits.channels_per_client = {len(claims.get('channels') or ()) + len(claims.get('subs') or ())}"
    if error.code == 102:
        return _namespaces_change(config, str(reason).partition("'")[2].partition("'")[0])
    if "not yet valid" in words:
        return "tokens.leeway = 30    (and set the clock of the machine that made the token: timedatectl set-ntp true)"
    if isinstance(error, TokenExpired):
        return "have the backend make a new token; where it makes them expired, its clock is wrong (tokens.leeway = 30 allows for 30 s)"
    if "audience" in words or '"aud"' in words:
        return f'have the backend put "aud": "{settings.audience}" into its tokens{_or_ours("tokens.audience", claims.get("aud"))}'
    if "issuer" in words or '"iss"' in words:
        return f'have the backend put "iss": "{settings.issuer}" into its tokens{_or_ours("tokens.issuer", claims.get("iss"))}'
    if "revoked" in words:
        return "have the user log in again: a token that is issued from now on passes"
    if "another channel or user" in words:
        return 'have the backend make both tokens for the same user (claim "sub"), and this one for its channel (claim "channel")'
    if "algorithm" in words:
        return "tokens.algorithms, and one of tokens.hmac_secret (HS256), tokens.public_key_file or tokens.jwks_url (RS256, ES256, EdDSA)"
    if "is known yet" in words:
        return f"tokens.jwks_url: the key server has no key with the id of this token, or is not reached from here; it is {settings.jwks_url!r}"
    if "signature" in words or "is configured" in words:
        return "tokens.hmac_secret, tokens.public_key_file or tokens.jwks_url has to be the backend's own; gateway token --user U makes one that passes"
    return "gateway token --user U makes a token that passes; compare the claims"


def _or_ours(setting: str, value: object) -> str:
    return f'; or {setting} = "{value}"' if isinstance(value, str) and value.isprintable() else ""


def _claims_of(token: str) -> dict[str, Any]:
    """What the token claims; nothing is verified. Nothing for what is no token."""
    try:
        return jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, UnicodeError, RecursionError):
        return {}


def _time_left(expires_at: float) -> str:
    return f"expires in {_ago(expires_at - time.time())}" if expires_at else "does not expire"


def _ago(seconds: float) -> str:
    """A duration in its largest unit."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _named(channels: Any) -> str:
    return f", subscribes to {', '.join(sorted(channels)[:5])}" if channels else ""


# Origins.


def check_origin(config: Config, origin: str, host: str, diagnosis: Diagnosis) -> None:
    """``config`` has all origins that the gateway admits; ``host`` is that by which pages reach the gateway, "" if it is not known."""
    if origin != "null" and (fault := origin_fault(origin)):
        diagnosis.add(Finding(Weight.FAULT, f"no browser sends such an origin: {fault}", '--origin "https://app.example.org"'))
    elif not config.origins.admit(origin, host):
        known = ", ".join(config.allowed_origins[:5]) or "empty"
        change = ", ".join(f'"{each}"' for each in [*config.allowed_origins, origin])
        diagnosis.add(
            Finding(
                Weight.FAULT,
                f"pages of {origin} are refused with 403: the setting allowed_origins ({known}) does not list this origin",
                f"allowed_origins = [{change}]",
            )
        )
    elif not config.origins.name(origin, host):
        diagnosis.add(
            Finding(
                Weight.NOTE,
                f"pages of {origin} are admitted by a pattern that names no site, so the cookie gateway_token of their visitors is not used",
                f'allowed_origins = ["{origin}"]',
            )
        )
    else:
        diagnosis.fine["origin"] = f"pages of {origin} may connect"


# Channels.


def _rules_of(config: Config, channel: str, diagnosis: Diagnosis) -> ChannelRules | None:
    """The rules of the channel; None, with a finding, where there are none."""
    try:
        return config.rules(channel)
    except ClientError as error:
        sentence = f"channel {channel} is refused with 102 unknown channel: {error}"
        diagnosis.add(Finding(Weight.FAULT, sentence, _namespaces_change(config, channel.partition(":")[0])))
        return None


def _check_channel(config: Config, identity: Identity, channel: str, grant: Grant | None, diagnosis: Diagnosis) -> None:
    rules = config.rules(channel)
    token = grant is not None
    subscribed = may_subscribe(rules, identity, channel, token=token)
    allowed = ["subscribe"] if subscribed else []
    if not subscribed:
        diagnosis.add(_refusal(config, identity, channel, "subscribe", rules.subscribe, Weight.FAULT))
    for act in ("history", "presence_for", "publish"):
        audience = getattr(rules, act)
        if admits(audience, identity, channel, subscribed=subscribed, token=token):
            allowed.append(act)
        elif audience != "subscriber" and config.setting_of(channel, act):
            diagnosis.add(_refusal(config, identity, channel, act, audience, Weight.NOTE))
    if allowed:
        diagnosis.fine[f"channel {channel}"] = f"user {identity.user!r} is admitted by {', '.join(allowed)}"


def _refusal(config: Config, identity: Identity, channel: str, act: str, audience: str, weight: Weight) -> Finding:
    sentence = f'channel {channel}: {_rules_title(config, channel)}, {act} = "{audience}": {reason_of(audience, identity, channel)}'
    setting = config.setting_of(channel, act)
    return Finding(
        weight, sentence, _opening(channel, setting, audience) if setting else "another name: no setting opens the gateway's own channels"
    )


def _opening(channel: str, setting: str, audience: str) -> str:
    if audience == "token":
        return f'give the client a token of gateway token --user U --channel {channel}; or {setting} = "user"'
    if audience == "nobody":
        return f'{setting} = "user"'
    if audience == "owner" or "#" in channel:
        return f'give the client a token whose claim "sub" is "{owner_of(channel)}"' + (
            "" if "#" in channel else f'; or {setting} = "user"'
        )
    return f'give the client a token with the claim "sub"; or {setting} = "anyone"'


def _rules_title(config: Config, channel: str) -> str:
    """Which rules a channel has, in words."""
    namespace, colon, _ = channel.partition(":")
    if colon:
        return f"namespace {namespace}"
    return "the channel of alerts" if channel == ALERTS and config.alerts.are_on else "channels without a namespace"


def _namespaces_change(config: Config, namespace: str) -> str:
    alike = difflib.get_close_matches(namespace, config.namespaces, 1)
    meant = f"did you mean {alike[0]!r}? If not: " if alike else ""
    return f'{meant}namespaces.{namespace}.subscribe = "user"'


def _lacks(config: Config, channel: str, rules: ChannelRules) -> list[Finding]:
    """What the channel cannot do for anybody, and pages often expect."""
    history, recover = config.setting_of(channel, "history_size"), config.setting_of(channel, "recover")
    if not rules.has_history:
        return [
            Finding(Weight.NOTE, f"channel {channel} has no history: a client that was away misses what was published", f"{history} = 100")
        ]
    if not rules.recover:
        return [
            Finding(
                Weight.NOTE, f"channel {channel} is not recovered: a client that was away misses what was published", f"{recover} = true"
            )
        ]
    return []
