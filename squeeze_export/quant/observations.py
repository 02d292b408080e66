"""One pass of the float network over the calibration images, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from squeeze_export.core import ByteArray, FloatArray, Progress, silent
from squeeze_export.graph.nodes import Concat, Conv, Graph, MaxPool
from squeeze_export.graph.run import Tap, one_blas_thread, pad

PATCH_COUNT = 2_048
"""Patches kept of each tensor over all images. benchmarks/recipe_ablation.py runs four times as many."""


TappedRun: TypeAlias = Callable[[ByteArray, Tap | None], FloatArray]
"""A float run that shows every tensor, `graph/run.py`'s or a runtime's: takes (N, H, W, 3) uint8, gives (N, classes) logits."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What calibration saw of one tensor.

    Attributes:
        lows: (N, C) the smallest value of each channel in each image, over every position; 0 where nothing can be negative.
        highs: (N, C) the largest value, likewise.
        patches: (S, k, k, C) what its widest reader sees at S positions spread over all images, zero padding included.
    """

    lows: FloatArray
    highs: FloatArray
    patches: FloatArray

    @property
    def samples(self) -> FloatArray:
        """(S, C) the centres of the patches."""
        centre = self.patches.shape[1] // 2
        return self.patches[:, centre, centre]

    def patches_for(self, kernel: int) -> FloatArray:
        """(S, k, k, C) as a reader of this kernel size sees them."""
        return self.patches if kernel == self.patches.shape[1] else self.samples[:, None, None]

    def divided(self, factors: FloatArray) -> Observation:
        """The observation of the tensor divided by `factors` (C,), channel by channel."""
        return Observation(self.lows / factors, self.highs / factors, self.patches / factors)


def observed_tensors(graph: Graph) -> tuple[str, ...]:
    """The tensors whose values matter: those that a node computes with, not those that are merely moved or pooled."""
    names: dict[str, None] = {}
    for node in graph.nodes:
        if not isinstance(node, MaxPool | Concat):
            names |= dict.fromkeys(node.inputs)
    return tuple(names)


def observe(
    graph: Graph, run: TappedRun, pixels: ByteArray, *, seed: int, threads: int, progress: Progress = silent
) -> dict[str, Observation]:
    """Runs every calibration image once.

    Args:
        graph: the float graph.
        run: its float run; must be safe to call from several threads.
        pixels: (N, H, W, 3) uint8.
        seed: of the sampled positions.
        threads: images in flight.

    Returns:
        Observed tensor -> observation, the input among them.
    """
    count = len(pixels)
    quota = -(-PATCH_COUNT // count)
    signed = signed_tensors(graph)
    readers = {name: _widest_reader(graph, name) for name in observed_tensors(graph)}
    seen = {name: _blank(graph.sizes[name][2], reader, count, quota) for name, reader in readers.items()}

    def one(index: int) -> None:
        rng = np.random.default_rng([seed, index])

        def tap(name: str, values: FloatArray) -> None:
            if name not in readers:
                return
            observation, flat = seen[name], values.reshape(-1, values.shape[3])
            observation.highs[index] = flat.max(axis=0)
            if name in signed:
                observation.lows[index] = flat.min(axis=0)
            observation.patches[index * quota : (index + 1) * quota] = _patches(values[0], readers[name], rng, quota)

        tap(graph.input.name, pixels[index : index + 1].astype(np.float32))
        run(pixels[index : index + 1], tap)

    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(one, range(count)), 1):
            progress("calibrating", done, count)
    return seen


def signed_tensors(graph: Graph) -> set[str]:
    """Tensors that can be negative: a convolution without ReLU, and what follows from it."""
    signed: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, Conv):
            if not node.relu:
                signed.add(node.name)
        elif signed & set(node.inputs):
            signed.add(node.name)
    return signed


def _blank(channels: int, reader: Conv | None, count: int, quota: int) -> Observation:
    """Room for what `count` images will show. `lows` stays 0 where nothing can be negative."""
    kernel = 1 if reader is None else reader.kernel
    return Observation(
        np.zeros((count, channels), np.float32),
        np.zeros((count, channels), np.float32),
        np.empty((count * quota, kernel, kernel, channels), np.float32),
    )


def _widest_reader(graph: Graph, name: str) -> Conv | None:
    convs = [node for node in graph.consumers[name] if isinstance(node, Conv)]
    return max(convs, key=lambda conv: conv.kernel, default=None)


def _patches(values: FloatArray, reader: Conv | None, rng: np.random.Generator, quota: int) -> FloatArray:
    """(quota, k, k, C) what the reader sees of (H, W, C) at random positions."""
    if reader is None or (reader.kernel == 1 and reader.stride == 1):
        # A pointwise reader's own padding (conv10 of the authors' files) would show it nothing but zeros.
        return values.reshape(-1, 1, 1, values.shape[2])[rng.integers(0, values.shape[0] * values.shape[1], quota)]
    padded = pad(values[None], reader.pads, 0)[0]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (reader.kernel, reader.kernel), axis=(0, 1))
    windows = windows[:: reader.stride, :: reader.stride]
    rows, columns = rng.integers(0, windows.shape[0], quota), rng.integers(0, windows.shape[1], quota)
    return windows[rows, columns].transpose(0, 2, 3, 1)  # (quota, C, k, k) -> (quota, k, k, C)
