"""Timing: which files are compared, on which batch. What the clock does is tested in measure/."""

import numpy as np
import pytest

from squeeze_export.core import EmitOptions
from squeeze_export.errors import Refused
from squeeze_export.graph.quantized import FP32, INT8
from squeeze_export.pipeline import RunOptions, bench_files, export, open_network
from squeeze_export.pipeline.measuring import timed
from squeeze_export.pipeline.sessions import Entry, Outcome, entries_of

FAST = RunOptions(rounds=2)


def test_bench_compares_within_a_target(made):
    order = [made["tflite", "int8"], made["onnx", "fp32"], made["onnx", "int8"]]
    rows = bench_files([artifact.path for artifact in order], options=FAST).measurements
    assert [row.artifact for row in rows] == [artifact.path.name for artifact in order]
    assert [row.latency is not None and row.latency.speedup is not None for row in rows] == [False, False, True]
    assert [len(row.latency.samples_ns) for row in rows if row.latency] == [2, 2, 2]


def test_bench_in_several_threads(made):
    (row,) = bench_files([made["onnx", "int8"].path], options=RunOptions(threads=2, rounds=1)).measurements
    assert row.latency is not None
    assert row.latency.threads == 2


def test_another_network_is_no_baseline(made, tiny, tmp_path):
    other, _ = export(open_network(tiny / "other.safetensors").graph, "onnx", FP32, tmp_path, name="other")
    report = bench_files([other.path, made["onnx", "int8"].path], options=FAST)
    assert [row.latency.speedup for row in report.measurements if row.latency] == [None, None]
    assert report.verdicts == ()
    files = [made["onnx", "fp32"].path, made["onnx", "int8"].path, other.path]
    both = bench_files(files, options=FAST)
    assert both.measurements[1].latency is not None
    (verdict,) = both.verdicts
    assert verdict.rivals[0].row.artifact == files[0].name
    assert verdict.rivals[0].speedup == both.measurements[1].latency.speedup


def test_an_emulated_file_gets_no_verdict(made):
    assert bench_files([made["coreml", "fp32"].path, made["coreml", "int8"].path], options=FAST).verdicts == ()


class Still:
    """A session that remembers what it was given."""

    threads = 1
    evidence = "measured"
    clock = None

    def __init__(self):
        self.shapes = set()

    def infer(self, batch):
        self.shapes.add((batch.shape, batch.dtype))


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (3, 3), ("dynamic", 1)])
def test_timing_runs_the_files_own_batch(batch, count, quantized, tmp_path):
    artifact, _ = export(quantized, "onnx", INT8, tmp_path, name="net", options=EmitOptions(batch=batch))
    session = Still()
    (entry,) = entries_of([artifact], RunOptions())
    (found,) = timed([Outcome(entry, session=session)], FAST)
    assert session.shapes == {((count, 32, 32, 3), np.dtype(np.uint8))}
    assert found.latency.batch == count


def test_timing_leaves_out_what_could_not_be_opened(made):
    """A baseline that failed leaves no speed-up behind."""
    baseline, artifact = made["onnx", "fp32"], made["onnx", "int8"]
    first, second = entries_of([baseline, artifact], RunOptions())
    failed = Outcome(first, alone=False).failed(Refused("no such operator"))
    found = timed([failed, Outcome(second, session=Still())], FAST)
    assert found[0] is failed
    assert found[1].latency.speedup is None


def test_an_emulated_session_is_not_timed(made):
    """How long an emulator takes says nothing of the device."""
    entries = entries_of([made["onnx", "fp32"], made["onnx", "int8"]], RunOptions())
    emulated = Still()
    emulated.evidence = "emulated"
    found = timed([Outcome(entry, session=session) for entry, session in zip(entries, (emulated, Still()), strict=True)], FAST)
    assert [outcome.latency is None for outcome in found] == [True, False]
    assert emulated.shapes == set()


def test_a_runtime_shown_beside_another_is_compared_with_it(made, monkeypatch):
    monkeypatch.setattr("squeeze_export.pipeline.measuring.DEFAULT_PRECISION", {"onnxruntime": "onnxruntime-other"})
    main, beside = (Entry(made["onnx", "fp32"], name) for name in ("onnxruntime", "onnxruntime-other"))
    found = timed([Outcome(main, session=Still()), Outcome(beside, session=Still())], FAST)
    assert [outcome.latency.speedup is None for outcome in found] == [True, False]


class Clock:
    """A clock somewhere else: each sample is the number of its session."""

    def __init__(self, failure=None):
        self.calls, self.failure = [], failure

    def time(self, sessions, *, warmup, rounds, progress):
        self.calls.append([session for session, _ in sessions])
        if self.failure is not None:
            raise self.failure
        return [(number,) * rounds for number, _ in enumerate(sessions, start=1)]


def clocked(entries, *clocks, alone=True):
    """A session for each entry, on its clock."""
    outcomes = []
    for entry, clock in zip(entries, clocks, strict=True):
        session = Still()
        session.clock = clock
        outcomes.append(Outcome(entry, alone, session=session))
    return outcomes


def test_sessions_of_one_clock_are_timed_by_it_in_one_run(made):
    entries = [Entry(made[target, "int8"], "board") for target in ("onnx", "tflite", "openvino", "coreml")]
    first, second = Clock(), Clock()
    outcomes = clocked(entries, first, second, first, None)
    found = timed(outcomes, FAST)
    assert first.calls == [[outcomes[0].session, outcomes[2].session]]
    assert second.calls == [[outcomes[1].session]]
    assert [outcome.latency.samples_ns for outcome in found[:3]] == [(1, 1), (1, 1), (2, 2)]
    assert found[3].latency is not None  # by this process's
    assert [bool(outcome.session.shapes) for outcome in outcomes] == [False, False, False, True]


def test_a_clock_that_fails_fails_its_own_sessions(made):
    entries = [Entry(made[target, "int8"], "board") for target in ("onnx", "tflite")]
    broken = Clock(Refused("the runner ended"))
    found = timed(clocked(entries, broken, Clock(), alone=False), FAST)
    assert [outcome.failure is broken.failure for outcome in found] == [True, False]
    assert [outcome.latency is None for outcome in found] == [True, False]
    with pytest.raises(Refused, match="the runner ended"):
        timed(clocked(entries, broken, Clock()), FAST)
