"""What the tests share is made in ``tests/kit``; its fixtures are all here, and the order in which files run."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from .kit.accessibility import axe
from .kit.browser import browser, context, page
from .kit.bystander import bystander, log, nobody_else_notices
from .kit.certificates import certificate
from .kit.channels import channel, user
from .kit.databases import database, database_url, migrated_url, postgresql
from .kit.gateways import edge, prefix, start_gateway, start_gateway_once
from .kit.javascript import node, npm
from .kit.valkeys import own, store, valkey_url

__all__ = [
    "axe",
    "browser",
    "bystander",
    "certificate",
    "channel",
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
    "start_gateway",
    "start_gateway_once",
    "store",
    "user",
    "valkey_url",
]

# Two cores are shared with other people's work: how long an example takes says nothing here.
settings.register_profile("gateway", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("gateway")

# Test files, by how long they take.
LONG = """
openapi types emulation rpc relay cli browser restarts slow_clients reactions reviews demo work_page keys recovery_model faults sse websocket devices reading
browser_rights sdks orders outbox_jobs rights control bad_input time_limits tokens drain posts
""".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, since a file is one worker's: what comes last is short."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))
