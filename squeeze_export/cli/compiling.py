"""What the commands share that compile for a chip: their options, and how these become a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from squeeze_export.cli.console import note, shown_progress
from squeeze_export.cli.export import show
from squeeze_export.cli.options import (
    DEMO_NOTE,
    FILE,
    F,
    calibration_options,
    network_options,
    option,
    output_options,
    preprocess_choice,
)
from squeeze_export.core import EmitOptions
from squeeze_export.errors import EXIT_DONE
from squeeze_export.pipeline import check_full_placement, run_compiled
from squeeze_export.pipeline.job import Job
from squeeze_export.pipeline.sessions import RunOptions
from squeeze_export.quant.recipes import RECIPES

ALL = "all"
"""Stands for every chip."""


def compile_options(function: F) -> F:
    """What every compiler's command asks."""
    for add in reversed(
        (
            calibration_options([*RECIPES]),
            option("--table", type=FILE, metavar="FILE", help="Integers from `calibrate` instead of --calib."),
            option(
                "--eval",
                "evaluation",
                type=FILE,
                metavar="DIR|CSV",
                help="Images to compare on: folders by class, a CSV, or plain.",
            ),
            network_options,
            option("--require-full-placement", is_flag=True, help="Exit code 5 where an operator falls back."),
            option("--no-validate", is_flag=True, help="Do not compare with the reference."),
            option(
                "--out", type=FILE, default=Path("squeeze-export-out"), show_default=True, metavar="DIR", help="Where to write."
            ),
            output_options,
        )
    ):
        function = add(function)
    return function


def compile_and_show(
    values: Mapping[str, Any],
    compiler: str,
    chips: Sequence[str],
    settings: Mapping[str, str],
    *,
    scheme: str,
    form: EmitOptions | None = None,
    run: RunOptions | None = None,
    bench: bool = False,
) -> int:
    """Runs the job of a command's values, writes and prints the report.

    Args:
        values: of `compile_options`.
        compiler: a key of `compilers.COMPILERS`.
        chips: what to compile for; empty takes the compiler's first.
        settings: the compiler's own.
        scheme: one that it takes.
        form: the outer form of the file that is compiled.
        run: how files are run.
        bench: whether to time.

    Returns:
        The exit code.

    Raises:
        SqueezeExportError: whatever stops the job; with `--require-full-placement` an operator that fell back.
    """
    job = Job(
        targets=(),
        scheme=scheme,
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
        options=form or EmitOptions(),
        run=run or RunOptions(),
        validate=not values["no_validate"],
        bench=bench,
        skip_broken=values["skip_broken"],
    )
    if job.weights is None and job.table is None:
        note(DEMO_NOTE)
    with shown_progress() as progress:
        report = run_compiled(job, compiler, chips, settings, progress)
    code = show(report, job, as_json=values["as_json"])
    if values["require_full_placement"] and code == EXIT_DONE:
        check_full_placement([row for row in report.measurements if row.target == compiler])
    return code
