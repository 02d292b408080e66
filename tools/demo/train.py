"""Makes the demo network and its images anew: `python -m tools.demo.train`.

Draws the training images, trains, rounds to fp16, measures the rounded weights on draws whose seed no training image has, and
writes weights, labels, calibration and evaluation images with their manifests, and `measured.json`. The draws are the same
everywhere; the weights are not quite, because a sum's order differs from one CPU to the next.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeeze_export import demo
from squeeze_export.core import Progress, require, silent
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.torch_network import torch_network
from squeeze_export.graph.trainable import to_tensor
from squeeze_export.measure.host import host_facts, tool_versions
from squeeze_export.measure.statistics import wilson
from squeeze_export.train.fit import Fitted, Schedule, fit, shuffled
from tools.demo.drawn import CLASS_NAMES, draw_batch

COMMAND = "python -m tools.demo.train"
TRAIN_SEED, FRESH_SEED, CALIBRATION_SEED, EVALUATION_SEED = 1, 5, 3, 4
CHUNK_COUNT = 480  # images that one worker draws at a time
EVALUATION_BATCH = 256
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Plan:
    """How much is drawn and learnt; the defaults made the shipped network.

    Attributes:
        train_count: images drawn for training.
        epochs: rounds over them.
        batch: images per step.
        peak_lr: of the one-cycle schedule.
        fresh_count: images drawn to measure the accuracy on.
        calibration_per_class: calibration images of each class.
        evaluation_per_class: evaluation images of each class.
        threads: torch's threads. One is fastest on a machine that others use too.
        processes: processes that draw.
    """

    train_count: int = 40_000
    epochs: int = 5
    batch: int = 64
    peak_lr: float = 0.1
    fresh_count: int = 9_600
    calibration_per_class: int = 5
    evaluation_per_class: int = 10
    threads: int = 1
    processes: int = 2


def remake(folder: Path, plan: Plan = Plan(), progress: Progress = silent) -> dict[str, Any]:
    """Makes everything of the demo.

    Args:
        folder: where to write; files of an earlier run are replaced.
        plan: how much.
        progress: told of drawing, training and evaluating.

    Returns:
        what `measured.json` holds.

    Raises:
        Unavailable: torch or safetensors is not installed.
        BadInput: the plan cannot be carried out.
    """
    require("safetensors", "torch")
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = draw_many(TRAIN_SEED, plan.train_count, plan.processes, progress)
    schedule = Schedule(
        plan.train_count * plan.epochs // plan.batch, plan.peak_lr, bfloat16=True, seed=TRAIN_SEED, threads=plan.threads
    )
    started_ns = perf_counter_ns()
    batches = shuffled(images, labels, batch=plan.batch, seed=TRAIN_SEED)
    fitted = fit(demo.ARCHITECTURE, batches, demo.PREPROCESS, schedule, progress=progress)
    train_s = (perf_counter_ns() - started_ns) / 1e9
    halves = {key: value.astype(np.float16) for key, value in fitted.tensors.items()}
    shipped = {key: value.astype(np.float32) for key, value in halves.items()}
    _write(demo.labels_path(folder), "".join(f"{name}\n" for name in CLASS_NAMES).encode())
    calibration = draw_batch(CALIBRATION_SEED, plan.calibration_per_class * len(CLASS_NAMES), demo.INPUT_PX)
    _write_images(demo.calibration_folder(folder), calibration, CALIBRATION_SEED, by_class=False)
    evaluation = draw_batch(EVALUATION_SEED, plan.evaluation_per_class * len(CLASS_NAMES), demo.INPUT_PX)
    decoded = _write_images(demo.evaluation_folder(folder), evaluation, EVALUATION_SEED, by_class=True)
    measured = {
        "network": demo.NAME,
        "command": COMMAND,
        "plan": asdict(plan),
        "schedule": asdict(schedule),
        "seeds": {"train": TRAIN_SEED, "fresh": FRESH_SEED, "calibration": CALIBRATION_SEED, "evaluation": EVALUATION_SEED},
        "fp32_top1_of_fp16_weights": _accuracy(shipped, plan, progress),
        "evaluation_images_top1": float(np.mean(_classes(shipped, decoded) == evaluation[1])),
        "train_s": round(train_s, 1),
        "last_loss": _last_loss(fitted),
        "host": host_facts(),
        "versions": dict(tool_versions(("torch", "numpy", "Pillow", "safetensors"))),
    }
    _write_weights(demo.weights_path(folder), halves, measured)
    weights = demo.weights_path(folder).read_bytes()
    measured["weights"] = {"sha256": hashlib.sha256(weights).hexdigest(), "size_bytes": len(weights)}
    _write(folder / "measured.json", f"{json.dumps(measured, indent=2)}\n".encode())
    return measured


def draw_many(seed: int, count: int, processes: int, progress: Progress = silent) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """`draw_batch` by several processes; the images do not depend on how many."""
    images = np.empty((count, demo.INPUT_PX, demo.INPUT_PX, 3), np.uint8)
    labels = np.empty(count, np.int64)
    starts = range(0, count, CHUNK_COUNT)
    sizes = [min(CHUNK_COUNT, count - start) for start in starts]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:  # torch's threads and a fork do not go together
        chunks = pool.map(_draw_chunk, [seed] * len(starts), starts, sizes)
        for start, size, (drawn, classes) in zip(starts, sizes, chunks, strict=True):
            images[start : start + size], labels[start : start + size] = drawn, classes
            progress("draw", start + size, count)
    return images, labels


def _draw_chunk(seed: int, start: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return draw_batch(seed, count, demo.INPUT_PX, start=start)


def _accuracy(tensors: dict[str, NDArray[np.float32]], plan: Plan, progress: Progress) -> dict[str, Any]:
    """Top-1 on fresh draws, with its interval and each class's own."""
    images, labels = draw_many(FRESH_SEED, plan.fresh_count, plan.processes, progress)
    right = _classes(tensors, images, progress) == labels
    top1 = wilson(int(right.sum()), len(right))
    per_class = {name: round(float(right[labels == i].mean()), 4) for i, name in enumerate(CLASS_NAMES) if (labels == i).any()}
    return {**asdict(top1), "count": len(right), "per_class": per_class}


def _classes(tensors: dict[str, NDArray[np.float32]], images: NDArray[np.uint8], progress: Progress = silent) -> NDArray[np.int64]:
    """The top-1 class of each image."""
    network = torch_network(build_graph(demo.ARCHITECTURE, tensors, demo.PREPROCESS))
    found = np.empty(len(images), np.int64)
    for first in range(0, len(images), EVALUATION_BATCH):
        part = slice(first, first + EVALUATION_BATCH)
        with require("torch", "torch").inference_mode():
            found[part] = network(to_tensor(images[part])).argmax(1).numpy()
        progress("evaluate", min(first + EVALUATION_BATCH, len(images)), len(images))
    return found


def _last_loss(fitted: Fitted) -> float:
    """Mean training loss of the last 50 steps, nats."""
    return round(float(np.mean(fitted.losses[-50:])), 4)


def _write_images(
    folder: Path, drawn: tuple[NDArray[np.uint8], NDArray[np.int64]], seed: int, *, by_class: bool
) -> NDArray[np.uint8]:
    """Writes JPEG files named after their index, and the manifest; returns the pixels as they read back."""
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    decoded = np.empty_like(drawn[0])
    rows = []
    for index, (image, class_index) in enumerate(zip(*drawn, strict=True)):
        label = CLASS_NAMES[class_index]
        name = f"{label}/{index:04d}.jpg" if by_class else f"{index:04d}_{label}.jpg"
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=_JPEG_QUALITY, optimize=True)
        decoded[index] = np.asarray(Image.open(path).convert("RGB"))
        rows.append((name, int(class_index), label, seed))
    with (fresh / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "class_index", "label", "seed"))
        writer.writerows(rows)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)
    return decoded


def _write_weights(path: Path, halves: dict[str, NDArray[np.float16]], measured: dict[str, Any]) -> None:
    accuracy = measured["fp32_top1_of_fp16_weights"]
    metadata = {
        "architecture": json.dumps(demo.ARCHITECTURE.to_json()),
        "preprocess": json.dumps(demo.PREPROCESS.to_json()),
        "labels": json.dumps(CLASS_NAMES),
        "trained_by": COMMAND,
        "top1": f"{accuracy['value']:.4f} ({accuracy['low']:.4f} to {accuracy['high']:.4f}, {accuracy['count']} fresh draws)",
    }
    _write(path, require("safetensors.numpy", "torch").save(halves, metadata))


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _on_terminal(what: str, done: int, total: int) -> None:
    end = "\n" if done == total else ""
    sys.stderr.write(f"\r{what} {done}/{total}{end}")
    sys.stderr.flush()


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Make the demo network and its images anew.")
    own = demo.weights_path().parent
    parser.add_argument("--out", type=Path, default=own, help="folder to write (default: the package's own)")
    parser.add_argument("--threads", type=int, default=Plan.threads, help="torch's threads (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=Plan.processes, help="that draw (default: %(default)s)")
    options = parser.parse_args(arguments)
    progress = _on_terminal if sys.stderr.isatty() else silent
    measured = remake(options.out, replace(Plan(), threads=options.threads, processes=options.processes), progress)
    accuracy = measured["fp32_top1_of_fp16_weights"]
    sys.stderr.write(f"top-1 {accuracy['value']:.4f} on {accuracy['count']} fresh draws, {measured['train_s']:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
