"""What an address should be, where the server that answers there is of another kind than the address names."""

from __future__ import annotations

__all__ = ["A_SENTINEL", "with_remedy"]

A_SENTINEL = "is a Sentinel; write valkey+sentinel://HOST:PORT/SERVICE"

_NO_FUNCTIONS = f"the server {A_SENTINEL}; or it is older than version 7, which has no functions, or its rename-command hides FCALL"

# Words of the server's refusal → what the address is to be.
_REMEDIES = (
    *((f"unknown command {quote}FCALL", _NO_FUNCTIONS) for quote in "'`"),  # Redis 6 writes the other quotation mark
    ("unknown command 'SENTINEL'", "the server is no Sentinel; write valkey:// in its address"),
    ("cluster support disabled", "the server is no node of a cluster; write valkey:// in its address"),
    ("MOVED ", "the server is a node of a cluster; write valkey+cluster:// in its address"),
)


def with_remedy(refusal: str) -> str:
    """The refusal of a server; in parentheses what to write in the address, if that is the cause."""
    return next((f"{refusal} ({remedy})" for sign, remedy in _REMEDIES if sign in refusal), refusal)
