"""What the console's page shows while something is away, and at the door: wrong keys, sessions that end, Valkey, a restart."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from ..kit.accessibility import CORNERS, faults
from ..kit.console_pages import enter_key, open_console
from ..kit.gateways import RunningGateway, Start, shared_gateway
from ..kit.operators import WITH_CONSOLE, WRITE_KEY
from ..kit.ports import free_port
from ..kit.valkeys import OwnValkey

pytestmark = pytest.mark.slow

gateway = shared_gateway(WITH_CONSOLE, own=True)
SOON = 20_000  # milliseconds


def test_a_session_that_is_over_leads_to_the_door_and_back_to_the_same_place(page: Page, gateway: RunningGateway) -> None:
    open_console(page, gateway, "#/permissions?user=ann&channel=posts%3A1")
    page.get_by_role("link", name="Nodes").click()
    page.context.clear_cookies()
    expect(page.get_by_text("The session is over.")).to_be_visible(timeout=SOON)
    expect(page.get_by_label("Admin key")).to_be_focused()
    enter_key(page, WRITE_KEY)
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="ready")).to_have_count(1)
    expect(page.locator("#state")).to_have_text("live")


def test_a_machine_whose_clock_is_ahead_by_more_than_a_session_lasts_shows_the_console(page: Page, gateway: RunningGateway) -> None:
    page.add_init_script("const { now } = Date; Date.now = () => now() + 9 * 3_600_000")
    open_console(page, gateway, "#/nodes")
    expect(page.get_by_role("row").filter(has_text="ready")).to_have_count(1)


def test_while_valkey_is_away_a_sentence_says_so_and_all_comes_back_by_itself(page: Page, gateway: RunningGateway, own: OwnValkey) -> None:
    gateway.publish("posts:1", {"n": 1})
    open_console(page, gateway, "#/channels/posts%3A1")
    expect(page.locator(".facts").first).to_contain_text("1 publication")
    own.kill()
    notice = page.locator("#place .notice").first
    expect(notice).to_contain_text("Trying again", timeout=SOON)
    expect(page.locator(".facts").first).to_contain_text("1 publication")  # what was read last remains
    page.get_by_role("link", name="Nodes").click()
    expect(page.get_by_role("row").nth(1)).to_contain_text("Valkey", timeout=SOON)
    page.go_back()
    own.start()
    expect(page.locator(".facts").first).to_contain_text("publication", timeout=SOON)
    expect(notice).to_be_hidden(timeout=SOON)


def test_a_gateway_that_is_restarted_has_the_page_back_without_a_log_in(page: Page, start_gateway: Start) -> None:
    first = start_gateway(WITH_CONSOLE, port=free_port())
    open_console(page, first, "#/nodes")
    first.stop()
    expect(page.locator("#state")).to_have_text("reconnecting", timeout=SOON)
    expect(page.locator("#line")).to_contain_text("The live connection is lost", timeout=SOON)
    expect(page.locator("#place .notice").first).to_contain_text("The gateway does not answer. Trying again", timeout=SOON)
    start_gateway(WITH_CONSOLE, beside=first, port=first.port)
    expect(page.locator("#state")).to_have_text("live", timeout=SOON)
    expect(page.locator("#line")).to_be_empty()
    expect(page.get_by_role("row").filter(has_text="ready")).to_have_count(1, timeout=SOON)
    page.reload()
    expect(page.locator("#state")).to_have_text("live")


def test_wrong_keys_are_refused_and_after_five_the_door_counts_down(page: Page, gateway: RunningGateway, axe: str) -> None:
    page.context.clear_cookies()
    page.goto(f"{gateway.url}/admin/")
    expect(page.get_by_label("Admin key")).to_be_focused()
    assert faults(page, axe, CORNERS) == []
    for _ in range(5):
        enter_key(page, "this is no key of it")
        expect(page.get_by_role("alert")).to_have_text(re.compile("key"))
        expect(page.get_by_role("button", name="Log in")).to_be_enabled()
    enter_key(page, WRITE_KEY)
    waiting = page.get_by_role("button", name=re.compile("Log in again in [1-9]"))
    expect(waiting).to_be_disabled()
    assert faults(page, axe, CORNERS) == []
    text = waiting.inner_text()
    expect(waiting).not_to_have_text(text)
    page.reload()
    expect(page.locator("#console")).to_be_hidden()
