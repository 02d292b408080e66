"""A report against a baseline: each way to get worse fails with its words, and another machine is undecided."""

import dataclasses

import numpy as np
import pytest

from squeeze_export.core import Audit
from squeeze_export.gate.baseline import baseline_of
from squeeze_export.gate.bounds import Bounds
from squeeze_export.gate.regressions import regression_checks, version_changes
from squeeze_export.results import Estimate, PackedNumbers
from tests.gate_reports import COUNT, HOST, LABELS, REFERENCE, accuracy_of, answers_of, gate_report, images_of, state_of

ONNX = "net.int8.onnx"
ESTIMATE = Estimate("Vela 5.2", {}, 500.0, 1_000_000, 2.0, {"sram": 200_000}, {}, {})


def compared(report, bounds=None, baseline=None):
    checks = regression_checks(report, baseline or baseline_of(gate_report()), bounds or Bounds())
    assert {check.against for check in checks} == {"baseline"}
    return checks


def states(checks, row=ONNX):
    return {check.name: check.state for check in checks if check.row.startswith(row)}


def test_what_did_not_change_passes(report):
    assert {check.state for check in compared(report, Bounds(max_top1_drop=1))} == {"passed"}
    names = {check.name for check in compared(report, Bounds(max_top1_drop=1))}
    assert names == {"images", "reference", "labels", "integers", "bytes", "size", "operators", "answers", "max-top1-drop"}


def test_rows_that_look_alike_are_told_apart_by_their_order():
    """Two files of one name, or one file with two numbers of threads."""
    report = gate_report()
    twice = dataclasses.replace(report, measurements=(*report.measurements, report.measurements[1]))
    assert {check.state for check in compared(twice, baseline=baseline_of(twice))} == {"passed"}
    (more,) = [check for check in compared(twice, baseline=baseline_of(report)) if check.state != "passed"]
    assert (more.name, more.state, more.message) == ("file", "skipped", "is not in the baseline: --update adds it")


def test_faster_or_slower_is_not_compared(report, with_row):
    slow = dataclasses.replace(report.measurements[1].latency, p50_ms=500.0)
    assert compared(with_row(latency=slow)) == compared(report)


def test_other_integers(with_row):
    found = compared(with_row(table_sha256="01" * 32, sha256="02" * 32))
    assert state_of(found, "integers", ONNX) == (
        "failed",
        "another table than in the baseline: scales, weights, biases, labels or calibration images changed",
    )
    assert states(found)["bytes"] == "skipped"
    assert states(found, "net.int8.tflite")["integers"] == "passed"


def test_integers_of_another_cpu_are_undecided(report, with_row):
    changed = dataclasses.replace(with_row(table_sha256="01" * 32), host={**HOST, "cpu": "EPYC"})
    state, message = state_of(compared(changed), "integers", ONNX)
    assert state == "undecided"
    assert message == "another table than in the baseline, made on another CPU (EPYC here, Xeon in the baseline)"
    weaker = dataclasses.replace(with_row(table_sha256="01" * 32), host={**HOST, "isa": ["avx2"]})
    assert state_of(compared(weaker), "integers", ONNX)[0] == "undecided"


def test_a_report_that_does_not_tell_its_table(with_row):
    assert state_of(compared(with_row(table_sha256="")), "integers", ONNX)[0] == "failed"


def test_other_bytes_from_the_same_integers(with_row):
    state, message = state_of(compared(with_row(sha256="02" * 32)), "bytes", ONNX)
    assert (state, message) == (
        "failed",
        "other bytes than in the baseline, from the same integers and tool versions: was another form asked for?",
    )


def test_other_bytes_by_other_versions_are_named(with_row):
    newer = dataclasses.replace(with_row(sha256="02" * 32), tool_versions={"onnx": "1.24.0", "onnxruntime": "1.31.1"})
    assert state_of(compared(newer), "bytes", ONNX) == ("skipped", "written by other versions: onnx 1.23.2 -> 1.24.0")


def test_sizes(with_row):
    assert state_of(compared(with_row(size_bytes=1_269_001)), "size", ONNX)[0] == "failed"
    assert state_of(compared(with_row(size_bytes=1_268_999)), "size", ONNX)[0] == "passed"
    other = {"table_sha256": "01" * 32}  # numbers written as text
    assert state_of(compared(with_row(size_bytes=1_270_000, **other)), "size", ONNX)[0] == "passed"
    assert state_of(compared(with_row(size_bytes=1_400_000, **other)), "size", ONNX)[0] == "failed"


def test_other_operators_and_a_float_layer(with_row):
    audit = Audit({"QLinearConv": 25, "Conv": 1}, ("Conv fire9",), (), (), {}, ("fire9",))
    found = compared(with_row(audit=audit))
    assert state_of(found, "float-layers", ONNX) == ("failed", "computes fire9 in float, which the baseline does in integers")
    assert state_of(found, "operators", ONNX) == (
        "failed",
        "other operators than in the baseline: Conv 0 -> 1, QLinearConv 26 -> 25",
    )
    assert state_of(compared(with_row(audit=None)), "operators", ONNX)[0] == "failed"


def test_estimates(with_row):
    baseline = baseline_of(with_row(estimate=ESTIMATE))

    def found(**changes):
        row = with_row(estimate=dataclasses.replace(ESTIMATE, **changes))
        return states(compared(row, baseline=baseline))

    assert (found()["cycles"], found()["sram"]) == ("passed", "passed")
    assert found(cycles=1_000_001)["cycles"] == "failed"
    assert found(cycles=999_999)["cycles"] == "passed"
    assert found(used_bytes={"sram": 200_001})["sram"] == "failed"
    assert found(tool="Vela 5.3", cycles=2_000_000)["cycles"] == "skipped"
    assert states(compared(with_row(), baseline=baseline))["cycles"] == "failed"


def flipped(with_row, count, **changes):
    top1 = np.where(np.arange(COUNT) < count, (LABELS + 2) % 10, REFERENCE)
    return with_row(accuracy=accuracy_of(top1), answers=answers_of(top1, LABELS), **changes)


def test_other_answers_of_the_same_integers(with_row):
    assert state_of(compared(flipped(with_row, 1)), "answers", ONNX) == (
        "failed",
        "1 of 500 images answered otherwise than in the baseline, by the same integers on the same kernels",
    )


def test_other_answers_on_other_kernels_are_undecided(with_row):
    other = dataclasses.replace(flipped(with_row, 40), host={**HOST, "isa": ["avx2"]})
    found = compared(other, Bounds(max_top1_drop=1))
    (check,) = [check for check in found if check.name == "answers" and check.row.startswith(ONNX)]
    assert (check.state, check.needs) == ("undecided", "a machine with AVX-512 VNNI and the kernels MLAS")
    assert check.message.endswith("other kernels (AVX2 here, AVX-512 VNNI in the baseline)")
    assert states(found)["max-top1-drop"] == "undecided"
    assert states(found, "net.int8.tflite")["answers"] == "passed"  # which nothing changed
    assert states(compared(flipped(with_row, 1, kernels="builtin")))["answers"] == "undecided"


def test_what_other_integers_cost(with_row):
    retuned = {"table_sha256": "01" * 32}
    found = compared(flipped(with_row, 60, **retuned), Bounds(max_top1_drop=1))
    assert state_of(found, "max-top1-drop", ONNX)[0] == "failed"
    assert "against the baseline: 45 lost, 0 won of 500 images" in state_of(found, "max-top1-drop", ONNX)[1]
    assert states(found)["answers"] == "skipped"
    (check,) = [
        check
        for check in compared(flipped(with_row, 8, **retuned), Bounds(max_top1_drop=1))
        if check.name == "max-top1-drop" and check.row.startswith(ONNX)
    ]
    assert (check.state, check.needs.endswith(" more images")) == ("undecided", True)


def test_the_reference_itself_answers_otherwise(report):
    """BGR for RGB, or another mean: files and reference still agree with each other."""
    swapped = np.where(np.arange(COUNT) < 90, (LABELS + 3) % 10, REFERENCE)
    rows = tuple(
        dataclasses.replace(row, accuracy=accuracy_of(swapped, reference=swapped), answers=answers_of(swapped, LABELS))
        for row in report.measurements
    )
    changed = dataclasses.replace(report, measurements=rows, images=images_of(LABELS, swapped))
    state, message = state_of(compared(changed), "reference")
    assert (state, message.split(":")[0]) == (
        "failed",
        "the fp32 reference answers 90 of 500 images otherwise than in the baseline",
    )
    assert "channel order RGB or BGR" in message
    other = dataclasses.replace(changed, host={**HOST, "isa": ["avx2"]})
    assert state_of(compared(other), "reference")[0] == "failed"  # no rounding of floats explains so many


@pytest.mark.parametrize("host", [{**HOST, "isa": ["avx2"]}, {**HOST, "cpu": "EPYC"}])
def test_floats_round_otherwise_on_another_cpu(report, with_row, host):
    """Which changes the answers to a few near ties."""
    tied = np.where(np.arange(COUNT) < 2, (LABELS + 3) % 10, REFERENCE)
    few = dataclasses.replace(flipped(with_row, 2), images=images_of(LABELS, tied))
    here = compared(few)
    assert (state_of(here, "reference")[0], states(here)["answers"]) == ("failed", "failed")
    there = compared(dataclasses.replace(few, host=host))
    assert (state_of(there, "reference")[0], states(there)["answers"]) == ("undecided", "undecided")
    many = compared(dataclasses.replace(flipped(with_row, 60), host={**HOST, "cpu": "EPYC"}))
    assert states(many)["answers"] == "failed"


def test_lost_labels(report):
    lost = dataclasses.replace(report, images=images_of(np.full(COUNT, -1), REFERENCE))
    state, message = state_of(compared(lost), "labels")
    assert (state, message) == ("failed", "500 images have lost their label: was the label file lost, or the folders' classes?")
    other = dataclasses.replace(report, images=images_of((LABELS + 1) % 10, REFERENCE))
    assert state_of(compared(other), "labels") == ("failed", "500 images have another label than in the baseline")


def test_lost_names_of_classes(report):
    nameless = dataclasses.replace(report, network={**report.network, "labels": "none"})
    state, message = state_of(compared(nameless), "labels")
    assert (state, message.split(":")[1]) == ("failed", " was the label file lost?")


def test_images(report):
    later = dataclasses.replace(report, images=images_of(LABELS, REFERENCE, first=COUNT))
    (check,) = [check for check in compared(later) if check.name == "images"]
    assert (check.state, check.needs) == ("undecided", "the baseline's images")
    assert "answers" not in states(compared(later))
    half = COUNT // 2
    shifted = dataclasses.replace(report, images=images_of(LABELS, REFERENCE, first=half))
    assert state_of(compared(shifted), "images")[1].startswith("250 of the baseline's 500 images are here")
    assert state_of(compared(dataclasses.replace(report, images=None)), "images")[0] == "failed"


def test_images_are_paired_by_their_hashes(report):
    """The same images in another order are the same images."""
    order = np.random.default_rng(0).permutation(COUNT)

    def moved(packed):
        return PackedNumbers.of(packed.numbers()[order])

    def answers(found):
        return dataclasses.replace(found, top1=moved(found.top1), label_rank=moved(found.label_rank))

    images = report.images
    shuffled = dataclasses.replace(
        images, hashes=moved(images.hashes), labels=moved(images.labels), reference=answers(images.reference)
    )
    rows = tuple(dataclasses.replace(row, answers=answers(row.answers)) for row in report.measurements)
    assert {c.state for c in compared(dataclasses.replace(report, images=shuffled, measurements=rows))} == {"passed"}
    still = dataclasses.replace(report, images=shuffled)  # the answers belong to other images now
    assert "failed" in states(compared(still)).values()


def test_a_row_that_was_not_validated(with_row):
    assert state_of(compared(with_row(answers=None, accuracy=None)), "answers", ONNX)[0] == "failed"


def test_rows_that_come_and_go(report, with_row):
    gone = dataclasses.replace(report, measurements=report.measurements[:2])
    assert state_of(compared(gone), "file", "net.int8.tflite") == ("failed", "is in the baseline, and not in the report")
    assert state_of(compared(with_row(status="skipped")), "file", ONNX)[0] == "failed"
    assert state_of(compared(report, baseline=baseline_of(gone)), "file", "net.int8.tflite")[0] == "skipped"


def test_a_file_that_another_runtime_ran_is_the_same_file(with_row):
    """As Core ML's own runtime does on a Mac."""
    found = compared(flipped(with_row, 1, runtime="tensorrt", kernels="TensorRT"))
    here = states(found, f"{ONNX}, tensorrt on cpu")
    assert (here["bytes"], here["operators"], here["answers"]) == ("passed", "passed", "undecided")
    assert "file" not in here


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [({}, {}, ""), ({"a": "1"}, {"a": "2"}, "a 1 -> 2"), ({"a": "1"}, {"b": "1"}, "a 1 -> none, b none -> 1")],
)
def test_version_changes(before, after, text):
    assert version_changes(before, after) == text
