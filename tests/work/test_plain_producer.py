"""Enqueueing without asyncio, where a signal comes in between."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import valkey

from gateway.work import SyncQueue, plain_producer


def test_a_job_that_a_signal_handler_enqueues_replaces_none_that_it_interrupted(
    valkey_url: str, store: valkey.Valkey, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It overtakes that one, whose number would be an old one then."""
    queue = SyncQueue(valkey_url, prefix=prefix)
    before = signal.signal(signal.SIGUSR1, lambda *_: queue.enqueue("handler"))
    call = plain_producer.enqueue_call

    def interrupted(*words: Any) -> Any:
        if words[2][0] == "interrupted":
            signal.raise_signal(signal.SIGUSR1)
        return call(*words)

    monkeypatch.setattr(plain_producer, "enqueue_call", interrupted)
    try:
        new = [queue.enqueue(name).new for name in ("first", "interrupted", "last")]
    finally:
        signal.signal(signal.SIGUSR1, before)
        queue.close()
    assert new == [True] * 3 and store.llen(f"{prefix}:queue:{{default}}:ready:0") == 4
