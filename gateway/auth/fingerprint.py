"""A fingerprint of the keys that tokens are checked with: gateways compare it, and nobody can compute the keys from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from ..config import Tokens

__all__ = ["fingerprint"]

# Some 30 ms for one guess: a reader of Valkey cannot try out short secrets by the million. scrypt would cost a guess more, but its
# 16 MiB raise the size from which the C library gives memory back to the system, for as long as the process lives.
ITERATIONS = 100_000
DIGEST_BYTES = 12


def fingerprint(tokens: Tokens, prefix: str) -> str:
    """24 hexadecimal digits, equal for two gateways of one ``prefix`` exactly if the same tokens pass in both.

    While secrets are rotated, it does not matter which of them is ``hmac_secret`` and which is still or already accepted. It takes
    some 30 ms: call it in a thread. A file of public keys that cannot be read counts as none: its error is ``Keys``' to raise.
    """
    secrets = sorted({secret for secret in (tokens.hmac_secret, *tokens.previous_hmac_secrets) if secret})
    file = Path(tokens.public_key_file).expanduser() if tokens.public_key_file else None
    public = file.read_text(errors="replace").split() if file is not None and file.is_file() else []
    facts = [secrets, public, tokens.jwks_url, sorted(tokens.algorithms), tokens.audience, tokens.issuer]
    salt = f"gateway {prefix}".encode()
    return hashlib.pbkdf2_hmac("sha256", msgspec.json.encode(facts), salt, ITERATIONS, DIGEST_BYTES).hex()
