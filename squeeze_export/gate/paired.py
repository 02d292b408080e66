"""Whether a network got worse, from what two networks answered to the same images.

A bound is neither kept nor broken until it is *shown*: each of the two statements, "the drop is larger than allowed" and "it is
not", is made only if its exact test rejects the other at `LEVEL`. In between stands `undecided`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import require
from squeeze_export.gate.evidence import LEVEL, more_needed
from squeeze_export.gate.results import State
from squeeze_export.measure.statistics import tango_score
from squeeze_export.results import NOT_RUN, Interval

_LEFT_OUT = 0.001
"""The part of `LEVEL` that an interval of the share of changing images leaves out."""
_SHARES = 20
"""Shares tried in this interval."""


@dataclass(frozen=True)
class Paired:
    """What two networks got right on the same images.

    Attributes:
        lost: images that the first has right and the second has wrong.
        won: the other way round.
        count: images that both ran and that have a label.
    """

    lost: int
    won: int
    count: int


@dataclass(frozen=True)
class Decided:
    """What was shown.

    Attributes:
        state: `failed`: shown that the bound is broken; `passed`: shown that it is kept; else `undecided`.
        interval: the drop in percentage points, or the agreement in percent. Each limit holds by itself with at least 95%
            confidence, so `failed` and `passed` are those that leave the bound outside.
        more_images: that would probably decide, to two digits; None if decided, or if no number of images would.
        changed_p: exact McNemar: how often this many lost and won come about where nothing changed; 1 for agreements.
    """

    state: State
    interval: Interval
    more_images: int | None = None
    changed_p: float = 1.0


def paired(before: NDArray[np.int64], after: NDArray[np.int64], best: int = 1) -> Paired:
    """Compares two `Answers.label_rank`.

    Args:
        before: (N,) place of the label among the best five of the first network; `NOT_RUN` without a label, or not run.
        after: (N,) likewise of the second.
        best: 1 counts top-1, 5 top-5.
    """
    both = (before != NOT_RUN) & (after != NOT_RUN)
    right, still = before[both] < best, after[both] < best
    return Paired(int((right & ~still).sum()), int((~right & still).sum()), int(both.sum()))


def agreeing(before: NDArray[np.int64], after: NDArray[np.int64]) -> tuple[int, int]:
    """Compares two `Answers.top1`, (N,) each: images with the same class, and images that both ran."""
    both = (before != NOT_RUN) & (after != NOT_RUN)
    return int((before[both] == after[both]).sum()), int(both.sum())


def decide_drop(answers: Paired, max_drop_pp: float) -> Decided:
    """Whether the share of right answers dropped by more than `max_drop_pp`, percentage points, 0 to 100.

    Raises:
        NotInstalled: scipy is not.
        ValueError: no images, or a bound out of range.
    """
    lost, won, count = answers.lost, answers.won, answers.count
    if count < 1 or not 0 <= max_drop_pp <= 100:
        raise ValueError(f"{count} images, a drop of at most {max_drop_pp} pp: nothing to decide")
    state = drop_state(answers, max_drop_pp)
    interval = Interval(100 * (lost - won) / count, 100 * _least_drop(lost, won, count), -100 * _least_drop(won, lost, count))
    more = more_images(answers, max_drop_pp) if state == "undecided" else None
    stats = require("scipy.stats", "gate")
    changed_p = float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    return Decided(state, interval, more, changed_p)


def drop_state(answers: Paired, max_drop_pp: float) -> State:
    """`decide_drop`'s state alone, which takes a tenth of the time."""
    lost, won, count = answers.lost, answers.won, answers.count
    if chance_of_lost(lost, won, count, max_drop_pp / 100) <= LEVEL:
        return "failed"
    return "passed" if chance_of_lost(won, lost, count, -max_drop_pp / 100) <= LEVEL else "undecided"


def more_images(answers: Paired, max_drop_pp: float) -> int | None:
    """`Decided.more_images` of answers that are undecided."""
    drop = (answers.lost - answers.won) / answers.count
    # Without a discordant image yet, the next one is taken to be the first.
    spread = math.sqrt((max(answers.lost + answers.won, 1) / answers.count - drop * drop) / answers.count)
    return more_needed(answers.count, spread, drop - max_drop_pp / 100)


def decide_agreement(same: int, count: int, min_agreement: float) -> Decided:
    """Whether at least `min_agreement` percent, 0 to 100, of all images get the same class: exact binomial tests.

    Args:
        same: of the images, how many got the same class.
        count: images, at least 1.
        min_agreement: percent.

    Raises:
        NotInstalled: scipy is not.
        ValueError: no images, or a bound out of range.
    """
    if count < 1 or not 0 <= min_agreement <= 100:
        raise ValueError(f"{count} images, at least {min_agreement}% alike: nothing to decide")
    stats = require("scipy.stats", "gate")
    bound = min_agreement / 100
    state: State = "undecided"
    if stats.binom.cdf(same, count, bound) <= LEVEL:
        state = "failed"
    elif stats.binom.sf(same - 1, count, bound) <= LEVEL:
        state = "passed"
    low, high = _limits(same, count, LEVEL)
    share = same / count
    spread = math.sqrt(max(share * (1 - share), 1 / count) / count)
    more = more_needed(count, spread, share - bound) if state == "undecided" else None
    return Decided(state, Interval(100 * share, 100 * low, 100 * high), more)


def chance_of_lost(lost: int, won: int, count: int, drop: float) -> float:
    """How often at least as much speaks for a drop larger than `drop` where the true drop is `drop`, or less: an exact test.

    What speaks for a drop is ordered by Tango's score. Its distribution under the hypothesis depends on how many images change
    at all; the largest chance over a 99.9% interval of this share is taken, and the 0.1% added. So the test errs at most as
    often as its level says with any number of images, however few changed.

    Source: K. Sidik, "Exact unconditional tests for testing non-inferiority in matched-pairs design", Statistics in Medicine 22
    (2003), 265-278; the interval: R. L. Berger, D. D. Boos, "P values maximized over a confidence set for the nuisance
    parameter", JASA 89 (1994), 1012-1016.

    Args:
        lost: images that the first network has right and the second has wrong.
        won: the other way round.
        count: images, at least 1.
        drop: share, -1 to 1.
    """
    if lost - won <= count * drop:
        return 1.0
    stats = require("scipy.stats", "gate")
    least, high = _limits(lost + won, count, _LEFT_OUT / 2)
    low = max(least, abs(drop))
    if low > high:  # fewer changed than any such gain needs
        return _LEFT_OUT
    changing = np.linspace(low, high, _SHARES)[:, None]  # (S, 1)
    lose, win = (changing + drop) / 2, (changing - drop) / 2
    first, last = stats.binom.ppf(1e-9, count, win.min()), stats.binom.isf(1e-9, count, win.max())
    wins = np.arange(int(first), int(last) + 1)  # (W,)
    fewest = _least_lost(float(tango_score(lost, won, count, -drop)), wins, count, drop)
    rest = np.divide(lose, 1 - win, out=np.ones_like(lose), where=win < 1)
    chances = stats.binom.pmf(wins, count, win) * stats.binom.sf(fewest - 1, count - wins, np.minimum(rest, 1))
    return float(min(1.0, chances.sum(axis=1).max() + _LEFT_OUT))


def _limits(seen: int, count: int, level: float) -> tuple[float, float]:
    """A share's exact limits, each wrong with a chance of at most `level`: C. J. Clopper, E. S. Pearson, Biometrika 26 (1934)."""
    beta = require("scipy.stats", "gate").beta
    low = float(beta.ppf(level, seen, count - seen + 1)) if seen > 0 else 0.0
    return low, float(beta.isf(level, seen + 1, count - seen)) if seen < count else 1.0


def _least_lost(score: float, wins: NDArray[np.int64], count: int, drop: float) -> NDArray[np.int64]:
    """For each number won (W,) the least number lost whose score is at most `score`; one more than possible if none is."""
    low, high = np.zeros_like(wins), count - wins + 1
    while (low < high).any():
        middle = (low + high) // 2
        speaks = (tango_score(middle, wins, count, -drop) <= score + 1e-9) | (middle > count - wins)
        low, high = np.where(speaks, low, middle + 1), np.where(speaks, middle, high)
    return low


def _least_drop(lost: int, won: int, count: int) -> float:
    """The lower limit of the drop: the largest that `chance_of_lost` rejects."""
    optimize = require("scipy.optimize", "gate")
    if lost == 0 and won == count:
        return -1.0
    return float(
        optimize.brentq(lambda drop: chance_of_lost(lost, won, count, drop) - LEVEL, -1.0, (lost - won) / count, xtol=1e-6)
    )
