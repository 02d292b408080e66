"""Notices wrong preprocessing without labels: the float network on a few images, with the usual preprocessings in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from squeeze_export import demo
from squeeze_export.core import CAFFE, TORCHVISION, ByteArray, ChannelOrder, FloatArray, Preprocess, Progress, silent
from squeeze_export.errors import Refused, Unavailable
from squeeze_export.graph.nodes import Concat, Graph
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.images.folders import ImageSet
from squeeze_export.images.stream import ImageStream, spread_evenly, usable_cores
from squeeze_export.measure.pixel_fit import LEAST_GAIN, Seen, best_fitting, together
from squeeze_export.pipeline.evaluation import Evaluation
from squeeze_export.pipeline.network import Network
from squeeze_export.runtimes.onnxruntime.inner_tensors import TappedRun, tapped_run
from squeeze_export.targets.onnx import emit_with_taps

IMAGE_COUNT = 32
"""Images that are compared on, spread evenly over the calibration images."""
FEWEST_IMAGES = 16
FEWEST_CLASSES = 3
"""Of two classes no answer stands out: whatever fits, it would not reach `pixel_fit.LEAST_FIT`."""

Values: TypeAlias = tuple[float, ...]


@dataclass(frozen=True)
class PixelValues:
    """What a preprocessing does to the values of pixels.

    Attributes:
        channel_order: the network's.
        mean: per channel, pixel units, in `channel_order`.
        std: likewise.
    """

    channel_order: ChannelOrder
    mean: Values
    std: Values

    def __str__(self) -> str:
        """As options."""
        order = "" if self.channel_order == "gray" else f"--channel-order {self.channel_order} "
        return f"{order}--mean {_listed(self.mean)} --std {_listed(self.std)}"


_USUAL: Sequence[tuple[Values, Values]] = (
    (TORCHVISION.mean, TORCHVISION.std),
    (CAFFE.mean[::-1], CAFFE.std),
    ((0.0,) * 3, (255.0,) * 3),
    ((127.5,) * 3, (127.5,) * 3),
    ((0.0,) * 3, (1.0,) * 3),
)
"""Mean and deviation of red, green and blue: torchvision's, Caffe's, 0 to 1, -1 to 1, raw."""


def usual_pixels(preprocess: Preprocess) -> tuple[PixelValues, ...]:
    """The assumed preprocessing first, then the usual ones in both channel orders; unusual means in the other order too.

    Of grey images each once, with the means of the channels' values.
    """
    assumed = PixelValues(preprocess.channel_order, preprocess.mean, preprocess.std)
    if assumed.channel_order == "gray":
        return tuple(dict.fromkeys((assumed, *(PixelValues("gray", _grey(mean), _grey(std)) for mean, std in _USUAL))))
    rgb = [PixelValues("rgb", mean, std) for mean, std in _USUAL]
    usual = [*rgb, *(PixelValues("bgr", mean[::-1], std[::-1]) for mean, std in _USUAL)]
    if not any((assumed.mean, assumed.std) == (other.mean, other.std) for other in usual):
        usual.append(PixelValues("bgr" if assumed.channel_order == "rgb" else "rgb", assumed.mean[::-1], assumed.std[::-1]))
    return tuple(dict.fromkeys((assumed, *usual)))


def as_if(pixels: ByteArray, preprocess: Preprocess, other: PixelValues) -> FloatArray:
    """The pixels that a graph with `preprocess` inside must be given to see what it would see with `other` inside.

    So one graph serves every preprocessing: nothing is folded anew.

    Args:
        pixels: (N, H, W, C) uint8, RGB or grey.
        preprocess: the graph's.
        other: of as many channels.

    Returns:
        (N, H, W, C) float32, of any range.
    """
    assumed = PixelValues(preprocess.channel_order, preprocess.mean, preprocess.std)
    own = pixels[..., ::-1] if other.channel_order == "bgr" else pixels
    scale = np.asarray(assumed.std) / np.asarray(other.std)
    shift = np.asarray(assumed.mean) - np.asarray(other.mean) * scale
    values = own * scale.astype(np.float32) + shift.astype(np.float32)
    return np.ascontiguousarray(values[..., ::-1] if assumed.channel_order == "bgr" else values, np.float32)


def wrong_pixels(
    graph: Graph, images: ByteArray, *, of: str = "calibration", threads: int | None = None, progress: Progress = silent
) -> tuple[str, ...]:
    """A warning if another usual preprocessing fits the network clearly better than its own; it names the options to type.

    Args:
        graph: the float graph, with the assumed preprocessing inside.
        images: (N, H, W, C) uint8, of the graph's input size.
        of: what the images are for, in the warning's words.
        threads: images in flight; None takes every usable core.
        progress: told of the preprocessings.

    Returns:
        At most one line; none with fewer than `FEWEST_IMAGES` images, or of a network of fewer than `FEWEST_CLASSES`.
    """
    shown = images[spread_evenly(0, len(images), len(images), IMAGE_COUNT)]
    class_count = int(graph.output.shape[1])
    if len(shown) < FEWEST_IMAGES or class_count < FEWEST_CLASSES:
        return ()
    candidates, run_some, told = usual_pixels(graph.preprocess), watched_run(graph), 0
    with one_blas_thread(), ThreadPoolExecutor(threads or usable_cores()) as pool:

        def run(number: int, part: slice) -> Seen:
            nonlocal told
            told += 1
            progress("trying other preprocessings", min(told, len(candidates)), len(candidates))
            values = as_if(shown[part], graph.preprocess, candidates[number])
            return together(list(pool.map(run_some, np.split(values, len(values)))))

        found = best_fitting(run, len(candidates), len(shown), class_count)
    if found is None:
        return ()
    number, gain = found
    return (
        f"the pixels look wrong: on {len(shown)} {of} images the fp32 reference fits clearly better with"
        f" `{candidates[number]}` than with what is assumed, `{candidates[0]}` (fit {gain:+.2f}, clear above"
        f" {LEAST_GAIN}): if the weights were trained that way, add these options",
    )


def pixel_warnings(
    network: Network, images: ByteArray, *, of: str = "calibration", threads: int | None = None, progress: Progress = silent
) -> tuple[str, ...]:
    """As `wrong_pixels`; nothing of the demo network with its own preprocessing, which is known, whatever the images show."""
    if network.is_demo and network.graph.preprocess == demo.PREPROCESS:
        return ()
    return wrong_pixels(network.graph, images, of=of, threads=threads, progress=progress)


def wrong_pixels_unlabelled(network: Network, evaluation: Evaluation, *, progress: Progress = silent) -> tuple[str, ...]:
    """As `wrong_pixels`, of the images to compare on; nothing where they are labelled: the reference's top-1 tells more."""
    if evaluation.facts["labelled"]:
        return ()
    few = _some(evaluation.stream.image_set, IMAGE_COUNT)
    pixels = (
        ImageStream(few, network.graph.preprocess, skip_broken=True).load()[0].pixels
    )  # who reads them all tells of broken ones
    return pixel_warnings(network, pixels, of="evaluation" if evaluation.independent else "calibration", progress=progress)


def _some(images: ImageSet, limit: int) -> ImageSet:
    """At most `limit` of them, spread evenly."""
    chosen = spread_evenly(0, len(images.files), len(images.files), limit)
    return replace(images, files=tuple(file for file, kept in zip(images.files, chosen, strict=True) if kept), labels=None)


def watched_run(graph: Graph) -> Callable[[FloatArray], Seen]:
    """Runs (n, H, W, C) float32 pixels: by ONNX Runtime if it is installed and works, else by numpy. Threads may share it."""
    watched = halfway(graph)
    run: TappedRun
    try:
        run = tapped_run(emit_with_taps(graph, (watched,), input_dtype="float32"), (watched,))
    except (Unavailable, Refused):
        run = FloatRunner(graph)

    def seen(values: FloatArray) -> Seen:
        channels: list[FloatArray] = []

        def tap(name: str, tensor: FloatArray) -> None:
            if name == watched:
                channels.append(np.abs(tensor).mean(axis=(1, 2)))

        logits = run(values, tap)
        return Seen(logits, np.concatenate(channels))

    return seen


def halfway(graph: Graph) -> str:
    """The tensor whose channels are watched: of its concatenations the one in the middle (fire5's), else of its convolutions."""
    joined = [node.name for node in graph.nodes if isinstance(node, Concat)]
    names = joined or [conv.name for conv in graph.convs]
    return names[(len(names) - 1) // 2]


def _grey(values: Values) -> Values:
    return (round(float(np.mean(values)), 3),)


def _listed(values: Values) -> str:
    return ",".join(f"{value:g}" for value in values)
