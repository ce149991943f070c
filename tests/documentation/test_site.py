"""The documentation as a gateway serves it, over HTTP and in a real browser."""

from __future__ import annotations

import gzip
import http.client
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway import __version__
from gateway.documentation.book import Book
from gateway.documentation.frame import framed
from gateway.documentation.markdown import render, sections

from ..kit.browser import wait
from ..kit.gateways import RunningGateway, shared_gateway
from .pages import DOCS

if TYPE_CHECKING:
    from playwright.sync_api import Page

gateway = shared_gateway()

# What people ask → the page that answers, which is among the first three that are found.
QUESTIONS = {
    "how do I publish from Python?": "how-to/publish",
    "what does close code 3500 mean?": "reference/errors-and-close-codes",
    "my token expires, what happens": "reference/tokens",
    "show unread notifications": "how-to/inbox",
    "who is online in a room": "how-to/presence",
    "restart without losing connections": "how-to/ready-and-drain",
    "run two gateways behind a load balancer": "how-to/run-two",
    "allow another origin": "reference/settings",
    "prometheus alerts": "how-to/monitor",
    "retry failed jobs dead letter": "how-to/work-queues",
    "history_size": "reference/settings",
    "memory per connection": "explanation/scale",
    "only members of a chat can read it": "how-to/authenticate-my-users",
    "my user logs out: how do I end their connections": "how-to/authenticate-my-users",
    "logout": "how-to/authenticate-my-users",
    "kick a user": "how-to/authenticate-my-users",
    "cors": "how-to/authenticate-my-users",
    "publish from a cron job in bash": "how-to/publish",
    "delete message": "how-to/publish",
    "how do I send a web push to somebody who is away": "how-to/reach-users-who-are-away",
    "email": "how-to/reach-users-who-are-away",
    "what happens to messages when I restart Valkey at noon": "how-to/a-valkey-of-my-own",
    "put it behind nginx under /live/": "how-to/deploy",
    "subpath": "how-to/deploy",
    "docker": "how-to/deploy",
    "my page shows error 103": "reference/errors-and-close-codes",
    "how much memory do I need for 50,000 connections": "explanation/scale",
    "how big a server": "explanation/scale",
    "publish in the same transaction as my Django model": "how-to/outbox-in-django-and-sqlalchemy",
    "see why a job failed and run it again": "how-to/work-queues",
    "gdpr": "how-to/inbox",
    "rate limit": "reference/settings",
    "custom element": "reference/javascript",
    "health check": "how-to/ready-and-drain",
    "mark as read": "how-to/inbox",
    "scheduled job": "how-to/work-queues",
    "ios and android": "explanation/limits",
    "benchmark": "explanation/what-it-costs",
    "flutter": "explanation/limits",
    "react native": "explanation/limits",
    "windows": "explanation/limits",
    "permessage-deflate": "explanation/limits",
    "wildcard channel": "explanation/limits",
    "push notification to a phone": "how-to/reach-users-who-are-away",
    "address already in use": "reference/commands",
    "cors error": "how-to/find-what-is-wrong",
    "long polling": "how-to/follow-without-websocket",
    "csp": "how-to/the-page",
    "load older messages": "how-to/the-page",
    "direct message between two users": "how-to/authenticate-my-users",
    "send to one user": "how-to/inbox",
    "htmx": "how-to/the-inbox-on-a-page",
    "console password": "how-to/console",
    "let's encrypt": "how-to/deploy",
    "reset everything": "how-to/back-up-and-restore",
    "ably": "how-to/migrate-from-pusher",
}


# Over HTTP.


def test_a_page_is_html_of_this_version_with_the_security_policy_of_pages(gateway: RunningGateway) -> None:
    status, headers, body = _get(gateway, "/docs/reference/settings")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'self'" in headers["content-security-policy"] and headers["x-frame-options"] == "DENY"
    assert f"Version {__version__}" in body and "<h1" in body and '<a href="../../docs/reference/settings" aria-current="page">' in body


def test_a_page_that_is_not_there_is_said_in_words_and_shows_no_markup_of_its_address(gateway: RunningGateway) -> None:
    status, headers, body = _get(gateway, "/docs/how-to/%3Cscript%3E")
    assert (status, headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "There is no such page" in body and "&lt;script&gt;" in body and "<script>" not in body
    assert _get(gateway, "/docs/../README.md")[0] == 404


def test_a_long_address_gets_a_short_answer(gateway: RunningGateway) -> None:
    for name in ("/" * 20_000, "%22" * 900 + "a" * 20_000):
        status, _, body = _get(gateway, f"/docs/{name}")
        assert status == 404 and len(body) < 100


@pytest.mark.parametrize("path, place", [("/docs", "docs/"), ("/docs/reference/http.md", "http"), ("/docs/index.md", "./")])
def test_addresses_without_a_slash_and_of_files_lead_to_the_page(gateway: RunningGateway, path: str, place: str) -> None:
    status, headers, _ = _get(gateway, path)
    assert (status, headers["location"]) == (307, place)


def test_a_page_is_compressed_for_those_who_take_it_and_not_sent_again_unchanged(gateway: RunningGateway) -> None:
    _, _, plain = _get(gateway, "/docs/")
    status, headers, packed = _raw(gateway, "/docs/", {"accept-encoding": "gzip"})
    assert (status, headers["content-encoding"], gzip.decompress(packed).decode()) == (200, "gzip", plain)
    assert _raw(gateway, "/docs/", {"accept-encoding": "gzip", "if-none-match": headers["etag"]})[0] == 304
    assert _raw(gateway, "/docs/", {"if-none-match": headers["etag"]})[0] == 200, "the tag is of other bytes"


def test_the_search_looks_through_every_section_of_every_page(gateway: RunningGateway) -> None:
    rows = json.loads(_get(gateway, "/docs/search.json")[2])
    assert {row["page"] for row in rows} == set(Book(DOCS))
    assert all(row["heading"] and row["title"] for row in rows)
    assert any("XADD" in row["text"] for row in rows if row["page"] == "how-to/bridges")


# Markdown.


def test_anchors_are_those_of_github_and_doubled_headings_have_their_own() -> None:
    rendered = render("# Title\n\n## `[channels]` & more\n\n## Twice\n\n## Twice\n")
    assert [heading.anchor for heading in rendered.headings] == ["channels--more", "twice", "twice-1"]
    assert '<h2 id="twice-1">' in rendered.html


def test_words_by_which_readers_ask_are_of_their_section_and_not_shown() -> None:
    source = "# Title\n\nText.\n\n<!-- asked: begin -->\n\n## Log out\n\n<!-- asked: logout, kick -->\n\nMore.\n"
    assert [section.asked for section in sections(source)] == ["begin", "logout, kick"]
    assert "kick" not in render(source).html and [section.text for section in sections(source)] == ["Text.", "More."]


def test_pages_are_listed_in_the_groups_of_the_index(tmp_path: Path) -> None:
    (tmp_path / "how-to").mkdir()
    for name in "abc":
        (tmp_path / f"how-to/{name}.md").write_text(f"# Page {name}\n\nText.")
    (tmp_path / "index.md").write_text(
        "# All\n\n## How to\n\n### First\n\n[b](how-to/b.md)\n\n### Then\n\n[a](how-to/a.md)\n\n## More\n\n[c](how-to/c.md)"
    )
    book = Book(tmp_path)
    assert {page.name: page.group for page in book.values()} == {"": "", "how-to/b": "First", "how-to/a": "Then", "how-to/c": ""}
    pages = framed(book, book["how-to/a"]).partition("<nav")[2]
    assert pages.index("<h3>First</h3>") < pages.index("Page b") < pages.index("<h3>Then</h3>") < pages.index("Page a")


def test_html_in_a_page_is_left_out_and_code_is_escaped() -> None:
    html = render("# T\n\n<!-- run: x -->\n```html\n<script>alert(1)</script>\n```\n\n<script>alert(2)</script>\n\na <b>b</b>").html
    assert "<script" not in html and "<b>" not in html and "alert(2)" not in html and "<!--" not in html


def test_links_lead_to_pages_of_the_site_and_pictures_to_files(tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text("# All\n\n[b](how-to/b.md), [a](how-to/a.md)")
    (tmp_path / "how-to").mkdir()
    for name in "abc":
        (tmp_path / f"how-to/{name}.md").write_text(
            "# A page\n\n[i](../index.md) [b](b.md#x) [o](https://example.org) [h](#h) ![p](../../p.svg)"
        )
    book = Book(tmp_path)
    assert list(book) == ["", "how-to/b", "how-to/a", "how-to/c"], "in the index's order, then by name"
    for part in (
        'href="../../docs/"',
        'href="../../docs/how-to/b#x"',
        'href="https://example.org"',
        'href="#h"',
        'src="../../static/p.svg"',
    ):
        assert part in book["how-to/a"].rendered.html


# In a browser.


WIDER = """async (names) => {
  const wider = [];
  for (const name of names) {
    const page = new DOMParser().parseFromString(await (await fetch("../" + name)).text(), "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    if (document.documentElement.scrollWidth > innerWidth) wider.push(name);
  }
  return wider;
}"""


def test_every_page_fits_a_phone_and_its_script_runs(page: Page, gateway: RunningGateway) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.goto(f"{gateway.url}/docs/how-to/publish")
    assert not page.locator("#pages").is_visible()
    page.get_by_role("button", name="Pages").click()
    page.locator("#pages").get_by_role("link", name="Metrics", exact=True).click()
    page.wait_for_url("**/docs/reference/metrics")
    wait(page, "[...document.querySelectorAll('.table')].some((table) => table.scrollWidth > table.clientWidth && table.tabIndex === 0)")
    assert page.evaluate(WIDER, list(Book(DOCS))) == []
    assert complaints == []


def test_the_search_finds_the_pages_that_answer_ordinary_questions(page: Page, gateway: RunningGateway) -> None:
    page.goto(f"{gateway.url}/docs/how-to/inbox")
    script = """async (questions) => {
      const { search } = await import("../../static/docs_search.js");
      const sections = await (await fetch("../../docs/search.json")).json();
      return questions.map((question) => [...new Set(search(sections, question, 12).map(({ page }) => page))].slice(0, 3));
    }"""
    found = page.evaluate(script, list(QUESTIONS))
    missed = {question: pages for (question, wanted), pages in zip(QUESTIONS.items(), found, strict=True) if wanted not in pages}
    assert missed == {}


def test_the_search_works_by_keyboard(page: Page, gateway: RunningGateway) -> None:
    page.goto(f"{gateway.url}/docs/how-to/inbox")
    page.locator("#search").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("dead let")
    wait(page, "document.querySelectorAll('#found a').length > 1")
    assert page.locator("#search").get_attribute("aria-activedescendant") == "found-0"
    page.keyboard.press("ArrowDown")
    assert page.locator("#found-1").get_attribute("aria-selected") == "true"
    wanted = str(page.locator("#found-1").evaluate("(link) => link.href"))
    page.keyboard.press("Enter")
    page.wait_for_url(wanted)
    page.locator("#search").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("zzzzqq")
    wait(page, "document.querySelector('#found .none')")
    page.keyboard.press("Escape")
    assert not page.locator("#found").is_visible()


def test_code_is_copied_and_a_page_works_without_its_script(page: Page, gateway: RunningGateway) -> None:
    page.goto(f"{gateway.url}/docs/how-to/inbox")
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.locator(".copy").first.focus()
    page.keyboard.press("Enter")
    wait(page, "window.copied?.startsWith('gateway publish notifications:u1')")
    page.route("**/docs.js", lambda route: route.abort())
    page.goto(f"{gateway.url}/docs/how-to/inbox")
    assert not page.locator("#search").is_visible(), "what needs the script is not there without it"
    page.get_by_role("link", name="Next").click()
    page.wait_for_url("**/docs/how-to/presence")


def _get(gateway: RunningGateway, path: str) -> tuple[int, dict[str, str], str]:
    status, headers, body = _raw(gateway, path, {})
    return status, headers, body.decode()


def _raw(gateway: RunningGateway, path: str, headers: dict[str, str]) -> tuple[int, dict[str, Any], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body
