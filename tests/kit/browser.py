"""A real browser, and pages whose script may not fail.

page      a fixture: a new tab; fails its test if a script failed or the content security policy was broken
launch_options   how a test starts a Chromium of its own
follow    opens a page whose script follows channels; ``seen`` is what it received, ``cut`` and ``restore`` its connection
failure   how a promise of the page is rejected
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .gateways import RunningGateway

if TYPE_CHECKING:  # the packages whose tests have no browser do not wait for it
    from playwright.sync_api import Browser, BrowserContext, Page

__all__ = [
    "BLANK",
    "BLOCKED_WEBSOCKET",
    "FOLLOW",
    "PATIENCE_MS",
    "browser",
    "chromium",
    "context",
    "cut",
    "failure",
    "follow",
    "launch_options",
    "numbers",
    "open_landing",
    "page",
    "restore",
    "seen",
    "wait",
]

PATIENCE_MS = 20_000  # Playwright's own 5 s are too few where several browsers share two cores
# The shell without a window takes two thirds of the processor time.
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium") or shutil.which("chromium-browser")
# The last one is about the window's own parts, whose animations nobody sees and which are drawn frame by frame.
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    " --force-prefers-reduced-motion"
)
# The omnibox's pages, which a window loads anew and nobody sees here, took half of a test's time. This replaces Playwright's own list,
# of which the rest concerns other hosts.
DISABLED_FEATURES = "WebUIOmniboxPopup WebUIOmniboxAimPopup SpareRendererForSitePerProcess PaintHolding AvoidUnnecessaryBeforeUnloadCheckSync DestroyProfileOnBrowserClose HttpsUpgrades HttpsFirstBalancedModeAutoEnable MediaRouter OptimizationHints NetworkTimeServiceQuerying AimEnabled PreconnectToSearch"

# A page without a content security policy or a script of its own, on the gateway's origin.
BLANK = "/health/live"

FOLLOW = """async ({ url, channels, options, tokens }) => {
  const { Gateway } = await import(url + "/static/gateway.js");
  window.seen = []; window.gaps = []; window.states = []; window.asked = 0;
  if (tokens) options.token = async () => tokens[Math.min(asked++, tokens.length - 1)];
  window.gateway = new Gateway({ backoffMs: 50, ...options });
  gateway.on("state", (event) => states.push(event));
  gateway.on("publication", (event) => seen.push(event));
  gateway.on("gap", (event) => gaps.push(event));
  window.subscriptions = channels.map((channel) => gateway.subscribe(channel));
  for (const subscription of subscriptions) subscription.on("state", (event) => states.push(event));
}"""

BLOCKED_WEBSOCKET = """
window.WebSocket = class {
  constructor() { setTimeout(() => this.onclose?.({ code: 1006, reason: "" })); }
  close() {}
};
"""


def launch_options() -> dict[str, Any]:
    """Of ``chromium.launch``. Skips the test where there is no Chromium; in CI it fails."""
    if CHROMIUM is None:
        reason = "there is no Chromium: apt-get install chromium-headless-shell"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return {"executable_path": CHROMIUM, "args": [*ARGUMENTS.split(), f"--disable-features={','.join(DISABLED_FEATURES.split())}"]}


@pytest.fixture(scope="session")
def chromium() -> Iterator[tuple[Browser, asyncio.AbstractEventLoop]]:
    """One for all modules of a worker, and Playwright's loop: to start it and its driver takes a second of the processor's time."""
    options = launch_options()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**options)
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        yield browser, loop
        asyncio._set_running_loop(loop)
        browser.close()


@pytest.fixture(scope="module")
def browser(chromium: tuple[Browser, asyncio.AbstractEventLoop]) -> Iterator[Browser]:
    """Playwright's loop counts as running between its calls, so that no test could run a loop of its own: it does so in these modules only."""
    browser, loop = chromium
    asyncio._set_running_loop(loop)
    yield browser
    asyncio._set_running_loop(None)


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One for all tests of a module: a tab's storage is its own, and nothing else is kept."""
    context = browser.new_context(reduced_motion="reduce")  # an animation is drawn frame by frame, by the processor
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page whose script may not fail, and whose content security policy nothing may break."""
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
    yield page
    page.close()
    assert not faults


def open_landing(page: Page, gateway: RunningGateway, user: str = "ann") -> None:
    from playwright.sync_api import expect

    page.goto(f"{gateway.url}/#token={gateway.token(user)}")
    expect(page.locator("#state")).to_have_text("live")


def follow(page: Page, gateway: RunningGateway, *channels: str, tokens: list[str] | None = None, **options: Any) -> None:
    """Opens a page whose script follows the channels, and waits until it is live in the last of them."""
    page.goto(gateway.url + BLANK)
    options.setdefault("token", gateway.token("ann"))
    arguments = {"url": gateway.url, "channels": channels, "options": options, "tokens": tokens}
    page.evaluate(FOLLOW, arguments)
    wait(page, "subscriptions.every(({ state }) => state === 'live')")


def wait(page: Page, condition: str) -> None:
    page.wait_for_function(f"() => {condition}")


def seen(page: Page, count: int) -> list[dict[str, Any]]:
    """What the page received, once it is ``count`` publications; any that came after them is in it too."""
    wait(page, f"seen.length >= {count}")
    return page.evaluate("seen")


def numbers(publications: list[dict[str, Any]]) -> list[Any]:
    return [publication["data"] for publication in publications]


def cut(page: Page) -> None:
    page.evaluate("gateway.disconnect()")


def restore(page: Page) -> None:
    page.evaluate("gateway.connect()")


def failure(page: Page, call: str) -> dict[str, Any]:
    """How the promise of ``call`` is rejected."""
    return page.evaluate(f"{call}.then(() => null, ({{ name, code, message }}) => ({{ name, code, message }}))")
