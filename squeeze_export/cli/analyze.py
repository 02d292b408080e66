"""`squeeze-export analyze`: why did INT8 hurt?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import note, print_json, shown_progress, stdout_console, warn
from squeeze_export.cli.options import FILE, calibration_options, chosen_network, network_options, option, output_options
from squeeze_export.files import make_folder, write_files
from squeeze_export.pipeline.analysis import PART_COUNT, analyze
from squeeze_export.quant.recipes import RECIPES
from squeeze_export.results_analysis import Analysis


def command(name: str) -> click.Command:
    """Makes the command."""
    return _analyze


@click.command("analyze")
@calibration_options(list(RECIPES))
@option("--table", type=FILE, metavar="FILE", help="Integers of an earlier calibration; --calib is then only looked at.")
@option("--eval", "evaluation", type=FILE, metavar="DIR|CSV", help="Images to compare on: folders by class, a CSV, or plain.")
@option("--images", default=PART_COUNT, show_default=True, metavar="N", help="Images on which every layer is tried.")
@network_options
@option("--out", type=FILE, metavar="DIR", help="Where to write analysis.json and analysis.html; nowhere without it.")
@output_options
def _analyze(**values: Any) -> None:
    """Show which layers the error of the integers comes from, which images change their class, and what would mend it.

    \b
    squeeze-export analyze --weights squeezenet1_1.pth --calib imgs/ --eval val/ --labels classes.txt
    squeeze-export analyze --weights squeezenet1_1.pth --table squeeze-export-out/squeezenet1_1.int8.table --eval val/
    """
    with shown_progress() as progress:
        network = chosen_network(values, progress)
        if values["out"] is not None:
            make_folder(values["out"])
        names = ("table", "recipe", "seed", "images", "skip_broken")
        settings = {name: values[name] for name in names}
        analysis = analyze(network, values["calib"], values["evaluation"], **settings, progress=progress)
    for text in analysis.warnings:
        warn(text)
    if values["out"] is not None:
        _write(analysis, values["out"])
    if values["as_json"]:
        from squeeze_export.report.analysis import analysis_json

        print_json(analysis_json(analysis))
    else:
        from squeeze_export.report.analysis_table import print_analysis

        print_analysis(analysis, stdout_console())
    if analysis.evaluation.get("note"):
        note(f"analysed on {analysis.image_count} images: {analysis.evaluation['note']}")


def _write(analysis: Analysis, folder: Path) -> None:
    from squeeze_export.report.analysis import analysis_json
    from squeeze_export.report.analysis_html import analysis_html

    text = json.dumps(analysis_json(analysis), indent=1, allow_nan=False) + "\n"
    page = analysis_html(analysis)
    files = {folder / "analysis.json": text.encode(), folder / "analysis.html": page.encode("utf-8", "backslashreplace")}
    write_files(files)
    for file in files:
        note(f"wrote {file}")
