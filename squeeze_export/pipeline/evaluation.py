"""The images to compare on: the user's, the demo network's own, or the calibration images in their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze_export import demo
from squeeze_export.core import Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.graph.run import FloatRunner, one_blas_thread, run_each
from squeeze_export.images.calibration import BATCH, CalibrationImages, CalibrationSource, calibration_folders
from squeeze_export.images.folders import ImageSet, open_calibration_folders, open_images
from squeeze_export.images.manifest import UNKNOWN
from squeeze_export.images.stream import KEPT_BYTES, ImageStream, usable_cores
from squeeze_export.measure.statistics import wilson
from squeeze_export.pipeline.network import Network

CLASS_MATCHES = "class_matches"
"""Key of a report's evaluation: every folder, or label of a manifest, and the class that it was matched to."""


@dataclass(frozen=True)
class Evaluation:
    """The images to compare on.

    Attributes:
        stream: their pixels, in batches.
        found: what was known about them before they were read.
        independent: False if they are the calibration images.
    """

    stream: ImageStream
    found: Mapping[str, Any]
    independent: bool

    @property
    def image_count(self) -> int:
        """The number of files, broken ones and duplicates included."""
        return len(self.stream.image_set.files)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out of them, after a loop over them."""
        return self.stream.warnings("evaluation images" if self.independent else "calibration images")

    @property
    def facts(self) -> dict[str, Any]:
        """What a report says about them: `image_count` is how many were compared on, `note` why they are not the user's own."""
        return {**self.found, "image_count": self.image_count - self.stream.left_out_count}


def evaluation_images(
    network: Network,
    eval_path: Path | None,
    calib: CalibrationSource | None,
    *,
    again: bool = False,
    skip_broken: bool = False,
) -> Evaluation | None:
    """The user's evaluation images, else the demo network's own, else the calibration images; None if there are none.

    They are read as they are used, so it is up to the user of them to tell how far it is.

    Args:
        network: whose classes they show.
        eval_path: the user's: a folder or manifest.
        calib: the calibration images. What was read already is not read again.
        again: whether they are read more than once: small sets are then kept in memory.
        skip_broken: leaves unreadable images out.

    Raises:
        BadInput: there are no images where they should be, or their classes are not the network's.
    """
    stream: ImageStream | None = None
    note, path = "", eval_path
    if path is None and network.is_demo and not calib:
        path, note = demo.evaluation_folder(), "the demo network's own evaluation images"
    if path is None and not calib:
        return None
    if path is not None:
        names = path.name
        images = open_images(path, class_count=network.class_count, labels=network.classes)
    else:
        note = "these are the calibration images: give --eval DIR for an independent check"
        if isinstance(calib, CalibrationImages):
            stream, names, images = calib.stream, calib.source, calib.stream.image_set
        else:
            folders = calibration_folders(calib or ())
            names = ", ".join(folder.path.name for folder in folders)
            images, _ = open_calibration_folders([folder.path for folder in folders])
    if stream is None:
        stream = ImageStream(
            images,
            network.graph.preprocess,
            batch=BATCH,
            keep_bytes=KEPT_BYTES if again else 0,
            skip_broken=skip_broken,
        )
    found = {
        "source": names,
        "image_count": len(images.files),
        "labelled": images.labels is not None,
        "classes_from": images.class_source,
        **({CLASS_MATCHES: _class_rows(images, network.graph.labels or network.classes.names)} if images.matches else {}),
    }
    return Evaluation(stream, found | ({"note": note} if note else {}), independent=path is not None)


def check_top1(
    network: Network, eval_path: Path | None, percent: float, *, skip_broken: bool = False, progress: Progress = silent
) -> None:
    """Refuses a reference that is right on another share of labelled images than the user knows his network to be.

    Args:
        network: whose float graph is the reference.
        eval_path: labelled images; None takes the demo network's own, for the demo network.
        percent: the top-1 that the user knows, 0 to 100.
        skip_broken: leaves unreadable images out.
        progress: told of the images.

    Raises:
        BadInput: no labelled images, or a top-1 outside the 95% interval (Wilson) of the reference's own.
    """
    if not 0 <= percent <= 100:
        raise BadInput(f"--expect-top1 `{percent:g}` is no percentage", hint="--expect-top1 58.2")
    evaluation = evaluation_images(network, eval_path, None, skip_broken=skip_broken)
    reference, count, right, done = FloatRunner(network.graph), 0, 0, 0
    if evaluation is not None:
        with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool:
            for batch in evaluation.stream:
                known = batch.labels != UNKNOWN
                if known.any():
                    logits = run_each(pool, reference, batch.pixels[known])
                    right += int((logits.argmax(1) == batch.labels[known]).sum())
                count += int(known.sum())
                done += len(known)
                progress("checking the reference", done, evaluation.image_count)
    if not count:
        raise BadInput("--expect-top1 needs labelled images to compare on", hint="--eval with a folder for each class, or a CSV")
    found = wilson(right, count)
    if not found.low <= percent / 100 <= found.high:
        raise BadInput(
            f"the fp32 reference is right on {found.value:.1%} of {count:,} labelled images ({found.low:.1%} to {found.high:.1%}),"
            f" not on `{percent:g}%`",
            hint="what a state dict does not tell may be otherwise; --expect FILE.npz looks for it",
        )


def _class_rows(images: ImageSet, labels: Sequence[str]) -> list[dict[str, Any]]:
    """`found` is the folder's name, `label` the class's, if it has one. Matches that are not letter for letter come first."""
    counts = Counter(images.labels)
    rows = [
        {
            "found": match.name,
            "class_index": match.class_index,
            "label": labels[match.class_index] if labels else None,
            "exact": match.exact,
            "image_count": counts[match.class_index],
        }
        for match in images.matches
    ]
    return sorted(rows, key=lambda row: bool(row["exact"]))
