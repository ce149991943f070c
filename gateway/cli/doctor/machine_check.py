"""File descriptors and limits of the kernel, beside the connections that ``limits.connections`` promises. The README has the arithmetic."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import NamedTuple

from ...serve.server import BACKLOG
from .diagnosis import Finding, Weight

__all__ = ["UNLIMITED", "Load", "Machine", "machine_findings", "read_machine"]

RESERVED = 128  # descriptors of a process beside its clients': Valkey's, files, the listening socket, a burst that is refused
MANY = 65_536  # descriptors that are enough for the clients of one process: its core serves fewer
FEW = 1000  # connections that no default of a kernel limits
KERNEL_BYTES = 16 * 1024  # of the kernel's memory for each connection, some of which do not read
SYN_BACKLOG = 8192
UNLIMITED = 1 << 62


class Machine(NamedTuple):
    """What the kernel allows; None where this system has no such limit. ``descriptors`` are those that one process may have."""

    descriptors: int
    file_max: int | None = None
    nr_open: int | None = None
    somaxconn: int | None = None
    syn_backlog: int | None = None
    tcp_pages: int | None = None
    page_bytes: int = 4096
    ports: tuple[int, int] | None = None
    tracked: int | None = None


class Load(NamedTuple):
    """What is planned: ``connections`` of each process (0: no limit), ``processes`` on this machine, and whether a proxy is in front."""

    connections: int
    processes: int
    proxied: bool

    @property
    def total(self) -> int:
        return self.connections * self.processes


def read_machine(proc: Path = Path("/proc")) -> Machine:
    """``proc`` is where the kernel shows its settings."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    settings = proc / "sys"
    pages, ports = _numbers(settings / "net/ipv4/tcp_mem"), _numbers(settings / "net/ipv4/ip_local_port_range")
    return Machine(
        UNLIMITED if descriptors == resource.RLIM_INFINITY else descriptors,
        _number(settings / "fs/file-max"),
        _number(settings / "fs/nr_open"),
        _number(settings / "net/core/somaxconn"),
        _number(settings / "net/ipv4/tcp_max_syn_backlog"),
        pages[2] if len(pages) == 3 else None,
        os.sysconf("SC_PAGE_SIZE"),
        (ports[0], ports[1]) if len(ports) == 2 else None,
        _number(settings / "net/netfilter/nf_conntrack_max"),
    )


def _numbers(file: Path) -> list[int]:
    """The numbers in a file of the kernel; none where the system has no such file, as in a container."""
    with contextlib.suppress(OSError, ValueError):
        return [int(word) for word in file.read_text().split()]
    return []


def _number(file: Path) -> int | None:
    numbers = _numbers(file)
    return numbers[0] if numbers else None


def machine_findings(machine: Machine, load: Load, *, whose: str) -> list[Finding]:
    """``whose`` descriptors were read: "the gateway's"."""
    found = _descriptors(machine, load, whose)
    if machine.somaxconn is not None and machine.somaxconn < BACKLOG:
        sentence = f"the kernel holds {machine.somaxconn:,} connections that wait to be accepted (net.core.somaxconn): when all clients return at once, more are refused"
        found.append(Finding(Weight.WARNING, sentence, _sysctl("net.core.somaxconn", BACKLOG)))
    if load.total > FEW:
        found += [
            *_files(machine, load),
            *_memory(machine, load),
            *_waiting(machine, load),
            *_ports(machine, load),
            *_tracking(machine, load),
        ]
    return found


def _sysctl(name: str, value: int | str) -> str:
    """The line of a file, and the command that sets it at once."""
    quoted = f'"{value}"' if isinstance(value, str) else value
    return f"{name} = {value}    (in /etc/sysctl.d/gateway.conf; at once: sysctl -w {name}={quoted})"


def _descriptors(machine: Machine, load: Load, whose: str) -> list[Finding]:
    most, needed = machine.descriptors, load.connections + RESERVED
    if not load.connections:
        if most == UNLIMITED:
            return []
        fitting = max(most - RESERVED, 1)
        sentence = (
            f"limits.connections is 0, which is no limit, and {whose} file descriptors are {most:,}: after about {fitting:,} connections no more "
            "are accepted, and a lost connection to Valkey cannot be opened again"
        )
        raised = "" if most >= MANY else f"; and LimitNOFILE={MANY} in the unit of systemd (ulimit -n {MANY} in a shell), for more"
        return [Finding(Weight.NOTE if most >= MANY else Weight.WARNING, sentence, f"limits.connections = {fitting}{raised}")]
    if needed <= most:
        return []
    sentence = f"limits.connections is {load.connections:,}, and {whose} file descriptors are {most:,}: the last {needed - most:,} are not accepted"
    raised = f"LimitNOFILE={needed}    (in the unit of systemd; in a shell: ulimit -n {needed})"
    if machine.nr_open is not None and needed > machine.nr_open:
        raised += f", and fs.nr_open = {needed}"
    return [Finding(Weight.FAULT, sentence, raised)]


def _files(machine: Machine, load: Load) -> list[Finding]:
    needed = load.total + RESERVED * load.processes
    if machine.file_max is None or needed <= machine.file_max:
        return []
    sentence = f"{load.total:,} connections on this machine (limits.connections × workers) are more than the kernel's {machine.file_max:,} open files"
    return [Finding(Weight.FAULT, sentence, _sysctl("fs.file-max", 2 * needed))]


def _memory(machine: Machine, load: Load) -> list[Finding]:
    if machine.tcp_pages is None or machine.tcp_pages * machine.page_bytes >= load.total * KERNEL_BYTES:
        return []
    pages = load.total * KERNEL_BYTES // machine.page_bytes
    sentence = (
        f"the kernel gives all TCP sockets {machine.tcp_pages * machine.page_bytes // 2**20:,} MiB (net.ipv4.tcp_mem), less than "
        f"{KERNEL_BYTES // 1024} KiB for each of {load.total:,} connections: when many clients are slow, all are"
    )
    return [Finding(Weight.WARNING, sentence, _sysctl("net.ipv4.tcp_mem", f"{pages // 2} {pages * 2 // 3} {pages}"))]


def _waiting(machine: Machine, load: Load) -> list[Finding]:
    if machine.syn_backlog is None or machine.syn_backlog >= min(SYN_BACKLOG, load.total):
        return []
    sentence = f"the kernel holds {machine.syn_backlog:,} handshakes of TCP (net.ipv4.tcp_max_syn_backlog): when all clients return at once, some wait for seconds"
    return [Finding(Weight.NOTE, sentence, _sysctl("net.ipv4.tcp_max_syn_backlog", SYN_BACKLOG))]


def _ports(machine: Machine, load: Load) -> list[Finding]:
    if machine.ports is None or not load.proxied:
        return []
    first, last = machine.ports
    if load.total <= last - first + 1:
        return []
    sentence = f"one address of a proxy on this machine has {last - first + 1:,} ports for its connections to the gateway, which are up to {load.total:,}"
    return [Finding(Weight.WARNING, sentence, _sysctl("net.ipv4.ip_local_port_range", "1024 65535"))]


def _tracking(machine: Machine, load: Load) -> list[Finding]:
    needed = load.total * 2  # those of a storm beside those that they replace
    if machine.tracked is None or needed <= machine.tracked:
        return []
    sentence = f"the firewall follows {machine.tracked:,} connections (net.netfilter.nf_conntrack_max); {load.total:,} that return at once need {needed:,}"
    return [Finding(Weight.WARNING, sentence, _sysctl("net.netfilter.nf_conntrack_max", needed))]
