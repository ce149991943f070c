"""Whether all gateways that share a Valkey check tokens with the same secrets and keys.

If they do not, a client's token passes in one gateway and is refused by the next one that a load balancer chooses. Each process
writes a fingerprint of its keys into the sorted set ``gw:fingerprints``, whose members are ``PROCESS FINGERPRINT`` and whose scores
are Valkey's time in seconds. An entry that is not renewed for FORGOTTEN_SECONDS counts no more, and a process that ends removes its own.
"""

from __future__ import annotations

import asyncio
import logging

from ..auth.fingerprint import fingerprint
from ..config import Config
from ..errors import StoreError
from ..store.access import Commands
from ..store.valkey_clock import valkey_time

__all__ = ["SecretsCheck", "differing"]

log = logging.getLogger("gateway.control")

CHECK_SECONDS = 20.0
FORGOTTEN_SECONDS = 60.0


async def differing(commands: Commands, prefix: str, ours: str) -> list[str]:
    """The processes that wrote another fingerprint than ``ours`` within FORGOTTEN_SECONDS. Raises StoreError."""
    key = _key(prefix)
    since = await _now(commands, key) - FORGOTTEN_SECONDS
    members = await commands.call(b"ZRANGEBYSCORE", key, since, b"+inf")
    pairs = (member.decode(errors="replace").split(" ") for member in members)
    return [pair[0] for pair in pairs if len(pair) == 2 and pair[1] != ours]


def _key(prefix: str) -> bytes:
    return f"{prefix}:fingerprints".encode()


async def _now(commands: Commands, key: bytes) -> int:
    """The clock of the key's shard, in seconds: those of several machines may differ."""
    return int(await valkey_time(commands, key))


class SecretsCheck:
    """Writes the fingerprint of ``process`` and compares it with the others', at the start and every CHECK_SECONDS."""

    def __init__(self, config: Config, commands: Commands, process: str) -> None:
        self._config = config
        self._commands = commands
        self._call = commands.call
        self._process = process
        self._key = _key(config.prefix)
        self._member = b""  # until it is computed
        self._logged: list[str] = []

    async def run(self) -> None:
        """Runs until cancelled."""
        ours = await asyncio.to_thread(fingerprint, self._config.tokens, self._config.prefix)
        self._member = f"{self._process} {ours}".encode()
        while True:
            try:
                await self._write()
                self._report(await differing(self._commands, self._config.prefix, ours))
            except StoreError as error:
                log.debug("the fingerprints of the token keys could not be compared: %s", error)
            await asyncio.sleep(CHECK_SECONDS)

    async def _write(self) -> None:
        now = await _now(self._commands, self._key)
        await self._call(b"ZADD", self._key, now, self._member)
        await self._call(b"ZREMRANGEBYSCORE", self._key, b"-inf", now - FORGOTTEN_SECONDS)
        await self._call(b"EXPIRE", self._key, int(FORGOTTEN_SECONDS))

    def _report(self, others: list[str]) -> None:
        """Logs which processes differ, once for each set of them."""
        if others and others != self._logged:
            log.warning(
                "other gateways on this Valkey check tokens with other secrets or keys (processes %s): "
                "a token that passes in one is refused by another; give all gateways the same [tokens]",
                ", ".join(others),
            )
        self._logged = others

    async def close(self) -> None:
        """This process ends: its fingerprint counts no more."""
        if not self._member:
            return
        try:
            async with asyncio.timeout(1):
                await self._call(b"ZREM", self._key, self._member)
        except (StoreError, TimeoutError) as error:
            log.debug("the fingerprint was not removed: %s", error)
