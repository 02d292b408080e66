"""Weight-only Core ML files in 8, 6 and 4 bits beside Apple's own published 8-bit lookup-table file of the same checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.apple_file import decode
from benchmarks.recording import assets, write
from squeeze_export.core import CAFFE, Preprocess
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream
from squeeze_export.measure.accuracy import compare
from squeeze_export.nets.architecture import architecture
from squeeze_export.pipeline import Job, PreprocessChoice, RunOptions, open_network, run
from squeeze_export.report.wording import decibel, percent, percent_range
from squeeze_export.results import Accuracy

CHECKPOINT, APPLES = "squeezenet1_1_caffe_fp16.onnx", "SqueezeNetInt8LUT.mlmodel"
SCHEMES = ("fp16", "int8", "w8", "palette8", "palette6", "palette4")
COUNT = 200


def main() -> None:
    """Runs the benchmark and writes its results."""
    found: list[tuple[str, int, Accuracy]] = []
    for scheme in SCHEMES:
        with tempfile.TemporaryDirectory() as folder:
            report = run(
                Job(
                    targets=("coreml",),
                    scheme=scheme,
                    weights=assets() / "weights" / CHECKPOINT,
                    preprocess=_choice(CAFFE),
                    calib=assets() / "images" / "calib",
                    eval=assets() / "images" / "eval",
                    labels=assets() / "images" / "imagenet_wnids.txt",
                    out=Path(folder),
                    run=RunOptions(emulated_images=COUNT),
                    bench=False,
                )
            )
        row = report.measurements[-1]
        assert row.accuracy is not None
        found.append((f"squeeze-export, {scheme}", row.size_bytes, row.accuracy))
    apples = assets() / "peers" / APPLES
    found.append((f"Apple, {APPLES}", apples.stat().st_size, _apples(apples)))
    rows: Sequence[Sequence[str]] = [
        (
            name,
            f"{size_bytes:,}",
            decibel(accuracy.sqnr_db),
            f"{percent(accuracy.top1_agreement.value)} {percent_range(accuracy.top1_agreement)}",
        )
        for name, size_bytes, accuracy in found
    ]
    raw: Any = [{"file": name, "size_bytes": size, "accuracy": asdict(accuracy)} for name, size, accuracy in found]
    write(
        "weights_only",
        "Core ML files of the Caffe SqueezeNet 1.1, and Apple's own",
        [
            f"{COUNT} photographs against the checkpoint's fp32 reference. Our packages run in the evaluator (emulated). "
            "Apple's file is decoded and run as a float network with the checkpoint's own preprocessing, because the "
            "preprocessing that the file states adds the mean where the network subtracts it."
        ],
        ("file", "bytes", "SQNR", "agreement"),
        rows,
        raw,
    )


def _choice(preprocess: Preprocess) -> PreprocessChoice:
    values = asdict(preprocess)
    return PreprocessChoice(**values)


def _apples(path: Path) -> Accuracy:
    tensors, _, _ = decode(path)
    reference = open_network(assets() / "weights" / CHECKPOINT, preprocess=_choice(CAFFE)).graph
    graph = build_graph(architecture("squeezenet1_1"), tensors, CAFFE)
    pixels = ImageStream(open_calibration(assets() / "images" / "eval"), CAFFE).load()[0].pixels
    pixels = pixels[np.arange(len(pixels)) * COUNT % len(pixels) < COUNT]  # those that the evaluator is given
    with one_blas_thread():
        return compare(FloatRunner(reference)(pixels), FloatRunner(graph)(pixels))


if __name__ == "__main__":
    main()
