"""A type checker finds the mistakes of a user's program, and nothing in its correct uses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("user_program.py")
ROOT = PROGRAM.parents[2]
# Without this repository's settings, as at a user's; of the packages that the program imports, only types are read, and nothing
# of those that its types do not need.
SETTINGS = """
[mypy]
strict = True
follow_imports = silent
[mypy-alembic.*,attr.*,dotenv.*,libvalkey.*,mako.*,platformdirs.*,pydantic.*,pydantic_settings.*,rich.*,valkey.*]
follow_imports = skip
"""
CACHE = ROOT / ".mypy_cache" / "user_program"  # a later run takes a second instead of ten


@pytest.mark.slow
def test_a_type_checker_finds_each_mistake_of_a_users_program_and_nothing_else(tmp_path: Path) -> None:
    settings = tmp_path / "mypy.ini"
    settings.write_text(SETTINGS)
    command = [sys.executable, "-m", "mypy", "--config-file", str(settings), "--cache-dir", str(CACHE), str(PROGRAM)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and not result.stderr, result.stdout + result.stderr
    errors: dict[int, str] = {}
    for line in result.stdout.splitlines():
        if found := re.search(rf"{PROGRAM.name}:(\d+): error: (.*)", line):
            errors.setdefault(int(found[1]), found[2])
    mistakes = {number for number, line in enumerate(PROGRAM.read_text().splitlines(), 1) if line.endswith("  # mistake")}
    assert {number: text for number, text in errors.items() if number not in mistakes} == {}
    assert mistakes - errors.keys() == set()
