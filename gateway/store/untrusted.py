"""What Valkey holds or announces and no gateway, publisher or service wrote there.

Other programs may write to the same Valkey, so every entry and message is checked for itself. A bad one costs itself only: it
is left out, counted by its kind, and logged once for each name of a channel or a key.
"""

from __future__ import annotations

import logging
from collections import Counter

__all__ = ["KINDS", "Faults"]

log = logging.getLogger("gateway.store")

KINDS = tuple("announcement entry tags info history presence control revocation queue alert index reader outbox".split())
NAMES_MOST = 1000  # of each kind that are logged; further ones are only counted
SHOWN = 200  # characters of a name or a reason in a log line


class Faults:
    """``counts`` is how many were found since the start, by kind: one of KINDS."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._logged: dict[str, set[str]] = {}

    def found(self, kind: str, name: str, reason: object) -> None:
        """One of this kind in this channel or key. ``reason`` says what is wrong with it; it may hold text from outside."""
        self.counts[kind] += 1
        names = self._logged.setdefault(kind, set())
        if name in names or len(names) >= NAMES_MOST:
            return
        names.add(name)
        log.warning("%s: ignored faulty data in valkey (%s): %s", ascii(name[:SHOWN]), kind, ascii(str(reason)[:SHOWN]))
