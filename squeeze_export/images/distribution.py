"""Distribution shift: a few statistics of each image, and whether two sets of images differ in how these are distributed.

The statistics are read from decoded pixels and cost less than a millisecond an image. docs/calibration.md tells how the bounds were
chosen: random parts of one set of photographs stay below them; drawings, negatives, swapped channels and dark images do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import ByteArray

Doubles: TypeAlias = NDArray[np.float64]
Side: TypeAlias = Literal["left", "right"]

STATISTICS = ("brightness", "contrast", "colourfulness", "warmth", "tint", "detail")
"""Mean luma; its standard deviation; mean of the largest less the smallest channel; mean red less blue; mean green less the mean of
red and blue; mean absolute difference of neighbouring green pixels. All in pixel steps, 0 to 255."""

SHIFT_DISTANCE = 0.35
"""Largest difference of two distribution functions (0 to 1) that is still called the same kind."""
SIGNIFICANCE = 1e-4
"""How often a statistic of two equal kinds may differ so much by chance."""
FEWEST_COUNT = 16
"""Images a set must have before its distribution says anything."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_SHARES = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class Distribution:
    """A set's distribution of each statistic, small enough for a table.

    Attributes:
        image_count: images it was taken from.
        quantiles: statistic -> its 0%, 5%, ... 100% quantiles, pixel steps.
    """

    image_count: int
    quantiles: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Shift:
    """A statistic that differs.

    Attributes:
        statistic: one of `STATISTICS`.
        first: its median in the first set, pixel steps.
        second: in the second.
        distance: Kolmogorov-Smirnov distance of the two distributions, 0 to 1.
    """

    statistic: str
    first: float
    second: float
    distance: float


def image_statistics(image: ByteArray) -> Doubles:
    """What is read off an image.

    Args:
        image: (H, W, C) uint8, RGB or grey, which has three equal channels here.

    Returns:
        (6,) in the order of `STATISTICS`, to hundredths, so that equal images are equal on every machine.
    """
    if image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    part = image[::4, ::4].reshape(-1, 3).astype(np.float32)
    luma = part @ _LUMA
    red, green, blue = part.mean(axis=0)
    reds, greens, blues = part.T  # numpy's maximum along an axis of three takes twenty times as long
    spread = np.maximum(np.maximum(reds, greens), blues) - np.minimum(np.minimum(reds, greens), blues)
    figures = (
        luma.mean(),
        luma.std(),
        spread.mean(),
        red - blue,
        green - (red + blue) / 2,
        (_roughness(image[::2, :, 1]) + _roughness(image[:, ::2, 1].T)) / 2,
    )
    return np.array([round(float(figure), 2) for figure in figures], np.float64)


def distribution_of(values: Doubles, weights: tuple[int, ...] = ()) -> Distribution:
    """Summarises a set.

    Args:
        values: (N, 6) from `image_statistics`, image by image.
        weights: N, how often each image counts; none for once each.
    """
    counted = np.repeat(values, weights, axis=0) if weights else values
    quantiles = np.round(np.quantile(counted, _SHARES, axis=0), 4)
    return Distribution(len(values), {name: tuple(quantiles[:, index].tolist()) for index, name in enumerate(STATISTICS)})


def read_distribution(value: Any) -> Distribution:
    """A distribution as JSON has it: `{"image_count": N, "quantiles": {statistic: [21 numbers]}}`.

    Raises:
        ValueError: anything else.
    """
    try:
        count = value["image_count"]
        quantiles = {name: tuple(float(number) for number in value["quantiles"][name]) for name in STATISTICS}
    except (KeyError, TypeError, IndexError) as err:
        raise ValueError(f"no summary of images ({err!r})") from err
    sound = all(len(q) == len(_SHARES) and all(map(math.isfinite, q)) and list(q) == sorted(q) for q in quantiles.values())
    if type(count) is not int or count < 1 or not sound:
        raise ValueError("no summary of images")
    return Distribution(count, quantiles)


def shifts(first: Distribution, values: Doubles) -> tuple[Shift, ...]:
    """The statistics in which a second set differs from the first, the most different one first.

    One differs where the Kolmogorov-Smirnov distance exceeds both `SHIFT_DISTANCE`, what is worth a word, and the bound that chance
    exceeds with a probability of `SIGNIFICANCE`: few images show nothing.

    Source of the bound: N. Smirnov, "Table for estimating the goodness of fit of empirical distributions", Annals of Mathematical
    Statistics 19 (1948), 279-281, by the first term of its series.

    Args:
        first: of the one set.
        values: (M, 6) of the other, from `image_statistics`.
    """
    count = len(values)
    if min(count, first.image_count) < FEWEST_COUNT:
        return ()
    chance = math.sqrt(-math.log(SIGNIFICANCE / 2) / 2 * (1 / first.image_count + 1 / count))
    found = []
    for index, name in enumerate(STATISTICS):
        distance = _distance(np.array(first.quantiles[name]), values[:, index])
        if distance > max(SHIFT_DISTANCE, chance):
            middle = first.quantiles[name][len(_SHARES) // 2]
            found.append(Shift(name, middle, float(np.median(values[:, index])), distance))
    return tuple(sorted(found, key=lambda difference: -difference.distance))


def shift_warning(first: Distribution, values: Doubles) -> tuple[str, ...]:
    """One line where the evaluation images are of another kind than the calibration images; none where they are not.

    Args:
        first: of the calibration images.
        values: (M, 6) of the evaluation images.
    """
    found = shifts(first, values)
    if not found:
        return ()
    told = "; ".join(f"{u.statistic} {u.first:.0f} against {u.second:.0f}, distance {u.distance:.2f}" for u in found)
    return (
        f"the calibration images differ in kind from the evaluation images (medians: {told}; alike is below {SHIFT_DISTANCE}):"
        " ranges learned from the one may not fit the other, calibrate on images like those that the device will see",
    )


def _roughness(values: ByteArray) -> float:
    """Mean absolute difference of neighbours along the rows of (H, W)."""
    return float(np.abs(np.diff(values.astype(np.int16), axis=1)).mean()) if values.shape[1] > 1 else 0.0


def _distance(quantiles: Doubles, values: Doubles) -> float:
    """Kolmogorov-Smirnov distance of a distribution known by its quantiles and a sample, both sides of every step compared.

    Between two quantiles the distribution is taken to be even, which moves the distance by at most their spacing, 0.05.
    """
    points, place = np.unique(values), np.sort(values)
    largest = 0.0
    sides: tuple[Side, ...] = ("left", "right")
    for side in sides:
        sampled = np.searchsorted(place, points, side) / len(place)
        largest = max(largest, float(np.abs(sampled - _share_below(quantiles, points, side)).max()))
    return largest


def _share_below(quantiles: Doubles, points: Doubles, side: Side) -> Doubles:
    """Share of the distribution below each point (`left`), or up to and with it (`right`)."""
    after = np.searchsorted(quantiles, points, side)
    inside = np.clip(after, 1, len(quantiles) - 1)
    low, high = quantiles[inside - 1], quantiles[inside]
    width = np.where(high > low, high - low, 1.0)
    share = _SHARES[inside - 1] + np.clip((points - low) / width, 0, 1) * _SHARES[1]
    result: Doubles = np.where(after == 0, 0.0, np.where(after == len(quantiles), 1.0, share))
    return result
