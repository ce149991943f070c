"""The HTML around a page of the documentation.

It works without its script, which adds the search and the buttons that copy code. All addresses in it are relative, so that a
gateway which is mounted under a path serves it as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import groupby

from .. import __version__
from .book import PARTS, Book, Page
from .markdown import Heading

__all__ = ["framed", "not_found"]

_DEEPEST = 3  # the level of the headings that the list "On this page" shows
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Ccircle cx='8' cy='8' r='5' fill='%230f8a5f'/%3E%3C/svg%3E"
)


def framed(book: Book, page: Page) -> str:
    """The whole HTML document of a page."""
    before, after = book.beside(page)
    article = f"<article>\n{page.rendered.html}</article>\n{_steps(page.root, before, after)}"
    return _document(book, page.root, page.title, page.summary, article, page.name, page.rendered.headings)


def not_found(book: Book, name: str) -> str:
    """The document of an address that is no page's."""
    root = "../" * (1 + name.count("/"))
    article = (
        f"<article><h1>There is no such page</h1>\n<p>This gateway, version {__version__}, has no page <code>{escape(name)}</code>. "
        f"Search for what you need with the field above, or begin at <a href='{root}docs/'>the first page</a>.</p></article>\n"
    )
    return _document(book, root, "There is no such page", "", article, None, ())


def _document(book: Book, root: str, title: str, summary: str, article: str, name: str | None, headings: Iterable[Heading]) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <meta name="description" content="{escape(summary)}">
  <title>{escape(title)} · gateway</title>
  <link rel="icon" href="{_ICON}">
  <link rel="stylesheet" href="{root}static/colours.css">
  <link rel="stylesheet" href="{root}static/docs.css">
  <script type="module" src="{root}static/docs.js"></script>
</head>
<body data-root="{root}">
  <a class="skip" href="#content">Skip to the text</a>
  <header>
    <a class="name" href="{root}docs/">gateway <span>docs</span></a>
    <div class="search" role="search" hidden>
      <input id="search" type="search" role="combobox" placeholder="Search" aria-label="Search the documentation" autocomplete="off"
        spellcheck="false" enterkeyhint="go" aria-expanded="false" aria-controls="found" aria-autocomplete="list">
      <kbd aria-hidden="true">/</kbd>
      <div id="found" role="listbox" aria-label="Pages found" hidden></div>
      <p id="found-count" class="unseen" role="status"></p>
    </div>
    <button type="button" class="menu" popovertarget="pages">Pages</button>
  </header>
  <nav id="pages" aria-label="Pages" popover>
{_parts(book, root, name)}    <p class="version">Version {__version__} · <a href="{root}">live page</a></p>
  </nav>
  <main id="content" tabindex="-1">
{article}  </main>
{_on_this_page(headings)}</body>
</html>
"""


def _parts(book: Book, root: str, current: str | None) -> str:
    parts = [f"    <ul>{_item(book[''], root, current)}</ul>\n"] if "" in book else []
    for part in dict.fromkeys([*PARTS, *(page.part for page in book.values())]):
        pages = [page for page in book.values() if page.part == part and page.name]
        if pages:
            parts.append(f"    <h2>{escape(PARTS.get(part, part))}</h2>\n")
        for group, members in groupby(pages, key=lambda page: page.group):
            heading = f"    <h3>{escape(group)}</h3>\n" if group else ""
            parts.append(f"{heading}    <ul>{''.join(_item(page, root, current) for page in members)}</ul>\n")
    return "".join(parts)


def _item(page: Page, root: str, current: str | None) -> str:
    mark = ' aria-current="page"' if page.name == current else ""
    return f'<li><a href="{root}docs/{page.name}"{mark}>{escape(page.title)}</a></li>'


def _on_this_page(headings: Iterable[Heading]) -> str:
    shown = [heading for heading in headings if heading.level <= _DEEPEST]
    if len(shown) < 2:
        return ""
    items = "".join(f'<li class="level-{each.level}"><a href="#{each.anchor}">{escape(each.text)}</a></li>' for each in shown)
    return f'  <nav class="contents" aria-labelledby="contents-title">\n    <h2 id="contents-title">On this page</h2>\n    <ul>{items}</ul>\n  </nav>\n'


def _steps(root: str, before: Page | None, after: Page | None) -> str:
    steps = [("prev", "Previous", before), ("next", "Next", after)]
    links = "".join(
        f'<a rel="{rel}" href="{root}docs/{page.name}"><span>{word}</span> {escape(page.title)}</a>' for rel, word, page in steps if page
    )
    return f'<nav class="steps" aria-label="Previous and next page">{links}</nav>\n'
