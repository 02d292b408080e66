"""`--recipe vendor`: the vendors' own quantization inside the tool. What each peer does is tested in peers/."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from squeeze_export.core import EmitOptions
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.pipeline import RunOptions, open_network, run, validate_files
from squeeze_export.registry import TARGETS

FAST = RunOptions(rounds=2)


@pytest.fixture
def job(job):
    """Makes a vendor's job on the tiny network."""
    return lambda **changes: job(**{"recipe": "vendor"} | changes)


def test_a_vendors_file_is_exported_proven_and_timed(job, tiny, tmp_path):
    report = run(job())
    assert [(row.scheme, row.recipe) for row in report.measurements] == [("fp32", ""), ("int8", "vendor")]
    row = report.measurements[1]
    assert row.artifact == "squeezenet_custom.vendor.int8.onnx"
    assert row.latency is not None
    assert row.latency.speedup is not None
    assert row.accuracy is not None
    assert row.accuracy.sqnr_db > 10
    assert report.calibration == {"source": "calib", "image_count": 20, "recipe": "vendor", "scheme": "int8"}
    assert report.differences == ()  # not our integers
    sidecar = json.loads((tmp_path / "out" / f"{row.artifact}.json").read_text())
    assert sidecar["provenance"]["recipe"] == "vendor"
    assert "quantize_static" in sidecar["provenance"]["method"]
    assert "onnxruntime" in sidecar["provenance"]["versions"]
    # Beside ours, in one table.
    run(job(recipe="fast", validate=False, bench=False))
    files = [tmp_path / "out" / name for name in ("squeezenet_custom.int8.onnx", "squeezenet_custom.vendor.int8.onnx")]
    rows = validate_files(files, open_network(tiny / "tiny.safetensors"), tiny / "eval").measurements
    assert [row.recipe for row in rows] == ["fast", "vendor"]


def test_a_vendors_failure_is_a_row_among_others(job, monkeypatch):
    def refuse(source, recipe):
        raise Refused("the converter said no")

    def missing(source, recipe):
        raise Unavailable("`tensorflow` is not installed")

    monkeypatch.setattr("squeeze_export.peers.onnxruntime.quantize", refuse, raising=False)
    monkeypatch.setattr("squeeze_export.peers.tensorflow.quantize", missing, raising=False)
    rows = run(job(targets=("onnx", "tflite"), validate=False, bench=False)).measurements
    assert [(row.status, row.reason) for row in rows] == [
        ("failed", "the converter said no"),
        ("failed", "`tensorflow` is not installed"),
    ]
    with pytest.raises(Refused, match="the converter said no"):
        run(job())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "fp16"}, "the recipe `vendor` makes `int8`, not `fp16`"),
        ({"options": EmitOptions(softmax=True)}, "the recipe `vendor` takes one uint8 image and gives logits"),
        ({"recipe": "vendor-perfect"}, "`vendor-perfect`"),
        ({"targets": ("tflite",), "recipe": "vendor-percentile"}, "`vendor-percentile`"),
        ({"calib": None}, "integers need calibration images"),
    ],
)
def test_what_no_vendor_is_asked_for(job, changes, message):
    with pytest.raises(BadInput, match=message):
        run(job(**changes))


def test_a_table_is_no_vendors(job, tmp_path):
    with pytest.raises(BadInput, match="a table holds our integers; the recipe `vendor` makes its own"):
        run(job(table=tmp_path / "net.table"))


def test_accuracy_control_is_given_the_labelled_images_and_that_is_said(job, tiny, monkeypatch, tmp_path):
    given = []

    def quantize(source, recipe):
        given.append((source.validation.shape, source.labels.tolist()))
        raise Refused("enough")

    monkeypatch.setattr("squeeze_export.peers.nncf.quantize", quantize, raising=False)
    shutil.copytree(tiny / "eval", tmp_path / "eval")
    listed = ["file,class_index", *(f"0{n}.png,{n % 5}" for n in range(8))]
    (tmp_path / "eval" / "labels.csv").write_text("\n".join(listed))
    values = job(targets=("openvino", "tflite"), recipe="vendor-accuracy", eval=tmp_path / "eval" / "labels.csv", bench=False)
    with pytest.raises(BadInput, match="`vendor-accuracy`"):
        run(values)  # TensorFlow has no such recipe
    with pytest.raises(Refused, match="enough"):
        run(replace(values, targets=("openvino",)))
    assert given == [((8, 32, 32, 3), [n % 5 for n in range(8)])]


def test_every_target_but_those_without_a_vendors_quantizer(job):
    with pytest.raises(BadInput, match="there is no vendor's quantizer for coreai files") as caught:
        run(job(targets=tuple(TARGETS), recipe="vendor"))
    assert caught.value.hint == "there is one for: onnx, tflite, openvino, coreml"
