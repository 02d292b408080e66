"""Every real checkpoint in every scheme through every default runtime, against its own fp32 reference."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.integers import FAST
from benchmarks.recording import assets, write
from squeeze_export.documents import to_json
from squeeze_export.pipeline import Job, PreprocessChoice, run
from squeeze_export.pipeline.evaluation import CLASS_MATCHES
from squeeze_export.pipeline.sessions import RunOptions
from squeeze_export.registry import TARGETS
from squeeze_export.report.wording import decibel, delta_pp, delta_range, percent, percent_range
from squeeze_export.results import SCHEMA, Measurement, Report

CAFFE = PreprocessChoice(resize_px=256, crop_px=227, channel_order="bgr", mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0))
CHECKPOINTS = {
    "v1.1 torchvision (.pth)": ("squeezenet1_1.pth", PreprocessChoice()),
    "v1.1 torchvision (.safetensors)": ("squeezenet1_1.safetensors", PreprocessChoice()),
    "v1.0 Deep Compression (.net)": ("squeezenet1_0_deep_compression.net", PreprocessChoice()),
    "v1.0 Deep Compression (.safetensors)": ("squeezenet1_0.safetensors", CAFFE),
    "v1.1 Caffe (.onnx, fp16, 2018)": ("squeezenet1_1_caffe_fp16.onnx", PreprocessChoice()),
}


def main() -> None:
    """Runs the benchmark and writes its results."""
    images, raw = assets() / "images", []
    for name, (file, preprocess) in CHECKPOINTS.items():
        for scheme in ("fp32", "fp16", "int8"):
            with tempfile.TemporaryDirectory() as folder:
                report = run(
                    Job(
                        targets=tuple(TARGETS),
                        scheme=scheme,
                        weights=assets() / "weights" / file,
                        preprocess=preprocess,
                        calib=images / "calib",
                        eval=images / "eval",
                        labels=images / "imagenet_wnids.txt",
                        out=Path(folder),
                        bench=False,
                    )
                )
            raw.append({"checkpoint": name, "scheme": scheme, "report": to_json(_without_images(report), SCHEMA.name)})
    write_results(raw)


def _without_images(report: Report) -> Report:
    """Without what is told of each image, folder and operator, which no figure here rests on."""
    evaluation = {name: value for name, value in report.evaluation.items() if name != CLASS_MATCHES}
    rows = tuple(replace(row, answers=None, placement=None, audit=None) for row in report.measurements)
    return replace(report, evaluation=evaluation, measurements=rows, images=None)


def write_results(raw: Sequence[dict[str, Any]]) -> None:
    """Writes the results from the stored reports."""
    rows = []
    for entry in raw:
        measurements = SCHEMA.from_json(entry["report"]).measurements
        rows += [_row(entry["checkpoint"], row) for row in measurements if row.scheme == entry["scheme"]]
    write(
        "accuracy",
        "Accuracy against the fp32 reference",
        [
            "472 evaluation photographs, and 128 others for calibration with the recipe `fast`. Agreement: share of "
            "images with the same top-1 class as fp32, with its 95% Wilson interval. Delta: change in top-1 in percentage "
            "points, with its paired 95% interval. coreml-evaluator is emulated, and ran on "
            f"{RunOptions.emulated_images} of the photographs, spread evenly."
        ],
        ("checkpoint", "scheme", "runtime", "SQNR", "agreement", "top-1", "delta"),
        rows,
        raw,
        integers=[FAST],
    )


def _row(name: str, row: Measurement) -> tuple[str, ...]:
    accuracy = row.accuracy
    assert accuracy is not None
    assert accuracy.top1 is not None
    assert accuracy.top1_delta_pp is not None
    agreement = f"{percent(accuracy.top1_agreement.value)} {percent_range(accuracy.top1_agreement)}"
    delta = f"{delta_pp(accuracy.top1_delta_pp)} {delta_range(accuracy.top1_delta_pp)}"
    return (name, row.scheme, row.runtime, decibel(accuracy.sqnr_db), agreement, percent(accuracy.top1), delta)


if __name__ == "__main__":
    main()
