"""One checkpoint, one calibration: each image is decoded once, each file hashed once, each check asked once."""

from __future__ import annotations

import sys
from collections import Counter
from types import SimpleNamespace

import pytest

from squeeze_export.compilers import Compiled
from squeeze_export.pipeline import Job, RunOptions, analyze, calibrate, run, run_compiled, validate_files, validate_portability
from squeeze_export.pipeline import write_table as write
from squeeze_export.registry import COMPILERS

FAST = RunOptions(rounds=2, emulated_images=4)
COUNTED = {
    "decoded": ("images.stream.decode", 1),
    "hashed": ("pipeline.export.read_content", 0),
    "checkpoint": ("pipeline.network.read_checkpoint", 0),
    "factors": ("quant.recipes.channel_factors", None),
    "recipe": ("pipeline.job.check_recipe", 0),
    "recipe again": ("pipeline.calibration.check_recipe", 0),
    "carries": ("pipeline.job.check_carries", 0),
    "carries again": ("pipeline.export.check_carries", 0),
}
"""What is counted: the function, and which of its arguments tells one call from another."""


@pytest.fixture
def counts(monkeypatch):
    """What is counted -> argument -> calls, in this process."""
    found = {name: Counter() for name in COUNTED}

    def count(name, function, place):
        def counting(*arguments, **settings):
            told = arguments[place] if place is not None else ""
            found[name][getattr(told, "name", told)] += 1
            return function(*arguments, **settings)

        return counting

    for name, (path, place) in COUNTED.items():
        module = sys.modules[f"squeeze_export.{path.rpartition('.')[0]}"]  # a function hides `pipeline.export`
        attribute = path.rpartition(".")[2]
        monkeypatch.setattr(module, attribute, count(name, getattr(module, attribute), place))
    return found


@pytest.fixture
def job(tiny, tmp_path):
    values = {"weights": tiny / "tiny.safetensors", "calib": tiny / "calib", "out": tmp_path / "out", "run": FAST}
    return lambda **changes: Job(**{"targets": ("onnx", "tflite"), "scheme": "int8", **values, **changes})


CALIBRATION = {f"{index:02}.png": 1 for index in range(20)}


@pytest.mark.parametrize("targets", [("onnx", "tflite"), ("onnx",)])
def test_a_job_without_evaluation_images(job, targets, counts):
    report = run(job(targets=targets))
    assert report.evaluation["image_count"] == 20
    assert counts["decoded"] == CALIBRATION
    assert counts["checkpoint"] == {"tiny.safetensors": 1}
    assert counts["factors"] == {"": 1}
    assert counts["recipe"] == {"fast": 1}
    assert counts["carries"] == dict.fromkeys(targets, 1)
    assert counts["recipe again"] == counts["carries again"] == {}
    names = [f"squeezenet_custom.{scheme}.{target}" for target in targets for scheme in ("fp32", "int8")]
    assert counts["hashed"] == (dict.fromkeys(names, 1) if len(targets) > 1 else {})  # a single one is hashed where it is written


def test_a_job_with_evaluation_images(job, tiny, counts):
    run(job(eval=tiny / "eval"))
    assert counts["decoded"] == {name: 2 if int(name[:2]) < 8 else 1 for name in CALIBRATION}  # two folders, equal names


def test_files_for_a_chip(job, tiny, counts, monkeypatch):
    module = SimpleNamespace(
        NAME="fake",
        TARGET="tflite",
        SCHEMES=("int8",),
        SUFFIX="_fake.tflite",
        RUNTIMES=("litert-builtin",),
        PACKAGES=("numpy",),
        CHIPS=("small",),
        check=lambda chip, settings: None,
        compile_for=lambda artifact, chip, settings, folder: Compiled(artifact.path.read_bytes(), {}),
    )
    monkeypatch.setitem(sys.modules, "fake_compiler", module)
    monkeypatch.setitem(COMPILERS, "fake", "fake_compiler")
    report = run_compiled(job(bench=False), "fake", ("small",))
    assert [row.accuracy.count for row in report.measurements] == [20] * 3
    assert counts["decoded"] == CALIBRATION
    assert counts["checkpoint"] == {"tiny.safetensors": 1}
    assert counts["hashed"] == {}
    run_compiled(job(bench=False, validate=True, eval=tiny / "eval"), "fake", ("small",))
    assert counts["decoded"] == {name: 3 if int(name[:2]) < 8 else 2 for name in CALIBRATION}


def test_an_analysis(network, tiny, counts):
    analyze(network, tiny / "calib", rounds=None)
    assert counts["decoded"] == CALIBRATION
    assert counts["recipe again"] == {"fast": 1}
    assert counts["factors"] == {"": 1}


def test_exported_files(network, made, quantized, tiny, counts, tmp_path):
    files = [made[target, "int8"].path for target in ("onnx", "tflite")]
    write(calibrate(network, tiny / "calib"), tmp_path / "net.table")
    counts["decoded"].clear()
    report = validate_portability(files, network, tmp_path / "net.table", tiny / "eval", options=FAST)
    assert [row.accuracy.count for row in report.measurements] == [8, 8, 4, 4]
    assert counts["decoded"] == {f"{index:02}.png": 1 for index in range(8)}
    assert counts["hashed"] == {path.name: 1 for path in files}
    validate_files(files, network, tiny / "eval", table=tmp_path / "net.table", options=FAST)
    assert counts["hashed"] == {path.name: 2 for path in files}
