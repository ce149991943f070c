"""One page's Markdown as HTML.

It is CommonMark with tables. Comments are left out, and so is every other piece of HTML: a page that needs one would look
different on GitHub. Anchors of headings are made as GitHub makes them, so that a link works in both places.

A comment ``<!-- asked: log out, kick -->`` after a heading holds words by which readers ask for what the section answers, and which
its text does not use. Readers do not see them; the search finds the section by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

__all__ = ["Heading", "Rendered", "Section", "render", "sections"]

_ASKED = re.compile(r"<!-- asked: (.+?) -->")
_NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")
_LANGUAGES = {"console": "bash", "": "text"}  # no prompt is shown in a console here, so its lines are those of a shell
_WRAPPED = {"console", "bash", "sh", "http", "text", ""}  # lines that may be long, and mean the same where they are wrapped
_COLUMNS = re.compile(r"\S {3,}\S")  # text in columns, which wrapping would break
_FORMATTER: HtmlFormatter[str] = HtmlFormatter(nowrap=True, classprefix="k-")


class Heading(NamedTuple):
    """``level`` is 2 for ``h2``, and so on; ``anchor`` is the id that links name."""

    level: int
    text: str
    anchor: str


class Section(NamedTuple):
    """A heading and what follows it up to the next one. The first section of a page has the page's title, and no anchor."""

    heading: str
    anchor: str
    terms: str  # what its tables explain, which is in their first column
    asked: str  # other words by which readers ask for it
    text: str


class Rendered(NamedTuple):
    """A page of Markdown as HTML, in the order of its headings."""

    html: str
    headings: tuple[Heading, ...]  # without the title


def render(source: str, rewrite: Callable[[str], str] = lambda link: link) -> Rendered:
    """``rewrite`` gives each link's and each picture's address its place in the site."""
    tokens = _PARSER.parse(source)
    headings = tuple(_anchored(tokens))
    for token in _links(tokens):
        name = "href" if token.type == "link_open" else "src"
        token.attrSet(name, rewrite(str(token.attrGet(name))))
    return Rendered(_PARSER.renderer.render(tokens, _PARSER.options, {}), headings[1:])


def sections(source: str) -> list[Section]:
    """What the search looks through. It costs a tenth of ``render``."""
    tokens = _PARSER.parse(source)
    list(_anchored(tokens))
    return list(_sections(tokens))


def _anchored(tokens: Sequence[Token]) -> Iterator[Heading]:
    """The headings, each of which is given its anchor."""
    seen: dict[str, int] = {}
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            text = _text(tokens[at + 1])
            anchor = _NOT_IN_ANCHORS.sub("", text.lower()).replace(" ", "-")
            seen[anchor] = seen.get(anchor, -1) + 1
            if seen[anchor]:
                anchor = f"{anchor}-{seen[anchor]}"
            token.attrSet("id", anchor)
            yield Heading(int(token.tag[1]), text, anchor)


def _links(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield from (child for child in token.children or () if child.type in ("link_open", "image"))


def _text(inline: Token) -> str:
    """What a reader sees of a line of text, without its marks."""
    parts = (
        " " if child.type in ("softbreak", "hardbreak") else child.content for child in inline.children or () if child.type != "html_inline"
    )
    return "".join(parts)


def _sections(tokens: Sequence[Token]) -> Iterator[Section]:
    heading, anchor, terms, asked, texts = "", "", list[str](), list[str](), list[str]()
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            if heading:
                yield Section(heading, anchor, " ".join(terms), " ".join(asked), " ".join(texts))
            anchor = str(token.attrGet("id")) if heading else ""
            heading, terms, asked, texts = _text(tokens[at + 1]), [], [], []
        elif token.type == "html_block":
            asked += _ASKED.findall(token.content)
        elif token.type == "fence":
            texts.append(token.content)
        elif token.type == "inline" and tokens[at - 1].type != "heading_open":
            texts.append(_text(token))
            if tokens[at - 1].type == "td_open" and tokens[at - 2].type == "tr_open":
                terms.append(_text(token))
    yield Section(heading, anchor, " ".join(terms), " ".join(asked), " ".join(texts))


# How some of the tokens are written.


def _fence(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    language = tokens[at].info.strip()
    try:
        lexer = get_lexer_by_name(_LANGUAGES.get(language, language), stripnl=False)
    except ClassNotFound:
        lexer = get_lexer_by_name("text")
    wraps = " wraps" if language in _WRAPPED and not _COLUMNS.search(tokens[at].content) else ""
    return f'<div class="code{wraps}"><pre><code>{highlight(tokens[at].content, lexer, _FORMATTER)}</code></pre></div>\n'


def _heading_close(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    opened, inline = tokens[at - 2], tokens[at - 1]
    if opened.tag == "h1":
        return "</h1>\n"
    label = escape(f"Link to “{_text(inline)}”")
    return f' <a class="anchor" href="#{opened.attrGet("id")}" aria-label="{label}">#</a></{opened.tag}>\n'


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable("table")
    parser.add_render_rule("fence", _fence)
    parser.add_render_rule("heading_close", _heading_close)
    parser.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    parser.add_render_rule("html_block", lambda *_: "")
    parser.add_render_rule("html_inline", lambda *_: "")
    return parser


_PARSER = _parser()
