"""Tokens as nearly all are, verified without PyJWT's detours: it prepares the key again for each token, and reads the header twice.

What is accepted here PyJWT would accept as well. Two faults that are usual too are refused here, as PyJWT refuses them: a signature that no key made, and
an end that is over; so the signature is verified once. A token that is unusual in any way, or has another fault, is left to PyJWT.
"""

from __future__ import annotations

import time

import jwt
import msgspec
from msgspec import UNSET, UnsetType

from ..config import Tokens
from ..rules.json_text import UNREADABLE, is_json
from .keys import Keys
from .signatures import canonical, signer

__all__ = ["plain_payload"]


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    alg: str
    typ: str = ""
    kid: str = ""


class _Registered(msgspec.Struct):
    """The claims that PyJWT checks. A claim that is null or of another type is not usual."""

    exp: float | UnsetType = UNSET
    nbf: float | UnsetType = UNSET
    iat: float | UnsetType = UNSET
    aud: str | list[str] | UnsetType = UNSET
    iss: str | UnsetType = UNSET
    sub: str | UnsetType = UNSET
    jti: str | UnsetType = UNSET


PAYLOAD_BYTES = 4096  # Python refuses to read a number of more than 4,300 digits
_header_of = msgspec.json.Decoder(_Header).decode
_registered_of = msgspec.json.Decoder(_Registered).decode


def plain_payload(token: str, keys: Keys, settings: Tokens) -> bytes | None:
    """The claims of a good token, in JSON; None if PyJWT has to judge the token.

    Raises jwt.InvalidSignatureError for a signature that no key made, jwt.ExpiredSignatureError for a token that is good but for its end.
    """
    try:
        signed, _, last = token.encode("ascii").rpartition(b".")
        head, _, body = signed.partition(b".")
        header, payload, signature = _header_of(canonical(head)), canonical(body), canonical(last)
        registered = _registered_of(payload)
        is_expired = registered.exp is not UNSET and int(registered.exp) <= time.time() - settings.leeway
        is_usual = _is_readable(payload) and (is_expired or _is_ours(registered, settings)) and _has_begun(registered, settings)
    except (*UNREADABLE, OverflowError):
        return None
    fitting = keys.of(header.alg, header.kid)
    if not is_usual or not fitting:
        return None
    if signer(signed, signature, header.alg, fitting) is None:
        if keys.may_learn(header.kid):
            return None
        raise jwt.InvalidSignatureError
    if is_expired:
        raise jwt.ExpiredSignatureError
    return payload


def _is_readable(payload: bytes) -> bool:
    """Whether any parser reads it: msgspec does not look into the claims that nobody asks for, where PyJWT's parser meets its limits."""
    return len(payload) <= PAYLOAD_BYTES and is_json(payload)


def _has_begun(claims: _Registered, settings: Tokens) -> bool:
    latest = time.time() + settings.leeway
    return (claims.nbf is UNSET or int(claims.nbf) <= latest) and (claims.iat is UNSET or int(claims.iat) <= latest)


def _is_ours(claims: _Registered, settings: Tokens) -> bool:
    """Whether it is for this gateway, and of its issuer. PyJWT looks at that after the token's end."""
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
    return (not settings.audience or settings.audience in audiences) and (not settings.issuer or settings.issuer == claims.iss)
