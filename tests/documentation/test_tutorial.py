"""The tutorial, done from its empty folder to its end, with two people in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..kit.servers import free_port
from .how_to import Desk
from .pages import snippets

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page


def test_the_tutorials_chat_works_for_two_people_and_for_one_who_was_away(context: BrowserContext, tmp_path: Path) -> None:
    ports = {8000: free_port(), 3000: free_port()}
    with Desk(tmp_path, ports, {"GATEWAY_PORT": str(ports[8000]), "GATEWAY_DRAIN_SECONDS": "0.2"}) as desk:
        for language, name in {"toml": "gateway.toml", "python": "backend.py", "html": "index.html"}.items():
            (fence,) = snippets("tutorial", language)
            desk.write(name, fence.code)
        serve, backend = (fence.code for fence in snippets("tutorial", "console"))
        cut, restore = (fence.code for fence in snippets("tutorial", "js"))
        desk.start(serve, "is ready at")
        desk.start(backend, "Uvicorn running on")
        site = f"http://localhost:{ports[3000]}/"
        ann, ben = enter(context, site, "Ann"), enter(context, site, "Ben")
        shows(ann, "#here", "Ann, Ben")

        write(ann, "Hello!")
        ben.click("li button")
        for page in (ann, ben):
            shows(page, "li:nth-child(1)", "AnnHello!♥ 1")
        shows(ann, "#bell", "1")

        ben.evaluate(cut)
        shows(ann, "#here", "Ann")
        write(ann, "You missed this.")
        ann.click("li:nth-child(1) button")
        shows(ann, "li:nth-child(1)", "AnnHello!♥ 2")
        ben.evaluate(restore)
        shows(ben, "li:nth-child(1)", "AnnHello!♥ 2")
        shows(ben, "li:nth-child(2)", "AnnYou missed this.♥ 0")

        ben.reload()
        shows(ben, "li:nth-child(1)", "AnnHello!♥ 2")
        assert ben.locator("li").count() == 2


def enter(context: BrowserContext, site: str, name: str) -> Page:
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.accept(name))
    page.goto(site)
    shows(page, "#state", "connected")
    return page


def write(page: Page, text: str) -> None:
    page.fill("input", text)
    page.press("input", "Enter")
    page.wait_for_function("document.querySelector('input').value === ''")


def shows(page: Page, selector: str, text: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(text)
