"""The demo's workshop: reports, orders and the live view of their queue, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.demo.month import Month, this_month

from ..kit.accessibility import CORNERS, faults
from ..kit.demos import NOBODY_ELSE, Demo
from ..kit.forks import Program
from ..kit.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

LAST = this_month().before  # all of its days are counted, whatever today is
HASTE = {
    "gateway.demo.work.DAY_SECONDS": 0.04,
    "gateway.demo.work.SMALL_SECONDS": 0.1,
    "gateway.demo.work.BACKOFF_SECONDS": 0.3,
    "gateway.demo.work.BANK_SECONDS": 0.1,
    "gateway.demo.work.KITCHEN_SECONDS": 0.1,
    "gateway.demo.work.ROAD_SECONDS": 0.2,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("workshop")
    output, log = folder / "out", folder / "log"
    words = ("demo", "--port", "0", "--data-dir", str(folder / "data"))
    program = Program("gateway.cli", output, log, *words, constants=HASTE)
    wait_until(lambda: "Ctrl-C" in output.read_text() if output.exists() else False, "a start", 30)
    demo = Demo(output.read_text().split(" is ready at ")[1].split()[0])
    demo.enter("tester")("POST", "pace", NOBODY_ELSE)
    yield demo
    program.send_signal(2)
    assert program.wait(20) == 0
    assert "Traceback" not in log.read_text() and "ended that must not" not in log.read_text(), log.read_text()


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


def reach(report: Locator, done: float) -> float:
    """Waits until more than ``done`` of the report is made; returns how much."""
    bar = report.get_by_test_id("progress")
    wait_until(lambda: float(bar.evaluate("bar => bar.value")) > done, "progress", 10)
    return float(bar.evaluate("bar => bar.value"))


def test_a_report_is_made_while_its_bar_moves_and_is_its_owners_alone_and_another_is_cancelled(shop: Page, demo: Demo) -> None:
    from playwright.sync_api import expect

    report = report_of(shop, LAST)
    report.get_by_test_id("make").click()
    first = reach(report, 0)
    assert first < reach(report, first) < 1
    expect(report).to_have_attribute("data-state", "made")
    expect(report.get_by_test_id("download")).to_be_focused()  # for whom the keyboard is the way to the file
    with shop.expect_download() as loading:
        report.get_by_test_id("download").click()
    content = Path(loading.value.path()).read_bytes()
    assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    assert loading.value.suggested_filename == f"Piazza {LAST}.pdf"
    shop.get_by_test_id("bell").click()
    expect(shop.get_by_test_id("notification")).to_contain_text(f"Your report of {LAST.title} is ready")
    shop.keyboard.press("Escape")
    token = demo.call("POST", "enter", {"name": "bob"})[1]["token"]
    assert demo.call("GET", f"work/reports/{LAST}", None, token) == (404, {"error": f"bob has no report of {LAST.title}"})
    assert demo.call("GET", f"work/reports/{LAST}")[0] == 401

    report.get_by_test_id("make").click()
    reach(report, 0.1)
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
    shop.get_by_test_id("start-failing").click()
    shop.get_by_test_id("start-small").click()
    shop.get_by_test_id("start-reminder").click()
    shop.locator("[data-testid=order-item][data-item=pizza]").click()
    shop.locator("[data-testid=order-item][data-item=spoon]").click()
    expect(shop.get_by_test_id("ready")).not_to_have_text("0")
    expect(dead).to_contain_text("failed 3 times")
    expect(shop.get_by_test_id("lane-delayed").get_by_test_id("job").filter(has_text="Reminder for ann")).to_have_count(1)
    expect(shop.locator("[data-testid=order][data-state=delivered]")).to_contain_text("Pizza from Nino")
    expect(shop.locator("[data-testid=order][data-state=rejected]")).to_contain_text("the bank declined it")
    expect(shop.get_by_test_id("ready")).to_have_text("0")
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
