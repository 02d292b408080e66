"""Images for calibration and for comparison."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from squeeze_export.cli.options import FILE, Repeatable, option, source_of
from squeeze_export.errors import BadInput
from squeeze_export.images.calibration import MAX_WEIGHT, CalibrationFolder, CalibrationSource


class Folders(click.Path):
    """Folders. In the environment they are separated as in PATH, unless the whole text is an existing folder."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Splits the text of the environment."""
        return [rv] if os.path.exists(rv) else rv.split(os.pathsep)


def _keep_weights(ctx: click.Context, param: click.Parameter, value: tuple[int, ...]) -> None:
    ctx.meta[_WEIGHTS] = value


def _calibration_source(ctx: click.Context, param: click.Parameter, paths: tuple[Path, ...]) -> CalibrationSource | None:
    """One folder as a path, several as folders with their weights.

    Weights belong to the folders that they were given with: folders on the command line drop weights from the settings file.
    """
    weights: tuple[int, ...] = ctx.meta.get(_WEIGHTS, ())
    if source_of("calib") < source_of("calib_weight"):
        weights = ()
    if weights and len(weights) != len(paths):
        raise BadInput(
            f"--calib-weight is given `{len(weights)}` times for `{len(paths)}` folders of --calib",
            hint="one weight for each folder, in their order",
        )
    if len(paths) < 2:
        return paths[0] if paths else None
    return tuple(CalibrationFolder(path, weight) for path, weight in zip(paths, weights or (1,) * len(paths), strict=True))


_WEIGHTS = "squeeze_export.calib_weight"

SKIP_BROKEN = option("--skip-broken", group="Calibration", is_flag=True, help="Leave out images that cannot be read.")
TABLE = option(
    "--table",
    group="Calibration",
    type=FILE,
    help="Take the integers from this file of `calibrate`, instead of calibrating.",
)
EVALUATION = option(
    "--eval",
    "evaluation",
    group="Most used",
    type=FILE,
    metavar="DIR|CSV|TXT",
    help="Images to compare on: one folder per class, a CSV manifest, a val.txt, or a folder without labels.",
)
EXPECT_TOP1 = option(
    "--expect-top1",
    group="Untold by a state dict",
    type=float,
    metavar="PCT",
    help="Your network's top-1 on the labelled images of --eval, in percent, which the reference must have.",
)
CALIBRATION = (
    option(
        "--calib",
        group="Most used",
        type=Folders(path_type=Path),
        cls=Repeatable,
        multiple=True,
        callback=_calibration_source,
        metavar="DIR",
        help="Calibration images: a few hundred, without labels. Repeat it for more folders.",
    ),
    option(
        "--calib-weight",
        group="Calibration",
        type=click.IntRange(1, MAX_WEIGHT),
        cls=Repeatable,
        multiple=True,
        is_eager=True,  # read before --calib, which uses it
        expose_value=False,
        callback=_keep_weights,
        metavar="N",
        help="How often each image of a folder counts: one for each --calib, in the same order.",
    ),
    SKIP_BROKEN,
)
