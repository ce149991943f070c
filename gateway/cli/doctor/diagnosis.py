"""What ``gateway doctor`` found: findings in the order of their weight, each with the line that changes it."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import NamedTuple

from ...runtime.logs import printable

__all__ = ["Diagnosis", "Finding", "Weight"]


class Weight(IntEnum):
    """How much a finding matters, the gravest first."""

    FAULT = 0  # something is refused or cut off now, or clients can do what they should not
    WARNING = 1  # something will be lost or refused under load, or after a crash
    NOTE = 2  # it works as it is configured, and may not be what was meant


class Finding(NamedTuple):
    """One sentence, and in ``change`` the line of a configuration, or the command, that changes it; "" where the sentence names it."""

    weight: Weight
    sentence: str
    change: str = ""


class Diagnosis:
    """Collects findings. ``fine`` is what works, by its name; ``untried`` names what could not be tested, a sentence each."""

    def __init__(self) -> None:
        self.fine: dict[str, str] = {}
        self.untried: list[str] = []
        self._findings: dict[str, Finding] = {}  # by sentence: two parts may find the same

    def add(self, *findings: Finding) -> None:
        """A sentence that was found already is not repeated."""
        for finding in findings:
            self._findings.setdefault(finding.sentence, finding)

    @property
    def findings(self) -> list[Finding]:
        """The gravest first; among those of one weight, in the order in which they were found."""
        return sorted(self._findings.values(), key=lambda finding: finding.weight)

    @property
    def is_well(self) -> bool:
        """Whether there is no fault. Warnings and notes do not count."""
        return all(finding.weight is not Weight.FAULT for finding in self._findings.values())

    def as_json(self) -> str:
        """One line of JSON."""
        findings = [{"weight": each.weight.name.lower(), "sentence": each.sentence, "change": each.change} for each in self.findings]
        return json.dumps({"ok": self.is_well, "findings": findings, "untried": self.untried, "fine": self.fine}, ensure_ascii=False)

    def as_text(self) -> str:
        """Lines for people: findings, what was not tried, what is fine, and a last line with the counts."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.weight.name.lower():<10} {_line(finding.sentence)}")
            if finding.change:
                lines.append(f"{'':<10} change: {_line(finding.change)}")
        lines += [f"{'not tried':<10} {_line(sentence)}" for sentence in self.untried]
        lines += [f"{'fine':<10} {_line(f'{name}: {text}')}" for name, text in self.fine.items()]
        return "\n".join([*lines, self._counts()])

    def _counts(self) -> str:
        counted = [(weight, sum(each.weight is weight for each in self._findings.values())) for weight in Weight]
        return "found: " + ", ".join(f"{count} {weight.name.lower()}{'s' * (count != 1)}" for weight, count in counted)


def _line(text: str) -> str:
    """In one line, whatever a server answered."""
    return printable(" ".join(text.split()))
