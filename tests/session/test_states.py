"""The states of a connection: what the drawing shows is legal, and nothing else is."""

from __future__ import annotations

from itertools import product

import pytest

from gateway.session.states import CLOSED, CONNECTED, CONNECTING, OPENED, ConnectionState, IllegalTransition, transition

LEGAL = {(OPENED, CONNECTING), (CONNECTING, CONNECTED), (OPENED, CLOSED), (CONNECTING, CLOSED), (CONNECTED, CLOSED)}


@pytest.mark.parametrize(("current", "target"), list(product(ConnectionState, repeat=2)), ids=lambda state: state.value)
def test_a_state_follows_another_only_where_the_table_has_it(current: ConnectionState, target: ConnectionState) -> None:
    if (current, target) in LEGAL:
        assert transition(current, target) is target
        return
    with pytest.raises(IllegalTransition) as raised:
        transition(current, target)
    assert str(raised.value) == f"a connection that is {current.value} cannot become {target.value}"
