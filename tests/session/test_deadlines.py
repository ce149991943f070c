"""The one rule for a client's time and its socket, with a clock that the test turns."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.config import Config
from gateway.errors import Disconnect
from gateway.live.catchup import State
from gateway.rules.identity import ANONYMOUS, Identity
from gateway.runtime.wheel import Wheel
from gateway.session.deadlines import GRACE_SECONDS, NEVER, TimedClient
from gateway.session.states import CLOSED, CONNECTING, OPENED, ConnectionState, IllegalTransition

TODAY = 1_800_000_000.0


class Client(TimedClient[Any]):
    """A client without an edge. ``pinged`` counts its pings, ``ended`` is what it was closed with."""

    has_grace = True
    transport = "test"
    waiting_bytes = 0
    paused = False

    def __init__(self, state: ConnectionState = CONNECTING, identity: Identity = ANONYMOUS, **config: Any) -> None:
        hub = SimpleNamespace(now=lambda: 0.0, drained=lambda subscription: self.caught_up.append(subscription))
        node: Any = SimpleNamespace(config=Config(**config), wheel=Wheel(), hub=hub)
        super().__init__(node, identity, state, open_by=10.0)
        self.pinged = self.ended = 0
        self.subscriptions: list[Any] = []
        self.over: list[Any] = []
        self.caught_up: list[Any] = []

    def followed(self) -> list[Any]:
        return self.subscriptions

    def ping(self, now: float) -> None:
        self.pinged += 1

    def expired(self, subscription: Any) -> None:
        self.over.append(subscription)

    def close(self, disconnect: Disconnect) -> None:
        self.ended = disconnect.code
        self.move(CLOSED)
        self.node.wheel.remove(self)


def subscription(*, has_history: bool = True, expires_at: float = 0.0) -> Any:
    """A live subscription; ``has_history``: its channel has history."""
    fallen: list[bool] = []
    channel = SimpleNamespace(has_history=has_history)
    return SimpleNamespace(state=State.LIVE, channel=channel, expires_at=expires_at, fallen=fallen, fall_behind=lambda: fallen.append(True))


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day does not change."""
    monkeypatch.setattr(time, "time", lambda: TODAY)


@pytest.mark.parametrize(("state", "code"), [(OPENED, 3502), (CONNECTING, 3004)])
def test_a_client_that_is_not_connected_in_time_is_closed(state: ConnectionState, code: int) -> None:
    client = Client(state)
    assert client.tick(9.9) == 10.0 and not client.ended
    assert client.tick(10.0) is None and client.ended == code


def test_an_illegal_transition_changes_nothing_of_a_client() -> None:
    client = Client(OPENED)
    with pytest.raises(IllegalTransition):
        client.opened()
    assert client.state is OPENED and client.open_by == 10.0 and client.next_ping == NEVER


def test_a_connected_client_is_pinged_at_a_random_time_first_and_regularly_then() -> None:
    client = Client(ping_seconds=20)
    client.opened()
    first = client.next_ping
    assert 10 <= first <= 20
    assert client.tick(first - 1) == first and not client.pinged
    assert client.tick(first) == first + 20 and client.pinged == 1


def test_a_full_socket_is_closed_after_slow_seconds_unless_it_drains() -> None:
    client = Client(limits={"slow_seconds": 3})
    client.opened()
    client.subscriptions = [subscription(), subscription()]
    client.fell_behind(1.0)
    assert all(each.fallen for each in client.subscriptions)
    client.drained()
    assert client.caught_up == client.subscriptions
    assert client.tick(4.0) is not None and not client.ended
    client.fell_behind(5.0)
    assert client.tick(7.9) == 8.0
    assert client.tick(8.0) is None and client.ended == 3008


def test_a_full_socket_ends_a_client_of_a_channel_without_history_at_once() -> None:
    client = Client()
    client.opened()
    client.subscriptions = [subscription(has_history=False), subscription()]
    client.fell_behind(1.0)
    assert client.ended == 3008 and not client.subscriptions[1].fallen


def test_a_socket_that_is_full_again_stops_the_catching_up() -> None:
    client = Client()
    client.opened()
    client.subscriptions = [subscription()]
    client.paused = True
    client.drained()
    assert not client.caught_up


def test_a_token_counts_until_its_end_and_leeway_and_grace_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(identity=ANONYMOUS._replace(expires_at=TODAY + 10), tokens={"leeway": 5}, ping_seconds=1000)
    client.opened()
    ends_first = subscription(expires_at=TODAY + 2)
    client.subscriptions = [ends_first, subscription()]
    assert client.next_due(100.0) == 100.0 + 2 + 5 + GRACE_SECONDS
    for seconds, over in [(31.9, []), (32, [ends_first]), (39.9, [ends_first]), (40, [None, ends_first])]:
        client.over = []
        monkeypatch.setattr(time, "time", lambda seconds=seconds: TODAY + seconds)
        client.tick(100.0 + seconds)
        assert client.over == over, seconds


def test_a_client_that_its_ping_ended_is_not_due_again() -> None:
    """The ping may fill its socket, and so close it: the wheel must not have it back."""
    client = Client()
    client.opened()
    client.ping = lambda now: client.close(Disconnect(3008))  # type: ignore[method-assign]
    client.node.wheel.turn(client.next_ping + 1)
    assert client.ended == 3008 and client.bucket == 0
