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
"""Patches kept of each tensor over all images. Four times as many took twice as long and were not better on new photographs."""


TappedRun: TypeAlias = Callable[[ByteArray, Tap | None], FloatArray]
"""A float run that shows every tensor, `graph/run.py`'s or a runtime's: takes (N, H, W, 3) uint8, gives (N, classes) logits."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What calibration saw of one tensor.

    Attributes:
        lows: (N, C) the smallest value of each channel in each image, over every position.
        highs: (N, C) the largest.
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
    readers = {name: _widest_reader(graph, name) for name in observed_tensors(graph)}
    count = len(pixels)
    quota = -(-PATCH_COUNT // count)

    def one(index: int) -> dict[str, _Seen]:
        seen: dict[str, _Seen] = {}
        rng = np.random.default_rng([seed, index])

        def tap(name: str, values: FloatArray) -> None:
            if name in readers:
                seen[name] = _look(values[0], readers[name], rng, quota)

        tap(graph.input.name, pixels[index : index + 1].astype(np.float32))
        run(pixels[index : index + 1], tap)
        return seen

    merged: dict[str, list[_Seen]] = {name: [] for name in readers}
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for done, seen in enumerate(pool.map(one, range(count)), 1):
            for name, part in seen.items():
                merged[name].append(part)
            progress("calibrating", done, count)
    return {name: _merge(parts) for name, parts in merged.items()}


@dataclass(frozen=True, eq=False)
class _Seen:
    low: FloatArray
    high: FloatArray
    patches: FloatArray


def _widest_reader(graph: Graph, name: str) -> Conv | None:
    convs = [node for node in graph.consumers[name] if isinstance(node, Conv)]
    return max(convs, key=lambda conv: conv.kernel, default=None)


def _look(values: FloatArray, reader: Conv | None, rng: np.random.Generator, quota: int) -> _Seen:
    """Looks at one image's tensor, (H, W, C)."""
    flat = values.reshape(-1, values.shape[2])
    kernel, stride = (reader.kernel, reader.stride) if reader is not None else (1, 1)
    # A pointwise reader's own padding (conv10 of the authors' files) shows it nothing but zeros.
    padded = pad(values[None], reader.pads, 0)[0] if reader is not None and kernel > 1 else values
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(0, 1))[::stride, ::stride]
    rows, columns = rng.integers(0, windows.shape[0], quota), rng.integers(0, windows.shape[1], quota)
    patches = windows[rows, columns].transpose(0, 2, 3, 1)  # (quota, C, k, k) -> (quota, k, k, C)
    return _Seen(flat.min(axis=0), flat.max(axis=0), np.ascontiguousarray(patches))


def _merge(parts: list[_Seen]) -> Observation:
    return Observation(
        np.stack([part.low for part in parts]),
        np.stack([part.high for part in parts]),
        np.concatenate([part.patches for part in parts]),
    )
