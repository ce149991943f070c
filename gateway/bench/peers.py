"""Other servers that are measured beside the gateway in the same run, where they are installed. None of them is a part of this project."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .addressing import Addressing, CentrifugeProtocol, NchanPaths
from .guardian import GuardedServer
from .measured_server import HISTORY_SIZE, PING_SECONDS, MeasuredServer, ServerProcess, free_port, private_folder, wait_until_it_listens

__all__ = ["Peer", "PeerSettings", "find_peers"]

NCHAN_FOLDERS = (
    "/usr/lib/nginx/modules",
    "/usr/lib64/nginx/modules",
    "/usr/local/lib/nginx/modules",
    "/usr/local/libexec/nginx",
    "/etc/nginx/modules",
)
NCHAN_BUFFER = 100
WORKERS_SECONDS = 0.5  # until a server that listens has started its worker processes

NCHAN = """\
load_module {module};
{user}
worker_processes {workers};
worker_rlimit_nofile {descriptors};
daemon off;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections {descriptors}; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_buffer_size 64k;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    nchan_channel_id $arg_id;
    location = /pub {{ nchan_publisher; nchan_message_buffer_length {buffer}; nchan_message_timeout 5m; }}
    location = /new {{ nchan_subscriber; nchan_subscriber_first_message newest; }}
    location = /all {{ nchan_subscriber; nchan_subscriber_first_message oldest; }}
  }}
}}
"""


class Peer(NamedTuple):
    """``start(workers, cores)`` runs it. Raises GatewayError if it does not start."""

    name: str
    start: Callable[[int, set[int]], MeasuredServer]


class PeerSettings(NamedTuple):
    """Where the peers' Valkey is, under which prefix, and how many descriptors a process may have."""

    valkey_url: str
    prefix: str
    descriptors: int


def find_peers(centrifugo: str, settings: PeerSettings) -> tuple[list[Peer], list[str]]:
    """The peers that are installed, and a sentence for each that is not. ``centrifugo`` is its program, by name or path."""
    found, missing = list[Peer](), list[str]()
    nginx, module = shutil.which("nginx"), _nchan_module()
    if nginx and module:
        found.append(Peer("nchan", lambda workers, cores: _start_nchan(nginx, module, workers, cores, settings.descriptors)))
    else:
        missing.append("nchan was not measured: nginx with its module ngx_nchan_module.so was not found.")
    if program := shutil.which(centrifugo):
        found.append(Peer("Centrifugo, memory", lambda workers, cores: _start_centrifugo(program, "memory", workers, cores, settings)))
        if settings.valkey_url.startswith("valkey://"):
            found.append(
                Peer("Centrifugo, Redis engine", lambda workers, cores: _start_centrifugo(program, "redis", workers, cores, settings))
            )
        else:
            missing.append("Centrifugo's Redis engine was not measured: it was given no Valkey whose address begins with valkey://.")
    else:
        missing.append(f"Centrifugo was not measured: there is no program {centrifugo!r}; --centrifugo names it.")
    return found, missing


def _nchan_module() -> Path | None:
    files = [Path(folder) / "ngx_nchan_module.so" for folder in NCHAN_FOLDERS]
    return next((file for file in files if file.exists()), None)


def _start_nchan(nginx: str, module: Path, workers: int, cores: set[int], descriptors: int) -> MeasuredServer:
    folder, port = private_folder(), free_port()
    # Its workers run as another user than root otherwise, who cannot enter the folder.
    user = "user root;" if os.getuid() == 0 else ""
    text = NCHAN.format(module=module, user=user, workers=workers, folder=folder, port=port, descriptors=descriptors, buffer=NCHAN_BUFFER)
    (folder / "nginx.conf").write_text(text)
    command = [nginx, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    return _started("nchan", command, folder, port, cores, NchanPaths())


def _start_centrifugo(program: str, engine: str, workers: int, cores: set[int], settings: PeerSettings) -> MeasuredServer:
    folder, port = private_folder(), free_port()
    secret, key = secrets.token_hex(32), secrets.token_hex(16)
    rules = {
        "history_size": HISTORY_SIZE,
        "history_ttl": "300s",
        "force_recovery": True,
        "presence": True,
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": True,
    }
    configuration: dict[str, object] = {
        "http_server": {"port": port, "address": "127.0.0.1"},
        "client": {
            "token": {"hmac_secret_key": secret},
            "allow_anonymous_connect_without_token": True,
            "allowed_origins": ["*"],
            "ping_interval": f"{PING_SECONDS}s",
        },
        "http_api": {"key": key},
        "log": {"level": "error"},
        "channel": {"without_namespace": rules},
    }
    prefix = f"{settings.prefix}:centrifugo"  # the gateway's guardian removes all that begins with the gateway's
    if engine == "redis":
        address = settings.valkey_url.replace("valkey://", "redis://")
        configuration["engine"] = {"type": "redis", "redis": {"address": address, "prefix": prefix}}
    (folder / "centrifugo.json").write_text(json.dumps(configuration))
    command = [program, "-c", str(folder / "centrifugo.json")]
    name, valkey_url = ("Centrifugo, Redis engine", settings.valkey_url) if engine == "redis" else ("Centrifugo, memory", "")
    environment = {"GOMAXPROCS": str(workers)}
    return _started(name, command, folder, port, cores, CentrifugeProtocol(secret, key), environment=environment, valkey_url=valkey_url)


def _started(
    name: str,
    command: list[str],
    folder: Path,
    port: int,
    cores: set[int],
    addressing: Addressing,
    *,
    environment: dict[str, str] | None = None,
    valkey_url: str = "",
) -> MeasuredServer:
    server = GuardedServer(command=command, folder=str(folder), cores=sorted(cores), environment=environment or {})
    process = ServerProcess(server)
    try:
        wait_until_it_listens(process, name, port)
        time.sleep(WORKERS_SECONDS)
        return MeasuredServer(name, process, port, addressing, valkey_url=valkey_url)
    except BaseException:
        process.end()
        raise
