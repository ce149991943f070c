"""Every metric: what it is called, what it counts, and by which labels. The documentation's page of metrics has the same table.

A label's values are from fixed sets or from the configuration, or they are bounded where they come from outside; none is a user, a
channel, or what a client sent.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["METRICS", "WORKER", "Metric"]

WORKER = "worker"  # the label of what each worker has for itself


class Metric(NamedTuple):
    """``labels`` are those beside WORKER, which a metric has unless it is ``shared``: read from Valkey once for all workers."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    shared: bool = False

    @property
    def all_labels(self) -> tuple[str, ...]:
        return self.labels if self.shared else (WORKER, *self.labels)


METRICS = (
    # The processes.
    Metric("gateway_info", "gauge", "Always 1; the version that runs is a label.", ("version",)),
    Metric("gateway_worker_up", "gauge", "Whether the worker answered this scrape within a second; else its other metrics are absent."),
    Metric("gateway_ready", "gauge", "Whether /health/ready answers that clients may come."),
    Metric("gateway_draining", "gauge", "Whether the process sends its clients elsewhere."),
    Metric("gateway_drain_clients_left", "gauge", "Clients that are still to be sent elsewhere; 0 while it does not drain."),
    Metric("gateway_loop_lag_seconds", "histogram", "How late timers of the event loop fire; four a second are measured."),
    # Clients.
    Metric("gateway_connections", "gauge", "Clients that are connected, or connecting.", ("transport",)),
    Metric("gateway_connects_total", "counter", "Connects: code 0 were accepted, others refused with it.", ("transport", "code")),
    Metric("gateway_closes_total", "counter", "Connections that ended, by close code.", ("code",)),
    Metric("gateway_commands_total", "counter", "Commands of clients.", ("method",)),
    Metric("gateway_command_errors_total", "counter", "Commands of clients that were answered with an error.", ("method", "code")),
    Metric(
        "gateway_api_requests_total",
        "counter",
        "Requests of the server API: code 0 are successes; so is a batch or broadcast, whatever became of its parts.",
        ("method", "code"),
    ),
    Metric("gateway_received_bytes_total", "counter", "Bytes from clients and backends.", ("source",)),
    Metric("gateway_sent_bytes_total", "counter", "Bytes written to clients: publications, and all other messages.", ("kind",)),
    Metric("gateway_slow_clients", "gauge", "Clients whose socket is full."),
    Metric("gateway_waiting_bytes", "gauge", "Bytes written that the clients' sockets have not taken yet."),
    # Live.
    Metric("gateway_channels", "gauge", "Channels with subscriptions."),
    Metric("gateway_subscriptions", "gauge", "Subscriptions."),
    Metric("gateway_subscriptions_behind", "gauge", "Subscriptions that wait for a full socket."),
    Metric("gateway_publications_total", "counter", "Publications that came from Valkey for followed channels.", ("namespace",)),
    Metric("gateway_deliveries_total", "counter", "Publications times the live subscriptions they were written to.", ("namespace",)),
    Metric("gateway_delivery_seconds", "histogram", "From a publish, on Valkey's clock, until its last live subscription was written to."),
    Metric("gateway_catchup_pages_total", "counter", "Pages of missed publications for subscriptions that catch up.", ("source",)),
    Metric("gateway_catchup_publications_total", "counter", "The publications in those pages.", ("source",)),
    Metric("gateway_gaps_total", "counter", "Gaps that were announced to subscriptions.", ("namespace", "when")),
    Metric("gateway_holes_total", "counter", "Holes in what was announced, which were then read from history.", ("namespace",)),
    Metric("gateway_ring_bytes", "gauge", "Bytes that all rings hold."),
    Metric("gateway_ring_limit_bytes", "gauge", "limits.ring_bytes."),
    # Valkey.
    Metric("gateway_history_reads_total", "counter", "Reads of Valkey's history for live channels."),
    Metric("gateway_link_up", "gauge", "Whether the live link is proven to work; on a cluster, to every shard."),
    Metric("gateway_link_losses_total", "counter", "How often the live link was lost."),
    Metric("gateway_mend_seconds", "histogram", "From the loss of the link until a channel was open again, for each channel."),
    Metric("gateway_valkey_connected", "gauge", "Whether the connection for commands is there; on a cluster, that to every shard."),
    Metric("gateway_valkey_faults_total", "counter", "What other programs wrote to Valkey and was left out.", ("kind",)),
    Metric("gateway_bridge_entries_total", "counter", "Entries of other programs' Lists, Streams and channels.", ("bridge", "result")),
    Metric(
        "gateway_bridge_waiting", "gauge", "Entries that were left in the source at the last batch of the process that works.", ("bridge",)
    ),
    Metric("gateway_bridge_working", "gauge", "Whether this process works for the bridge.", ("bridge",)),
    # The process, as prometheus-client measures it; on Linux.
    Metric("process_cpu_seconds_total", "counter", "User and system CPU time."),
    Metric("process_resident_memory_bytes", "gauge", "Resident memory."),
    Metric("process_virtual_memory_bytes", "gauge", "Virtual memory."),
    Metric("process_open_fds", "gauge", "Open file descriptors."),
    Metric("process_max_fds", "gauge", "The limit of open file descriptors."),
    Metric("process_start_time_seconds", "gauge", "When the process started, in unix seconds."),
    # What all workers, and all gateways of one Valkey, share.
    Metric("gateway_valkey_read", "gauge", "Whether this part could be read from Valkey within a second.", ("part",), shared=True),
    Metric("gateway_outbox_databases", "gauge", "Databases whose relay reported its outbox lately; 0: no relay runs.", shared=True),
    Metric("gateway_outbox_rows", "gauge", "Rows of outboxes that wait to be published.", shared=True),
    Metric("gateway_outbox_oldest_seconds", "gauge", "Age of the oldest of those rows; 0 if none waits.", shared=True),
    Metric("gateway_queues", "gauge", "Names of work queues.", shared=True),
    Metric("gateway_queue_jobs", "gauge", "Jobs of a work queue.", ("queue", "state"), shared=True),
    Metric("gateway_queue_workers", "gauge", "Workers of a work queue.", ("queue",), shared=True),
    Metric(
        "gateway_queue_oldest_seconds", "gauge", "How long the oldest job has been due that no worker has taken.", ("queue",), shared=True
    ),
    Metric("gateway_queue_events_total", "counter", "What happened to the jobs of a work queue.", ("queue", "event"), shared=True),
    Metric("gateway_queue_start_seconds_total", "counter", "Time from when jobs were due until they started.", ("queue",), shared=True),
    Metric("gateway_queue_run_seconds_total", "counter", "Time that finished jobs ran.", ("queue",), shared=True),
)
