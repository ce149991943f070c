"""Whatever a person can set, call or open stands in the README."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.bridging import BridgeRules
from gateway.cli import app
from gateway.config import BUILT_IN, ChannelRules, Config, Insecure, Limits, Tokens
from gateway.edges.api.methods import METHODS
from gateway.edges.emulation import PATHS as EMULATION
from gateway.edges.websocket import PATH

README = (Path(__file__).parent.parent / "README.md").read_text()

SETTINGS = (
    [name for name in Config.model_fields if name not in ("tokens", "insecure", "limits", "channels", "namespaces", "bridges")]
    + [
        f"{section}.{name}"
        for section, model in (("tokens", Tokens), ("insecure", Insecure), ("limits", Limits))
        for name in model.model_fields
    ]
    + list(ChannelRules.model_fields)
    + list(BridgeRules.model_fields)
    + ["[channels]", "[namespaces.NAME]", "[[bridges]]"]
)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_is_documented(setting: str) -> None:
    assert f"`{setting}`" in README


@pytest.mark.parametrize("command", sorted(app.commands))
def test_every_command_is_documented(command: str) -> None:
    assert f"`gateway {command} " in README


@pytest.mark.parametrize(
    "path",
    [*(route.path for route in create_app(Config()).routes if route.path != "/static"), "/sse", PATH, *EMULATION, "/static/gateway.js"],
)
def test_every_path_is_documented(path: str) -> None:
    assert f"GET {path}" in README or f"POST {path}" in README


@pytest.mark.parametrize("method", [*METHODS, "batch"])
def test_every_method_of_the_server_api_is_documented(method: str) -> None:
    assert f"`{method}`" in README


@pytest.mark.parametrize("namespace", BUILT_IN)
def test_every_built_in_namespace_is_documented(namespace: str) -> None:
    assert f"`{namespace}`" in README
