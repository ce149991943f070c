"""The longest turn of the loop, in milliseconds of CPU: ``python -m tests.benchmark_turns [CLIENTS]``.

Of one gateway with so many clients, each on a channel of its own with presence: while they connect, while metrics are read, after the link
to Valkey was lost, after Valkey forgot everything, while as many others vanish together, and while SIGTERM sends them away. The same of as many
users with tokens, with an inbox each, history and lifecycle events, one of whom had a token revoked. And of a publication to 100,000 subscribers
whose sockets swallow what is written. CPU is counted, not time, so that other programs on the machine do not count. For that, the gateway runs a callback in every turn;
it never sleeps then. Run it several times: what a virtual machine or a host does meanwhile may count as CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import uvloop

from gateway.edges.websocket import WEBSOCKET
from gateway.live.subscription import Subscription
from gateway.publication import Publication
from gateway.runtime.loop_lag import LoopLag
from tests.benchmark_cluster.subscribers import Client, Subscribers
from tests.kit.forks import Program
from tests.kit.quiet_hub import quiet_hub
from tests.kit.servers import ValkeyServer
from tests.kit.tokens import SECRET, token
from tests.kit.waiting import until, wait_until

CLIENTS = 8000
SUBSCRIBERS = 100_000
SETTLE_SECONDS = 5
KEY = "key"
TOML = """
port = 0
valkey_url = "{url}"
data_dir = "{folder}/data"
log_level = "error"
drain_seconds = 2
api_keys = ["{key}"]
"""
ANONYMOUS = """
[insecure]
clients = true
[channels]
presence = true
"""
USERS = f"""
events = true
[tokens]
hmac_secret = "{SECRET}"
[channels]
presence = true
history_size = 100
history_ttl = "5m"
[namespaces.notifications]
history_size = 100
history_ttl = "1h"
"""


class LongestTurn(LoopLag):
    """In place of the gateway's own clock of its loop: writes the longest turn since the last SIGUSR1 to the file $LONGEST_TURN."""

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._file = Path(os.environ["LONGEST_TURN"])
        self._loop.add_signal_handler(signal.SIGUSR1, self._begin)
        self._begin()
        self._turn()
        await asyncio.Event().wait()

    def _begin(self) -> None:
        self._longest, self._began = 0, time.thread_time_ns()
        self._file.write_text("0")

    def _turn(self) -> None:
        took = time.thread_time_ns() - self._began
        if took > self._longest:
            self._longest = took
            self._file.write_text(str(took))
        self._began = time.thread_time_ns()
        self._loop.call_soon(self._turn)


def gateway(folder: Path, url: str, rules: str) -> tuple[Program, int]:
    """The process, and its port."""
    (folder / "gateway.toml").write_text(TOML.format(url=url, folder=folder, key=KEY) + rules)
    program = Program(
        "gateway.cli",
        folder / "out",
        folder / "err",
        *("serve", "--config", str(folder / "gateway.toml")),
        environment={"LONGEST_TURN": str(folder / "turn")},
        constants={"gateway.app.LoopLag": LongestTurn},
    )
    wait_until(lambda: (folder / "out").exists() and " is ready at " in (folder / "out").read_text(), "the gateway is ready", 60)
    return program, int((folder / "out").read_text().split(" is ready at ")[1].split()[0].rpartition(":")[2])


def client(port: int, number: int, connect: str) -> Client:
    message = f'{{"id":1,"connect":{connect}}}\n{{"id":2,"subscribe":{{"channel":"own{number}"}}}}'
    return Client(port, message, '"id":2', may_end=True)


def anonymous(port: int, number: int) -> Client:
    return client(port, number, "{}")


def user(port: int, number: int) -> Client:
    return client(port, number, f'{{"token":"{token(f"user{number}")}"}}')


def request(port: int, path: str, body: bytes | None = None) -> None:
    headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)) as answer:
        answer.read()


def of_a_gateway(clients: int, rules: str, make: Callable[[int, int], Client]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, server = Path(name), ValkeyServer(Path(name) / "valkey")
        program, port = gateway(folder, server.url, rules)

        @contextlib.contextmanager
        def measured(what: str) -> Iterator[None]:
            program.send_signal(signal.SIGUSR1)
            time.sleep(1)
            yield
            print(f"{what:50} {int((folder / 'turn').read_text()) / 1e6:6.1f} ms", flush=True)

        try:
            subscribers = Subscribers([make(port, number) for number in range(clients)])
            with measured(f"{clients} clients connect"):
                subscribers.__enter__()
            with measured("metrics are read"):
                for _ in range(3):
                    request(port, "/metrics")
            with measured("a token is revoked"):
                request(port, "/api/revoke", b'{"token_id": "of no client"}')
            with measured("the link is lost"):
                server.client.client_kill_filter(_type="pubsub")
                time.sleep(SETTLE_SECONDS)
            with measured("Valkey forgot everything"):
                server.client.flushall()
                time.sleep(SETTLE_SECONDS)
            others = Subscribers([make(port, clients + number) for number in range(clients)]).__enter__()
            with measured("as many others vanish"):
                others.__exit__()
                time.sleep(SETTLE_SECONDS)
            with measured("SIGTERM"):
                program.send_signal(signal.SIGTERM)
                program.wait(60)
            subscribers.__exit__()
        finally:
            program.kill()
            server.stop()


class Swallowed(Subscription):
    """A subscription whose socket takes everything."""

    __slots__ = ()
    paused = False

    def begin(self, recovered: bool, publications: list[Publication]) -> None: ...

    def gap(self) -> None: ...


async def of_a_large_channel(folder: Path) -> None:
    os.environ["LONGEST_TURN"] = str(folder / "turn")
    hub = quiet_hub()
    channel = hub.channel("c")
    hub.on_subscribed(channel.key)
    await until(lambda: channel.is_open, "the channel is open")
    written: list[int] = []
    for _ in range(SUBSCRIBERS):
        hub.follow(Swallowed(channel, WEBSOCKET, lambda payload: written.append(len(payload)), None))
    measuring = asyncio.create_task(LongestTurn().run())
    await asyncio.sleep(0.1)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.1)
    hub.on_announcements({channel.key: [b'@1 e1 7\n{"mark":"%b"}' % (b"x" * 150)]})
    while len(written) < SUBSCRIBERS:
        await asyncio.sleep(0)
    took = int((folder / "turn").read_text()) / 1e6
    print(f"{f'a publication to {SUBSCRIBERS:,} that swallow it':50} {took:6.1f} ms", flush=True)
    measuring.cancel()


def main() -> None:
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else CLIENTS
    of_a_gateway(clients, ANONYMOUS, anonymous)
    print("and users with tokens, inboxes, history and events:")
    of_a_gateway(clients, USERS, user)
    with tempfile.TemporaryDirectory() as name:
        uvloop.run(of_a_large_channel(Path(name)))


if __name__ == "__main__":
    main()
