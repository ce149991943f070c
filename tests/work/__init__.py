"""Queues, workers, durable readers, bridges."""
