"""GitHub's annotations: workflow commands, one a line, which a step prints.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
"""

from __future__ import annotations

from collections.abc import Sequence

from squeeze_export.gate.results import Check
from squeeze_export.report.ci.judged import Judged, about, found, plain

MOST = 10
"""Annotations of one level that GitHub shows of a step."""

_MORE = "{} more like this: the job summary and gate.json have all"


def workflow_commands(judged: Judged) -> str:
    """`::error` for what failed, `::warning` for what is undecided, `::notice` for alerts that fresh rounds cleared."""
    levels: dict[str, list[Check]] = {"error": [], "warning": [], "notice": []}
    for check in judged.result.checks:
        shown = judged.shown_as(check)
        if shown in ("failed", "undecided"):
            levels["error" if shown == "failed" else "warning"].append(check)
        elif check.cleared or check.state == "undecided":
            levels["notice"].append(check)
    return "".join(line + "\n" for level, checks in levels.items() for line in _level(level, checks, judged))


def _level(level: str, checks: Sequence[Check], judged: Judged) -> list[str]:
    """The commands of one level; the last of too many counts those that are left out."""
    shown = checks if len(checks) <= MOST else checks[: MOST - 1]
    lines = []
    for check in shown:
        file = judged.files.get(check.against, "")
        properties = {**({"file": file} if file else {}), "title": f"squeeze-export gate: {plain(check.name)}"}
        lines.append(workflow_command(level, properties, f"{about(check)}: {found(check)}"))
    if len(shown) < len(checks):
        lines.append(workflow_command(level, {"title": "squeeze-export gate"}, _MORE.format(len(checks) - len(shown))))
    return lines


def workflow_command(level: str, properties: dict[str, str], message: str) -> str:
    """One command: `::error title=...::message`."""
    spelt = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {spelt}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
