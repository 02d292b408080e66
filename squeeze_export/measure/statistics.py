"""The confidence intervals of the report's figures. Without scipy, whose import is slow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.results import Interval

Counts: TypeAlias = int | NDArray[np.int64]
_CHUNK_VALUES = 1 << 22
"""Resampled values held at once by the bootstrap (32 MB of float64)."""


def wilson(successes: int, count: int, confidence: float = 0.95) -> Interval:
    """A proportion with its Wilson score interval, which stays within 0 to 1 and has a width even at 0 and `count`.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209-212;
    recommended for all sizes by L. D. Brown, T. T. Cai, A. DasGupta, Statistical Science 16 (2001), 101-133, equation 4.

    Args:
        successes: 0 to `count`.
        count: trials, at least 1.
        confidence: two-sided, above 0 and below 1.

    Raises:
        ValueError: the counts or the confidence are out of range.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"{successes} of {count} is not a proportion")
    z = _two_sided_z(confidence)
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # The formula gives exactly 0 and 1 at the ends; floating point may miss them by one step.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return Interval(share, low, high)


def paired_difference(lost: int, won: int, count: int) -> Interval:
    """The difference of two proportions on the same images, (won - lost) / count, with Tango's 95% score interval.

    The score interval was chosen because it needs only the discordant counts, never leaves -1 to 1, and does not collapse to a
    point if nothing was lost or won (with 0 and 0 of n it is +-z^2/(n + z^2)), as the Wald interval does.

    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
    Statistics in Medicine 17 (1998), 891-908; recommended by M. W. Fagerland, S. Lydersen, P. Laake, Statistics in Medicine 33
    (2014), 2850-2875. The limits are the two roots of |score(delta)| = z, found by bisection.

    Args:
        lost: images that the first network has right and the second has wrong.
        won: the other way round.
        count: images, at least 1.

    Returns:
        Proportions, -1 to 1; times 100 they are percentage points.

    Raises:
        ValueError: the counts are out of range.
    """
    if count < 1 or lost < 0 or won < 0 or lost + won > count:
        raise ValueError(f"{lost} lost and {won} won of {count} are not paired counts")
    z = _two_sided_z(0.95)
    difference = (won - lost) / count
    low = _falling_root(lambda delta: float(tango_score(lost, won, count, delta)) - z, -1.0, difference)
    high = _falling_root(lambda delta: float(tango_score(lost, won, count, delta)) + z, difference, 1.0)
    return Interval(difference, low, high)


def mean_difference(values: NDArray[np.float64], others: NDArray[np.float64]) -> Interval:
    """The mean of `values - others`, (N,) each, of the same images, with its 95% interval by the normal approximation:
    mean +- z * s / sqrt(N), s being the standard deviation of the differences. One image alone tells no interval: it is infinite.
    """
    differences = values - others
    count, mean = len(differences), float(differences.mean())
    half = _two_sided_z(0.95) * float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return Interval(mean, mean - half, mean + half)


def least_drop_pp(count: int) -> float:
    """The upper 95% bound of a drop if none of `count` images changes its class, percentage points.

    Without discordant pairs, Tango's interval of a paired difference ends where Wilson's of an agreement does, at z^2 / (n + z^2).
    """
    return 100 * (1 - wilson(count, count).low)


def images_needed(max_drop_pp: float) -> int:
    """The smallest number of images whose `least_drop_pp` is at most this."""
    share = least_drop_pp(1) / 100
    count = math.ceil(share / (1 - share) * (100 / max_drop_pp - 1))
    return count if least_drop_pp(count) <= max_drop_pp else count + 1


def tango_score(lost: Counts, won: Counts, count: int, delta: float) -> NDArray[np.float64]:
    """Tango's score statistic of the hypothesis that the true difference, (won - lost) / count, is `delta`.

    It falls as `delta` grows, and is infinite where the hypothesis rules out what was seen. Source: see `paired_difference`.

    Args:
        lost: a number of images, or (N,) of them.
        won: likewise.
        count: images.
        delta: -1 to 1.

    Returns:
        () or (N,) float64.
    """
    a = 2.0 * count
    b = -lost - won + (2.0 * count - won + lost) * delta
    c = -lost * delta * (1.0 - delta)
    lost_share = (np.sqrt(np.maximum(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = np.maximum(0.0, count * (2 * lost_share + delta * (1.0 - delta)))
    distance = np.asarray(won - lost - count * delta, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / np.sqrt(variance))


def _falling_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero between `low` and `high`, to the last bits of a double."""
    for _ in range(60):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def bootstrap_ratio(
    numerator_samples: Sequence[float] | NDArray[np.int64],
    denominator_samples: Sequence[float] | NDArray[np.int64],
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """The ratio of two medians with a 95% percentile bootstrap interval; sample i of both comes from the same round.

    Whole rounds are resampled, so whatever slowed both in a round (another process, a lower clock) stays in both.

    Source: B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13 (percentile interval).

    Args:
        numerator_samples: (n,) any unit, above 0.
        denominator_samples: (n,) the same unit, above 0.
        seed: the same seed gives the same interval.
        resamples: bootstrap draws.

    Raises:
        ValueError: no samples, different lengths, or a sample that is not above 0.
    """
    numerator = np.asarray(numerator_samples, dtype=np.float64)
    denominator = np.asarray(denominator_samples, dtype=np.float64)
    if numerator.ndim != 1 or numerator.shape != denominator.shape or numerator.size == 0:
        raise ValueError(f"paired samples of shapes {numerator.shape} and {denominator.shape}")
    if numerator.min() <= 0 or denominator.min() <= 0:
        raise ValueError("a sample is not above 0")
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK_VALUES // numerator.size)
    ratios = []
    for start in range(0, resamples, rows):
        rounds = generator.integers(0, numerator.size, size=(min(rows, resamples - start), numerator.size))
        ratios.append(np.median(numerator[rounds], axis=1) / np.median(denominator[rounds], axis=1))
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return Interval(float(np.median(numerator) / np.median(denominator)), float(low), float(high))


def _two_sided_z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)
