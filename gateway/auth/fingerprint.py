"""A fingerprint of the keys that tokens are checked with: gateways compare it, and nobody can compute the keys from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from ..config import Tokens

__all__ = ["fingerprint"]

# Some 40 ms and 16 MiB for one guess: who reads a fingerprint in Valkey cannot try out short secrets by the million. RFC 7914.
COST, BLOCKS, PARALLEL = 2**14, 8, 1
DIGEST_BYTES = 12


def fingerprint(tokens: Tokens, prefix: str) -> str:
    """24 hexadecimal digits, equal for two gateways of one ``prefix`` exactly if the same tokens pass in both.

    While secrets are rotated, it does not matter which of them is ``hmac_secret`` and which is still or already accepted. It takes
    some 40 ms: call it in a thread. A file of public keys that cannot be read counts as none: its error is ``Keys``' to raise.
    """
    secrets = sorted({secret for secret in (tokens.hmac_secret, *tokens.previous_hmac_secrets) if secret})
    file = Path(tokens.public_key_file).expanduser() if tokens.public_key_file else None
    public = file.read_text(errors="replace").split() if file is not None and file.is_file() else []
    facts = [secrets, public, tokens.jwks_url, sorted(tokens.algorithms), tokens.audience, tokens.issuer]
    salt = f"gateway {prefix}".encode()
    return hashlib.scrypt(msgspec.json.encode(facts), salt=salt, n=COST, r=BLOCKS, p=PARALLEL, dklen=DIGEST_BYTES).hex()
