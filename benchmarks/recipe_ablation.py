"""What each step of the recipe `fast` buys: one step taken out at a time, on photographs that calibration never saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.integers import FAST
from benchmarks.recording import assets, write
from squeeze_export.core import ByteArray, FloatArray
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import INT8
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream, usable_cores
from squeeze_export.measure.accuracy import compare
from squeeze_export.pipeline import open_network
from squeeze_export.pipeline.calibration import fastest_run
from squeeze_export.quant import observations, ranges, recipes
from squeeze_export.quant.observations import Observation
from squeeze_export.quant.rounding import nearest
from squeeze_export.report.wording import decibel, percent, percent_range
from squeeze_export.results import Accuracy

NETWORKS = {"v1.1": "squeezenet1_1.safetensors", "v1.0": "squeezenet1_0_deep_compression.net"}


def _unequalized(graph: Graph, seen: Mapping[str, Observation], *_: Any) -> tuple[Graph, dict[str, Observation]]:
    return graph, dict(seen)


def _nearest(weight: FloatArray, scale: FloatArray, limit: int, moment: Any) -> FloatArray:
    return nearest(weight, scale, limit)


def _uncorrected(bias: FloatArray, *_: Any) -> Any:
    return bias.astype(np.float64)


VARIANTS: Mapping[str, tuple[tuple[Any, str, Any], ...]] = {
    "`fast`": (),
    "without equalization": ((recipes, "equalize", _unequalized),),
    "rounding to nearest, without error compensation": ((recipes, "compensated", _nearest),),
    "without bias correction": ((recipes, "corrected_bias", _uncorrected),),
    "ranges: the largest value seen (min-max)": ((ranges, "CLIP_SHARES", np.array([1.0])),),
    "ranges: the plain MSE point, without headroom": (
        (ranges, "HEADROOM", 1.0),
        (ranges, "CLIP_SHARES", np.linspace(1.0, 0.3, 71)),
    ),
    "8,192 patches a tensor instead of 2,048": ((observations, "PATCH_COUNT", 8192),),
    "conv1 with 8 bits (saturates on CPUs without VNNI)": ((recipes, "FIRST_WEIGHT_LIMIT", 127),),
}


@contextmanager
def patched(changes: tuple[tuple[Any, str, Any], ...]) -> Iterator[None]:
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def parallel(run: FloatRunner | IntegerRunner, pixels: ByteArray) -> FloatArray:
    with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        return np.concatenate(list(pool.map(run, np.split(pixels, len(pixels)))))


def main() -> None:
    """Runs the benchmark and writes its results."""
    rows: dict[str, list[str]] = {variant: [] for variant in VARIANTS}
    raw: list[dict[str, Any]] = []
    for name, file in NETWORKS.items():
        network = open_network(assets() / "weights" / file)
        graph, preprocess = network.graph, network.graph.preprocess
        calibration = ImageStream(open_calibration(assets() / "images" / "calib"), preprocess).load()[0].pixels
        evaluation = ImageStream(open_calibration(assets() / "images" / "eval"), preprocess).load()[0].pixels
        expected = parallel(FloatRunner(graph), evaluation)
        for variant, changes in VARIANTS.items():
            with patched(changes):
                quantized = recipes.quantize(graph, calibration, fastest_run(graph)[0], INT8, threads=usable_cores())
            found: Accuracy = compare(expected, parallel(IntegerRunner(quantized), evaluation))
            agreement = f"{percent(found.top1_agreement.value)} {percent_range(found.top1_agreement)}"
            rows[variant] += [decibel(found.sqnr_db), agreement]
            raw.append({"network": name, "variant": variant, "sqnr_db": found.sqnr_db, "agreement": found.top1_agreement.value})
    write(
        "recipe_ablation",
        "What each step of the recipe `fast` gains",
        [
            "The exact integer run against fp32 on 472 photographs; calibration on 128 others. Each row leaves out or "
            "changes one step."
        ],
        ("", *(f"{network} {what}" for network in NETWORKS for what in ("SQNR", "agreement"))),
        [(variant, *figures) for variant, figures in rows.items()],
        raw,
        integers=[FAST],
    )


if __name__ == "__main__":
    main()
