"""axe finds nothing on the landing page, in any of its states, nor on the documentation and the page of ``gateway bench``."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from gateway.bench.page import html
from gateway.bench.report import Report

from ..bench import samples
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


@pytest.mark.slow
def test_axe_finds_nothing_on_a_page_of_the_documentation_nor_on_what_its_search_found(
    page: Page, gateway: RunningGateway, axe: str
) -> None:
    page.goto(f"{gateway.url}/docs/reference/settings")
    assert faults(page, axe) == []
    page.get_by_role("combobox").fill("history")
    expect(page.get_by_role("option").first).to_be_visible()
    assert faults(page, axe, CORNERS) == [], "what was found"


def test_axe_finds_nothing_on_the_page_of_the_bench_and_no_report_is_wider_than_a_phone(page: Page, axe: str, tmp_path: Path) -> None:
    _open_bench(page, tmp_path / "odd.html", samples.odd())
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    _open_bench(page, tmp_path / "peers.html", samples.beside_peers())
    assert faults(page, axe, CORNERS[:1]) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("getComputedStyle(document.querySelector('figure')).display") == "grid"  # its policy lets its style in


def _open_bench(page: Page, file: Path, report: Report) -> None:
    file.write_text(html(report, samples.plain()))
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
