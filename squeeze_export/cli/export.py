"""`squeeze-export tflite | onnx | openvino | coreml | all`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import note, print_json, shown_progress, stdout_console, warn
from squeeze_export.cli.keeping import keep_float_option
from squeeze_export.cli.options import (
    DEMO_NOTE,
    FILE,
    Batch,
    F,
    calibration_options,
    coreml_options,
    emit_choice,
    network_options,
    option,
    output_options,
    preprocess_choice,
    run_choice,
    run_options,
    scheme_choice,
)
from squeeze_export.cli.training import training_choice, training_options
from squeeze_export.errors import EXIT_DONE, Refused
from squeeze_export.graph.quantized import SCHEMES
from squeeze_export.pipeline import check_full_placement
from squeeze_export.pipeline.calibration import KEPT_FLOAT
from squeeze_export.pipeline.job import Job, run
from squeeze_export.pipeline.training import QAT
from squeeze_export.pipeline.vendor import vendor_recipes
from squeeze_export.quant.recipes import RECIPES
from squeeze_export.results import Report
from squeeze_export.targets import TARGETS


def command(name: str) -> click.Command:
    """Makes the command of one target, or of all of them."""
    targets = tuple(TARGETS) if name == "all" else (name,)
    what = "every target" if name == "all" else name

    @click.command(
        name, help=f"Export a SqueezeNet to {what}, compare it with the fp32 reference and time it.\n\n{_EXAMPLE % name}"
    )
    @option("--int8", is_flag=True, help="8-bit weights and activations, integers throughout.")
    @option("--fp16", is_flag=True, help="Half-precision weights.")
    @option("--scheme", type=click.Choice(list(SCHEMES)), help="How numbers are carried.  [default: fp32]")
    @calibration_options([*RECIPES, QAT, *vendor_recipes(targets)])
    @training_options
    @option("--table", type=FILE, metavar="FILE", help="Integers from `calibrate` instead of --calib.")
    @keep_float_option("A layer that stays in float among the integers; again for more. `analyze` tells which.")
    @option("--eval", "evaluation", type=FILE, metavar="DIR|CSV", help="Images to compare on: folders by class, a CSV, or plain.")
    @network_options
    @option("--batch", type=Batch(), default="1", show_default=True, metavar="N|dynamic", help="Images per inference.")
    @option(
        "--input",
        type=click.Choice(["uint8", "float32", "int8"]),
        default="uint8",
        show_default=True,
        help="Type of the raw pixels, 0 to 255; as int8, TFLite alone, 128 lower.",
    )
    @option("--softmax", is_flag=True, help="Probabilities instead of logits.")
    @(coreml_options if "coreml" in targets else _no_options)
    @run_options
    @option("--no-validate", is_flag=True, help="Do not compare with the reference.")
    @option("--no-bench", is_flag=True, help="Do not time.")
    @option("--out", type=FILE, default=Path("squeeze-export-out"), show_default=True, metavar="DIR", help="Where to write.")
    @output_options
    def export(**values: Any) -> int:
        job = Job(
            targets=targets,
            scheme=scheme_choice(values),
            weights=values["weights"],
            calib=values["calib"],
            table=values["table"],
            eval=values["evaluation"],
            labels=values["labels"],
            preprocess=preprocess_choice(values),
            bypass=values["bypass"],
            recipe=values["recipe"],
            training=training_choice(values),
            seed=values["seed"],
            keep_float=values["keep_float"],
            out=values["out"],
            options=emit_choice(values),
            run=run_choice(values),
            validate=not values["no_validate"],
            bench=not values["no_bench"],
            skip_broken=values["skip_broken"],
        )
        if job.weights is None and job.table is None:
            note(DEMO_NOTE)
        with shown_progress() as progress:
            report = run(job, progress)
        code = show(report, job, as_json=values["as_json"])
        if values["require_full_placement"] and code == EXIT_DONE:
            check_full_placement([row for row in report.measurements if row.scheme == job.scheme])
        return code

    return export


def _no_options(function: F) -> F:
    return function


_EXAMPLE = "\b\nsqueeze-export %s --int8 --weights squeezenet1_1.pth --calib imgs/ --eval val/ --labels classes.txt"


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
        from squeeze_export.report.table import print_table

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
