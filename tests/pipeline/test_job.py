"""The whole job through the Python API."""

import json
import sys

import pytest

from squeeze_export import demo
from squeeze_export.cli.jobs import finish
from squeeze_export.core import EmitOptions
from squeeze_export.documents import to_json
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.run import FloatRunner
from squeeze_export.pipeline import Job, PreprocessChoice, RunOptions, calibrate, open_network, run, write_table
from squeeze_export.registry import TARGETS
from squeeze_export.results import SCHEMA
from squeeze_export.targets import target_named

FAST = RunOptions(rounds=2)


def test_int8_rows_follow_their_fp32_baseline(job):
    report = run(job(targets=tuple(TARGETS)))
    assert list(dict.fromkeys((row.target, row.scheme) for row in report.measurements)) == [
        (target, scheme) for target in TARGETS for scheme in ("fp32", "int8")
    ]
    for row in report.measurements:
        assert (row.device, row.status, row.placement is not None) == ("cpu", "ok", True)
        assert row.runtime in target_named(row.target).RUNTIMES
        assert row.recipe == ("fast" if row.scheme == "int8" else "")
        if row.evidence == "emulated":
            assert (row.target in ("coreml", "coreai"), row.latency) == (True, None)
            continue
        assert row.latency is not None
        speedup = row.latency.speedup
        if row.scheme == "fp32" and row.runtime == target_named(row.target).RUNTIMES[0]:
            assert speedup is None
        else:
            assert speedup is not None
            assert speedup.low <= speedup.value <= speedup.high


def test_the_baseline_is_no_product(job, tmp_path):
    run(job())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "squeezenet_custom.int8.onnx",
        "squeezenet_custom.int8.onnx.json",
    }


def test_fp32_needs_no_baseline(job):
    (row,) = run(job(scheme="fp32")).measurements
    assert row.scheme == "fp32"
    assert row.latency is not None


def test_the_report_tells_what_was_done(job, tiny):
    report = run(job(seed=3))
    assert report.network["source"] == "tiny.safetensors"
    assert (report.calibration["image_count"], report.calibration["seed"]) == (20, 3)
    assert report.evaluation["note"].startswith("these are the calibration images")
    assert report.warnings == ("`20` calibration images are few: ranges are steadier with 100 or more",)
    assert {"squeeze-export", "numpy", "onnxruntime"} <= set(report.tool_versions)
    assert report.host["cpu"]
    assert SCHEMA.from_json(json.loads(json.dumps(to_json(report, "report")))) == report


def test_independent_evaluation_images_leave_no_note(job, tiny):
    report = run(job(eval=tiny / "eval"))
    assert "note" not in report.evaluation
    assert report.measurements[0].accuracy is not None
    assert report.measurements[0].accuracy.count == 8


def test_neither_validated_nor_timed(job):
    (row,) = run(job(validate=False, bench=False)).measurements
    assert (row.scheme, row.accuracy, row.latency, row.device, row.device_asked) == ("int8", None, None, "", "cpu")


def test_timed_only(job):
    fp32, int8 = run(job(validate=False)).measurements
    assert fp32.accuracy is int8.accuracy is None
    assert int8.latency is not None


def test_without_images_there_is_no_validation(job):
    report = run(job(scheme="fp16", calib=None))
    assert report.warnings == ("not validated: there are no images, give --eval DIR",)
    assert report.measurements[0].accuracy is None
    assert report.evaluation == {}


def test_everything_at_once(job, tiny):
    options = EmitOptions(batch="dynamic", input_dtype="float32", softmax=True)
    preprocess = PreprocessChoice(crop_px=40, interpolation="nearest")
    report = run(job(labels=tiny / "labels.txt", options=options, preprocess=preprocess, eval=tiny / "eval"))
    assert report.network["input_px"] == 40
    assert all(row.accuracy and row.latency for row in report.measurements)


def test_progress_is_told(job, tiny):
    told = []
    run(job(eval=tiny / "eval"), lambda what, done, total: told.append((what, done, total)))
    assert {what for what, *_ in told} >= {"reading images", "calibrating", "exporting", "comparing", "timing"}
    counted = [(done, total) for what, done, total in told if what == "comparing"]
    assert (counted[0], counted[-1]) == ((0, 8), (8, 8))  # the images that went through every session
    assert {total for what, _, total in told if what == "reading images"} == {20}  # the reading of these 8 is not what takes time
    for what in ("exporting", "comparing", "timing"):
        steps = [(done, total) for name, done, total in told if name == what]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


def test_the_count_moves_when_the_answers_are_there(job, tiny, monkeypatch):
    """And not when the images are read."""
    told = []
    original = FloatRunner.__call__

    def answering(self, *given):
        told.append("answer")
        return original(self, *given)

    monkeypatch.setattr(FloatRunner, "__call__", answering)
    run(job(scheme="fp32", bench=False, eval=tiny / "eval"), lambda what, done, total: told.append((what, done)))
    assert told.count("answer") >= 8
    assert told.index(("comparing", 8)) > max(index for index, what in enumerate(told) if what == "answer")


def test_the_demo_network_needs_nothing(tmp_path):
    report = run(Job(targets=("tflite",), scheme="int8", out=tmp_path, run=FAST))
    assert report.network["name"] == demo.NAME
    assert report.evaluation["labelled"]
    fp32, int8 = (row.accuracy for row in report.measurements)
    assert fp32 is not None
    assert int8 is not None
    assert fp32.top1 == fp32.reference_top1 == pytest.approx(demo.measured()["evaluation_images_top1"])
    assert int8.top1_delta_pp is not None
    assert int8.top1_delta_pp.value > -2.5


# --- several targets


BREAKS = "raise RuntimeError('the wrong glibc')"


@pytest.mark.parametrize("package", ["onnx", "ai_edge_litert", "openvino", "coremltools"])
def test_a_broken_toolchain_leaves_the_others(package, job, monkeypatch, tmp_path, capsys):
    """Its import raises: in the process that writes the file, in the one that runs it, and in calibration."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "packages" / package).mkdir(parents=True)
    (tmp_path / "packages" / package / "__init__.py").write_text(BREAKS)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    other = "onnx" if package == "ai_edge_litert" else "tflite"
    values = job(targets=(OWNERS[package], other))
    report = run(values)
    failed = [row for row in report.measurements if row.status == "failed"]
    assert {row.target for row in failed} == {OWNERS[package]}
    assert all("breaks when it is imported: RuntimeError: the wrong glibc" in row.reason for row in failed)
    others = {row.target for row in report.measurements if row.status == "ok" and row.scheme == "int8" and row.accuracy}
    assert others == {other}
    assert finish(report, values, {"as_json": True, "require_full_placement": False}, []) == 4
    assert SCHEMA.from_json(json.loads(capsys.readouterr().out)) == report


OWNERS = {"onnx": "onnx", "ai_edge_litert": "tflite", "openvino": "openvino", "coremltools": "coreml"}


def test_a_single_target_that_fails_raises(job, monkeypatch):
    def emit(*_):
        raise Refused("the writer said no")

    monkeypatch.setattr("squeeze_export.targets.onnx.emit", emit)
    with pytest.raises(Refused, match="the writer said no"):
        run(job())


def test_a_runtime_that_cannot_open_its_file_leaves_the_others(job, monkeypatch):
    def open_session(*_, **__):
        raise Refused("no such operator")

    monkeypatch.setattr("squeeze_export.runtimes.onnxruntime.open_session", open_session)
    report = run(job(targets=("onnx", "tflite")))
    found = {(row.target, row.scheme): row for row in report.measurements}
    for scheme in ("fp32", "int8"):
        row = found["onnx", scheme]
        assert (row.status, row.reason, row.accuracy, row.latency) == ("failed", "no such operator", None, None)
        assert found["tflite", scheme].latency is not None
    assert found["onnx", "int8"].sha256


@pytest.mark.parametrize("validate", [True, False])
def test_a_runtime_that_fails_while_it_runs_leaves_the_others(validate, job, monkeypatch):
    def infer(*_):
        raise Refused("out of scratch memory")

    monkeypatch.setattr("squeeze_export.runtimes.onnxruntime.session.OnnxSession.infer", infer)
    rows = run(job(targets=("onnx", "tflite"), validate=validate)).measurements
    assert {(row.target, row.status, row.reason) for row in rows} == {
        ("onnx", "failed", "out of scratch memory"),
        ("tflite", "ok", ""),
    }
    with pytest.raises(Refused, match="out of scratch memory"):
        run(job(validate=validate))


def test_a_runtime_that_is_missing_leaves_the_others(job, monkeypatch):
    """ONNX Runtime also serves the calibration, which goes on without it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    rows = run(job(targets=("onnx", "tflite"))).measurements
    assert {row.target for row in rows if row.status == "failed"} == {"onnx"}
    assert {row.target for row in rows if row.status == "ok"} == {"tflite"}
    assert "`onnxruntime` is not installed" in rows[0].reason


# --- refused before any work is done


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("onnx", "caffe")}, "no target is called `caffe`"),
        ({"scheme": "int4"}, "no scheme is called `int4`"),
        ({"run": RunOptions(runtime="litert")}, "the runtime `litert` does not open onnx files"),
        ({"run": RunOptions(cpus=(9999,))}, "cpu `9999` is not among"),
    ],
)
def test_refused_at_once(changes, message, job, tmp_path, monkeypatch):
    monkeypatch.setattr("squeeze_export.pipeline.job.open_network", None)  # would fail if it were called
    with pytest.raises(BadInput, match=message):
        run(job(**changes))
    assert not (tmp_path / "out").exists()


def test_a_scheme_that_a_target_does_not_carry(job, monkeypatch):
    monkeypatch.setattr("squeeze_export.targets.onnx.SCHEMES", ("fp32",))
    with pytest.raises(BadInput, match="onnx does not carry the scheme `int8`") as caught:
        run(job())
    assert caught.value.hint == "it carries: fp32"


def test_a_device_that_is_not_there(job, tmp_path):
    with pytest.raises(Unavailable, match="no device `abacus`"):
        run(job(run=RunOptions(device="abacus")))
    assert not (tmp_path / "out").exists()
    run(job(run=RunOptions(device="abacus"), validate=False, bench=False))  # nothing is run, so nothing is missing


def test_evaluation_images_are_looked_for_before_calibrating(job, tmp_path, monkeypatch):
    monkeypatch.setattr("squeeze_export.pipeline.job.read_images", None)
    with pytest.raises(BadInput, match="does not exist"):
        run(job(eval=tmp_path / "nowhere"))


def test_overlap_is_refused(job, tiny):
    with pytest.raises(BadInput, match="evaluation images are calibration images too"):
        run(job(eval=tiny / "calib"))


# --- tables


@pytest.fixture
def table(tiny, tmp_path):
    """A table of the tiny network."""
    path = tmp_path / "net.table"
    write_table(calibrate(open_network(tiny / "tiny.safetensors"), tiny / "calib"), path)
    return path


def test_a_table_stands_in_for_the_images(job, table, tiny):
    report = run(job(table=table, calib=None, eval=tiny / "eval"))
    assert report.calibration["source"] == "table net.table"
    assert report.calibration["image_count"] == 20
    assert report.measurements[1].accuracy is not None


def test_a_table_alone_gives_files_but_no_comparison(job, table):
    report = run(job(table=table, calib=None, weights=None))
    (row,) = report.measurements
    assert (row.scheme, row.accuracy) == ("int8", None)
    assert row.latency is not None
    assert report.network == {"name": "squeezenet_custom", "source": "net.table", "labels": "none"}
    assert report.warnings == ("not validated: the table was made from another checkpoint, name it with --weights",)


def test_a_table_takes_labels_from_the_checkpoint(job, table, tiny, tmp_path):
    run(job(table=table, calib=None, labels=tiny / "labels.txt", validate=False, bench=False))
    sidecar = json.loads((tmp_path / "out" / "squeezenet_custom.int8.onnx.json").read_text())
    assert sidecar["labels"] == ["ant", "bee", "cat", "dog", "eel"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "fp32"}, "has the scheme `int8`, not `fp32`"),
        ({"weights": "other.safetensors"}, "was not made from `other.safetensors`"),
        ({"preprocess": PreprocessChoice(crop_px=48)}, "was made with other preprocessing than was asked for"),
    ],
)
def test_a_table_that_does_not_fit(changes, message, job, table, tiny):
    if "weights" in changes:
        changes = {"weights": tiny / changes["weights"]}
    with pytest.raises(BadInput, match=message):
        run(job(table=table, **changes))
