"""Commands on their way to one server: their text, the guard, and that each of them ends."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import libvalkey
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Unavailable
from gateway.store.command import GUARD_WORDS, guard_of, make_command
from gateway.store.connect import Address
from gateway.store.connection import ServerCommands
from gateway.store.layout import Layout, pack_publish, publish_words


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20),
    st.binary(max_size=20) | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20),
    st.none() | st.integers(0, 2**64 - 1),
    st.none() | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=5),
)
def test_a_publication_is_packed_as_valkey_s_own_library_packs_it(
    channel: str, data: bytes | str, version: int | None, key: str | None
) -> None:
    layout, words = Layout("gw"), publish_words(data, version=version, idempotency_key=key)
    expected = libvalkey.pack_command((b"FCALL", b"gateway_publish", 3, *layout.keys(channel), *words, b"generation", b"abc"))
    assert pack_publish(layout.channel(channel), words, GUARD_WORDS) + guard_of(b"abc") == expected


async def test_the_guard_is_that_of_the_moment_a_command_is_written() -> None:
    words = (b"FCALL", b"f", 1, b"k", "ä", 2.5)
    command = make_command(words, guarded=True, repeatable=False)
    plain = make_command(words, guarded=False, repeatable=False)
    commands = ServerCommands(Address("valkey://127.0.0.1"))
    commands.queue.waiting.extend([command, plain])
    parts = commands.queue.take_parts(1.0, guard_of(b"second"))
    assert b"".join(parts) == libvalkey.pack_command((*words, b"generation", b"second")) + libvalkey.pack_command(words)
    assert command.written == 1.0 and list(commands.queue.written) == [command, plain]
    command.future.cancel(), plain.future.cancel()


async def test_a_command_that_is_called_between_the_loss_of_a_connection_and_a_write_that_was_due_loses_patience_too() -> None:
    commands = ServerCommands(Address("valkey://127.0.0.1"), patience=0.05)
    commands.queue.release()  # as if it were connected
    taken_back = commands.begin(b"PING")
    assert len(commands.withdraw(lambda slot: False)) == 0, "it is of no slot"
    commands.queue.waiting.clear()
    commands.queue.lose("the connection was lost")
    late = commands.begin(b"PING")
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable, match="no connection to Valkey"):
            await late
    taken_back.cancel()


async def test_a_command_that_passes_the_queue_has_waited_for_its_answer_since_then() -> None:
    """Of the oldest it is measured for how long Valkey is silent."""
    commands = ServerCommands(Address("valkey://127.0.0.1"))
    commands._transport = cast(Any, SimpleNamespace(write=lambda data: None, is_closing=lambda: False))
    before = asyncio.get_running_loop().time()
    asked = commands.call_now(b"PING")
    (command,) = commands.queue.written
    assert command.urgent and before <= command.written <= asyncio.get_running_loop().time()
    asked.cancel()
