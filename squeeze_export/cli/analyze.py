"""`squeeze-export analyze`: why did INT8 hurt?"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from squeeze_export.analyze.results import Analysis, MixedPrecision
from squeeze_export.cli.console import note, note_images, print_json, shown_progress, stdout_console, warn
from squeeze_export.cli.options import FILE, Command, call_with, option
from squeeze_export.cli.options.calibration import CALIBRATION, EVALUATION, EXPECT_TOP1
from squeeze_export.cli.options.network import NETWORK, chosen_network
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.cli.options.quantization import keep_float_choice, keep_float_option, recipe_options
from squeeze_export.cli.options.running import NO_BENCH, ROUNDS
from squeeze_export.errors import EXIT_DONE, GateFailed, GateUndecided
from squeeze_export.files import make_folder
from squeeze_export.pipeline.analysis import PART_COUNT, analyze
from squeeze_export.pipeline.recipes import recipe_names

OPTIONS = (
    keep_float_option("Layer to put back to float; repeat it for more. Or a number: that many, those that gain most first."),
    option("--max-drop", type=float, metavar="PP", help="Put back the fewest layers that keep the drop's upper bound under this."),
    option("--images", default=PART_COUNT, metavar="N", help="Images that every layer is tried on."),
    option("--table", type=FILE, help="Analyze the integers of this table. The images of --calib are then only looked at."),
    option("--out", type=FILE, metavar="DIR", help="Folder for analysis.json, analysis.html and the table with layers in float."),
)


@click.command(
    "analyze",
    cls=Command,
    params=[
        *OPTIONS,
        *NETWORK,
        *CALIBRATION,
        EVALUATION,
        EXPECT_TOP1,
        *recipe_options(recipe_names("ours")),
        ROUNDS,
        NO_BENCH,
        *OUTPUT,
    ],
)
def command(**values: Any) -> int:
    """Show which layers the integers' error comes from, which images change their class, and what would help.

    With --keep-float or --max-drop: also what putting layers back to float gains, and what it costs in latency and size.

    \b
    squeeze-export analyze --weights squeezenet1_1.pth --calib imgs/ --eval val/ --labels classes.txt
    squeeze-export analyze --weights squeezenet1_1.pth --table squeeze-export-out/squeezenet1_1.int8.table --eval val/
    squeeze-export analyze --weights squeezenet1_1.pth --calib imgs/ --eval val/ --max-drop 1 --out found
    """
    layers, max_drop_pp = keep_float_choice(values)
    with shown_progress() as progress:
        network = chosen_network(values, progress)
        if values["out"] is not None:
            make_folder(values["out"])
        given = {"network": network, "eval_path": values["evaluation"], "progress": progress}
        given |= {"keep_float": layers, "max_drop_pp": max_drop_pp, "rounds": None if values["no_bench"] else values["rounds"]}
        analysis = call_with(analyze, {**values, **given})
    for text in analysis.warnings:
        warn(text)
    if values["out"] is not None:
        _write(analysis, values["out"])
    if values["as_json"]:
        from squeeze_export.analyze.report import analysis_json

        print_json(analysis_json(analysis))
    else:
        from squeeze_export.analyze.report import print_analysis

        print_analysis(analysis, stdout_console())
    note_images({**analysis.evaluation, "image_count": analysis.image_count}, "analysed")
    if analysis.kept is None:
        return EXIT_DONE
    if analysis.kept.table:
        _tell_export(values["out"] / analysis.kept.table, str(analysis.calibration["scheme"]), values)
    return _exit_code(analysis.kept)


def _tell_export(table: Path, scheme: str, values: dict[str, Any]) -> None:
    """Shows the command that exports the new table, with the same network."""
    how = ["--int8"] if scheme == "int8" else ["--scheme", scheme]
    for param in NETWORK:
        value = values[param.name or ""]
        if param.is_flag:
            how += [param.opts[0]] if value else []
        elif value is not None:
            how += [param.opts[0], ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    note(f"wrote {table}")
    note(f"export it: {shlex.join(['squeeze-export', 'tflite', *how, '--table', str(table)])}")


def _exit_code(kept: MixedPrecision) -> int:
    """5 if the drop is shown to be above the limit whatever layers are in float, 6 if the images do not tell."""
    if kept.max_drop_pp is None or kept.reached:
        return EXIT_DONE
    from squeeze_export.analyze.words import mixed_lines

    warn(mixed_lines(kept)[0])
    return GateFailed.exit_code if kept.after.drop_low_pp > kept.max_drop_pp else GateUndecided.exit_code


def _write(analysis: Analysis, folder: Path) -> None:
    from squeeze_export.pipeline.reports import write_analysis

    files, other = write_analysis(analysis, folder)
    for file in files:
        note(f"wrote {file}")
    if other is not None:
        note(f"{files[0]} was of another network: it is kept as {other}")
