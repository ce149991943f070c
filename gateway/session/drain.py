"""Drain: a process that ends asks its clients to connect again, one after the other, so that they do not all come back at once."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from itertools import islice
from math import ceil

from .admission import Admission, Client
from .node import Node

__all__ = ["begin_drain", "drain", "end_drain", "send_away"]

log = logging.getLogger("gateway.server")

DRAINED_AT_ONCE = 25  # clients of one turn of the loop: about 3 ms, and the presence of each is removed besides
TURN_SECONDS = 0.004  # one turn drains fewer where each has many subscriptions
# Clients after which new objects are searched for cycles, which takes 1 to 3 ms. Python itself does that when there are 10,000 more objects than
# before; while clients leave, the objects that go hide those that come, until one search of all of them takes 20 ms and longer.
DRAINED_PER_SEARCH = 200
TICK_SECONDS = 0.05  # clients that are due together leave together; a second Ctrl-C is noticed this fast


async def drain(admission: Admission, seconds: float, given_up: Callable[[], bool]) -> None:
    """Admits no more clients, and drains those that are there, evenly over ``seconds``: the first at once, no two together if they are few.

    Returns when all are gone; earlier when ``given_up`` returns true.
    """
    admission.draining = True
    count = len(admission.clients)
    if count:
        log.info("draining %d clients over %.3g s", count, seconds)
    loop = asyncio.get_running_loop()
    began, searched = loop.time(), count
    while admission.clients and not given_up():
        if searched - len(admission.clients) >= DRAINED_PER_SEARCH:
            gc.collect(0)
            searched = len(admission.clients)
        if _drain_all_but(_may_stay(count, seconds, loop.time() - began), admission):
            await asyncio.sleep(TICK_SECONDS)
        else:
            await asyncio.sleep(0)


async def send_away(admission: Admission, seconds: float) -> None:
    """Asks the clients that are there now to connect again, evenly over ``seconds``; others are admitted meanwhile."""
    there, clients = admission.clients, list(admission.clients)
    for start in range(0, len(clients), DRAINED_AT_ONCE):
        for client in clients[start : start + DRAINED_AT_ONCE]:
            if client in there:
                _drain_one(client, admission)
        await asyncio.sleep(seconds * DRAINED_AT_ONCE / len(clients))


def _may_stay(count: int, seconds: float, elapsed: float) -> int:
    """How many of ``count`` clients stay after ``elapsed`` seconds of ``seconds``."""
    return ceil(count * (1 - elapsed / seconds)) - 1 if elapsed < seconds else 0


def _drain_all_but(staying: int, admission: Admission) -> bool:
    """Drains up to DRAINED_AT_ONCE clients, for about TURN_SECONDS. True if no more than ``staying`` are left."""
    until = time.monotonic() + TURN_SECONDS
    for client in list(islice(admission.clients, min(DRAINED_AT_ONCE, max(0, len(admission.clients) - staying)))):
        _drain_one(client, admission)
        if time.monotonic() >= until:
            break
    return len(admission.clients) <= staying


def _drain_one(client: Client, admission: Admission) -> None:
    try:
        client.drain()
    except Exception:  # one client must not keep the others from being sent away
        log.exception("a client could not be drained")
        admission.clients.pop(client, None)


def begin_drain(node: Node) -> None:
    """Sends the clients of a process that goes on elsewhere, over ``drain_seconds``, and admits none until ``end_drain``."""
    admission = node.admission
    if not admission.draining:
        admission.draining = True
        node.tasks.spawn(drain(admission, node.config.drain_seconds, lambda: not admission.draining))


def end_drain(node: Node) -> str:
    """Admits clients again. Returns why not, in a sentence; "" if it does."""
    if node.admission.ending:
        return "the process is ending"
    node.admission.draining = False
    return ""
