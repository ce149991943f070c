"""A process that has no file descriptor left for connections logs it, once a minute."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest

from gateway.serve.descriptors import NOTICE_SECONDS, SPARE, Descriptors

from ..kit.clock import FrozenClock


@pytest.fixture(params=[0, SPARE], ids="{} left".format)
def few_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """As many as this process uses now, and so many more, are all that it may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + request.param, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_with_descriptors_left_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    Descriptors()()
    assert not caplog.records


@pytest.mark.usefixtures("few_left")
def test_that_none_is_left_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = FrozenClock()
    look = Descriptors(clock)
    for _ in range(3):
        look()
    (record,) = caplog.records
    assert record.levelname == "ERROR" and "new connections are closed at once" in record.getMessage()
    clock.pass_time(NOTICE_SECONDS)
    look()
    assert len(caplog.records) == 2
