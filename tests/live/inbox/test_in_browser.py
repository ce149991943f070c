"""The inbox of gateway.js, in a real browser: its pages count together, over sockets and over event streams."""

from __future__ import annotations

import json
from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, WebSocketRoute

from ...kit.browser import BLANK, BLOCKED_WEBSOCKET, cut, failure, restore, wait
from ...kit.gateways import RunningGateway
from ...kit.inboxes import marks
from ...kit.waiting import wait_until

OPEN = """async ({ url, token }) => {
  const { Gateway } = await import(url + "/static/gateway.js");
  window.counts = [];
  window.gateway = new Gateway({ token, backoffMs: 50 });
  gateway.on("unread", (event) => counts.push(event));
  return gateway.inbox.unread;
}"""


def open_inbox(page: Page, gateway: RunningGateway, user: str) -> None:
    page.goto(gateway.url + BLANK)
    assert page.evaluate(OPEN, {"url": gateway.url, "token": gateway.token(user)}) is None, "not known yet"


def counts(page: Page, unread: int) -> None:
    wait(page, f"gateway.inbox.unread === {unread}")


def wait_for(page: Page, condition: Callable[[], bool]) -> None:
    """What Playwright notices, it notices while it is asked something."""
    wait_until(lambda: (page.evaluate("0"), condition())[1], "the page's line got there")


def test_the_pages_of_a_user_count_together(page: Page, context: BrowserContext, gateway: RunningGateway, user: str) -> None:
    epoch = gateway.api("notify", user=user, data={"id": "a"})["result"]["epoch"]
    open_inbox(page, gateway, user)
    other = context.new_page()
    open_inbox(other, gateway, user)
    for each in (page, other):
        counts(each, 1)
    for id in ("b", "c", "b"):
        gateway.api("notify", user=user, data={"id": id})
    for each in (page, other):
        wait(each, "counts.length === 4")
        assert each.evaluate("counts.map(({ unread }) => unread)") == [1, 2, 3, 3]
    page.evaluate("gateway.inbox.read({ ids: ['a'] })")
    counts(other, 2)
    assert other.evaluate("counts.at(-1)") == {"unread": 2, "read": ["a"], "upto": None}
    other.evaluate(f"gateway.inbox.read({{ upto: '{epoch}:3' }})")
    counts(page, 1)
    assert page.evaluate("counts.at(-1)") == {"unread": 1, "read": None, "upto": 3}
    cut(page)
    assert page.evaluate("gateway.inbox.unread") == 1
    gateway.api("notify", user=user, data={"id": "missed"})
    other.evaluate("gateway.inbox.read({ ids: ['b'] })")
    gateway.api("notify", user=user, data={"id": "missed too"})
    restore(page)
    for each in (page, other):
        counts(each, 2)
    page.evaluate("gateway.inbox.read({ all: true })")
    counts(other, 0)
    other.close()


def test_a_page_lists_page_by_page_and_knows_the_count_by_itself(page: Page, gateway: RunningGateway, user: str) -> None:
    for number in range(5):
        gateway.api("notify", user=user, data={"id": f"n{number}", "text": "…"})
    open_inbox(page, gateway, user)
    pages = page.evaluate(
        """async () => {
          const pages = [];
          let before;
          do pages.push(await gateway.inbox.list({ limit: 2, before }));
          while ((before = pages.at(-1).next));
          return pages;
        }"""
    )
    assert [list(marks(each)) for each in pages] == [["n4", "n3"], ["n2", "n1"], ["n0"]]
    assert pages[2]["notifications"][0]["data"] == {"id": "n0", "text": "…"}
    assert page.evaluate("counts.map(({ unread }) => unread)") == [5], "one state, however often it is announced"
    assert failure(page, "gateway.inbox.list({ before: 'another:1' })")["code"] == 112
    assert failure(page, "gateway.inbox.read()")["code"] == 107
    assert page.evaluate("gateway.inbox.unread") == 5


class LateAnswers:
    """Between a page and its gateway: the first answers to inbox.list wait until they are let."""

    def __init__(self, page: Page, *, instead: str = "") -> None:
        self.late: list[str] = []
        self._holds = True
        self._instead = instead
        page.route_web_socket("**/connection/websocket", self._connect)

    def _connect(self, socket: WebSocketRoute) -> None:
        self._socket = socket
        socket.connect_to_server().on_message(self._pass)

    def _pass(self, message: str | bytes) -> None:
        if not (self._holds and '"rpc":' in str(message)):
            self._socket.send(message)
        elif self._instead:
            self._holds = False
            self._socket.send(f'{{"id":{json.loads(message)["id"]},{self._instead}}}')
        else:
            self.late.append(str(message))

    def let(self) -> None:
        self._holds = False
        for message in self.late:
            self._socket.send(message)


def test_a_late_answer_does_not_bring_back_an_older_count(page: Page, gateway: RunningGateway, user: str) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    answers = LateAnswers(page)
    open_inbox(page, gateway, user)
    page.evaluate("void (window.listed = gateway.inbox.list())")
    wait_for(page, lambda: len(answers.late) == 2)
    gateway.api("notify", user=user, data={"id": "b"})
    counts(page, 2)
    answers.let()
    assert page.evaluate("listed.then(({ unread }) => unread)") == 1, "the answer is of its own moment"
    assert page.evaluate("counts.map(({ unread }) => unread)") == [2]


def test_a_page_asks_again_for_its_count_after_a_temporary_error(page: Page, gateway: RunningGateway, user: str) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    LateAnswers(page, instead='"error":{"code":100,"message":"internal server error","temporary":true}')
    open_inbox(page, gateway, user)
    page.wait_for_function("() => gateway.inbox.unread === 1")


def test_the_inbox_works_where_only_event_streams_get_through(page: Page, gateway: RunningGateway, user: str) -> None:
    epoch = gateway.api("notify", user=user, data={"id": "a"})["result"]["epoch"]
    gateway.api("notify", user=user, data={"id": "b"})
    page.add_init_script(BLOCKED_WEBSOCKET)
    open_inbox(page, gateway, user)
    page.evaluate(f"void gateway.subscribe('notifications:{user}')")
    counts(page, 2)
    assert page.evaluate("gateway.transport") == "sse"
    page.evaluate("gateway.inbox.read({ ids: ['a'] })")
    counts(page, 1)
    gateway.api("notify", user=user, data={"id": "c"})
    counts(page, 2)
    assert list(marks(page.evaluate(f"gateway.inbox.list({{ limit: 2, before: '{epoch}:3' }})"))) == ["b", "a"]
    assert failure(page, "gateway.inbox.list({ before: 'another:1' })")["code"] == 112
    assert failure(page, "gateway.inbox.read()")["code"] == 107
