"""The function library: its source with the rules compiled in, and how it gets into Valkey.

The library is named by version, and names are never reused: an older gateway cannot replace a newer one's library,
because Valkey refuses a second library with the same functions and only the newer deletes the older.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Annotated, Any, cast

import msgspec

from ..channel_rules import BUILT_IN, ChannelRules
from ..errors import NotPermitted, StoreError, Unavailable
from ..rules.json_text import UNREADABLE
from .access import Commands
from .connection import ServerCommands
from .wrong_kind import with_remedy

__all__ = ["VERSION", "Library", "ready_blocking", "rules_of"]

VERSION = 15  # of the functions; count it up with every change of what a function does

_NAME = re.compile(rb"^gateway_(\d+)$")
_GENERATION = re.compile(rb"^(?:(\d+)\.)?[0-9a-f]{8}$")
_SHARED = "channels positions publishing histories inbox jobs runs".split()  # files whose local functions others use
_FILES = (
    "channels positions publishing histories inbox control rpc jobs enqueueing runs taking leases queues bridge index membership reader rights"
).split()


def _text(name: str) -> str:
    """A file of the library. Where no other file uses its locals, they end with it: Lua has 200 at a time."""
    text = files(__package__).joinpath("lua", f"{name}.lua").read_text()
    return text if name in _SHARED else f"do\n{text}\nend\n"


_SOURCE = "".join(_text(name) for name in _FILES)

log = logging.getLogger("gateway.store")

PREFIXES_MOST = 64  # other prefixes whose rules stay in the library, the newest ones
INSTALL_ATTEMPTS = 10
INSTALL_SECONDS = 10.0  # of a cluster whose shards are lost, or change, while the functions are loaded
INSTALL_PAUSE_SECONDS = 0.1
REMEDY = 'run "gateway install" with the address of a user that may'

Call = Callable[..., Awaitable[Any]]
Rules = dict[str, dict[str, int]]  # namespace → size, ttl, meta_ttl, index (0 or 1)


def rules_of(channels: ChannelRules, namespaces: Mapping[str, ChannelRules]) -> Rules:
    """The part of the rules that the library needs, by namespace; "" is for channels without one."""
    spaces = {"": channels, **namespaces}
    return {
        name: {"size": r.history_size, "ttl": r.history_ttl, "meta_ttl": r.meta_ttl, "index": int(r.index)}
        for name, r in sorted(spaces.items())
    }


BUILT_IN_RULES = rules_of(ChannelRules(), {name: ChannelRules(**rules) for name, rules in BUILT_IN.items()})


class Library:
    """The function library with the rules of one prefix, beside those of the other prefixes in the same Valkey.

    ``rules`` None is for a program that is no gateway: it loads the rules that gateways stored in Valkey, and the built-in
    rules where no gateway ever ran. ``call`` of the methods sends one command to a server and returns its reply
    (``ServerCommands.call``); ``shared``, where that server is a node of a cluster, sends one to wherever its key is. They raise what
    these raise, StoreError or Unavailable. ``loads`` False is for a program that changes nothing: it uses what is loaded.
    """

    def __init__(self, rules: Rules | None, prefix: str, *, loads: bool = True) -> None:
        self._rules = None if rules is None else _plain(msgspec.convert(rules, dict[str, _Rules]))
        self._prefix = prefix
        self._loads = loads
        self._own_loads: set[bytes] = set()  # the generations that this object loaded

    def source(self, rules: dict[str, Rules], *, sharded: bool = False, generation: str = "") -> str:
        """The Lua text that Valkey loads; ``rules`` are by prefix, "" for prefixes that have none. ``sharded``: for nodes of a cluster.

        ``generation`` names this load, a new one each time; without it one is made."""
        text = json.dumps(rules).replace("]", "\\u005d")  # there are no lists in it: no name can end Lua's long string
        return (
            f"#!lua name=gateway_{VERSION}\n"
            f"local RULES_JSON = [==[{text}]==]\n"
            f"local GENERATION = '{generation or _new_generation()}'\n"
            f"local ANNOUNCE = '{'SPUBLISH' if sharded else 'PUBLISH'}'\n"
            f"{_SOURCE}"
        )

    async def install(self, commands: Commands) -> None:
        """Loads this library and its rules into every shard, at the start of a gateway. A newer version that is loaded already stays.

        A user that may not load functions works with those that are loaded. Raises NotPermitted if they are missing or older. A shard of a
        cluster that is away gets the functions once it is back; one that is lost meanwhile, or takes over, is tried for INSTALL_SECONDS.
        One server that is away raises Unavailable.
        """
        assert self._rules is not None
        try:
            await commands.call(b"SET", self._rules_key, json.dumps(self._rules), repeatable=True)
        except Unavailable as error:
            if not commands.sharded:
                raise
            log.warning("the channels' rules could not be stored for publishers, which use those in the functions instead: %s", error)
        if not commands.sharded:
            await self._install_or_use(commands.call, self._rules, sharded=False)
            return
        until = time.monotonic() + INSTALL_SECONDS
        installed: set[ServerCommands] = set()
        lost: set[ServerCommands] = set()
        # Which servers are the shards may change meanwhile, as where a replica takes over.
        while left := [shard for shard in commands.shards if shard not in installed and (shard.connected or shard in lost)]:
            try:
                await self._install_or_use(left[0].call, self._rules, sharded=True)
                installed.add(left[0])
            except Unavailable as error:
                if time.monotonic() > until:
                    log.warning("the functions and rules could not be put into valkey at %s: %s", left[0].address, error)
                    return
                lost.add(left[0])
                await asyncio.sleep(INSTALL_PAUSE_SECONDS)

    async def _install_or_use(self, call: Call, rules: Rules, *, sharded: bool) -> None:
        try:
            await self._install(call, rules, sharded=sharded)
        except NotPermitted as error:
            await self._use_what_is_loaded(call, error)

    async def _use_what_is_loaded(self, call: Call, refusal: NotPermitted) -> None:
        if not await _present(call):
            raise _not_loaded(refusal) from None
        if (await _rules_in_force(call)).get(self._prefix) != self._rules:
            log.error("the channels' rules in valkey are not this configuration's, and the user may not replace them: %s", REMEDY)

    async def _install(self, call: Call, rules: Rules, *, sharded: bool) -> None:
        present: dict[str, Rules] = {}  # also those that another gateway left out, which loaded its library between two attempts
        for attempt in range(INSTALL_ATTEMPTS):
            loaded, found = await _found(call, present)
            in_force = found.get(self._prefix)
            if loaded and max(loaded) > VERSION:
                _log_newer(max(loaded), agrees=in_force == rules)
                return
            if VERSION in loaded and in_force == rules and await _generation(call) in self._own_loads:
                return  # this process loaded it when it connected
            if attempt == 0 and in_force not in (None, rules):
                log.warning("the channels' rules in valkey differed from this configuration's: they are replaced")
            await self._replace(call, loaded, present, rules, sharded=sharded)
            # If not, another gateway loaded its library at the same moment: of an older version, or with another prefix and without our rules.
            if await _present(call) and (await _rules_in_force(call)).get(self._prefix) == rules:
                return
        log.warning("the channels' rules could not be put into force: other gateways replace them again and again")

    async def withdraw(self, commands: Commands) -> None:
        """Takes the rules of this prefix out of every shard's library, and the library out where no other prefix has rules in it."""
        for shard in commands.shards:
            present = await _rules_in_force(shard.call)
            if present.pop(self._prefix, None) is None:
                continue
            if present.keys() <= {""}:
                await shard.call(b"FUNCTION", b"DELETE", f"gateway_{VERSION}")
            else:
                await shard.call(b"FUNCTION", b"LOAD", b"REPLACE", self.source(present, sharded=commands.sharded))

    async def ready(self, call: Call, shared: Call | None = None) -> bytes:
        """Loads the library where the server has none, or an older one; returns the generation of the one that is loaded.

        Raises NotPermitted where the user may not load it.
        """
        if generation := await _present(call):
            return generation
        if not self._loads:
            raise NotPermitted(f"Valkey lacks version {VERSION} of the gateway's functions: the next gateway that starts loads them")
        try:
            await self._restore(call, shared)
        except NotPermitted as error:
            raise _not_loaded(error) from None
        return await _generation(call)

    async def _restore(self, call: Call, shared: Call | None) -> None:
        rules = self._rules
        if rules is None:
            rules = await self.stored_rules(shared or call)
        present: dict[str, Rules] = {}  # as in _install
        for _ in range(INSTALL_ATTEMPTS):  # a gateway of an older version may load its own at the same moment
            loaded, _ = await _found(call, present)
            if loaded and max(loaded) >= VERSION:
                return
            await self._replace(call, loaded, present, rules or present.get(self._prefix), sharded=shared is not None)

    async def agrees(self, commands: Commands) -> bool:
        """Whether the rules in force are this configuration's, in every shard."""
        return all(rules == self._rules for rules in await self._in_force(commands))

    async def is_missing(self, commands: Commands) -> bool:
        """Whether no rules of this prefix are in force in some shard, as where a gateway of another prefix loaded the functions anew."""
        return None in await self._in_force(commands)

    async def _in_force(self, commands: Commands) -> list[Rules | None]:
        """The rules of this prefix in each shard."""
        return [(await _rules_in_force(shard.call)).get(self._prefix) for shard in commands.shards]

    async def is_forgotten(self, call: Call) -> bool:
        """Whether Valkey does not remember any gateway of this prefix, or remembers what are no rules."""
        return not await self.stored_rules(call)

    async def stored_rules(self, call: Call) -> Rules | None:
        """The rules that the newest gateway stored for publishers; None if none did, or if another program wrote there what are no rules."""
        try:
            stored = await call(b"GET", self._rules_key)
        except StoreError as error:
            if not error.is_wrong_type:
                raise
            stored = b""
        return None if stored is None else _read_rules(stored, self._rules_key)

    @property
    def _rules_key(self) -> str:
        """The key where gateways store the namespaces' rules, for publishers that have no configuration."""
        return f"{self._prefix}:rules"

    async def _replace(self, call: Call, loaded: list[int], present: dict[str, Rules], rules: Rules | None, *, sharded: bool) -> None:
        """``rules`` None: no gateway of this prefix has any yet, so those that are built in hold until the first one comes."""
        others = {prefix: theirs for prefix, theirs in present.items() if prefix not in ("", self._prefix)}
        newest = dict(list(others.items())[-PREFIXES_MOST:])
        generation = _new_generation()
        own = {} if rules is None else {self._prefix: rules}
        source = self.source({"": BUILT_IN_RULES, **newest, **own}, sharded=sharded, generation=generation)
        for version in loaded:
            if version < VERSION and not await _is_deleted(call, version):
                return  # another gateway was faster, and what it loads is looked at first
        # Where there was none, others may be loading theirs at this moment, with rules that were not seen here: that is not replaced.
        replace = [b"REPLACE"] if loaded else []
        try:
            await call(b"FUNCTION", b"LOAD", *replace, source)
        except StoreError as error:
            if "already exists" not in str(error):  # another gateway was faster
                raise
        else:
            self._own_loads.add(generation.encode())


def ready_blocking(library: Library, call: Callable[..., Any], shared: Callable[..., Any] | None = None) -> None:
    """``library.ready`` for a program without asyncio, whose calls return replies."""
    work = library.ready(_awaitable(call), shared and _awaitable(shared))
    try:
        work.send(None)  # it needs no loop: each call returns at once, and there may be a loop already
    except StopIteration:
        return
    raise RuntimeError("the library waits for something")


def _awaitable(call: Callable[..., Any]) -> Call:
    async def called(*words: Any) -> Any:
        return call(*words)

    return called


class _Rules(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=-1)]
    ttl: Annotated[int, msgspec.Meta(ge=0)]
    meta_ttl: Annotated[int, msgspec.Meta(ge=0)]
    index: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0  # a gateway of version 5 stored none


def _read_rules(stored: bytes, key: str) -> Rules | None:
    try:
        rules = msgspec.json.decode(stored, type=dict[str, _Rules])
    except UNREADABLE as error:
        log.warning("the key %s holds no rules of channels that can be read, and is ignored: %s", key, ascii(str(error))[:200])
        return None
    return _plain(rules) if "" in rules else None


def _new_generation() -> str:
    return f"{VERSION}.{secrets.token_hex(4)}"


async def _generation(call: Call) -> bytes:
    return cast(bytes, await call(b"FCALL", b"gateway_generation", b"0"))


def _is_older(generation: bytes) -> bool:
    """Whether an older version of the library is loaded, which lacks functions: up to version 5 a generation did not begin with a version."""
    match = _GENERATION.match(generation)
    return match is not None and int(match[1] or b"5") < VERSION


async def _present(call: Call) -> bytes:
    """The generation of the library if this version of it is loaded, or a newer one; else b""."""
    try:
        generation = await _generation(call)
    except StoreError as error:
        if "Function not found" in str(error):
            return b""
        if type(error) is StoreError:
            raise StoreError(with_remedy(str(error))) from None
        raise
    return b"" if _is_older(generation) else generation


def _log_newer(version: int, *, agrees: bool) -> None:
    what = f"valkey holds version {version} of the functions, newer than this gateway's {VERSION}: it stays"
    if agrees:
        log.warning("%s", what)
    else:
        log.error(
            "%s, and its rules of the channels are not this configuration's: only a gateway of the newer version can put them into force",
            what,
        )


def _not_loaded(error: NotPermitted) -> NotPermitted:
    reason = str(error).partition(";")[0]
    return NotPermitted(f"Valkey lacks version {VERSION} of the gateway's functions, which its user may not load: {REMEDY} ({reason})")


async def _rules_in_force(call: Call) -> dict[str, Rules]:
    """The rules that the loaded library holds, of whatever version, by prefix; none where there is no library."""
    try:
        found = msgspec.json.decode(await call(b"FCALL", b"gateway_rules", b"0"), type=dict[str, dict[str, _Rules]])
    except (*UNREADABLE, TypeError):  # a library that answers otherwise is not ours
        return {}
    except StoreError as error:
        if "Function not found" not in str(error):
            raise
        return {}
    return {prefix: _plain(rules) for prefix, rules in found.items()}


def _plain(rules: dict[str, _Rules]) -> Rules:
    return {name: msgspec.structs.asdict(each) for name, each in rules.items()}


async def _found(call: Call, present: dict[str, Rules]) -> tuple[list[int], dict[str, Rules]]:
    """The versions of the library in Valkey, and the rules that it holds, which are added to ``present``.

    Several gateways may start together and replace an older version: between its removal and the load there is none.
    """
    for _ in range(INSTALL_ATTEMPTS):
        found = await _rules_in_force(call)
        loaded = await _loaded(call)
        if found or not loaded:
            break  # otherwise it was loaded between the two questions, or holds none
    present |= found
    return loaded, found


async def _is_deleted(call: Call, version: int) -> bool:
    """Deletes that version of the library. False if it was not there any more."""
    try:
        await call(b"FUNCTION", b"DELETE", f"gateway_{version}")
    except StoreError as error:
        if "Library not found" not in str(error):
            raise
        return False
    return True


async def _loaded(call: Call) -> list[int]:
    """The versions of the library in Valkey; there is one, or none."""
    versions = []
    for library in await call(b"FUNCTION", b"LIST", b"LIBRARYNAME", b"gateway_*"):
        fields = dict(zip(library[::2], library[1::2], strict=True))
        if match := _NAME.match(fields[b"library_name"]):
            versions.append(int(match[1]))
    return versions
