"""Whether int8 is worth it, on simulated samples: each outcome, and what is shipped."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from squeeze_export.measure.latency import latency_of
from squeeze_export.measure.statistics import bootstrap_ratio
from squeeze_export.measure.verdict import LEAST_ROUNDS, MOST_ROUNDS, pace_of, rounds_needed, verdicts_of
from squeeze_export.results import Accuracy, Interval, Measurement


def samples_of(median_ms, *, count=60, noise=0.02, seed=0):
    """(count,) ns: a median, what a round adds to every session alike, and what is a sample's own."""
    shared = np.random.default_rng(99).exponential(0.05, count)
    own = np.random.default_rng(seed).normal(0, noise, count)
    return tuple((median_ms * 1e6 * np.exp(shared + own)).astype(int).tolist())


def row_of(scheme, median_ms, *, size=0, runtime="litert", delta=None, **changes):
    timing = {key: changes.pop(key) for key in ("count", "noise", "seed") if key in changes}
    timing.setdefault("seed", len(scheme) + round(1000 * median_ms))
    accuracy = None
    if delta is not None:
        accuracy = Accuracy(500, Interval(0.97, 0.95, 0.98), 0.9, 38.0, 0.01, 500, top1_delta_pp=Interval(*delta))
    row = Measurement("tflite", scheme, f"net.{scheme}.tflite", scheme * 8, size, runtime, "cpu", "cpu", checkpoint_sha256="c")
    latency = latency_of(samples_of(median_ms, **timing), warmup_count=0, batch=1, threads=1)
    return dataclasses.replace(row, accuracy=accuracy, latency=latency, **changes)


def only(rows, main=None):
    (verdict,) = verdicts_of(rows, main)
    return verdict


LOSS, NONE = (-4.2, -6.0, -2.5), (-0.4, -1.3, 0.4)


def test_faster_than_all():
    verdict = only([row_of("fp32", 9, size=50), row_of("int8", 3, size=14, delta=NONE)])
    assert (verdict.outcome, verdict.ship, verdict.otherwise) == ("faster", verdict.int8, None)
    assert [rival.pace for rival in verdict.rivals] == ["faster"]
    assert (verdict.round_count, verdict.rounds_needed, verdict.device) == (60, None, "cpu")


@pytest.mark.parametrize(
    "accuracy", [None, Accuracy(500, Interval(1.0, 0.99, 1.0), 1.0, 60.0, 0.0)], ids=["not compared", "unlabelled"]
)
def test_without_labels_int8_is_never_shipped(accuracy):
    """It may be the fastest, and agree on every image."""
    fp32, int8 = row_of("fp32", 9, size=50), dataclasses.replace(row_of("int8", 3, size=14), accuracy=accuracy)
    verdict = only([fp32, int8])
    assert (verdict.outcome, verdict.ship, verdict.otherwise) == ("faster", None, None)
    assert only([fp32, dataclasses.replace(int8, accuracy=row_of("int8", 3, delta=NONE).accuracy)]).ship == int8.name
    slow = dataclasses.replace(row_of("int8", 12, size=14), accuracy=accuracy)
    assert only([fp32, slow]).ship.scheme == "fp32"  # the reference loses nothing


@pytest.mark.parametrize(
    ("sqnr_db", "runtime", "scheme", "shipped"),
    [
        (60.0, "litert", "fp16", False),
        (132.0, "litert", "fp16", True),  # a file of float16 weights that computes in float32
        (130.0, "litert", "fp32", True),
        (47.0, "openvino-bf16", "fp32", False),
    ],
)
def test_without_labels_only_what_computes_in_float32_is_shipped(sqnr_db, runtime, scheme, shipped):
    row = dataclasses.replace(
        row_of(scheme, 2, size=25, runtime=runtime), accuracy=Accuracy(500, Interval(1.0, 0.99, 1.0), 1.0, sqnr_db, 0.0)
    )
    verdict = only([row, row_of("int8", 3, size=14)], {"openvino-bf16": "litert"})
    assert (verdict.outcome, verdict.ship) == ("not faster", row.name if shipped else None)
    labelled = dataclasses.replace(row, accuracy=row_of("fp16", 2, delta=NONE).accuracy)
    assert only([labelled, row_of("int8", 3, size=14)], {"openvino-bf16": "litert"}).ship == labelled.name


def test_faster_but_less_accurate():
    rows = [row_of("fp32", 9, size=50), row_of("fp16", 9.05, size=25, delta=NONE), row_of("int8", 3, size=14, delta=LOSS)]
    verdict = only(rows)
    assert (verdict.outcome, verdict.ship) == ("faster", verdict.int8)
    assert verdict.otherwise.scheme == "fp16"  # as fast as fp32 within the bound, and smaller
    rows[1] = dataclasses.replace(rows[1], accuracy=None)
    assert only(rows).otherwise.scheme == "fp32"


def test_slower_than_bf16():
    """The bf16 row is the fp32 file on a runtime that counts as int8's."""
    bf16 = row_of("fp32", 2, size=50, runtime="openvino-bf16", delta=NONE)
    rows = [row_of("fp32", 9, size=50, runtime="openvino"), bf16, row_of("int8", 3, size=14, runtime="openvino", delta=NONE)]
    verdict = only(rows, {"openvino-bf16": "openvino"})
    assert [rival.pace for rival in verdict.rivals] == ["faster", "slower"]
    assert (verdict.outcome, verdict.ship) == ("not faster", verdict.rivals[1].row)
    assert verdict.ship.runtime == "openvino-bf16"
    assert only(rows).outcome == "faster"  # without being told that the two runtimes are one


def test_as_fast_as_fp16():
    """Nothing is gained where the interval holds 1 and nothing above 1.05."""
    rows = [row_of("fp32", 9, size=50), row_of("fp16", 3, size=25, seed=1, delta=NONE), row_of("int8", 3, size=14, seed=2)]
    verdict = only(rows)
    assert [rival.pace for rival in verdict.rivals] == ["faster", "no gain"]
    assert (verdict.outcome, verdict.ship.scheme) == ("not faster", "fp16")


def test_of_two_that_are_as_fast_the_smaller_is_shipped():
    rows = [row_of("fp32", 3, size=50), row_of("fp16", 3.02, size=25, delta=NONE), row_of("int8", 4, size=14)]
    assert only(rows).ship.scheme == "fp16"
    rows[1] = row_of("fp16", 3.5, size=25, delta=NONE)
    assert only(rows).ship.scheme == "fp32"


def test_what_loses_top1_is_not_shipped():
    fp16 = row_of("fp16", 2, size=25, delta=LOSS)
    fp32, int8 = row_of("fp32", 9, size=50), row_of("int8", 3, size=14, delta=NONE)
    verdict = only([fp32, fp16, int8])
    assert (verdict.outcome, verdict.ship) == ("not faster", verdict.int8)
    losing = dataclasses.replace(int8, accuracy=fp16.accuracy)
    assert only([fp32, fp16, losing]).ship.scheme == "fp32"
    assert only([fp16, losing]).ship is None


def test_an_interval_that_holds_1_and_more_tells_nothing():
    verdict = only([row_of("fp32", 3.2, noise=0.4, seed=3), row_of("int8", 3, noise=0.4, seed=4)])
    assert [rival.pace for rival in verdict.rivals] == ["open"]
    assert (verdict.outcome, verdict.ship) == ("unknown", None)
    assert verdict.rounds_needed > 60


def test_the_rounds_that_are_asked_for_settle_it():
    """Where the samples go on as they began."""
    few = only([row_of("fp32", 3.2, noise=0.2, seed=3, count=20), row_of("int8", 3, noise=0.2, seed=4, count=20)])
    assert few.outcome == "unknown"
    count = few.rounds_needed
    more = only([row_of("fp32", 3.2, noise=0.2, seed=3, count=count), row_of("int8", 3, noise=0.2, seed=4, count=count)])
    assert more.outcome != "unknown"


def test_few_rounds_tell_nothing():
    def rows(count):
        return [row_of("fp32", 9, count=count), row_of("int8", 3, count=count)]

    verdict = only(rows(LEAST_ROUNDS - 1))
    assert (verdict.outcome, verdict.rounds_needed, verdict.rivals[0].pace) == ("unknown", LEAST_ROUNDS, "open")
    assert only(rows(LEAST_ROUNDS)).outcome == "faster"


def test_why_few_rounds_are_not_enough():
    """Of two sessions that are equally fast, 2 rounds call one the faster nearly every second time; 20, less than 1 in 20."""

    def wrong(count):
        draw = np.random.default_rng(count)
        paces = []
        for _ in range(200):
            shared = 1 + draw.exponential(0.1, count)
            first, second = (shared * (1 + draw.exponential(0.08, count)) for _ in range(2))
            paces.append(pace_of(bootstrap_ratio(first, second, resamples=200)))
        return (paces.count("faster") + paces.count("slower")) / len(paces)

    assert wrong(2) > 0.3
    assert wrong(LEAST_ROUNDS) < 0.05


def test_the_interval_is_that_of_the_speed_up_column():
    fp32, int8 = row_of("fp32", 9), row_of("int8", 3)
    assert only([fp32, int8]).rivals[0].speedup == bootstrap_ratio(fp32.latency.samples_ns, int8.latency.samples_ns)


@pytest.mark.parametrize(
    "changes",
    [
        {"evidence": "emulated"},
        {"evidence": "estimated"},
        {"status": "failed"},
        {"latency": None},
        {"runtime": "litert-builtin"},
        {"device": "gpu"},
        {"target": "onnx"},
        {"checkpoint_sha256": "d"},
        {"latency": row_of("fp32", 9, count=59).latency},
        {"latency": dataclasses.replace(row_of("fp32", 9).latency, batch=2)},
        {"latency": dataclasses.replace(row_of("fp32", 9).latency, threads=2)},
        {"scheme": "int8"},
    ],
    ids=str,
)
def test_what_is_not_compared(changes):
    fp32, int8 = row_of("fp32", 9), row_of("int8", 3)
    assert verdicts_of([fp32, int8])
    assert verdicts_of([dataclasses.replace(fp32, **changes), int8]) == ()


def test_each_int8_row_has_its_verdict():
    ours, theirs = row_of("int8", 3), row_of("int8", 12, artifact="net.vendor.int8.tflite", recipe="vendor")
    verdicts = verdicts_of([row_of("fp32", 9), ours, theirs])
    assert [(verdict.int8.artifact, verdict.outcome) for verdict in verdicts] == [
        ("net.int8.tflite", "faster"),
        ("net.vendor.int8.tflite", "not faster"),
    ]


def test_no_int8_row_no_verdict():
    assert verdicts_of([row_of("fp32", 9), row_of("fp16", 3)]) == ()
    assert verdicts_of([]) == ()


@pytest.mark.parametrize(
    ("low", "high", "pace"),
    [
        (1.006, 1.5, "faster"),
        (1.004, 1.5, "open"),  # printed as 1.00
        (1.004, 1.05, "no gain"),
        (0.9, 1.054, "no gain"),
        (0.9, 1.056, "open"),
        (0.9, 0.996, "no gain"),
        (0.9, 0.994, "slower"),
    ],
)
def test_paces(low, high, pace):
    assert pace_of(Interval((low + high) / 2, low, high)) == pace


@pytest.mark.parametrize(
    ("value", "low", "high", "count", "expected"),
    [
        # half 0.1, enough 0.08 (down to 1): 50 * 1.5 * (0.1 / 0.08)^2 = 117
        (1.08, 0.98, 1.18, 50, 200),
        # half 0.2, enough 0.15 (up to 1.05): 50 * 1.5 * (0.2 / 0.15)^2 = 133
        (0.9, 0.7, 1.1, 50, 200),
        # half 0.3, enough 0.025: 50 * 1.5 * 144 = 10,800
        (1.025, 0.725, 1.325, 50, None),
        (1.3, 0.99, 1.31, MOST_ROUNDS, None),
        (1.3, 0.99, 1.31, 100, 200),
    ],
)
def test_rounds_needed_by_hand(value, low, high, count, expected):
    assert rounds_needed(Interval(value, low, high), count) == expected
