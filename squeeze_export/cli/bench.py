"""`squeeze-export bench FILE...`: exported files against the clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import print_report, shown_progress
from squeeze_export.cli.options import FILE, FILES, Command, call_with, option
from squeeze_export.cli.options.network import Crop
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.cli.options.running import RUNNING
from squeeze_export.pipeline import RunOptions, bench_files, check_full_placement

CROP = option(
    "--crop",
    "crop_px",
    group="Input",
    type=Crop(),
    metavar="PX|HxW",
    help="Input size of other tools' files that leave it free.",
)
LIKE = option("--like", group="Input", type=FILE, help="The same from the sidecar (.json) of a file of the same network.")


@click.command("bench", cls=Command, params=[FILES, CROP, LIKE, *RUNNING, *OUTPUT])
def command(files: tuple[Path, ...], **values: Any) -> None:
    """Time exported files in interleaved rounds, other tools' too. If one is an fp32 file, the others of its target are compared
    with it; any other with the first one.

    \b
    squeeze-export bench squeezenet1_1.fp32.tflite squeezenet1_1.int8.tflite --threads 2
    squeeze-export bench before/squeezenet1_1.int8.tflite after/squeezenet1_1.int8.tflite
    """
    with shown_progress() as progress:
        report = call_with(bench_files, {**values, "files": files, "options": call_with(RunOptions, values), "progress": progress})
    print_report(report, as_json=values["as_json"])
    if values["require_full_placement"]:
        check_full_placement(report.measurements)
