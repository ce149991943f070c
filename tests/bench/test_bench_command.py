"""``gateway bench``: how its options say what is measured and where the report goes. Nothing is measured here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.bench.report import Report, decode, encode
from gateway.cli import bench_command

from .samples import plain


def _run(*words: str) -> str:
    result = CliRunner().invoke(bench_command.bench, words)
    assert result.exception is None, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("", ()),
        ("fan-out latency", ("fan-out", "latency")),
        ("--only fan-out,latency --only storm", ("fan-out", "latency", "storm")),
        ("memory --only own", ("memory", "own")),
    ],
)
def test_parts_are_named_one_by_one_or_by_only(words: str, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[dict[str, Any]] = []

    def measured(plan: dict[str, Any]) -> Report:
        plans.append(plan)
        return plain()

    monkeypatch.setattr(bench_command, "_measured", measured)
    _run(*words.split())
    assert [plan["parts"] for plan in plans] == [parts]


def test_the_report_is_shown_as_json_or_written_as_a_page(tmp_path: Path) -> None:
    earlier, page = tmp_path / "earlier.json", tmp_path / "page.html"
    earlier.write_bytes(encode(plain()))
    assert decode(_run("--from", str(earlier), "--out", str(page), "--json").encode()) == plain()
    assert page.read_text().startswith("<!doctype html>")
