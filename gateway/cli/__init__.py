"""The command line.

commands   all commands together; subscribe, history, token, check
publish    publish
queue_commands   the group queue: list, show, dead, retry, cancel, purge, enqueue
queue_views      what they print
worker_command   worker
bench_command    bench
leaving    how the process of worker ends
programs   the commands that run until they are ended: serve, demo, relay
follow     what ``gateway subscribe`` runs
check      what ``gateway check`` runs; check_shards, check_rights: parts of it
options    what the commands share: options, the line of a publication
arguments  how they read their arguments
input_lines  documents from standard input
log_setup  the log of the commands that run until they are ended
"""

from .commands import app, main

__all__ = ["app", "main"]
