"""What was found about one publication and one user, and the verdict that follows from it. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from ..publication import Publication

__all__ = ["Evidence", "Finding", "Question", "Verdict", "was_confirmed"]

SHOWN_MOST = 20
PUBLICATION_BYTES = 32  # of one at least, on the wire of any transport

Verdict = Literal["delivered", "not delivered", "unknown"]


class Question(msgspec.Struct, frozen=True):
    """Whether ``user`` was given the publication at ``epoch`` and ``offset`` of ``channel``. ``publication`` is None where it cannot be read."""

    user: str
    channel: str
    epoch: str
    offset: int
    publication: Publication | None = None


class Finding(msgspec.Struct, omit_defaults=True):
    """One thing that is known, or that is not. ``ok``: it speaks for a delivery, against it, or (None) for neither. ``at_ms`` is when it was, in
    unix ms; ``setting`` is the line of the configuration that decides it, or that would have shown more."""

    kind: str
    ok: bool | None
    text: str
    at_ms: int = 0
    setting: str = ""
    client: str = ""


def was_confirmed(offset: int, reached: int, unconfirmed_bytes: int, *, filtered: bool) -> bool:
    """Whether a publication, of those up to ``reached`` that were written to a client, is not among the last bytes, which its machine has not
    confirmed. With a filter it is not known how many publications these bytes are."""
    return not unconfirmed_bytes or (not filtered and (reached - offset) * PUBLICATION_BYTES >= unconfirmed_bytes)


class Evidence:
    """Findings in the order in which they are read, of each kind the first SHOWN_MOST. ``delivered``: one of them proves it; ``impossible``: one proves that it cannot be; ``doubts``:
    some of them hide what may have been a delivery."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._counts: Counter[str] = Counter()
        self.delivered = False
        self.impossible = False
        self.doubts = False

    def add(self, kind: str, ok: bool | None, text: str, *, at_ms: int = 0, setting: str = "", client: str = "") -> None:
        """What explains, and decides nothing by itself."""
        self._counts[kind] += 1
        if self._counts[kind] <= SHOWN_MOST:
            self.findings.append(Finding(kind, ok, text, at_ms, setting, client))

    def proof(self, kind: str, text: str, *, at_ms: int = 0, client: str = "") -> None:
        """It was written to a connection of the user."""
        self.delivered = True
        self.add(kind, True, text, at_ms=at_ms, client=client)

    def never(self, kind: str, text: str) -> None:
        """There is no such publication that anybody could have been given."""
        self.impossible = True
        self.add(kind, False, text)

    def doubt(self, kind: str, text: str, *, at_ms: int = 0, setting: str = "", client: str = "") -> None:
        """It may have been written to a connection of the user, and the gateway cannot know it."""
        self.doubts = True
        self.add(kind, None, text, at_ms=at_ms, setting=setting, client=client)

    @property
    def verdict(self) -> Verdict:
        if self.delivered:
            return "delivered"
        return "unknown" if self.doubts and not self.impossible else "not delivered"
