"""axe-core of npm on pages in the browser: what keeps people from using them.

faults(page, axe)    what axe finds on a page as it is now, a line each; the fixture ``axe`` is its source
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

__all__ = ["CORNERS", "axe", "faults"]

LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (360, 1280)]  # a phone's width, and a desk's
CORNERS = LOOKS[1:3]  # each scheme and each width once, for the lesser states of a page


@pytest.fixture(scope="module")
def axe(npm: Future[Path]) -> str:
    return (npm.result() / "node_modules" / "axe-core" / "axe.min.js").read_text()


def faults(page: Any, axe: str, looks: Sequence[tuple[str, int]] = LOOKS) -> list[str]:
    """In light and in dark, on a phone and on a desk, or in fewer ``looks``. The page's security policy does not hold for what the driver evaluates."""
    page.evaluate(f"() => {{ {axe} }}")
    found = []
    for scheme, width in looks:
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        violations = page.evaluate("async () => (await axe.run({ resultTypes: ['violations'] })).violations")
        for violation in violations:
            nodes = [f"{node['html'][:160]} ({' '.join(node['failureSummary'].split())[:300]})" for node in violation["nodes"]]
            found.append(f"{scheme} {width}: {violation['id']}: {violation['help']}: {nodes}")
    return found
