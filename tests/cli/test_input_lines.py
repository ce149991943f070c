"""Lines that come from standard input."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from gateway.cli import input_lines
from gateway.cli.input_lines import send_lines
from gateway.errors import GatewayError, Unavailable


async def _lines() -> AsyncIterator[bytes]:
    for number in range(20):
        yield b"%d\n" % number


async def test_a_valkey_that_goes_away_meanwhile_is_one_error_which_names_how_many_lines_were_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(input_lines, "_lines_of_stdin", _lines)

    async def send(document: bytes) -> int:
        await asyncio.sleep(0)
        if int(document) >= 7:
            raise Unavailable("the connection to Valkey was lost")
        return int(document)

    with pytest.raises(GatewayError) as raised:
        await send_lines("published", send)
    assert str(raised.value) == (
        "the connection to Valkey was lost; 7 lines were published before, and whether those after them were is not known"
    )
    await asyncio.sleep(0.01)
    gc.collect()
    assert not caplog.records, "the others failed as well, and that is no news"
