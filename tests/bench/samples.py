"""Reports as runs of the bench would make them: plain, beside peers, of another day, and odd ones.

The figures are like those of a machine with two cores; nothing here was measured.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.bench.report import Axis, Figure, Machine, Part, Report, Series

__all__ = ["MACHINE", "PEERS", "beside_peers", "figure", "later", "odd", "plain", "report", "series"]

PEERS = ("nchan", "Centrifugo, Redis engine")
MACHINE = Machine(cpu="AMD EPYC 7763", cores=2, memory=8 * 2**30, system="Linux 6.18", python="3.11.9", gateway="0.1.0", valkey="9.1.0")
HEAVY = {"gateway": 1.0, "nchan": 1.03, "Centrifugo, Redis engine": 2.15}  # how dear a server's delivery is beside the gateway's


def figure(part: Part, name: str, unit: str, *runs: float, **more: Any) -> Figure:
    """A figure whose value is the median of ``runs``."""
    return Figure(part=part, name=name, unit=unit, value=sorted(runs)[len(runs) // 2], runs=runs, **more)


def series(part: Part, title: str, x: Axis, y: Axis, *points: tuple[float, float], **more: Any) -> Series:
    return Series(part=part, title=title, x=x, y=y, points=points, **more)


def report(*found: Figure | Series, remarks: tuple[str, ...] = (), **machine: Any) -> Report:
    return Report(
        began="2026-11-26T04:12:09Z",
        seconds=83.4,
        machine=msgspec.structs.replace(MACHINE, **machine),
        figures=tuple(each for each in found if isinstance(each, Figure)),
        series=tuple(each for each in found if isinstance(each, Series)),
        remarks=remarks,
    )


def plain() -> Report:
    return report(
        *_figures("gateway"), *_shared("gateway"), *_alone(), remarks=("The load client was the limit of: the most deliveries a second.",)
    )


def later() -> Report:
    """As ``plain``, after a change that made deliveries dearer and connects cheaper, on another Python and without the storm."""
    changed = {"CPU per delivery to 1,000 subscribers": 1.3, "CPU per connect with token, presence and subscription": 0.7}
    figures = [_times(each, changed.get(each.name, 1.02)) for each in plain().figures if each.part != "storm"]
    return report(*figures, *_shared("gateway"), python="3.14.0")


def beside_peers() -> Report:
    servers = ("gateway", *PEERS)
    figures = [each for server in servers for each in _figures(server)]
    return report(*figures, *[each for server in servers for each in _shared(server)], *_alone(), remarks=("uWebSockets was not found.",))


def odd() -> Report:
    """What no run should find, but a file may hold."""
    script, long = (
        "<script>alert('x')</script>",
        "a server whose name is much longer than any picture of it can be wide, and then some more",
    )
    x, y = Axis(name="load"), Axis(name="time & <b>space</b>", unit="s")
    subjects = ("gateway", script, long, "three", "four")
    return report(
        *[figure("publish", script, "<i>µs</i>", 0.0000003 * 9**place, subject=subject) for place, subject in enumerate(subjects)],
        *[figure("own", "nothing", "", 0, 0, 0, subject=subject) for subject in subjects],
        figure("storm", "very much", "", 9.87e15, 1.2e16, 3e15, better="more"),
        figure("memory", "negative", "KiB", -3.5, load_client=0.93),
        figure("fan-out", "of a peer alone", "µs", 3, subject="three"),
        series("latency", "A single point", x, y, (3, 4)),
        series("latency", "Nothing", x, y),
        series("latency", "Zero", x, Axis(name="zero", scale="log"), (0, 0), (1, 0), (2, 0)),
        series("latency", "Zero on a logarithmic axis", Axis(name="load", scale="log"), y, (0, 1), (10, 2)),
        series("latency", "One place", x, y, (5, 1), (5, 9)),
        series("memory", "Very large", Axis(name="x", scale="log"), Axis(name="y", scale="log"), (1e-9, 1e-12), (1e12, 1e15)),
        series("own", "Small changes", Axis(name="x"), Axis(name="y"), (1e9, 1e9), (1e9 + 1, 1e9 + 2)),
        *[series("storm", script, x, y, (0, place), (9, 2 * place), subject=subject) for place, subject in enumerate(subjects)],
        *[series("own", "Seven", x, y, (0, place), (9, 9), label=f"l{place}") for place in range(7)],
        remarks=(script,),
        cpu=script,
        memory=512,
    )


def _times(each: Figure, factor: float) -> Figure:
    return msgspec.structs.replace(each, value=each.value * factor, runs=tuple(run * factor for run in each.runs))


def _figures(server: str) -> list[Figure]:
    """Of the gateway all, of a peer those that can be measured of it."""
    heavy = HEAVY[server]
    memory, connects = (48.9, 285.0) if heavy > 2 else (4.3, 431.0) if heavy == 1 else (5.6, 122.0)
    both = [
        figure("fan-out", "CPU per delivery to 1,000 subscribers", "µs", 11.2 * heavy, 11.9 * heavy, 11.4 * heavy, load_client=0.34),
        figure("memory", "memory per idle connection", "KiB", memory, memory * 1.01, memory),
        figure("publish", "CPU per publication by HTTP", "µs", 92 * heavy / 2.5, 101 * heavy / 2.6, 95 * heavy / 2.5),
    ]
    if server != "gateway":
        return [msgspec.structs.replace(each, subject=server) for each in both]
    alone = [
        figure("fan-out", "deliveries at most", "1/s", 1_020_000, 996_000, 1_043_000, better="more", load_client=0.91),
        figure("connects", "CPU per connect with token, presence and subscription", "µs", connects, 417, 467),
        figure("connects", "CPU per connect alone", "µs", 208, 214, 211),
        figure("publish", "CPU per publication by HTTP in batches of 20", "µs", 24.1, 27.9, 25),
        figure("publish", "Valkey's CPU per publication by FCALL, one subscriber", "µs", 9.8, 10.4, 10.1),
        figure("storm", "2,000 clients return, 100 missed each: until all have all", "s", 2.2, 2.31, 2.18),
        figure("storm", "2,000 clients return, 100 missed each: reads of Valkey", "", 53, 57, 53),
        figure("own", "CPU per publication, 2,000 clients on own channels", "µs", 32.8, 34.1, 33),
        figure("latency", "deliveries with p99 under 50 ms", "1/s", 800_000, 600_000, 800_000, better="more"),
    ]
    return [both[0], alone[0], *alone[1:3], both[1], both[2], *alone[3:]]


def _shared(server: str) -> list[Series]:
    """The lines that can be measured of peers too."""
    heavy = HEAVY[server]
    subscribers = Axis(name="subscribers of the channel", scale="log")
    return [
        series(
            "fan-out", "CPU per delivery", subscribers, Axis(name="CPU per delivery", unit="µs"),
            *[(count, (11.1 + 62 / count) * heavy) for count in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)], subject=server,
        ),
        series(
            "memory", "Memory over connections", Axis(name="connections"), Axis(name="resident memory", unit="MiB"),
            *[(count, 61 * heavy + count * (4.3 if heavy < 2 else 49) / 1024) for count in (0, 1000, 2000, 5000, 10_000)], subject=server,
        ),
        *[
            series(
                "latency", "Latency over load", Axis(name="deliveries", unit="a second"), Axis(name="publish to delivery", unit="ms", scale="log"),
                *[(load / heavy, first * (1 + (load / 700_000) ** 4 * slope)) for load in (10_000, 100_000, 250_000, 500_000, 700_000, 800_000, 900_000)],
                subject=server, label=label,
            )
            for label, first, slope in (("p50", 1.1, 6), ("p99", 2.4, 14))
        ],
    ]  # fmt: skip


def _alone() -> list[Series]:
    shape = [0, 4, 31, 140, 260, 288, 291, 286, 293, 280, 287, 262, 204, 121, 40, 9, 1, 0]
    return [
        series(
            "storm", "A storm over time", Axis(name="since the return", unit="s"), Axis(name="deliveries a second"),
            *[(place * 0.15, height * 1000) for place, height in enumerate(shape)],
        )
    ]  # fmt: skip
