"""Tokens as nearly all are, verified without PyJWT's detours: it prepares the key again for each token, and reads the header twice.

What is accepted here PyJWT would accept as well. Two faults that are usual too are refused here, as PyJWT refuses them: a signature that no key made, and
an end that is over; so the signature is verified once. A token that is unusual in any way, or has another fault, is left to PyJWT.
"""

from __future__ import annotations

import time
from functools import lru_cache
from math import isnan

import jwt
import msgspec

from ..config import Tokens
from ..rules.json_text import UNREADABLE, is_json
from .claims import Claims, UsualClaims, usual_claims
from .keys import Keys
from .signatures import canonical, signer

__all__ = ["plain_claims"]


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    alg: str
    typ: str = ""
    kid: str = ""


PAYLOAD_BYTES = 4096  # Python refuses to read a number of more than 4,300 digits
HEADS_MOST = 16  # an issuer writes the same header into all its tokens
_header_of = msgspec.json.Decoder(_Header).decode


def plain_claims(token: str, keys: Keys, settings: Tokens) -> Claims | None:
    """The claims of a good token; None if PyJWT has to judge the token.

    Raises jwt.InvalidSignatureError for a signature that no key made, jwt.ExpiredSignatureError for a token that is good but for its end.
    """
    try:
        signed, _, last = token.encode("ascii").rpartition(b".")
        head, _, body = signed.partition(b".")
        header, payload, signature = _read_head(head), canonical(body), canonical(last)
        claims, now = usual_claims(payload), time.time()
        is_expired = not isnan(claims.exp) and int(claims.exp) <= now - settings.leeway
        is_usual = _is_readable(payload) and (is_expired or _is_ours(claims, settings)) and claims.presented_from <= now + settings.leeway
    except (*UNREADABLE, OverflowError):
        return None
    fitting = keys.of(header.alg, header.kid)
    if not is_usual or not fitting:
        return None
    if signer(signed, signature, header.alg, fitting) is None:
        if keys.lacks(header.alg, header.kid):
            return None
        raise jwt.InvalidSignatureError
    if is_expired:
        raise jwt.ExpiredSignatureError
    if isnan(claims.exp):
        claims.exp = 0
    return claims


@lru_cache(HEADS_MOST)
def _read_head(head: bytes) -> _Header:
    return _header_of(canonical(head))


def _is_readable(payload: bytes) -> bool:
    """Whether any parser reads it: msgspec does not look into the claims that nobody asks for, where PyJWT's parser meets its limits."""
    return len(payload) <= PAYLOAD_BYTES and is_json(payload)


def _is_ours(claims: UsualClaims, settings: Tokens) -> bool:
    """Whether it is for this gateway, and of its issuer. PyJWT looks at that after the token's end."""
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    return (not settings.audience or settings.audience in audiences) and (not settings.issuer or settings.issuer == claims.iss)
