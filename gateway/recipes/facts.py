"""What the templates of recipes may name: texts from the configuration, "" for what is not there. None of them is a secret."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from .. import __version__
from ..config import Config, is_loopback
from ..environment import PREFIX, setting_variables
from ..errors import ConfigurationError

__all__ = ["Installation", "facts_of"]

CONTAINERS = ("docker", "compose", "kubernetes")
# Settings, or tables of them, that may hold a secret.
SECRET = ("tokens", "api_keys", "admin_keys", "admin_read_keys", "metrics_key", "valkey_url", "database_url", "bridges")
SET_BY_RECIPES = {"data_dir", "tls_cert", "tls_key", "tokens__public_key_file"}
SET_IN_CONTAINERS = SET_BY_RECIPES | {"host", "port"}
CONFIG_IN_CONTAINER = "/etc/gateway/gateway.toml"
KEY_IN_CONTAINER = "/etc/gateway/public_key.pem"

ON_EVERY_ADDRESS = {
    "0.0.0.0": "127.0.0.1",
    "": "127.0.0.1",
    "::": "::1",
}  # an address to listen on → the one by which programs of this machine reach it
PORT = 8000  # where the configuration takes any free port, which a proxy could not know

IDLE_SECONDS = 60  # the least time limit of a proxy for an idle client
STOP_SECONDS = 15  # after the drain, for the last answers, until worker processes are killed
EMBEDDED_SECONDS = 30  # for the embedded server to end
PRE_STOP_SECONDS = 5  # of a pod
DESCRIPTORS = 65536
SPARE_DESCRIPTORS = 1024  # beside those of clients: Valkey, files, listeners

IN_A_HOME = ("/home/", "/root/")
OF_SEVERAL_LINES = {"settings", "files", "mounts", "volumes"}  # facts that are lines of the file already, with their values quoted
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Installation(NamedTuple):
    """What a recipe needs to know of an installed gateway besides its configuration.

    ``name`` is the host name under which clients reach it, ``path`` the part of its URL in front of the gateway's own paths ("/" or
    "/live/"), ``file`` the path of its configuration file ("" without one), ``program`` that of the command ``gateway``.
    """

    name: str
    path: str
    file: str
    program: str


def facts_of(kind: str, config: Config, installation: Installation) -> dict[str, str]:
    """The facts for a recipe of this kind, by name. Raises ConfigurationError for a path that the recipe's program cannot take."""
    facts = (
        _of_proxies(config, installation)
        | _of_processes(config, installation)
        | _of_metrics(config)
        | _of_settings(kind, config, installation)
    )
    for name, text in facts.items():
        if name not in OF_SEVERAL_LINES and _CONTROL.search(text):
            raise ConfigurationError(
                f"{text!r} has a control character, which would end a line of the recipe: rename the file or the folder"
            )
    if kind == "systemd" and re.search(r"[\"'\\]", installation.program):
        raise ConfigurationError(f"systemd starts no program with a quote or a backslash in its path, as in {installation.program!r}")
    return facts


def _of_proxies(config: Config, installation: Installation) -> dict[str, str]:
    address, tls, caller = _address(config, config.port), bool(config.tls_cert), _caller(config)
    return {
        "name": installation.name,
        "path": installation.path,
        "bare_path": installation.path.rstrip("/"),
        "prefixed": _yes(installation.path != "/"),
        "address": address,
        "origin": f"https://{address}" if tls else address,
        "scheme": "https" if tls else "http",
        "tls": _yes(tls),
        "caller": caller,
        "trusted": _yes(any(ip_address(caller) in network for network in config.proxies)),
        "body_bytes": str(config.limits.api_bytes),
        "ping_seconds": f"{config.ping_seconds:g}",
        "idle_seconds": str(max(IDLE_SECONDS, math.ceil(2 * (config.ping_seconds + config.pong_seconds)))),
    }


def _of_processes(config: Config, installation: Installation) -> dict[str, str]:
    stop = math.ceil(config.drain_seconds) + STOP_SECONDS
    host = {"localhost": "127.0.0.1"}.get(config.host, config.host)
    in_home = any(path.startswith(IN_A_HOME) for path in (installation.program, f"{sys.base_prefix}/"))
    return {
        "version": __version__,
        "port": str(config.port or PORT),
        "low_port": _yes(0 < config.port < 1024),
        "listen": _joined(host, config.port or PORT),
        "drain_seconds": f"{config.drain_seconds:g}",
        "stop_seconds": str(stop + (0 if config.valkey_url else EMBEDDED_SECONDS)),
        "pod_seconds": str(PRE_STOP_SECONDS + stop),
        "descriptors": str(max(DESCRIPTORS, config.limits.connections + SPARE_DESCRIPTORS)),
        "program": _in_quotes(_for_systemd(installation.program)),
        "in_home": _yes(in_home),
        "protect_home": "read-only" if in_home else "yes",
        "probe": f"import urllib.request as r; r.urlopen('http://127.0.0.1:{config.port or PORT}/health/live', timeout=2)",
    }


def _of_metrics(config: Config) -> dict[str, str]:
    return {
        "metrics_port": str(config.metrics_port or ""),
        "metrics_target": _address(config, config.metrics_port or config.port),
    }


def _of_settings(kind: str, config: Config, installation: Installation) -> dict[str, str]:
    file, key_file, own_valkey = installation.file, _absolute(config.tokens.public_key_file), not config.valkey_url
    return {
        "file": _for_systemd(file) if kind == "systemd" else shlex.quote(file) if file else "",
        "config_option": " --config %d/gateway.toml" if file else "",
        "container_config": f", --config, {CONFIG_IN_CONTAINER}" if file else "",
        "key_file": _for_systemd(key_file) if kind == "systemd" else shlex.quote(key_file) if key_file else "",
        "tls_cert": _for_systemd(_absolute(config.tls_cert)),
        "tls_key": _for_systemd(_absolute(config.tls_key)),
        "data_path": str(config.data_path),
        "own_valkey": _yes(own_valkey),
        "and_valkey": " and a Valkey" if own_valkey else "",
        "valkey_here": _yes(kind in CONTAINERS and _is_of_this_machine(config.valkey_url)),
        "secrets": ", ".join(_secrets(kind, config)),
        "makes_secrets": _yes(bool(_lacking(config))),
        "settings": "\n".join(_WRITTEN[kind](name, value) for name, value in _settings(kind, config)) if kind in _WRITTEN else "",
        "files": "\n".join(f"      - {_bound(here, there)}" for _, here, there in _files(file, key_file)),
        "mounts": "\n".join(
            f"            - {{name: {name}, mountPath: {there}, subPath: {Path(there).name}, readOnly: true}}"
            for name, _, there in _files(file, key_file)
        ),
        "volumes": "\n".join(
            f"        - name: {name}\n          secret: {{secretName: gateway-{name}}}" for name, _, _ in _files(file, key_file)
        ),
    }


def _files(file: str, key_file: str) -> list[tuple[str, str, str]]:
    """What a container reads: a short name, the path here, the path there."""
    listed = [("file", file, CONFIG_IN_CONTAINER), ("key", key_file, KEY_IN_CONTAINER)]
    return [each for each in listed if each[1]]


def _secrets(kind: str, config: Config) -> list[str]:
    """The names of the variables that a recipe takes from a file of secrets: those that are set here, and those that it needs besides."""
    names = {name for name in setting_variables() if _root(name) in SECRET and _key(name) not in SET_BY_RECIPES}
    if kind in CONTAINERS:
        names |= _lacking(config)
    if (kind == "kubernetes" and not config.valkey_url) or (kind in CONTAINERS and _is_of_this_machine(config.valkey_url)):
        names.add(f"{PREFIX}VALKEY_URL")
    return sorted(names)


def _is_of_this_machine(valkey_url: str) -> bool:
    """Whether it names a server by an address that in a container is the container's own."""
    parts = urlsplit(valkey_url)
    hosts = [urlsplit(f"//{host}").hostname or "" for host in parts.netloc.rpartition("@")[2].split(",")]
    return "unix" in parts.scheme or any(map(is_loopback, hosts))


def _lacking(config: Config) -> set[str]:
    """The secrets that nothing configures."""
    tokens = config.tokens
    has_key = tokens.hmac_secret or tokens.public_key_file or tokens.jwks_url
    names = set() if has_key else {f"{PREFIX}TOKENS__HMAC_SECRET"}
    return names if config.api_keys else names | {f"{PREFIX}API_KEYS"}


def _settings(kind: str, config: Config) -> Iterator[tuple[str, str]]:
    """The settings that come from the environment, as it is now, but for those that may hold a secret, and those that the recipe sets."""
    left_out = SET_IN_CONTAINERS if kind in CONTAINERS else SET_BY_RECIPES
    for name in sorted(setting_variables()):
        if _root(name) not in SECRET and _key(name) not in left_out:
            yield name, os.environ[name]
    if kind in CONTAINERS and config.tokens.public_key_file:
        yield f"{PREFIX}TOKENS__PUBLIC_KEY_FILE", KEY_IN_CONTAINER
    if kind in CONTAINERS and config.tls_cert:  # a proxy, or an Ingress, ends TLS in front of containers
        yield f"{PREFIX}TLS_CERT", ""
        yield f"{PREFIX}TLS_KEY", ""


def _in_systemd(name: str, value: str) -> str:
    """It reads the escapes of C, of which JSON's text has some; those of characters beyond ASCII are not the same."""
    return f"Environment={json.dumps(_for_systemd(f'{name}={value}'), ensure_ascii=False)}"


def _in_compose(name: str, value: str) -> str:
    return f"      {json.dumps(name)}: {_for_compose(json.dumps(value))}"


def _in_kubernetes(name: str, value: str) -> str:
    return f"            - {{name: {json.dumps(name)}, value: {json.dumps(value).replace('$(', '$$(')}}}"


_WRITTEN = {"systemd": _in_systemd, "compose": _in_compose, "kubernetes": _in_kubernetes}


def _for_systemd(text: str) -> str:
    """systemd replaces what follows a percent sign."""
    return text.replace("%", "%%")


def _in_quotes(path: str) -> str:
    """A path as systemd takes it, which may have spaces."""
    return f'"{path}"' if " " in path else path


def _bound(here: str, there: str) -> str:
    """A volume of Compose that is a file of this machine. In the short form, a colon ends the path."""
    if ":" not in here:
        return _for_compose(json.dumps(f"{here}:{there}:ro"))
    return _for_compose(f"{{type: bind, source: {json.dumps(here)}, target: {there}, read_only: true}}")


def _for_compose(text: str) -> str:
    """Compose replaces what follows a dollar sign."""
    return text.replace("$", "$$")


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""


def _key(variable: str) -> str:
    """GATEWAY_TOKENS__ISSUER → tokens__issuer"""
    return variable[len(PREFIX) :].lower()


def _root(variable: str) -> str:
    """GATEWAY_TOKENS__ISSUER → tokens"""
    return _key(variable).split("__")[0]


def _address(config: Config, port: int) -> str:
    """Where programs of this machine reach a port of the gateway."""
    return _joined(ON_EVERY_ADDRESS.get(config.host, config.host), port or PORT)


def _caller(config: Config) -> str:
    """The address from which a proxy of this machine calls the gateway: the one that it calls."""
    try:
        return str(ip_address(ON_EVERY_ADDRESS.get(config.host, config.host)))
    except ValueError:  # a name
        return "127.0.0.1"


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _yes(fact: bool) -> str:
    return "yes" if fact else ""
