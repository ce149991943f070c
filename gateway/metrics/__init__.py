"""``GET /metrics``: the figures of all parts of the gateway and of all workers, for Prometheus.

    plain numbers in the parts ──read at a scrape──▶ Figures of this process ──┐
    the sibling workers' Figures, over Unix sockets ───────────────────────────┼──▶ exposition ──▶ text
    what Valkey holds for all: queues, outbox ─────────────────────────────────┘

catalog          every metric: name, kind, labels, meaning
figures          the values of one process, or of what all share
process_figures  reads them from the parts of this process
kernel_figures   reads what the operating system counts of this process
shared_figures   reads them from Valkey
exposition       Figures → Prometheus' text
siblings         the workers of one process group ask each other
scrape           one scrape, from all of these
metrics_path     ``GET /metrics`` on the gateway's own port, with a key
metrics_port     the same on a port of its own, without one
"""
