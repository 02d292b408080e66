"""`squeeze-export analyze`: why did INT8 hurt?"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from squeeze_export.analyze.results import Analysis, Kept
from squeeze_export.cli.console import note, print_json, shown_progress, stdout_console, warn
from squeeze_export.cli.keeping import keep_choice, keep_float_option
from squeeze_export.cli.options import FILE, calibration_options, chosen_network, network_options, option, output_options
from squeeze_export.errors import EXIT_DONE, GateFailed, GateUndecided
from squeeze_export.files import make_folder, write_files
from squeeze_export.pipeline.analysis import PART_COUNT, analyze
from squeeze_export.pipeline.sessions import RunOptions
from squeeze_export.quant.recipes import RECIPES

_NETWORK = ("weights", "labels", "bypass", "mean", "std", "channel_order", "resize", "crop", "interpolation")
"""The options of `network_options`."""


def command(name: str) -> click.Command:
    """Makes the command."""
    return _analyze


@click.command("analyze")
@calibration_options(list(RECIPES))
@option("--table", type=FILE, metavar="FILE", help="Integers of an earlier calibration; --calib is then only looked at.")
@option("--eval", "evaluation", type=FILE, metavar="DIR|CSV", help="Images to compare on: folders by class, a CSV, or plain.")
@option("--images", default=PART_COUNT, show_default=True, metavar="N", help="Images on which every layer is tried.")
@keep_float_option("A layer to put back to float, and again for more; or how many, from those that win most.")
@option("--max-drop", type=float, metavar="PP", help="Put back the fewest that keep the upper bound of the drop under this.")
@option("--rounds", default=RunOptions.rounds, show_default=True, help="Timed inferences of each file.")
@option("--no-bench", is_flag=True, help="Do not time.")
@network_options
@option("--out", type=FILE, metavar="DIR", help="Where to write analysis.json, analysis.html and the table with layers in float.")
@output_options
def _analyze(**values: Any) -> int:
    """Show which layers the error of the integers comes from, which images change their class, and what would mend it.

    With --keep-float or --max-drop, also what layers in float win, and what they cost in latency and size.

    \b
    squeeze-export analyze --weights squeezenet1_1.pth --calib imgs/ --eval val/ --labels classes.txt
    squeeze-export analyze --weights squeezenet1_1.pth --table squeeze-export-out/squeezenet1_1.int8.table --eval val/
    squeeze-export analyze --weights squeezenet1_1.pth --calib imgs/ --eval val/ --max-drop 1 --out found
    """
    layers, max_drop_pp = keep_choice(values)
    with shown_progress() as progress:
        network = chosen_network(values, progress)
        if values["out"] is not None:
            make_folder(values["out"])
        names = ("table", "recipe", "seed", "images", "skip_broken")
        settings = {name: values[name] for name in names}
        settings |= {"keep_float": layers, "max_drop_pp": max_drop_pp, "out": values["out"], "progress": progress}
        settings["rounds"] = None if values["no_bench"] else values["rounds"]
        analysis = analyze(network, values["calib"], values["evaluation"], **settings)
    for text in analysis.warnings:
        warn(text)
    if values["out"] is not None:
        _write(analysis, values["out"])
    if values["as_json"]:
        from squeeze_export.analyze.words import analysis_json

        print_json(analysis_json(analysis))
    else:
        from squeeze_export.analyze.table import print_analysis

        print_analysis(analysis, stdout_console())
    if analysis.evaluation.get("note"):
        note(f"analysed on {analysis.image_count} images: {analysis.evaluation['note']}")
    if analysis.kept is None:
        return EXIT_DONE
    if analysis.kept.table:
        _tell_export(values["out"] / analysis.kept.table, str(analysis.calibration["scheme"]), values)
    return _exit_code(analysis.kept)


def _tell_export(table: Path, scheme: str, values: dict[str, Any]) -> None:
    """What to type next: the network as it was named here."""
    how = ["--int8"] if scheme == "int8" else ["--scheme", scheme]
    for name in _NETWORK:
        if values[name] is not None:
            value = values[name]
            how += [f"--{name.replace('_', '-')}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    note(f"wrote {table}")
    note(f"export it: {shlex.join(['squeeze-export', 'tflite', *how, '--table', str(table)])}")


def _exit_code(kept: Kept) -> int:
    """5 where the drop is shown to be above its bound with every choice of layers, 6 where the images do not tell."""
    if kept.max_drop_pp is None or kept.reached:
        return EXIT_DONE
    from squeeze_export.analyze.mixed_words import kept_lines

    warn(kept_lines(kept)[0])
    return GateFailed.exit_code if kept.after.drop_low_pp > kept.max_drop_pp else GateUndecided.exit_code


def _write(analysis: Analysis, folder: Path) -> None:
    from squeeze_export.analyze.page import analysis_html
    from squeeze_export.analyze.words import analysis_json

    text = json.dumps(analysis_json(analysis), indent=1, allow_nan=False) + "\n"
    page = analysis_html(analysis)
    files = {folder / "analysis.json": text.encode(), folder / "analysis.html": page.encode("utf-8", "backslashreplace")}
    write_files(files)
    for file in files:
        note(f"wrote {file}")
