"""`squeeze-export validate FILE...`: exported files against the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import note, print_json, shown_progress, stdout_console, warn
from squeeze_export.cli.options import (
    FILE,
    chosen_network,
    network_options,
    option,
    output_options,
    run_choice,
    run_options,
)
from squeeze_export.pipeline import validate_files


def command(name: str) -> click.Command:
    """Makes the command."""
    return _validate


@click.command("validate")
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@option("--eval", "evaluation", type=FILE, metavar="DIR|CSV", help="Images to compare on: folders by class, a CSV, or plain.")
@network_options
@run_options
@option("--skip-broken", is_flag=True, help="Leave out images that cannot be read.")
@output_options
def _validate(files: tuple[Path, ...], **values: Any) -> None:
    """Compare exported files with the fp32 reference on the same pixels.

    \b
    squeeze-export validate squeezenet1_1.int8.tflite --weights squeezenet1_1.pth --eval val/ --labels classes.txt
    """
    with shown_progress() as progress:
        network = chosen_network(values, progress)
        report = validate_files(
            files, network, values["evaluation"], options=run_choice(values), skip_broken=values["skip_broken"], progress=progress
        )
    for text in report.warnings:
        warn(text)
    if values["as_json"]:
        from squeeze_export.report.document import to_json

        print_json(to_json(report))
        return
    from squeeze_export.report.table import print_table
    from squeeze_export.report.wording import emulated_note

    print_table(report, stdout_console())
    if emulated_note(report.measurements):
        note(emulated_note(report.measurements))
    if report.evaluation.get("note"):
        note(f"compared on {report.evaluation['image_count']} images: {report.evaluation['note']}")
