"""Decisions on answers: examples, scipy as the oracle, error rates computed exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from squeeze_export.gate.evidence import LEVEL, more_needed
from squeeze_export.gate.paired import Paired, agreeing, chance_of_lost, decide_agreement, decide_drop, drop_state, paired

pairs = st.integers(5, 120).flatmap(lambda count: st.tuples(st.integers(0, count // 2), st.integers(0, count // 2), st.just(count)))


def test_only_images_that_both_answered_count():
    before, after = np.array([0, 0, 3, -1, 0, 5]), np.array([0, 2, 0, 0, -1, 5])
    assert paired(before, after) == Paired(lost=1, won=1, count=4)
    assert paired(before, after, best=5) == Paired(lost=0, won=0, count=4)
    assert agreeing(np.array([7, 8, -1, 9]), np.array([7, 9, 3, 9])) == (2, 3)


@pytest.mark.parametrize(
    ("answers", "state"),
    [(Paired(150, 50, 5000), "failed"), (Paired(50, 50, 5000), "passed"), (Paired(8, 10, 472), "undecided")],
)
def test_a_drop_of_one_point_is_allowed(answers, state):
    found = decide_drop(answers, 1.0)
    assert found.state == drop_state(answers, 1.0) == state
    assert (found.more_images is None) == (state != "undecided")


def test_500_images_cannot_tell_two_tenths_of_a_point():
    found = decide_drop(Paired(12, 11, 500), 0.2)
    assert found.state == "undecided"
    assert decide_drop(Paired(12, 11, 500), 5.0).state == "passed"


def test_mcnemars_test_is_scipys():
    assert decide_drop(Paired(20, 8, 472), 1.0).changed_p == stats.binomtest(20, 28).pvalue
    assert decide_drop(Paired(0, 0, 472), 1.0).changed_p == 1.0


@pytest.mark.parametrize(("count", "drop"), [(12, 0.0), (12, 0.2), (20, 0.0), (20, 0.05), (20, 0.2)])
def test_it_says_broken_of_a_kept_bound_no_more_often_than_its_level(count, drop):
    """All outcomes, weighed by their chance, for every share of changing images."""
    outcomes = [(lost, won) for lost, won in itertools.product(range(count + 1), repeat=2) if lost + won <= count]
    wrong = np.array([(lost, won, count - lost - won) for lost, won in outcomes if chance_of_lost(lost, won, count, drop) <= LEVEL])
    rates = [
        stats.multinomial.pmf(wrong, count, [(changed + drop) / 2, (changed - drop) / 2, 1 - changed]).sum()
        for changed in np.linspace(max(drop, 0.01), 0.99, 25)
    ]
    assert 0.01 < max(rates) <= LEVEL


def test_without_a_win_it_is_the_binomial_test():
    """Where as many images change as the hypothesis says are lost at least, it cannot be far from the one-sided binomial test."""
    for lost in range(4, 12):
        binomial = stats.binomtest(lost, 500, 0.01, "greater").pvalue
        assert binomial - 1e-9 <= chance_of_lost(lost, 0, 500, 0.01) <= 2 * binomial + 0.002


@given(pairs, st.floats(0, 20))
@settings(max_examples=8)
def test_a_gain_and_a_drop_are_mirrors(counts, bound):
    lost, won, count = counts
    one, other = decide_drop(Paired(lost, won, count), bound).interval, decide_drop(Paired(won, lost, count), bound).interval
    assert (one.low, one.value, one.high) == pytest.approx((-other.high, -other.value, -other.low), abs=1e-9)
    assert one.low <= one.value <= one.high


@given(pairs, st.floats(0, 20))
@settings(max_examples=8)
def test_the_state_is_what_the_interval_says(counts, bound):
    lost, won, count = counts
    found = decide_drop(Paired(lost, won, count), bound)
    if found.interval.low > bound + 0.01:
        assert found.state == "failed"
    elif found.interval.high < bound - 0.01:
        assert found.state == "passed"
    elif found.interval.low < bound - 0.01 and found.interval.high > bound + 0.01:
        assert found.state == "undecided"


@given(pairs, st.floats(0, 0.2))
@settings(max_examples=8)
def test_more_lost_speaks_more_for_a_drop(counts, drop):
    lost, won, count = counts
    chances = [chance_of_lost(lost + more, won, count, drop) for more in range(min(4, count - lost - won + 1))]
    assert all(later <= earlier + 1e-3 for earlier, later in itertools.pairwise(chances))


def test_where_almost_nothing_changes_a_bound_is_kept():
    """Far fewer images change than a drop of this size needs."""
    assert [drop_state(Paired(lost, 0, 5000), 1.0) for lost in (0, 1, 5)] == ["passed"] * 3
    assert [drop_state(Paired(0, won, 5000), 1.0) for won in (1, 5)] == ["passed"] * 2


@pytest.mark.parametrize("answers", [Paired(1, 0, 1), Paired(0, 1, 1), Paired(0, 0, 1), Paired(16, 0, 16), Paired(0, 16, 16)])
@pytest.mark.parametrize("bound", [0.0, 1.0, 100.0])
def test_the_ends_are_decided_too(answers, bound):
    found = decide_drop(answers, bound)
    assert -100 <= found.interval.low <= found.interval.value <= found.interval.high <= 100
    assert found.state != "failed" or (bound < 100 and answers.count > 1)


def test_agreement_of_99_percent_is_asked_for():
    states = [decide_agreement(same, 1000, 99.0).state for same in (970, 990, 1000)]
    assert states == ["failed", "undecided", "passed"]


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 99.5))
def test_agreement_is_decided_by_scipys_exact_limits(counts, bound):
    same, count = counts
    found = decide_agreement(same, count, bound)
    oracle = stats.binomtest(same, count).proportion_ci(1 - 2 * LEVEL, method="exact")
    assert (found.interval.low, found.interval.high) == pytest.approx((100 * oracle.low, 100 * oracle.high), abs=1e-6)
    if abs(oracle.low - bound / 100) > 1e-9 and abs(oracle.high - bound / 100) > 1e-9:
        expected = "failed" if oracle.high < bound / 100 else "passed" if oracle.low > bound / 100 else "undecided"
        assert found.state == expected


@pytest.mark.parametrize(("lost", "bound"), [(3, 0.3), (7, 0.7), (29, 2.9)])
def test_at_the_bound_itself_no_number_of_images_decides(lost, bound):
    """Percent and shares are rounded otherwise: 7 / 1000 and 0.7 / 100 are not the same float."""
    found = decide_drop(Paired(lost, 0, 1000), bound)
    assert (found.state, found.more_images) == ("undecided", None)


def test_one_image_with_another_class_is_not_100_percent():
    assert decide_agreement(4999, 5000, 100.0).state == "failed"
    assert decide_agreement(5000, 5000, 100.0).state == "undecided"
    assert decide_agreement(5000, 5000, 100.0).more_images is None


@pytest.mark.parametrize(("lost", "won", "count"), [(9, 6, 472), (30, 10, 1500), (0, 0, 100)])
def test_what_it_asks_for_decides_if_the_rest_is_like_what_was_seen(lost, won, count):
    answers = Paired(lost, won, count)
    more = decide_drop(answers, 1.0).more_images
    assert more is not None
    grown = 1 + more / count
    assert drop_state(Paired(round(lost * grown), round(won * grown), count + more), 1.0) != "undecided"


def test_more_is_rounded_up_to_two_digits():
    assert more_needed(1000, 0.01, 0.01) == 5800  # ((1.751 + 0.842) ^ 2 - 1) * 1000 = 5720
    assert more_needed(1000, 0.01, 0.0) is None
    assert more_needed(1000, 0.01, -0.01) == 5800


@pytest.mark.parametrize("arguments", [(Paired(0, 0, 0), 1.0), (Paired(1, 1, 9), -0.1), (Paired(1, 1, 9), 101.0)])
def test_a_drop_without_images_or_bound_is_refused(arguments):
    with pytest.raises(ValueError, match="nothing to decide"):
        decide_drop(*arguments)


@pytest.mark.parametrize("arguments", [(0, 0, 99.0), (1, 9, -1.0), (1, 9, 101.0)])
def test_an_agreement_without_images_or_bound_is_refused(arguments):
    with pytest.raises(ValueError, match="nothing to decide"):
        decide_agreement(*arguments)
