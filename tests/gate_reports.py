"""A report of two int8 files and their fp32 file, for the tests of what is judged by reports."""

from __future__ import annotations

import dataclasses

import numpy as np

from squeeze_export.core import Audit, Placement
from squeeze_export.results import (
    SCHEMA,
    Accuracy,
    Answers,
    ComparedImages,
    Difference,
    Interval,
    Latency,
    Measurement,
    PackedNumbers,
    Report,
)

COUNT = 500
SAMPLES_NS = tuple(2_600_000 + 10_000 * (step % 11) for step in range(60))
HOST = {"cpu": "Xeon", "architecture": "x86_64", "isa": ["avx2", "avx512_vnni"]}


def packed(numbers):
    return PackedNumbers.of(np.asarray(numbers, np.int64))


def answers_of(top1, labels):
    """Answers whose label, where it is not the best, is the second best."""
    return Answers(packed(top1), packed(np.where(labels < 0, -1, np.where(top1 == labels, 0, 1))))


def images_of(labels, reference, first=0):
    return ComparedImages(packed(np.arange(first, first + len(labels)) + 1000), packed(labels), answers_of(reference, labels))


LABELS = np.arange(COUNT) % 10
REFERENCE = np.where(np.arange(COUNT) % 4 == 0, (LABELS + 1) % 10, LABELS)


def accuracy_of(top1, labels=LABELS, reference=REFERENCE):
    same, count = float((top1 == reference).mean()), len(labels)
    accuracy = Accuracy(count, Interval(same, same, same), 0.95, 38.9, 0.002)
    right, was = top1 == labels, reference == labels
    if (labels < 0).all():
        return accuracy
    lost, won = int((was & ~right).sum()), int((right & ~was).sum())
    delta = 100 * (won - lost) / count
    return dataclasses.replace(
        accuracy,
        labelled_count=count,
        top1=float(right.mean()),
        reference_top1=float(was.mean()),
        top1_delta_pp=Interval(delta, delta, delta),
        lost=lost,
        won=won,
    )


def int8_row(target="onnx", runtime="onnxruntime", **changes):
    top1 = changes.pop("top1", REFERENCE)
    row = Measurement(
        target,
        "int8",
        f"net.int8.{target}",
        "ab" * 32,
        1_269_000,
        runtime=runtime,
        device="cpu",
        kernels="MLAS",
        accuracy=accuracy_of(top1),
        answers=answers_of(top1, LABELS),
        latency=Latency(SAMPLES_NS, 10, 1, 1, 2.65, 2.7, 2.71, Interval(2.9, 2.8, 3.0)),
        placement=Placement(39, 38, 0.9998, (), "session profile", 39),
        audit=Audit({"QLinearConv": 26}, (), (), (), {"int8": 1_232_000}),
        recipe="fast",
        checkpoint_sha256="cd" * 32,
        table_sha256="ef" * 32,
    )
    return dataclasses.replace(row, **changes)


def gate_report():
    """500 images, of which the reference has three quarters right, and so have the files."""
    fp32 = dataclasses.replace(int8_row(), scheme="fp32", artifact="net.fp32.onnx", size_bytes=4_900_000, table_sha256="")
    return Report(
        SCHEMA.version,
        "2026-11-30T20:00:00+00:00",
        {"onnx": "1.23.2", "onnxruntime": "1.31.1"},
        HOST,
        {"name": "squeezenet1_1", "class_count": 10, "checkpoint_sha256": "cd" * 32},
        {"image_count": 128, "recipe": "fast", "table_sha256": "ef" * 32},
        {"image_count": COUNT, "labelled": True},
        (fp32, int8_row(), int8_row("tflite", "litert", kernels="XNNPACK")),
        differences=(Difference("onnx on onnxruntime", "tflite on litert", COUNT, 0.28, 1.0),),
        images=images_of(LABELS, REFERENCE),
    )


def state_of(checks, name, row=""):
    """State and message of the one check of that name on a row."""
    found = [check for check in checks if check.name == name and check.row.startswith(row)]
    assert len(found) == 1, found
    return found[0].state, found[0].message
