"""``<gateway-inbox>`` and ``<gateway-feed>`` on another server's page, whose content security policy lets nothing inline in; the hooks for
React, with React itself in its strict mode, which runs every effect twice.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from ..kit.accessibility import CORNERS, faults
from ..kit.browser import BLANK, BLOCKED_WEBSOCKET, wait
from ..kit.documentation import snippet
from ..kit.gateways import RunningGateway, Start
from ..kit.waiting import wait_until

SETTINGS = """
allowed_origins = ["http://localhost:*"]
[namespaces.posts]
history = "user"
publish = "user"
history_size = 5
[namespaces.room]
history = "user"
publish = "user"
join_leave = "asked"
"""
HOW_TO = "how-to/the-inbox-on-a-page.md"
ADD_STYLE = "(text) => { document.adoptedStyleSheets = [new CSSStyleSheet()]; document.adoptedStyleSheets[0].replaceSync(text); }"
POLICY = "default-src 'none'; img-src data:; script-src 'self' {0}; connect-src 'self' {0} {1}; require-trusted-types-for 'script'; base-uri 'none'"
HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>A page</title><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,"><script type="module" src="{0}/static/elements.js"></script><main><h1>A page</h1>"""


class Site(http.server.BaseHTTPRequestHandler):
    """The page's own server, which knows whose the token is: ``/ann/token`` is hers. The first token of ``late`` is over already."""

    gateway: RunningGateway
    page = ""
    of_late = 0  # tokens

    def do_GET(self) -> None:
        user = self.path.strip("/").partition("/")[0]
        is_token = self.path.endswith("/token")
        body = (self._token(user) if is_token else self.page).encode()
        self.send_response(200)
        self.send_header("cache-control", "max-age=600" if is_token else "no-store")
        self.send_header("content-type", "text/plain" if is_token else "text/html")
        self.send_header("content-security-policy", POLICY.format(self.gateway.url, self.gateway.url.replace("http", "ws")))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _token(self, user: str) -> str:
        if user == "late":
            Site.of_late += 1
        return self.gateway.token(user, seconds=-60) if user == "late" and self.of_late == 1 else self.gateway.token(user)

    def log_message(self, format: str, *_: object) -> None:
        """The tests' output is no place for it."""


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(SETTINGS)


Open = Callable[[Page, str, str], None]


@pytest.fixture(scope="module")
def open_page(gateway: RunningGateway) -> Iterator[Open]:
    """Opens a page of these elements as a user."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Site.gateway = gateway

    def open_page(page: Page, user: str, body: str) -> None:
        Site.page = HEAD.format(gateway.url) + body
        page.goto(f"http://localhost:{server.server_port}/{user}/page")

    yield open_page
    server.shutdown()
    server.server_close()


INBOX = '<gateway-inbox token-url="token"></gateway-inbox>'
FEED = '<gateway-feed channel="posts:{}" history="3" token-url="token"></gateway-feed>'


def bell(page: Page) -> Locator:
    return page.locator("gateway-inbox [part=bell]")


def notify(gateway: RunningGateway, user: str, id: str, **data: object) -> None:
    assert "result" in gateway.api("notify", user=user, data={"id": id, **data})


def focused(page: Page) -> str:
    """The part of the element's shadow that has the keyboard's focus."""
    return page.evaluate("document.activeElement.shadowRoot?.activeElement?.getAttribute('part') ?? ''")


def test_a_token_that_is_over_is_not_taken_from_the_browsers_cache_again(page: Page, gateway: RunningGateway, open_page: Open) -> None:
    open_page(page, "late", INBOX)
    notify(gateway, "late", "order-1", text="Your order is on its way")
    expect(bell(page)).to_have_accessible_name("Notifications, 1 unread")
    assert Site.of_late == 2


def test_a_bell_counts_lists_and_marks_as_read_by_the_keyboard_alone(
    page: Page, context: BrowserContext, gateway: RunningGateway, open_page: Open
) -> None:
    notify(gateway, "ann", "order-17", text="Your order is on its way", url="/orders/17")
    notify(gateway, "ann", "like-1", title="A like", text="<b>Ben</b> likes your post", url="javascript:alert(1)")
    other = context.new_page()
    for each in (other, page):
        open_page(each, "ann", INBOX)
        expect(bell(each)).to_have_accessible_name("Notifications, 2 unread")
    page.bring_to_front()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Notifications")).to_be_visible()
    rows = page.locator("gateway-inbox li")
    expect(rows).to_contain_text(["<b>Ben</b> likes your post", "Your order is on its way"])
    assert focused(page) == "heading"
    assert [rows.nth(n).locator("a").count() for n in (0, 1)] == [0, 1], "a link that would run a script is none"
    expect(rows.nth(1).locator("a")).to_have_attribute("href", re.compile("^http://localhost:.*/orders/17$"))

    for _ in range(4):  # all read, close, the first, and its mark
        page.keyboard.press("Tab")
    expect(rows.first.get_by_role("button", name="Mark as read: A like")).to_be_focused()
    page.keyboard.press("Enter")
    expect(bell(other)).to_have_accessible_name("Notifications, 1 unread")
    expect(rows.first.locator("[part=read]")).to_have_count(0)
    assert focused(page) == "open", "the focus is on the row whose mark is gone"
    notify(gateway, "ann", "like-1", title="Likes", text="Ben and Eva like your post")  # an update, which is unread again
    expect(rows).to_contain_text(["Ben and Eva", "Your order"])
    assert focused(page) == "open"
    page.get_by_role("button", name="Mark all read").click()
    for each in (page, other):
        expect(bell(each)).to_have_accessible_name("Notifications")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert focused(page) == "bell"
    other.close()


def test_a_notification_that_arrives_is_announced_and_one_that_is_chosen_is_an_event(
    page: Page, gateway: RunningGateway, open_page: Open
) -> None:
    open_page(page, "bob", '<gateway-inbox token-url="token" size="2"><p slot="empty">No news.</p></gateway-inbox>')
    page.evaluate("""() => {
        window.events = [];
        const inbox = document.querySelector("gateway-inbox");
        const note = (event) => events.push([event.type, event.detail.id ?? event.detail.data?.id ?? event.detail.unread]);
        for (const type of ["notification", "choose", "unread"]) inbox.addEventListener(type, note);
        inbox.addEventListener("choose", (event) => event.preventDefault());
    }""")
    bell(page).click()
    expect(page.get_by_text("No news.")).to_be_visible()
    for number in (1, 2, 3):
        notify(gateway, "bob", f"n{number}", text=f"number {number}", url="/elsewhere")
    expect(page.locator("gateway-inbox [role=status]")).to_have_text("3 new notifications")
    rows = page.locator("gateway-inbox li")
    expect(rows).to_contain_text(["number 3", "number 2"])
    page.get_by_role("button", name="Older").click()
    expect(rows).to_have_count(3)
    expect(rows.nth(2).locator("[part=open]")).to_be_focused()
    rows.nth(2).locator("[part=open]").click()
    expect(bell(page)).to_have_accessible_name("Notifications, 2 unread")
    expect(page.get_by_role("dialog")).to_be_visible()  # the page prevented what follows by default
    events = page.evaluate("events")
    assert [event for event in events if event[0] == "notification"] == [["notification", f"n{n}"] for n in (1, 2, 3)]
    assert ["choose", "n1"] in events and events[-1] == ["unread", 2]
    page.evaluate("document.querySelector('gateway-inbox').show('That post is gone.')")
    expect(page.get_by_role("alert")).to_have_text("That post is gone.")


def test_a_template_of_the_page_is_filled_with_text_and_safe_links(page: Page, gateway: RunningGateway, open_page: Open) -> None:
    template = """<template><h2 data-field="data.title"></h2> <a data-field="data.text" data-href="data.url"></a>
        <time data-field="data.at"></time> <em data-field="info.user"></em></template>"""
    open_page(page, "ann", f'<gateway-feed channel="posts:template" token-url="token">{template}</gateway-feed>')
    feed = page.locator("gateway-feed")
    expect(feed.get_by_text("Nothing yet.")).to_be_visible()
    gateway.publish("posts:template", {"title": "<i>One</i>", "text": "a link", "url": "javascript:alert(1)", "at": "2020-01-01T00:00:00Z"})
    expect(feed.get_by_role("heading")).to_have_text(["<i>One</i>"])  # what is drawn together is in the page the newest first
    page.evaluate("document.querySelector('gateway-feed').publish({ title: 'Two', text: 'mine', url: '/two' })")
    expect(feed.get_by_role("heading")).to_have_text(["<i>One</i>", "Two"])  # as they are in the page's own markup
    assert feed.locator("a").evaluate_all("links => links.map((link) => link.getAttribute('href'))")[0] is None
    expect(feed.locator("a").nth(1)).to_have_attribute("href", re.compile("/two$"))
    expect(feed.locator("time").first).to_have_text(re.compile("years? ago|yr. ago"))
    expect(feed.locator("time").nth(1)).to_be_hidden()
    expect(feed.locator("em").nth(1)).to_have_text("ann")
    expect(feed.locator("em").first).to_be_hidden()


NO_TIMES = ({"toString": 1, "valueOf": 1}, [[{"toString": None}]], {"__proto__": {"x": 1}}, 1e300, "\u0000", [], True)


def test_no_publication_or_notification_stops_an_element_from_showing_the_next(
    page: Page, gateway: RunningGateway, open_page: Open
) -> None:
    """Whatever a template takes for a time, and whatever is published where texts are expected."""
    feed = """<gateway-feed channel="posts:odd" token-url="token" limit="50"><template><p data-field="data.text"></p>
        <time data-field="data.at"></time><a data-href="data.url"></a></template></gateway-feed>"""
    open_page(page, "odd", feed + '<gateway-feed channel="posts:odd" token-url="token" limit="50"></gateway-feed>' + INBOX)
    expect(page.get_by_text("Nothing yet.").first).to_be_visible()
    bell(page).click()
    for number, odd in enumerate(NO_TIMES):
        gateway.publish("posts:odd", {"at": odd, "text": odd, "user": odd, "url": odd})
        gateway.publish("posts:odd", odd)
        notify(gateway, "odd", f"n{number}", text=odd, title=odd, url=odd)
    gateway.publish("posts:odd", {"text": "the last", "at": 0})
    notify(gateway, "odd", "last", text="the last")
    for element in ("gateway-feed >> nth=0", "gateway-feed >> nth=1", "gateway-inbox"):
        expect(page.locator(element)).to_contain_text("the last")
    expect(page.locator("gateway-inbox li")).to_have_count(len(NO_TIMES) + 1)
    assert page.evaluate("({}).x") is None


def test_an_element_shows_its_list_whatever_the_lang_and_the_function_of_its_page_are_and_leaves_nothing_behind(
    page: Page, gateway: RunningGateway, open_page: Open
) -> None:
    for id in ("n1", "n2"):
        notify(gateway, "lou", id, text=f"text of {id}")
    open_page(page, "lou", f'<div lang="en_US">{INBOX}</div>')
    page.evaluate("""() => {
        window.listening = new Set();
        const { addEventListener: add, removeEventListener: remove } = window;
        window.addEventListener = (type, act, ...more) => (listening.add(type), add.call(window, type, act, ...more));
        window.removeEventListener = (type, act, ...more) => (listening.delete(type), remove.call(window, type, act, ...more));
        add.call(window, "error", (event) => event.preventDefault());
        document.querySelector("gateway-inbox").draw = ({ id, data }) => (id === "n2" ? data.nothing.at(0) : "drawn");
    }""")
    bell(page).click()
    for text in ("text of n2", "drawn"):
        expect(page.get_by_text(text)).to_be_visible()
    assert page.evaluate("[...listening].sort()") == ["resize", "scroll"]
    page.evaluate("document.querySelector('gateway-inbox').remove()")  # with its panel open
    assert page.evaluate("[...listening]") == []


def test_a_feed_shows_history_then_what_arrives_what_was_caught_up_and_a_gap(page: Page, gateway: RunningGateway, open_page: Open) -> None:
    for number in range(4):
        gateway.publish("posts:feed", {"text": f"old {number}"})
    open_page(page, "ann", FEED.format("feed"))
    items, texts = page.locator("gateway-feed li"), page.locator("gateway-feed [part=text]")
    expect(texts).to_have_text(["old 3", "old 2", "old 1"])
    page.get_by_role("button", name="Older").click()
    expect(texts).to_have_text(["old 3", "old 2", "old 1", "old 0"])
    gateway.publish("posts:feed", {"user": "eva", "text": "live"})
    expect(items.first).to_have_text("eva live")
    expect(page.locator("gateway-feed [role=status]").last).to_have_text("eva: live")

    page.evaluate("document.querySelector('gateway-feed').gateway.disconnect()")
    gateway.publish("posts:feed", {"text": "missed"})
    page.evaluate("document.querySelector('gateway-feed').gateway.connect()")
    expect(items.first).to_contain_text("missed")
    expect(page.locator("gateway-feed [part=badge]")).to_have_text(["caught up"])
    page.evaluate("document.querySelector('gateway-feed').gateway.disconnect()")
    for number in range(8):  # history holds 5
        gateway.publish("posts:feed", {"text": f"new {number}"})
    page.evaluate("document.querySelector('gateway-feed').gateway.connect()")
    expect(texts).to_have_text(["new 7", "new 6", "new 5"])
    expect(page.locator("gateway-feed [part=state]")).to_contain_text("history no longer holds them")
    page.evaluate("document.querySelector('gateway-feed').setAttribute('order', 'oldest-first')")
    expect(texts).to_have_text(["new 5", "new 6", "new 7"])


def test_elements_of_the_same_attributes_share_a_connection_that_ends_with_the_last(
    page: Page, gateway: RunningGateway, open_page: Open
) -> None:
    open_page(page, "eva", INBOX + FEED.format("shared"))
    feed, inbox = (f"document.querySelector('gateway-{name}')" for name in ("feed", "inbox"))
    wait(page, f"{feed}.gateway?.state === 'connected' && {feed}.gateway === {inbox}.gateway")
    page.evaluate(f"window.gateway = {feed}.gateway, document.querySelector('main').prepend({feed})")
    gateway.publish("posts:shared", {"text": "after it was moved"})
    expect(page.locator("gateway-feed li")).to_have_text(["after it was moved"])
    page.evaluate(f"{feed}.remove()")
    assert page.evaluate("gateway.state") == "connected"
    page.evaluate(f"{inbox}.remove()")
    wait(page, "gateway.state === 'closed'")


def test_an_element_that_is_moved_goes_on_as_it_was(page: Page, gateway: RunningGateway, open_page: Open) -> None:
    notify(gateway, "moe", "n1", text="hello")
    feed = '<gateway-feed channel="posts:moved" order="oldest-first" token-url="token"></gateway-feed>'
    open_page(page, "moe", f'<div id="there"></div>{feed}{INBOX}')
    expect(page.get_by_text("Nothing yet.").first).to_be_visible()
    gateway.publish("posts:moved", {"text": "before"})
    expect(page.locator("gateway-feed li")).to_have_text(["before"])
    bell(page).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.evaluate("document.querySelector('#there').append(...document.querySelectorAll('gateway-feed, gateway-inbox'))")
    expect(bell(page)).to_have_attribute("aria-expanded", "false")  # a panel that is moved closes
    gateway.publish("posts:moved", {"text": "after"})
    expect(page.locator("gateway-feed li")).to_have_text(["before", "after"])
    bell(page).click()
    expect(page.get_by_role("dialog").locator("li")).to_have_count(1)


def test_a_time_that_is_none_remains_as_it_is(page: Page, gateway: RunningGateway, open_page: Open) -> None:
    page.clock.install()
    template = '<template><p data-field="data.text"></p><time data-field="data.at"></time></template>'
    open_page(page, "ann", f'<gateway-feed channel="posts:times" token-url="token">{template}</gateway-feed>')
    expect(page.get_by_text("Nothing yet.")).to_be_visible()
    gateway.publish("posts:times", {"text": "a party", "at": "next Tuesday"})
    expect(page.locator("gateway-feed time")).to_have_text("next Tuesday")
    page.clock.fast_forward(25_000)  # times are shown anew
    assert page.locator("gateway-feed time").text_content() == "next Tuesday"


ROOM_BESIDE = """() => {
  const root = document.querySelector("gateway-inbox").shadowRoot;
  const words = document.createRange();
  words.selectNodeContents(root.querySelector("[part=title]"));
  return root.querySelector("li").getBoundingClientRect().right - words.getBoundingClientRect().right;
}"""


def test_on_a_page_from_right_to_left_a_notification_begins_at_the_right(page: Page, gateway: RunningGateway, open_page: Open) -> None:
    notify(gateway, "sam", "n1", title="إشعار جديد", text="مرحبا")
    open_page(page, "sam", '<gateway-inbox inline token-url="token"></gateway-inbox>')
    page.evaluate("document.documentElement.dir = 'rtl'")
    page.locator("gateway-inbox [part=read]").click()
    expect(page.locator("gateway-inbox [part=read]")).to_have_count(0)
    assert page.evaluate(ROOM_BESIDE) < 20


def test_an_inbox_whose_user_is_known_arrives_over_event_streams_too(page: Page, gateway: RunningGateway, open_page: Open) -> None:
    page.add_init_script(BLOCKED_WEBSOCKET)
    open_page(page, "zoe", '<gateway-inbox token-url="token" user="zoe"></gateway-inbox>' + FEED.format("stream"))
    gateway.publish("posts:stream", {"text": "over a stream"})
    notify(gateway, "zoe", "n1", text="over a stream")
    expect(bell(page)).to_have_accessible_name("Notifications, 1 unread")
    bell(page).click()
    expect(page.locator("gateway-inbox li")).to_contain_text(["over a stream"])
    expect(page.locator("gateway-feed li")).to_have_text(["over a stream"])


def test_axe_finds_nothing_on_either_element(page: Page, gateway: RunningGateway, open_page: Open, axe: str) -> None:
    notify(gateway, "max", "n1", text="unread", url="/n1")
    notify(gateway, "max", "n2", text="read")
    for number in range(5):
        gateway.publish("posts:axe", {"user": "ann", "text": f"number {number}"})
    refused = '<gateway-feed channel="posts:#of-somebody-else" token-url="token"></gateway-feed>'
    inline = '<gateway-inbox inline label="All of them" token-url="token"></gateway-inbox>'
    open_page(page, "max", INBOX + FEED.format("axe") + refused + inline)
    expect(page.locator("gateway-inbox[inline] li")).to_have_count(2)
    page.locator("gateway-inbox[inline] [part=read]").first.click()
    expect(page.locator("gateway-feed").nth(1)).to_contain_text("refused")
    expect(page.locator("gateway-feed li")).to_have_count(3)
    page.evaluate("document.querySelector('gateway-feed').gateway.disconnect()")
    gateway.publish("posts:axe", {"text": "caught up"})
    page.evaluate("document.querySelector('gateway-feed').gateway.connect()")
    expect(page.locator("gateway-feed [part=badge]")).to_be_visible()
    page.set_viewport_size({"width": 360, "height": 800})
    bell(page).click()
    expect(page.get_by_role("dialog").locator("li")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.evaluate("document.body.style.background = 'Canvas'")  # axe takes a page without a ground for white, in the dark too
    assert faults(page, axe, CORNERS) == []


def test_the_snippets_of_the_page_about_them_work_as_they_are_written(page: Page, gateway: RunningGateway, open_page: Open) -> None:
    gateway.publish("posts:tech", {"user": "ann", "text": "Hello!", "url": "/hello"})
    notify(gateway, "ivy", "n1", text="Welcome")
    names = ("inbox-on-a-page", "inbox-template", "inbox-script")
    elements, template, script = (snippet(HOW_TO, name).replace("http://localhost:8000", gateway.url) for name in names)
    open_page(page, "ivy", elements.replace("/my-token", "token") + template.replace("/my-token", "token"))
    expect(page.locator("gateway-feed").first.locator("li")).to_have_text(["ann Hello!"])
    expect(page.get_by_role("heading", name="News")).to_be_visible()
    expect(page.locator("gateway-feed").last.locator("a")).to_have_attribute("href", re.compile("/hello$"))
    expect(bell(page)).to_have_accessible_name("Notifications, 1 unread")
    page.evaluate(ADD_STYLE, snippet(HOW_TO, "inbox-styles"))
    expect(page.locator("gateway-inbox [part=count]")).to_have_css("font-size", "13px")
    page.evaluate(
        ADD_STYLE, ":root { --card: rgb(1, 2, 3) } gateway-inbox { --gateway-card: var(--card) }"
    )  # whatever a page calls its own
    expect(page.locator("gateway-inbox [part=panel]")).to_have_css("background-color", "rgb(1, 2, 3)")
    body = re.sub(r"^import (.*?) from (.*);$", r"const \1 = await import(\2);", script.replace("/my-token", "token"), flags=re.MULTILINE)
    page.evaluate("async () => {" + re.sub(r'^import (".*");$', r"await import(\1);", body, flags=re.MULTILINE) + "}")
    expect(bell(page)).to_have_accessible_name("Mitteilungen, 1 ungelesen")
    expect(page).to_have_title("(1) My page")


# Hooks for React.

REACT = ("react/cjs/react", "scheduler/cjs/scheduler", "react-dom/cjs/react-dom", "react-dom/cjs/react-dom-client")

ROOM = """async ({ url, token }) => {
  const { Gateway } = await import(url + "/static/gateway.js");
  const { hooks } = await import(url + "/static/react.js");
  const { createElement: h, StrictMode, useState } = window.React;
  const { GatewayProvider, useChannel, useInbox, usePresence } = hooks(window.React);
  window.gateway = new Gateway({ token, backoffMs: 50 });
  window.received = [];

  function Room({ channel }) {
    const { publications, state, publish, gaps, older, more } = useChannel(channel, {
      history: 2, joinLeave: true, onPublication: ({ data }) => received.push(data.n),
    });
    const { users } = usePresence(channel);
    window.room = { publish, older, more };
    const items = publications.map(({ key, data, recovered }) => h("li", { key, className: recovered ? "recovered" : "" }, data.n));
    return h("section", null, h("p", { id: "room" }, `${state}, ${gaps} gaps, ${users.join(" and ")}`), h("ol", null, ...items));
  }

  function Bell() {
    const { unread, notifications, read } = useInbox();
    const rows = (notifications ?? []).map(({ id, data, unread }) => h("dd", { key: id }, `${data.text}${unread ? ", unread" : ""}`));
    return h("div", null, h("button", { onClick: () => read({ all: true }) }, `${unread} unread`), h("dl", null, h("dt", null, "Inbox"), ...rows));
  }

  function Page() {
    const [channel, choose] = useState(null);
    window.choose = choose;
    return h(GatewayProvider, { gateway }, h(Room, { channel }), h(Bell));
  }

  window.root = window.ReactDOM.createRoot(document.body);
  root.render(h(StrictMode, null, h(Page)));
}"""


def load_react(page: Page, modules: Path) -> None:
    """React of npm, which is not written for browsers: its files are functions that get ``require``."""
    page.evaluate("""() => {
        window.process = { env: { NODE_ENV: "development" } };
        window.modules = {};
        window.define = (name, make) => { const module = { exports: {} }; make(module, module.exports, (of) => modules[of]); modules[name] = module.exports; };
    }""")
    for file in REACT:
        name = file.rpartition("/")[2].replace("-client", "/client")
        text = (modules / f"{file}.development.js").read_text()
        page.evaluate(f"define({json.dumps(name)}, (module, exports, require) => {{ {text} }})")
    page.evaluate("() => { window.React = modules.react; window.ReactDOM = modules['react-dom/client']; }")


def test_components_of_react_show_a_channel_who_is_there_and_the_inbox(page: Page, gateway: RunningGateway, npm: Future[Path]) -> None:
    for number in (1, 2, 3):
        gateway.publish("room:1", {"n": number})
    notify(gateway, "kim", "n1", text="hello")
    page.goto(gateway.url + BLANK)
    load_react(page, npm.result() / "node_modules")
    page.evaluate(ROOM, {"url": gateway.url, "token": gateway.token("kim")})
    expect(page.locator("#room")).to_have_text("waiting, 0 gaps, ")  # it has no channel yet
    expect(page.locator("dd")).to_have_text(["hello, unread"])
    page.evaluate("choose('room:1')")
    expect(page.locator("#room")).to_have_text("live, 0 gaps, kim")
    expect(page.locator("li")).to_have_text(["2", "3"])
    page.evaluate("room.publish({ n: 4 })")
    expect(page.locator("li")).to_have_text(["2", "3", "4"])
    page.evaluate("room.older()")
    expect(page.locator("li")).to_have_text(["1", "2", "3", "4"])

    page.evaluate("gateway.disconnect()")
    gateway.publish("room:1", {"n": 5})
    page.evaluate("gateway.connect()")
    expect(page.locator("li.recovered")).to_have_text(["5"])
    expect(page.locator("#room")).to_have_text("live, 0 gaps, kim")
    page.get_by_role("button", name="1 unread").click()
    expect(page.get_by_role("button")).to_have_text("0 unread")
    expect(page.locator("dd")).to_have_text(["hello"])

    page.evaluate("choose('room:2')")
    expect(page.locator("li")).to_have_count(0)
    expect(page.locator("#room")).to_have_text("live, 0 gaps, kim")
    gateway.publish("room:1", {"n": 6})  # which is followed no longer
    gateway.publish("room:2", {"n": 7})
    expect(page.locator("li")).to_have_text(["7"])
    assert page.evaluate("received") == [4, 5, 7]
    page.evaluate("root.unmount()")
    wait_until(lambda: gateway.api("presence", channel="room:2")["result"]["presence"] == {}, "a page without components follows nothing")
