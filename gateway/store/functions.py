"""The function library: its source with the rules compiled in, and how it gets into Valkey.

The library is named by version, and names are never reused: an older gateway cannot replace a newer one's library,
because Valkey refuses a second library with the same functions and only the newer deletes the older.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

from ..config import BUILT_IN, ChannelRules
from ..errors import StoreError

__all__ = ["VERSION", "Library", "rules_of"]

VERSION = 1  # of functions.lua; count it up with every change of what a function does

_NAME = re.compile(rb"^gateway_(\d+)$")
_SOURCE = files(__package__).joinpath("functions.lua").read_text()

log = logging.getLogger("gateway.store")

Call = Callable[..., Awaitable[Any]]


def rules_of(channels: ChannelRules, namespaces: Mapping[str, ChannelRules]) -> dict[str, dict[str, int]]:
    """What the library needs of the rules: per namespace, "" for channels with none."""
    spaces = {"": channels, **namespaces}
    return {name: {"size": r.history_size, "ttl": r.history_ttl, "meta_ttl": r.meta_ttl} for name, r in sorted(spaces.items())}


class Library:
    """One version of the functions with one set of rules.

    ``rules`` None belongs to a publisher without a configuration: it loads what the gateways left in ``rules_key``,
    and the built-in rules only where no gateway ever ran.
    """

    def __init__(self, rules: dict[str, dict[str, int]] | None, rules_key: str, *, sharded: bool = False) -> None:
        self._rules = rules
        self._rules_key = rules_key
        self._sharded = sharded

    def source(self, rules: dict[str, dict[str, int]]) -> str:
        table = ", ".join(
            f'["{name}"] = {{size = {r["size"]}, ttl = {r["ttl"]}, meta_ttl = {r["meta_ttl"]}}}' for name, r in rules.items()
        )
        return (
            f"#!lua name=gateway_{VERSION}\n"
            f"local RULES = {{{table}}}\n"
            f"local DIGEST = '{_digest(rules)}'\n"
            f"local ANNOUNCE = '{'SPUBLISH' if self._sharded else 'PUBLISH'}'\n"
            f"{_SOURCE}"
        )

    async def install(self, call: Call) -> None:
        """Makes the library and its rules the ones in force: at the start of a gateway. A newer version stays."""
        assert self._rules is not None
        loaded = await _loaded(call)
        if loaded and max(loaded) > VERSION:
            log.warning("valkey holds version %d of the functions, newer than this gateway's %d: it stays", max(loaded), VERSION)
            return
        if VERSION in loaded and await call(b"FCALL", b"gateway_rules", b"0") != _digest(self._rules).encode():
            log.warning("the channels' rules in valkey were others than this configuration's: they are replaced")
        await call(b"SET", self._rules_key, json.dumps(self._rules))
        await self._replace(call, loaded, self._rules)

    async def restore(self, call: Call) -> None:
        """Loads the library where Valkey has none: after ``Function not found``."""
        rules = self._rules
        if rules is None:
            kept = await call(b"GET", self._rules_key)
            rules = json.loads(kept) if kept else rules_of(ChannelRules(), {name: ChannelRules(**rules) for name, rules in BUILT_IN.items()})
        elif not await call(b"EXISTS", self._rules_key):
            await call(b"SET", self._rules_key, json.dumps(rules))
        await self._replace(call, [version for version in await _loaded(call) if version < VERSION], rules)

    async def agrees(self, call: Call) -> bool:
        """Whether the rules in force are this configuration's."""
        assert self._rules is not None
        return await call(b"FCALL", b"gateway_rules", b"0") == _digest(self._rules).encode()

    async def _replace(self, call: Call, loaded: list[int], rules: dict[str, dict[str, int]]) -> None:
        for version in loaded:
            if version < VERSION:
                await call(b"FUNCTION", b"DELETE", f"gateway_{version}")
        try:
            await call(b"FUNCTION", b"LOAD", b"REPLACE", self.source(rules))
        except StoreError as error:
            if "already exists" not in str(error):  # a newer gateway was faster
                raise


async def _loaded(call: Call) -> list[int]:
    """The versions of the library in Valkey; there is one, or none."""
    versions = []
    for library in await call(b"FUNCTION", b"LIST", b"LIBRARYNAME", b"gateway_*"):
        fields = dict(zip(library[::2], library[1::2], strict=True))
        if match := _NAME.match(fields[b"library_name"]):
            versions.append(int(match[1]))
    return versions


def _digest(rules: dict[str, dict[str, int]]) -> str:
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]
