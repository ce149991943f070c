"""The command line.

commands   all commands together; subscribe, history, token, check
publish    publish
programs   the commands that run until they are ended: serve, demo, relay
follow     what ``gateway subscribe`` runs
check      what ``gateway check`` runs
options    what the commands share: options, the line of a publication
arguments  how they read their arguments
log_setup  the log of the commands that run until they are ended
"""

from .commands import app, main

__all__ = ["app", "main"]
