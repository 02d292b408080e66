"""The recipe `qat`: a table that calibration made, trained further on labelled images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import INT8, QuantizedGraph, Scheme
from squeeze_export.images.folders import ImageSet, open_images
from squeeze_export.images.manifest import UNKNOWN
from squeeze_export.images.names import shown, shown_file
from squeeze_export.images.stream import MAX_LOADED_BYTES, Batch, ImageStream
from squeeze_export.measure.host import tool_versions
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.recipes import QAT, Recipe
from squeeze_export.quant import recipes
from squeeze_export.train.qat import MIN_COUNT, QatSchedule, Trained, check_schedule, train_integers

TRAINING = "training"
"""Key of what a table says about its training."""
TRAINING_HASHES = "training_image_sha256"
"""Key of the SHA-256 of the training images."""


@dataclass(frozen=True)
class Training:
    """What the user chooses about the training; the rest has the defaults of `train.qat.QatSchedule`.

    Attributes:
        images: labelled images: a folder for each class, or a `.csv` manifest.
        epochs: rounds over them.
        reach: how far a weight goes over the whole training, in integer steps: see `train.qat.QatSchedule`.
        flip: mirror half of the images, at random.
    """

    images: Path
    epochs: int = QatSchedule.epochs
    reach: float = QatSchedule.reach
    flip: bool = QatSchedule.flip

    def schedule(self, seed: int, threads: int) -> QatSchedule:
        """How to train."""
        return QatSchedule(epochs=self.epochs, reach=self.reach, flip=self.flip, seed=seed, threads=threads)


def check_training(recipe: Recipe, training: Training | None, scheme: Scheme) -> None:
    """Refuses, before any work is done, what is known to fail.

    Raises:
        BadInput: the recipe without images, images without the recipe, another scheme than int8, or numbers out of range.
    """
    if training is None:
        if recipe.maker == "trained":
            hint = "--train DIR with one folder of images per class, or a CSV"
            raise BadInput(f"the recipe `{recipe.name}` needs labelled images to train on", hint=hint)
        return
    if recipe.maker != "trained":
        hint = f"--recipe {QAT}, or leave out --train"
        raise BadInput(f"`--train` belongs to the recipe `{QAT}`, not to `{recipe.name}`", hint=hint)
    if scheme != INT8:
        raise BadInput(f"the recipe `{recipe.name}` makes `{INT8.name}`, not `{scheme.name}`", hint="--int8")
    check_schedule(training.schedule(seed=0, threads=1))


def check_apart(network: Network, path: Path, evaluation: Path) -> None:
    """Refuses evaluation images that are training images, before the hours of training and not after them.

    Only files of equal size are read.

    Raises:
        BadInput: files in both, counted, the first named.
    """
    class_count, labels = network.class_count, network.classes
    lessons, tests = (open_images(p, class_count=class_count, labels=labels).files for p in (path, evaluation))
    sizes = {file.stat().st_size for file in lessons if file.is_file()}
    alike = [file for file in tests if file.is_file() and file.stat().st_size in sizes]
    wanted = {file.stat().st_size for file in alike}
    known = {sha256(file.read_bytes()).digest() for file in lessons if file.is_file() and file.stat().st_size in wanted}
    both = [file for file in alike if sha256(file.read_bytes()).digest() in known]
    if both:
        raise BadInput(
            f"`{len(both)}` of `{len(tests)}` evaluation images are training images too, the first is {shown(both[0])}",
            hint="remove them from `--eval` or from `--train`",
        )


def read_training(
    network: Network, path: Path, *, threads: int, skip_broken: bool = False, progress: Progress = silent
) -> tuple[Batch, tuple[str, ...]]:
    """Reads the images to train on.

    Args:
        network: whose classes they show.
        path: a folder for each class, or a `.csv` manifest.
        threads: that decode.
        skip_broken: leaves unreadable images out.
        progress: told of reading.

    Returns:
        All images, and warnings.

    Raises:
        BadInput: no labels, an image without one, classes that are not the network's, too few or too many images, unreadable ones.
    """
    images = open_images(path, class_count=network.class_count, labels=network.classes)
    if images.labels is None:
        raise BadInput(
            f"{shown(path)} has no labels to train on", hint="one folder per class, or a CSV with `class_index` or `label`"
        )
    bare = [file for file, label in zip(images.files, images.labels, strict=True) if label == UNKNOWN]
    if bare:
        first = shown_file(bare[0], images.root)
        raise BadInput(
            f"`{len(bare)}` of `{len(images.files)}` training images have no label, the first is {first}",
            hint="remove them from `--train`",
        )
    count, image_bytes = len(images.files), math.prod(network.graph.preprocess.input_size)
    if count * image_bytes > MAX_LOADED_BYTES:
        most = MAX_LOADED_BYTES // image_bytes
        raise BadInput(
            f"`{count}` training images do not fit the memory that they may take", hint=f"at most {most:,}, of all classes"
        )
    stream = ImageStream(images, network.graph.preprocess, workers=threads, skip_broken=skip_broken, progress=progress)
    batch, _ = stream.load()
    if len(batch.files) < MIN_COUNT:
        raise BadInput(
            f"`{len(batch.files)}` training images are too few", hint=f"at least {MIN_COUNT} in `--train`, better thousands"
        )
    return batch, stream.warnings("training images") + _match_warning(images)


def _match_warning(images: ImageSet) -> tuple[str, ...]:
    """A warning where folders were matched otherwise than letter for letter."""
    inexact = [match for match in images.matches if not match.exact]
    if not inexact:
        return ()
    first = f"the first is {shown(inexact[0].name)} as class `{inexact[0].class_index}`"
    how = f"have no class's name letter for letter ({images.class_source})"
    return (f"`{len(inexact)}` of `{len(images.matches)}` training folders or labels {how}: {first}",)


def train(
    start: QuantizedGraph,
    network: Network,
    training: Training,
    images: Batch,
    *,
    seed: int,
    threads: int,
    progress: Progress = silent,
) -> tuple[QuantizedGraph, tuple[str, ...]]:
    """Trains a table's integers.

    Args:
        start: of the network, scheme int8.
        network: whose float graph is the reference.
        training: what the user chose.
        images: from `read_training`.
        seed: for the order, the held-out images and the augmentation.
        threads: torch's intra-op threads.
        progress: told of every update.

    Returns:
        The trained integers, with the training in their provenance, and warnings.

    Raises:
        BadInput: a loss that is not finite.
        Unavailable: torch is not installed.
    """
    schedule = training.schedule(seed, threads)
    found = train_integers(
        start, network.graph, images.pixels, images.labels, schedule, limits=recipes.weight_limits(start), progress=progress
    )
    provenance = {
        **start.provenance,
        "recipe": QAT,
        TRAINING: _told(training, schedule, found, len(images.files), str(start.provenance.get("recipe", ""))),
        TRAINING_HASHES: list(images.hashes),
    }
    warnings = []
    if found.best_epoch == 0:
        warnings.append("training made the held-out images no better: these are the integers that it started from")
    missing = network.class_count - len(np.unique(images.labels))
    if missing:
        warnings.append(f"the training images lack `{missing}` of the network's classes, which may be recognized less well")
    return replace(found.quantized, provenance=provenance), tuple(warnings)


def training_facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says about the training; empty for a table that was not trained."""
    told = provenance.get(TRAINING)
    if not isinstance(told, dict):
        return {}
    names = {
        "start_recipe": "start_recipe",
        "source": "trained_on",
        "image_count": "training_image_count",
        "best_epoch": "best_epoch",
    }
    return {name: told[key] for key, name in names.items() if key in told}


def _told(training: Training, schedule: QatSchedule, found: Trained, count: int, start_recipe: str) -> dict[str, Any]:
    return {
        "start_recipe": start_recipe,
        "source": training.images.name,
        "image_count": count,
        "held_out_count": found.held_out_count,
        **asdict(schedule),
        "best_epoch": found.best_epoch,
        "losses": [round(loss, 6) for loss in found.losses],
        "held_out": [{name: round(value, 6) for name, value in asdict(measured).items()} for measured in found.held_out],
        "torch": tool_versions(("torch",)).get("torch", ""),
    }
