"""``gateway check`` on a cluster: which shards there are, which versions they have, and what of the cluster is not served."""

from __future__ import annotations

import re
from functools import partial

from ..store.access import Commands
from ..store.connection import ServerCommands
from ..store.topology import SLOTS, View, ask, newest

__all__ = ["check_shards"]


async def _version_of(server: ServerCommands) -> str:
    """Raises StoreError."""
    info = (await server.call("INFO", "server")).decode()
    version = re.search(r"valkey_version:(\S+)", info) or re.search(r"redis_version:(\S+)", info)
    return version[1] if version else "unknown"


async def check_shards(commands: Commands) -> tuple[bool, dict[str, str], list[str]]:
    """Whether the cluster takes commands; a line of what is fine for each shard that answers, by its name; and a sentence for each fault. Raises StoreError if none answers.

    A shard that does not answer, and slots that no shard holds, are faults: their channels are at rest.
    """
    fine, faults = {}, []
    answering = [shard for shard in commands.shards if shard.connected]
    view = await newest([partial(ask, shard.call_now, shard.address.host_and_port) for shard in answering])
    for shard in commands.shards:
        slots = f"{_slots_of(view, shard):,} of {SLOTS:,} hash slots"
        if shard in answering:
            fine["shard {}:{}".format(*shard.address.host_and_port)] = f"version {await _version_of(shard)}, {slots}"
        else:
            faults.append(f"the shard at {shard.address} takes no commands: what is in its {slots} cannot be reached")
    if missing := SLOTS - sum(last - first + 1 for first, last, _ in view.ranges):
        faults.append(f"{missing:,} of the cluster's {SLOTS:,} hash slots are held by no shard: what is in them cannot be reached")
    if not view.whole:
        faults.append(
            "the cluster serves nothing (cluster_state is fail): a shard is away and cluster-require-full-coverage is yes, "
            "or most of its primaries are away; CLUSTER NODES shows which"
        )
    return view.whole, fine, faults


def _slots_of(view: View, shard: ServerCommands) -> int:
    return sum(last - first + 1 for first, last, primary in view.ranges if primary == shard.address.host_and_port)
