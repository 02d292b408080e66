"""JUnit XML, which Jenkins, GitLab and most others show: a test case for each check.

The form is the one that Jenkins's xUnit plugin checks (junit-10.xsd), without times: a check takes none.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timezone

from squeeze_export.report.ci.judged import Judged, about, found, plain, told_apart
from squeeze_export.report.pages import fill

_AGAINST = {"bound": "", "baseline": ", against the baseline", "base": ", against the base"}
_ELEMENTS = {"failed": "failure", "undecided": "error", "skipped": "skipped", "passed": ""}
"""An undecided check is an error, which JUnit has for a test that came to no verdict: Jenkins and GitLab show it in red like a
failure, as its exit code fails the job, and count it apart. Told to pass, it is skipped."""


def junit(judged: Judged) -> str:
    """The XML. A class is a word, a case the file that is held to it."""
    checks = judged.result.checks
    names = told_apart(f"{about(check)}{_AGAINST[check.against]}\0{check.name}" for check in checks)
    cases = [
        {
            "class": f"squeeze-export.{plain(check.name)}",
            "name": name.replace(f"\0{check.name}", ""),
            "element": _ELEMENTS[judged.shown_as(check)],
            "type": plain(check.name),
            "message": found(check),
        }
        for name, check in zip(names, checks, strict=True)
    ]
    elements = [case["element"] for case in cases]
    return fill(
        "report/ci/templates/junit.xml",
        suite=plain(judged.result.network) or "squeeze-export gate",
        cases=cases,
        count={element: elements.count(element) for element in _ELEMENTS.values()},
        timestamp=_timestamp(judged.result.created),
        assumptions=[plain(text) for text in judged.result.assumptions],
    )


def _timestamp(created: str) -> str:
    """ISO 8601 without a zone, UTC; empty if it is no time."""
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(created).astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return ""
