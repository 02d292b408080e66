"""One report with a row of every kind, for the tests of this folder."""

from __future__ import annotations

import dataclasses
import math

import pytest
from image_answers import answers, packed

from squeeze_export.core import Audit, Placement
from squeeze_export.results import (
    Accuracy,
    ComparedImages,
    Interval,
    Latency,
    Measurement,
    PackedText,
    Report,
    Roofline,
)

SAMPLES_NS = tuple(2_600_000 + 10_000 * (step % 11) for step in range(50))


def agreement(**changes):
    accuracy = Accuracy(count=875, top1_agreement=Interval(0.973, 0.96, 0.982), top5_agreement=0.95, sqnr_db=38.94, kl=0.0021)
    return dataclasses.replace(accuracy, **changes)


def labelled():
    return agreement(
        labelled_count=875,
        top1=0.579,
        top5=0.8,
        reference_top1=0.5832,
        reference_top5=0.81,
        top1_delta_pp=Interval(-0.42, -1.3, 0.4),
        lost=13,
        won=9,
    )


LATENCY = Latency(SAMPLES_NS, 10, 1, 1, 2.65, 2.7, 2.71, Interval(2.9, 2.8, 3.0))
AUDIT = Audit({"QLinearConv": 26}, ("ReduceMean pool10",), ("logits float32[N,10]",), (), {"int8": 1_232_000})
PLACEMENT = Placement(39, 38, 0.9998, ("ReduceMean pool10",), "session profile")


def measurements(accuracy):
    row = Measurement("onnx", "int8", "net.int8.onnx", "ab" * 32, 1_269_000, "onnxruntime", "cpu", "cpu", "MLAS")
    exact = agreement(top1_agreement=Interval(1.0, 0.996, 1.0), sqnr_db=math.inf, kl=0.0)
    return (
        dataclasses.replace(row, accuracy=accuracy, latency=LATENCY, audit=AUDIT, placement=PLACEMENT),
        dataclasses.replace(row, device="xnnpack", accuracy=accuracy),
        dataclasses.replace(row, target="qnn", artifact="net.qnn", device="htp", evidence="emulated", accuracy=accuracy),
        dataclasses.replace(row, target="tflite", artifact="a", accuracy=dataclasses.replace(accuracy, sqnr_db=exact.sqnr_db)),
        dataclasses.replace(row, device_asked="cuda", device="", status="skipped", reason="no `CUDAExecutionProvider` here"),
        dataclasses.replace(row, target="ethosu", artifact="b", sha256="", size_bytes=0, status="failed", reason="vela | said no"),
    )


def build(accuracy):
    return Report(
        schema_version=8,
        created="2026-11-02T09:14:00+00:00",
        tool_versions={"onnxruntime": "1.31.1"},
        host={"cpu": "Xeon", "isa": ["avx2"], "memory_bytes": 16_000_000_000, "usable_cores": 2, "virtualised": True},
        network={"name": "squeezenet1_1", "classes": 10, "input_px": 227, "checkpoint_sha256": "cd" * 32},
        calibration={"image_count": 125, "recipe": "equalize", "seed": 12345},
        evaluation={"image_count": 875, "labelled": False, "note": "these are the calibration images"},
        measurements=measurements(accuracy),
        warnings=("2 images could not be read",),
    )


@pytest.fixture
def report():
    """Rows without labels."""
    return build(agreement())


@pytest.fixture
def labelled_report():
    """Rows with labels."""
    return build(labelled())


@pytest.fixture
def flipped_report(labelled_report):
    """Four images: `b` is lost by both files, `c` is won by the first, `d` was not run by the second."""
    first, second, *others = labelled_report.measurements
    rows = (
        dataclasses.replace(first, answers=answers(0, 2, 2, 1)),
        dataclasses.replace(second, answers=answers(0, 3, 0, -1), size_bytes=5_000_000, scheme="fp32"),
    )
    images = ComparedImages(
        packed(11, 12, 13, 14),
        packed(0, 1, 2, -1),
        answers(0, 1, 0, 1),
        PackedText.of(["a.jpg", "b.jpg", "c.jpg", "d.jpg"]),
        PackedText.of(["ant", "bee", "cat", "dog"]),
    )
    roofs = Roofline(300_000_000, 10_000_000, 10.0, {"float32": 50.0, "int8": 200.0})
    return dataclasses.replace(labelled_report, measurements=(*rows, *others), images=images, roofline=roofs)
