"""The warning of wrong pixels, right and wrong on six networks: how often it is given, and whether it names the right ones.

The bounds of `measure/pixel_fit.py` are chosen on three of the networks and one half of the images; what the table counts was run
on the other half. Each run takes 32 random images, as the tool takes 32 of the calibration images. Two of the networks are trained
here, from published weights, on small photographs and with pixels of their own: `python -m benchmarks.wrong_pixels --keep FOLDER`
trains them once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.recording import assets, write
from squeeze_export import demo
from squeeze_export.core import CAFFE, TORCHVISION, EmitOptions, FloatArray, Preprocess
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import FP32
from squeeze_export.graph.run import one_blas_thread
from squeeze_export.images.folders import ImageSet, open_images
from squeeze_export.images.label_files import read_labels
from squeeze_export.images.labels import Labels
from squeeze_export.images.stream import Batch, ImageStream, spread_evenly, usable_cores
from squeeze_export.measure.pixel_fit import LEAST_GAIN, LEAST_GAIN_OF_FEW, MANY_CLASSES, best_fitting, least_gain, pixel_fit
from squeeze_export.nets.architecture import architecture
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.pipeline import calibrate, open_network
from squeeze_export.pipeline.calibration import read_images
from squeeze_export.pipeline.pixels import IMAGE_COUNT, PixelValues, as_if, usual_pixels, wrong_pixels
from squeeze_export.report.wording import percent
from squeeze_export.runtimes.onnxruntime.inner_tensors import tapped_run
from squeeze_export.targets.onnx import emit
from squeeze_export.train.fit import Batch as Lesson
from squeeze_export.train.fit import Schedule, fit, shuffled

RUNS = 60
MOST_IMAGES = 256
COSTLY_PP, SWAP_PP, SLIGHT_PP = 10, 5, 2
"""Wrong pixels that cost at least so much top-1 must be found, swapped ones from the second on; less than the third is nothing."""
SMALL = Preprocess(128, 112, "bilinear", "rgb", (127.5,) * 3, (127.5,) * 3)
SMALL_BGR = replace(SMALL, channel_order="bgr", mean=(0.0,) * 3, std=(255.0,) * 3)


@dataclass(frozen=True)
class Contestant:
    """A network, the pixels that it was trained on, and images.

    Attributes:
        name: for the table.
        graph: with the right preprocessing inside.
        images: a folder of classes.
        labels: of the classes; None for the alphabetical order.
        choosing: whether the bound is chosen on it.
        own: whether the images are of the kind that it was trained for.
    """

    name: str
    graph: Graph
    images: Path
    labels: Labels | None = None
    choosing: bool = False
    own: bool = True


@dataclass(frozen=True)
class Training:
    """How a small network is trained from published weights."""

    name: str
    start: str
    start_pixels: Preprocess
    data: str
    pixels: Preprocess
    images: int
    steps: int
    peak_lr: float


TRAININGS = (
    Training("squeezenet1_1", "squeezenet1_1.safetensors", TORCHVISION, "clothing/train", SMALL, 3068, 288, 4e-3),
    Training("squeezenet1_0", "squeezenet1_0.safetensors", CAFFE, "imagenette/train", SMALL_BGR, 2000, 130, 1e-4),
)


def trained(training: Training, keep: Path | None) -> Graph:
    """The network with ten classes: conv1 is first brought to the new pixels, then everything is trained."""
    arch = architecture(training.name, class_count=10)
    file = keep / f"{training.data.split('/')[0]}.npz" if keep is not None else None
    if file is None or not file.exists():
        checkpoint = read_checkpoint(assets() / "weights" / training.start)
        tensors = {key: np.array(value, np.float32) for key, value in checkpoint.tensors.items()}
        old, new = training.start_pixels, training.pixels
        assert old.channel_order == new.channel_order
        per = np.array([old.mean, old.std, new.mean, new.std])[:, None, :, None, None]
        weight = tensors["features.0.weight"].astype(np.float64)
        tensors["features.0.bias"] += ((weight * (per[2] - per[0]) / per[1]).sum((1, 2, 3))).astype(np.float32)
        tensors["features.0.weight"] = (weight * per[3] / per[1]).astype(np.float32)
        shape = (10, arch.feature_channels, 1, 1)
        tensors["classifier.1.weight"] = np.random.default_rng(1).normal(0, 0.005, shape).astype(np.float32)
        tensors["classifier.1.bias"] = np.full(10, 0.5, np.float32)
        batch = read(open_images(assets() / "datasets" / training.data, class_count=10), training.pixels, training.images)
        schedule = Schedule(training.steps, peak_lr=training.peak_lr, batch_norm=False, threads=1)
        tensors = fit(arch, mirrored(batch), training.pixels, schedule, start=tensors, progress=told).tensors
        if file is None:
            return build_graph(arch, tensors, training.pixels)
        np.savez(file, **tensors)  # type: ignore[arg-type]
    return build_graph(arch, dict(np.load(file)), training.pixels)


def mirrored(batch: Batch) -> Iterator[Lesson]:
    """Batches of 32, each image mirrored or not."""
    rng = np.random.default_rng(2)
    for images, labels in shuffled(batch.pixels, batch.labels, batch=32, seed=3):
        yield np.where(rng.random(len(images))[:, None, None, None] < 0.5, images[:, :, ::-1], images), labels


def told(what: str, done: int, total: int) -> None:
    """Progress on stderr."""
    if done % 50 == 0:
        print(f"{what} {done}/{total}", file=sys.stderr)


def read(image_set: ImageSet, preprocess: Preprocess, limit: int) -> Batch:
    """At most `limit` images of a set, spread evenly."""
    chosen = spread_evenly(0, len(image_set.files), len(image_set.files), limit)
    files = tuple(file for file, kept in zip(image_set.files, chosen, strict=True) if kept)
    assert image_set.labels is not None
    labels = tuple(label for label, kept in zip(image_set.labels, chosen, strict=True) if kept)
    return ImageStream(replace(image_set, files=files, labels=labels), preprocess).load()[0]


def contestants(keep: Path | None) -> list[Contestant]:
    """The six networks, and one of them on images of two other kinds."""
    weights, data = assets() / "weights", assets() / "datasets"
    photographs, wnids = assets() / "images" / "eval", read_labels(assets() / "images" / "imagenet_wnids.txt")

    def graph(file: Path, preprocess: Preprocess) -> Graph:
        checkpoint = read_checkpoint(file)
        assert checkpoint.architecture is not None
        return build_graph(checkpoint.architecture, checkpoint.tensors, preprocess)

    torchvision = graph(weights / "squeezenet1_1.pth", TORCHVISION)
    clothing, imagenette = (trained(training, keep) for training in TRAININGS)
    drawn = demo.evaluation_folder()
    return [
        Contestant("1.1 torchvision, photographs", torchvision, photographs, wnids, choosing=True),
        Contestant("demo, drawings", graph(demo.weights_path(), demo.PREPROCESS), drawn, choosing=True),
        Contestant("1.1, 10 classes of clothing, -1 to 1", clothing, data / "clothing" / "test", choosing=True),
        Contestant("1.0, photographs", graph(weights / "squeezenet1_0.safetensors", CAFFE), photographs, wnids),
        Contestant("1.1 Caffe, photographs", graph(weights / "squeezenet1_1_caffe_fp16.onnx", CAFFE), photographs, wnids),
        Contestant("1.0, 10 classes of Imagenette, 0 to 1 BGR", imagenette, data / "imagenette" / "val"),
        Contestant("1.1 torchvision, but clothing", torchvision, data / "clothing" / "test", own=False),
        Contestant("1.1 torchvision, but drawings", torchvision, drawn, own=False),
    ]


def logits_of(graph: Graph, batch: Batch) -> dict[PixelValues, FloatArray]:
    """(N, classes) of each usual preprocessing."""
    run = tapped_run(emit(graph, FP32, EmitOptions(input_dtype="float32"), {}), ())
    found = {}
    with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        for pixels in usual_pixels(graph.preprocess):
            values = (as_if(image[None], graph.preprocess, pixels) for image in batch.pixels)
            found[pixels] = np.concatenate(list(pool.map(lambda pixels: run(pixels, None), values)))
    return found


def answers(logits: dict[PixelValues, FloatArray], assumed: PixelValues, samples: NDArray[np.int64]) -> list[PixelValues | None]:
    """What is named in each run; None where nothing is."""
    order = [assumed, *(pixels for pixels in logits if pixels != assumed)]

    def one(images: NDArray[np.int64]) -> PixelValues | None:
        found = best_fitting(
            lambda number, part: logits[order[number]][images[part]], len(order), len(images), logits[assumed].shape[1]
        )
        return order[found[0]] if found is not None else None

    return [one(images) for images in samples]


def bound(logits: dict[PixelValues, FloatArray], right: PixelValues, samples: NDArray[np.int64]) -> float:
    """The bound below which a wrong preprocessing would be named in more than one of the runs."""
    most = []
    for images in samples:
        fit = pixel_fit(logits[right][images]).mean()
        most.append(max(float(pixel_fit(values[images]).mean() - fit) for pixels, values in logits.items() if pixels != right))
    return sorted(most)[-2]


def cost_s() -> tuple[float, float]:
    """CPU seconds of looking for better pixels where none are, and of the whole calibration, decoding and this included."""
    network, folder = open_network(assets() / "weights" / "squeezenet1_1.pth"), assets() / "images" / "calib"
    pixels = read_images(network, folder).batch.pixels
    wrong_pixels(network.graph, pixels)  # loads what is loaded once
    start = time.process_time()
    assert wrong_pixels(network.graph, pixels) == ()
    middle = time.process_time()
    calibrate(network, folder)
    return middle - start, time.process_time() - middle


def main() -> None:
    """Runs the benchmark and writes its results; ends with an error where the claims do not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="folder to keep the trained networks in")
    keep = parser.parse_args().keep
    rows, raw, bounds = [], [], dict[str, tuple[float, float]]()
    costly: list[float] = []
    false_warnings: dict[str, int] = {}
    swapped: list[float] = []
    for each in contestants(keep):
        class_count = int(each.graph.output.shape[1])
        own_count = class_count if each.own else len({file.name for file in each.images.iterdir() if file.is_dir()})
        batch = read(open_images(each.images, class_count=own_count, labels=each.labels), each.graph.preprocess, MOST_IMAGES)
        print(each.name, len(batch.files), file=sys.stderr)
        logits = logits_of(each.graph, batch)
        right = next(iter(logits))
        rng = np.random.default_rng(60)
        even, odd = np.arange(0, len(batch.files), 2), np.arange(1, len(batch.files), 2)
        choosing, counted = (np.stack([rng.choice(half, IMAGE_COUNT, replace=False) for _ in range(RUNS)]) for half in (even, odd))
        if each.choosing:
            bounds[each.name] = (bound(logits, right, choosing), least_gain(class_count))
        false = sum(answer is not None for answer in answers(logits, right, counted))
        top1 = {pixels: float((values.argmax(axis=1) == batch.labels).mean()) for pixels, values in logits.items()}
        found = {p: answers(logits, p, counted) for p in logits if p != right} if each.own else {}
        lost_pp = {p: 100 * (top1[right] - top1[p]) for p in found}
        shares = {p: sum(a is not None for a in answer) / RUNS for p, answer in found.items()}
        many = [p for p in found if lost_pp[p] >= COSTLY_PP]
        some = [p for p in found if SLIGHT_PP <= lost_pp[p] < COSTLY_PP]
        turned = (right.mean[::-1], right.std[::-1])
        other = next(p for p in logits if p.channel_order != right.channel_order and (p.mean, p.std) == turned)
        if each.own:
            costly += [shares[p] for p in many]
            swapped += [shares[other]] if lost_pp[other] >= SWAP_PP else []
            false_warnings[each.name] = false
        named = [a for p in many for a in found[p] if a is not None]
        rows.append(
            (
                each.name + (" *" if each.choosing else ""),
                percent(top1[right]) if each.own else "",
                f"{false} of {RUNS}",
                f"{percent(mean([shares[p] for p in many]))} of {len(many)}" if many else "",
                f"{percent(named.count(right) / len(named))}" if named else "",
                f"{percent(mean([shares[p] for p in some]))} of {len(some)}" if some else "",
                f"{percent(shares[other])} ({-lost_pp[other]:+.1f} pp)" if each.own else "",
            )
        )
        raw.append(
            {
                "network": each.name,
                "chosen_on": each.choosing,
                "image_count": len(batch.files),
                "false_warnings": false,
                "pixels": [
                    {"assumed": str(p), "top1": top1[p] if each.own else None, "found": shares.get(p), "right": p == right}
                    for p in logits
                ],
            }
        )
    looking_s, whole_s = cost_s()
    wanted = ", ".join(f"{found:.3f}" for found, _ in bounds.values())
    write(
        "wrong_pixels",
        "Wrong pixels, noticed without labels",
        [
            f"{RUNS} runs of {IMAGE_COUNT} random images of each network, of the half of the images that chose nothing. False: runs"
            " in which other pixels were named where the right ones were assumed. Found: share of runs with a warning, of the usual"
            f" preprocessings that cost at least {COSTLY_PP} points of top-1 (named: of these warnings, how many name the right"
            f" pixels), of those that cost {SLIGHT_PP} to {COSTLY_PP} points, and of red and blue swapped, with what that costs."
            f" The bounds ({LEAST_GAIN}, and {LEAST_GAIN_OF_FEW} with fewer than {MANY_CLASSES} classes) were chosen on the"
            " networks marked * and the other half of the images; there, at most one false warning in 60 runs takes a bound"
            f" of {wanted} in turn. All costly ones together: {percent(mean(costly))} found; swapped ones that cost at least"
            f" {SWAP_PP} points: {percent(mean(swapped))}. Top-1 is of up to {MOST_IMAGES} images, at the network's own crop"
            f" throughout. Cost on right pixels: {looking_s:.1f} of the {whole_s:.1f} s of CPU time that `calibrate` takes for"
            " SqueezeNet 1.1 and 128 photographs."
        ],
        ("network, images", "top-1", "false", "costly: found", "named", "slight: found", "red and blue swapped: found"),
        rows,
        {"bounds": bounds, "looking_cpu_s": looking_s, "calibrate_cpu_s": whole_s, "networks": raw},
    )
    wrong = [f"{name}: {count} false" for name, count in false_warnings.items() if count > 1]
    wrong += [f"bound of {name}" for name, (found, allowed) in bounds.items() if found > allowed]
    if wrong or mean(costly) < 0.95 or mean(swapped) < 0.8:
        sys.exit(f"the claims do not hold: {wrong}, found {mean(costly):.3f}, swapped {mean(swapped):.3f}")


def mean(values: list[float]) -> float:
    """Of shares; 0 of none."""
    return sum(values) / len(values) if values else 0.0


if __name__ == "__main__":
    main()
