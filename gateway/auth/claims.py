"""The claims of a token that this gateway reads. Source: docs/reference/tokens.md. PyJWT checks the registered ones, or ``plain_tokens`` in its place."""

from __future__ import annotations

import base64
import json
from math import inf, nan
from typing import Any

import msgspec

from ..errors import TokenInvalid
from ..rules.identity import Override
from ..rules.json_text import MAX_DEPTH, encode, is_json
from ..rules.protocol import OverrideRequest

__all__ = ["AHEAD_SECONDS", "Claims", "GrantingClaims", "UsualClaims", "claims_of", "json_of", "usual_claims"]

# By so much the clock that wrote "iat" may be ahead: of two machines one always is, and a refused token keeps its client away for good.
AHEAD_SECONDS = 5


class GrantingClaims(msgspec.Struct):
    """What a whole token, or one entry of its claim ``subs``, gives to a subscription."""

    info: msgspec.Raw = msgspec.Raw()
    b64info: str = ""
    override: OverrideRequest | None = None

    @property
    def granted_override(self) -> Override | None:
        return None if self.override is None else self.override.override


class _Subscription(GrantingClaims):
    data: msgspec.Raw = msgspec.Raw()
    b64data: str = ""


class Claims(GrantingClaims):
    """The claims of a token; times are unix seconds. ``info``, ``meta`` and the ``data`` of ``subs`` are JSON on one line, or nothing."""

    sub: str | None = None
    exp: float = 0
    nbf: Any = 0  # PyJWT takes whatever int() takes
    iat: float = 0
    expire_at: float | None = None
    jti: str = ""
    meta: msgspec.Raw = msgspec.Raw()
    channel: str | None = None
    client: Any = ""  # of a subscription token: the id of the one connection that it is for
    channels: list[str] | None = None
    subs: dict[str, _Subscription] | None = None

    @property
    def expires_at(self) -> float:
        """0 for never: ``expire_at`` wins over ``exp``, which then limits only until when the token may be presented."""
        return self.exp if self.expire_at is None else self.expire_at

    @property
    def presented_from(self) -> float:
        """The token is refused before."""
        return max(int(self.nbf), int(self.iat) - AHEAD_SECONDS)

    @property
    def presented_until(self) -> float:
        """The token is refused from then on."""
        return min(int(self.exp) or inf, self.expires_at or inf)


class UsualClaims(Claims):
    """The claims as nearly all tokens have them: none of those that PyJWT checks is null, or of an odd type. Without ``exp`` that is NaN, which JSON
    cannot hold: a token may name any number there."""

    sub: str = ""
    exp: float = nan
    nbf: float = 0
    aud: str | list[str] = ""
    iss: str = ""


_usual = msgspec.json.Decoder(UsualClaims).decode
_RAW = ("info", "data", "meta")  # claims that are any JSON, and are passed on as it


def usual_claims(payload: bytes) -> UsualClaims:
    """Raises msgspec.MsgspecError, ValueError or RecursionError if they are not usual."""
    claims = _usual(payload)
    claims.info, claims.meta = _compact(claims.info), _compact(claims.meta)
    for each in (claims.subs or {}).values():
        each.info, each.data = _compact(each.info), _compact(each.data)
    return claims


def _compact(raw: msgspec.Raw) -> msgspec.Raw:
    """The same JSON as ``_raw_claims`` makes of it: on one line; nothing for null."""
    if not raw:
        return raw
    text = bytes(raw)
    return msgspec.Raw(encode(json.loads(text))) if text != b"null" else msgspec.Raw()


def claims_of(decoded: dict[str, Any]) -> Claims:
    """The claims that PyJWT has decoded. Raises msgspec.ValidationError, or TokenInvalid for one that is nested too deep."""
    return msgspec.convert(_raw_claims(decoded), Claims)


def _raw_claims(claims: dict[str, Any]) -> dict[str, Any]:
    raw = {name: msgspec.Raw(_check_depth(encode(claims[name]), f"the claim {name!r}")) for name in _RAW if claims.get(name) is not None}
    claims = {name: value for name, value in claims.items() if name not in _RAW} | raw
    if isinstance(claims.get("subs"), dict):
        claims["subs"] = {name: _raw_claims(sub) if isinstance(sub, dict) else sub for name, sub in claims["subs"].items()}
    return claims


def json_of(raw: msgspec.Raw, b64: str) -> bytes | None:
    """Raw JSON, or what base64 holds; None for neither. Raises TokenInvalid."""
    if not b64:
        return bytes(raw) or None
    try:
        text = base64.b64decode(b64, validate=True)
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError, msgspec.MsgspecError):  # binascii's errors are ValueErrors
        raise TokenInvalid("a claim in base64 holds no JSON") from None
    _check_depth(text, "a claim in base64")
    return encode(value)


def _check_depth(text: bytes, what: str) -> bytes:
    """The JSON itself, which has to be nested no deeper than a publication may be: each version of Python lets a decoder go down to another depth."""
    if not is_json(text):
        raise TokenInvalid(f"{what} is nested more than {MAX_DEPTH} deep")
    return text
