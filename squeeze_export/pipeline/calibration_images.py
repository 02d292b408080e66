"""The images to calibrate on: which folders, how much each counts, and whether they can calibrate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from squeeze_export import demo
from squeeze_export.core import Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.images.checks import check_calibration
from squeeze_export.images.distribution import Distribution, distribution_of
from squeeze_export.images.folders import open_calibration_folders
from squeeze_export.images.names import shown
from squeeze_export.images.stream import Batch, batches, load_all
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.validation import BATCH, Evaluation, evaluation_images

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


CalibrationSource: TypeAlias = Path | Sequence[CalibrationFolder]
"""Where calibration images come from."""


@dataclass(frozen=True, eq=False)
class CalibrationImages:
    """Images that were read and found fit to calibrate on.

    Attributes:
        batch: all of them, N.
        weights: N, how often each counts.
        folders: of each folder its name, `image_count` and `weight`.
        source: the folders' names, or `the demo network's own images`.
        warnings: what the user should know.
        summary: how they look.
    """

    batch: Batch
    weights: tuple[int, ...]
    folders: tuple[Mapping[str, Any], ...]
    source: str
    warnings: tuple[str, ...]
    summary: Distribution

    @property
    def weighted(self) -> bool:
        """Whether some images count more than others."""
        return len(set(self.weights)) > 1


def calibration_images(network: Network, calib: Path | None) -> Path:
    """The folder to calibrate on: the user's, or the demo network's own.

    Raises:
        BadInput: none was given and the network is not the demo network.
    """
    if calib is not None:
        return calib
    if network.is_demo:
        return demo.calibration_folder()
    raise BadInput("integers need calibration images", hint="--calib DIR with a few hundred photographs, or --table FILE")


def calibration_folders(network: Network, calib: CalibrationSource | None) -> tuple[CalibrationFolder, ...]:
    """What to calibrate on, folder by folder; `calib` as `calibrate` takes it.

    Raises:
        BadInput: none was given and the network is not the demo network, or a weight is no whole number from 1 to `MAX_WEIGHT`.
    """
    if calib is None or isinstance(calib, Path):
        return (CalibrationFolder(calibration_images(network, calib)),)
    if not calib:
        return calibration_folders(network, None)
    for folder in calib:
        if not 1 <= folder.weight <= MAX_WEIGHT:
            raise BadInput(f"the weight `{folder.weight}` of {shown(folder.path)} is outside 1 to {MAX_WEIGHT}", hint="such as 2")
    return tuple(calib)


def only_folder(calib: CalibrationSource | None, who: str) -> Path | None:
    """The one folder of those who know no weights.

    Raises:
        BadInput: there are several.
    """
    if calib is None or isinstance(calib, Path):
        return calib
    if len(calib) > 1:
        raise BadInput(f"{who} takes one calibration folder, not `{len(calib)}`", hint="--calib once, without --calib-weight")
    return calib[0].path if calib else None


def evaluation_or_calibration(
    network: Network,
    eval_path: Path | None,
    calib: CalibrationSource | None,
    *,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> Evaluation | None:
    """`evaluation_images`, also where the calibration images that stand in for evaluation images lie in several folders."""
    paths = [calib] if isinstance(calib, Path) else [folder.path for folder in calib or ()]
    found = evaluation_images(network, eval_path, paths[0] if paths else None, skip_broken=skip_broken, progress=progress)
    if found is None or found.independent or len(paths) < 2:
        return found
    image_set, _ = open_calibration_folders(paths)
    facts = {"source": ", ".join(path.name for path in paths), "image_count": len(image_set.files)}
    stream = batches(image_set, network.graph.preprocess, batch=BATCH, skip_broken=skip_broken, progress=progress)
    return replace(found, stream=stream, found={**found.found, **facts})


def read_images(
    network: Network, calib: CalibrationSource | None, *, threads: int, skip_broken: bool = False, progress: Progress = silent
) -> CalibrationImages:
    """Reads and checks the images to calibrate on; arguments as of `calibrate`.

    Raises:
        BadInput: too few, duplicate, constant, unreadable or noise images, or none at all.
    """
    folders = calibration_folders(network, calib)
    image_set, owners = open_calibration_folders([folder.path for folder in folders])
    owner = dict(zip(image_set.files, owners, strict=True))
    batch, skipped = load_all(image_set, network.graph.preprocess, workers=threads, skip_broken=skip_broken, progress=progress)
    warnings = check_calibration(batch.pixels, batch.files, batch.hashes)
    if skipped:
        warnings += (f"`{len(skipped)}` unreadable calibration images were left out, the first is `{skipped[0].file.name}`",)
    counts = Counter(owner[file] for file in batch.files)
    weights = tuple(folders[owner[file]].weight for file in batch.files)
    return CalibrationImages(
        batch,
        weights,
        tuple({"name": f.path.name, "image_count": counts[index], "weight": f.weight} for index, f in enumerate(folders)),
        "the demo network's own images" if not calib else ", ".join(folder.path.name for folder in folders),
        warnings,
        distribution_of(batch.statistics, weights),
    )
