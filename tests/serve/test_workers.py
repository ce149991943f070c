"""The parent of several processes: what its own tests of the whole program would only meet by chance."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError, Unavailable
from gateway.serve import workers
from gateway.serve.workers import run_workers

from ..kit import forks
from ..kit.gateways import Start
from ..kit.servers import ValkeyServer
from ..kit.waiting import wait_until

SEEN = 7


def _ended_at_birth() -> None:
    os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        run_workers(1, lambda ready, number: time.sleep(60), lambda: None, lambda: None, 30)
    except ConfigurationError:  # the worker is gone before it said a word
        raise SystemExit(SEEN) from None


def test_a_worker_that_is_ended_while_it_starts_ends() -> None:
    parent = forks.start(_ended_at_birth)
    parent.join(15)
    assert parent.exitcode == SEEN, "it took the order for its parent's, and would be waited for"


def _replaced_in_vain(log: Path) -> None:
    logging.basicConfig(filename=log, force=True)
    workers.WATCH_SECONDS = 0.02
    started = log.with_name("started")

    def work(ready: Callable[[], None], number: int) -> None:
        if started.exists():
            raise Unavailable("no Valkey at valkey://there")
        started.touch()
        ready()
        os.kill(os.getpid(), signal.SIGKILL)

    run_workers(1, work, lambda: None, lambda: None, 5)


def test_the_log_says_why_a_worker_ended_and_why_the_one_in_its_place_does_not_start(tmp_path: Path) -> None:
    (log := tmp_path / "log").touch()
    parent = forks.start(_replaced_in_vain, log)
    try:
        wait_until(lambda: "by itself: no Valkey at valkey://there; starting another" in log.read_text(), "the reason")
        assert "by itself: signal 9; starting another" in log.read_text()
    finally:
        os.kill(parent.pid or 0, signal.SIGTERM)
        parent.join(10)
    assert parent.exitcode == 0


def _replaced_when_there_is_room(log: Path) -> None:
    logging.basicConfig(filename=log, force=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as by the program that started the gateway
    workers.WATCH_SECONDS = 0.02
    started, fork, outcomes = log.with_name("started"), os.fork, [True, True, False]

    def fork_or_not() -> int:
        if outcomes and not outcomes.pop(0):
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    def work(ready: Callable[[], None], number: int) -> None:
        ready()
        if number == 0:
            is_first = not started.exists()
            started.write_text("first" if is_first else "second")
            if is_first:
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    os.fork = fork_or_not  # type: ignore[assignment]
    run_workers(2, work, lambda: None, lambda: None, 5)


def test_a_worker_for_which_there_is_no_room_is_started_later_and_the_others_go_on(tmp_path: Path) -> None:
    (log := tmp_path / "log").touch()
    parent = forks.start(_replaced_when_there_is_room, log)
    try:
        wait_until(lambda: (tmp_path / "started").exists() and (tmp_path / "started").read_text() == "second", "a worker in its place")
        assert log.read_text().count("another worker cannot be started: Resource temporarily unavailable; trying again") == 1
        assert log.read_text().count("by itself") == 1, "the other one went on"
    finally:
        os.kill(parent.pid or 0, signal.SIGTERM)
        parent.join(10)
    assert parent.exitcode == 0


def test_an_order_to_end_that_comes_while_a_dead_worker_is_noted_reaches_the_others() -> None:
    gone, lives = subprocess.Popen(["true"]), subprocess.Popen(["sleep", "60"])
    gone.wait()
    parent = workers._Workers(lambda ready, number: None)
    parent._workers = {each.pid: workers._Worker(0, 0, 0.0) for each in (gone, lives)}
    parent.stop(signal.SIGTERM, None)
    assert lives.wait(10) == -signal.SIGTERM


def test_a_worker_that_starts_takes_no_connections_before_it_is_ready(
    start_gateway: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """They would wait for it, and be reset where its start fails, as while Valkey is away."""
    server = ValkeyServer(tmp_path_factory.mktemp("server"))
    try:
        gateway = start_gateway("workers = 2\n", valkey_url=server.url)
        children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children")
        first, _ = before = children.read_text().split()
        server.freeze()
        os.kill(int(first), signal.SIGKILL)
        wait_until(lambda: set(children.read_text().split()) - set(before), "another is started in its place")
        assert {gateway.http("GET", "/health/live")[0] for _ in range(20)} == {200}
        server.thaw()
        assert gateway.stop() == 0
    finally:
        server.thaw()
        server.stop()
