"""The images to calibrate on: which folders, how much each counts, and whether they can calibrate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from squeeze_export.core import Preprocess, Progress
from squeeze_export.errors import BadInput
from squeeze_export.images.checks import check_calibration
from squeeze_export.images.distribution import Distribution, distribution_of
from squeeze_export.images.folders import open_calibration_folders
from squeeze_export.images.names import shown
from squeeze_export.images.stream import Batch, ImageStream

BATCH = 16
MAX_WEIGHT = 100


@dataclass(frozen=True)
class CalibrationFolder:
    """One of several sets of calibration images.

    Attributes:
        path: folder or `.csv` manifest.
        weight: how often each of its images counts, 1 to `MAX_WEIGHT`.
    """

    path: Path
    weight: int = 1


@dataclass(frozen=True, eq=False)
class CalibrationImages:
    """Images that were read and found fit to calibrate on.

    Attributes:
        stream: the set that they are of; a loop over it reads no file again.
        batch: all of them, N.
        weights: N, how often each counts; 1 where all count alike.
        folders: of each folder its name, `image_count` and `weight`.
        source: what a report calls them: the folders' names, or a name given in their place.
        warnings: what the user should know.
        distribution: of their statistics.
    """

    stream: ImageStream
    batch: Batch
    weights: tuple[int, ...]
    folders: tuple[Mapping[str, Any], ...]
    source: str
    warnings: tuple[str, ...]
    distribution: Distribution


CalibrationSource: TypeAlias = Path | Sequence[CalibrationFolder] | CalibrationImages
"""Where calibration images come from: a folder, several with weights, or images that were read already."""


def calibration_folders(calib: Path | Sequence[CalibrationFolder]) -> tuple[CalibrationFolder, ...]:
    """One folder or several, as folders with their weights.

    Raises:
        BadInput: a weight is no whole number from 1 to `MAX_WEIGHT`.
    """
    if isinstance(calib, Path):
        return (CalibrationFolder(calib),)
    for folder in calib:
        if not 1 <= folder.weight <= MAX_WEIGHT:
            raise BadInput(f"the weight `{folder.weight}` of {shown(folder.path)} is outside 1 to {MAX_WEIGHT}", hint="such as 2")
    return tuple(calib)


def only_folder(calib: CalibrationSource | None, who: str) -> None:
    """Refuses several folders, for a caller that cannot weight them.

    Raises:
        BadInput: there are several.
    """
    if isinstance(calib, Sequence) and len(calib) > 1:
        raise BadInput(f"{who} takes one calibration folder, not `{len(calib)}`", hint="--calib once, without --calib-weight")


def read_calibration_images(
    folders: Sequence[CalibrationFolder],
    preprocess: Preprocess,
    *,
    source: str,
    threads: int | None,
    skip_broken: bool,
    progress: Progress,
) -> CalibrationImages:
    """Reads and checks the images to calibrate on.

    Args:
        folders: where they are.
        preprocess: how files become pixels.
        source: what to call them; empty for the folders' names.
        threads: that decode; None takes every usable core.
        skip_broken: leaves unreadable images out.
        progress: told of reading.

    Raises:
        BadInput: too few, constant, unreadable or noise images, or none at all.
    """
    image_set, owners = open_calibration_folders([folder.path for folder in folders])
    owner = dict(zip(image_set.files, owners, strict=True))
    stream = ImageStream(image_set, preprocess, batch=BATCH, workers=threads, skip_broken=skip_broken, progress=progress)
    batch, _ = stream.load()
    warnings = check_calibration(batch.pixels, batch.files, left_out=stream.left_out_count) + stream.warnings("calibration images")
    counts = Counter(owner[file] for file in batch.files)
    weights = tuple(folders[owner[file]].weight for file in batch.files)
    weights = weights if len(set(weights)) > 1 else (1,) * len(weights)
    return CalibrationImages(
        stream,
        batch,
        weights,
        tuple({"name": f.path.name, "image_count": counts[index], "weight": f.weight} for index, f in enumerate(folders)),
        source or ", ".join(folder.path.name for folder in folders),
        warnings,
        distribution_of(batch.statistics, weights),
    )
