"""The schedule of a run: from a seed to the faults, each with the second at which it begins. Pure.

A run alternates between a fault by itself and a few that overlap. Faults that overlap are of different *resources*: nothing
kills a server that another fault has frozen. What may lose acknowledged publications is never mixed with faults of gateways,
since a loss that no living gateway saw cannot be detected, as the documentation's page of guarantees has it.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import NamedTuple

__all__ = ["KINDS", "TOPOLOGIES", "Fault", "Kind", "kinds_of", "loses", "schedule"]

SINGLE, SENTINEL, CLUSTER = TOPOLOGIES = ("single", "sentinel", "cluster")
ALL = frozenset(TOPOLOGIES)
WITH_REPLICAS = frozenset({SENTINEL, CLUSTER})

WARM_UP_SECONDS = 2.0
REST_SECONDS = (1.5, 4.0)  # between two groups of faults
TOGETHER_MOST = 3  # faults of one group
APART_SECONDS = 1.5  # by which the faults of a group begin one after another, at most


class Kind(NamedTuple):
    """A kind of fault: what it acts on, for how many seconds, where it can be made, and where it may lose acknowledged publications."""

    resource: str
    seconds: tuple[float, float]
    topologies: frozenset[str] = ALL
    loses: frozenset[str] = frozenset()


class Fault(NamedTuple):
    """One fault of a schedule. ``chance``, from 0 to 1, chooses what of its resource is hit."""

    at: float
    kind: str
    seconds: float
    chance: float


KINDS: dict[str, Kind] = {
    "clients_flap": Kind("clients", (2, 5)),
    "readers_slow": Kind("clients", (2, 8)),
    "gateway_killed": Kind("gateway", (0.2, 3)),
    "gateway_frozen": Kind("gateway", (1, 9)),
    "gateway_ended": Kind("gateway", (0.2, 3)),
    "worker_killed": Kind("gateway", (0.5, 1)),
    "worker_frozen": Kind("gateway", (1, 6)),
    "gateways_rolled": Kind("gateway", (0, 0)),
    "relay_killed": Kind("relay", (0.2, 2)),
    "job_worker_killed": Kind("jobs", (0.2, 2)),
    "job_worker_frozen": Kind("jobs", (1, 4)),
    "commands_cut": Kind("connections", (0.5, 3)),
    "links_cut": Kind("connections", (0.5, 3)),
    "answers_silent": Kind("proxy", (1, 9), frozenset({SINGLE})),
    "asks_silent": Kind("proxy", (1, 9), frozenset({SINGLE})),
    "proxy_slow": Kind("proxy", (2, 6), frozenset({SINGLE})),
    "valkey_killed": Kind("valkey", (0, 3), loses=WITH_REPLICAS),
    "valkey_frozen": Kind("valkey", (0.5, 10), loses=WITH_REPLICAS),
    "valkey_slow": Kind("valkey", (1, 4), loses=WITH_REPLICAS),
    "valkey_full": Kind("valkey", (1, 5)),
    "functions_flushed": Kind("valkey", (0, 1)),
    "buffers_small": Kind("valkey", (2, 5)),
    "disk_full": Kind("valkey", (1, 4), loses=WITH_REPLICAS),
    "valkey_emptied": Kind("valkey", (0, 2), frozenset({SINGLE}), loses=ALL),
    "valkey_older": Kind("valkey", (1, 4), frozenset({SINGLE}), loses=ALL),
    "failover": Kind("valkey", (1, 2), WITH_REPLICAS, loses=WITH_REPLICAS),
    "failover_coordinated": Kind("valkey", (1, 2), WITH_REPLICAS),
    "promoted_with_loss": Kind("valkey", (1, 3), WITH_REPLICAS, loses=WITH_REPLICAS),
    "slots_moved": Kind("valkey", (2, 5), frozenset({CLUSTER})),
    "slots_moved_by_keys": Kind("valkey", (2, 5), frozenset({CLUSTER})),
    "gateway_clock_set": Kind("gateway clock", (2, 6)),
    "valkey_clock_set": Kind("valkey clock", (2, 6), frozenset({SINGLE})),
}


def kinds_of(topology: str, only: Collection[str] = ()) -> list[str]:
    """The kinds that can be made in a topology. Raises ValueError for a name in ``only`` that is none of them."""
    here = [name for name, kind in KINDS.items() if topology in kind.topologies]
    if unknown := sorted(set(only) - set(here)):
        raise ValueError(f"there is no fault {unknown[0]!r} in the topology {topology!r}; there are {', '.join(here)}")
    return [name for name in here if not only or name in only]


def loses(kind: str, topology: str) -> bool:
    """Whether Valkey may forget acknowledged publications by it."""
    return topology in KINDS[kind].loses


def schedule(seed: int, seconds: float, topology: str, kinds: Collection[str]) -> list[Fault]:
    """The faults of a run of so many seconds, in the order in which they begin."""
    chance = random.Random(f"{seed} {topology}")
    bag: list[str] = []
    faults: list[Fault] = []
    at = WARM_UP_SECONDS
    while at < seconds and kinds:
        if not bag:
            bag = chance.sample(sorted(kinds), len(kinds))  # each kind once before any comes again
        group = _group(chance, bag, topology)
        made = [_fault(chance, at, kind) for kind in group]
        faults += made
        at = max(fault.at + fault.seconds for fault in made) + chance.uniform(*REST_SECONDS)
    return sorted(fault for fault in faults if fault.at < seconds)


def _group(chance: random.Random, bag: list[str], topology: str) -> list[str]:
    """Takes the next kinds out of the bag: one, or a few that may overlap."""
    group = [bag.pop()]
    for _ in range(chance.choice([0, 0, *range(1, TOGETHER_MOST)])):
        other = next((kind for kind in reversed(bag) if all(_go_together(kind, one, topology) for one in group)), None)
        if other is not None:
            bag.remove(other)
            group.append(other)
    return group


def _go_together(one: str, other: str, topology: str) -> bool:
    resources = {KINDS[one].resource, KINDS[other].resource}
    lossy = loses(one, topology) or loses(other, topology)
    return len(resources) == 2 and not (lossy and resources & {"gateway", "proxy"})


def _fault(chance: random.Random, at: float, kind: str) -> Fault:
    begins = round(at + chance.uniform(0, APART_SECONDS), 2)
    return Fault(begins, kind, round(chance.uniform(*KINDS[kind].seconds), 2), round(chance.random(), 3))
