"""How well pixels fit a network, told without labels: the logits of a few dozen images under one preprocessing and under others.

A trained network that is given its own kind of pixels says something definite about each image, and something else about the next.
With another mean, scale or channel order its answers are flat, or alike. All that is compared here is free of the logits' scale:
larger pixels make larger logits and a surer softmax, but fit no better.

benchmarks/wrong_pixels.py chose the bounds on one half of its networks, and counts the errors on the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatArray

Doubles: TypeAlias = NDArray[np.float64]

LEAST_GAIN, LEAST_GAIN_OF_FEW = 0.05, 0.1
"""A mean fit that is higher by more is clearly better; the second for networks of fewer than `MANY_CLASSES`, of which an image says
less."""
MANY_CLASSES = 16
LEAST_FIT = 0.35
"""The better mean fit must reach this share of the largest possible one, ln(classes - 1) + 1: an untrained network fits nothing."""
FEWER_CLASSES, FEWER_CLASSES_ERRORS = 8, 3.0
"""With fewer classes still, the gain must also be so many of its standard errors."""
HEATS = ((4, -0.35), (8, -0.15), (16, 0.0))
"""After so many images only those go on whose mean fit exceeds that of the assumed preprocessing by more than this. Where the
assumed one is right, hardly any sees all of the images."""
_SHARE_WEIGHT = 0.2
_LEAST_SHARE = 1e-6

Run: TypeAlias = Callable[[int, slice], FloatArray]
"""Takes the number of a preprocessing and a part of the images, and gives their (n, classes) logits."""


def pixel_fit(logits: FloatArray) -> Doubles:
    """How well each image's logits look like those of a network that is given its own kind of pixels; higher is better.

    The sum of four figures, each of an image's logits less their mean over the classes:

    - how far the largest stands out, ln(largest / standard deviation); 0 where all are equal;
    - the same of what is the image's own: the logits less their mean over the images;
    - what the class tells about the image: KL(softmax, mean softmax of the images) / ln classes, of logits brought to a common
      deviation of ln classes. Its mean is the mutual information of image and class, the logarithm of the inception score
      (T. Salimans et al., arXiv:1606.03498, section 4);
    - 0.2 ln of the share of their variance that is the image's own.

    Args:
        logits: (N, classes) float32, N and classes at least 2, finite: images under one preprocessing. Figures of two
            preprocessings may be compared if they are of the same images.

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


def least_gain(class_count: int) -> float:
    """What a mean fit must be higher by to be clearly better."""
    return LEAST_GAIN if class_count >= MANY_CLASSES else LEAST_GAIN_OF_FEW


def best_fitting(run: Run, candidate_count: int, image_count: int, class_count: int) -> tuple[int, float] | None:
    """The preprocessing that fits clearly better than the assumed one.

    Args:
        run: computes logits; all preprocessings must be given the same images.
        candidate_count: preprocessings; number 0 is the assumed one.
        image_count: images, more than the least of `HEATS`.
        class_count: classes of the network.

    Returns:
        Its number, and by how much its mean fit is higher; None if none fits clearly better, or the logits are not finite.
    """
    standing, start = list(range(candidate_count)), 0
    seen: dict[int, list[FloatArray]] = {number: [] for number in standing}
    for stop, least in (*(heat for heat in HEATS if heat[0] < image_count), (image_count, least_gain(class_count))):
        for number in standing:
            seen[number].append(run(number, slice(start, stop)))
        logits = {number: np.concatenate(seen[number]) for number in standing}
        fits = {number: pixel_fit(values) for number, values in logits.items() if np.isfinite(values).all()}
        if 0 not in fits:
            return None
        gains = {number: float((fit - fits[0]).mean()) for number, fit in fits.items()}
        standing = [number for number in fits if number == 0 or gains[number] > least]
        if standing == [0]:
            return None
        start = stop
    best = max(standing, key=lambda number: gains[number])
    if fits[best].mean() < LEAST_FIT * (np.log(class_count - 1) + 1):
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
