"""``gateway restored``, after Valkey came back from a backup."""

from __future__ import annotations

import pytest

from gateway.config import Config
from gateway.errors import UnrecoverablePosition
from gateway.store.layout import publish_words

from ..kit.programs import run
from ..kit.valkeys import OwnValkey, opened_history


async def test_a_position_from_after_the_backup_leads_nowhere(own: OwnValkey) -> None:
    """There are as many publications again as were lost: without it, the client would be given those after its offset, as if it had the others."""
    own.empty()
    async with opened_history(own.url, "gw", Config()) as history:
        names = ["a", "b:é", "c"]
        keys = [key for name in names for key in history.layout.keys(name)[:2]]

        async def publish(times: int) -> list[object]:
            return [await history.publish(name, publish_words(b"1")) for name in names for _ in range(times)]

        await publish(2)
        backup = [(key, own.ask("DUMP", key)) for key in keys]
        seen = dict(zip(names, (await publish(3))[2::3], strict=True))
        for key, value in backup:
            own.ask("RESTORE", key, 0, value, "REPLACE")
        own.ask("SET", "gw:{other}:meta", "of another program")
        own.ask("HSET", "gw:{}:meta", "of another program", "too")
        outcome = run("restored", "--yes", "--valkey-url", own.url)
        assert outcome.status == 0 and "3 channels of prefix gw began a new epoch" in outcome.out
        await publish(5)
        for name, position in seen.items():
            with pytest.raises(UnrecoverablePosition):
                await history.after(name, position, 10)  # type: ignore[arg-type]  # a position of a channel with a history
    run("restored", "--valkey-url", own.url).fails(2, "where it cannot ask, give --yes")
