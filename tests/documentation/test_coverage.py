"""Whatever people can set, call, receive or count is on its page of the reference."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator

import click
import pytest

from gateway import errors
from gateway.app import create_app
from gateway.bridging import BridgeRules
from gateway.channel_rules import BUILT_IN, ChannelRules
from gateway.cli import app
from gateway.config import Alerts, Config, Insecure, Limits, Telemetry, Tokens
from gateway.console.methods import METHODS as CONSOLE_METHODS
from gateway.edges.api.methods import METHODS
from gateway.edges.emulation import PATHS as EMULATION
from gateway.edges.responses import STATUS_OF_ERROR
from gateway.edges.websocket_handshake import PATH
from gateway.metrics.catalog import METRICS
from gateway.rules.protocol import METHODS as COMMANDS

from . import python_api
from .pages import TOP, page

SECTIONS = {"tokens": Tokens, "insecure": Insecure, "limits": Limits, "alerts": Alerts, "telemetry": Telemetry}
RULES = ("channels", "namespaces", "bridges")

SETTINGS = [
    *(name for name in Config.model_fields if name not in (*SECTIONS, *RULES)),
    *(f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields),
    *ChannelRules.model_fields,
    *("[channels]", "[namespaces.NAME]", "[[bridges]]"),
]
ERRORS = sorted(
    {member.code for _, member in inspect.getmembers(errors, inspect.isclass) if hasattr(member, "code")} | STATUS_OF_ERROR.keys()
)
UNSUBSCRIBED = sorted(
    {int(code) for file in (TOP / "gateway" / "session").glob("*.py") for code in re.findall(r"end_with\((\d{4})", file.read_text())}
)


@pytest.mark.parametrize("name", [*SETTINGS, *BUILT_IN])
def test_every_setting_and_every_built_in_namespace_is_documented(name: str) -> None:
    assert f"`{name}`" in page("reference/settings")


@pytest.mark.parametrize("name", BridgeRules.model_fields)
def test_every_setting_of_a_bridge_is_documented(name: str) -> None:
    assert f"`{name}`" in page("how-to/bridges")


def _commands(group: click.Group, words: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in sorted(group.commands.items()):
        yield f"{words} {name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{words} {name}")


@pytest.mark.parametrize("words, command", [pytest.param(*pair, id=pair[0]) for pair in _commands(app, "gateway")])
def test_every_command_is_documented_with_its_options(words: str, command: click.Command) -> None:
    text = page("reference/commands")
    beginning, _, name = words.rpartition(" ")
    assert f"## {words}\n" in text if beginning == "gateway" else re.search(rf"^\| `{name}[ `]", text, re.M), words
    general, _, rest = text.partition("\n## ")
    own = general + rest.partition(f"{words.partition(' queue ')[0]}\n")[2].partition("\n## ")[0]
    if " queue " in words:
        own = general + text.partition("## gateway queue")[2]
    options = [option for parameter in command.params if isinstance(parameter, click.Option) for option in parameter.opts[:1]]
    assert [option for option in options if not re.search(rf"{option}\b", own)] == []


def test_every_method_of_the_server_api_is_documented() -> None:
    assert [name for name in (*METHODS, "batch") if f"| `{name}` |" not in page("reference/http")] == []


@pytest.mark.parametrize(
    "path",
    [
        *(route.path for route in create_app(Config(admin_keys=["0123456789abcdef"])).routes if route.path != "/static"),
        "/sse",
        PATH,
        *EMULATION,
        "/static/gateway.js",
    ],
)
def test_every_path_is_documented(path: str) -> None:
    shown = re.sub(r"\{[^}]*\}", "…", path)
    assert re.search(rf"`(GET|POST) {re.escape(shown)}[`?]", page("reference/http"))


@pytest.mark.parametrize("code", [*ERRORS, *errors.Disconnect.REASONS, *UNSUBSCRIBED])
def test_every_error_and_close_code_is_documented_with_its_text(code: int) -> None:
    rows = re.findall(rf"^\| {code} \| ([^|]*) \|", page("reference/errors-and-close-codes"), re.M)
    assert len(rows) == 1
    if code in errors.Disconnect.REASONS:
        assert rows == [errors.Disconnect.REASONS[code]]


def test_every_metric_is_documented_with_its_kind_its_labels_and_its_meaning() -> None:
    rows = {row[1]: row[0] for row in re.finditer(r"^\| `(\w+)` \|.*$", page("reference/metrics"), re.M)}
    assert rows.keys() == {metric.name for metric in METRICS}
    assert [
        metric.name
        for metric in METRICS
        if metric.kind not in rows[metric.name] or not all(f"`{label}`" in rows[metric.name] for label in metric.labels)
    ] == []


def test_every_method_of_the_console_is_documented() -> None:
    rows = re.findall(r"^\| ((?:`\w+`,? ?)+)\|", page("reference/http"), re.M)
    documented = {name for row in rows for name in re.findall(r"\w+", row)}
    assert sorted(CONSOLE_METHODS.keys() - documented) == []


def test_every_command_of_the_wire_protocol_is_documented() -> None:
    assert [name for name in COMMANDS if f"| `{name}` |" not in page("reference/wire-protocol")] == []


def test_every_function_in_valkey_is_documented() -> None:
    sources = [file.read_text() for file in (TOP / "gateway" / "store" / "lua").glob("*.lua")]
    names = {name for source in sources for name in re.findall(r"register_function[({].*?(gateway_\w+)", source)}
    assert len(names) > 30
    assert [name for name in sorted(names) if f"`{name}`" not in page("reference/valkey-layout")] == []


def test_the_page_of_the_python_api_is_that_of_the_docstrings() -> None:
    assert page("reference/python") == python_api.text(), "run: python -m tests.documentation.python_api"


def test_every_member_of_the_javascript_api_is_documented() -> None:
    types = (TOP / "static" / "gateway.d.ts").read_text()
    kinds = "Gateway|Subscription|GatewayOptions|SubscribeOptions|Inbox"
    bodies = re.findall(rf"^export (?:interface|class) (?:{kinds})(?:<.*?>)?(?: extends [^{{]*)? {{\n(.*?)^}}", types, re.M | re.S)
    assert len(bodies) == 5
    names = {name for body in bodies for name in re.findall(r"^  (?:readonly )?(\w+)\??[(:<]", body, re.M)} - {"constructor", "inbox"}
    assert len(names) > 25
    assert [name for name in sorted(names) if not re.search(rf"`[^`]*\b{name}\b[^`]*`", page("reference/javascript"))] == []
    words = re.findall(r'"(\w+)"', re.search(r"type ErrorCode = (.*);", types)[1])  # type: ignore[index]  # a missing type fails here too
    assert [word for word in words if f'| `"{word}"` |' not in page("reference/javascript")] == []


def test_every_member_of_the_elements_hooks_and_stores_is_documented() -> None:
    text = page("reference/javascript")
    types = "".join((TOP / "static" / f"{name}.d.ts").read_text() for name in ("elements", "react", "stores"))
    kinds = "Gateway(?:Element|Inbox|Feed|Hooks)|(?:Use)?(?:Channel|Inbox)Options|(?:Channel|Inbox|Presence)(?:Store|Snapshot)|Store"
    bodies = re.findall(
        rf"^(?:export|declare) (?:interface|class) (?:{kinds})(?:<.*?>)?(?: extends [^{{]*)? {{\n(.*?)^}}", types, re.M | re.S
    )
    names = {name for body in bodies for name in re.findall(r"^  (?:readonly |[gs]et )?(\w+)\??[(:<]", body, re.M)}
    names -= {"constructor", "addEventListener", "removeEventListener"}
    comment = (TOP / "static" / "elements.js").read_text().partition("*/")[0]
    names |= {"hooks", *re.findall(r"^ \*   ([a-z-]+) {3,}", comment, re.M)}  # and the attributes
    assert {"token-url", "useChannel", "older", "limit", "getSnapshot"} <= names
    assert [name for name in sorted(names) if not re.search(rf"`[^`]*(?<![\w-]){name}(?![\w-])[^`]*`", text)] == []


@pytest.mark.parametrize("module", [name for name, names in python_api.PUBLIC.items() if names])
def test_what_the_page_of_the_python_api_shows_of_a_module_is_exported_by_it(module: str) -> None:
    names = python_api.PUBLIC[module] or ()
    assert set(names) <= set(importlib.import_module(module).__all__)
