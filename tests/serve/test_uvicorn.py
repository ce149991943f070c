"""uvicorn's internals that the gateway builds on are where they were, and all of them are in the one list."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
import tomllib
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

import gateway
from gateway.edges.api.direct import DirectCall
from gateway.edges.http_bounds import BoundedHttp
from gateway.edges.http_protocol import HttpProtocol
from gateway.edges.outlets import Direct
from gateway.edges.uvicorn_internals import INTERNALS, Internal
from gateway.serve.server import Server


def moved(internal: Internal) -> str:
    """What a new uvicorn changed, in words; "" if it is as the gateway expects it."""
    place = f"{internal.owner} has no {internal.name} any more"
    purpose = f"uvicorn {uvicorn.__version__}: {{}}; the gateway uses it for this: {internal.why}"
    try:
        owner = resolve_name(internal.owner)
    except (ImportError, AttributeError):
        return purpose.format(f"there is no {internal.owner} any more")
    if internal.parameters is None:
        return "" if internal.name in attributes(owner) else purpose.format(place)
    call = getattr(owner, internal.name, None)
    if call is None:
        return purpose.format(place)
    names = tuple(name for name in inspect.signature(call).parameters if name != "self")
    if names != internal.parameters:
        return purpose.format(f"{internal.owner}.{internal.name} takes ({', '.join(names)}), not ({', '.join(internal.parameters)})")
    return ""


def attributes(owner: type) -> set[str]:
    """What a class assigns to ``self``, in any of its methods."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is(node.value, "self")
    }


def used(ours: type, name: str = "self") -> set[str]:
    """The attributes of the variable ``name`` that a class of ours reads, sets or calls."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(ours)))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is(node.value, name)}


def _is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def listed(owner: type) -> set[str]:
    return {internal.name for internal in INTERNALS if internal.owner == f"{owner.__module__}.{owner.__qualname__}"}


@pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: f"{internal.owner.rpartition('.')[2]}.{internal.name}")
def test_what_the_gateway_uses_of_uvicorn_is_where_it_was(internal: Internal) -> None:
    assert not moved(internal), moved(internal)


@pytest.mark.parametrize(
    ("internal", "sentence"),
    [
        (Internal("uvicorn.gone.Thing", "x", None, "the reason"), "there is no uvicorn.gone.Thing any more"),
        (Internal("uvicorn.server.Server", "gone", None, "the reason"), "uvicorn.server.Server has no gone any more"),
        (Internal("uvicorn.server.Server", "gone", (), "the reason"), "uvicorn.server.Server has no gone any more"),
        (Internal("uvicorn.server.Server", "on_tick", (), "the reason"), "uvicorn.server.Server.on_tick takes (counter), not ()"),
    ],
)
def test_what_moved_is_named_together_with_its_purpose(internal: Internal, sentence: str) -> None:
    assert moved(internal) == f"uvicorn {uvicorn.__version__}: {sentence}; the gateway uses it for this: the reason"


@pytest.mark.parametrize(
    ("ours", "variable", "theirs"),
    [
        (BoundedHttp, "self", HttpToolsProtocol),
        (HttpProtocol, "self", HttpToolsProtocol),
        (Direct, "lender", HttpToolsProtocol),
        (Server, "self", uvicorn.Server),
    ],
    ids=["BoundedHttp", "HttpProtocol", "Direct", "Server"],
)
def test_the_list_holds_everything_that_is_used(ours: type, variable: str, theirs: Any) -> None:
    """Inherited attributes that are read or set, and methods of uvicorn that are overridden."""
    inherited = (set(vars(theirs)) | attributes(theirs)) - set(dir(asyncio.Protocol))
    mentioned = used(ours, variable) | (set(vars(ours)) if issubclass(ours, theirs) else set())
    assert (mentioned & inherited) - set(dir(object)) <= listed(theirs)


@pytest.mark.parametrize(
    ("names", "theirs"),
    [({"cycle", "_served"}, RequestResponseCycle), ({"flow"}, FlowControl), ({"server_state", "_server_state", "_server"}, ServerState)],
    ids=["RequestResponseCycle", "FlowControl", "ServerState"],
)
def test_the_list_holds_what_is_used_of_what_uvicorns_classes_hold(names: set[str], theirs: Any) -> None:
    """``self.cycle.scope`` is of another class than ``self``."""
    theirs_all = attributes(theirs) | set(vars(theirs)) | set(getattr(theirs, "__dataclass_fields__", ()))
    mentioned = {
        node.attr
        for folder in ("edges", "serve")
        for file in (Path(gateway.__file__).parent / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and (getattr(node.value, "attr", "") in names or getattr(node.value, "id", "") in names)
    }
    assert (mentioned & theirs_all) - set(dir(object)) <= listed(theirs)


def test_a_direct_call_has_what_uvicorn_uses_of_a_request() -> None:
    """The protocol takes it for a ``RequestResponseCycle``."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(HttpToolsProtocol)))
    used_of_cycle = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "cycle"
    }
    assert used_of_cycle and used_of_cycle <= set(dir(DirectCall)), f"uvicorn {uvicorn.__version__} uses more of a request"


def test_uvicorn_is_bounded_at_the_minor_that_is_tested() -> None:
    project = tomllib.loads((Path(gateway.__file__).parent.parent / "pyproject.toml").read_text())["project"]
    (uvicorns,) = [name for name in project["dependencies"] if re.match(r"uvicorn\b", name)]
    minor = int(uvicorn.__version__.split(".")[1])
    assert uvicorns.endswith(f",<0.{minor + 1}"), f"uvicorn {uvicorn.__version__} is installed, pyproject.toml says {uvicorns}"
