"""Layers put back to float: by name, by number, by a bound on the drop; and in the jobs that calibrate and export."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from squeeze_export import demo
from squeeze_export.analyze.mixed_precision import exact_effect
from squeeze_export.analyze.report import analysis_json
from squeeze_export.analyze.results import ExactEffect
from squeeze_export.errors import BadInput, GateUndecided, Unavailable
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import QuantizedConv
from squeeze_export.graph.quantized import INT8_NPU, INT8_PER_TENSOR, INT16X8, SCHEMES, Quantization
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.graph.table import read_table
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.measure.accuracy import compare
from squeeze_export.measure.statistics import wilson
from squeeze_export.pipeline import (
    analyze,
    calibrate,
    open_network,
    read_calibration,
    run,
    write_table,
)
from squeeze_export.pipeline.comparison import NO_STEPS

FAULT = "fire4/squeeze1x1"
WITH_IT = ("fire4/squeeze1x1", "fire4/expand1x1", "fire4/expand3x3")
FAST = {"images": 2, "rounds": None, "threads": 2}


def cut_to_a_quarter(quantized, name):
    """The range of a layer whose output shares its scale with none, with the biases that stand on its scale."""
    q = quantized.tensors[name]
    nodes = tuple(
        replace(node, bias=node.bias * np.int32(4)) if isinstance(node, QuantizedConv) and node.input == name else node
        for node in quantized.nodes
    )
    return replace(quantized, nodes=nodes, tensors={**quantized.tensors, name: Quantization(q.scale / 4, q.zero_point)})


@pytest.fixture(scope="module")
def demo_network():
    return open_network()


@pytest.fixture(scope="module")
def folder(demo_network, tmp_path_factory):
    """sound.table, and broken.table with one layer's range cut to a quarter; val/: an image of each class; flat/: the same."""
    path = tmp_path_factory.mktemp("fault")
    calibration = calibrate(demo_network)
    write_table(calibration, path / "sound.table")
    broken = cut_to_a_quarter(calibration.quantized, FAULT)
    write_table(replace(calibration, quantized=broken), path / "broken.table")
    (path / "flat").mkdir()
    for label in demo_network.graph.labels:
        (path / "val" / label).mkdir(parents=True)
        file = min((demo.evaluation_folder() / label).glob("*.jpg"))
        shutil.copy(file, path / "val" / label)
        shutil.copy(file, path / "flat")
    return path


# --- the planted fault


def test_a_planted_fault_is_named_first_and_repaired(demo_network, folder, tmp_path):
    found = analyze(demo_network, eval_path=folder / "val", table=folder / "broken.table", max_drop_pp=15.0, out=tmp_path, **FAST)
    kept = found.kept
    assert found.worst[0] == kept.ranking[0].layer == FAULT
    assert (kept.layers, kept.convs, kept.conv_count) == ((FAULT,), WITH_IT, 26)
    assert (kept.reached, kept.drop_of) == (True, "top-1")
    assert kept.before.drop_high_pp > 15 >= kept.after.drop_high_pp
    assert (kept.before.sqnr_db, kept.before.agreement) == (found.int8.sqnr_db, found.int8.agreement)
    tried = {one.layer_count: one.effect for one in kept.tried}
    assert (tried[0], tried[1]) == (kept.before, kept.after)
    # What it says is what the table that it wrote does.
    assert kept.table == "squeezenet1_1_demo.int8.table"
    again = analyze_alone(demo_network, folder / "val", tmp_path / kept.table)
    assert again == kept.after
    assert {file.network: file.p50_ms for file in kept.cost.files} == {"integers": None, "kept": None, "fp32": None}
    sizes = [file.size_bytes for file in kept.cost.files]
    assert sizes == sorted(sizes)
    assert json.loads(json.dumps(analysis_json(found), allow_nan=False))["kept"]["layers"] == [FAULT]


def analyze_alone(network, folder, table):
    """The effect of a table, without any of the code that found it."""
    files = sorted(folder.glob("*/*.jpg"))
    pixels = np.stack([load_pixels(file, network.graph.preprocess) for file in files])
    labels = np.array([network.graph.labels.index(file.parent.name) for file in files])
    with one_blas_thread():
        found = compare(FloatRunner(network.graph)(pixels), IntegerRunner(read_table(table))(pixels), labels)
    effect = exact_effect(found)
    return replace(effect, sqnr_db=pytest.approx(effect.sqnr_db, abs=1e-3))  # the two float networks differ by rounding


def test_without_labels_the_drop_is_of_the_agreement(demo_network, folder):
    found = analyze(demo_network, eval_path=folder / "flat", table=folder / "broken.table", max_drop_pp=15.0, **FAST)
    kept = found.kept
    assert (kept.layers, kept.drop_of, kept.table) == ((FAULT,), "agreement", "")
    assert kept.before.drop_pp == pytest.approx(100 * (1 - found.int8.agreement))
    low = wilson(round(24 * kept.after.agreement), 24).low
    assert kept.after.drop_high_pp == pytest.approx(100 * (1 - low))


def test_where_nothing_is_wrong_nothing_is_kept(demo_network, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("squeeze_export.pipeline.analysis.ranking", None)  # would fail if it were called
    monkeypatch.setattr("squeeze_export.pipeline.analysis.cost_of", None)
    found = analyze(demo_network, eval_path=folder / "val", table=folder / "sound.table", max_drop_pp=20.5, out=tmp_path, **FAST)
    assert (found.kept.layers, found.kept.reached, found.kept.cost, found.kept.table) == ((), True, None, "")
    assert found.kept.after == found.kept.before
    assert list(tmp_path.iterdir()) == []


# --- by name and by number


@pytest.fixture(scope="module")
def tiny_table(network, tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "tiny.int8.table"
    write_table(calibrate(network, tiny / "calib"), path)
    return path


def test_by_name_with_the_cost(network, tiny, tiny_table, tmp_path):
    settings = {**FAST, "rounds": 3}
    found = analyze(
        network, eval_path=tiny / "eval", table=tiny_table, keep_float=["conv10", "conv1", "conv1"], out=tmp_path, **settings
    )
    kept = found.kept
    assert (kept.layers, kept.convs) == (("conv10", "conv1"), ("conv1", "fire2/squeeze1x1", "conv10"))
    assert (kept.max_drop_pp, kept.reached, kept.ranking, kept.tried) == (None, None, (), ())
    assert kept.after.sqnr_db > kept.before.sqnr_db
    assert (kept.cost.target, kept.cost.runtime, kept.cost.device, kept.cost.rounds) == ("onnx", "onnxruntime", "cpu", 3)
    integers, mixed, fp32 = kept.cost.files
    assert integers.to_integers == 1
    for file in (mixed, fp32):
        assert file.to_integers == pytest.approx(file.p50_ms / integers.p50_ms)
        assert file.to_integers_low <= file.to_integers <= file.to_integers_high
    read = read_calibration(tmp_path / kept.table)
    assert read.quantized.kept_float == kept.convs
    assert read.facts()["kept_float"] == list(kept.convs)
    with pytest.raises(BadInput, match="already keeps layers in float") as refused:
        analyze(network, eval_path=tiny / "eval", table=tmp_path / kept.table, **FAST)
    assert refused.value.hint == "use the all-integer table that it was made from"


def test_by_number(network, tiny, tiny_table):
    found = analyze(network, eval_path=tiny / "eval", table=tiny_table, keep_float=2, **FAST)
    assert found.kept.layers == tuple(one.layer for one in found.kept.ranking[:2])
    assert set(found.kept.convs) == {name for one in found.kept.ranking[:2] for name in one.added}
    most = len(found.kept.ranking)
    with pytest.raises(BadInput, match="nothing would be left in integers") as refused:
        analyze(network, eval_path=tiny / "eval", table=tiny_table, keep_float=99, **FAST)
    assert refused.value.hint == f"--keep-float {most}"


def test_nothing_asked_is_nothing_done(network, tiny, tiny_table, monkeypatch):
    monkeypatch.setattr("squeeze_export.pipeline.analysis.mixed_precision", None)
    assert analyze(network, eval_path=tiny / "eval", table=tiny_table, **FAST).kept is None


def test_where_no_runtime_is_installed_the_cost_is_left_out(network, tiny, tiny_table, monkeypatch):
    def absent(*_):
        raise Unavailable("not installed")

    monkeypatch.setattr("squeeze_export.pipeline.float_cost.runtime_named", absent)
    kept = analyze(network, eval_path=tiny / "eval", table=tiny_table, keep_float=["conv10"], **FAST).kept
    assert (kept.layers, kept.cost) == (("conv10",), None)


# --- refused, and as early as can be


@pytest.mark.parametrize(
    ("wish", "message", "hint"),
    [
        ({"keep_float": ["fire2/squeeze"]}, "no layer is called `fire2/squeeze`", "did you mean `fire2/squeeze1x1`?"),
        ({"keep_float": ["pool"]}, "no layer is called `pool`", "one of: conv1, fire2/squeeze1x1"),
        ({"keep_float": 0}, "`0` is neither a layer nor a number of layers", "--keep-float 1"),
        ({"keep_float": ["conv1"], "rounds": 0}, "--rounds `0` is below 1", "--rounds 50"),
        ({"keep_float": ["conv1"], "max_drop_pp": 1.0}, "finds the layers itself", "leave out"),
        ({"max_drop_pp": 0.0}, "`0` is outside 0 to 100", "--max-drop 1"),
        ({"max_drop_pp": float("nan")}, "`nan` is outside", "--max-drop 1"),
        (
            {"keep_float": ["conv1", "fire2/squeeze1x1", "fire2/expand1x1", "fire3/squeeze1x1", "fire3/expand3x3"]},
            "nothing is left in integers",
            "--scheme fp32",
        ),
    ],
)
def test_refused_at_once(wish, message, hint, network, monkeypatch):
    monkeypatch.setattr("squeeze_export.pipeline.analysis.evaluation_images", None)
    with pytest.raises(BadInput, match=message) as refused:
        analyze(network, **wish)
    assert hint in refused.value.hint


def test_too_few_images_are_refused_before_calibrating(network, tiny, monkeypatch):
    monkeypatch.setattr("squeeze_export.pipeline.analysis.calibrate", None)
    with pytest.raises(GateUndecided, match="`8` images cannot show a drop under 1 pp") as refused:
        analyze(network, tiny / "calib", tiny / "eval", max_drop_pp=1.0)
    assert refused.value.hint == "--eval with at least 381 images"
    assert refused.value.exit_code == 6


def test_other_schemes_are_refused(network, tiny, tmp_path):
    write_table(calibrate(network, tiny / "calib", scheme=INT8_NPU), tmp_path / "npu.table")
    with pytest.raises(BadInput, match="the scheme `int8-npu` cannot keep layers in float"):
        analyze(network, eval_path=tiny / "eval", table=tmp_path / "npu.table", keep_float=["conv1"], **FAST)


def test_the_table_that_is_read_is_not_overwritten(network, tiny, tmp_path):
    path = tmp_path / "squeezenet_custom.int8.table"
    write_table(calibrate(network, tiny / "calib"), path)
    before = path.read_bytes()
    with pytest.raises(BadInput, match="would overwrite"):
        analyze(network, eval_path=tiny / "eval", table=path, keep_float=["conv1"], out=tmp_path, **FAST)
    assert path.read_bytes() == before
    assert analyze(network, eval_path=tiny / "eval", table=path, out=tmp_path, **FAST).kept is None


def test_a_bound_that_is_not_reached(network, tiny, tiny_table, tmp_path, monkeypatch):
    sound = read_calibration(tiny_table)
    broken = cut_to_a_quarter(cut_to_a_quarter(sound.quantized, "fire2/squeeze1x1"), "fire2/squeeze1x1")
    write_table(replace(sound, quantized=broken), tmp_path / "broken.table")
    seen = []

    def effect(accuracy):
        """The table's own at first, and made up for every number of layers: no network does this."""
        seen.append(accuracy)
        return exact_effect(accuracy) if accuracy == seen[0] else ExactEffect(20.0, 0.5, 50.0, 41.0, 59.0)

    monkeypatch.setattr("squeeze_export.analyze.mixed_precision.exact_effect", effect)
    kept = analyze(network, eval_path=tiny / "eval", table=tmp_path / "broken.table", max_drop_pp=33.0, out=tmp_path, **FAST).kept
    assert (kept.reached, kept.table) == (False, "")
    assert len(kept.layers) == min(one.layer_count for one in kept.tried if one.layer_count)
    assert [file.name for file in tmp_path.iterdir()] == ["broken.table"]
    assert kept.before.drop_high_pp == 100
    assert kept.after.drop_high_pp == min(one.effect.drop_high_pp for one in kept.tried) == 59


# --- calibrate and export


@pytest.fixture
def job(job):
    """Makes a job that keeps a layer in float."""
    return lambda **changes: job(**{"keep_float": ("fire2/squeeze1x1",)} | changes)


TAKEN_ALONG = ["fire2/squeeze1x1", "fire2/expand1x1", "fire2/expand3x3"]


def test_an_export_keeps_layers_and_says_so(job, tmp_path):
    report = run(job())
    assert report.calibration["kept_float"] == TAKEN_ALONG
    row = next(row for row in report.measurements if row.scheme == "int8")
    assert list(row.audit.kept_float) == TAKEN_ALONG
    assert row.audit.violations == ()
    sidecar = json.loads((tmp_path / "out" / "squeezenet_custom.int8.onnx.json").read_text())
    assert sidecar["provenance"]["kept_float"] == TAKEN_ALONG


def test_the_file_is_that_of_a_table_that_keeps_them(job, network, tiny, tiny_table, tmp_path):
    quiet = {"validate": False, "bench": False, "calib": None}
    digests = set()
    run(job(calib=tiny / "calib", validate=False, bench=False))
    digests.add((tmp_path / "out" / "squeezenet_custom.int8.onnx").read_bytes())
    run(job(table=tiny_table, out=tmp_path / "b", **quiet))
    digests.add((tmp_path / "b" / "squeezenet_custom.int8.onnx").read_bytes())
    write_table(calibrate(network, tiny / "calib", keep_float=["fire2/squeeze1x1"]), tmp_path / "mixed.table")
    run(job(table=tmp_path / "mixed.table", keep_float=(), out=tmp_path / "c", **quiet))
    digests.add((tmp_path / "c" / "squeezenet_custom.int8.onnx").read_bytes())
    assert len(digests) == 1


def test_the_scheme_with_one_scale_a_layer_keeps_layers_too(network, tiny):
    assert list(calibrate(network, tiny / "calib", scheme=INT8_PER_TENSOR, keep_float=TAKEN_ALONG).quantized.kept_float) == [
        *TAKEN_ALONG,
        "fire3/squeeze1x1",
    ]


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"int8", "int8-per-tensor"}))
def test_schemes_that_keep_none_are_refused_before_any_work(scheme, job, monkeypatch):
    monkeypatch.setattr("squeeze_export.pipeline.job.open_network", None)
    monkeypatch.setattr("squeeze_export.pipeline.job._check_target", lambda *_: None)
    with pytest.raises(BadInput, match=f"scheme `{scheme}`"):
        run(job(scheme=scheme))


def test_the_vendors_recipes_are_refused_before_any_work(job, monkeypatch):
    monkeypatch.setattr("squeeze_export.pipeline.job.open_network", None)
    with pytest.raises(BadInput, match="in our integers; the recipe `vendor`"):
        run(job(recipe="vendor"))


def test_a_wrong_name_is_refused_before_calibrating(job, network, tiny, monkeypatch):
    monkeypatch.setattr("squeeze_export.pipeline.job.read_images", None)
    with pytest.raises(BadInput, match="no layer is called `fire2`"):
        run(job(keep_float=("fire2",)))
    monkeypatch.setattr("squeeze_export.pipeline.calibration.read_images", None)
    for wrong, scheme in (["fire2"], SCHEMES["int8"]), (["conv1"], INT16X8):
        with pytest.raises(BadInput):
            calibrate(network, tiny / "calib", scheme=scheme, keep_float=wrong)


def test_a_table_needs_its_checkpoint(job, tiny, tiny_table):
    with pytest.raises(BadInput, match="has its checkpoint's weights") as refused:
        run(job(table=tiny_table, weights=None, calib=None))
    assert refused.value.hint == "name it with --weights"
    with pytest.raises(BadInput, match=r"was not made from `other\.safetensors`"):
        run(job(table=tiny_table, weights=tiny / "other.safetensors", calib=None))


def test_a_table_that_keeps_layers_already_is_exported_but_takes_no_more(job, network, tiny, tmp_path):
    path = tmp_path / "mixed.table"
    write_table(calibrate(network, tiny / "calib", keep_float=["conv1"]), path)
    assert run(job(table=path, keep_float=(), bench=False)).calibration["kept_float"] == ["conv1", "fire2/squeeze1x1"]
    with pytest.raises(BadInput, match="already keeps layers in float"):
        run(job(table=path))


def test_the_last_layer_in_float_leaves_the_comparison_out(job):
    report = run(job(targets=("onnx", "tflite"), keep_float=("conv10",), bench=False))
    assert report.differences == ()
    assert NO_STEPS in report.warnings
    assert {row.status for row in report.measurements} == {"ok"}
    both = run(job(targets=("onnx", "tflite"), bench=False))
    assert NO_STEPS not in both.warnings
    assert [difference.first_layer for difference in both.differences] == ["", "", None]
