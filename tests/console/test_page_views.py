"""Each view of the console's page, played against a gateway: what is shown, what is changed, and that everybody can use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import Locator, Page, Route, WebSocketRoute, expect

from ..kit.accessibility import CORNERS, faults
from ..kit.console_pages import open_console, user_client
from ..kit.gateways import RunningGateway, shared_gateway
from ..kit.operators import READ_KEY, WITH_CONSOLE, WRITE_KEY, log_in
from ..kit.publishing import publish_many
from ..kit.queue_functions import QueueFunctions
from ..kit.valkeys import OwnValkey

pytestmark = pytest.mark.slow

gateway = shared_gateway("events = true\nping_seconds = 3600\n" + WITH_CONSOLE, own=True)

# view → its place, and what is there once it was read
PLACES = {
    "overview": ("#/", "1 process: "),
    "nodes": ("#/nodes", "ready"),
    "connections": ("#/connections", "websocket"),
    "connection": ("#/connections/CLIENT", "posts:tech"),
    "channels": ("#/channels", "posts:tech"),
    "channel": ("#/channels/posts%3Atech", "45 publications"),
    "inboxes": ("#/inboxes/ann", "post-2"),
    "permissions": ("#/permissions?user=ann&channel=posts%3Atech", "namespaces.posts.subscribe"),
    "queues": ("#/queues", "mail"),
    "queue": ("#/queues/mail?state=dead", "SMTP 550"),
    "job": ("#/queues/mail/JOB", "SMTP 550"),
    "outbox": ("#/outbox", "There is no durable reader."),
    "log": ("#/log", "started: version"),
    "why": ("#/why?user=ann&channel=posts%3Atech&offset=3", "posts:tech"),
}


class Town(NamedTuple):
    """``letter`` is the id of a dead letter of the queue ``mail``, ``client`` that of ann's client."""

    mail: QueueFunctions
    letter: str
    client: str


@pytest.fixture(scope="module")
def town(gateway: RunningGateway, own: OwnValkey) -> Iterator[Town]:
    """Two users are connected, something was published, and three mails could not be sent."""
    publish_many(gateway, "posts:tech", [{"n": number, "text": "<b>Bread</b> & wine"} for number in range(45)])
    for number in range(3):
        gateway.api("notify", user="ann", data={"id": f"post-{number}", "text": "Somebody wrote about tech"})
    mail = QueueFunctions(own, "mail", gateway.prefix)
    for number in range(3):
        assert gateway.api("enqueue", queue="mail", name="mail.send", data={"to": f"u{number}@example.org"})["result"]["new"]
    for id, token in mail.take("w").items():
        mail.work("fail", "w", id, token, "SMTP 550: no such mailbox", "")
    gateway.api("enqueue", queue="mail", name="mail.send", delay=3600)
    with user_client(gateway, "ann", "posts:tech"), user_client(gateway, "bob", "posts:tech"):
        operator = log_in(gateway)
        [letter, *_] = operator.call("queue", queue="mail", state="dead")["jobs"]
        [client] = operator.call("connections", user="ann")["connections"]
        yield Town(mail, letter["id"], client["client"])


def status(page: Page, text: str | re.Pattern[str]) -> Locator:
    return page.locator("#view").get_by_role("status").filter(has_text=text)


def agree(page: Page, button: str) -> None:
    """Agrees to what the dialog asks."""
    page.get_by_role("dialog").get_by_role("button", name=button).click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def show(page: Page, gateway: RunningGateway, town: Town, view: str, key: str = WRITE_KEY) -> None:
    """Opens a view, and waits until it has been read."""
    place, text = PLACES[view]
    open_console(page, gateway, place.replace("JOB", town.letter).replace("CLIENT", town.client), key)
    expect(page.locator("#place")).to_contain_text(text)


def click_twice_before_an_answer(page: Page, url: str, button: str) -> None:
    """Both requests are under way before one of them is answered."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)
        if len(held) == 2:
            for each in held:
                each.continue_()

    page.route(url, hold, times=2)
    for _ in range(2):
        with page.expect_request(url):
            page.get_by_role("button", name=button).click()


@pytest.mark.parametrize("view", PLACES)
def test_axe_finds_nothing_on_any_view_and_none_is_wider_than_a_phone(
    page: Page, gateway: RunningGateway, town: Town, axe: str, view: str
) -> None:
    show(page, gateway, town, view)
    expect(page.locator("#place .notice").locator("visible=true")).to_have_count(0)
    assert faults(page, axe, CORNERS) == []
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_the_charts_have_a_table_in_their_place(page: Page, gateway: RunningGateway, town: Town, axe: str) -> None:
    open_console(page, gateway)
    charts = page.get_by_role("figure")
    expect(charts).to_have_count(6)
    expect(charts.first.locator(".value")).to_have_text(re.compile(r"^[1-9]"))
    page.get_by_role("button", name="Show as tables").click()
    expect(charts.first.get_by_role("table", name="Connections: the last minute")).to_be_visible()
    assert faults(page, axe, CORNERS[:1]) == []
    expect(page.get_by_role("row").filter(has_text="up")).to_have_count(1)


def test_a_channel_is_published_to_followed_paged_through_and_emptied(page: Page, gateway: RunningGateway, town: Town, axe: str) -> None:
    publish_many(gateway, "posts:bread", [{"n": number, "text": "<b>Bread</b>"} for number in range(45)])
    open_console(page, gateway, "#/channels")
    page.keyboard.press("/")
    page.keyboard.type("posts:bread")
    page.get_by_role("link", name="Open posts:bread").click()
    history = page.get_by_role("region", name="History").get_by_role("listitem")
    expect(history).to_have_count(20)
    expect(history.first).to_contain_text('{"n":44,"text":"<b>Bread</b>"}')
    click_twice_before_an_answer(page, "**/api/history", "Older")
    expect(history).to_have_count(40)
    page.get_by_role("button", name="Older").click()
    expect(history).to_have_count(45)
    expect(page.get_by_role("button", name="Older")).to_be_hidden()

    page.get_by_role("button", name="Tail live").click()
    live = page.get_by_role("region", name="Live").get_by_role("listitem")
    expect(status(page, "0 publications since the tail began")).to_be_visible()
    page.get_by_role("button", name="Publish").click()
    page.get_by_label("Data, as JSON").fill("{nonsense")
    page.get_by_role("dialog").get_by_role("button", name="Publish").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("This is not JSON")
    assert faults(page, axe, CORNERS) == []
    page.get_by_label("Data, as JSON").fill('{"from": "the console"}')
    agree(page, "Publish")
    expect(live).to_have_count(1)
    expect(live.first).to_contain_text('{"from":"the console"}')
    assert "the console" in json.dumps(gateway.api("history", channel="posts:bread", limit=1, reverse=True))
    assert gateway.api("presence", channel="posts:bread")["result"]["presence"] == {}, "who follows from the console is not seen"
    page.get_by_role("button", name="Stop").click()
    expect(status(page, "Stopped after 1 publication")).to_be_visible()
    gateway.publish("posts:bread", {"later": 1})
    expect(page.locator(".facts").first).to_contain_text("47 publications")
    expect(live).to_have_count(1)

    page.get_by_role("button", name="Remove history").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Remove history")).to_be_focused()
    page.keyboard.press("Enter")
    agree(page, "Remove history")
    expect(page.get_by_text("The history holds nothing.")).to_be_visible()
    assert gateway.api("history", channel="posts:bread", limit=1)["result"]["publications"] == []


def test_an_inbox_and_the_rules_for_a_user_are_shown(page: Page, gateway: RunningGateway, town: Town) -> None:
    open_console(page, gateway, "#/inboxes")
    page.get_by_label("User").fill("ann")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Inbox of ann")).to_be_visible()
    expect(status(page, "3 unread notifications of 3 notifications")).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="post-2")).to_contain_text("unread")

    for number in range(25):
        gateway.api("notify", user="dora", data={"id": f"note-{number}"})
    page.get_by_label("User").fill("dora")
    page.keyboard.press("Enter")
    notifications = page.get_by_role("listitem").filter(has_text="note-")
    expect(notifications).to_have_count(20)
    click_twice_before_an_answer(page, "**/api/inbox", "Older")
    expect(notifications).to_have_count(25)
    expect(page.get_by_role("button", name="Older")).to_be_hidden()

    page.get_by_role("link", name="Permissions", exact=True).click()
    expect(page.get_by_role("heading", name="Permissions")).to_be_visible()
    page.get_by_label("User").fill("ann")
    page.get_by_label("Channel").fill("notifications:bob")
    rights = page.get_by_role("list", name="Rights").get_by_role("listitem")
    expect(rights.first).to_contain_text("Subscribe: refused")
    page.get_by_label("Channel").fill("notifications:ann")
    expect(rights.first).to_contain_text("Subscribe: allowed")
    expect(rights.first).to_contain_text('namespaces.notifications.subscribe = "owner"')
    assert "channel=notifications%3Aann" in page.url


def test_the_log_is_live_and_why_answers(page: Page, gateway: RunningGateway, town: Town) -> None:
    open_console(page, gateway, "#/log")
    lines = page.get_by_role("log").get_by_role("listitem")
    expect(lines.filter(has_text="started: version")).to_have_count(1)
    page.get_by_label("Contains").fill("nothing is like this")
    expect(page.get_by_text("No line is like that.")).to_be_visible()
    page.get_by_label("Contains").fill("")
    page.get_by_label("Level").select_option("warning")
    expect(lines.filter(has_text="started: version")).to_have_count(0)

    page.get_by_role("link", name="Why?").click()
    page.get_by_label("User").fill("ann")
    page.get_by_label("Channel").fill("posts:tech")
    page.get_by_label("Offset").fill("45")
    page.keyboard.press("Enter")
    verdict = page.locator(".verdict")
    expect(verdict).to_be_visible()
    page.get_by_label("Offset").fill("4500")
    page.get_by_role("button", name="Ask").click()
    expect(verdict).to_contain_text("Not delivered")
    expect(page.locator(".findings")).to_contain_text("there is no publication")
    page.reload()
    expect(verdict).to_contain_text("Not delivered")


def test_lines_that_were_logged_while_the_page_was_hidden_are_in_the_log_when_it_is_seen_again(
    page: Page, gateway: RunningGateway, town: Town
) -> None:
    def lose_lines(socket: WebSocketRoute) -> None:
        """Processes publish lines only while a page watches, and nothing stores them."""
        server = socket.connect_to_server()

        def pass_on(message: str | bytes) -> None:
            kept = [line for line in str(message).splitlines() if '"kind":"log"' not in line]
            if kept:
                socket.send("\n".join(kept))

        server.on_message(pass_on)

    page.route_web_socket("**/connection/websocket", lose_lines)
    open_console(page, gateway, "#/log")
    lines = page.get_by_role("log").get_by_role("listitem").filter(has_text="logged in from")
    expect(lines.first).to_be_visible()
    shown = lines.count()
    log_in(gateway)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(lines).to_have_count(shown + 1)


def test_the_role_read_sees_everything_and_no_button_that_changes_something(page: Page, gateway: RunningGateway, town: Town) -> None:
    page.context.clear_cookies()
    changes = re.compile("Drain|Disconnect|Revoke|Unsubscribe|Publish|Remove|Send|Cancel")
    for view in ("nodes", "connection", "channel", "queue", "job"):
        show(page, gateway, town, view, READ_KEY)
        expect(page.get_by_text("read only")).to_be_visible()
        expect(page.locator("#view").get_by_role("button", name=changes)).to_have_count(0)
    page.goto("about:blank")  # so that the next address is loaded anew
    page.context.clear_cookies()
    for view in ("nodes", "connection", "channel", "queue", "job"):
        show(page, gateway, town, view)
        expect(page.locator("#view").get_by_role("button", name=changes).first).to_be_visible()


def test_the_keyboard_and_a_phone_reach_every_view(page: Page, gateway: RunningGateway, town: Town) -> None:
    open_console(page, gateway, "#/nodes")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the view")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main:visible")).to_be_focused()
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 800})
    menu = page.get_by_role("button", name="Views")
    for name in ("Queues", "Log", "Why?", "Overview"):
        menu.press("Enter")
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_focused()
        expect(page.get_by_role("navigation", name="Views")).to_be_hidden()
    page.set_viewport_size({"width": 1280, "height": 800})


def test_an_update_takes_neither_the_focus_nor_what_is_being_typed(page: Page, gateway: RunningGateway, town: Town) -> None:
    open_console(page, gateway, "#/connections?channel=posts%3Atech")
    rows = page.get_by_role("row").filter(has_text="websocket")
    expect(rows).to_have_count(2)
    bob = rows.filter(has_text="bob").get_by_role("link").first
    bob.focus()
    with user_client(gateway, "anton", "posts:tech"):  # comes before bob
        expect(rows).to_have_count(3, timeout=15_000)
        expect(bob).to_be_focused()
    expect(rows).to_have_count(2, timeout=15_000)
    expect(bob).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_label("User begins with")).to_be_focused()
    page.keyboard.type("zzz")
    expect(page.get_by_text("No connection is like that.")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_label("User begins with")).to_have_value("")
    expect(rows).to_have_count(2)


def test_dead_letters_are_sent_again_and_removed_once_the_queues_name_is_typed(page: Page, gateway: RunningGateway, town: Town) -> None:
    open_console(page, gateway, "#/queues")
    page.get_by_role("row").filter(has_text="mail").get_by_role("link").click()
    page.get_by_role("link", name="Dead letters 3").click()
    rows = page.get_by_role("row").filter(has_text="SMTP 550")
    expect(rows).to_have_count(3)
    rows.first.get_by_role("link").click()
    expect(page.locator("section").filter(has_text="Failures")).to_contain_text("SMTP 550")
    page.get_by_role("button", name="Send again").click()
    agree(page, "Send again")
    expect(page.locator("#toast")).to_have_text("Sent again.")
    expect(page.locator(".facts")).to_contain_text("ready")
    page.go_back()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Remove all").click()
    remove = page.get_by_role("dialog").get_by_role("button", name="Remove all")
    expect(remove).to_be_disabled()
    page.get_by_role("dialog").get_by_role("textbox").fill("mail")
    remove.click()
    expect(page.get_by_text("No job is a dead letter.")).to_be_visible()
    assert town.mail.counts("ready") == [1]


def test_all_dead_letters_are_sent_again_but_those_whose_key_another_job_has(page: Page, gateway: RunningGateway, own: OwnValkey) -> None:
    """The oldest cannot be, and are as large as what one call of Valkey looks at."""
    post = QueueFunctions(own, "post", gateway.prefix)
    keys = [f"k{number}" for number in range(9)]
    for key in keys:
        post.call("enqueue", "send", f'"{"x" * 1_000_000}"', "key", key, "id", key)
        post.work("fail", "w", key, post.take("w")[key], "why", "")
        post.call("enqueue", "send", "1", "key", key, "delay", 3600)
    post.call("enqueue", "send", "1", "id", "z")
    post.work("fail", "w", "z", post.take("w")["z"], "why", "")
    open_console(page, gateway, "#/queues/post?state=dead")
    page.get_by_role("button", name="Send all again").click()
    agree(page, "Send again")
    expect(page.locator("#toast")).to_have_text("Send 10 dead letters of post again: done.")
    assert (post.state("z"), post.counts("dead_letters")) == ("ready", [9])


def test_what_is_agreed_to_is_carried_out_once_and_its_fault_is_seen_although_the_dialog_was_closed(
    page: Page, gateway: RunningGateway, town: Town
) -> None:
    open_console(page, gateway, "#/channels/posts%3Aonce")
    held: list[Route] = []
    page.route("**/api/publish", lambda route: held.append(route), times=1)
    page.get_by_role("button", name="Publish").click()
    publish = page.get_by_role("dialog").get_by_role("button", name="Publish")
    with page.expect_request("**/api/publish"):
        publish.click()
    page.get_by_label("Data, as JSON").fill('{"typed": "meanwhile"}')
    expect(publish).to_be_disabled()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    held[0].abort()
    expect(page.locator("#toast")).to_have_text("The gateway does not answer.")


def test_a_long_name_that_is_looked_for_is_not_wider_than_a_phone(page: Page, gateway: RunningGateway) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    open_console(page, gateway, f"#/channels?pattern=posts%3A{'x' * 200}")
    expect(page.get_by_role("link", name="Open posts:")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.set_viewport_size({"width": 1280, "height": 800})


def test_a_process_is_drained_and_admits_again(page: Page, gateway: RunningGateway, town: Town) -> None:
    open_console(page, gateway, "#/nodes")
    page.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("dialog")).to_contain_text("elsewhere")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("row").filter(has_text="ready")).to_have_count(1)
    page.get_by_role("button", name="Drain").click()
    agree(page, "Drain")
    expect(page.get_by_role("row").filter(has_text="draining")).to_have_count(1)
    assert gateway.http("GET", "/health/ready")[0] == 503
    page.get_by_role("button", name="Admit again").click()
    agree(page, "Admit again")
    expect(page.get_by_role("row").filter(has_text="ready")).to_have_count(1)
    assert gateway.http("GET", "/health/ready")[0] == 200
