"""What ExecuTorch and Rockchip's simulator make of our integers: beside the integer run, and beside the fp32 reference."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rknn
from benchmarks.contestants import NETWORKS
from benchmarks.integers import FAST
from benchmarks.recording import assets, write
from benchmarks.rknn.onnx_file import onnx_for_rknn
from benchmarks.rknn.placement import BUILD_LIMIT_S, IMAGE_LIMIT_S, placement_of
from squeeze_export import demo
from squeeze_export.compilers import compiler_named
from squeeze_export.core import Artifact, ByteArray, FloatArray, Placement
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.pipeline import calibrate, open_network
from squeeze_export.pipeline.export import export, keep_compiled
from squeeze_export.pipeline.network import Network
from squeeze_export.runtimes import runtime_named
from squeeze_export.workers.environments import start

PHOTOGRAPHS = 100
DEMO = "demo network"
"""Agreement with the integer run below which a toolchain stays out: the bound of the contract suite."""
BOUND = 0.9


def pixels_of(network: Network) -> ByteArray:
    """The demo network's evaluation images, or photographs spread evenly over those for evaluation."""
    if network.is_demo:
        files = sorted(path for path in demo.evaluation_folder().rglob("*") if path.suffix in (".png", ".jpg"))
    else:
        found = sorted((assets() / "images" / "eval").rglob("*.jpg"))
        files = [found[index * len(found) // PHOTOGRAPHS] for index in range(PHOTOGRAPHS)]
    return np.stack([load_pixels(path, network.graph.preprocess) for path in files])


def sqnr_db(expected: FloatArray, found: FloatArray) -> float:
    """Signal power over the power of the difference."""
    signal, noise = (float((values.astype(np.float64) ** 2).sum()) for values in (expected, found - expected))
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


@dataclass(frozen=True, eq=False)
class Run:
    """What a toolchain made of a table, and its answers.

    Attributes:
        content: the file.
        placement: where its operators run.
        evidence: how the answers came about.
        logits: (N, classes) float32.
        compile_s: what making the file took.
    """

    content: bytes
    placement: Placement | None
    evidence: str
    logits: FloatArray
    compile_s: float


def through_executorch(artifact: Artifact, chip: str, pixels: ByteArray, folder: Path) -> Run:
    """As `squeeze-export executorch` does it."""
    start_ns = time.perf_counter_ns()
    compiled = compiler_named("executorch").compile_for(artifact, chip, {}, folder)
    compile_s = (time.perf_counter_ns() - start_ns) / 1e9
    product = keep_compiled(compiled.content, folder / "network.pte", artifact, "executorch", {"chip": chip})
    session = runtime_named("executorch").open_session(product, device="cpu", threads=1)
    try:
        return Run(compiled.content, session.placement, session.evidence, session.infer(pixels), compile_s)
    finally:
        session.close()


def through_rknn(artifact: Artifact, chip: str, pixels: ByteArray, folder: Path) -> Run:
    """The toolkit's own build without its quantizer, and its simulator in the same process."""
    with start(rknn) as worker:
        (worker.folder / "network.onnx").write_bytes(onnx_for_rknn(artifact.path))
        start_ns = time.perf_counter_ns()
        answer, _ = worker.ask("build", {"chip": chip}, limit_s=BUILD_LIMIT_S)
        compile_s = (time.perf_counter_ns() - start_ns) / 1e9
        _, arrays = worker.ask("simulate", {}, {"pixels": pixels}, limit_s=IMAGE_LIMIT_S * len(pixels))
        return Run(worker.read("network.rknn"), placement_of(answer), "simulated", arrays["logits"], compile_s)


TOOLCHAINS = {"executorch": ("int8", through_executorch), "rknn": ("int8-npu", through_rknn)}
"""Toolchain -> the scheme that it is given, and the way through it."""


def measured(name: str, file: str | None, toolchain: str, chip: str) -> dict[str, Any]:
    """One network through one toolchain."""
    scheme, through = TOOLCHAINS[toolchain]
    network = open_network(None if file is None else str(assets() / "weights" / file))
    calib = None if file is None else assets() / "images" / "calib"
    quantized = calibrate(network, calib, scheme=scheme_named(scheme)).quantized
    pixels = pixels_of(network)
    exact, reference = IntegerRunner(quantized)(pixels), FloatRunner(network.graph)(pixels)
    with tempfile.TemporaryDirectory() as temporary:
        artifact, _ = export(quantized, "onnx", quantized.scheme, Path(temporary), name="network")
        ran = through(artifact, chip, pixels, Path(temporary))
    found, placement = ran.logits, ran.placement
    assert placement is not None
    return {
        "network": name,
        "toolchain": f"{toolchain}, {chip}",
        "evidence": ran.evidence,
        "image_count": len(pixels),
        "agreement_integer_run": float((found.argmax(1) == exact.argmax(1)).mean()),
        "sqnr_integer_run_db": sqnr_db(exact, found),
        "largest_difference": float(np.abs(found - exact).max()),
        "agreement_reference": float((found.argmax(1) == reference.argmax(1)).mean()),
        "agreement_exact_reference": float((exact.argmax(1) == reference.argmax(1)).mean()),
        "sqnr_reference_db": sqnr_db(reference, found),
        "sqnr_exact_reference_db": sqnr_db(reference, exact),
        "integer_mac_share": placement.integer_mac_share,
        "operator_count": placement.operator_count,
        "integer_count": placement.integer_count,
        "size_bytes": len(ran.content),
        "source_bytes": artifact.size_bytes,
        "compile_s": ran.compile_s,
    }


def main() -> None:
    """Runs the benchmark and writes its results."""
    raw = []
    for name, file in {DEMO: None, **NETWORKS}.items():
        for toolchain, chip in (("executorch", "xnnpack"), ("rknn", "rk3588"), ("rknn", "rk3566")):
            raw.append(measured(name, file, toolchain, chip))
            print(raw[-1], file=sys.stderr)
    rows: list[Sequence[str]] = [
        (
            row["network"],
            row["toolchain"],
            row["evidence"],
            str(row["image_count"]),
            f"{row['agreement_integer_run']:.1%}",
            f"{row['sqnr_integer_run_db']:.1f}",
            f"{row['largest_difference']:.2g}",
            f"{row['agreement_reference']:.1%}",
            f"{row['agreement_exact_reference']:.1%}",
            f"{row['sqnr_reference_db']:.1f}",
            f"{row['sqnr_exact_reference_db']:.1f}",
            f"{row['integer_mac_share']:.0%}",
            f"{row['size_bytes']:,}",
            f"{row['compile_s']:.0f}",
        )
        for row in raw
    ]
    least = min(row["agreement_integer_run"] for row in raw)
    write(
        "toolchains",
        "Toolchains with an environment of their own: our integers in their files",
        [
            "Exact: the integer run of the same table (graph/integer.py). Reference: the fp32 network. The photographs are spread "
            "evenly over those for evaluation. Executorch is run on this CPU; rknn is the toolkit's simulator, which no chip has "
            "confirmed. "
            f"The contract suite's bound is an agreement of {BOUND:.0%} with the exact integers; the least here is {least:.1%}."
        ],
        (
            "network",
            "toolchain",
            "evidence",
            "images",
            "agreement with the exact integers",
            "SQNR to them, dB",
            "largest difference of a logit",
            "agreement with fp32",
            "of the exact integers",
            "SQNR to fp32, dB",
            "of the exact integers",
            "multiplications in integers",
            "bytes",
            "to compile, s",
        ),
        rows,
        {"rows": raw},
        integers=[FAST],
    )


if __name__ == "__main__":
    main()
