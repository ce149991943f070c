"""Every page has its form, its links lead somewhere, and each piece of code in it is run by a test or says why not."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.documentation.book import PARTS, Book
from gateway.documentation.markdown import render

from .pages import DOCS, PAGES, TOP, fences

NAMES = [path.relative_to(TOP).as_posix() for path in PAGES]
RUNNERS = [path.read_text() for path in (TOP / "tests").rglob("test_*.py")]
TESTS = "".join(text for text in RUNNERS if re.search(r"\bsnippets?\(", text))


@cache
def anchors(path: Path) -> set[str]:
    return {heading.anchor for heading in render(path.read_text()).headings}


def links(path: Path) -> list[str]:
    found: list[str] = []
    render(path.read_text(), lambda link: found.append(link) or link)  # type: ignore[func-returns-value]  # it is asked of each link
    return found


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_a_page_and_a_heading_that_are_there(name: str) -> None:
    path = TOP / name
    broken = []
    for link in links(path):
        if re.match("[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        reachable = file.exists() and (path.parent == TOP or file.is_relative_to(TOP / "static"))
        if not reachable or (anchor and file.suffix == ".md" and (file not in PAGES or anchor not in anchors(file))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_each_piece_of_code_is_run_by_a_test_or_says_why_not(name: str) -> None:
    for fence in fences(TOP / name):
        assert fence.kind, f"{fence}: put `run: NAME` or `shown: REASON` in a comment before it"
        if fence.kind == "run" and fence.mark != "test":
            assert re.search(rf"""["']{re.escape(fence.mark)}["']""", TESTS), f"{fence}: no test runs {fence.mark!r}"


@pytest.mark.parametrize("path", [path for path in PAGES if path.is_relative_to(DOCS)], ids=lambda path: path.relative_to(DOCS).as_posix())
def test_a_page_begins_with_its_title_and_with_what_it_gives(path: Path) -> None:
    text = path.read_text()
    assert re.match(r"# [A-Z].*\n\n[A-Z`].*\.\n", text), "a title, an empty line, and a sentence on one line"
    levels = [1, *(heading.level for heading in render(text).headings)]
    assert all(after <= before + 1 for before, after in pairwise(levels)), "no level of headings is left out"
    assert not re.search(r"<(?!!--|http)[a-z]+[ >]", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)), (
        "HTML, which is left out of the pages"
    )


def test_every_page_is_on_the_index_and_in_a_part_that_has_a_name() -> None:
    book = Book(DOCS)
    index = (DOCS / "index.md").read_text()
    assert [name for name in book if name and f"({name}.md)" not in index] == []
    assert {page.part for page in book.values()} <= PARTS.keys()
    assert len({page.title for page in book.values()}) == len(book)


def test_readme_is_short_and_leads_to_the_documentation() -> None:
    readme = (TOP / "README.md").read_text()
    assert len(readme.splitlines()) <= 130
    assert "(static/docs/index.md)" in readme


def test_pages_that_the_code_names_as_its_source_are_there() -> None:
    files = [*(TOP / "gateway").rglob("*.py"), *(TOP / "publishers").rglob("*.py"), *(TOP / "tests").rglob("*.py")]
    named = {name for file in files for name in re.findall(r"\bdocs/(\w[\w-]*/[\w-]+)\.md", file.read_text())}
    assert len(named) >= 6
    assert [name for name in sorted(named) if not (DOCS / f"{name}.md").is_file()] == []
