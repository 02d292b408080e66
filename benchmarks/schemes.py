"""What each scheme keeps of a network, and how near its files come to the integers of its table, on photographs that calibration
never saw.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import NETWORKS
from benchmarks.integers import BEST, CASES
from benchmarks.recording import assets, write
from squeeze_export.core import ByteArray, FloatArray
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import SCHEMES, QuantizedGraph
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream, usable_cores
from squeeze_export.measure.accuracy import compare
from squeeze_export.pipeline import open_network
from squeeze_export.pipeline.calibration import fastest_run
from squeeze_export.pipeline.export import export
from squeeze_export.quant.material import Material
from squeeze_export.quant.observations import observe
from squeeze_export.quant.recipes import quantize_observed
from squeeze_export.report.wording import decibel, percent, percent_range
from squeeze_export.runtimes import runtime_named

RUNS = (
    ("int8", "fast"),
    ("int8-npu", "fast"),
    ("int8-symmetric", "fast"),
    ("int8-per-tensor", "fast"),
    ("int16x8", "fast"),
    ("int16x8", "best"),
    ("w8", ""),
)
"""Scheme and recipe."""
FILES: Mapping[str, tuple[str, ...]] = {
    "int8": ("tflite", "onnx", "openvino"),
    "int8-npu": ("tflite", "onnx"),
    "int8-symmetric": ("onnx", "openvino"),
    "int8-per-tensor": ("tflite", "onnx", "openvino"),
    "int16x8": ("tflite",),
}
RUNTIMES: Mapping[str, tuple[str, ...]] = {
    "tflite": ("litert", "litert-builtin"),
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
}
FILE_COUNT = 20
"""Photographs that the files run on: enough to see whether integers differ."""


def parallel(run: FloatRunner | IntegerRunner, pixels: ByteArray) -> FloatArray:
    """A run of ours, images side by side."""
    with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        return np.concatenate(list(pool.map(run, np.split(pixels, len(pixels)))))


def from_files(network: Graph | QuantizedGraph, scheme: str, pixels: ByteArray) -> dict[str, FloatArray]:
    """`target on runtime` -> logits of a file of the scheme."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for target in FILES.get(scheme, ("tflite",)):
            artifact, _ = export(network, target, SCHEMES[scheme], Path(folder), name="net")
            for runtime in RUNTIMES[target] if scheme in FILES else RUNTIMES[target][:1]:
                session = runtime_named(runtime).open_session(artifact, device="cpu", threads=usable_cores())
                found[f"{target} on {runtime}"] = session.infer(pixels)
                session.close()
    return found


def gaps(files: Mapping[str, FloatArray], exact: FloatArray, step: float) -> list[dict[str, Any]]:
    """How far each file is from the integer run, in steps of the tensor that the logits come from."""
    return [
        {
            "file": name,
            "largest_steps": float(np.abs(logits - exact).max() / step),
            "same_top1": int((logits.argmax(axis=1) == exact.argmax(axis=1)).sum()),
            "count": len(exact),
        }
        for name, logits in files.items()
    ]


def main() -> None:
    """Runs the benchmark and writes its results."""
    rows: list[tuple[str, ...]] = []
    raw: list[dict[str, Any]] = []
    for name, file in NETWORKS.items():
        graph = open_network(assets() / "weights" / file).graph
        calibration = ImageStream(open_calibration(assets() / "images" / "calib"), graph.preprocess).load()[0].pixels
        evaluation = ImageStream(open_calibration(assets() / "images" / "eval"), graph.preprocess).load()[0].pixels
        expected = parallel(FloatRunner(graph), evaluation)
        seen = observe(graph, fastest_run(graph)[0], calibration, seed=0, threads=usable_cores()).of()
        few = np.arange(FILE_COUNT) * len(evaluation) // FILE_COUNT
        for scheme, recipe in RUNS:
            if recipe:
                material = Material(graph, seen, calibration, (1,) * len(calibration), 0, usable_cores(), SCHEMES[scheme])
                quantized = quantize_observed(material, recipe=recipe)
                logits = parallel(IntegerRunner(quantized), evaluation)
                last = quantized.nodes[-1]
                step = quantized.tensors[last.name if SCHEMES[scheme].integer_output else last.inputs[0]].scale
                apart = gaps(from_files(quantized, scheme, evaluation[few]), logits[few], step)
            else:
                (logits,) = from_files(graph, scheme, evaluation).values()
                apart = []
            found = compare(expected, logits)
            agreement = f"{percent(found.top1_agreement.value)} {percent_range(found.top1_agreement)}"
            texts = [f"{entry['file']}: {entry['largest_steps']:.2g}, {entry['same_top1']}/{entry['count']}" for entry in apart]
            label = f"`{scheme}`, recipe `{recipe}`" if recipe else f"`{scheme}`"
            rows.append((name, label, decibel(found.sqnr_db), agreement, "<br>".join(texts) or "float"))
            raw.append(
                {
                    "network": name,
                    "scheme": scheme,
                    "recipe": recipe,
                    "sqnr_db": found.sqnr_db,
                    "agreement": found.top1_agreement.value,
                    "count": found.count,
                    "files": apart,
                }
            )
    write(
        "schemes",
        "How accurate each scheme is",
        [
            "Against fp32 on 472 photographs, with calibration on 128 others: the exact integer run of the scheme's "
            "table, and for `w8` the TFLite file on LiteRT. The last column compares files with that integer run on "
            f"{FILE_COUNT} of the photographs: the largest difference of a logit, in steps of conv10 (for `int8-npu`, of "
            "the logits), and how many images have the same top-1 class."
        ],
        ("network", "scheme", "SQNR", "agreement", "files against the integers"),
        rows,
        raw,
        integers=[case for case in CASES if case != BEST],
    )


if __name__ == "__main__":
    main()
