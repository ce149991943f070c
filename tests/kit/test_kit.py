"""The rules of the tests themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("test_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TESTS)))
def test_no_test_file_imports_another(file: Path) -> None:
    names = {other.stem for other in FILES}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
            assert not imported & (names | {"conftest"}), f"line {node.lineno}: what two files need is in tests/kit"
