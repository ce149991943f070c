"""The console's page in a browser.

open_console   logs in with a key, and waits until the page is live
user_client    a client of the gateway with a user, in channels, while a block lasts
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from websockets.sync.client import ClientConnection, connect

from .clients import lines
from .gateways import RunningGateway
from .operators import WRITE_KEY

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["enter_key", "open_console", "user_client"]


def open_console(page: Page, gateway: RunningGateway, place: str = "#/", key: str = WRITE_KEY) -> None:
    """A tab that is logged in already shows the place as it is."""
    from playwright.sync_api import expect

    page.goto(f"{gateway.url}/admin/{place}")
    expect(page.locator("#key, #console").locator("visible=true")).to_have_count(1)
    if page.locator("#key").is_visible():
        enter_key(page, key)
    expect(page.locator("#state")).to_have_text("live")


def enter_key(page: Page, key: str) -> None:
    page.get_by_label("Admin key").fill(key)
    page.keyboard.press("Enter")


@contextmanager
def user_client(gateway: RunningGateway, user: str, *channels: str) -> Iterator[ClientConnection]:
    subscribes = [{"id": number, "subscribe": {"channel": channel}} for number, channel in enumerate(channels, 2)]
    with connect(gateway.websocket_url) as wire:
        wire.send(lines({"id": 1, "connect": {"token": gateway.token(user)}}, *subscribes))
        answers = ""
        while answers.count('"id"') <= len(channels):
            answers += str(wire.recv(timeout=10))
        yield wire
