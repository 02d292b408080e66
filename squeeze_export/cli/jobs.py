"""What the exports and the chips' compilers share: how options become a job, and what is shown of its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from squeeze_export.cli.console import note, print_json, shown_progress, stdout_console, warn
from squeeze_export.cli.options import Option, Repeatable, option
from squeeze_export.cli.options.calibration import CALIBRATION, EVALUATION, TABLE
from squeeze_export.cli.options.network import DEMO_NOTE, NETWORK, preprocess_choice
from squeeze_export.cli.options.output import OUT, OUTPUT
from squeeze_export.cli.options.quantization import recipe_options
from squeeze_export.cli.options.running import FULL_PLACEMENT, NO_VALIDATE
from squeeze_export.core import Progress
from squeeze_export.errors import EXIT_DONE, Refused
from squeeze_export.pipeline import check_full_placement, run_compiled
from squeeze_export.pipeline.calibration import KEPT_FLOAT
from squeeze_export.pipeline.job import Job
from squeeze_export.pipeline.recipes import recipe_names
from squeeze_export.results import Measurement, Report

_ALL = "all"
"""Stands for every chip."""

COMPILING = (
    *(*NETWORK, *CALIBRATION, EVALUATION, TABLE, *recipe_options(recipe_names("ours"))),
    *(FULL_PLACEMENT, NO_VALIDATE, OUT, *OUTPUT),
)
"""The options of every compiler's command, beside its own."""


def chip_option(flag: str, chips: Sequence[str], what: str) -> Option:
    """What a compiler compiles for. `chosen_chips` reads the value."""
    kinds: dict[str, Any] = {"type": click.Choice([*chips, _ALL]), "cls": Repeatable, "multiple": True}
    return option(flag, **kinds, default=chips[:1], show_default=True, help=f"{what} to compile for. Repeat it for more.")


def chosen_chips(asked: Sequence[str], chips: Sequence[str]) -> Sequence[str]:
    """The chips asked for; all of them for `all`."""
    return chips if _ALL in asked else asked


def compiled_scheme_option(schemes: Sequence[str], text: str) -> Option:
    """The scheme of the file that is compiled, the compiler's first by default."""
    return option("--scheme", type=click.Choice(schemes), default=schemes[0], show_default=True, help=text)


def job_from(values: Mapping[str, Any], **given: Any) -> Job:
    """The job of a command's values.

    Args:
        values: of the command's options.
        given: what the command knows or has read by itself, by the names of `Job`.
    """
    return Job(
        weights=values["weights"],
        calib=values["calib"],
        table=values["table"],
        eval=values["evaluation"],
        labels=values["labels"],
        preprocess=preprocess_choice(dict(values)),
        bypass=values["bypass"],
        recipe=values["recipe"],
        seed=values["seed"],
        out=values["out"],
        validate=not values["no_validate"],
        skip_broken=values["skip_broken"],
        **given,
    )


def run_shown(job: Job, run: Callable[[Job, Progress], Report]) -> Report:
    """Runs a job behind a progress bar; stderr says so where it is on the demo network."""
    if job.weights is None and job.table is None:
        note(DEMO_NOTE)
    with shown_progress() as progress:
        return run(job, progress)


def compile_and_show(
    values: Mapping[str, Any], compiler: str, chips: Sequence[str], settings: Mapping[str, str], **given: Any
) -> int:
    """Compiles for chips; writes and prints the report.

    Args:
        values: of `COMPILING`.
        compiler: a key of `registry.COMPILERS`.
        chips: what to compile for; empty takes the compiler's first.
        settings: the compiler's own.
        given: the rest of the job, by the names of `Job`.

    Returns:
        The exit code.
    """
    job = job_from(values, targets=(), **given)
    report = run_shown(job, lambda job, progress: run_compiled(job, compiler, chips, settings, progress))
    return finish(report, job, values, [row for row in report.measurements if row.target == compiler])


def finish(report: Report, job: Job, values: Mapping[str, Any], rows: Sequence[Measurement]) -> int:
    """Shows a report; gives the exit code.

    Raises:
        GateFailed: `--require-full-placement` was asked, and an operator of one of the rows fell back.
    """
    code = show(report, job, as_json=values["as_json"])
    if values["require_full_placement"] and code == EXIT_DONE:
        check_full_placement(rows)
    return code


def show(report: Report, job: Job, *, as_json: bool) -> int:
    """Writes the report's files, prints the result, and gives the exit code."""
    from squeeze_export.report.html import write_html
    from squeeze_export.report.wording import emulated_note
    from squeeze_export.results import to_json, write_json

    out = job.out
    write_json(report, out / "report.json")
    write_html(report, out / "report.html")
    for text in report.warnings:
        warn(text)
    if as_json:
        print_json(to_json(report))
    else:
        from squeeze_export.report.terminal import print_table

        print_table(report, stdout_console())
        if emulated_note(report.measurements):
            note(emulated_note(report.measurements))
        if report.evaluation.get("note"):
            note(f"compared on {report.evaluation['image_count']} images: {report.evaluation['note']}")
    kept = report.calibration.get(KEPT_FLOAT)
    if kept:
        note(f"in float on request: {', '.join(kept)}")
    for name in dict.fromkeys(row.artifact for row in report.measurements if row.artifact and row.scheme == job.scheme):
        note(f"wrote {out / name}")
    note(f"report {out / 'report.json'} and {out / 'report.html'}")
    return Refused.exit_code if any(row.status == "failed" for row in report.measurements) else EXIT_DONE
