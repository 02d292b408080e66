"""The calibration job: network + images -> quantized graph, and its table file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from squeeze_export import demo
from squeeze_export.core import Progress, silent
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.files import write_bytes
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import INT8, QuantizedGraph, Scheme
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.table import read_table, table_bytes
from squeeze_export.images.calibration import CalibrationFolder as CalibrationFolder
from squeeze_export.images.calibration import CalibrationImages, CalibrationSource, calibration_folders, read_calibration_images
from squeeze_export.images.distribution import Distribution, read_distribution, shift_warning
from squeeze_export.images.stream import usable_cores
from squeeze_export.pipeline.evaluation import Evaluation
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.pixels import pixel_warnings
from squeeze_export.pipeline.recipes import Recipe, check_recipe
from squeeze_export.pipeline.training import TRAINING_HASHES, Training, check_training, read_training, train, training_facts
from squeeze_export.quant import mixed
from squeeze_export.quant.distill import DISTILLATION, FEWEST_IMAGES
from squeeze_export.quant.observations import TappedRun, observed_tensors
from squeeze_export.quant.recipes import BEST, quantize
from squeeze_export.runtimes.onnxruntime.inner_tensors import tapped_run
from squeeze_export.targets.onnx import emit_with_taps

APPEARANCE = "appearance"
"""Key of the images' summary in a table's provenance."""
FOLDERS = "folders"
"""Key of the folders' names, image counts and weights."""
KEPT_FLOAT = "kept_float"
"""Key of a report's calibration: the convolutions that compute in float; a table's provenance has the layers that were named."""
_FOLDER = {"name", "image_count", "weight"}


@dataclass(frozen=True, eq=False)
class Calibration:
    """The integers, and what a report says about them.

    Attributes:
        quantized: the quantized graph.
        image_hashes: SHA-256 of the calibration files, and of those trained on, so that evaluation on them can be refused.
        source: `the demo network's own images`, a folder's name, or a table's.
        warnings: what the user should know.
    """

    quantized: QuantizedGraph
    image_hashes: tuple[str, ...]
    source: str
    warnings: tuple[str, ...] = ()

    @cached_property
    def summary(self) -> Distribution | None:
        """How the images look; None if the table does not say.

        Raises:
            BadInput: this part of the table is damaged.
        """
        kept = self.quantized.provenance.get(APPEARANCE)
        if kept is None:
            return None
        try:
            return read_distribution(kept)
        except ValueError as err:
            raise BadInput(f"{self.source} is damaged: `{APPEARANCE}` is {err}", hint="calibrate again") from err

    def facts(self) -> dict[str, Any]:
        """What a report says about it."""
        made_by = self.quantized.provenance
        folders = made_by.get(FOLDERS, [])
        return {
            "source": self.source,
            **({"folders": folders} if len(folders) > 1 else {}),
            "image_count": made_by.get("image_count", len(self.image_hashes)),
            "recipe": made_by.get("recipe", ""),
            "seed": made_by.get("seed", 0),
            **training_facts(made_by),
            "scheme": self.quantized.scheme.name,
            **({KEPT_FLOAT: list(self.quantized.kept_float)} if self.quantized.kept_float else {}),
            "table_sha256": self.quantized.sha256,
        }


def calibrate(
    network: Network,
    calib: CalibrationSource | None = None,
    *,
    scheme: Scheme = INT8,
    recipe: str | Recipe = "fast",
    training: Training | None = None,
    seed: int = 0,
    keep_float: Sequence[str] = (),
    threads: int | None = None,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> Calibration:
    """Calibrates and quantizes a network.

    Args:
        network: from `open_network`.
        calib: a folder of images, several with weights, or what `read_images` gave; None takes the demo network's own.
        scheme: an integer scheme.
        recipe: one of ours in `recipes.RECIPES`, or `qat`: its name, or what `check_recipe` returned.
        training: for `qat`: on which images, and how.
        seed: of the sampled positions, and of the training.
        keep_float: layers to put back to float when all is done: their weights are the checkpoint's.
        threads: images in flight; None takes every usable core.
        skip_broken: leaves unreadable images out.
        progress: told of reading, trying other preprocessings, calibrating and training.

    Raises:
        BadInput: too few, constant, unreadable or noise images, or none at all; training images without labels;
            layers that cannot be kept in float.
        Unavailable: `best` or `qat` without torch.
    """
    cores = threads or usable_cores()
    if isinstance(recipe, str):
        check_scheme(scheme)
        recipe = check_recipe(recipe, scheme, "ours", "trained")
        check_training(recipe, training, scheme)
        if keep_float:
            mixed.check_mixed_scheme(scheme)
            mixed.check_keepable(network.graph, keep_float)
    images = read_images(network, calib, threads=cores, skip_broken=skip_broken, progress=progress)
    lessons, warnings = None, images.warnings + pixel_warnings(network, images.batch.pixels, threads=cores, progress=progress)
    if training is not None:
        lessons, found = read_training(network, training.images, threads=cores, skip_broken=skip_broken, progress=progress)
        warnings += found
    run, runtime = fastest_run(network.graph)
    provenance = provenance_of(images, network, runtime)
    quantized = quantize(
        network.graph,
        images.batch.pixels,
        run,
        scheme,
        recipe=recipe.calibration,
        seed=seed,
        threads=cores,
        weights=images.weights,
        provenance=provenance,
        progress=progress,
    )
    hashes = images.batch.hashes
    warnings += _not_distilled(quantized)
    if training is not None and lessons is not None:
        quantized, found = train(quantized, network, training, lessons, seed=seed, threads=cores, progress=progress)
        warnings, hashes = warnings + found, hashes + lessons.hashes
    return Calibration(mixed.keep_float(network.graph, quantized, keep_float), hashes, images.source, warnings)


def read_images(
    network: Network,
    calib: CalibrationSource | None = None,
    *,
    threads: int | None = None,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> CalibrationImages:
    """Reads and checks the images to calibrate a network on; images that were read already are returned as they are.

    Raises:
        BadInput: too few, constant, unreadable or noise images, or none at all.
    """
    if isinstance(calib, CalibrationImages):
        return calib
    source = ""
    if not calib:
        if not network.is_demo:
            raise BadInput("integers need calibration images", hint="--calib DIR with a few hundred photographs, or --table FILE")
        calib, source = demo.calibration_folder(), "the demo network's own images"
    return read_calibration_images(
        calibration_folders(calib),
        network.graph.preprocess,
        source=source,
        threads=threads,
        skip_broken=skip_broken,
        progress=progress,
    )


def _not_distilled(quantized: QuantizedGraph) -> tuple[str, ...]:
    """A warning if `best` left its second step out."""
    told = quantized.provenance.get(DISTILLATION)
    if told is None or told["kept"]:
        return ()
    if not told["held_out_count"]:
        return (f"with fewer than `{FEWEST_IMAGES}` calibration images `{BEST}` refits and does not distill",)
    return (f"the `{told['held_out_count']}` images held out are no better for the distillation: these are the refitted integers",)


def check_scheme(scheme: Scheme) -> None:
    """Refuses a scheme without integers.

    Raises:
        BadInput: it has none.
    """
    if not scheme.integer:
        raise BadInput(f"the scheme `{scheme.name}` has no integers to calibrate", hint="--int8")


def provenance_of(images: CalibrationImages, network: Network, runtime: str) -> dict[str, Any]:
    """What the table keeps about its images: every hash, the folders, and the summary that other images are compared with."""
    return {
        "image_sha256": list(images.batch.hashes),
        FOLDERS: [dict(folder) for folder in images.folders],
        APPEARANCE: asdict(images.distribution),
        "network": network.name,
        "statistics_by": runtime,
    }


def shift_warnings(calibration: Calibration | None, evaluation: Evaluation | None) -> tuple[str, ...]:
    """A warning if evaluation images, after a loop over them, differ in kind from those that the integers were calibrated on.

    Without integers or independent images, or with a table of a version that kept no summary, there is none.
    """
    if calibration is None or calibration.summary is None or evaluation is None or not evaluation.independent:
        return ()
    return shift_warning(calibration.summary, evaluation.stream.statistics)


def fastest_run(graph: Graph) -> tuple[TappedRun, str]:
    """The float run for the statistics, and its name: ONNX Runtime if it is installed and works, else numpy, which is slower."""
    names = [name for name in observed_tensors(graph) if name != graph.input.name]
    try:
        return tapped_run(emit_with_taps(graph, names), names), "onnxruntime"
    except (Unavailable, Refused):
        return FloatRunner(graph), "numpy"


def write_table(calibration: Calibration, path: Path) -> None:
    """Writes the table file, whole or not at all.

    Raises:
        BadInput: it cannot be written.
    """
    write_bytes(path, table_bytes(calibration.quantized))


def read_calibration(table: Path) -> Calibration:
    """Reads a table file back.

    Raises:
        BadInput: no table, or a damaged one.
    """
    quantized = read_table(table)
    kept: list[str] = []
    for key in ("image_sha256", TRAINING_HASHES):
        hashes = quantized.provenance.get(key, [])
        if not isinstance(hashes, list) or not all(isinstance(digest, str) for digest in hashes):
            raise BadInput(f"the table `{table}` is damaged: `{key}` is no list of hashes", hint="calibrate again")
        kept += hashes
    folders = quantized.provenance.get(FOLDERS, [])
    if not isinstance(folders, list) or not all(isinstance(folder, dict) and set(folder) == _FOLDER for folder in folders):
        raise BadInput(f"the table `{table}` is damaged: `{FOLDERS}` is no list of folders", hint="calibrate again")
    calibration = Calibration(quantized, tuple(kept), f"table {table.name}")
    _ = calibration.summary  # a damaged one is refused here, not after an export
    return calibration
