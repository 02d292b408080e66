"""CPUs without VNNI: the emulation, and OpenVINO held to AVX2, against OpenVINO with VNNI and the exact integers.

Two tables of each network: the default one, whose first layer keeps its weights within 64, and one without that limit, which is the
control: both the emulation and OpenVINO held to AVX2 must show that it breaks.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import NETWORKS
from benchmarks.integers import FAST
from benchmarks.recording import assets, write
from squeeze_export.core import ByteArray, FloatArray
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import INT8
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.graph.saturation import SaturatingProducts, pair_count
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream, usable_cores
from squeeze_export.measure.accuracy import compare
from squeeze_export.pipeline import Network, calibrate, export, open_network
from squeeze_export.pipeline.forced_avx2 import run_on_avx2
from squeeze_export.quant import recipes
from squeeze_export.report.wording import decibel, percent, percent_range
from squeeze_export.results import Accuracy
from squeeze_export.runtimes import runtime_named

COUNT = 200
LIMITS = {"within 64 (default)": recipes.FIRST_WEIGHT_LIMIT, "not limited": recipes.WEIGHT_LIMIT}
EMULATED, FORCED, VNNI = "emulated", "AVX2 forced", "VNNI"
EXACT, FP32 = "exact integers", "fp32"
PAIRS = ((VNNI, FORCED), (EXACT, EMULATED), (FORCED, EMULATED), (EXACT, VNNI), (FP32, VNNI), (FP32, FORCED))
"""First -> second; the first is the reference of the SQNR."""
LEAST_AGREEMENT = 0.99
BROKEN = 0.9
"""Below this agreement a table is broken: what the control must show."""
ROUNDING_DB = 45
"""OpenVINO rounds halves in its own way: the same products give no less than this."""
NEAR_DB = 3


def main() -> None:
    """Runs the benchmark and writes its results; ends with an error where a claim of the docs does not hold."""
    rows, raw, wrong = [], [], []
    for name, file in NETWORKS.items():
        network = open_network(assets() / "weights" / file)
        everything = ImageStream(open_calibration(assets() / "images" / "eval"), network.graph.preprocess).load()[0].pixels
        pixels = everything[np.arange(COUNT) * len(everything) // COUNT]
        for table, limit in LIMITS.items():
            print(f"{name}, conv1 {table}", file=sys.stderr)
            found, facts = _one(network, pixels, limit)
            saturated = sum(facts["saturated_by_layer"].values())
            rows.append((name, table, *(_cell(found[pair]) for pair in PAIRS), f"{saturated:,}"))
            compared = [{"first": first, "second": second, **asdict(accuracy)} for (first, second), accuracy in found.items()]
            raw.append({"network": name, "conv1_weights": table, "weight_limit": limit, "compared": compared, **facts})
            wrong += [f"{name}, conv1 {table}: {text}" for text in _wrong(found, limited=limit == recipes.FIRST_WEIGHT_LIMIT)]
    write(
        "portability",
        "int8 on CPUs without VNNI",
        [
            f"{COUNT} photographs that calibration never saw. VNNI: OpenVINO as this CPU runs it. AVX2 forced: OpenVINO in "
            "a process with `ONEDNN_MAX_CPU_ISA=AVX2`. Emulated: the integer run with products summed in pairs in int16. "
            "Each cell has the share of images with the same top-1 class, its 95% Wilson interval, and the SQNR of the "
            "logits. Saturated: pairs of products that saturate when emulated, over all images."
        ],
        ("network", "conv1's weights", *(f"{second} against {first}" for first, second in PAIRS), "saturated"),
        rows,
        raw,
        integers=[FAST],
    )
    if wrong:
        sys.exit("\n".join(wrong))


def _cell(found: Accuracy) -> str:
    return f"{percent(found.top1_agreement.value)} {percent_range(found.top1_agreement)}, {decibel(found.sqnr_db)}"


def _one(network: Network, pixels: ByteArray, limit: int) -> tuple[dict[tuple[str, str], Accuracy], dict[str, Any]]:
    """Every pair of `PAIRS` on one table, and what else is to be kept of it."""
    default, recipes.FIRST_WEIGHT_LIMIT = recipes.FIRST_WEIGHT_LIMIT, limit
    try:
        quantized = calibrate(network, assets() / "images" / "calib").quantized
    finally:
        recipes.FIRST_WEIGHT_LIMIT = default
    products = SaturatingProducts(quantized)
    logits = {
        FP32: _parallel(FloatRunner(network.graph), pixels),
        EXACT: _parallel(IntegerRunner(quantized), pixels),
        EMULATED: _parallel(IntegerRunner(quantized, products), pixels),
    }
    with tempfile.TemporaryDirectory() as folder:
        artifact, _ = export(quantized, "openvino", INT8, Path(folder), name="net")
        session = runtime_named("openvino").open_session(artifact, device="cpu", threads=1)
        logits[VNNI] = session.infer(pixels)
        logits[FORCED], told = run_on_avx2(artifact.path, pixels)
    kernels = {VNNI: session.kernels, FORCED: told["kernels"]}
    session.close()
    facts = {"kernels": kernels, "pair_count": pair_count(quantized) * len(pixels), "saturated_by_layer": dict(products.saturated)}
    return {(first, second): compare(logits[first], logits[second]) for first, second in PAIRS}, facts


def _parallel(run: FloatRunner | IntegerRunner, pixels: ByteArray) -> FloatArray:
    with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        return np.concatenate(list(pool.map(run, np.split(pixels, len(pixels)))))


def _wrong(found: dict[tuple[str, str], Accuracy], *, limited: bool) -> list[str]:
    """What does not hold of what the docs claim."""
    share = {pair: accuracy.top1_agreement.value for pair, accuracy in found.items()}
    wrong = []
    rounding_db = found[EXACT, VNNI].sqnr_db
    if rounding_db < ROUNDING_DB:
        wrong.append("OpenVINO does not compute the exact integers: does this CPU have VNNI?")
    # The emulation must be as near to what it emulates as the exact run is to the CPU that computes exactly.
    if found[FORCED, EMULATED].sqnr_db < rounding_db - NEAR_DB:
        wrong.append("the emulation is not what AVX2 computes")
    for pair in ((VNNI, FORCED), (EXACT, EMULATED)):
        if limited and share[pair] < LEAST_AGREEMENT:
            wrong.append(f"{pair[1]} loses answers of {pair[0]} with the default table")
        if not limited and share[pair] >= BROKEN:
            wrong.append(f"{pair[1]} shows no harm: the control is none")
    return wrong


if __name__ == "__main__":
    main()
