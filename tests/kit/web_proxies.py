"""nginx, Caddy and HAProxy in front of a gateway, each with its recipe, on a free port of 127.0.0.1 with TLS.

Debian's packages nginx-core, caddy and haproxy bring them. A recipe is changed where it names what only the administrator has: the port
443, the certificate, the folder of logs; and it asks every 0.1 s, instead of every 2 s, whether the gateway is ready.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config
from gateway.recipes import Installation, recipe

from .certificates import Authority
from .clients import SECONDS, Socket
from .gateways import RunningGateway
from .ports import free_port
from .waiting import wait_until

__all__ = ["FORGED", "HERE", "KINDS", "PATH", "WebProxy", "fault", "needs_program"]

KINDS = ("nginx", "caddy", "haproxy")
NAME = "live.example.org"
PATH = "/live/"
HERE = "127.0.0.2"  # from where the tests call a proxy, which calls the gateway from 127.0.0.1
FORGED = {"X-Forwarded-For": "203.0.113.9"}
NONE: Mapping[str, str] = {}

_NGINX = """daemon off; user root; pid {folder}/nginx.pid; error_log {folder}/log;
events {{ worker_connections 256; }}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/temp; include {folder}/site.conf; }}
"""


def needs_program(name: str) -> str:
    """The path of a program; where it is missing, the test is skipped, but fails in CI. CI does not install systemd: that takes a minute."""
    path = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    if path is None:
        reason = f"{name} is not installed: apt-get install nginx-core caddy haproxy systemd"
        pytest.fail(reason) if os.environ.get("CI") and not name.startswith("systemd") else pytest.skip(reason)
    return path


class _Socket(Socket):
    """By TLS. A proxy that is in the middle of a stream does not answer the end of TLS, so it is not waited for."""

    host = ""

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] = NONE, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        return await super().request(method, path, {"Host": self.host} | dict(headers), body)

    async def close(self) -> None:
        self.writer.transport.abort()


class WebProxy:
    """A proxy of this kind in front of ``gateway``, which it offers at ``url``. For ``client`` of the kit it is a gateway; ``options`` are
    what its connections need."""

    def __init__(self, kind: str, gateway: RunningGateway, folder: Path, authority: Authority) -> None:
        program = needs_program(kind)
        folder.mkdir()
        self.kind = kind
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}{PATH.rstrip('/')}"
        self.websocket_url = f"wss://127.0.0.1:{self.port}{PATH}connection/websocket"
        self.token = gateway.token
        self.options: dict[str, Any] = {"ssl": ssl.create_default_context(cafile=authority.path), "local_addr": (HERE, 0)}
        self._folder = folder
        certificate = authority.issue(f"{kind}-front")
        text = recipe(kind, Config(port=gateway.port, trusted_proxies=["127.0.0.1"]), Installation(NAME, PATH, "", ""))
        words = _SET_UP[kind](text, folder, self.port, certificate)
        with (folder / "output").open("wb") as output:
            environment = os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
            self._process = subprocess.Popen([program, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)

    def wait(self) -> None:
        """Until the proxy reaches the gateway."""
        wait_until(lambda: asyncio.run(self._reaches()), f"{self.kind} reaches the gateway")

    async def _reaches(self) -> bool:
        assert self._process.poll() is None, self.log()
        try:
            async with await self.open() as raw:
                return (await raw.request("GET", f"{PATH}health/ready"))[0] == 200
        except OSError:
            return False

    async def open(self) -> Socket:
        """A TLS connection to it, with HTTP/1.1."""
        async with asyncio.timeout(SECONDS):
            raw = _Socket(*await asyncio.open_connection("127.0.0.1", self.port, limit=2**24, **self.options))
        raw.host = f"127.0.0.1:{self.port}"
        return raw

    def log(self) -> str:
        """Everything that it has written to its logs."""
        return "".join(file.read_text() for name in ("output", "log", "access", "error") if (file := self._folder / name).exists())

    def close(self) -> None:
        self._process.send_signal(signal.SIGKILL if self.kind == "caddy" else signal.SIGTERM)  # Caddy waits for its clients
        self._process.wait(10)


def fault(kind: str, config: Config, path: str, folder: Path) -> str:
    """What the program finds wrong with its recipe for a configuration; "" for nothing."""
    certificate = Authority(folder).issue(kind)
    words = _SET_UP[kind](recipe(kind, config, Installation(NAME, path, "", "")), folder, free_port(), certificate)
    checked = {"nginx": ["-t", *words], "caddy": ["adapt", *words[1:]], "haproxy": ["-c", *words]}[kind]
    done = subprocess.run([needs_program(kind), *checked], capture_output=True, text=True, env=os.environ | {"HOME": str(folder)})
    return done.stdout + done.stderr if done.returncode else ""


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """The text with each key, which it must contain, replaced by its value."""
    for given, ours in changes.items():
        assert given in text, f"the recipe has no {given!r}"
        text = text.replace(given, ours)
    return text


def _set_up_nginx(text: str, folder: Path, port: int, certificate: Path) -> list[str]:
    changes = {
        "    listen [::]:443 ssl http2;\n": "",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        f"/etc/ssl/{NAME}/fullchain.pem": str(certificate),
        f"/etc/ssl/{NAME}/privkey.pem": str(certificate.with_suffix(".key")),
        "/var/log/nginx/gateway.log": str(folder / "access"),
        "/var/log/nginx/gateway_error.log": str(folder / "error"),
    }
    (folder / "site.conf").write_text(replaced(text, changes))
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder))
    return ["-c", str(folder / "nginx.conf")]


def _set_up_caddy(text: str, folder: Path, port: int, certificate: Path) -> list[str]:
    site = f"https://127.0.0.1:{port} {{\n\ttls {certificate} {certificate.with_suffix('.key')}\n"
    changes = {
        "\n{\n": "\n{\n\tadmin off\n\tauto_https disable_redirects\n",
        f"\n{NAME} {{\n": f"\n{site}",
        "health_interval 2s": "health_interval 100ms",
    }
    (folder / "Caddyfile").write_text(replaced(text, changes))
    return ["run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def _set_up_haproxy(text: str, folder: Path, port: int, certificate: Path) -> list[str]:
    both = folder / "both.pem"
    both.write_text(certificate.read_text() + certificate.with_suffix(".key").read_text())
    changes = {
        "bind :443": f"bind 127.0.0.1:{port}",
        f"/etc/haproxy/{NAME}.pem": str(both),
        "log /dev/log local0": "log stdout format raw local0",
        "maxconn 100000": "maxconn 200",
        "inter 2s": "inter 100ms",
    }
    (folder / "haproxy.cfg").write_text(replaced(text, changes))
    return ["-db", "-f", str(folder / "haproxy.cfg")]


_SET_UP: dict[str, Callable[[str, Path, int, Path], list[str]]] = {
    "nginx": _set_up_nginx,
    "caddy": _set_up_caddy,
    "haproxy": _set_up_haproxy,
}
