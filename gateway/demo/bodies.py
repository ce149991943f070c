"""What requests to the demo's API have in common."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Answer", "Body"]

Answer = dict[str, Any]


class Body(msgspec.Struct):
    """The JSON body of a request; this one has no fields, and requests that have no body are not read."""
