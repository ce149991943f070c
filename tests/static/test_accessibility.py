"""axe finds nothing on the landing page, in any of its states."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from ..kit.accessibility import CORNERS, faults
from ..kit.browser import open_landing
from ..kit.gateways import RunningGateway, Start
from ..kit.publishing import publish_many


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once()


def test_axe_finds_nothing_on_the_landing_page(page: Page, gateway: RunningGateway, axe: str) -> None:
    open_landing(page, gateway)
    assert faults(page, axe, CORNERS) == [], "an empty feed"
    gateway.publish("hello:world", {"text": "before"})
    expect(page.locator("#feed")).to_contain_text("before")
    page.get_by_role("button", name="Cut the line").click()
    page.get_by_label("Text to publish").fill("kept")
    page.keyboard.press("Enter")
    expect(page.locator("#fault")).to_contain_text("Not published")
    assert faults(page, axe, CORNERS) == [], "a line that is cut, and a fault"
    publish_many(gateway, "hello:world", range(120))
    page.get_by_role("button", name="Restore the line").click()
    expect(page.locator("#feed .outage")).to_contain_text("100 caught up")
    assert faults(page, axe) == [], "a gap, and what was caught up"


@pytest.mark.parametrize("token", ["", "nonsense"])
def test_axe_finds_nothing_on_the_landing_page_that_was_refused(page: Page, gateway: RunningGateway, axe: str, token: str) -> None:
    page.goto(f"{gateway.url}/#token={token}")
    expect(page.get_by_role("alert").first).to_be_visible()
    assert faults(page, axe, CORNERS) == []
