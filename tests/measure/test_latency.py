"""Timing on a clock that the tests turn."""

from __future__ import annotations

import gc
import os
from collections import Counter
from itertools import pairwise

import pytest

from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.measure.latency import balanced_orders, latency_of, measure_latency, pinned


class Bench:
    """Sessions that advance a clock by their cost and note who ran."""

    def __init__(self, **costs_ns):
        self.now_ns = 0
        self.ran = []
        self.sessions = {name: self._session(name, cost_ns) for name, cost_ns in costs_ns.items()}

    def _session(self, name, cost_ns):
        def infer():
            self.ran.append(name)
            self.now_ns += cost_ns

        return infer

    def clock(self):
        return self.now_ns


def test_every_sample_is_the_sessions_own():
    bench = Bench(slow=7_000_000, fast=2_000_000)
    samples = measure_latency(bench.sessions, warmup=3, rounds=5, clock=bench.clock)
    assert samples == {"slow": (7_000_000,) * 5, "fast": (2_000_000,) * 5}


def test_all_warm_up_before_the_first_sample():
    bench = Bench(a=1, b=1)
    measure_latency(bench.sessions, warmup=4, rounds=2, clock=bench.clock)
    assert Counter(bench.ran[:8]) == {"a": 4, "b": 4}
    assert len(bench.ran) == 12


def test_a_round_runs_each_once():
    bench = Bench(a=1, b=2, c=3)
    measure_latency(bench.sessions, warmup=0, rounds=7, clock=bench.clock)
    rounds = [bench.ran[start : start + 3] for start in range(0, len(bench.ran), 3)]
    assert len(rounds) == 7
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) == 6


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_no_session_always_follows_the_same_neighbour(count):
    orders = balanced_orders(count)
    followers = Counter(pair for order in orders for pair in pairwise(order))
    assert len(followers) == count * (count - 1)
    assert len(set(followers.values())) == 1
    places = Counter((place, session) for order in orders for place, session in enumerate(order))
    assert len(places) == count * count
    assert len(set(places.values())) == 1


def test_progress_counts_rounds():
    bench, told = Bench(a=1), []
    measure_latency(bench.sessions, warmup=0, rounds=3, clock=bench.clock, progress=lambda *step: told.append(step))
    assert told == [("timing", 1, 3), ("timing", 2, 3), ("timing", 3, 3)]


def test_no_sessions():
    assert measure_latency({}) == {}


@pytest.mark.parametrize("options", [{"warmup": -1}, {"rounds": 0}])
def test_refuses_impossible_plans(options):
    with pytest.raises(BadInput, match="nothing to time"):
        measure_latency({"a": lambda: None}, **options)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_rests_and_comes_back(enabled):
    seen = []
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        measure_latency({"a": lambda: seen.append(gc.isenabled())}, warmup=0, rounds=1, clock=lambda: 0)
        with pytest.raises(ZeroDivisionError):
            measure_latency({"a": lambda: 1 // 0}, warmup=0, rounds=1, clock=lambda: 0)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()
    assert seen == [False]


def test_latency_by_hand():
    samples = [1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]
    latency = latency_of(samples, warmup_count=10, batch=2, threads=1, baseline_ns=[3 * sample for sample in samples])
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms) == (3.0, pytest.approx(4.6), pytest.approx(4.96))
    assert (latency.samples_ns, latency.warmup_count, latency.batch, latency.threads) == (tuple(samples), 10, 2, 1)
    assert latency.speedup is not None
    assert (latency.speedup.value, latency.speedup.low, latency.speedup.high) == (3.0, 3.0, 3.0)


def test_latency_without_baseline():
    assert latency_of([5], warmup_count=0, batch=1, threads=1).speedup is None


def test_a_baseline_of_other_rounds_is_refused():
    with pytest.raises(ValueError):
        latency_of([5, 6], warmup_count=0, batch=1, threads=1, baseline_ns=[5])


class FakeScheduler:
    """Stands for the operating system's affinity calls."""

    def __init__(self, monkeypatch, cpus):
        self.cpus = set(cpus)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(self.cpus), raising=False)
        monkeypatch.setattr(os, "sched_setaffinity", self._set, raising=False)

    def _set(self, _, cpus):
        self.cpus = set(cpus)


def test_pinned_restores(monkeypatch):
    scheduler = FakeScheduler(monkeypatch, {0, 1, 2, 3})
    inside = []

    def work():
        with pinned((1, 2)):
            inside.append(scheduler.cpus)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert inside == [{1, 2}]
    assert scheduler.cpus == {0, 1, 2, 3}


def test_pinned_to_nothing_in_particular(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pinned(None):
        pass


@pytest.mark.parametrize(("cpus", "named"), [((0, 9), "cpu `9`"), ((), r"`\(\)`")])
def test_pinned_refuses(monkeypatch, cpus, named):
    scheduler = FakeScheduler(monkeypatch, {0, 1})
    with pytest.raises(BadInput, match=named) as error, pinned(cpus):
        pass
    assert error.value.hint == "choose from 0, 1"
    assert scheduler.cpus == {0, 1}


def test_pinned_where_the_system_cannot(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(Unavailable), pinned((0,)):
        pass


def test_two_halves_that_differ_are_unsteady():
    quiet = [1_000_000 + 1_000 * (step % 7) for step in range(60)]
    assert not latency_of(quiet, warmup_count=0, batch=1, threads=1).unsteady
    drifting = quiet[:30] + [2 * sample for sample in quiet[30:]]
    found = latency_of(drifting, warmup_count=0, batch=1, threads=1)
    assert found.unsteady
    assert found.repeat.value == pytest.approx(0.5, rel=0.01)
    assert latency_of(drifting[25:35], warmup_count=0, batch=1, threads=1).repeat is None


@pytest.mark.parametrize(
    ("load", "threads", "rounds", "busy"),
    [
        (0.9, 1, 60, False),
        (1.2, 1, 60, False),
        (1.3, 1, 60, True),
        (0.3, 2, 60, True),
        (0.1, 2, 60, False),
        (1.9, 2, 10, False),
        (None, 2, 60, False),
    ],
)
def test_a_machine_with_more_to_do_than_cores_is_busy(load, threads, rounds, busy):
    found = latency_of([1_000_000] * rounds, warmup_count=0, batch=1, threads=threads, other_load=load, cores=2)
    assert (found.busy, found.other_load) == (busy, load)
