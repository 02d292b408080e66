"""The recipe `qat` on the demo network: the change of top-1 that int8 costs, before and after training, for three seeds.

Two starts: the table as it ships, which has little to mend, and one whose weights were rounded to nearest in 5 bits, which no
recipe makes: a control that shows whether training mends what is broken.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from benchmarks.integers import BEST as BEST_INTEGERS
from benchmarks.recording import write
from squeeze_export import demo
from squeeze_export.core import ByteArray, FloatArray, require
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.images.stream import usable_cores
from squeeze_export.measure.accuracy import compare
from squeeze_export.pipeline import calibrate, open_network
from squeeze_export.quant import recipes
from squeeze_export.quant.recipes import BEST, weight_limits
from squeeze_export.quant.rounding import nearest
from squeeze_export.report.wording import decibel, delta_pp, delta_range, percent
from squeeze_export.results import Accuracy
from squeeze_export.train.qat import QatSchedule, Trained, train_integers
from tools.demo.drawn import draw_batch
from tools.demo.train import draw_many

SEEDS = (121, 122, 123)
"""Of the training images and of the training; the demo network was trained on images of seed 1."""
EVALUATION_SEED = 203
TRAINING_COUNT, EVALUATION_COUNT, EPOCHS = 1920, 2400, 2
FEW_BITS_LIMIT = 15
LEAST_GAIN_DB = 2
"""What training must mend of the control."""
SHIPPED, SPOILT = f"`{BEST}`, as it ships", "weights rounded to nearest in 5 bits (a control)"
HEADER = ("start", "seed", "top-1 change", "agreement", "SQNR", "after training: top-1 change", "agreement", "SQNR", "epoch kept")


@contextmanager
def spoilt() -> Iterator[None]:
    """Makes the recipe `fast` round to nearest in 5 bits, without bias correction."""
    changes = {
        "WEIGHT_LIMIT": FEW_BITS_LIMIT,
        "FIRST_WEIGHT_LIMIT": FEW_BITS_LIMIT,
        "compensated": lambda weight, scale, limit, *_: nearest(weight, scale, limit),
        "corrected_bias": lambda bias, *_: bias.astype(np.float64),
    }
    before = {name: getattr(recipes, name) for name in changes}
    for name, value in changes.items():
        setattr(recipes, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(recipes, name, value)


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one process trains and measures.

    Attributes:
        start: the integers to start from.
        limits: of their weights.
        seed: of the images and of the training.
        pixels: (N, H, W, 3) uint8, the images to measure on.
        labels: (N,) int64, theirs.
        expected: (N, classes) float32, the reference's logits.
    """

    start: QuantizedGraph
    limits: Mapping[str, int]
    seed: int
    pixels: ByteArray
    labels: NDArray[np.int64]
    expected: FloatArray


def learn(lesson: Lesson) -> tuple[Trained, Accuracy]:
    """Trains on fresh draws with one thread, so that the result does not depend on the number of cores."""
    images, labels = draw_batch(lesson.seed, TRAINING_COUNT, demo.INPUT_PX)
    schedule = QatSchedule(epochs=EPOCHS, seed=lesson.seed)
    trained = train_integers(lesson.start, open_network().graph, images, labels, schedule, limits=lesson.limits)
    with one_blas_thread():
        return trained, compare(lesson.expected, IntegerRunner(trained.quantized)(lesson.pixels), lesson.labels)


def main() -> None:
    """Runs the benchmark and writes its results; ends with an error where training enlarges the drop, or mends nothing."""
    require("torch", "torch")
    network = open_network()
    pixels, labels = draw_many(EVALUATION_SEED, EVALUATION_COUNT, usable_cores())
    with one_blas_thread():
        expected = FloatRunner(network.graph)(pixels)
    rows, raw, wrong = [], [], []
    for start_name, recipe, change in ((SHIPPED, BEST, nullcontext), (SPOILT, "fast", spoilt)):
        with change():
            start = calibrate(network, recipe=recipe).quantized
            limits = weight_limits(start)
        print(start_name, file=sys.stderr)
        with one_blas_thread():
            before = compare(expected, IntegerRunner(start)(pixels), labels)
        with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
            found = list(pool.map(learn, [Lesson(start, limits, seed, pixels, labels, expected) for seed in SEEDS]))
        for seed, (trained, after) in zip(SEEDS, found, strict=True):
            rows.append((start_name, str(seed), *cells(before), *cells(after), f"{trained.best_epoch} of {EPOCHS}"))
            raw.append(
                {
                    "start": start_name,
                    "seed": seed,
                    "schedule": asdict(QatSchedule(epochs=EPOCHS, seed=seed)),
                    "before": asdict(before),
                    "after": asdict(after),
                    "best_epoch": trained.best_epoch,
                    "losses": trained.losses,
                    "held_out": [asdict(measured) for measured in trained.held_out],
                }
            )
            if start_name == SHIPPED and drop(after) > drop(before):
                wrong.append(f"{start_name}, seed {seed}: the drop is {drop(after):.2f} pp, {drop(before):.2f} pp before")
            if start_name == SPOILT and after.sqnr_db < before.sqnr_db + LEAST_GAIN_DB:
                wrong.append(f"{start_name}, seed {seed}: {after.sqnr_db:.1f} dB, {before.sqnr_db:.1f} dB before")
    write(
        "qat",
        "The recipe `qat` on the demo network",
        [
            f"The exact integer run against the fp32 reference on {EVALUATION_COUNT:,} drawn images that no training saw, before"
            f" and after {EPOCHS} epochs on {TRAINING_COUNT:,} others, drawn anew for each seed. Top-1 change: int8 less fp32 on"
            " the same images, percentage points, with its paired 95% interval. Epoch 0 is the start itself."
        ],
        HEADER,
        rows,
        raw,
        integers=[BEST_INTEGERS],
    )
    if wrong:
        sys.exit("the claims do not hold:\n" + "\n".join(wrong))


def drop(found: Accuracy) -> float:
    """What int8 costs in top-1, percentage points."""
    assert found.top1_delta_pp is not None
    return -found.top1_delta_pp.value


def cells(found: Accuracy) -> tuple[str, str, str]:
    """Top-1 change with its interval, agreement, SQNR."""
    assert found.top1_delta_pp is not None
    change = f"{delta_pp(found.top1_delta_pp)} {delta_range(found.top1_delta_pp)}"
    return change, percent(found.top1_agreement.value), decibel(found.sqnr_db)


if __name__ == "__main__":
    main()
