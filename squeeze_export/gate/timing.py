"""Whether a file got slower than another one, timed beside it in the same job.

Milliseconds of another day or machine are never compared. A round is a palindrome of blocks, A B C C B A, where A is the base, B
the candidate and C the control, the base's file opened once more: each pair of them runs as X Y Y X, so what drifts evenly
cancels. A round's figure is the logarithm of a ratio of times. What the control seems slower or faster than the base is the
machine's noise, and an alert must be larger than the bound and this noise together, twice: on fresh rounds too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Progress, silent
from squeeze_export.gate.evidence import LEVEL, more_needed
from squeeze_export.gate.results import State
from squeeze_export.measure.latency import measure_latency
from squeeze_export.results import Interval

ROUNDS = 60
FEWEST_ROUNDS = 10
BLOCK = 5
"""Inferences in a block, of which the median counts."""


@dataclass(frozen=True, eq=False)
class Rounds:
    """The samples of R rounds, ns: in each, two blocks of K inferences of each session.

    Attributes:
        base: (R, 2, K) int64.
        candidate: likewise.
        control: likewise; the base's file, opened once more.
    """

    base: NDArray[np.int64]
    candidate: NDArray[np.int64]
    control: NDArray[np.int64]


@dataclass(frozen=True)
class SlowdownDecided:
    """What was shown.

    Attributes:
        state: `failed`: shown, twice, that the candidate is slower than the bound and the noise together; `passed`: shown that it
            is within the bound, or an alert was cleared; else `undecided`.
        slowdown: percent, above 0 where the candidate is slower; each limit holds by itself with at least 95% confidence. Of
            the fresh rounds if there were any.
        control: the same of the control, in the same rounds.
        noise: percentage points that the control added to the bound.
        cleared: an alert of the first rounds did not hold on fresh ones.
        more_rounds: that would probably decide; None if decided, or if no number of rounds would.
    """

    state: State
    slowdown: Interval
    control: Interval
    noise: float
    cleared: bool = False
    more_rounds: int | None = None


def timed_rounds(
    base: Callable[[], object],
    candidate: Callable[[], object],
    control: Callable[[], object],
    *,
    rounds: int = ROUNDS,
    block: int = BLOCK,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Progress = silent,
) -> Rounds:
    """Times one inference of each of three sessions, in rounds of blocks.

    Args:
        base: one inference of the base's file.
        candidate: one of the candidate's.
        control: one of the base's file, opened once more.
        rounds: at least 1.
        block: inferences in a block, at least 1.
        clock: nanoseconds, monotonic.
        progress: told after each round.

    Raises:
        BadInput: no rounds.
    """
    sessions = {"base": base, "candidate": candidate, "control": control}
    samples = measure_latency(sessions, rounds=rounds, orders=palindromes(len(sessions), block), clock=clock, progress=progress)
    return Rounds(**{name: np.array(values, np.int64).reshape(rounds, 2, block) for name, values in samples.items()})


def palindromes(count: int, block: int) -> list[tuple[int, ...]]:
    """Orders of `count` sessions in blocks, each the same forwards and backwards: 0 1 2 2 1 0, 1 2 0 0 2 1, 2 0 1 1 0 2."""
    turns = [tuple((first + step) % count for step in range(count)) for first in range(count)]
    return [tuple(index for index in turn + turn[::-1] for _ in range(block)) for turn in turns]


def decide_slowdown(measure: Callable[[int], Rounds], max_slowdown: float, *, rounds: int = ROUNDS) -> SlowdownDecided:
    """Whether the candidate is slower than the base by more than `max_slowdown` percent.

    Args:
        measure: gives this many fresh rounds; after an alert it is called again, for twice as many. It should open the sessions
            anew, since where a session's memory lies may make it slower than its twin.
        max_slowdown: percent, at least 0.
        rounds: of each measurement, at least 10.

    Raises:
        ValueError: the bound or the rounds are out of range.
    """
    if max_slowdown < 0 or rounds < FEWEST_ROUNDS:
        raise ValueError(f"at most {max_slowdown}% slower in {rounds} rounds: nothing to decide")
    found = _judged(measure(rounds), max_slowdown)
    if found.state != "failed":
        return found
    fresh = _judged(measure(2 * rounds), max_slowdown)
    return replace(fresh, cleared=fresh.state == "passed")


def _judged(rounds: Rounds, max_slowdown: float) -> SlowdownDecided:
    """What one measurement shows."""
    base = _log_times(rounds.base)
    slowdown, control = percent_slower(_log_times(rounds.candidate) - base), percent_slower(_log_times(rounds.control) - base)
    noise = abs(control.value)
    if slowdown.low > max_slowdown + noise:
        return SlowdownDecided("failed", slowdown, control, noise)
    if slowdown.high <= max_slowdown:
        return SlowdownDecided("passed", slowdown, control, noise)
    spread = (slowdown.high - slowdown.low) / (2 * NormalDist().inv_cdf(1 - LEVEL))
    more = more_needed(len(base), spread, slowdown.value - max_slowdown)
    return SlowdownDecided("undecided", slowdown, control, noise, more_rounds=more)


def _log_times(samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """(R, 2, K) samples -> (R,) mean logarithm of a round's two block medians."""
    logs: NDArray[np.float64] = np.log(np.median(samples, axis=2)).mean(axis=1)
    return logs


def percent_slower(log_ratios: NDArray[np.float64]) -> Interval:
    """The median of (R,) log ratios as percent slower, with a percentile bootstrap interval; each limit errs in `LEVEL` of cases.

    Source: B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. On real rounds of a busy machine,
    where a few are disturbed a lot, the median's interval was narrower than the mean's, and held as often as it should.
    """
    generator = np.random.default_rng(0)
    draws = np.median(generator.choice(log_ratios, (1000, len(log_ratios))), axis=1)
    low, high = np.percentile(draws, [100 * LEVEL, 100 * (1 - LEVEL)])
    value, low, high = (float(100 * np.expm1(log)) for log in (np.median(log_ratios), low, high))
    return Interval(value, low, high)
