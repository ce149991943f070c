"""All pages of a folder, in the order in which they are read.

A page's name is its file's path in the folder without ``.md``: ``how-to/deploy``; that of ``index.md`` is "". The order is that of
the links on the index; pages that it does not name come last in their part. A heading of the third level on the index begins a
group of pages, which the list of pages shows under that heading.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .markdown import Rendered, Section

__all__ = ["PARTS", "Book", "Page"]

PARTS = {"tutorial": "Tutorial", "how-to": "How to", "reference": "Reference", "explanation": "Explanation", "": "More"}
_HEADING_OR_LINK = re.compile(r"^#{2,3} .*$|\]\([\w./-]+\.md\)", re.M)
_ELSEWHERE = re.compile(r"[a-z]+:|#")  # an address of another site, or one within the page


class Page:
    """``title`` is its first line, ``summary`` its first paragraph, without marks of Markdown. ``group`` is the index's heading above it."""

    def __init__(self, name: str, source: str, group: str = "") -> None:
        self.name = name
        self.source = source
        self.group = group
        first, _, rest = source.partition("\n")
        self.title = first.removeprefix("#").strip()
        self.summary = re.sub(r"[`*\[\]]|\]\([^)]*\)", "", " ".join(rest.strip().partition("\n\n")[0].split()))

    @property
    def part(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def root(self) -> str:
        """The way from the page's address up to the gateway's."""
        return "../" * (1 + self.name.count("/"))

    @cached_property
    def rendered(self) -> Rendered:
        from .markdown import render  # what it imports takes memory, which a gateway saves whose pages are not read

        return render(self.source, self.address_of)

    @property
    def sections(self) -> list[Section]:
        from .markdown import sections

        return sections(self.source)

    def address_of(self, link: str) -> str:
        """Where a link of the page leads in the site: ``../reference/http.md#errors`` to the page, another file to ``static/``."""
        if _ELSEWHERE.match(link):
            return link
        path, mark, anchor = link.partition("#")
        path = posixpath.normpath(posixpath.join("docs", self.part, path))
        path = path.removesuffix(".md").removesuffix("index") if path.endswith(".md") else f"static/{path}"
        return f"{self.root}{path}{mark}{anchor}"


class Book(Mapping[str, Page]):
    """The pages by their names, in their order. ``folder`` is read at once, and each page is rendered when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        files = {path.relative_to(folder).as_posix().removesuffix(".md"): path for path in sorted(folder.rglob("*.md"))}
        groups = _groups(files["index"].read_text("utf-8")) if "index" in files else {}
        order = list(groups)
        parts = list(PARTS)

        def rank(page: Page) -> tuple[bool, int, int, str]:
            part = parts.index(page.part) if page.part in PARTS else len(parts)
            return bool(page.name), part, order.index(page.name) if page.name in groups else len(order), page.name

        names = {"" if name == "index" else name: path for name, path in files.items()}
        pages = [Page(name, path.read_text("utf-8"), groups.get(name, "")) for name, path in names.items()]
        self._pages = {page.name: page for page in sorted(pages, key=rank)}

    def __getitem__(self, name: str) -> Page:
        return self._pages[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pages)

    def __len__(self) -> int:
        return len(self._pages)

    def beside(self, page: Page) -> tuple[Page | None, Page | None]:
        """The pages before and after it."""
        pages = list(self.values())
        at = pages.index(page)
        return (pages[at - 1] if at else None), (pages[at + 1] if at + 1 < len(pages) else None)


def _groups(index: str) -> dict[str, str]:
    """The pages that the index names, in its order, each with the heading of the third level above its first link, or ""."""
    groups: dict[str, str] = {}
    group = ""
    for found in _HEADING_OR_LINK.findall(index):
        if found.startswith("#"):
            group = found.removeprefix("###").strip() if found.startswith("###") else ""
        else:
            groups.setdefault(found.removeprefix("](").removesuffix(".md)"), group)
    return groups
