"""The command line.

commands   publish, subscribe, history, token, check
programs   the commands that run until they are ended: serve, demo, relay
options    what the commands share: options, the line of a publication
follow     what ``gateway subscribe`` runs
"""

from .commands import app, main

__all__ = ["app", "main"]
