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

LOOKS = [("dark", 360), ("light", 1280), ("light", 360), ("dark", 1280)]  # a phone's width, and a desk's
CORNERS = LOOKS[:2]  # each scheme and each width once, for the lesser states of a page
ALL_RULES: dict[str, Any] = {}
# Pages that observe their sizes have been told of the new one after the next frame.
DRAWN = "() => new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)))"
RUN = "async ([within, options]) => (await axe.run(within || document, options)).violations"
RULES_OF_COLOUR = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}


@pytest.fixture(scope="module")
def axe(npm: Future[Path]) -> str:
    return (npm.result() / "node_modules" / "axe-core" / "axe.min.js").read_text()


def faults(page: Any, axe: str, looks: Sequence[tuple[str, int]] = LOOKS, *, within: str = "") -> list[str]:
    """In light and in dark, on a phone and on a desk, or in fewer ``looks``; ``within`` is the selector of the part that is new.

    A scheme changes nothing but colours, so in the second scheme of a width only the rules about colours are applied. The page's security
    policy does not hold for what the driver evaluates.
    """
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(f"() => {{ {axe} }}")
    found, widths = [], set[int]()
    for scheme, width in looks:
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.evaluate(DRAWN)
        options = (RULES_OF_COLOUR if width in widths else ALL_RULES) | {"resultTypes": ["violations"]}
        widths.add(width)
        for violation in page.evaluate(RUN, [within, options]):
            nodes = [f"{node['html'][:160]} ({' '.join(node['failureSummary'].split())[:300]})" for node in violation["nodes"]]
            found.append(f"{scheme} {width}: {violation['id']}: {violation['help']}: {nodes}")
    return found
