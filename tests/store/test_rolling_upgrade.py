"""Gateways of two versions on one Valkey: which functions are loaded, and whose rules are in force, in whatever order they start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.control.rules_check import RulesCheck
from gateway.errors import StoreError
from gateway.runtime.tasks import Tasks
from gateway.store.access import Commands, make_commands
from gateway.store.connect import Address
from gateway.store.library import BUILT_IN_RULES, VERSION, Library

from ..kit.programs import run
from ..kit.valkeys import OwnValkey

OLDER, NEWER = VERSION - 1, VERSION + 1
OURS = {"": {"size": 1000, "ttl": 600, "meta_ttl": 3600, "index": 0}}


@pytest.fixture
async def commands(own: OwnValkey) -> AsyncIterator[Commands]:
    """Of an empty Valkey, without the functions."""
    own.empty()
    commands = make_commands(Address(own.url))
    await commands.start()
    yield commands
    await commands.close()


def source_of(version: int, prefix: str = "gw", rules: dict[str, Any] = OURS) -> str:
    """What a gateway of another version loads."""
    text = Library(rules, prefix).source({"": BUILT_IN_RULES, prefix: rules})
    return text.replace(f"name=gateway_{VERSION}", f"name=gateway_{version}").replace(f"'{VERSION}.", f"'{version}.")


def versions(own: OwnValkey) -> list[bytes]:
    return [library[1] for library in own.ask("FUNCTION", "LIST")]


async def test_an_upgrade_leaves_the_rules_of_the_other_prefixes_in_force(own: OwnValkey, commands: Commands) -> None:
    own.ask("FUNCTION", "LOAD", source_of(OLDER, "other"))
    await Library(BUILT_IN_RULES, "gw").install(commands)
    assert await Library(OURS, "other").agrees(commands), "its gateways still run, and its histories would be cut to the built-in size"


class FasterOlder:
    """A call that lets a gateway of the older version load its functions between the removal of these and the load of ours."""

    def __init__(self, own: OwnValkey, call: Callable[..., Awaitable[Any]]) -> None:
        self._own = own
        self._call = call
        self._times = 2

    async def __call__(self, *words: Any, **options: Any) -> Any:
        if words[:2] == (b"FUNCTION", b"LOAD") and self._times:
            self._times -= 1
            self._own.ask("FUNCTION", "LOAD", source_of(OLDER))
        return await self._call(*words, **options)


@pytest.mark.parametrize("act", ["install", "ready"])
async def test_an_older_gateway_that_loads_its_functions_in_between_does_not_keep_them(
    own: OwnValkey, commands: Commands, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """Nor does it take the rules of other prefixes away with them: their histories would be cut to the built-in size."""
    own.ask("FUNCTION", "LOAD", source_of(OLDER, "other"))
    library, call = Library(OURS, "gw"), FasterOlder(own, commands.call)
    if act == "ready":
        assert (await library.ready(call)).startswith(b"%d." % VERSION)
    else:
        monkeypatch.setattr(commands, "call", call)
        await library.install(commands)
    assert versions(own) == [b"gateway_%d" % VERSION]
    assert await Library(OURS, "other").agrees(commands)


async def test_processes_that_start_together_replace_the_functions_of_an_older_version(own: OwnValkey, commands: Commands) -> None:
    """As the workers of one gateway. None of them fails because another one was faster, and the rules of other prefixes stay in force."""
    own.ask("FUNCTION", "LOAD", source_of(OLDER, "other"))

    async def start() -> None:
        library = Library(BUILT_IN_RULES, "gw")
        its_own = make_commands(Address(own.url), functions=library)
        try:
            await its_own.start()
            await library.install(its_own)
        finally:
            await its_own.close()

    await asyncio.gather(*[start() for _ in range(8)])
    assert versions(own) == [b"gateway_%d" % VERSION]
    assert await Library(OURS, "other").agrees(commands) and await Library(BUILT_IN_RULES, "gw").agrees(commands)


async def test_rules_that_are_missing_in_valkey_are_put_into_force(own: OwnValkey, commands: Commands) -> None:
    ours = Library(OURS, "gw")
    await ours.install(commands)
    own.ask("FUNCTION", "FLUSH")  # and a gateway of another prefix is the first to notice
    await Library(BUILT_IN_RULES, "other").ready(commands.call)
    await RulesCheck(ours, commands, Tasks())._compare()
    assert await ours.agrees(commands) and await Library(BUILT_IN_RULES, "other").agrees(commands)


async def test_the_functions_of_an_empty_valkey_are_loaded_once(own: OwnValkey, commands: Commands) -> None:
    library = Library(OURS, "gw")
    generation = await library.ready(commands.call)
    await library.install(commands)
    assert await library.ready(commands.call) == generation, "each load costs all connections a repeat of what is under way"


async def test_an_older_gateway_reports_that_newer_functions_lack_its_rules(
    own: OwnValkey, commands: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    own.ask("FUNCTION", "LOAD", source_of(NEWER, "other"))
    await Library(OURS, "gw").install(commands)
    assert f"version {NEWER}" in caplog.text and "rules" in caplog.text
    caplog.clear()
    await Library(OURS, "other").install(commands)
    assert f"version {NEWER}" in caplog.text and "rules" not in caplog.text


async def test_functions_that_stay_missing_are_not_asked_for_in_a_busy_loop(own: OwnValkey) -> None:
    """As where another program loads functions of our names, and not all of them."""
    own.empty()
    own.ask(
        "FUNCTION",
        "LOAD",
        source_of(VERSION)
        .replace("'gateway_page'", "'gateway_pages'")
        .replace("function_name = 'gateway_page',", "function_name = 'gateway_pages',"),
    )
    commands = make_commands(Address(own.url), functions=Library(OURS, "gw"), patience=1.0)
    await commands.start()
    try:
        before = own.client.info("stats")["total_commands_processed"]
        await asyncio.gather(
            commands.call(b"FCALL", b"gateway_page", 3, b"gw:{a}:meta", b"gw:{a}:stream", b"gw:{a}:keys", 0, 1, 100, b""),
            return_exceptions=True,
        )
        assert own.client.info("stats")["total_commands_processed"] - before < 100
    finally:
        await commands.close()


@pytest.mark.parametrize("refusal", ["ERR unknown command 'FCALL', with args", "ERR unknown command `FCALL`, with args"])
async def test_a_server_without_functions_is_refused_in_a_sentence(refusal: str) -> None:
    async def old_server(*words: Any) -> Any:
        raise StoreError(refusal)

    with pytest.raises(StoreError, match="older than version 7, which has no functions"):
        await Library(OURS, "gw").ready(old_server)


async def test_a_check_by_a_newer_version_leaves_the_rules_of_the_gateways_that_run_in_force(
    own: OwnValkey, commands: Commands, tmp_path: Path
) -> None:
    """Whatever its own configuration is: here none is named, as on the documentation's page about upgrades."""
    await Library(OURS, "gw").install(commands)
    own.ask("FUNCTION", "FLUSH")
    own.ask("FUNCTION", "LOAD", source_of(OLDER))
    await asyncio.to_thread(lambda: run("check", "--valkey-url", own.url, "--data-dir", tmp_path).succeeds())
    assert await Library(OURS, "gw").agrees(commands)


async def test_who_is_no_gateway_has_no_rules_that_the_first_gateway_would_differ_from(
    own: OwnValkey, commands: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    await Library(None, "gw").ready(commands.call)
    await Library(OURS, "gw").install(commands)
    assert await Library(OURS, "gw").agrees(commands) and "differed" not in caplog.text
