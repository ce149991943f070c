"""``gateway demo``: members against each other in a real browser, each tab a member, lines cut in between."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from ..kit.accessibility import CORNERS, faults
from ..kit.browser import PATIENCE_MS
from ..kit.demos import Demo, running_demo
from ..kit.headers import check_headers


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    past = dict.fromkeys(
        ("gateway.demo.past.POSTS", "gateway.demo.past.REVIEWS"), 0.1
    )  # the fewer, the sooner axe has looked at all of them
    with running_demo(tmp_path_factory.mktemp("demo"), past) as demo:
        yield demo


Tab = Callable[[str], Page]


@pytest.fixture
def tab(browser: Browser, demo: Demo) -> Iterator[Tab]:
    """Opens the site as a member. A page whose script fails, or that breaks its content security policy, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    faults: list[str] = []

    def open_tab(name: str) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
        page.goto(f"{demo.url}/demo/")
        page.get_by_test_id("name").fill(name)
        page.get_by_test_id("enter").locator("button, :scope").last.click()
        expect(page.get_by_test_id("state")).to_contain_text("live")
        return page

    yield open_tab
    context.close()
    assert not faults


def subject(page: Page, id: str) -> None:
    page.locator(f'[data-testid=subject][data-id="{id}"]').click()


def write_review(page: Page, text: str, stars: int = 5) -> None:
    page.get_by_test_id("review-rating").locator("label").nth(stars - 1).click()
    page.get_by_test_id("review-text").fill(text)
    page.get_by_test_id("review-send").click()


def review(page: Page, text: str) -> Any:
    return page.get_by_test_id("review").filter(has_text=text)


def test_two_members_one_cut_off_meanwhile_see_the_same_in_the_end(tab: Tab) -> None:
    ann, bob, cleo = tab("ann"), tab("bob"), tab("cleo")
    for page in (ann, bob, cleo):
        subject(page, "nori")
    write_review(ann, "The mackerel, again.")
    expect(review(bob, "The mackerel, again.")).to_be_visible()

    bob.get_by_test_id("line").click()
    expect(bob.get_by_test_id("state")).to_contain_text("cut")
    ann.get_by_test_id("post-text").fill("Fog on the river this morning.")
    ann.get_by_test_id("post-send").click()
    write_review(ann, "A second evening, even better.")
    expect(review(cleo, "A second evening")).to_be_visible()  # ann sees hers before the relay has published it
    expect(review(bob, "A second evening")).to_have_count(0)

    bob.get_by_test_id("line").click()
    expect(bob.get_by_test_id("caught-up")).to_contain_text(re.compile(r"caught up on 2 publications, nothing lost", re.I))
    expect(review(bob, "A second evening")).to_have_count(1)
    expect(review(bob, "A second evening").get_by_test_id("recovered")).to_be_visible()
    expect(review(bob, "The mackerel, again.").get_by_test_id("recovered")).to_have_count(0)
    expect(bob.get_by_test_id("post").filter(has_text="Fog on the river")).to_have_count(1)


def test_a_response_and_a_reaction_ring_the_authors_bell_on_all_tabs_and_reading_one_reads_all(tab: Tab) -> None:
    carla, again, dora = tab("carla"), tab("carla"), tab("dora")
    for page in (carla, dora):
        subject(page, "mezze")
    write_review(carla, "The aubergine, oh the aubergine.")
    hers = review(dora, "the aubergine")
    hers.get_by_test_id("response-text").fill("<b>Agreed</b> & hungry")
    hers.get_by_test_id("response-send").click()
    hers.locator('[data-testid=reaction][data-reaction="love"]').click()

    for page in (carla, again):
        expect(page.locator("#bell [part=count]")).to_have_text("2")
    expect(dora.locator("#bell [part=count]")).to_have_text("")
    expect(review(carla, "the aubergine").get_by_test_id("response")).to_contain_text("<b>Agreed</b> & hungry")
    mine = review(carla, "the aubergine").locator('[data-testid=reaction][data-reaction="love"]')
    expect(mine.get_by_test_id("count")).to_have_text("1")

    carla.get_by_test_id("bell").click()
    notifications = carla.locator("#bell li")
    expect(notifications).to_have_count(2)
    expect(notifications.first).to_contain_text("dora reacted to your review")
    carla.locator("#bell [part=read-all]").click()
    for page in (carla, again):
        expect(page.locator("#bell [part=count]")).to_have_text("")
    carla.keyboard.press("Escape")
    expect(carla.locator("#bell [part=list]")).to_be_hidden()
    assert carla.evaluate("document.activeElement.dataset.testid") == "bell"  # a tab in the background is never "focused"


def test_a_reaction_is_one_a_member_and_moves_and_goes(tab: Tab) -> None:
    eva, finn = tab("eva"), tab("finn")
    eva.get_by_test_id("post-text").fill("Who took the ladder?")
    eva.get_by_test_id("post-send").click()
    post = finn.get_by_test_id("post").filter(has_text="Who took the ladder?")
    like, laugh = (post.locator(f'[data-testid=reaction][data-reaction="{name}"]') for name in ("like", "laugh"))
    seen = eva.get_by_test_id("post").filter(has_text="Who took the ladder?").locator('[data-testid=reaction][data-reaction="laugh"]')
    like.click()
    expect(like).to_have_attribute("aria-pressed", "true")
    laugh.click()
    expect(laugh).to_have_attribute("aria-pressed", "true")
    expect(like).to_have_attribute("aria-pressed", "false")
    expect(seen.get_by_test_id("count")).to_have_text("1")
    laugh.click()
    expect(laugh).to_have_attribute("aria-pressed", "false")
    expect(seen.get_by_test_id("count")).to_have_text(re.compile("^0?$"))


def test_notifications_that_came_while_away_are_on_the_bell_on_return(tab: Tab, demo: Demo) -> None:
    gil = tab("gil")
    subject(gil, "kiosk")
    write_review(gil, "Plum cake, no hurry.")
    expect(review(gil, "Plum cake, no hurry")).to_be_visible()
    target = f"review:{review(gil, 'Plum cake, no hurry').get_attribute('data-id')}"
    gil.get_by_test_id("line").click()
    for name in ("hal", "ida", "jan"):
        demo.enter(name)("PUT", "reactions", {"target": target, "reaction": "wow"})
    gil.get_by_test_id("line").click()
    expect(gil.locator("#bell [part=count]")).to_have_text("1")  # folded: three people, one notification
    gil.get_by_test_id("bell").click()
    expect(gil.locator("#bell li")).to_have_count(1)
    expect(gil.locator("#bell li")).to_contain_text("and 1 other reacted to your review")
    expect(gil.locator("#bell [part=count]")).to_have_text("1")


def test_a_link_to_a_post_that_is_gone_leads_into_the_town_and_says_so(tab: Tab) -> None:
    noa = tab("noa")
    noa.evaluate("location.hash = 'post:999999'")
    noa.reload()
    expect(noa.locator("#bell [part=fault]")).to_have_text("That post is gone.")
    expect(noa.locator("#welcome")).to_be_hidden()
    expect(noa.get_by_test_id("state")).to_contain_text("live")


@pytest.mark.slow
def test_axe_finds_nothing_on_the_demo(tab: Tab, browser: Browser, demo: Demo, axe: str) -> None:
    entry = browser.new_page()
    entry.goto(f"{demo.url}/demo/")
    expect(entry.get_by_test_id("name")).to_be_visible()
    assert faults(entry, axe) == [], "the entry"
    entry.close()

    lea, max_ = tab("lea"), tab("max")
    subject(lea, "mezze")
    write_review(lea, "Read out loud.")
    subject(max_, "mezze")
    his = review(max_, "Read out loud")
    his.get_by_test_id("response-text").fill("So is this.")
    his.get_by_test_id("response-send").click()
    his.locator('[data-testid=reaction][data-reaction="love"]').click()
    expect(lea.locator("#bell [part=count]")).to_have_text("2")
    assert faults(lea, axe) == [], "posts and reviews"
    lea.set_viewport_size({"width": 360, "height": 740})
    lea.locator("#tabs [data-view=places]").click()
    assert faults(lea, axe, CORNERS) == [], "the places"
    lea.get_by_test_id("bell").click()
    expect(lea.locator("#bell li")).to_have_count(2)
    assert faults(lea, axe, CORNERS, within="#bell") == [], "the notifications"
    lea.keyboard.press("Escape")
    review(lea, "Read out loud").get_by_test_id("story").click()
    expect(lea.get_by_test_id("story-panel")).to_be_visible()
    assert faults(lea, axe, CORNERS, within="[data-testid=story-panel]") == [], "the story"
    lea.keyboard.press("Escape")
    lea.get_by_test_id("line").click()
    expect(lea.get_by_test_id("state")).not_to_contain_text("live")
    assert faults(lea, axe, CORNERS) == [], "a line that is cut"


def test_nothing_is_wider_than_a_phone(browser: Browser, demo: Demo) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 740})
    page = context.new_page()
    page.goto(f"{demo.url}/demo/")
    page.get_by_test_id("name").fill("a" * 32)  # the longest name
    page.get_by_test_id("enter").locator("button, :scope").last.click()
    expect(page.get_by_test_id("state")).to_contain_text("live")
    page.get_by_test_id("post-text").fill("hello")
    page.get_by_test_id("post-send").click()
    expect(page.get_by_test_id("post").first).to_contain_text("a" * 32)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    context.close()


# The API under it.


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "posts", {"channel": "town", "text": ""}, 422, "empty"),
        ("POST", "posts", {"channel": "town", "text": "x" * 100_000}, 422, "10000"),
        ("POST", "posts", {"channel": "nowhere", "text": "x"}, 404, "no channel"),
        ("POST", "posts", b"no json", 422, "JSON"),
        ("POST", "posts", [1], 422, "JSON"),
        ("POST", "posts", b"x" * 300_000, 413, None),
        ("PATCH", "posts/1", {"text": "mine now"}, 403, "only they"),
        ("DELETE", "posts/1", None, 403, "only they"),
        ("DELETE", "posts/999999", None, 404, "no post"),
        ("POST", "reviews", {"subject": "moon", "rating": 5, "text": "x"}, 404, "no restaurant"),
        ("POST", "reviews", {"subject": "nori", "rating": 6, "text": "x"}, 422, "rating"),
        ("POST", "reviews/999999/responses", {"text": "x"}, 404, "no review"),
        ("GET", "reviews/999999/history", None, 404, "no review"),
        ("PUT", "reactions", {"target": "review:1", "reaction": "fury"}, 422, "reaction"),
        ("PUT", "reactions", {"target": "user:1", "reaction": "like"}, 422, "target"),
        ("POST", "pace", {"per_minute": 1000}, 422, "pace"),
        ("GET", "posts?channel=town&before=x", None, 422, "whole number"),
        ("POST", "enter", {"name": "<img>"}, 422, "letters"),
    ],
)
def test_requests_that_cannot_be_served_are_answered_with_a_sentence(
    demo: Demo, method: str, path: str, body: Any, status: int, says: str | None
) -> None:
    token = demo.call("POST", "enter", {"name": "mallory"})[1]["token"]
    got, answer = demo.call(method, path, body, token)
    assert got == status
    assert says is None or says in answer["error"]


@pytest.mark.parametrize("token", ["", "nonsense"])
def test_without_a_members_token_the_demo_answers_401(demo: Demo, token: str) -> None:
    for path in ("state", "posts?channel=town", "reviews?subject=nori"):
        assert demo.call("GET", path, None, token)[0] == 401


@pytest.mark.parametrize("path", ["", "main.js", "css/base.css", "nowhere.js", "api/me", "api/nowhere"])
def test_the_demos_answers_have_the_headers_that_restrict_browsers(demo: Demo, path: str) -> None:
    try:
        answer = urllib.request.urlopen(f"{demo.url}/demo/{path}")
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
    check_headers(headers)
    assert headers.get("content-type", "").startswith("text/html") == (path == "")
