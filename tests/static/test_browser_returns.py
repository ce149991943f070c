"""A page that a real browser sets aside and takes up again: a tab that it froze, and a network that was gone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from ..kit.browser import follow, numbers, seen, wait
from ..kit.gateways import RunningGateway, Start
from ..kit.waiting import wait_until

SETTINGS = """
ping_seconds = 1
pong_seconds = 0.9
[namespaces.long]
history_size = 2000
"""


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(SETTINGS)


def followers(gateway: RunningGateway, channel: str) -> int:
    return gateway.api("channels", pattern=channel)["result"]["channels"].get(channel, {}).get("num_clients", 0)


def test_a_tab_that_was_frozen_until_the_gateway_gave_it_up_has_everything_once_when_it_wakes(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, "long:frozen")
    gateway.publish("long:frozen", 0)
    seen(page, 1)
    tab = page.context.new_cdp_session(page)
    tab.send("Debugger.enable")
    tab.send("Debugger.pause")  # of the page's script and timers; its socket goes on
    gateway.publish("long:frozen", 1)  # waits in the browser
    wait_until(lambda: not followers(gateway, "long:frozen"), "the frozen tab's connection is over")
    gateway.publish("long:frozen", 2)
    tab.send("Debugger.resume")
    assert numbers(seen(page, 3)) == [0, 1, 2]
    wait(page, "subscriptions[0].state === 'live'")


def test_a_page_whose_network_comes_back_does_not_wait_for_its_backoff(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, "long:offline", backoffMs=10**9, longestBackoffMs=10**9)
    page.context.set_offline(True)
    page.evaluate("gateway.disconnect(); gateway.connect()")
    wait(page, "gateway.state === 'waiting'")
    gateway.publish("long:offline", "meanwhile")
    page.context.set_offline(False)
    assert numbers(seen(page, 1)) == ["meanwhile"]
