"""``gateway worker`` ends promptly, whatever its handlers do."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import valkey

from gateway.store.layout import Layout
from gateway.work import SyncQueue

from ..kit.programs import ENVIRONMENT, GATEWAY, runs
from ..kit.waiting import wait_until

SHOP = """
import asyncio, os, threading, time
from pathlib import Path
from gateway.cli import leaving
from gateway.work import Worker, engine, running

leaving.LEAVE_SECONDS = engine.CANCEL_SECONDS = running.CANCEL_SECONDS = 0.2
worker = Worker(stop_seconds=STOP_SECONDS)

def begin():
    Path("begun.new").write_text(str(os.getpid()))
    os.rename("begun.new", "begun")

@worker.job("ignores")
async def ignores(job):
    threading.Thread(target=time.sleep, args=(600,), name="endless").start()
    begin()
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

@worker.job("blocks")
async def blocks(job):
    begin()
    while True:
        time.sleep(0.01)

@worker.job("burns", process=True)
def burns(job):
    begin()
    time.sleep(600)
"""


class Running:
    """``gateway worker``, which runs one job; ``process`` is the process in which the handler is."""

    def __init__(self, program: subprocess.Popen[str], process: int) -> None:
        self.program, self.process = program, process

    def line(self) -> str:
        """The next line of its log."""
        assert self.program.stderr is not None
        return self.program.stderr.readline()

    def end(self) -> tuple[int, str]:
        """Its exit status and the rest of its log."""
        _, log = self.program.communicate(timeout=20)
        return self.program.returncode, log


@contextlib.contextmanager
def running(url: str, prefix: str, folder: Path, name: str, stop_seconds: float = 60) -> Iterator[Running]:
    (folder / "shop.py").write_text(SHOP.replace("STOP_SECONDS)", f"{stop_seconds})"))
    with SyncQueue(url, prefix=prefix) as queue:
        queue.enqueue(name)
    environment = ENVIRONMENT | {"GATEWAY_PREFIX": prefix, "GATEWAY_VALKEY_URL": url}
    with subprocess.Popen([*GATEWAY, "worker", "shop:worker"], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as program:
        try:
            process = wait_until((folder / "begun").exists, "the job runs") and int((folder / "begun").read_text())
            yield Running(program, process)
        finally:
            program.kill()


def test_a_task_and_a_thread_that_never_end_are_left(valkey_url: str, prefix: str, tmp_path: Path, store: valkey.Valkey) -> None:
    with running(valkey_url, prefix, tmp_path, "ignores", stop_seconds=0.1) as worker:
        ready = worker.line()
        assert "is ready: queues default; handlers ignores, blocks, burns; up to 32 jobs at once; valkey at " in ready, ready
        worker.program.send_signal(signal.SIGTERM)
        status, log = worker.end()
    assert status == 0 and "SIGTERM: the worker stops; a second signal ends it at once" in log, log
    left = "the process ends at once: the worker has ended, and something of it still runs: tasks: Call._caught; threads: endless"
    assert left in log, log
    ready_list = Layout(prefix).queue("default")[12]
    assert store.llen(ready_list) == 1, "the job was given back"


@pytest.mark.parametrize("name", ["blocks", "burns"])
def test_a_second_signal_ends_it_at_once(valkey_url: str, prefix: str, tmp_path: Path, name: str) -> None:
    with running(valkey_url, prefix, tmp_path, name) as worker:
        assert "is ready" in worker.line()
        worker.program.send_signal(signal.SIGINT)
        assert "SIGINT: the worker stops" in worker.line()
        worker.program.send_signal(signal.SIGINT)
        status, log = worker.end()
        assert status == 128 + signal.SIGINT and "the process ends at once: a second signal came" in log, log
        wait_until(lambda: not runs(worker.process), "the handler's process has ended, too")


def test_a_handler_in_a_process_ends_with_a_worker_that_is_killed(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    with running(valkey_url, prefix, tmp_path, "burns") as worker:
        worker.program.kill()
        wait_until(lambda: not runs(worker.process), "the handler's process has ended, too")
