"""Fixtures of pytest for programs that publish.

    pytest_plugins = ["publishers.testing"]                       # in conftest.py

    def test_an_order_is_announced(published):
        place_order(17)
        assert published.of("orders:17") == [{"status": "placed"}]

    def test_the_gateway_has_it(running_gateway):
        running_gateway.publisher.publish("orders:17", {"status": "placed"})
        assert running_gateway.history("orders:17") == [{"status": "placed"}]

``published`` records what would be published (``recording.py``), but for what a transaction undoes (``undoing.py``); no Valkey is needed. The
database is a real one, with the outbox's table. ``running_gateway`` is one gateway with its embedded Valkey for all tests of a run
(``started_gateway.py``), with which it ends (``guard.py``). Override the fixture ``gateway_toml``, whose scope is the session, to give it a
configuration.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .recording import Job, Publication, Published, recording
from .started_gateway import RunningGateway, started_gateway

__all__ = ["Job", "Publication", "Published", "RunningGateway", "gateway_toml", "published", "recording", "running_gateway"]


@pytest.fixture
def published() -> Iterator[Published]:
    """What the test's program would publish, directly and through an outbox."""
    with recording() as published:
        yield published


@pytest.fixture(scope="session")
def gateway_toml() -> str:
    """The configuration of ``running_gateway``; its address, folder, API key and token secret are given to it besides."""
    return ""


@pytest.fixture(scope="session")
def running_gateway(gateway_toml: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway in a process of its own, on a free port of this machine."""
    with started_gateway(tmp_path_factory.mktemp("gateway"), gateway_toml) as gateway:
        yield gateway
