"""Markdown: the job summary, and a pull request's comment, which is found again by its first line and renewed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from squeeze_export.gate.results import Check
from squeeze_export.report.ci.judged import Judged, about, counts, found, plain
from squeeze_export.report.markdown import markdown_text, to_markdown
from squeeze_export.report.pages import fill

if TYPE_CHECKING:
    from markupsafe import Markup

COMMENT_BYTES = 60_000
"""GitHub takes comments of 65,536 characters, GitLab of a million."""
SUMMARY_BYTES = 1_000_000
"""GitHub takes a mebibyte of a step."""

_MOST_NAME = 80
_MOST_ROWS = (100, 20, 0)


def summary(judged: Judged) -> str:
    """The verdict, each check that someone should look at, the others counted, and the report's tables."""
    return _fitting("report/ci/templates/summary.md", judged, SUMMARY_BYTES)


def comment(judged: Judged) -> str:
    """The same, with the report's tables folded up. Its first line names the network, as each has a comment of its own."""
    return _fitting("report/ci/templates/comment.md", judged, COMMENT_BYTES)


def _fitting(template: str, judged: Judged, most_bytes: int) -> str:
    """The text with as much as fits: without the report's tables if need be, then with fewer rows."""
    from markupsafe import Markup

    written = ""
    for report in (Markup(to_markdown(judged.report)), ""):
        for most_rows in _MOST_ROWS:
            written = _filled(template, judged, report, most_rows)
            if len(written.encode("utf-8", "backslashreplace")) <= most_bytes:
                return written
    return written


def _filled(template: str, judged: Judged, report: Markup | str, most_rows: int) -> str:
    result = judged.result
    looked_at = [check for check in result.checks if _to_look_at(check)]
    return fill(
        template,
        marker=_marker(f"{result.network} {judged.key}"),
        state=result.state,
        counts=counts(result),
        network=_markdown(plain(result.network)),
        rows=[_row(check) for check in looked_at[:most_rows]],
        left_out=max(0, len(looked_at) - most_rows),
        others=_others([check for check in result.checks if not _to_look_at(check)]),
        assumptions=[_markdown(plain(text)) for text in result.assumptions],
        report=report,
    )


def _to_look_at(check: Check) -> bool:
    return check.state in ("failed", "undecided") or check.cleared


def _row(check: Check) -> tuple[Markup, ...]:
    state = "cleared" if check.cleared else check.state
    return tuple(_markdown(text) for text in (state, plain(check.name), about(check), found(check)))


def _others(checks: Sequence[Check]) -> list[tuple[str, Markup, int]]:
    """State, check and how many, of those that nobody has to look at."""
    kinds: dict[tuple[str, str], int] = {}
    for check in checks:
        kinds[check.state, plain(check.name)] = kinds.get((check.state, plain(check.name)), 0) + 1
    return [(state, _markdown(name), count) for (state, name), count in list(kinds.items())[:50]]


def _marker(job: str) -> Markup:
    """`<!-- squeeze-export gate squeezenet1_1 -->`."""
    from markupsafe import Markup

    name = re.sub(r"[^A-Za-z0-9_.]+", "-", job).strip("-")[:_MOST_NAME].strip("-")
    return Markup(f"<!-- squeeze-export gate {name} -->" if name else "<!-- squeeze-export gate -->")


def _markdown(text: str) -> Markup:
    """Text for a template, which would escape it as HTML."""
    from markupsafe import Markup

    return Markup(markdown_text(text))
