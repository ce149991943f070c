"""Lines that come from standard input."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from gateway.cli import input_lines
from gateway.cli.input_lines import send_lines
from gateway.errors import Unavailable


async def _lines() -> AsyncIterator[bytes]:
    for number in range(20):
        yield b"%d\n" % number


async def test_a_valkey_that_goes_away_meanwhile_is_one_error_which_names_the_line_to_go_on_with(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(input_lines, "_lines_of_stdin", _lines)

    async def send(document: bytes) -> int:
        await asyncio.sleep(0)
        if int(document) >= 7:
            raise Unavailable("the connection to Valkey was lost")
        return int(document)

    with pytest.raises(Unavailable, match="the connection to Valkey was lost"):
        await send_lines("published", send)
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("gateway: line 8 may not have been published; all before it were")
    await asyncio.sleep(0.01)
    gc.collect()
    assert not caplog.records, "the others failed as well, and that is no news"
