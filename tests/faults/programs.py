"""What processes of the stage do besides gateways: relaying, and running jobs. ``stage`` starts each by ``forks.start``."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.errors import Unavailable
from gateway.work import Reject, Retry, Worker

from ..kit.relays import relaying

__all__ = ["QUEUE", "REJECTED", "RETRIED", "job_worker", "relay"]

QUEUE = "effects"
LEASE_SECONDS = 1.0
REJECTED, RETRIED = 40, 15  # of so many jobs one is rejected, or fails at its first attempt


@contextlib.contextmanager
def _logging_to(file: Path) -> Iterator[None]:
    """A process that begins while Valkey is away ends with a sentence, as the commands do; the stage starts it again."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target in (1, 2):
        os.dup2(opened, target)
    logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(message)s", force=True)
    try:
        yield
    except Unavailable as error:
        logging.error("%s", error)


async def relay(database_url: str, valkey_url: str, prefix: str, log: Path) -> None:
    with _logging_to(log):
        await relaying(database_url, valkey_url, prefix)


async def job_worker(valkey_url: str, prefix: str, effects: Path, log: Path) -> None:
    """The effect of a job is its key, a line of the file ``effects``."""
    with _logging_to(log):
        await _work(valkey_url, prefix, effects)


async def _work(valkey_url: str, prefix: str, effects: Path) -> None:
    worker = Worker([QUEUE], url=valkey_url, prefix=prefix, concurrency=4, lease=LEASE_SECONDS, stop_seconds=2)

    @worker.job("effect")
    async def effect(job: Any, data: dict[str, Any]) -> None:
        if data["n"] % REJECTED == REJECTED - 1:
            raise Reject("this one is rejected")
        if data["n"] % RETRIED == RETRIED - 1 and job.attempt == 1:
            raise Retry(after=0.2)
        with effects.open("a") as file:
            file.write(f"{job.key}\n")

    await worker.run()
