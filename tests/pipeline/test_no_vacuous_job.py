"""Networks for which the usual figures say nothing: one output, one class over all images, a constant output."""

import dataclasses

import numpy as np
import pytest

from squeeze_export.core import EmitOptions
from squeeze_export.errors import BadInput
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.nets.safetensors_file import write_safetensors
from squeeze_export.pipeline import calibrate, open_network, run
from squeeze_export.pipeline.analysis import analyze
from squeeze_export.pipeline.curve import calibration_curve
from squeeze_export.pipeline.evaluation import evaluation_images


@pytest.fixture(scope="module")
def changed(tiny, tmp_path_factory):
    """Makes a checkpoint of the tiny network with another last layer: its weight and bias."""

    def make(name, weight, bias, **structure):
        checkpoint = read_checkpoint(tiny / "tiny.safetensors")
        path = tmp_path_factory.mktemp("changed") / f"{name}.safetensors"
        tensors = {**checkpoint.tensors, "classifier.1.weight": weight, "classifier.1.bias": bias}
        arch = dataclasses.replace(checkpoint.architecture, class_count=len(bias), **structure)
        write_safetensors(path, arch, tensors, checkpoint.preprocess)
        return path

    return make


@pytest.fixture(scope="module")
def weight(tiny):
    """Of the tiny network's last layer, (5, C, 1, 1)."""
    return np.asarray(read_checkpoint(tiny / "tiny.safetensors").tensors["classifier.1.weight"])


def test_one_output_is_measured_by_its_error(changed, weight, job):
    path = changed("regression", np.abs(weight[:1]), np.zeros(1, np.float32))
    report = run(job(weights=path))
    *_, row = report.measurements
    found = row.accuracy.error
    assert "labels" not in report.network  # there are no classes to name
    assert row.scheme == "int8"
    assert 0 < found.mean <= found.p95 < found.spread
    assert found.correlation > 0.99
    assert not [warning for warning in report.warnings if "softmax" in warning or "same output" in warning]


def test_one_output_is_analysed_by_its_error(changed, weight, tiny, tmp_path):
    network = open_network(changed("regression", np.abs(weight[:1]), np.zeros(1, np.float32)))
    found = analyze(network, tiny / "calib", tiny / "eval", images=2, keep_float=("conv1",), rounds=None)
    pixels = next(iter(evaluation_images(network, tiny / "eval", None).stream)).pixels
    integers = IntegerRunner(calibrate(network, tiny / "calib").quantized)(pixels)
    assert found.error.mean == pytest.approx(np.abs(FloatRunner(network.graph)(pixels) - integers).mean(), rel=1e-4)
    assert found.kept.before.error == found.error
    assert found.kept.after.error.mean != found.error.mean
    with pytest.raises(BadInput, match="--max-drop is of the right classes, and the network has one output"):
        analyze(network, tiny / "calib", tiny / "eval", max_drop_pp=20.0)


def test_a_value_that_is_always_negative_is_analysed(changed, weight, tiny):
    """Its range ends at 0."""
    path = changed("negative", -np.abs(weight[:1]), np.full(1, -1, np.float32), final_relu=False)
    found = analyze(open_network(path), tiny / "calib", tiny / "eval", images=1)
    use = next(use for use in found.tensors if use.name == "conv10")
    assert use.range_high == 0
    assert (use.largest_share, use.clipped_high_share) == (0, 0)
    assert -1 < use.p999_share < 0


def test_the_curve_of_one_output_is_of_its_error(changed, weight, tiny):
    network = open_network(changed("regression", np.abs(weight[:1]), np.zeros(1, np.float32)))
    _, found = calibration_curve(network, tiny / "calib", tiny / "eval")
    first, last = found.points
    assert (last.error_to_largest.low, last.error_to_largest.high) == (0.0, 0.0)
    assert first.error_to_largest.value == pytest.approx(first.error.mean - last.error.mean)
    assert first.error_to_largest.low < first.error_to_largest.value < first.error_to_largest.high


def test_several_outputs_have_classes(tiny):
    """The control."""
    network = open_network(tiny / "tiny.safetensors")
    assert analyze(network, tiny / "calib", tiny / "eval", images=1).error is None
    assert {point.error for point in calibration_curve(network, tiny / "calib", tiny / "eval")[1].points} == {None}


def test_a_softmax_over_one_output_is_named(changed, weight, job):
    path = changed("regression", np.abs(weight[:1]), np.zeros(1, np.float32))
    report = run(job(weights=path, scheme="fp32", options=EmitOptions(softmax=True), bench=False))
    assert "a softmax over one output gives 1 for every image: leave out --softmax" in report.warnings


def test_a_constant_output_is_named(changed, weight, job):
    path = changed("dead", np.zeros_like(weight), np.arange(5, dtype=np.float32))
    report = run(job(weights=path, scheme="fp32", bench=False))
    assert any("gives the same output for each of 20 images" in warning for warning in report.warnings)


def test_one_class_for_all_images_is_named(changed, weight, job):
    path = changed("one", weight, np.array([100, 0, 0, 0, 0], np.float32))
    report = run(job(weights=path, scheme="fp32", bench=False))
    assert "the fp32 reference puts all 20 images into one class: the agreement says little" in report.warnings


def test_different_answers_are_not_questioned(tiny, job):
    report = run(job(scheme="fp32", bench=False))
    assert report.measurements[-1].accuracy.reference_class_count > 1
    assert not [warning for warning in report.warnings if "one class" in warning or "same output" in warning]
