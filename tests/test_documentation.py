"""Every setting, command and endpoint is in the README."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.bridging import BridgeRules
from gateway.cli import app
from gateway.config import BUILT_IN, Alerts, ChannelRules, Config, Insecure, Limits, Telemetry, Tokens
from gateway.edges.api.methods import METHODS
from gateway.edges.emulation import PATHS as EMULATION
from gateway.edges.websocket import PATH

README = (Path(__file__).parent.parent / "README.md").read_text()

SETTINGS = (
    [
        name
        for name in Config.model_fields
        if name not in ("tokens", "insecure", "limits", "alerts", "telemetry", "channels", "namespaces", "bridges")
    ]
    + [
        f"{section}.{name}"
        for section, model in (("tokens", Tokens), ("insecure", Insecure), ("limits", Limits), ("alerts", Alerts), ("telemetry", Telemetry))
        for name in model.model_fields
    ]
    + list(ChannelRules.model_fields)
    + list(BridgeRules.model_fields)
    + ["[channels]", "[namespaces.NAME]", "[[bridges]]"]
)


DOCUMENTED = [
    *(f"`{name}`" for name in (*SETTINGS, *METHODS, "batch", *BUILT_IN)),
    *(f"`gateway {command} " for command in sorted(app.commands)),
]


@pytest.mark.parametrize("text", DOCUMENTED)
def test_every_setting_command_method_and_built_in_namespace_is_documented(text: str) -> None:
    assert text in README


@pytest.mark.parametrize(
    "path",
    [*(route.path for route in create_app(Config()).routes if route.path != "/static"), "/sse", PATH, *EMULATION, "/static/gateway.js"],
)
def test_every_path_is_documented(path: str) -> None:
    assert f"GET {path}" in README or f"POST {path}" in README
