"""CPUs without VNNI: what the emulation says of files, and OpenVINO held to AVX2 beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.portability import EMULATED, EXACT, PAIRS, VNNI, _wrong
from benchmarks.portability import FORCED as AVX2
from squeeze_export import demo
from squeeze_export.core import EmitOptions
from squeeze_export.errors import BadInput, Refused
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import INT8
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.graph.saturation import SaturatingProducts
from squeeze_export.graph.table import table_bytes
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.images.stream import ImageStream
from squeeze_export.pipeline import PreprocessChoice, RunOptions, calibrate, export, open_network
from squeeze_export.pipeline import forced_avx2 as forced
from squeeze_export.pipeline.portability import FACTS, FORCED, RUNTIME, validate_portability
from squeeze_export.quant import recipes
from squeeze_export.quant.recipes import quantize
from squeeze_export.results import Accuracy, Interval

HERE = pytest.mark.skipif(not forced.can_be_forced(), reason="no x86: nothing to hold to AVX2")


@pytest.fixture(scope="session")
def table(quantized, tmp_path_factory):
    """The tiny network's table file."""
    path = tmp_path_factory.mktemp("table") / "net.int8.table"
    path.write_bytes(table_bytes(quantized))
    return path


def agreement(quantized, pixels):
    """Share of images with the same top-1 class from exact and from saturated products, and the pairs that saturated."""
    products = SaturatingProducts(quantized)
    with one_blas_thread():
        exact, saturated = IntegerRunner(quantized)(pixels), IntegerRunner(quantized, products)(pixels)
    return float((exact.argmax(axis=1) == saturated.argmax(axis=1)).mean()), products.saturated


# --- the default tables


@pytest.fixture(scope="module")
def demo_pixels():
    """A quarter of the demo network's evaluation images, from every class."""
    network = open_network()
    return ImageStream(open_calibration(demo.evaluation_folder()), network.graph.preprocess).load()[0].pixels[::4]


def test_the_demo_networks_default_table_keeps_its_answers(demo_pixels):
    share, saturated = agreement(calibrate(open_network()).quantized, demo_pixels)
    assert share >= 0.99
    assert saturated
    assert "conv1" not in saturated


def test_without_the_limit_on_the_first_layer_it_does_not(demo_pixels, monkeypatch):
    """The control: the check above can fail."""
    monkeypatch.setattr(recipes, "FIRST_WEIGHT_LIMIT", recipes.WEIGHT_LIMIT)
    share, saturated = agreement(calibrate(open_network()).quantized, demo_pixels)
    assert share < 0.99
    assert max(saturated, key=saturated.__getitem__) == "conv1"


def test_real_photographs(assets):
    network = open_network(assets / "weights" / "squeezenet1_1.safetensors")
    files = [sorted((assets / "images").glob(pattern)) for pattern in ("calib/*.jpg", "eval/*/*.jpg")]
    seen, photographs = (
        np.stack([load_pixels(file, network.graph.preprocess) for file in chosen]) for chosen in (files[0][::4], files[1][::40])
    )
    quantized = quantize(network.graph, seen, FloatRunner(network.graph), INT8)
    share, saturated = agreement(quantized, photographs)
    assert len(photographs) == 12
    assert share == 1
    assert "conv1" not in saturated


# --- the job


@pytest.fixture(scope="session")
def report(network, made, table, tiny):
    """Of the tiny network's int8 files and an fp32 one, on 6 of 8 images."""
    files = [made["onnx", "int8"].path, made["openvino", "int8"].path, made["onnx", "fp32"].path]
    return validate_portability(files, network, table, tiny / "eval", options=RunOptions(emulated_images=6))


def test_every_int8_file_has_an_emulated_row(report):
    rows = [row for row in report.measurements if row.runtime == RUNTIME]
    assert [(row.target, row.scheme, row.evidence, row.device) for row in rows] == [
        ("onnx", "int8", "emulated", "cpu"),
        ("openvino", "int8", "emulated", "cpu"),
    ]
    assert {row.accuracy.count for row in rows} == {6}
    assert rows[0].accuracy == rows[1].accuracy
    assert [row.runtime for row in report.measurements[:3]] == ["onnxruntime", "openvino", "onnxruntime"]


@HERE
def test_openvino_held_to_avx2_is_measured_and_is_what_was_emulated(report):
    (row,) = [row for row in report.measurements if row.runtime == FORCED]
    assert (row.target, row.evidence, row.device, row.accuracy.count) == ("openvino", "measured", "cpu", 6)
    assert "avx2" in row.kernels
    assert row.placement.integer_mac_share == 1
    names = [(difference.first, difference.second) for difference in report.differences]
    assert names == [
        ("integer run", f"{RUNTIME} (emulated)"),
        ("integer run", f"openvino on {FORCED}"),
        (f"{RUNTIME} (emulated)", f"openvino on {FORCED}"),
    ]
    assert report.differences[2].largest_steps <= 1


def test_the_distance_from_the_exact_integers_is_in_the_report(report):
    facts = report.evaluation[FACTS]
    assert facts["image_count"] == 6
    assert 0 <= facts["saturated_count"] < facts["pair_count"]
    assert facts["saturated_count"] == sum(facts["saturated_by_layer"].values())
    assert 0 <= facts["agreement_with_exact"] <= 1


def broken(quantized):
    """The first layer's weights are all 127 or -127, at a scale so small that no later layer saturates for it."""
    conv = quantized.convs[0]
    weight = np.where(conv.weight < 0, -127, 127).astype(np.int8)
    hot = dataclasses.replace(conv, weight=weight, weight_scale=conv.weight_scale / np.float32(16))
    return dataclasses.replace(quantized, nodes=tuple(hot if node is conv else node for node in quantized.nodes))


def test_a_table_that_saturates_is_warned_of(network, quantized, tiny, tmp_path):
    wrong = broken(quantized)
    (tmp_path / "wrong.table").write_bytes(table_bytes(wrong))
    artifact, _ = export(wrong, "onnx", INT8, tmp_path, name="wrong")
    found = validate_portability([artifact.path], network, tmp_path / "wrong.table", tiny / "eval")
    facts = found.evaluation[FACTS]
    assert list(facts["saturated_by_layer"]) == ["conv1"]
    assert facts["sqnr_with_exact_db"] < 25
    (warning,) = found.warnings
    lost = 1 - facts["agreement_with_exact"]
    assert warning.startswith(f"on a CPU without VNNI {lost:.1%} of 8 images get another top-1 class")
    assert f"most pairs of products saturate in `conv1` ({facts['saturated_count']:,})" in warning
    assert "`FIRST_WEIGHT_LIMIT`" in warning


def test_the_default_table_is_not_warned_of(report):
    assert report.warnings == ()


def test_a_table_under_other_labels_is_the_same(network, quantized, table, tiny, tmp_path):
    labelled = open_network(tiny / "tiny.safetensors", labels=tiny / "labels.txt")
    named = dataclasses.replace(quantized, labels=labelled.graph.labels)
    artifact, _ = export(named, "onnx", INT8, tmp_path, name="named")
    found = validate_portability([artifact.path], labelled, table, tiny / "eval")
    assert len(found.measurements) == 2


def test_another_table_is_refused(network, quantized, made, tiny, tmp_path):
    first = quantized.convs[0]
    other = dataclasses.replace(first, bias=first.bias + 1)
    nodes = tuple(other if node is first else node for node in quantized.nodes)
    (tmp_path / "other.table").write_bytes(table_bytes(dataclasses.replace(quantized, nodes=nodes)))
    with pytest.raises(BadInput, match=r"`net.int8.onnx` was not written from the table `.*other.table`"):
        validate_portability([made["onnx", "int8"].path], network, tmp_path / "other.table", tiny / "eval")


def test_files_without_integers_are_refused(network, made, table, tiny):
    with pytest.raises(BadInput, match="none of the files is of the table's scheme `int8`"):
        validate_portability([made["onnx", "fp32"].path], network, table, tiny / "eval")


def test_probabilities_are_refused(network, quantized, table, tiny, tmp_path):
    soft, _ = export(quantized, "onnx", INT8, tmp_path, name="soft", options=EmitOptions(softmax=True))
    with pytest.raises(BadInput, match=r"`soft.int8.onnx` gives probabilities"):
        validate_portability([soft.path], network, table, tiny / "eval")


def test_another_checkpoint_and_other_preprocessing_are_refused(made, table, tiny):
    files = [made["onnx", "int8"].path]
    with pytest.raises(BadInput, match=r"was not made from `other.safetensors`"):
        validate_portability(files, open_network(tiny / "other.safetensors"), table, tiny / "eval")
    moved = open_network(tiny / "tiny.safetensors", preprocess=PreprocessChoice(resize_px=40))
    with pytest.raises(BadInput, match="with other preprocessing than was asked for"):
        validate_portability(files, moved, table, tiny / "eval")


def test_calibration_images_are_refused(network, made, table, tiny):
    with pytest.raises(BadInput, match="evaluation images are calibration images too"):
        validate_portability([made["onnx", "int8"].path], network, table, tiny / "calib")


def test_no_images(network, made, table):
    with pytest.raises(BadInput, match="there are no images to validate on"):
        validate_portability([made["onnx", "int8"].path], network, table)


def test_where_the_cpu_is_no_x86_the_row_says_so(network, made, table, tiny, monkeypatch):
    monkeypatch.setattr(forced.platform, "machine", lambda: "arm64")
    found = validate_portability([made["openvino", "int8"].path], network, table, tiny / "eval")
    row = found.measurements[-1]
    assert (row.runtime, row.status, row.reason, row.accuracy) == (FORCED, "skipped", "this CPU is no x86", None)
    assert len(found.differences) == 1


# --- the process


def test_the_other_side_answers_here(made, tiny, network):
    """In this process: with whatever kernels this CPU has."""
    pixels = ImageStream(open_calibration(tiny / "eval"), network.graph.preprocess).load()[0].pixels
    answer, arrays = forced.run_here({"path": str(made["openvino", "int8"].path), "threads": 1}, {"pixels": pixels})
    assert (answer["device"], answer["placement"]["integer_mac_share"]) == ("cpu", 1)
    assert arrays["logits"].shape == (8, 5)


def test_an_error_of_the_other_side_is_raised_here(tmp_path):
    with pytest.raises(BadInput, match=r"`.*nothere.openvino.json` cannot be read"):
        forced.run_on_avx2(tmp_path / "nothere.openvino", np.zeros((1, 32, 32, 3), np.uint8))


def test_a_process_that_takes_too_long_is_ended(made, monkeypatch):
    monkeypatch.setattr(forced, "STARTING_S", 0)
    monkeypatch.setattr(forced, "IMAGE_S", 0.01)
    with pytest.raises(Refused, match=r"OpenVINO held to AVX2 did not finish within 0\.01 s"):
        forced.run_on_avx2(made["openvino", "int8"].path, np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("kernels", ["brgconv_avx512_I8", "jit_avx2_I8, brgconv_avx512_amx_I8", "jit_avx2_vnni_I8", "ref_I8"])
def test_kernels_that_are_not_avx2_are_refused(kernels, monkeypatch):
    """The variable is a wish: OpenVINO's own records are asked what came of it."""

    placement = {"operator_count": 1, "integer_count": 1, "integer_mac_share": 1.0, "float_operators": [], "source": ""}
    answer = {"device": "cpu", "kernels": kernels, "placement": placement}, {"logits": np.zeros((1, 5), np.float32)}
    monkeypatch.setattr(forced, "call", lambda *_, **__: answer)
    with pytest.raises(Refused, match=f"OpenVINO ran `{kernels}`, though it was held to AVX2"):
        forced.run_on_avx2(Path("net.openvino"), np.zeros((1, 32, 32, 3), np.uint8))


def test_a_process_that_breaks_is_told(made, tmp_path, monkeypatch):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Refused, match="OpenVINO held to AVX2 failed: exit code 7"):
        forced.run_on_avx2(made["openvino", "int8"].path, np.zeros((1, 32, 32, 3), np.uint8))


# --- the benchmark's verdict


def found(**changed):
    """What a sound table gives: (first, second) -> accuracy; `changed` sets agreement and dB by a name's place in `PAIRS`."""
    figures = dict.fromkeys(PAIRS, (1.0, 50.0)) | {PAIRS[int(name[1:])]: values for name, values in changed.items()}
    return {pair: Accuracy(200, Interval(share, share, share), 1.0, db, 0.0) for pair, (share, db) in figures.items()}


def test_the_benchmark_is_content_with_a_sound_table_alone():
    assert PAIRS[:4] == ((VNNI, AVX2), (EXACT, EMULATED), (AVX2, EMULATED), (EXACT, VNNI))
    assert _wrong(found(), limited=True) == []
    assert len(_wrong(found(), limited=False)) == 2  # the control must show harm, measured and emulated
    assert _wrong(found(p0=(0.66, 15.0), p1=(0.66, 15.0)), limited=False) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"p0": (0.98, 50.0)}, "AVX2 forced loses answers of VNNI"),
        ({"p1": (0.98, 50.0)}, "emulated loses answers of exact integers"),
        ({"p2": (0.99, 46.0)}, "the emulation is not what AVX2 computes"),
        ({"p3": (0.66, 15.0)}, "does this CPU have VNNI?"),
    ],
)
def test_the_benchmark_says_what_is_wrong(changed, message):
    assert any(message in text for text in _wrong(found(**changed), limited=True))
