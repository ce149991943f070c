"""The figures of this process, read from the plain numbers that its parts hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from .. import __version__
from ..edges.api.methods import METHODS as API_METHODS
from ..live.subscription import State
from ..live.traffic import Traffic
from ..rules.protocol import METHODS
from ..runtime.loop_lag import LoopLag
from ..session.admission import Admission
from ..session.client_counts import ACCEPTED, CLOSE_CODES, OTHER, SOURCES, TRANSPORTS, ClientCounts
from ..session.node import Node
from ..store.untrusted import KINDS
from ..work.bridges import Bridges
from .figures import Figures
from .kernel_figures import kernel_figures

__all__ = ["Measured", "figures_of"]

CLIENTS_AT_ONCE = 1000  # that are looked at before other work gets its turn: a millisecond
PAGE_SOURCES = ("ring", "history")
GAPS = ("subscribe", "catch_up", "live")


class LinkCounts(Protocol):
    """The live link, as far as it is measured."""

    losses: int

    @property
    def proven(self) -> bool: ...

    @property
    def doubts(self) -> Mapping[str, str]: ...


class CommandCounts(Protocol):
    """The connection for commands, as far as it is measured; on a cluster ``shards`` has one for each shard."""

    @property
    def connected(self) -> bool: ...

    @property
    def shards(self) -> Sequence[CommandCounts]: ...


class Measured(NamedTuple):
    """The parts of one process that are measured. ``unready`` is why it takes no clients, "" if it does."""

    node: Node
    link: LinkCounts
    commands: CommandCounts
    bridges: Bridges
    lag: LoopLag
    unready: Callable[[], str]


async def figures_of(measured: Measured) -> Figures:
    """All figures of this process at about this moment; with many clients it takes some turns of the loop."""
    figures = Figures()
    _add_process(figures, measured)
    await _add_clients(figures, measured.node.admission)
    _add_counts(figures, measured.node.admission.counts)
    _add_live(figures, measured.node)
    _add_valkey(figures, measured)
    _add_bridges(figures, measured.bridges)
    return figures


def _add_process(figures: Figures, measured: Measured) -> None:
    admission = measured.node.admission
    figures.add("gateway_info", 1, __version__)
    figures.add("gateway_ready", not measured.unready())
    figures.add("gateway_draining", admission.draining)
    figures.add("gateway_drain_clients_left", len(admission.clients) if admission.draining else 0)
    figures.add_histogram("gateway_loop_lag_seconds", measured.lag.histogram)
    for metric, value in kernel_figures():
        figures.add(metric, value)


async def _add_clients(figures: Figures, admission: Admission) -> None:
    connections = dict.fromkeys(TRANSPORTS, 0)
    waiting = slow = behind = 0
    for number, client in enumerate(list(admission.clients), 1):
        connections[client.transport] += 1
        waiting += client.waiting_bytes
        if client.paused:
            slow += 1
            behind += sum(1 for subscription in client.followed() if subscription.state is State.BEHIND)
        if not number % CLIENTS_AT_ONCE:
            await asyncio.sleep(0)
    for transport, count in connections.items():
        figures.add("gateway_connections", count, transport)
    figures.add("gateway_waiting_bytes", waiting)
    figures.add("gateway_slow_clients", slow)
    figures.add("gateway_subscriptions_behind", behind)


def _add_counts(figures: Figures, counts: ClientCounts) -> None:
    # Series that are there from the start: rate() misses the first increase of one that begins with it.
    accepted = {(transport, ACCEPTED): 0 for transport in TRANSPORTS}
    for (transport, code), count in (accepted | counts.connects).items():
        figures.add("gateway_connects_total", count, transport, code)
    for code in (*map(str, sorted(CLOSE_CODES)), OTHER):
        figures.add("gateway_closes_total", counts.closes[code], code)
    for method in METHODS:
        figures.add("gateway_commands_total", counts.commands[method], method)
    for (method, code), count in counts.errors.items():
        figures.add("gateway_command_errors_total", count, method, code)
    succeeded = {(method, ACCEPTED): 0 for method in (*API_METHODS, "batch")}
    for (method, code), count in (succeeded | counts.requests).items():
        figures.add("gateway_api_requests_total", count, method, code)
    for source in SOURCES:
        figures.add("gateway_received_bytes_total", counts.received[source], source)
    figures.add("gateway_sent_bytes_total", counts.sent, "messages")


def _add_live(figures: Figures, node: Node) -> None:
    hub = node.hub
    figures.add("gateway_channels", hub.channel_count)
    figures.add("gateway_subscriptions", hub.subscriptions)
    figures.add("gateway_ring_bytes", hub.rings.bytes)
    figures.add("gateway_ring_limit_bytes", node.config.limits.ring_bytes)
    figures.add("gateway_history_reads_total", hub.history_reads)
    counts = hub.counts
    figures.add_histogram("gateway_delivery_seconds", counts.delivery)
    figures.add_histogram("gateway_mend_seconds", counts.mend)
    for source in PAGE_SOURCES:
        figures.add("gateway_catchup_pages_total", counts.pages[source], source)
        figures.add("gateway_catchup_publications_total", counts.page_publications[source], source)
    for namespace, traffic in counts.traffic.items():
        _add_traffic(figures, namespace, traffic)
    figures.add("gateway_sent_bytes_total", sum(traffic.bytes for traffic in counts.traffic.values()), "publications")


def _add_traffic(figures: Figures, namespace: str, traffic: Traffic) -> None:
    figures.add("gateway_publications_total", traffic.publications, namespace)
    figures.add("gateway_deliveries_total", traffic.deliveries, namespace)
    figures.add("gateway_holes_total", traffic.holes, namespace)
    for when in GAPS:
        figures.add("gateway_gaps_total", traffic.gaps[when], namespace, when)


def _add_valkey(figures: Figures, measured: Measured) -> None:
    figures.add("gateway_link_up", measured.link.proven and not measured.link.doubts)
    figures.add("gateway_link_losses_total", measured.link.losses)
    commands = measured.commands
    figures.add("gateway_valkey_connected", commands.connected and all(shard.connected for shard in commands.shards))
    faults = measured.node.history.layout.faults.counts
    for kind in KINDS:
        figures.add("gateway_valkey_faults_total", faults[kind], kind)


def _add_bridges(figures: Figures, bridges: Bridges) -> None:
    for title, statistics in bridges.statistics.items():
        for result in ("bridged", "failed", "forgotten", "lost"):
            figures.add("gateway_bridge_entries_total", getattr(statistics, result), title, result)
        if statistics.working:  # another process knows what is left now
            figures.add("gateway_bridge_waiting", statistics.waiting, title)
        figures.add("gateway_bridge_working", statistics.working, title)
