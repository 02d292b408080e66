"""How well pixels fit a network, told without labels: what it makes of a few dozen images under one preprocessing and under others.

A trained network that is given its own kind of pixels says something definite about each image, and something else about the next;
and halfway through it, as many of its channels take part as ever. With another mean, scale or channel order its answers are flat or
alike, and few channels carry most. All that is compared here is free of the values' scale: larger pixels make larger logits and a
surer softmax, but fit no better.

benchmarks/wrong_pixels.py chose the bound and the weights on one half of its networks, and counts the errors on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatArray

Doubles: TypeAlias = NDArray[np.float64]

LEAST_GAIN = 0.08
"""A mean fit that is higher by more is clearly better."""
LEAST_FIT = 0.35
"""The answers of the better one must reach this share of the best possible ones, ln(classes - 1) + 1: an untrained network fits
nothing."""
FEWER_CLASSES, FEWER_CLASSES_ERRORS = 8, 3.0
"""With fewer classes, of which an image says little, the gain must also be so many of its standard errors."""
HEATS = ((4, -0.35), (8, -0.15), (16, 0.0))
"""After so many images only those go on whose mean fit exceeds that of the assumed preprocessing by more than this. Where the
assumed one is right, hardly any sees all of the images."""
_CHANNELS_WEIGHT = 5.0
_SHARE_WEIGHT = 0.2
_LEAST_SHARE = 1e-6


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network makes of N images under one preprocessing.

    Attributes:
        logits: (N, classes) float32, N and classes at least 2.
        channels: (N, channels) float32, not negative: the mean size of each channel of a tensor halfway through the network.
    """

    logits: FloatArray
    channels: FloatArray

    @property
    def finite(self) -> bool:
        """Whether all of it is."""
        return bool(np.isfinite(self.logits).all() and np.isfinite(self.channels).all())


def together(parts: Sequence[Seen]) -> Seen:
    """Images that were run one after the other."""
    return Seen(np.concatenate([part.logits for part in parts]), np.concatenate([part.channels for part in parts]))


Run: TypeAlias = Callable[[int, slice], Seen]
"""Takes the number of a preprocessing and a part of the images."""


def pixel_fit(seen: Seen) -> Doubles:
    """How well each image's run looks like that of a network that is given its own kind of pixels; higher is better.

    The sum of `answers_fit` and five times `channels_fit`. Figures of two preprocessings may be compared if they are of the same
    network and the same images.

    Returns:
        (N,) float64, of finite values.
    """
    result: Doubles = answers_fit(seen.logits) + _CHANNELS_WEIGHT * channels_fit(seen.channels)
    return result


def answers_fit(logits: FloatArray) -> Doubles:
    """How definite, and how much its own, each image's answer is.

    The sum of four figures, each of an image's logits less their mean over the classes:

    - how far the largest stands out, ln(largest / standard deviation); 0 where all are equal;
    - the same of what is the image's own: the logits less their mean over the images;
    - what the class tells about the image: KL(softmax, mean softmax of the images) / ln classes, of logits brought to a common
      deviation of ln classes. Its mean is the mutual information of image and class, the logarithm of the inception score
      (T. Salimans et al., arXiv:1606.03498, section 4);
    - 0.2 ln of the share of their variance that is the image's own.

    Args:
        logits: (N, classes) float32, N and classes at least 2, finite.

    Returns:
        (N,) float64.
    """
    centred = logits.astype(np.float64)
    centred -= centred.mean(axis=1, keepdims=True)
    own = centred - centred.mean(axis=0)
    scaled = centred * (np.log(logits.shape[1]) / max(centred.std(), np.finfo(np.float64).tiny))
    scaled -= scaled.max(axis=1, keepdims=True)
    log_softmax = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    softmax = np.exp(log_softmax)
    log_mean = np.log(np.maximum(softmax.mean(axis=0), np.finfo(np.float64).tiny))
    told = (softmax * (log_softmax - log_mean)).sum(axis=1) / np.log(logits.shape[1])
    variance = centred.var(axis=1)
    share = np.divide(own.var(axis=1), variance, out=np.zeros_like(variance), where=variance > 0)
    result: Doubles = _peak(centred) + _peak(own) + told + _SHARE_WEIGHT * np.log(np.clip(share, _LEAST_SHARE, 1))
    return result


def channels_fit(channels: FloatArray) -> Doubles:
    """How evenly the channels take part in each image: ln of the participation ratio, sum(mean)^2 / (channels sum(mean^2)).

    Args:
        channels: (N, channels), not negative, finite: each channel's mean size.

    Returns:
        (N,) float64, at most 0: all alike. -ln channels where one does everything, or none does anything.
    """
    means = channels.astype(np.float64)
    means /= np.maximum(means.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    squares = (means**2).sum(axis=1)
    ratio = np.divide(means.sum(axis=1) ** 2, squares, out=np.ones_like(squares), where=squares > 0)
    result: Doubles = np.log(ratio / channels.shape[1])
    return result


def best_fitting(run: Run, candidate_count: int, image_count: int, class_count: int) -> tuple[int, float] | None:
    """The preprocessing that fits clearly better than the assumed one.

    Args:
        run: runs the network; all preprocessings must be given the same images.
        candidate_count: preprocessings; number 0 is the assumed one.
        image_count: images, more than the least of `HEATS`.
        class_count: classes of the network.

    Returns:
        Its number, and by how much its mean fit is higher; None if none fits clearly better, or what it sees is not finite.
    """
    standing, start = list(range(candidate_count)), 0
    parts: dict[int, list[Seen]] = {number: [] for number in standing}
    for stop, least in (*(heat for heat in HEATS if heat[0] < image_count), (image_count, LEAST_GAIN)):
        for number in standing:
            parts[number].append(run(number, slice(start, stop)))
        seen = {number: together(parts[number]) for number in standing}
        fits = {number: pixel_fit(values) for number, values in seen.items() if values.finite}
        if 0 not in fits:
            return None
        gains = {number: float((fit - fits[0]).mean()) for number, fit in fits.items()}
        standing = [number for number in fits if number == 0 or gains[number] > least]
        if standing == [0]:
            return None
        start = stop
    best = max(standing, key=lambda number: gains[number])
    if answers_fit(seen[best].logits).mean() < LEAST_FIT * (np.log(class_count - 1) + 1):
        return None
    if class_count < FEWER_CLASSES:
        difference = fits[best] - fits[0]
        if gains[best] < FEWER_CLASSES_ERRORS * difference.std(ddof=1) / np.sqrt(len(difference)):
            return None
    return best, gains[best]


def _peak(values: Doubles) -> Doubles:
    """(N,) ln(largest / standard deviation) of each row, whose mean is 0; 0 where all are equal."""
    spread, largest = values.std(axis=1), values.max(axis=1)
    apart = (spread > 0) & (largest > 0)
    result: Doubles = np.log(np.divide(largest, spread, out=np.ones_like(spread), where=apart))
    return result
