"""A gate's result where CI systems look: one module a form, each from a `Judged` to the text of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from squeeze_export.report.ci.annotations import workflow_commands
from squeeze_export.report.ci.badge import badge
from squeeze_export.report.ci.benchmark import benchmark
from squeeze_export.report.ci.judged import Judged
from squeeze_export.report.ci.junit import junit
from squeeze_export.report.ci.lines import lines
from squeeze_export.report.ci.markdown import comment, summary

__all__ = ["FORMS", "Form", "Judged"]

Form: TypeAlias = Callable[[Judged], str]

FORMS: Mapping[str, Form] = {
    "annotations.txt": workflow_commands,
    "badge.json": badge,
    "benchmark.json": benchmark,
    "comment.md": comment,
    "junit.xml": junit,
    "lines.txt": lines,
    "summary.md": summary,
}
"""File name -> what writes its text."""
