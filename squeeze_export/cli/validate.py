"""`squeeze-export validate FILE...`: exported files against the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import note, print_report, shown_progress
from squeeze_export.cli.options import FILE, FILES, Command, call_with, option
from squeeze_export.cli.options.calibration import EVALUATION, EXPECT_TOP1, SKIP_BROKEN
from squeeze_export.cli.options.network import NETWORK, chosen_network
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.cli.options.running import RUNNING
from squeeze_export.errors import BadInput
from squeeze_export.pipeline import RunOptions, Scale, check_full_placement, validate_files, validate_portability
from squeeze_export.pipeline.portability import FACTS
from squeeze_export.report.wording import assumption_line
from squeeze_export.results import Report

OPTIONS = (
    option("--portability", is_flag=True, help="Also emulate int8 files on CPUs without VNNI; needs --table."),
    option(
        "--table",
        type=FILE,
        help="The table that int8 files were written from. Warns if its calibration images differ in kind from these.",
    ),
)
SCALE = (
    option(
        "--engine",
        default=Scale.engine,
        metavar="NAME",
        help="Who compares the images: local, ray (processes of this machine), or ray://HOST:PORT (a cluster).",
    ),
    option("--resume", type=FILE, metavar="DIR", help="Folder to keep finished shards in; the same command goes on with them."),
    option("--shard-images", default=Scale.shard_images, metavar="N", help="Images a shard."),
    option("--per-image", type=FILE, help="Also write what each image was answered, to a .jsonl or .parquet file."),
)
"""They are named after the fields of `Scale`, which `validate_portability` does not take."""

PARAMS = [FILES, *NETWORK, EVALUATION, EXPECT_TOP1, *OPTIONS, *SCALE, SKIP_BROKEN, *RUNNING, *OUTPUT]


@click.command("validate", cls=Command, params=PARAMS)
def command(files: tuple[Path, ...], **values: Any) -> None:
    """Compare exported files with the fp32 reference on the same pixels.

    Files of other tools need no sidecar: layout and dtype are read from the file; the sidecar of an exported file (--like), or
    --mean, --std and the others tell the rest.

    \b
    squeeze-export validate squeezenet1_1.int8.tflite --weights squeezenet1_1.pth --eval val/ --labels classes.txt
    """
    if values["portability"] and values["table"] is None:
        raise BadInput("--portability needs the integers that the files hold", hint="--table FILE, which `calibrate` writes")
    scale = call_with(Scale, values)
    if values["portability"] and scale != Scale():
        hint = "leave out --engine, --resume, --shard-images and --per-image"
        raise BadInput("--portability compares all images here and at once", hint=hint)
    with shown_progress() as progress:
        network = chosen_network(values, progress)
        given = {"files": files, "network": network, "eval_path": values["evaluation"], "progress": progress}
        given |= {"options": call_with(RunOptions, values), "scale": scale}
        report = call_with(validate_portability if values["portability"] else validate_files, {**values, **given})
    others = report.assumptions[len(network.assumptions) :]
    if others:
        note(assumption_line(others))
    print_report(report, as_json=values["as_json"], below=_saturation_line(report) if FACTS in report.evaluation else "")
    if values["require_full_placement"]:
        check_full_placement(report.measurements)


def _saturation_line(report: Report) -> str:
    """How much the emulated CPU differs from the exact integers, and where its products saturated."""
    from squeeze_export.report.wording import decibel, percent

    facts = report.evaluation[FACTS]
    layers = ", ".join(f"{name} {count:,}" for name, count in facts["saturated_by_layer"].items())
    where = f"; {layers}" if layers else ""
    return (
        f"emulated CPU without VNNI, {facts['image_count']:,} images, against the exact integers: "
        f"{percent(facts['agreement_with_exact'])} the same top-1 class, {decibel(facts['sqnr_with_exact_db'])}; "
        f"{facts['saturated_count']:,} of {facts['pair_count']:,} pairs of products saturate{where}"
    )
