"""Where CI looks: options of a gate that write its result for CI systems, and what GitHub is told without being asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import note, warn
from squeeze_export.cli.options import FILE, option
from squeeze_export.pipeline.ci import FORMS, Judged, write_forms

_FILES = {"junit": "junit.xml", "markdown": "comment.md", "badge": "badge.json", "benchmark": "benchmark.json"}
"""Option -> the form that it writes."""

CI = (
    option("--ci", group="Output", type=FILE, metavar="DIR", help="Write all that follows into this folder, for CI systems."),
    option("--junit", group="Output", type=FILE, help="Write JUnit XML, a test case for each check."),
    option("--markdown", group="Output", type=FILE, help="Write Markdown for a comment on a pull request."),
    option(
        "--ci-key",
        group="Output",
        default="",
        show_default=False,
        metavar="NAME",
        help="Tells the comment apart from those of other jobs on the same network, as in a matrix.",
    ),
    option("--badge", group="Output", type=FILE, help="Write a badge's JSON, which shields.io draws."),
    option("--benchmark", group="Output", type=FILE, help="Write the figures as github-action-benchmark's customSmallerIsBetter."),
    option(
        "--annotations",
        is_flag=True,
        default=None,
        show_default=False,
        group="Output",
        help="Print GitHub's annotations on stderr. On GitHub they come by themselves, and so does a job summary.",
    ),
)


def files_asked(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that ask for a file."""
    return tuple(name for name in ("ci", *_FILES) if values[name])


def ci_looks(values: Mapping[str, Any]) -> bool:
    """Whether an option asks for a form, or this is GitHub."""
    return _on_github() or any(values[name] for name in ("ci", "annotations", *_FILES))


def tell_ci(told: Judged, values: Mapping[str, Any]) -> None:
    """Writes what the options ask for, and on GitHub what it shows of a job.

    Raises:
        BadInput: a file cannot be written.
    """
    files = {form: values[name] for name, form in _FILES.items() if values[name] is not None}
    write_forms(told, values["ci"], files)
    for path in (*([values["ci"]] if values["ci"] else []), *files.values()):
        note(f"wrote {path}")
    if _on_github() and os.environ.get("GITHUB_STEP_SUMMARY"):
        _add_summary(Path(os.environ["GITHUB_STEP_SUMMARY"]), FORMS["summary.md"](told))
    if _on_github() if values["annotations"] is None else values["annotations"]:
        click.echo(FORMS["annotations.txt"](told), err=True, nl=False)


def _on_github() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _add_summary(path: Path, text: str) -> None:
    """Adds to the job summary, to which other commands of the step may have written."""
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{text}\n")
    except OSError as err:
        warn(f"the job summary `{path}` cannot be written: {err.strerror or err}")
        return
    note("on GitHub: the verdict is in the job summary")
