"""The calibration job: network + images -> quantized graph, and its table file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze_export import demo
from squeeze_export.core import Progress, silent
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.files import write_bytes
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import INT8, QuantizedGraph, Scheme, table_bytes
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.saved import read_table
from squeeze_export.images.checks import check_calibration
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import load_all, usable_cores
from squeeze_export.pipeline.network import Network
from squeeze_export.quant.observations import TappedRun, observed_tensors
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes.onnxruntime import tapped_run
from squeeze_export.targets.onnx import emit_with_taps


@dataclass(frozen=True, eq=False)
class Calibration:
    """The integers, and what is to be said of them.

    Attributes:
        quantized: the quantized graph.
        image_hashes: SHA-256 of the calibration files, so that evaluation on them can be refused.
        source: `the demo network's own images`, a folder's name, or a table's.
        warnings: what the user should know.
    """

    quantized: QuantizedGraph
    image_hashes: tuple[str, ...]
    source: str
    warnings: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What a report says of it."""
        made_by = self.quantized.provenance
        return {
            "source": self.source,
            "image_count": len(self.image_hashes),
            "recipe": made_by.get("recipe", ""),
            "seed": made_by.get("seed", 0),
            "scheme": self.quantized.scheme.name,
            "table_sha256": self.quantized.sha256,
        }


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


def calibrate(
    network: Network,
    calib: Path | None = None,
    *,
    scheme: Scheme = INT8,
    recipe: str = "fast",
    seed: int = 0,
    threads: int | None = None,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> Calibration:
    """Calibrates and quantizes a network.

    Args:
        network: from `open_network`.
        calib: folder of images; None takes the demo network's own.
        scheme: an integer scheme.
        recipe: how: a key of `quant.recipes.RECIPES`.
        seed: of the sampled positions.
        threads: images in flight; None takes every usable core.
        skip_broken: leaves unreadable images out.
        progress: told of reading and calibrating.

    Raises:
        BadInput: too few, duplicate, constant or unreadable images, or none at all.
    """
    if not scheme.integer:
        raise BadInput(f"the scheme `{scheme.name}` has no integers to calibrate", hint="--int8")
    folder = calibration_images(network, calib)
    cores = threads or usable_cores()
    images, skipped = load_all(
        open_calibration(folder), network.graph.preprocess, workers=cores, skip_broken=skip_broken, progress=progress
    )
    warnings = check_calibration(images.pixels, images.files, images.hashes)
    if skipped:
        warnings += (f"`{len(skipped)}` unreadable calibration images were left out, the first is `{skipped[0].file.name}`",)
    own = calib is None
    run, runtime = _fastest_run(network.graph)
    quantized = quantize(
        network.graph,
        images.pixels,
        run,
        scheme,
        recipe=recipe,
        seed=seed,
        threads=cores,
        provenance={"image_sha256": list(images.hashes), "network": network.name, "statistics_by": runtime},
        progress=progress,
    )
    return Calibration(quantized, images.hashes, "the demo network's own images" if own else folder.name, warnings)


def _fastest_run(graph: Graph) -> tuple[TappedRun, str]:
    """The float run for the statistics, and its name: ONNX Runtime where it is installed and sound, else numpy, which is slower."""
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
    hashes = quantized.provenance.get("image_sha256", [])
    if not isinstance(hashes, list) or not all(isinstance(digest, str) for digest in hashes):
        raise BadInput(f"the table `{table}` is damaged: `image_sha256` is no list of hashes", hint="calibrate again")
    return Calibration(quantized, tuple(hashes), f"table {table.name}")
