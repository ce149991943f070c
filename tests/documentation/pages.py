"""The pages of the documentation as the tests read them: their fences, links and headings. README is one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

__all__ = ["DOCS", "PAGES", "TOP", "Fence", "fences", "page", "snippets"]

TOP = Path(__file__).parents[2]
DOCS = TOP / "static" / "docs"
PAGES = [TOP / "README.md", *sorted(DOCS.rglob("*.md"))]
_MARK = re.compile(r"<!-- (?:(test)|(run|shown): (.+?)) -->\s*")


class Fence(NamedTuple):
    """A piece of code, with the mark before it: ``run: NAME``, ``shown: REASON``, or the test command's, which has a name alone."""

    path: Path
    line: int
    language: str
    code: str
    kind: str  # run, shown, or "" without a mark
    mark: str  # the name, or the reason

    def __str__(self) -> str:
        return f"{self.path.relative_to(TOP)}:{self.line}"


def page(name: str) -> str:
    """The text of a page by its name: ``reference/settings``."""
    return (DOCS / f"{name}.md").read_text("utf-8")


@cache
def fences(path: Path) -> tuple[Fence, ...]:
    """All of a page, in its order."""
    return tuple(_fences_of(path))


def _fences_of(path: Path) -> Iterator[Fence]:
    mark: re.Match[str] | None = None
    for token in MarkdownIt("commonmark").disable("inline").parse(path.read_text("utf-8")):  # what is in a line is of no concern here
        if token.type == "fence":
            assert token.map
            kind, text = ("run", "test") if mark and mark[1] else (mark[2], mark[3]) if mark else ("", "")
            yield Fence(path, token.map[0] + 1, token.info.strip(), token.content, kind, text)
        mark = _MARK.fullmatch(token.content) if token.type == "html_block" else None


def snippets(name: str, language: str = "") -> list[Fence]:
    """Every fence that is marked ``run: NAME``, in the order of the pages."""
    found = [fence for path in PAGES for fence in fences(path) if (fence.kind, fence.mark) == ("run", name)]
    return [fence for fence in found if language in ("", fence.language)]
