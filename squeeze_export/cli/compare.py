"""`squeeze-export compare A B`: two files on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import note, print_json, say, shown_progress, stdout_console, warn
from squeeze_export.cli.options import FILE, Command, call_with
from squeeze_export.cli.options.calibration import EVALUATION, SKIP_BROKEN
from squeeze_export.cli.options.network import PREPROCESSING
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.cli.options.running import CPUS, NO_BENCH, ROUNDS, RUNTIME, THREADS, device_option
from squeeze_export.documents import to_json
from squeeze_export.errors import BadInput
from squeeze_export.pipeline import PreprocessChoice, RunOptions, compare_files
from squeeze_export.pipeline.comparing import SCHEMA
from squeeze_export.report.tables import Column, Table
from squeeze_export.report.terminal import print_rows
from squeeze_export.report.wording import comparison_lines, decibel

SHOWN_FLIPS = 8


@click.command(
    "compare",
    cls=Command,
    params=[
        click.Argument(["first"], type=FILE, metavar="A"),
        click.Argument(["second"], type=FILE, metavar="B"),
        EVALUATION,
        SKIP_BROKEN,
        NO_BENCH,
        *PREPROCESSING,
        RUNTIME,
        device_option(RunOptions.device, "Device to run on. No other one is used in its place."),
        THREADS,
        CPUS,
        ROUNDS,
        *OUTPUT,
    ],
)
def command(first: Path, second: Path, **values: Any) -> None:
    """Compare any two files on the same images: agreement, SQNR, images that change their class, speed, and the first layer that
    differs.

    Neither needs to be from this tool. Other tools' files are given the pixels that the sidecar of the file beside them tells, or
    that --mean and the others tell.

    \b
    squeeze-export compare before/net.int8.tflite after/net.int8.tflite --eval imgs/
    squeeze-export compare net.int8.onnx others.onnx --eval imgs/ --json
    """
    if values["evaluation"] is None:
        raise BadInput("there are no images to compare on", hint="--eval DIR; labels are ignored")
    with shown_progress() as progress:
        given = {"preprocess": call_with(PreprocessChoice, values), "options": call_with(RunOptions, values)}
        found = call_with(
            compare_files,
            {
                **values,
                **given,
                "first": first,
                "second": second,
                "images": values["evaluation"],
                "bench": not values["no_bench"],
                "progress": progress,
            },
        )
    for text in found.warnings:
        warn(text)
    if values["as_json"]:
        print_json(to_json(found, SCHEMA.name))
        return
    for line in comparison_lines(found.accuracy, found.first, found.second, found.flip_count, found.speedup):
        say(line)
    if found.layers:
        apart = found.first_layer_apart
        worst = min(found.layers, key=lambda layer: layer.sqnr_db)
        least = f"the least SQNR is {decibel(worst.sqnr_db)}, in `{worst.name}`"
        count = len(found.layers)
        differs = f"`{apart}` is the first of {count} that differs" if apart else f"none of {count} differs"
        say(f"layers, on one image: {differs} by more than one step; {least}")
    else:
        note(found.without_layers)
    if found.flips:
        say("")
        columns = (Column("image", "text"), Column("A", "name"), Column("B", "name"), Column("margin A"), Column("margin B"))
        rows = [
            (
                flip.image,
                flip.first_label or str(flip.first),
                flip.second_label or str(flip.second),
                f"{flip.first_margin:.3g}",
                f"{flip.second_margin:.3g}",
            )
            for flip in found.flips[:SHOWN_FLIPS]
        ]
        print_rows(Table(columns, rows), stdout_console())
        if found.flip_count > SHOWN_FLIPS:
            note(f"and {found.flip_count - SHOWN_FLIPS} more: --json lists them")
