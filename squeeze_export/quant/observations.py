"""One pass of the float network over the calibration images, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import ByteArray, FloatArray, Progress, silent
from squeeze_export.graph.nodes import Concat, Conv, Graph, MaxPool, Pair, signed_tensors
from squeeze_export.graph.run import Tap, one_blas_thread, pad

POINT = (1, 1)
PATCH_COUNT = 2_048
"""Patches kept of each tensor over all images. benchmarks/recipe_ablation.py runs four times as many."""


TappedRun: TypeAlias = Callable[[ByteArray, Tap | None], FloatArray]
"""A float run that shows every tensor, `graph/run.py`'s or a runtime's: takes (N, H, W, 3) uint8, gives (N, classes) logits."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What calibration saw of one tensor.

    Attributes:
        lows: (N, C) the smallest value of each channel in each image, over every position; 0 where nothing can be negative. An
            image that counts twice has two equal rows.
        highs: (N, C) the largest value, likewise.
        patches: (S, rows, columns, C) what its widest reader sees at S positions spread over all images, zero padding included.
        others: kernel -> (S, rows, columns, C) likewise for readers of other kernels. 1 x 1 is missing where the centre of
            `patches` is never padding.
    """

    lows: FloatArray
    highs: FloatArray
    patches: FloatArray
    others: Mapping[Pair, FloatArray] = field(default_factory=dict)

    @property
    def samples(self) -> FloatArray:
        """(S, C) the values at S positions."""
        if POINT in self.others:
            return self.others[POINT][:, 0, 0]
        rows, columns = self.patches.shape[1:3]
        return self.patches[:, rows // 2, columns // 2]

    def patches_for(self, kernel: Pair) -> FloatArray:
        """(S, rows, columns, C) as a reader with this kernel sees them."""
        if kernel == self.patches.shape[1:3]:
            return self.patches
        return self.samples[:, None, None] if kernel == POINT else self.others[kernel]

    def divided(self, factors: FloatArray) -> Observation:
        """The observation of the tensor divided by `factors` (C,), channel by channel."""
        others = {kernel: patches / factors for kernel, patches in self.others.items()}
        return Observation(self.lows / factors, self.highs / factors, self.patches / factors, others)

    def part(self, rows: NDArray[np.intp], places: NDArray[np.intp]) -> Observation:
        """These rows of `lows` and `highs`, and these patches."""
        others = {kernel: patches[places] for kernel, patches in self.others.items()}
        return Observation(self.lows[rows], self.highs[rows], self.patches[places], others)


@dataclass(frozen=True, eq=False)
class Statistics:
    """What one pass kept, image by image, so that any part of the images can be looked at without another pass.

    Attributes:
        tensors: observed tensor -> its observation, one row of `lows` and `highs` an image, patches image by image.
        quotas: N, how many patches of each tensor were taken of each image.
        weights: N, how often each image counts.
    """

    tensors: Mapping[str, Observation]
    quotas: tuple[int, ...]
    weights: tuple[int, ...]

    def of(self, images: Sequence[int] | None = None) -> dict[str, Observation]:
        """What a pass over these images alone would keep.

        The ranges are the same, and so is the number of patches of each image; but a part's patches were drawn at other positions,
        as with another seed.

        Args:
            images: indices, ascending, at least one; None for all.

        Returns:
            Observed tensor -> observation, the input and the logits among them. An image has as many rows in `lows` and `highs` as
            it counts, and as many times the patches.

        Raises:
            ValueError: the pass was not asked to keep enough patches for this part.
        """
        images = range(len(self.quotas)) if images is None else images
        counts = [self.weights[index] for index in images]
        wanted = _quotas(counts)
        if any(self.quotas[index] < quota for index, quota in zip(images, wanted, strict=True)):
            raise ValueError("the pass kept too few patches for these images; name them in `parts`")
        if len(images) == len(self.quotas) and self.quotas == wanted and set(counts) == {1}:
            return dict(self.tensors)
        starts = np.cumsum([0, *self.quotas])
        rows = np.repeat(np.asarray(images), counts)
        places = np.concatenate([np.arange(starts[i], starts[i] + q) for i, q in zip(images, wanted, strict=True)])
        return {name: observation.part(rows, places) for name, observation in self.tensors.items()}


def observed_tensors(graph: Graph) -> tuple[str, ...]:
    """The tensors whose values matter: those that a node computes with, not those that are merely moved or pooled."""
    names: dict[str, None] = {}
    for node in graph.nodes:
        if not isinstance(node, MaxPool | Concat):
            names |= dict.fromkeys(node.inputs)
    return tuple(names)


def observe(
    graph: Graph,
    run: TappedRun,
    pixels: ByteArray,
    *,
    seed: int,
    threads: int,
    weights: Sequence[int] | None = None,
    parts: Sequence[Sequence[int]] = (),
    progress: Progress = silent,
) -> Statistics:
    """Runs every calibration image once.

    Args:
        graph: the float graph.
        run: its float run; must be safe to call from several threads.
        pixels: (N, H, W, 3) uint8.
        seed: of the sampled positions.
        threads: images in flight.
        weights: N, how often each image counts; None for once each.
        parts: the indices of each part of the images that will be asked for beside all of them: an image of a small part has to
            give more patches.
        progress: told of the images.
    """
    count = len(pixels)
    shares = (1,) * count if weights is None else tuple(weights)
    first = _quotas(shares)
    most = list(first)
    for part in parts:
        for index, quota in zip(part, _quotas([shares[i] for i in part]), strict=True):
            most[index] = max(most[index], quota)
    starts = np.cumsum([0, *most])
    signed = signed_tensors(graph.nodes)
    readers = {name: _readers(graph, name) for name in observed_tensors(graph)}
    shown: dict[str, dict[Pair, Conv | None]] = {**readers, graph.output.name: {POINT: None}}
    seen = {name: _blank(graph.sizes[name][2], tuple(kernels), count, int(starts[-1])) for name, kernels in shown.items()}

    def one(index: int) -> None:
        # Patches beyond those for all images have a generator of their own, so that the others lie where they always do.
        rng, more, apart = (np.random.default_rng([seed, index, *extra]) for extra in ((), (1,), (2,)))

        def tap(name: str, values: FloatArray) -> None:
            if name not in readers:
                return
            observation, flat = seen[name], values.reshape(-1, values.shape[3])
            observation.highs[index] = flat.max(axis=0)
            if name in signed:
                observation.lows[index] = flat.min(axis=0)
            start, middle, end = starts[index], starts[index] + first[index], starts[index + 1]
            widest, *others = readers[name].items()
            observation.patches[start:middle] = draw_patches(values[0], widest[1], rng, first[index])
            if middle < end:
                observation.patches[middle:end] = draw_patches(values[0], widest[1], more, int(end - middle))
            for kernel, reader in others:
                observation.others[kernel][start:end] = draw_patches(values[0], reader, apart, int(end - start))

        tap(graph.input.name, pixels[index : index + 1].astype(np.float32))
        logits = run(pixels[index : index + 1], tap)[0]
        result = seen[graph.output.name]
        result.lows[index], result.highs[index] = np.minimum(logits, 0), np.maximum(logits, 0)
        result.patches[starts[index] : starts[index + 1]] = logits  # as many rows as of any tensor, so that `of` is one rule

    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(one, range(count)), 1):
            progress("calibrating", done, count)
    return Statistics(seen, tuple(most), shares)


def _quotas(weights: Sequence[int]) -> tuple[int, ...]:
    """Patches of each image, in proportion to its weight, `PATCH_COUNT` or a few more in all."""
    each = -(-PATCH_COUNT // sum(weights))
    return tuple(each * weight for weight in weights)


def _blank(channels: int, kernels: tuple[Pair, ...], count: int, patch_count: int) -> Observation:
    """Room for what `count` images will show. `lows` stays 0 where nothing can be negative."""
    patches = {kernel: np.empty((patch_count, *kernel, channels), np.float32) for kernel in kernels}
    widest = patches.pop(kernels[0])
    return Observation(np.zeros((count, channels), np.float32), np.zeros((count, channels), np.float32), widest, patches)


def _readers(graph: Graph, name: str) -> dict[Pair, Conv | None]:
    """Kernel -> a convolution that reads the tensor with it, the widest first; without any, one point and None."""
    convs = sorted((node for node in graph.consumers[name] if isinstance(node, Conv)), key=lambda conv: -math.prod(conv.kernel))
    if not convs:
        return {POINT: None}
    found: dict[Pair, Conv | None] = {}
    for conv in convs:
        found.setdefault(conv.kernel, conv)
    (rows, columns), (top, left, bottom, right) = convs[0].kernel, convs[0].pads
    if len(found) > 1:
        found.pop(POINT, None)
    if top > rows // 2 or left > columns // 2 or bottom > (rows - 1) // 2 or right > (columns - 1) // 2:
        found.setdefault(POINT, None)  # the widest reader's centre may lie in the padding
    return found


def draw_patches(values: FloatArray, reader: Conv | None, rng: np.random.Generator, quota: int) -> FloatArray:
    """(quota, rows, columns, C) what the reader sees of (H, W, C) at random positions; None sees single values."""
    if reader is None or reader.kernel == reader.strides == (1, 1):
        # A pointwise reader's own padding (conv10 of the authors' files) would show it nothing but zeros.
        return values.reshape(-1, 1, 1, values.shape[2])[rng.integers(0, values.shape[0] * values.shape[1], quota)]
    padded = pad(values[None], reader.pads, 0)[0]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reader.kernel, axis=(0, 1))
    windows = windows[:: reader.strides[0], :: reader.strides[1]]
    rows, columns = rng.integers(0, windows.shape[0], quota), rng.integers(0, windows.shape[1], quota)
    return windows[rows, columns].transpose(0, 2, 3, 1)  # (quota, C, rows, columns) -> (quota, rows, columns, C)
