"""The console's page, played once through: what everybody does with it. The other views are played in ``test_page_views``."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from websockets.exceptions import ConnectionClosed

from ..kit.console_pages import open_console, user_client
from ..kit.gateways import RunningGateway, shared_gateway
from ..kit.operators import WITH_CONSOLE

gateway = shared_gateway(WITH_CONSOLE)


def test_an_operator_logs_in_sees_live_figures_finds_a_client_disconnects_it_and_logs_out(page: Page, gateway: RunningGateway) -> None:
    with user_client(gateway, "ann", "posts:1") as ann, user_client(gateway, "bob", "posts:1"):
        open_console(page, gateway)
        expect(page.get_by_role("figure").filter(has_text="Connections").locator(".value")).to_have_text("3")
        assert page.get_by_role("img", name="Connections of the last five minutes").count() == 1

        page.get_by_role("link", name="Connections", exact=True).click()
        expect(page.get_by_role("status").filter(has_text="3 connections")).to_be_visible()
        page.keyboard.press("/")
        page.keyboard.type("an")
        expect(page.get_by_role("status").filter(has_text="1 connection")).to_be_visible()
        page.get_by_role("cell").get_by_role("link", name="ann").click()
        expect(page.get_by_role("heading", name="ann", exact=True)).to_be_focused()
        expect(page.get_by_role("row").filter(has_text="posts:1")).to_contain_text("live")

        page.get_by_role("button", name="Disconnect").click()
        page.get_by_role("dialog").get_by_role("button", name="Disconnect").click()
        expect(page.locator("#toast")).to_have_text("The client is disconnected.")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                ann.recv(timeout=10)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 3000
        expect(page.get_by_text("No connection is like that.")).to_be_visible()

    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Admin key")).to_be_focused()
