"""The form and the signature of any token, at the speed of C. PyJWT reads a token character by character, several times: a bad one of 16 KiB took it 4 ms.

What is refused here PyJWT would refuse as well, with the same error: it verifies the signature before it looks at a claim. What passes is still PyJWT's to
judge. Signatures of public keys are verified by PyJWT's own algorithms.
"""

from __future__ import annotations

import json
from binascii import a2b_base64
from collections.abc import Iterable
from functools import lru_cache
from hmac import HMAC, compare_digest
from typing import Any, NamedTuple

import jwt
from jwt.algorithms import get_default_algorithms

from .keys import Key

__all__ = ["Parts", "canonical", "parts_of", "signer"]

SECRETS_MOST = 32  # prepared for each of three hashes; a gateway has one or two secrets
_ALGORITHMS = get_default_algorithms()
_HASHES = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}  # RFC 7518, 3.2
_STANDARD = bytes.maketrans(b"-_+/=", b"+/\0\0\0")  # of base64url; what is not of its alphabet is not of that of base64 either
# By the length's remainder: the last characters of a canonical text, all of whose bits mean something. No text is one longer than a multiple of four.
_LAST = {1: b"", 2: b"AQgw", 3: b"AEIMQUYcgkosw048"}


class Parts(NamedTuple):
    """What a token is made of. ``signed`` is the text under the signature, ``payload`` should be the claims in JSON."""

    signed: bytes
    header: dict[str, Any]
    payload: bytes
    signature: bytes


def canonical(text: bytes) -> bytes:
    """What a part of a token encodes. Raises ValueError for all but the one canonical text of those bytes. Source: RFC 7515, 2."""
    data = a2b_base64(text.translate(_STANDARD) + b"==")
    rest = len(text) & 3
    if len(data) != len(text) * 3 >> 2 or (rest and text[-1:] not in _LAST[rest]):  # a2b_base64 leaves out characters that it does not know
        raise ValueError("not canonical")
    return data


def parts_of(token: str) -> Parts:
    """Raises jwt.DecodeError for what has not the form of a token, UnicodeError for half a surrogate pair. The claims are not looked at."""
    signed, dot, last = token.encode().rpartition(b".")
    first, second_dot, body = signed.partition(b".")
    if not dot or not second_dot:
        raise jwt.DecodeError("Not enough segments")
    header = _header_of(_decoded(first, "header"))
    return Parts(signed, header, _decoded(body, "payload"), _decoded(last, "crypto"))


def _decoded(text: bytes, name: str) -> bytes:
    """A part, which may have the padding that some issuers leave there."""
    bare = text.rstrip(b"=")
    padding = len(text) - len(bare)
    try:
        if padding > 2 or (padding and len(text) % 4):
            raise ValueError("its padding is not that of its length")
        return canonical(bare)
    except ValueError:
        raise jwt.DecodeError(f"Invalid {name} padding") from None


def _header_of(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise jwt.DecodeError(f"Invalid header string: {error}") from None
    if not isinstance(header, dict):
        raise jwt.DecodeError("Invalid header string: must be a json object")
    return header


def signer(signed: bytes, signature: bytes, algorithm: str, keys: Iterable[Key]) -> Key | None:
    """The one of ``keys``, all of which are for the algorithm, that made the signature; None if none did."""
    if hash := _HASHES.get(algorithm):
        for key in keys:
            code = _authenticator(key.material, hash).copy()
            code.update(signed)
            if compare_digest(code.digest(), signature):
                return key
        return None
    verifier = _ALGORITHMS.get(algorithm)
    return next((key for key in keys if verifier is not None and verifier.verify(signed, key.material, signature)), None)


@lru_cache(SECRETS_MOST)
def _authenticator(secret: str, hash: str) -> HMAC:
    """An HMAC with this secret, of no message yet: to prepare one takes longer than to authenticate a token with it."""
    return HMAC(secret.encode(), digestmod=hash)
