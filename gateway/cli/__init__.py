"""The command line.

commands   all commands together; subscribe, history, token, check
publish    publish
queue_commands   the group queue: list, show, dead, retry, cancel, purge, enqueue
queue_views      what they print
enqueueing       what its command enqueue does
worker_command   worker
bench_command    bench
recipe_command   recipe
restored_command restored
doctor_command   doctor; the package doctor is what it runs
leaving    how the process of worker ends
programs   the commands that run until they are ended: serve, demo, relay
follow     what ``gateway subscribe`` runs
check      what ``gateway check`` runs; check_shards, check_rights: parts of it
options    what the commands share: options, the line of a publication
arguments  how they read their arguments
input_lines  documents from standard input
standard_output  what is printed, where that takes nothing more
log_setup  the log of the commands that run until they are ended
"""

import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .commands import app

__all__ = ["app", "main"]


def main() -> None:
    """The program ``gateway``. Its modules take most of a second to import: Ctrl-C ends it meanwhile as it does later, with one line."""
    _fill_standard_descriptors()
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_usual:
        signal.signal(signal.SIGINT, _end)
    from .commands import main as run

    if is_usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _fill_standard_descriptors() -> None:
    """Where the standard input, output or error is closed, as some daemons start their children, Python has no such file, and the first
    connection would have its number: uvloop aborts when it is to close that."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # has the lowest number that is free: this one


def _end(*_: object) -> NoReturn:
    """Ends the process at once: an exception in the middle of an import would be shown with its traceback, or be taken for a missing module."""
    os.write(2, b"gateway: interrupted\n")
    os._exit(1)


def __getattr__(name: str) -> Any:
    """``app``, the commands, for those who import it."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .commands import app

    return app
