"""What commands print: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from squeeze_export.cli import visible
from squeeze_export.core import Progress, silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

    from squeeze_export.results import Report

SHOWN_CLASSES = 10
"""Folders that are printed with their class."""


def stdout_console() -> Console:
    """A rich console on stdout, without markup in square brackets; if stdout is no terminal, it cuts nothing off."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(file=sys.stdout, highlight=False, markup=False, width=width)


_PIPE_WIDTH = 1000
"""Columns; wider than any table."""


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """The steps that are being done, on stderr if that is a terminal, with elapsed and remaining time.

    Between two steps the line says `working`, so that a terminal never stands still. A step that is done makes room for the next.
    """
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _count_column(), _time_column())
    with Bars(*columns, console=Console(stderr=True, markup=False), transient=True) as bars:
        between = bars.add_task("working", total=None)
        steps: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in steps:
                steps[what] = bars.add_task(what, total=total)
            task = bars.tasks[steps[what]]
            if done < task.completed or (done == 0 and task.finished):  # the same step once more
                bars.reset(task.id)
            bars.update(task.id, completed=done, total=total, visible=done < total)
            idle = all(bars.tasks[step].finished for step in steps.values())
            if idle and not bars.tasks[between].visible:
                bars.reset(between)
            bars.update(between, visible=idle)

        yield show


def _count_column() -> ProgressColumn:
    """`16/128`; nothing where no total is known."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.completed:,.0f}/{task.total:,.0f}" if task.total else "")

    return Count()


def _time_column() -> ProgressColumn:
    """`0:12, 1:05 left`: elapsed, and remaining where that can be told."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Times(ProgressColumn):
        def render(self, task: Task) -> Text:
            left = task.time_remaining if task.total else None
            return Text(_clock(task.elapsed or 0) + (f", {_clock(left)} left" if left else ""))

    return Times()


def _clock(seconds: float) -> str:
    """`0:07`, `12:34`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def say(text: str) -> None:
    """A line on stdout."""
    click.echo(visible(text))


def note(text: str) -> None:
    """A line on stderr."""
    click.echo(visible(text), err=True)


def warn(text: str) -> None:
    """A `warning:` line on stderr."""
    click.secho("warning: ", err=True, nl=False, fg="yellow")
    click.echo(visible(text), err=True)


def print_report(report: Report, *, as_json: bool, below: str = "") -> None:
    """A report on stdout, as JSON or as a table with a line below it; its warnings, and what it was compared on, on stderr."""
    from squeeze_export.documents import to_json
    from squeeze_export.report.terminal import print_table
    from squeeze_export.report.wording import emulated_note

    for text in report.warnings:
        warn(text)
    if as_json:
        print_json(to_json(report, "report"))
        return
    print_table(report, stdout_console())
    if below:
        click.echo(f"\n{below}")
    if emulated_note(report.measurements):
        note(emulated_note(report.measurements))
    note_images(report.evaluation, "compared")


def note_images(evaluation: Mapping[str, Any], what: str) -> None:
    """On stderr: which images these were, where they are not the user's own, and what their folders stand for.

    Folders that have the very name of their class need no word, and of the others the first are enough: the JSON has all.

    Args:
        evaluation: of a report.
        what: was done with them, such as `compared`.
    """
    if evaluation.get("note"):
        note(f"{what} on {evaluation['image_count']} images: {evaluation['note']}")
    every = evaluation.get("class_matches", ())
    rows = [row for row in every if row["found"] != row["label"]]
    for row in rows[:SHOWN_CLASSES]:
        label = f" `{row['label']}`" if row["label"] else ""
        how = "" if row["exact"] or not row["label"] else ", not letter for letter"
        note(f"`{row['found']}` is class {row['class_index']}{label}{how}")
    if len(rows) > SHOWN_CLASSES:
        note(f"and {len(rows) - SHOWN_CLASSES} more of {len(every)} folders or labels: the report's JSON has all")


def print_json(value: Any) -> None:
    """Strict JSON on stdout, in ASCII, so that no control character in a file name reaches a terminal."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))
