"""What systemd passes to a service, and what it is sent: a listening socket, and the news that the service is ready.

Sources: sd_listen_fds(3), sd_notify(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from ..errors import ConfigurationError

__all__ = ["notify_ready", "passed_listener"]

log = logging.getLogger("gateway.server")

FIRST_DESCRIPTOR = 3


def passed_listener(environment: Mapping[str, str] = os.environ) -> socket.socket | None:
    """The listening TCP socket that systemd opened for this process; None without one. Raises ConfigurationError for any other socket."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    if environment.get("LISTEN_FDS") != "1":
        raise ConfigurationError("systemd passed more than one socket; a gateway takes one: leave one ListenStream in its .socket unit")
    listener = socket.socket(fileno=FIRST_DESCRIPTOR)
    listener.set_inheritable(False)
    if fault := _fault(listener):
        listener.close()
        raise ConfigurationError(f"systemd passed {fault} in the .socket unit")
    return listener


def _fault(listener: socket.socket) -> str:
    """What is wrong with a socket that was passed, and what to write; "" if nothing is."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6) or listener.type != socket.SOCK_STREAM:
        return "a socket that is not one of TCP; write ListenStream=ADDRESS:PORT"
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "one connection, not a socket that listens; write Accept=no"
    return ""


def notify_ready(environment: Mapping[str, str] = os.environ) -> None:
    """Reports to systemd, where it waits for that (``Type=notify``), that clients may connect. A report that fails is logged: the variable
    may be inherited from a service that is gone."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        try:
            notifications.connect(f"\0{path[1:]}" if path.startswith("@") else path)
            notifications.send(b"READY=1")
        except OSError as error:
            log.warning("systemd could not be notified at %s (NOTIFY_SOCKET): %s", path, error)
