"""The demo's workshop: reports, orders and the live view of their queue, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.demo.month import Month, this_month

from ..kit.accessibility import CORNERS, faults
from ..kit.demos import Demo, running_demo
from ..kit.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

LAST = this_month().before  # all of its days are counted, whatever today is
HASTE = {
    "gateway.demo.work.DAY_SECONDS": 0.1,  # a report that is to be cancelled takes three seconds
    "gateway.demo.work.SMALL_SECONDS": 0.1,
    "gateway.demo.work.BACKOFF_SECONDS": 0.3,
    "gateway.demo.work.BANK_SECONDS": 0.1,
    "gateway.demo.work.KITCHEN_SECONDS": 0.1,
    "gateway.demo.work.ROAD_SECONDS": 0.2,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("workshop"), HASTE) as demo:
        yield demo


@pytest.fixture
def shop(page: Page, demo: Demo) -> Page:
    """The workshop as ann sees it, reached from the town."""
    from playwright.sync_api import expect

    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(f"{demo.url}/demo/")
    page.get_by_test_id("name").fill("ann")
    page.get_by_test_id("enter").click()
    page.get_by_test_id("to-work").click()
    expect(page.get_by_test_id("state")).to_contain_text("live")
    return page


def report_of(page: Page, month: Month) -> Locator:
    return page.locator(f'[data-testid=report][data-month="{month}"]')


RECORD = """element => {
  const seen = element.seen = [];
  const look = () => {
    const value = element.value ?? Number(element.textContent);
    if (seen.at(-1) !== value) seen.push(value);
    requestAnimationFrame(look);
  };
  look();
}"""


def record(element: Locator) -> None:
    """From now on each frame's value of a bar, or number, is known: a poll may miss what is there for a moment."""
    element.evaluate(RECORD)


def recorded(element: Locator) -> list[float]:
    seen: list[float] = element.evaluate("element => element.seen")
    return seen


def test_a_report_is_made_while_its_bar_moves_and_is_its_owners_alone_and_another_is_cancelled(shop: Page, demo: Demo) -> None:
    from playwright.sync_api import expect

    report = report_of(shop, LAST)
    bar = report.get_by_test_id("progress")
    record(bar)
    report.get_by_test_id("make").click()
    expect(report).to_have_attribute("data-state", "made")
    moved = [value for value in recorded(bar) if 0 < value < 1]
    assert len(moved) > 1 and moved == sorted(moved)
    expect(report.get_by_test_id("download")).to_be_focused()  # for whom the keyboard is the way to the file
    with shop.expect_download() as loading:
        report.get_by_test_id("download").click()
    content = Path(loading.value.path()).read_bytes()
    assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    assert loading.value.suggested_filename == f"Piazza {LAST}.pdf"
    shop.get_by_test_id("bell").click()
    expect(shop.locator("#bell li")).to_contain_text(f"Your report of {LAST.title} is ready")
    shop.keyboard.press("Escape")
    token = demo.call("POST", "enter", {"name": "bob"})[1]["token"]
    assert demo.call("GET", f"work/reports/{LAST}", None, token) == (404, {"error": f"bob has no report of {LAST.title}"})
    assert demo.call("GET", f"work/reports/{LAST}")[0] == 401

    report.get_by_test_id("make").click()
    expect(report).to_have_attribute("data-state", "running")  # until then, the bar is where the first report left it
    wait_until(lambda: bar.evaluate("bar => bar.value") > 0.1, "some of it is made", 30)
    [job] = demo.call("GET", "work", None, token)[1]["queue"]["jobs"]["running"]
    assert "only they can cancel it" in demo.call("POST", f"work/jobs/{job['id']}/cancel", {}, token)[1]["error"]
    report.get_by_test_id("cancel").click()
    expect(report).to_have_attribute("data-state", "cancelled")
    expect(report).to_contain_text(re.compile("Cancelled at [1-9]"))
    expect(shop.get_by_test_id("running")).to_have_text("0")
    shop.reload()
    expect(report).to_have_attribute("data-state", "made")  # the one that was there before


def test_the_queue_moves_before_ones_eyes_and_a_dead_letter_is_sent_again(shop: Page, axe: str) -> None:
    from playwright.sync_api import expect

    dead = shop.get_by_test_id("lane-dead").get_by_test_id("job")
    record(shop.get_by_test_id("ready"))
    shop.get_by_test_id("start-failing").click()
    shop.get_by_test_id("start-small").click()
    shop.get_by_test_id("start-reminder").click()
    shop.locator("[data-testid=order-item][data-item=pizza]").click()
    shop.locator("[data-testid=order-item][data-item=spoon]").click()
    expect(dead).to_contain_text("failed 3 times")
    expect(shop.get_by_test_id("lane-delayed").get_by_test_id("job").filter(has_text="Reminder for ann")).to_have_count(1)
    expect(shop.locator("[data-testid=order][data-state=delivered]")).to_contain_text("Pizza from Nino")
    expect(shop.locator("[data-testid=order][data-state=rejected]")).to_contain_text("the bank declined it")
    expect(shop.get_by_test_id("ready")).to_have_text("0")
    assert max(recorded(shop.get_by_test_id("ready"))) > 0
    assert faults(shop, axe, CORNERS) == []
    assert shop.evaluate("document.documentElement.scrollWidth <= innerWidth")

    dead.get_by_test_id("resend").click()
    expect(shop.get_by_test_id("dead")).to_have_text("0")
    shop.get_by_test_id("lane-delayed").get_by_test_id("cancel-job").click()
    for state in ("ready", "running", "delayed"):
        expect(shop.get_by_test_id(state)).to_have_text("0")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "work/reports", {"month": "2999-01"}, 422, "a month is written as"),
        ("POST", "work/reports", {"month": "2099-01"}, 422, "has not begun"),
        ("POST", "work/reports", {"month": "../../etc"}, 422, "a month is written as"),
        ("GET", "work/reports/moon", None, 422, "a month is written as"),
        ("POST", "work/orders", {"item": "moon"}, 404, "menu"),
        ("POST", "work/orders/999999/cancel", {}, 404, "no order"),
        ("POST", "work/jobs", {"kind": "large"}, 422, "kinds"),
        ("POST", "work/jobs/none-1/cancel", {}, 404, "ended"),
        ("POST", "work/jobs/none-1/resend", {}, 404, "no dead letter"),
    ],
)
def test_requests_of_the_workshop_that_cannot_be_served_are_answered_with_a_sentence(
    demo: Demo, method: str, path: str, body: Any, status: int, says: str | None
) -> None:
    token = demo.call("POST", "enter", {"name": "mallory"})[1]["token"]
    got, answer = demo.call(method, path, body, token)
    assert got == status
    assert says is None or says in answer["error"]
