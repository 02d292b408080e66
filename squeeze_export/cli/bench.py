"""`squeeze-export bench FILE...`: exported files against the clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import print_json, shown_progress, stdout_console
from squeeze_export.cli.options import FILES, Command
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.cli.options.running import RUNNING, run_choice
from squeeze_export.pipeline import bench_files, check_full_placement


@click.command("bench", cls=Command, params=[FILES, *RUNNING, *OUTPUT])
def command(files: tuple[Path, ...], **values: Any) -> None:
    """Time exported files in interleaved rounds. If one is an fp32 file, the others of its target are compared with it.

    \b
    squeeze-export bench squeezenet1_1.fp32.tflite squeezenet1_1.int8.tflite --threads 2
    """
    with shown_progress() as progress:
        report = bench_files(files, options=run_choice(values), progress=progress)
    if values["as_json"]:
        from squeeze_export.results import to_json

        print_json(to_json(report))
    else:
        from squeeze_export.report.terminal import print_table

        print_table(report, stdout_console())
    if values["require_full_placement"]:
        check_full_placement(report.measurements)
