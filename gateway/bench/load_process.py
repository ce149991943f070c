"""``python -m gateway.bench.load_process``: a load client. It carries out orders from its standard input, and ends with it.

It has to cost much less than the server that it measures. So it has no event loop of a library: it asks epoll which sockets have bytes,
reads them into one buffer for all, and counts. The bench's end, however it comes, closes the standard input.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable

import msgspec

from .load_orders import Answer, Call, Close, Open, Order, Pace, Request, State
from .load_requests import request_at_once, request_in_time
from .load_sockets import Sockets
from .ready_sockets import ReadySockets

READ = 1 << 16


class _Process:
    """Carries out one order after the other; what sockets bring meanwhile is read at any time."""

    def __init__(self) -> None:
        self.ended = False
        self._unread = b""
        self._ready = ReadySockets()
        self._sockets = Sockets(self._ready)

    def run(self) -> None:
        self._ready.add(sys.stdin.fileno(), self._read)
        while not self.ended:
            self._ready.turn()

    def _read(self) -> None:
        data = os.read(sys.stdin.fileno(), READ)
        self.ended = not data
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            answer = self._carry_out(msgspec.json.decode(line, type=Order))
            try:
                os.write(sys.stdout.fileno(), msgspec.json.encode(answer) + b"\n")
            except BrokenPipeError:  # the bench ended meanwhile
                self.ended = True
                return

    def _carry_out(self, order: Order) -> Answer:
        began = time.monotonic()
        try:
            answer = self._handler(order)()
        except OSError as error:
            answer = Answer(failure=str(error))
        answer.seconds = answer.seconds or time.monotonic() - began
        return answer

    def _handler(self, order: Order) -> Callable[[], Answer]:
        match order:
            case Open():
                return lambda: self._sockets.open(order)
            case Close():
                return lambda: self._sockets.close(order)
            case State():
                return lambda: self._sockets.state(order)
            case Request():
                return lambda: request_at_once(order)
            case Pace():
                return lambda: request_in_time(order)
            case Call():
                from .load_calls import publish_by_calls  # half a second of imports, which few need

                return lambda: publish_by_calls(order)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the bench ends it
    gc.freeze()
    gc.disable()  # nothing here has cycles
    _Process().run()


if __name__ == "__main__":
    main()
