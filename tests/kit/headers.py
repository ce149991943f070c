"""The headers that every answer to a browser must have."""

from __future__ import annotations

import re

__all__ = ["check_headers"]


def check_headers(headers: dict[str, str]) -> None:
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert "SameSite=" in headers.get("set-cookie", "SameSite=")
    if headers.get("content-type", "").startswith("text/html"):
        _check_policy(headers["content-security-policy"])


def _check_policy(text: str) -> None:
    """Nothing that is not named is allowed, and what is named is a file beside the page."""
    policy: dict[str, list[str]] = {name: values for name, *values in (part.split() for part in text.split(";"))}
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert policy["script-src"] == policy["style-src"] == ["'self'"]
    assert not re.search(r"unsafe|\*|https?:", text)
