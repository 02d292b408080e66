"""benchmarks/gate_errors.py: what it draws, what it calls wrong, and that the committed run keeps what the docs promise."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import gate_errors, gate_noise
from benchmarks.gate_errors import Case, Machine
from benchmarks.recording import RESULTS
from squeeze_export.results import PackedNumbers

FOUND = Case("top-1", "1 pp", "a drop of 2 pp", True, True, 0.95, 0.05, 0.0, 1.0, None)
ALARMS = Case("top-1", "1 pp", "a drop of 1 pp", False, False, 0.04, 0.9, 0.06, 0.5, None)


def committed():
    return [Case(**case) for case in json.loads((RESULTS / "gate_errors.json").read_text(encoding="utf-8"))["results"]]


def test_the_committed_run_keeps_every_promise():
    cases = committed()
    assert [case for case in cases if case.wrong] == []
    assert {case.what.partition(",")[0] for case in cases if case.promised} == {"top-1", "agreement", "time"}
    assert {case.what.partition(",")[0] for case in cases if not case.broken} == {"top-1", "agreement", "time"}


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        (FOUND, False),
        (replace(FOUND, failed=0.89), True),
        (replace(FOUND, failed=0.5, promised=False), False),
        (ALARMS, False),
        (replace(ALARMS, failed=0.051), True),
    ],
)
def test_what_breaks_a_promise(case, wrong):
    assert case.wrong == wrong


def test_a_run_takes_recorded_rounds_and_slows_the_candidate():
    times = np.arange(2 * 5 * 3 * 2).reshape(2, 5, 3, 2) + 1_000_000
    machine = Machine(gate_noise.Recording(2, 5, PackedNumbers.of(times.ravel()), 0.0), 50.0, np.random.default_rng(0))
    recorded = set(times.ravel().tolist())
    for _ in range(20):
        machine.next_run()
        for found in (machine.measure(4), machine.measure(8)):
            assert len(found.base) in (4, 8)
            assert {*found.base.ravel().tolist(), *found.control.ravel().tolist()} <= recorded
            assert found.candidate / found.base == pytest.approx(1.5, rel=1e-4)
            assert not np.array_equal(found.base, found.control)


def test_the_recordings_are_of_the_conditions_that_they_name():
    recordings = gate_noise.read()
    assert set(recordings) == set(gate_noise.CONDITIONS)
    for name, recording in recordings.items():
        assert abs(recording.other_load - gate_noise.CONDITIONS[name]) <= gate_noise.FAR
        assert (recording.times() > 0).all()


def test_a_bound_on_time_is_found_to_hold_where_nothing_changed(monkeypatch):
    monkeypatch.setattr(gate_errors, "RUNS", 20)
    calm = np.random.default_rng(0).normal(3e6, 3e4, (4, 40, 3, 2)).astype(np.int64)
    recording = gate_noise.Recording(4, 40, PackedNumbers.of(calm.ravel()), 0.0)
    same, slow = (gate_errors.timing_case("calm", recording, recording, percent, "") for percent in (0.0, 15.0))
    assert (same.passed, slow.failed) == (1.0, 1.0)
