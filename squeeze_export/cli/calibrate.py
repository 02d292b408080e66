"""`squeeze-export calibrate`: images in, table out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze_export.cli import visible
from squeeze_export.cli.console import print_json, shown_progress, warn
from squeeze_export.cli.options import FILE, calibration_options, chosen_network, network_options, option, output_options
from squeeze_export.files import make_folder
from squeeze_export.pipeline import calibrate, write_table
from squeeze_export.quant.recipes import RECIPES


def command(name: str) -> click.Command:
    """Makes the command."""
    return _calibrate


@click.command("calibrate")
@calibration_options(list(RECIPES))
@network_options
@option("--out", type=FILE, default=Path("squeeze-export-out"), show_default=True, metavar="DIR", help="Where to write.")
@output_options
def _calibrate(**values: Any) -> None:
    """Quantize a SqueezeNet once and write the integers as a table file.

    \b
    squeeze-export calibrate --weights squeezenet1_1.pth --calib imgs/
    squeeze-export tflite --int8 --table squeeze-export-out/squeezenet1_1.int8.table
    """
    with shown_progress() as progress:
        network = chosen_network(values, progress)
        make_folder(values["out"])
        calibration = calibrate(
            network,
            values["calib"],
            recipe=values["recipe"],
            seed=values["seed"],
            skip_broken=values["skip_broken"],
            progress=progress,
        )
    path = values["out"] / f"{network.name}.{calibration.quantized.scheme.name}.table"
    write_table(calibration, path)
    for text in calibration.warnings:
        warn(text)
    facts = calibration.facts()
    if values["as_json"]:
        print_json({"table": str(path), **facts})
    else:
        made = f"{path}  {facts['image_count']} images, recipe {facts['recipe']}, sha256 {facts['table_sha256'][:12]}"
        click.echo(visible(made))
