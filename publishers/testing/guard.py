"""Runs a command for as long as standard input is open: when a run of tests was killed, the gateway that it had started ends too.

It is run by its path, so that it imports nothing of the project and starts at once. Standard output is the command's.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

__all__: list[str] = []

END_SECONDS = 10.0


def main(command: list[str]) -> int:
    """Returns the command's exit status."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the run of tests decides
    threading.Thread(target=_end_later, args=(process,), daemon=True).start()
    return process.wait()


def _end_later(process: subprocess.Popen[bytes]) -> None:
    """Ends the command when standard input ends."""
    sys.stdin.buffer.read()
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
