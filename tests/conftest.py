"""What the tests share is made in ``tests/kit``; its fixtures are all here, and the order in which files run."""

from __future__ import annotations

import contextlib
import gc
import os
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from .kit import memory_folder, quick_digests  # noqa: F401  # the second changes what it imports
from .kit.accessibility import axe
from .kit.browser import browser, chromium, context, page
from .kit.bystander import bystander, log, nobody_else_notices
from .kit.certificates import certificate
from .kit.channels import channel, user
from .kit.clusters import cluster, cluster_url, shards, shared_cluster
from .kit.databases import database, database_url, migrated_url, postgresql, sqlite_template
from .kit.examples import choose
from .kit.gateways import edge, prefix, start_gateway, start_gateway_once
from .kit.javascript import node, npm
from .kit.topologies import parametrize, sentinel_url, store, topology, valkey_url
from .kit.valkeys import own, single_url

__all__ = [
    "axe",
    "browser",
    "bystander",
    "certificate",
    "channel",
    "chromium",
    "cluster",
    "cluster_url",
    "context",
    "database",
    "database_url",
    "edge",
    "log",
    "migrated_url",
    "nobody_else_notices",
    "node",
    "npm",
    "own",
    "page",
    "postgresql",
    "prefix",
    "sentinel_url",
    "shards",
    "shared_cluster",
    "single_url",
    "sqlite_template",
    "start_gateway",
    "start_gateway_once",
    "store",
    "topology",
    "user",
    "valkey_url",
]

memory_folder.use()
gc.disable()  # until all tests are collected: hardly any of what is made until then is garbage, and each look at it costs more

# Two cores are shared with other people's work: how long an example takes says nothing here.
settings.register_profile("gateway", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("gateway")

# Test files, by how long they take.
LONG = """
ready relay browser emulation cli rpc sdks faults browser_rights cluster demo worker queue_commands reactions restarts faults_of_clusters
ready_of_cluster primary slow_clients publish_all pipelining reviews drain work_page sse faults_rig elements publisher metrics tickets cent orders
monitoring outbox_jobs refusals order work_faults bridges why site posts openapi accessibility plain_cluster link_cluster control reader websocket
rights connection_limits doctor_proxies tracing gateway_js first_read time_limits live proof started_gateway valkey_by_tls readme_page send
commands_on_a_cluster delta_edges direct store tls page devices
""".split()


def pytest_configure(config: pytest.Config) -> None:
    choose(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Workers import the test modules before they collect them, each beginning elsewhere, so that each compiles only some for all.

    All of them begin with the same one otherwise, and each compiles everything.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None or session.config.args != session.config.getini("testpaths"):
        return
    root = Path(__file__).parent
    modules = sorted(".".join(file.relative_to(root.parent).with_suffix("").parts) for file in root.rglob("test_*.py"))
    first = int(worker.removeprefix("gw")) * len(modules) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for module in modules[first:] + modules[:first]:
        with contextlib.suppress(Exception):  # an error is reported where the module is collected
            import_module(module)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc)


@pytest.hookimpl(trylast=True)  # pytest itself has grouped them by their parameters before
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, since a file is one worker's: what comes last is short. In a file, one kind of Valkey after the other."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    files = {item.path: number for number, item in reversed(list(enumerate(items)))}
    on_each = {item.path for item in items if _topology_of(item)}

    def place(item: pytest.Item) -> tuple[int, int, str, int]:
        line = item.location[1] or 0 if item.path in on_each else 0
        return places.get(item.path.name, len(LONG)), files[item.path], _topology_of(item), line

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """From now on garbage is collected again, which passes over all that is there: it stays until the end."""
    gc.freeze()
    gc.enable()


def _topology_of(item: pytest.Item) -> str:
    """ "" for the single server, wherever else the test is run."""
    return item.callspec.params.get("topology") or "" if hasattr(item, "callspec") else ""
