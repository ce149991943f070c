"""Snippets of the pages in ``static/docs``, as they are written there.

snippet   the text of a page's fence that the comment ``<!-- run: NAME -->`` marks
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["snippet"]

DOCS = Path(__file__).parents[2] / "static" / "docs"


def snippet(page: str, name: str) -> str:
    """``page`` is its path in ``static/docs``. Fails if the page has no such fence, or several."""
    found = re.findall(rf"<!-- run: {re.escape(name)} -->\n```\w*\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"{page} has {len(found)} fences that are named {name}"
    return found[0]
