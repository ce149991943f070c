"""A type checker finds the mistakes of a user's program, and nothing in its correct uses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("user_program.py")
# Without this repository's settings, as at a user's; of the packages that the program imports, only types are read.
OPTIONS = ("--strict", "--config-file=", "--no-incremental", "--cache-dir", os.devnull, "--follow-imports", "silent")


def test_a_type_checker_finds_each_mistake_of_a_users_program_and_nothing_else() -> None:
    command = [sys.executable, "-m", "mypy", *OPTIONS, str(PROGRAM)]
    result = subprocess.run(command, cwd=PROGRAM.parent.parent.parent, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and not result.stderr, result.stdout + result.stderr
    errors: dict[int, str] = {}
    for line in result.stdout.splitlines():
        if found := re.search(rf"{PROGRAM.name}:(\d+): error: (.*)", line):
            errors.setdefault(int(found[1]), found[2])
    mistakes = {number for number, line in enumerate(PROGRAM.read_text().splitlines(), 1) if line.endswith("  # mistake")}
    assert {number: text for number, text in errors.items() if number not in mistakes} == {}
    assert mistakes - errors.keys() == set()
