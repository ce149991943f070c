"""What the heartbeats of one link prove. A gateway has Valkey publish a heartbeat to itself every BEAT_SECONDS: one that comes back over the
link proves that what Valkey publishes reaches this process. A PING beside each proves that the connection lives.
"""

from __future__ import annotations

import asyncio

from ..errors import NotPermitted, StoreError
from .access import Commands
from .connection import ServerCommands

__all__ = ["BEAT_SECONDS", "BeatChannel", "Heartbeats"]

BEAT_SECONDS = 1.0
SILENT_BEATS = 4  # beats without any answer before the link is given up
SILENT_BEATS_AT_FIRST = 2  # the same of a connection that has brought no heartbeat yet
LATE_BEATS = 2.5  # beats after the last heartbeat, from which on the link counts as unproven: earlier than it is given up
NUMBERS_MOST = 2**18  # heartbeat channels that are tried: one slot of 16384 is found among them, but for one time in 9 million


class Heartbeats:
    """The heartbeats of one link, over one connection after the other. ``where`` names the server in a sentence: "" for the only one.

    ``proven``: one came through on this connection. ``refusal``: Valkey's error reply to the last one. ``silent``: beats since the
    connection brought anything; whoever reads from it sets it to 0.
    """

    def __init__(self, where: str) -> None:
        self.proven = False
        self.refusal: StoreError | None = None
        self.silent = 0
        self._where = where
        self._underway = 0  # that were sent since the last one came through
        self._since_proof = 0  # beats of the clock, whether a heartbeat could be sent or not
        self._proven_at = 0.0

    def begin(self) -> None:
        """There is another connection."""
        self.silent = self._underway = 0

    def tick(self) -> None:
        """It is time for the next one."""
        self.silent += 1
        self._since_proof += 1

    def sent(self) -> None:
        self._underway += 1

    def refused(self, error: StoreError) -> None:
        """It says nothing about the connection, which brings what is announced all the same."""
        self.refusal, self._underway = error, 0

    def came(self) -> None:
        self.proven, self._proven_at = True, asyncio.get_running_loop().time()
        self._underway = self._since_proof = 0

    @property
    def _late(self) -> bool:
        """None came through lately. A process that was stopped for a while has sent none meanwhile, so time alone says nothing."""
        return self._since_proof > 1 and asyncio.get_running_loop().time() - self._proven_at > LATE_BEATS * BEAT_SECONDS

    @property
    def doubt(self) -> str:
        """Why it is not proven that what the server publishes reaches this process; "" if it is."""
        if self.refusal is not None:
            lacks_right = isinstance(self.refusal, NotPermitted)
            return str(self.refusal) if lacks_right else f"Valkey{self._where} refuses what a gateway writes: {self.refusal}"
        if self._late or not self.proven:
            return f"the live link to Valkey{self._where} is not proven to work"
        return ""

    @property
    def fault(self) -> str:
        """Why the connection has to be given up, "" if it need not."""
        if self.silent > (SILENT_BEATS if self.proven else SILENT_BEATS_AT_FIRST):
            return f"the link to valkey{self._where} was silent for {self.silent * BEAT_SECONDS:g} s"
        if self._underway > SILENT_BEATS:
            seconds = self._underway * BEAT_SECONDS
            return f"the link to valkey{self._where} answers, but no heartbeat came through it for {seconds:g} s"
        return ""


class BeatChannel:
    """The Pub/Sub channel of the heartbeats to ``shard``, which is one of those of ``commands``.

    Where there is one server, it is ``own``. A cluster's server publishes in its own slots alone, which move: there a number is added to
    ``own`` that gives one of them. ``name`` is b"" while it has none.
    """

    def __init__(self, own: bytes, shard: ServerCommands, commands: Commands) -> None:
        self.name = own
        self._own = own
        self._shard = shard
        self._commands = commands
        self._number = 0
        self._displaced = False

    def displace(self) -> None:
        """The server refuses it. Another is chosen at the next beat, not at once: a server that refuses all would be asked without end."""
        self._displaced = self._commands.sharded
        self._commands.look_again()

    def begin(self) -> bool:
        """There is another connection. Whether its server has to be asked for a channel, as ``check``."""
        self._number = 0
        return self._commands.sharded and self._choose()

    def check(self) -> bool:
        """Chooses another one if its slot is not the shard's any more. True: the server has to be asked for it."""
        if not self._commands.sharded or not (self._displaced or self._commands.shard(self.name) is not self._shard):
            return False
        self._number += self._displaced  # the table of slots may not know it yet
        return self._choose()

    def _choose(self) -> bool:
        self.name, self._displaced = b"", False
        if self._shard not in self._commands.shards:
            return False
        for number in range(self._number, NUMBERS_MOST):
            channel = self._own + b":{%d}" % number
            if self._commands.shard(channel) is self._shard:
                self.name, self._number = channel, number
                return True
        return False
