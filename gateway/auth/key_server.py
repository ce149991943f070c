"""Reading a JWKS URL: one deadline for the whole answer, however slowly it comes.

urllib reads it (it knows redirects and the proxies of the environment) in a thread. Its own timeout is for each read of the socket, so
a server that sends a byte now and then would hold the thread for days. Here every read gets the time that is left until the
deadline. The thread is a daemon of its own, not of the loop's pool: what a thread cannot be freed from, such as a resolver that does not
answer, delays neither other work nor the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["fetch"]

PART_BYTES = 64 * 1024


async def fetch(url: str, seconds: float, most: int) -> bytes:
    """The body of what ``url`` answers. Raises TimeoutError if it is not there after ``seconds``, ValueError if it is longer than
    ``most`` bytes, and what urllib raises otherwise.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: object) -> None:
        if not answer.done():
            set_it(value)

    def work() -> None:
        try:
            settled = partial(settle, answer.set_result, _read(url, time.monotonic() + seconds, most))
        except Exception as error:  # of any library under urllib; the caller gets it
            settled = partial(settle, answer.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile, and nobody waits
            loop.call_soon_threadsafe(settled)

    threading.Thread(target=work, name="key-server", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise TimeoutError(f"its answer was not complete after {seconds:g} s") from None


def _read(url: str, deadline: float, most: int) -> bytes:
    opener = urllib.request.build_opener(_Http(deadline), _Https(deadline))
    text = b""
    try:
        with opener.open(url, timeout=_left(deadline)) as answer:
            while len(text) <= most and (part := answer.read1(PART_BYTES)):
                text += part
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise
    if len(text) > most:
        raise ValueError(f"longer than {most} bytes")
    return text


def _left(deadline: float) -> float:
    """Seconds until ``deadline``, a time of the monotonic clock. Raises TimeoutError if there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("its answer was not complete in time")
    return left


class _Reader(io.RawIOBase):
    """Reads a socket until ``deadline``."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer that is read until ``deadline``: its head as well as its body."""

    def __init__(self, deadline: float, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(sock, deadline))


class _Http(urllib.request.HTTPHandler):
    """Opens ``http://`` for answers that are read until ``deadline``."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_connection, http.client.HTTPConnection, self._deadline), req)


class _Https(urllib.request.HTTPSHandler):
    """The same for ``https://``."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_connection, http.client.HTTPSConnection, self._deadline), req)


def _connection(
    kind: type[http.client.HTTPConnection], deadline: float, host: str, *, timeout: float, **options: Any
) -> http.client.HTTPConnection:
    """A connection that is made, greeted and read until ``deadline``; a redirect takes what is left of the time."""
    connection = kind(host, timeout=_left(deadline), **options)
    connection.response_class = partial(_Answer, deadline)  # type: ignore[assignment]  # what makes one is called like the class
    return connection
