"""``gateway check`` on rights: which the user of Valkey lacks, on a cluster at which of its nodes, replicas included.

Each node of a cluster has users of its own. A replica that lacks some would refuse commands as soon as it takes over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from ..errors import Unavailable
from ..store.connect import Address
from ..store.rights import LOADING, Rights
from ..store.rights_check import Lack, find_lack
from ..store.topology import ask_anew, newest

__all__ = ["FoundRights", "check_rights"]


class FoundRights(NamedTuple):
    """A sentence for each fault and warning. ``complete``: the user has all that it needs, as far as was tried."""

    faults: list[str]
    warnings: list[str]
    complete: bool


async def check_rights(address: Address, role: str, rights: Rights) -> FoundRights:
    """Raises StoreError, and Unavailable where no server answers."""
    nodes = await _nodes(address)
    found = await asyncio.gather(*[find_lack(node, rights) for node in nodes], return_exceptions=True)
    lacks = {node: lack for node, lack in zip(nodes, found, strict=True) if isinstance(lack, Lack)}
    errors = [error for error in found if isinstance(error, BaseException)]
    for error in errors:
        if not lacks or not isinstance(error, Unavailable):
            raise error
    lacking: dict[str, list[Address]] = {}
    for node, lack in lacks.items():
        for word in lack.words:
            lacking.setdefault(word, []).append(node)
    loading = {f"+{command}" for command in LOADING.commands}
    faults = [_fault(address.user, role, word, _where(at, nodes)) for word, at in lacking.items() if word not in loading]
    warnings = [str(error) for error in errors] + _loading_warnings(address.user, [word for word in lacking if word in loading])
    return FoundRights(faults, warnings, not faults and not errors and all(lack.complete for lack in lacks.values()))


async def _nodes(address: Address) -> list[Address]:
    """All nodes of a cluster, or the one server."""
    if not address.is_cluster:
        return [address]
    view = await newest([partial(ask_anew, seed) for seed in address.seeds])
    nodes = {primary for _, _, primary in view.ranges}.union(view.replicas)
    return [address.node(*node) for node in sorted(nodes)]


def _where(at: list[Address], nodes: list[Address]) -> str:
    if len(nodes) == 1:
        return ""
    return " on every node" if len(at) == len(nodes) else f" on {', '.join(_named(at))}"


def _named(nodes: Iterable[Address]) -> list[str]:
    return ["{}:{}".format(*node.host_and_port) for node in nodes]


def _fault(user: str, role: str, word: str, where: str) -> str:
    return f"the user {user!r} of Valkey lacks {word}{where}, which a {role} needs: ACL SETUSER {user} {word}"


def _loading_warnings(user: str, words: list[str]) -> list[str]:
    if not words:
        return []
    lacking = " ".join(words)
    return [f'the user {user!r} of Valkey lacks {lacking}: it cannot load the gateway\'s functions, which is left to "gateway install"']
