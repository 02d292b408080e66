"""How the activations use their ranges, counted image by image: clipped values, dead channels, unused levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.analyze.results import RangeUse
from squeeze_export.analyze.sensitivity import Subject
from squeeze_export.core import ByteArray, FloatArray
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Conv, signed_tensors
from squeeze_export.graph.quantized import Quantization
from squeeze_export.graph.run import FloatRunner

MOST_CLIPPED = 10
_BELOW, _ABOVE = 1024, 2304
"""Steps counted below integer 0, and from 0 up: nine times the range upwards. Values beyond count as the last step."""
_HIGH_SHARE = 0.999
_BLOCK = 32_768
"""Values counted at a time: few enough to stay in the cache."""


@dataclass(frozen=True, eq=False)
class TensorCount:
    """The counts of one tensor, on one image or on several together.

    Attributes:
        steps: (_BELOW + _ABOVE,) how many values fall on each step; step 0 of the range is at `_BELOW`.
        largest: (C,) each channel's largest value.
        image_largest_sum: sum of the images' largest values, each at least 0.
        image_count: images.
        clipped_image_count: images with a value outside the range.
        most_clipped: files and how many of their values are outside; the `MOST_CLIPPED` worst, worst first.
        levels: (256,) how many values of the integer run are each integer.
    """

    steps: NDArray[np.int64]
    largest: FloatArray
    image_largest_sum: float
    image_count: int
    clipped_image_count: int
    most_clipped: tuple[tuple[str, int], ...]
    levels: NDArray[np.int64]

    @property
    def high(self) -> float:
        """The largest value of all images, at least 0."""
        return max(0.0, float(self.largest.max()))

    def low(self, q: Quantization) -> float:
        """The smallest value of all images, rounded to its step, at most 0."""
        return min(0.0, float(np.flatnonzero(self.steps)[0] - _BELOW - q.zero_point) * q.scale)

    def __add__(self, other: TensorCount) -> TensorCount:
        most = sorted((*self.most_clipped, *other.most_clipped), key=lambda item: (-item[1], item[0]))
        return TensorCount(
            self.steps + other.steps,
            np.maximum(self.largest, other.largest),
            self.image_largest_sum + other.image_largest_sum,
            self.image_count + other.image_count,
            self.clipped_image_count + other.clipped_image_count,
            tuple(most[:MOST_CLIPPED]),
            self.levels + other.levels,
        )


@dataclass(frozen=True, eq=False)
class ImageCount:
    """One image through both networks.

    Attributes:
        reference: (classes,) float32 logits of the float network.
        logits: (classes,) float32 logits of the exact integer run.
        tensors: layer -> the counts of its output.
    """

    reference: FloatArray
    logits: FloatArray
    tensors: Mapping[str, TensorCount]


class Counter:
    """Runs the float network and the exact integer one, and counts; threads may share it.

    Args:
        subject: from `analysis.subject_of`.
    """

    def __init__(self, subject: Subject) -> None:
        self._full = subject.full
        self._float = FloatRunner(subject.graph)
        self._integer = IntegerRunner(subject.quantized)
        signed = signed_tensors(subject.graph.nodes)
        quantized = subject.quantized
        # The integer run does not show the integers of the logits, which some schemes have.
        self._names = [name for name in subject.full.outputs if name != quantized.output.name]
        self._lowest = {name: 0 if name in signed else subject.full.outputs[name].zero_point for name in self._names}

    def __call__(self, image: ByteArray, file: str) -> ImageCount:
        """Counts one image.

        Args:
            image: (H, W, 3) uint8.
            file: its name.
        """
        steps: dict[str, NDArray[np.int64]] = {}
        largest: dict[str, FloatArray] = {}
        levels: dict[str, NDArray[np.int64]] = {}

        def see(name: str, values: FloatArray) -> None:
            if name in self._lowest:
                steps[name] = step_counts(values, self._full.outputs[name])
                largest[name] = values[0].max(axis=(0, 1))

        def see_integers(name: str, values: ByteArray) -> None:
            if name in self._lowest:
                levels[name] = _counts(values, 256)

        reference = self._float(image[None], see)[0]
        logits = self._integer(image[None], see_integers)[0]
        tensors = {}
        for name in self._names:
            clipped = sum(clipped_counts(steps[name], self._lowest[name]))
            most = ((file, clipped),) if clipped else ()
            image_largest = max(0.0, float(largest[name].max()))
            tensors[name] = TensorCount(steps[name], largest[name], image_largest, 1, len(most), most, levels[name])
        return ImageCount(reference, logits, tensors)


def range_uses(subject: Subject, counted: Mapping[str, TensorCount]) -> tuple[RangeUse, ...]:
    """The use of each range, from the counts of all images, in the network's order."""
    signed = signed_tensors(subject.graph.nodes)
    return tuple(_use(subject, name, counted[name], name in signed) for name in subject.layers if name in counted)


def _use(subject: Subject, name: str, counted: TensorCount, signed: bool) -> RangeUse:
    q = subject.full.outputs[name]
    lowest = 0 if signed else q.zero_point
    high = (255 - q.zero_point) * q.scale
    unit = high or 255 * q.scale  # all values may be negative
    total = int(counted.steps.sum())
    p999 = int(np.searchsorted(np.cumsum(counted.steps), _HIGH_SHARE * total)) - _BELOW - q.zero_point
    zero, lost = _empty_filters(subject, name)
    clipped_low, clipped_high = clipped_counts(counted.steps, lowest)
    return RangeUse(
        name=name,
        range_high=high,
        range_low=(lowest - q.zero_point) * q.scale,
        largest_share=counted.high / unit,
        mean_largest_share=counted.image_largest_sum / counted.image_count / unit,
        p999_share=p999 * q.scale / unit,
        clipped_high_share=clipped_high / total,
        clipped_low_share=clipped_low / total,
        clipped_image_count=counted.clipped_image_count,
        most_clipped=dict(counted.most_clipped),
        unused_levels=int((counted.levels[lowest:] == 0).sum()),
        levels=256 - lowest,
        channel_count=len(counted.largest),
        dead_channels=() if signed else _indices(counted.largest <= 0),
        zero_filters=zero,
        lost_filters=lost,
    )


def _empty_filters(subject: Subject, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Output channels whose weights are all 0: in float, and only in integers."""
    node = next(node for node in subject.graph.nodes if node.name == name)
    if not isinstance(node, Conv):
        return (), ()
    integers = next(conv for conv in subject.quantized.convs if conv.name == name).weight
    zero = (node.weight == 0).all(axis=(1, 2, 3))
    return _indices(zero), _indices((integers == 0).all(axis=(1, 2, 3)) & ~zero)


def step_counts(values: FloatArray, q: Quantization) -> NDArray[np.int64]:
    """How many values round to each step of a quantization.

    Returns:
        (`_BELOW` + `_ABOVE`,): step 0 of the range is at `_BELOW`; values beyond the first or last step count as that one.
    """

    def places(block: FloatArray) -> NDArray[np.intp]:
        found = block / np.float32(q.scale)
        np.rint(found, out=found)
        found += np.float32(q.zero_point + _BELOW)
        np.clip(found, 0, _BELOW + _ABOVE - 1, out=found)
        return found.astype(np.intp)

    return _counts(values, _BELOW + _ABOVE, places)


def clipped_counts(steps: NDArray[np.int64], lowest: int) -> tuple[int, int]:
    """How many of `step_counts` lie below the range, whose lowest integer is `lowest`, and how many above 255."""
    return int(steps[: _BELOW + lowest].sum()), int(steps[_BELOW + 256 :].sum())


def _counts(values: Any, size: int, places: Callable[[Any], NDArray[Any]] = lambda block: block) -> NDArray[np.int64]:
    """(size,) how many values have each place."""
    flat, total = values.reshape(-1), np.zeros(size, np.int64)
    for start in range(0, flat.size, _BLOCK):
        total += np.bincount(places(flat[start : start + _BLOCK]), minlength=size)
    return total


def _indices(chosen: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.flatnonzero(chosen))
