"""What clients and publishers name themselves and write, in every view of the console's page: it is text, and pushes nothing out of sight."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from gateway.store.layout import Layout, publish_words

from ..kit.console_pages import open_console, user_client
from ..kit.gateways import RunningGateway, shared_gateway
from ..kit.operators import WITH_CONSOLE, log_in
from ..kit.queue_functions import QueueFunctions
from ..kit.valkeys import OwnValkey

pytestmark = pytest.mark.slow

gateway = shared_gateway("events = true\nping_seconds = 3600\n" + WITH_CONSOLE, own=True)

MARKUP = "\"><img src=x onerror=window.ran=1><svg onload=window.ran=2>'</code><script>window.ran=3</script>javascript:window.ran=4"
TURNED = "\u202eevil\u202c\u200b\u2028"
FOUND = """() => ({
  ran: window.ran ?? 0,
  elements: document.querySelectorAll("img, iframe, script:not([src]), [onload], [onerror]").length,
  links: [...document.querySelectorAll("a")].map((a) => a.getAttribute("href") ?? "#"),
  wider: document.documentElement.scrollWidth - innerWidth,
  widest: Math.max(0, ...[...document.querySelectorAll("td:first-child")].map((cell) => cell.offsetWidth / innerWidth)),
})"""


def test_hostile_names_and_data_are_text_in_every_view(gateway: RunningGateway, own: OwnValkey, page: Page) -> None:
    channel, odd = f"posts:{MARKUP}", f"posts:#/%00../{TURNED}__proto__"
    deep = "[" * 90 + "]" * 90
    for data in ({"__proto__": MARKUP, "a": TURNED, "s": "\ud800"}, "x" * 300_000, deep):
        gateway.publish(channel, data, tags={MARKUP[:60]: MARKUP[:60]})
    gateway.publish(odd, MARKUP)
    gateway.api("notify", user=MARKUP, data={"id": "n1", "text": MARKUP, "url": "javascript:window.ran=5"})
    gateway.api("enqueue", queue="mail", name=MARKUP[:90], data={"to": MARKUP})
    mail = QueueFunctions(own, "mail", gateway.prefix)
    for id, token in mail.take("w").items():
        mail.work("fail", "w", id, token, MARKUP + TURNED + "\n" * 100, "")
    with user_client(gateway, MARKUP, channel, odd):
        operator = log_in(gateway)
        [client] = operator.call("connections", user=MARKUP)["connections"]
        [letter] = operator.call("queue", queue="mail", state="dead")["jobs"]
        names = {name: quote(value, safe="") for name, value in (("user", MARKUP), ("channel", channel), ("odd", odd))}
        places = """/ /connections /connections/{client} /channels /channels/{channel}?tail=on /channels/{odd}?tail=on /inboxes/{user} /queues
            /queues/mail?state=dead /queues/mail/{job} /permissions?user={user}&channel={channel} /why?user={user}&channel={channel}&offset=1
            /log /{user} /channels/{user} /queues/{user} /queues/mail/{user} /connections/{user} /channels/%E0%A4%A /__proto__ /constructor/x"""
        for place in places.format(client=client["client"], job=letter["id"], **names).split():
            open_console(page, gateway, f"#{place}")
            page.wait_for_timeout(300)
            found = page.evaluate(FOUND)
            assert (found["ran"], found["elements"]) == (0, 0), place
            assert all(re.match(r"#|\.\.?/|/", link) for link in found["links"]), place
            assert found["wider"] <= 0 and found["widest"] < 0.55, f"{place}: the other columns are out of sight"


def test_figures_and_lines_of_an_unknown_shape_stop_neither_charts_nor_log(gateway: RunningGateway, own: OwnValkey, page: Page) -> None:
    unknown = [
        None,
        5,
        [],
        {"kind": "figures"},
        {"kind": "figures", "node": {}, "ms": "x"},
        {"kind": "figures", "node": "n", "ms": None},
        {"kind": "log"},
    ]
    unknown += [
        {"kind": "log", "lines": lines}
        for lines in (None, [None, 5, {}], [{"seq": 1, "ms": 1e300, "level": "info"}, {"seq": 2, "ms": "x"}])
    ]

    def publish_unknown() -> None:
        for data in unknown:
            keys = Layout(gateway.prefix).keys("console:live")
            own.ask("FCALL", "gateway_publish", 3, *keys, *publish_words(json.dumps(data), size=300, ttl=300))

    publish_unknown()
    open_console(page, gateway, "#/log")
    publish_unknown()
    expect(page.get_by_role("log")).to_contain_text("logged in from")
    page.evaluate("location.hash = '#/'")
    expect(page.locator(".summary")).to_contain_text("1 process: ")
