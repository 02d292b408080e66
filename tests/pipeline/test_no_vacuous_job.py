"""Networks for which the usual figures say nothing: one output, one class over all images, a constant output."""

import dataclasses

import numpy as np
import pytest

from squeeze_export.core import EmitOptions
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.nets.safetensors_file import write_safetensors
from squeeze_export.pipeline import run


@pytest.fixture(scope="module")
def changed(tiny, tmp_path_factory):
    """Makes a checkpoint of the tiny network with another last layer: its weight and bias."""

    def make(name, weight, bias):
        checkpoint = read_checkpoint(tiny / "tiny.safetensors")
        path = tmp_path_factory.mktemp("changed") / f"{name}.safetensors"
        tensors = {**checkpoint.tensors, "classifier.1.weight": weight, "classifier.1.bias": bias}
        arch = dataclasses.replace(checkpoint.architecture, class_count=len(bias))
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
    assert row.scheme == "int8"
    assert 0 < found.mean <= found.p95 < found.spread
    assert found.correlation > 0.99
    assert not [warning for warning in report.warnings if "softmax" in warning or "same output" in warning]


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
