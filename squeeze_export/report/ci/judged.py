"""A gate's result with what CI systems are to be told of it, and the words that its forms share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from squeeze_export.gate.results import Against, Check, GateResult, State
from squeeze_export.report.wording import one_line
from squeeze_export.results import Report

MOST_CHARACTERS = 500
"""Of a text in one place; the others are in gate.json."""


@dataclass(frozen=True)
class Judged:
    """A result, and what it is about.

    Attributes:
        result: what the gate found.
        report: what it judged.
        undecided: what undecided checks were told to count as; None leaves them undecided.
        files: the committed file that sets the bounds, and the one that is the baseline, below the project's folder; those that are
            known.
        key: tells jobs of one network apart, such as those of a matrix; empty for the only one.
    """

    result: GateResult
    report: Report
    undecided: Literal["pass", "fail"] | None = None
    files: Mapping[Against, str] = field(default_factory=dict)
    key: str = ""

    def shown_as(self, check: Check) -> State:
        """What a CI system shows a check as, so that its colours agree with the exit code: an undecided one that was told to pass
        is skipped there, and one that was told to fail failed."""
        if check.state != "undecided" or self.undecided is None:
            return check.state
        return "skipped" if self.undecided == "pass" else "failed"


def plain(text: str) -> str:
    """Text from elsewhere in one line of bounded length. Nothing in it is a command to a CI runner's log: those of GitHub and
    Azure (`##[group]`, `##vso[task.setvariable]`) count anywhere in a line.
    """
    line = re.sub(r"#(?=#)", "# ", one_line(text))
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 3]}..."


def found(check: Check) -> str:
    """What a check found, and what would decide it."""
    return plain(f"{check.message}; {check.needs} would decide" if check.needs else check.message)


def about(check: Check) -> str:
    """The file that a check is about."""
    return plain(check.row) or "the report"


def counts(result: GateResult) -> str:
    """`2 failed, 1 undecided, 40 passed`."""
    return ", ".join(f"{count} {state}" for state, count in Counter(check.state for check in result.checks).items())


def told_apart(names: Iterable[str]) -> list[str]:
    """The names, numbered where several are the same: CI systems take two of one name for one."""
    seen: Counter[str] = Counter()
    apart = []
    for name in names:
        seen[name] += 1
        apart.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return apart
