"""A report held to bounds: each bound can pass and fail, and a figure that is missing never passes."""

import dataclasses

import numpy as np
import pytest

from squeeze_export.core import Audit, Placement
from squeeze_export.gate.bounds import bounds_of
from squeeze_export.gate.checks import absolute_checks, fewest_rounds, percentile_interval
from squeeze_export.results import Estimate, Interval, Latency
from tests.gate_reports import COUNT, LABELS, REFERENCE, SAMPLES_NS, accuracy_of, answers_of, state_of

ONNX = "net.int8.onnx"
ESTIMATE = Estimate("Vela 5.2", {}, 500.0, 1_000_000, 2.0, {"sram": 200_000, "off chip flash": 700_000}, {}, {})


def checked(report, **bounds):
    return absolute_checks(report, bounds_of({word.replace("_", "-"): value for word, value in bounds.items()}))


@pytest.mark.parametrize(
    ("word", "kept", "broken", "message"),
    [
        ("max-size", "1.3MB", "1.2MB", "size 1,269,000 bytes, at most 1,200,000 bytes passes"),
        ("min-sqnr", 38, 39, "SQNR 38.90 dB, at least 39 dB passes"),
        ("max-kl", 0.01, 0.001, "KL divergence 0.002 nats, at most 0.001 nats passes"),
        ("max-p50", 3, 2, "p50 2.65 ms [2.63, 2.66] in 60 rounds, at most 2 ms passes"),
        ("max-p90", 3, 2, "p90 2.69 ms [2.68, 2.7] in 60 rounds, at most 2 ms passes"),
        ("min-speedup", 2.5, 3.5, "2.90x [2.80, 3.00] as fast as fp32, at least 3.50x passes"),
        ("max-top1-drop", 1, None, ""),
        ("max-top5-drop", 1, None, ""),
        ("min-agreement", 99, None, ""),
        ("max-fallbacks", 0, None, ""),
    ],
)
def test_each_bound_passes_and_fails(report, word, kept, broken, message):
    assert state_of(checked(report, **{word: kept}), word, ONNX)[0] == "passed"
    if broken is not None:
        assert state_of(checked(report, **{word: broken}), word, ONNX) == ("failed", message)


def test_fp32_files_are_there_to_compare_with(report):
    assert {check.row for check in checked(report, max_size=1)} == {
        "net.int8.onnx, onnxruntime on cpu",
        "net.int8.tflite, litert on cpu",
    }
    alone = dataclasses.replace(report, measurements=report.measurements[:1])
    assert state_of(checked(alone, max_size=1), "max-size")[0] == "failed"


def drops(with_row, share):
    top1 = np.where(np.arange(COUNT) < share * COUNT, (LABELS + 2) % 10, REFERENCE)
    return with_row(accuracy=accuracy_of(top1), answers=answers_of(top1, LABELS))


def test_a_drop_of_top1_is_decided_by_what_the_images_show(with_row):
    state, message = state_of(checked(drops(with_row, 0.1), max_top1_drop=1), "max-top1-drop", ONNX)
    assert state == "failed"
    assert message.startswith("top-1 drop 7.40 pp [")
    assert message.endswith("against the fp32 reference: 37 lost, 0 won of 500 images (McNemar p = 1.5e-11); at most 1 pp passes")
    found = [c for c in checked(drops(with_row, 0.02), max_top1_drop=1) if c.name == "max-top1-drop" and c.row.startswith(ONNX)]
    assert found[0].state == "undecided"
    assert found[0].needs.endswith(" more images")


def test_a_drop_of_top5(report, with_row):
    assert state_of(checked(drops(with_row, 0.5), max_top5_drop=1), "max-top5-drop", ONNX)[0] == "passed"  # second best counts
    missing = np.full(COUNT, 5)
    answers = dataclasses.replace(report.measurements[1].answers, label_rank=type(report.images.labels).of(missing))
    assert state_of(checked(with_row(answers=answers), max_top5_drop=1), "max-top5-drop", ONNX)[0] == "failed"
    assert state_of(checked(with_row(answers=None), max_top5_drop=1), "max-top5-drop", ONNX)[0] == "failed"


def test_agreement(with_row):
    state, message = state_of(checked(drops(with_row, 0.1), min_agreement=99), "min-agreement", ONNX)
    assert (state, message.split(": ")[0]) == ("failed", "450 of 500 images have the reference's class")


def test_lost_labels_fail_a_bound_on_top1(with_row):
    unlabelled = accuracy_of(REFERENCE, np.full(COUNT, -1))
    for word in ("max-top1-drop", "max-top5-drop"):
        state, message = state_of(checked(with_row(accuracy=unlabelled), **{word: 1}), word, ONNX)
        assert (state, message) == (
            "failed",
            "no image has a label, so no drop can be seen: was the label file or the folders' classes lost?",
        )


@pytest.mark.parametrize(
    ("word", "changes", "why"),
    [
        ("max-top1-drop", {"accuracy": None}, "it was not validated"),
        ("min-agreement", {"accuracy": None}, "it was not validated"),
        ("min-sqnr", {"accuracy": None}, "it was not validated"),
        ("max-kl", {"accuracy": None}, "it was not validated"),
        ("max-p50", {"latency": None}, "it was not timed"),
        ("min-speedup", {"latency": None}, "it was not timed"),
        ("max-fallbacks", {"placement": None}, "nothing tells where its operators ran"),
        ("max-size", {"size_bytes": 0}, "there is no file"),
    ],
)
def test_a_row_that_lost_its_figure_fails(with_row, word, changes, why):
    bound = 90 if word == "min-agreement" else 1
    assert state_of(checked(with_row(**changes), **{word: bound}), word, ONNX) == ("failed", why)


@pytest.mark.parametrize("word", ["max-top1-drop", "min-sqnr", "max-p50", "max-fallbacks"])
def test_a_row_that_was_not_run_is_skipped_if_another_was(report, with_row, word):
    """Such as the file that a compiler took."""
    not_run = {"runtime": "", "accuracy": None, "latency": None, "placement": None}
    assert state_of(checked(with_row(**not_run), **{word: 5}), word, ONNX) == ("skipped", "it was not run")
    rows = tuple(dataclasses.replace(row, **not_run) for row in report.measurements)
    found = checked(dataclasses.replace(report, measurements=rows), **{word: 5})
    assert state_of([check for check in found if not check.row], word) == ("failed", "no row of the report has this figure")


def test_a_figure_that_is_no_number_fails(report, with_row):
    worse = dataclasses.replace(report.measurements[1].accuracy, sqnr_db=float("nan"), kl=float("nan"))
    for word in ("min-sqnr", "max-kl"):
        assert state_of(checked(with_row(accuracy=worse), **{word: 1}), word, ONNX)[0] == "failed"


def test_a_bound_that_no_row_has_a_figure_for_fails(report):
    for word in ("max-cycles", "max-sram", "max-memory"):
        checks = checked(report, **{word: 1})
        assert {check.state for check in checks if check.name == word and check.row} == {"skipped"}
        assert state_of([check for check in checks if not check.row], word) == ("failed", "no row of the report has this figure")


def test_estimates_and_memory(with_row):
    estimated = with_row(estimate=ESTIMATE, facts={"arena_bytes": 150_000}, accuracy=None, latency=None, placement=None)
    for word, kept, broken in (("max-cycles", 1e6, 999_999), ("max-sram", "200KB", "199KB"), ("max-memory", "150KB", "149KB")):
        assert state_of(checked(estimated, **{word: kept}), word, ONNX)[0] == "passed"
        assert state_of(checked(estimated, **{word: broken}), word, ONNX)[0] == "failed"
    for word in ("max-top1-drop", "min-sqnr", "max-p50", "max-fallbacks"):  # the other row has them
        assert state_of(checked(estimated, **{word: 50}), word, ONNX)[0] == "skipped"


def test_fallbacks_are_named(with_row):
    placement = Placement(39, 37, 0.9, ("Relu a",), "profile", 38, ("Relu a on cpu",), ("Relu a on cpu",))
    found = state_of(checked(with_row(placement=placement), max_fallbacks=0), "max-fallbacks", ONNX)
    assert found == ("failed", "fallbacks: 1 operator, at most 0 operators passes: Relu a on cpu")


def test_targets_apart(report):
    assert state_of(checked(report, max_steps_apart=1), "max-steps-apart")[0] == "passed"
    assert state_of(checked(report, max_steps_apart=0.1), "max-steps-apart")[0] == "failed"
    assert state_of(checked(dataclasses.replace(report, differences=()), max_steps_apart=1), "max-steps-apart")[0] == "failed"


def test_a_row_that_failed_fails_whatever_is_bounded(with_row):
    failed = with_row(status="failed", reason="vela said no")
    assert state_of(checked(failed, max_size="9MB"), "run", ONNX) == ("failed", "failed: vela said no")
    assert not [check for check in checked(failed, max_size="9MB") if check.name == "max-size" and check.row.startswith(ONNX)]
    skipped = with_row(status="skipped", reason="no such package")
    assert state_of(checked(skipped, max_size="9MB"), "run", ONNX)[0] == "skipped"


def test_a_report_without_a_sound_row_fails_its_bounds(report):
    rows = tuple(dataclasses.replace(row, status="skipped") for row in report.measurements)
    found = checked(dataclasses.replace(report, measurements=rows), max_size="9MB")
    assert state_of([check for check in found if not check.row], "max-size")[0] == "failed"


def test_floats_in_an_integer_file_fail(with_row):
    audit = Audit({"Conv": 1}, ("Conv a",), (), ("Conv `a` computes in float: float weights",), {})
    assert state_of(checked(with_row(audit=audit), max_size="9MB"), "integer", ONNX)[0] == "failed"
    foreign = with_row(audit=audit, recipe="vendor")
    assert not [check for check in checked(foreign, max_size="9MB") if check.name == "integer" and check.row.startswith(ONNX)]


def test_busy_machines_break_no_bound_on_time(report, with_row):
    latency = dataclasses.replace(report.measurements[1].latency, busy=True)
    assert state_of(checked(with_row(latency=latency), max_p50=2), "max-p50", ONNX)[0] == "undecided"
    assert state_of(checked(with_row(latency=latency), max_p50=3), "max-p50", ONNX)[0] == "passed"


def test_a_percentile_needs_rounds_to_have_an_upper_limit(report):
    (found,) = [c for c in checked(report, max_p99=50) if c.name == "max-p99" and c.row.startswith(ONNX)]
    assert (found.state, found.needs) == ("undecided", "about 321 rounds (--rounds)")
    assert fewest_rounds(99) == 321
    assert percentile_interval(SAMPLES_NS, 99).high == np.inf
    assert percentile_interval(range(321), 99).high < np.inf


@pytest.mark.parametrize("percentile", [50, 90])
def test_limits_of_a_percentile_hold_as_often_as_they_say(percentile):
    draws = np.random.default_rng(0).random((2000, 100)) * 1e6  # the true percentile is percentile / 100 ms
    limits = [percentile_interval(draw, percentile) for draw in draws]
    assert np.mean([found.low > percentile / 100 for found in limits]) <= 0.06
    assert np.mean([found.high < percentile / 100 for found in limits]) <= 0.06
    assert np.mean([found.high < percentile / 100 for found in limits]) > 0.005  # and are not vacuous


def test_an_uncertain_speedup(with_row):
    wide = Latency(SAMPLES_NS, 10, 1, 1, 2.65, 2.7, 2.71, Interval(1.5, 1.2, 1.9))
    (found,) = [c for c in checked(with_row(latency=wide), min_speedup=1.4) if c.name == "min-speedup" and c.row.startswith(ONNX)]
    assert found.state == "undecided"
    assert found.needs.startswith("about ")
