"""The parent of several processes: what its own tests of the whole program would only meet by chance."""

from __future__ import annotations

import os
import signal
import time

from gateway.errors import ConfigurationError
from gateway.serve.workers import run_workers

from ..kit import forks

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
