"""A real nginx in front of a gateway, where Debian's is installed: each way through it is a server of its own, on a port of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .ports import free_port
from .waiting import wait_until

__all__ = ["needs_nginx", "nginx"]

PROGRAM = shutil.which("nginx")
needs_nginx = pytest.mark.skipif(PROGRAM is None, reason="nginx is not installed")

FILE = """\
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {servers}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, servers: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """``servers`` has the directives of each. Gives the URL of each, by the same names."""
    assert PROGRAM is not None
    ports = {name: free_port() for name in servers}
    texts = [f"server {{ listen 127.0.0.1:{ports[name]}; {directives} }}" for name, directives in servers.items()]
    # Its workers run as another user than root otherwise, who cannot enter the folder.
    user = "user root;" if os.getuid() == 0 else ""
    file = folder / "nginx.conf"
    file.write_text(FILE.format(user=user, folder=folder, servers="\n  ".join(texts)))
    command = [PROGRAM, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(file)]
    with subprocess.Popen(command) as process:
        try:
            for port in ports.values():
                wait_until(lambda port=port: _listens(port), "an nginx that listens")  # type: ignore[misc]  # a default binds the loop's variable
            yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
