"""Decisions on times: on a clock that the tests turn, and on drawn noise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from squeeze_export.errors import BadInput
from squeeze_export.gate.timing import FEWEST_ROUNDS, Rounds, decide_slowdown, palindromes, percent_slower, timed_rounds


class Machine:
    """Gives rounds with noise, and the candidate slower by a share that may differ from one measurement to the next."""

    def __init__(self, *slowdowns, scatter=0.02, control=0.0, seed=0):
        self.slowdowns, self.scatter, self.control = slowdowns, scatter, control
        self.generator = np.random.default_rng(seed)
        self.asked = []

    def __call__(self, rounds):
        slowdown = self.slowdowns[min(len(self.asked), len(self.slowdowns) - 1)]
        self.asked.append(rounds)
        common = 1 + 0.5 * self.generator.random((rounds, 1, 1))  # of all three
        base, candidate, control = (
            (5e6 * common * (1 + share) * np.exp(self.generator.normal(0, self.scatter, (rounds, 2, 3)))).astype(np.int64)
            for share in (0, slowdown, self.control)
        )
        return Rounds(base, candidate, control)


def test_every_pair_of_sessions_drifts_alike():
    """In each round, A stands on average where B does; over the rounds, each leads equally often."""
    orders = palindromes(3, 4)
    assert orders[0] == (0,) * 4 + (1,) * 4 + (2,) * 8 + (1,) * 4 + (0,) * 4
    assert all(order == order[::-1] for order in orders)
    assert all(
        np.mean([place for place, who in enumerate(order) if who == index]) == 11.5 for order in orders for index in range(3)
    )
    assert sorted(order[0] for order in orders) == [0, 1, 2]


def test_samples_are_sorted_to_their_session_round_and_block():
    now_ns, ran = [0], []

    def session(name, cost_ns):
        def infer():
            ran.append(name)
            now_ns[0] += cost_ns + len(ran)

        return infer

    found = timed_rounds(session("a", 1000), session("b", 5000), session("c", 9000), rounds=4, block=3, clock=lambda: now_ns[0])
    for samples, cost_ns in ((found.base, 1000), (found.candidate, 5000), (found.control, 9000)):
        assert samples.shape == (4, 2, 3)
        taken = samples.ravel() - cost_ns
        assert (np.diff(taken) > 0).all()
    assert "".join(ran[-72:-54]) == "aaabbbccccccbbbaaa"
    assert "".join(ran[-54:-36]) == "bbbcccaaaaaacccbbb"
    assert "".join(ran[-18:]) == "aaabbbccccccbbbaaa"


def test_a_steady_drift_is_no_slow_down():
    """Each inference takes longer than the one before: on A A B B the second would seem slower."""
    now_ns, count = [0], [0]

    def infer():
        count[0] += 1
        now_ns[0] += 1_000_000 + 100 * count[0]

    found = decide_slowdown(
        lambda rounds: timed_rounds(infer, infer, infer, rounds=rounds, clock=lambda: now_ns[0]), 1.0, rounds=FEWEST_ROUNDS
    )
    assert found.state == "passed"
    assert abs(found.slowdown.value) < 0.05


@pytest.mark.parametrize(
    ("slowdown", "state"), [(0.0, "passed"), (-0.2, "passed"), (0.05, "undecided"), (0.08, "failed"), (0.15, "failed")]
)
def test_five_percent_is_allowed(slowdown, state):
    found = decide_slowdown(Machine(slowdown), 5.0)
    assert found.state == state
    assert found.slowdown.low < 100 * slowdown < found.slowdown.high
    assert not found.cleared
    assert (found.more_rounds is None) == (state != "undecided")


def test_an_alert_is_confirmed_on_twice_as_many_fresh_rounds():
    machine = Machine(0.15)
    assert decide_slowdown(machine, 5.0, rounds=20).state == "failed"
    assert machine.asked == [20, 40]


def test_an_alert_that_does_not_hold_is_cleared():
    found = decide_slowdown(Machine(0.15, 0.0), 5.0)
    assert (found.state, found.cleared) == ("passed", True)
    assert found.slowdown.high < 5


def test_an_alert_whose_fresh_rounds_show_nothing_is_not_cleared():
    found = decide_slowdown(Machine(0.15, 0.05), 5.0)
    assert (found.state, found.cleared) == ("undecided", False)


def test_without_an_alert_nothing_is_timed_again():
    machine = Machine(0.0)
    decide_slowdown(machine, 5.0, rounds=20)
    assert machine.asked == [20]


@pytest.mark.parametrize("control", [0.06, -0.06])
def test_a_control_that_differs_from_its_twin_widens_the_bound(control):
    """8% is found, but not where the base's own file seems 6% slower or faster than itself."""
    found = decide_slowdown(Machine(0.08, control=control), 5.0)
    assert found.state == "undecided"
    assert found.noise == pytest.approx(6, abs=1)
    assert found.control.low < 100 * control < found.control.high
    assert decide_slowdown(Machine(0.2, control=control), 5.0).state == "failed"


def test_a_noisy_machine_is_undecided_and_not_passed():
    found = decide_slowdown(Machine(0.0, scatter=0.5), 5.0, rounds=20)
    assert found.state == "undecided"
    assert found.more_rounds is not None


def test_faster_and_slower_are_mirrors():
    logs = np.random.default_rng(0).normal(0.1, 0.05, 41)
    one, other = percent_slower(logs), percent_slower(-logs)
    assert one.value == pytest.approx(100 * np.expm1(np.median(logs)))
    assert (1 + one.value / 100) * (1 + other.value / 100) == pytest.approx(1)
    assert (1 + one.low / 100) * (1 + other.high / 100) == pytest.approx(1, abs=0.01)


def test_slower_rounds_are_a_larger_slow_down():
    logs = np.random.default_rng(0).normal(0, 0.05, 30)
    found = [percent_slower(logs + shift) for shift in (0.0, 0.01, 0.1)]
    for one, next_one in pairwise(found):
        assert one.low < next_one.low
        assert one.value < next_one.value
        assert one.high < next_one.high


def test_the_limits_hold_as_often_as_they_say():
    """Times with rare large disturbances, as on a shared machine: 500 runs."""
    generator = np.random.default_rng(3)
    outside = {"low": 0, "high": 0}
    for _ in range(500):
        logs = generator.standard_t(2, 40) * 0.02
        found = percent_slower(logs)
        outside["low"] += found.low > 0
        outside["high"] += found.high < 0
    assert max(outside.values()) <= 40  # 25 expected, and three standard deviations


def test_the_same_rounds_give_the_same_decision():
    assert decide_slowdown(Machine(0.03), 2.0) == decide_slowdown(Machine(0.03), 2.0)


@pytest.mark.parametrize(("bound", "rounds"), [(-1.0, 20), (5.0, FEWEST_ROUNDS - 1)])
def test_a_bound_or_rounds_out_of_range_are_refused(bound, rounds):
    with pytest.raises(ValueError, match="nothing to decide"):
        decide_slowdown(Machine(0.0), bound, rounds=rounds)


def test_no_rounds_are_refused():
    with pytest.raises(BadInput, match="nothing to time"):
        timed_rounds(*[lambda: None] * 3, rounds=0)
