"""Intervals: examples worked by hand, scipy as the oracle, coverage computed exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from squeeze_export.measure.statistics import (
    bootstrap_ratio,
    images_needed,
    least_drop_pp,
    mean_difference,
    paired_difference,
    wilson,
)

Z = 1.959963984540054


def test_wilson_by_hand():
    # 81 of 263 (Newcombe 1998, table I, method 3): 0.2553 to 0.3662.
    interval = wilson(81, 263)
    assert interval.value == 81 / 263
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


def test_wilson_at_the_ends():
    # With nothing right the formula shortens to z^2 / (n + z^2).
    assert wilson(0, 10).low == 0.0
    assert wilson(0, 10).high == pytest.approx(Z**2 / (10 + Z**2))
    assert wilson(10, 10).high == 1.0


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_equals_scipy(counts, confidence):
    successes, count = counts
    interval = wilson(successes, count, confidence)
    oracle = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    assert interval.low == pytest.approx(oracle.low, abs=1e-12)
    assert interval.high == pytest.approx(oracle.high, abs=1e-12)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


@pytest.mark.parametrize("arguments", [(1, 0), (-1, 4), (5, 4), (1, 2, 0.0), (1, 2, 1.0)])
def test_wilson_refuses_what_is_no_proportion(arguments):
    with pytest.raises(ValueError):
        wilson(*arguments)


def test_mean_difference_by_hand():
    found = mean_difference(np.array([2.0, 4.0, 6.0]), np.array([1.0, 1.0, 1.0]))
    assert found.value == 3.0
    assert (found.low, found.high) == pytest.approx((3 - 1.959964 * 2 / 3**0.5, 3 + 1.959964 * 2 / 3**0.5))


def test_one_image_alone_tells_no_interval():
    found = mean_difference(np.array([2.0]), np.array([1.5]))
    assert (found.value, found.low, found.high) == (0.5, -math.inf, math.inf)


def test_tango_published_example():
    # Airway hyper-responsiveness before and after stem cell transplantation, 7 against 1 of 21: Fagerland et al. (2014).
    interval = paired_difference(7, 1, 21)
    assert (round(interval.value, 3), round(interval.low, 3), round(interval.high, 3)) == (-0.286, -0.517, -0.026)


def test_tango_without_discordant_images_is_no_point():
    interval = paired_difference(0, 0, 100)
    assert interval.value == 0
    assert interval.high == pytest.approx(Z**2 / (100 + Z**2), abs=1e-9)
    assert interval.low == pytest.approx(-interval.high, abs=1e-12)


def test_tango_when_everything_is_lost():
    interval = paired_difference(21, 0, 21)
    assert interval.value == interval.low == -1
    assert -1 < interval.high < 0


@given(st.integers(2, 400).flatmap(lambda n: st.tuples(st.integers(0, n // 2), st.integers(0, n // 2), st.just(n))))
def test_tango_is_mirrored_and_inside(counts):
    lost, won, count = counts
    interval, mirrored = paired_difference(lost, won, count), paired_difference(won, lost, count)
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low == pytest.approx(-mirrored.high, abs=1e-9)
    assert interval.high == pytest.approx(-mirrored.low, abs=1e-9)
    # Zero is inside exactly where McNemar's score test does not reject.
    if lost + won:
        mcnemar = abs(won - lost) / math.sqrt(lost + won)
        if abs(mcnemar - Z) > 1e-6:
            assert (interval.low < 0 < interval.high) == (mcnemar < Z)


@pytest.mark.parametrize(("lost", "won", "count"), [(12, 11, 875), (7, 1, 21), (3, 40, 160), (1, 2, 50)])
def test_tango_limits_solve_the_score_equation(lost, won, count):
    """The nuisance share is maximized numerically here, where the module has the quadratic's closed form."""

    def score(delta):
        def minus_log_likelihood(share):
            both = (lost, share), (won, share + delta), (count - lost - won, 1 - 2 * share - delta)
            return -sum(number * math.log(max(probability, 1e-300)) for number, probability in both)

        bounds = (max(0.0, -delta) + 1e-12, (1 - delta) / 2 - 1e-12)
        share = optimize.minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        return (won - lost - count * delta) / math.sqrt(count * (2 * share + delta - delta**2))

    interval = paired_difference(lost, won, count)
    assert score(interval.low) == pytest.approx(Z, abs=1e-4)
    assert score(interval.high) == pytest.approx(-Z, abs=1e-4)


def test_tango_covers_the_truth():
    """Coverage over every possible outcome of 40 images, exactly, by the multinomial distribution."""
    count = 40
    outcomes = [(lost, won) for lost in range(count + 1) for won in range(count + 1 - lost)]
    intervals = [paired_difference(lost, won, count) for lost, won in outcomes]
    lows, highs = np.array([i.low for i in intervals]), np.array([i.high for i in intervals])
    table = np.array([(lost, won, count - lost - won) for lost, won in outcomes])
    coverages = []
    for lost_share in (0.01, 0.03, 0.1, 0.2, 0.35):
        for won_share in (0.01, 0.03, 0.1, 0.2, 0.35):
            weight = stats.multinomial.pmf(table, count, [lost_share, won_share, 1 - lost_share - won_share])
            truth = won_share - lost_share
            coverages.append(weight[(lows <= truth) & (truth <= highs)].sum())
    assert min(coverages) > 0.92
    assert 0.945 < np.mean(coverages) < 0.985


@pytest.mark.parametrize("arguments", [(1, 1, 0), (-1, 0, 5), (0, -1, 5), (3, 3, 5)])
def test_paired_difference_refuses_what_is_no_count(arguments):
    with pytest.raises(ValueError):
        paired_difference(*arguments)


def test_bootstrap_by_hand():
    # Every round has the ratio 3, so any set of rounds has; what slowed both cancels.
    slow = np.array([1, 2, 5, 9, 3] * 6) * 1000
    interval = bootstrap_ratio(3 * slow, slow)
    assert (interval.value, interval.low, interval.high) == (3.0, 3.0, 3.0)


def test_bootstrap_equals_scipy():
    generator = np.random.default_rng(5)
    numerator, denominator = 9e6 + 4e5 * generator.standard_normal(60), 3e6 + 2e5 * generator.standard_normal(60)
    interval = bootstrap_ratio(numerator, denominator, resamples=4000)
    oracle = stats.bootstrap(
        (numerator, denominator),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        vectorized=True,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert interval.value == np.median(numerator) / np.median(denominator)
    assert interval.low == pytest.approx(oracle.low, rel=0.005)
    assert interval.high == pytest.approx(oracle.high, rel=0.005)


def test_bootstrap_is_repeatable_in_any_chunking(monkeypatch):
    numerator, denominator = [5, 6, 7, 8, 9, 30], [2, 3, 2, 3, 2, 9]
    whole = bootstrap_ratio(numerator, denominator, seed=3)
    assert whole == bootstrap_ratio(numerator, denominator, seed=3)
    monkeypatch.setattr("squeeze_export.measure.statistics._CHUNK_VALUES", 60)
    assert bootstrap_ratio(numerator, denominator, seed=3) == whole


@pytest.mark.parametrize(("numerator", "denominator"), [([], []), ([1], [1, 2]), ([0, 1], [1, 1]), ([1, 1], [1, -1])])
def test_bootstrap_refuses_unpaired_or_impossible_samples(numerator, denominator):
    with pytest.raises(ValueError):
        bootstrap_ratio(numerator, denominator)


@pytest.mark.parametrize("count", [1, 8, 472, 10_000])
def test_the_least_bound_is_that_of_both_intervals(count):
    assert least_drop_pp(count) == pytest.approx(-100 * paired_difference(0, 0, count).low)
    assert least_drop_pp(count) == pytest.approx(100 * (1 - wilson(count, count).low))


@pytest.mark.parametrize("max_drop_pp", [0.1, 0.5, 1.0, 3.0, 50.0])
def test_the_number_of_images_needed_is_the_smallest(max_drop_pp):
    count = images_needed(max_drop_pp)
    assert least_drop_pp(count) <= max_drop_pp
    assert count == 1 or least_drop_pp(count - 1) > max_drop_pp
