"""What the exports and the compilers share: how options become a job, and how its report is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from squeeze_export.cli.console import note, print_report, shown_progress
from squeeze_export.cli.options import Choice, Option, Repeatable, call_with, option
from squeeze_export.cli.options.calibration import CALIBRATION, EVALUATION, EXPECT_TOP1, TABLE
from squeeze_export.cli.options.network import DEMO_NOTE, NETWORK, structure_choice, tell_reading
from squeeze_export.cli.options.output import OUT, OUTPUT
from squeeze_export.cli.options.quantization import recipe_options
from squeeze_export.cli.options.running import FULL_PLACEMENT, NO_VALIDATE
from squeeze_export.core import EmitOptions, Progress
from squeeze_export.errors import EXIT_DONE, Refused, Unavailable
from squeeze_export.pipeline import check_full_placement, run_compiled
from squeeze_export.pipeline.calibration import KEPT_FLOAT
from squeeze_export.pipeline.job import NO_LABELS, Job
from squeeze_export.pipeline.network import Network, PreprocessChoice
from squeeze_export.pipeline.recipes import recipe_names
from squeeze_export.pipeline.sessions import RunOptions
from squeeze_export.results import Measurement, Report

_ALL = "all"
"""Stands for every chip."""

COMPILING = (
    *(*NETWORK, *CALIBRATION, EVALUATION, EXPECT_TOP1, TABLE, *recipe_options(recipe_names("ours"))),
    *(FULL_PLACEMENT, NO_VALIDATE, OUT, *OUTPUT),
)
"""The options of every compiler's command, besides its own."""


def chip_option(flag: str, chips: Sequence[str], what: str) -> Option:
    """The option for the chips to compile for. `chosen_chips` reads its value."""
    kinds: dict[str, Any] = {"type": Choice([*chips, _ALL]), "cls": Repeatable, "multiple": True}
    return option(flag, **kinds, default=chips[:1], help=f"{what} to compile for. Repeat it for more.")


def chosen_chips(asked: Sequence[str], chips: Sequence[str]) -> Sequence[str]:
    """The requested chips; all of them for `all`."""
    return chips if _ALL in asked else asked


def compiled_scheme_option(schemes: Sequence[str], text: str) -> Option:
    """The scheme of the file that is compiled, the compiler's first by default."""
    return option("--scheme", type=Choice(schemes), default=schemes[0], help=text)


def job_from(values: Mapping[str, Any], **given: Any) -> Job:
    """The job of a command's values.

    Args:
        values: of the command's options.
        given: fields of `Job` that the command sets itself.
    """
    read = {
        "targets": (),
        "eval": values["evaluation"],
        "preprocess": call_with(PreprocessChoice, values),
        "structure": structure_choice(values),
        "options": call_with(EmitOptions, values),
        "run": call_with(RunOptions, values),
        "validate": not values["no_validate"],
        "bench": not values.get("no_bench"),
    }
    return replace(call_with(Job, {**values, **read}), **given)


def run_shown(job: Job, run: Callable[[Job, Progress, Callable[[Network], None]], Report]) -> Report:
    """Runs a job with a progress bar. Notes on stderr: if it is on the demo network, and what is told of its reading."""
    if job.weights is None and job.table is None:
        note(DEMO_NOTE)
    with shown_progress() as progress:
        return run(job, progress, tell_reading)


def compile_and_show(
    values: Mapping[str, Any], compiler: str, chips: Sequence[str] = (), settings: Mapping[str, str] | None = None, **given: Any
) -> int:
    """Compiles for chips; writes and prints the report.

    Args:
        values: of the options in `COMPILING`.
        compiler: a key of `registry.COMPILERS`.
        chips: to compile for; empty takes the compiler's first.
        settings: of the compiler.
        given: fields of `Job` that the command sets itself.

    Returns:
        The exit code.
    """
    job = job_from(values, **given)
    report = run_shown(job, lambda job, *told: run_compiled(job, compiler, chips, settings, *told))
    return finish(report, job, values, [row for row in report.measurements if row.target == compiler])


def finish(report: Report, job: Job, values: Mapping[str, Any], rows: Sequence[Measurement]) -> int:
    """Writes the report's files, prints the result, and gives the exit code.

    Raises:
        GateFailed: `--require-full-placement` was given, and an operator of one of the rows fell back.
    """
    from squeeze_export.pipeline.page import images_folder
    from squeeze_export.pipeline.reports import PAGE, REPORT, TEXT, write_report

    other = write_report(report, job.out, images_folder(job))
    print_report(report, as_json=values["as_json"])
    if NO_LABELS.items() <= report.network.items():
        note("no labels: the files tell a class by its index alone, `--labels FILE` gives them names")
    kept = report.calibration.get(KEPT_FLOAT)
    if kept:
        note(f"in float on request: {', '.join(kept)}")
    for row in report.measurements:
        if row.status == "skipped" and not row.artifact:
            note(f"skipped {row.target}: {row.reason}")
    for name in dict.fromkeys(row.artifact for row in report.measurements if row.artifact and row.scheme == job.scheme):
        note(f"wrote {job.out / name}")
    if other is not None:
        note(f"{job.out / REPORT} was of another network: it is kept as {other}")
    note(f"report {job.out / REPORT}, {PAGE} and {TEXT}")
    if any(row.status == "failed" for row in report.measurements):
        return Refused.exit_code
    if all(row.status == "skipped" for row in report.measurements):
        return Unavailable.exit_code
    if values["require_full_placement"]:
        check_full_placement(rows)
    return EXIT_DONE
