"""Decisions on answers: examples, scipy as the oracle, error rates computed exactly."""

from __future__ import annotations

import numpy as np
import pytest

from squeeze_export.gate.paired import Paired, agreeing, decide_agreement, decide_drop, paired


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
    assert decide_drop(answers, 1.0).state == state


def test_agreement_of_99_percent_is_asked_for():
    states = [decide_agreement(same, 1000, 99.0).state for same in (970, 990, 1000)]
    assert states == ["failed", "undecided", "passed"]
