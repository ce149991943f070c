"""What the soak measures: the gateway's memory, descriptors and objects; Valkey's memory and keys."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import valkey

from ..kit.gateways import API_KEY
from ..kit.servers import ValkeyServer
from ..kit.tokens import SECRET
from .visitors import RULES

__all__ = ["Rig", "Sample", "running"]

AT_ONCE = 2000  # keys whose expiry is asked for together
_NUMBERED = re.compile(rb"[0-9]+|node:[0-9a-f-]+|present:[0-9a-f-]+")


@dataclass
class Sample:
    """``permanent``: kind of key → how many of that kind have no time to live."""

    connects: int
    resident: int  # bytes of the gateway's memory
    descriptors: int
    blocks: int
    objects: dict[str, int]
    clients: int
    valkey_bytes: int
    keys: int
    permanent: Counter[str] = field(default_factory=Counter)

    def row(self) -> str:
        return (
            f"| {self.connects:,} | {self.resident / 2**20:.1f} | {self.descriptors} | {self.blocks:,} | {self.clients} "
            f"| {self.keys:,} | {self.permanent.total():,} | {self.valkey_bytes / 2**20:.1f} |"
        )

    HEAD = (
        "| connects | gateway MiB | descriptors | memory blocks | clients | keys | keys without a TTL | Valkey MiB |\n"
        "|---|---|---|---|---|---|---|---|"
    )


class Rig:
    """A gateway and its Valkey, as long as ``running`` is entered."""

    def __init__(self, server: ValkeyServer, process: subprocess.Popen[str], log: Path) -> None:
        self._server = server
        self._process = process
        self.log = log
        assert process.stdout is not None
        line = process.stdout.readline()
        if " is ready at " not in line:
            raise SystemExit(f"the gateway did not start: {log.read_text()[-1000:]}")
        self.port = int(line.split(" is ready at ")[1].split()[0].rstrip("/").rpartition(":")[2])

    def sample(self, connects: int, clients: int) -> Sample:
        """Takes some seconds, in which neither of the two does anything else."""
        process = Path(f"/proc/{self._process.pid}")
        status = (process / "status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0]) * 1024
        keys, permanent = self._keys()
        inside = self._ask()
        return Sample(
            connects,
            resident,
            len(list((process / "fd").iterdir())),
            inside["blocks"],
            inside["objects"],
            clients,
            self._server.client.info("memory")["used_memory"],
            keys,
            permanent,
        )

    def _ask(self) -> dict[str, dict[str, int]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = ""
        while not line.startswith("{"):  # what the gateway prints at its start
            line = self._process.stdout.readline()
        return json.loads(line)

    def _keys(self) -> tuple[int, Counter[str]]:
        """How many keys there are, and those without a time to live by their kind."""
        client: valkey.Valkey = self._server.client
        count, permanent, some = 0, Counter[str](), list[bytes]()
        for key in client.scan_iter(count=1000):
            some.append(key)
            if len(some) == AT_ONCE:
                count, some = count + len(some), self._add_permanent(some, permanent)
        self._add_permanent(some, permanent)
        return count + len(some), permanent

    def _add_permanent(self, keys: list[bytes], permanent: Counter[str]) -> list[bytes]:
        with self._server.client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.execute_command("TTL", key)
            for key, ttl in zip(keys, pipeline.execute(), strict=True):
                if ttl == -1:
                    permanent[_NUMBERED.sub(b"*", key).decode()] += 1
        return []


@contextmanager
def running() -> Iterator[Rig]:
    """Starts both, and ends both."""
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(Path(folder) / "valkey", "maxclients 1000")
        file, log = Path(folder) / "gateway.toml", Path(folder) / "log"
        file.write_text(f"""
port = 0
valkey_url = "{server.url}"
api_keys = ["{API_KEY}"]
drain_seconds = 1
log_level = "warning"
[tokens]
hmac_secret = "{SECRET}"
{RULES}""")
        words = [sys.executable, "-m", "tests.soak.observed", "serve", "--config", str(file)]
        try:
            with (
                log.open("w") as errors,
                subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
            ):
                try:
                    yield Rig(server, process, log)
                finally:
                    process.terminate()
        finally:
            server.stop()
