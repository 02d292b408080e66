"""`squeeze-export calibrate`: makes a table from images; with `--curve`, shows whether they are enough."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from squeeze_export.cli import visible
from squeeze_export.cli.console import note, print_json, say, shown_progress, stdout_console, warn
from squeeze_export.cli.options import Command, call_with, option, source_of
from squeeze_export.cli.options.calibration import CALIBRATION, EVALUATION, EXPECT_TOP1
from squeeze_export.cli.options.network import NETWORK, chosen_network
from squeeze_export.cli.options.output import OUT, OUTPUT
from squeeze_export.cli.options.quantization import TRAINING as TRAINING_OPTIONS
from squeeze_export.cli.options.quantization import keep_float_option, recipe_options, training_choice
from squeeze_export.errors import BadInput
from squeeze_export.files import make_folder, write_files
from squeeze_export.pipeline import calibrate, write_table
from squeeze_export.pipeline.calibration import KEPT_FLOAT
from squeeze_export.pipeline.curve import calibration_curve
from squeeze_export.pipeline.recipes import RECIPES, recipe_names
from squeeze_export.pipeline.tables import is_of_another, replaced
from squeeze_export.pipeline.training import TRAINING
from squeeze_export.results import Curve

CURVE = option("--curve", is_flag=True, help="Also calibrate on 16, 32, 64 ... of the images, to see whether there are enough.")
IMAGES = (*CALIBRATION, EVALUATION, EXPECT_TOP1)
QUANTIZATION = (*recipe_options(recipe_names("ours", "trained")), keep_float_option(), *TRAINING_OPTIONS)


@click.command("calibrate", cls=Command, params=[CURVE, *NETWORK, *IMAGES, *QUANTIZATION, OUT, *OUTPUT])
def command(**values: Any) -> None:
    """Quantize a SqueezeNet once and write the integers as a table file.

    \b
    squeeze-export calibrate --weights squeezenet1_1.pth --calib imgs/
    squeeze-export calibrate --weights squeezenet1_1.pth --calib day/ --calib night/ --calib-weight 1 --calib-weight 2
    squeeze-export calibrate --weights squeezenet1_1.pth --calib imgs/ --eval val/ --curve
    squeeze-export calibrate --weights squeezenet1_1.pth --calib imgs/ --recipe qat --train train/ --labels classes.txt
    squeeze-export tflite --int8 --table squeeze-export-out/squeezenet1_1.int8.table
    """
    compares = values["curve"] or values["expect_top1"] is not None
    if source_of("evaluation") is ParameterSource.COMMANDLINE and not compares:
        raise BadInput(
            "`--eval` has no effect without --curve or --expect-top1: calibration alone compares nothing",
            hint="--curve, or leave out --eval",
        )
    training = training_choice(values)
    if values["curve"] and RECIPES[values["recipe"]].maker == "trained":
        raise BadInput(
            f"--curve works with calibration alone, and the recipe `{values['recipe']}` trains",
            hint="--recipe fast, or leave out --curve",
        )
    if values["curve"] and values["keep_float"]:
        raise BadInput("--curve does not work with layers kept in float", hint="leave out --keep-float, or --curve")
    curve: Curve | None = None
    with shown_progress() as progress:
        network = chosen_network(values, progress)
        make_folder(values["out"])
        given = {**values, "network": network, "eval_path": values["evaluation"], "training": training, "progress": progress}
        if values["curve"]:
            calibration, curve = call_with(calibration_curve, given)
        else:
            calibration = call_with(calibrate, given)
    stem = f"{network.name}.{calibration.quantized.scheme.name}"
    path = values["out"] / f"{stem}.table"
    if is_of_another(path, network):
        warn(replaced(path))
    write_table(calibration, path)
    files = _write_curve(curve, values["out"] / f"{stem}.calibration-curve", network.name) if curve is not None else {}
    for text in calibration.warnings:
        warn(text)
    facts = calibration.facts()
    if values["as_json"]:
        print_json({"table": str(path), **facts, **({"curve": curve.to_json()} if curve is not None else {})})
    else:
        say(f"{path}  {facts['image_count']} images, recipe {facts['recipe']}, sha256 {facts['table_sha256'][:12]}")
        if KEPT_FLOAT in facts:
            say(f"in float: {', '.join(facts[KEPT_FLOAT])}")
        if training is not None:
            _print_training(calibration.quantized.provenance[TRAINING], network.class_count)
        if curve is not None:
            _print_curve(curve)
    for file in files:
        note(f"wrote {file}")


def _write_curve(curve: Curve, stem: Path, name: str) -> dict[Path, bytes]:
    """Writes the figures and the drawing next to the table; returns the files."""
    from squeeze_export.report.curve import curve_note, curve_svg

    drawing = curve_svg(curve, name, visible(curve_note(curve)))
    text = json.dumps(curve.to_json(), indent=1, allow_nan=False) + "\n"
    files = {Path(f"{stem}.json"): text.encode(), Path(f"{stem}.svg"): drawing.encode("utf-8", "backslashreplace")}
    write_files(files)
    return files


def _print_training(told: Mapping[str, Any], class_count: int) -> None:
    """The effect of the training on the images that it held out."""
    from squeeze_export.report.wording import percent

    first, best = told["held_out"][0], told["held_out"][told["best_epoch"]]
    changes = [f"loss {first['loss']:.4f} -> {best['loss']:.4f}"]
    shares = (("agreement", "agreement"), ("top-1", "top1")) if class_count > 1 else ()
    changes += [f"{name} {percent(first[key])} -> {percent(best[key])}" for name, key in shares]
    click.echo(f"epoch {told['best_epoch']} of {told['epochs']}, on {told['held_out_count']} images held out: {', '.join(changes)}")


def _print_curve(curve: Curve) -> None:
    """The table, and what it says."""
    from squeeze_export.report.curve import curve_line, curve_note, curve_table
    from squeeze_export.report.terminal import print_rows

    print_rows(curve_table(curve), stdout_console())
    click.echo(curve_line(curve))
    note(curve_note(curve))
