"""The upkeep of the embedded Valkey: a server that cannot be started again floods no log and reads its file not without end."""

from __future__ import annotations

import logging
from unittest.mock import Mock

import pytest

from gateway.errors import ConfigurationError
from gateway.serve.upkeep import PAUSE_MOST, Upkeep


class DeadServer:
    """A server that ended, and whose disk is full."""

    def __init__(self) -> None:
        self.starts = 0
        self.fault = "No space left on device"

    def alive(self) -> bool:
        return self.starts > 0 and not self.fault

    def start(self) -> None:
        self.starts += 1
        if self.fault:
            raise ConfigurationError(self.fault)

    def sync(self) -> None:
        pass


def test_a_server_that_cannot_be_started_is_logged_once_and_tried_at_intervals(caplog: pytest.LogCaptureFixture) -> None:
    server, clock = DeadServer(), iter(range(1_000_000))
    upkeep = Upkeep(server, lambda: next(clock) / 4)
    with caplog.at_level(logging.INFO):
        while next(clock) < 4 * 60:
            upkeep()
        assert caplog.messages == [
            "the embedded valkey ended by itself; starting it again",
            "No space left on device; trying again",
        ]
        assert 60 / PAUSE_MOST / 2 < server.starts < 60
        server.fault = ""
        while next(clock) < 4 * 70:
            upkeep()
        assert caplog.messages[2:] == ["the embedded valkey works again"]


def test_a_disk_that_fails_is_named_as_that_of_the_embedded_server(caplog: pytest.LogCaptureFixture) -> None:
    server = Mock(**{"alive.return_value": True, "sync.side_effect": OSError(5, "Input/output error")})
    upkeep = Upkeep(server, iter(range(0, 1000, 100)).__next__)
    upkeep()
    server.sync.side_effect = None
    upkeep()
    assert caplog.messages == [
        "the file of the embedded valkey cannot be brought to the disk: [Errno 5] Input/output error; trying again",
        "the embedded valkey works again",
    ]
