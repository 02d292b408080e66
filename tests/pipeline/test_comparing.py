"""`compare`: any two files on the same images, and the layer at which two integer files part."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from squeeze_export.cli import run
from squeeze_export.core import EmitOptions
from squeeze_export.documents import to_json
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import FP32, INT8
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.pipeline import RunOptions, compare_files, export, open_network
from squeeze_export.pipeline.comparing import SCHEMA
from squeeze_export.pipeline.network import PreprocessChoice
from squeeze_export.runtimes import onnxruntime

FAST = RunOptions(rounds=4)


def compared(first, second, images, **options):
    return compare_files(first.path, second.path, images, options=FAST, **options)


@pytest.fixture
def broken(quantized, tmp_path):
    """Writes the table with one layer's bias moved by three of its output's steps."""

    def write(target, name):
        conv = next(conv for conv in quantized.convs if conv.name == name)
        steps = 3 * quantized.tensors[name].scale / (quantized.tensors[conv.input].scale * conv.weight_scale)
        wrong = replace(conv, bias=conv.bias + np.rint(steps).astype(np.int32))
        nodes = tuple(wrong if node is conv else node for node in quantized.nodes)
        return export(replace(quantized, nodes=nodes), target, INT8, tmp_path, name="broken")[0]

    return write


@pytest.mark.parametrize("target", ["onnx", "openvino", "coreml"])
def test_the_same_integers_part_nowhere(made, tiny, target):
    found = compared(made[target, "int8"], made["tflite", "int8"], tiny / "eval", bench=False)
    assert (found.accuracy.count, found.flip_count, found.flips, found.speedup) == (8, 0, (), None)
    assert found.first_layer_apart == ""
    assert {"conv1", "fire2/squeeze1x1", "fire3/expand3x3", "conv10"} <= {layer.name for layer in found.layers}
    assert (found.first.target, found.first.evidence) == (target, "emulated" if target == "coreml" else "measured")


@pytest.mark.parametrize("target", ["onnx", "tflite", "openvino", "coreml"])
def test_two_files_of_one_target_have_their_layers_compared(made, tiny, broken, target):
    """What their graphs have before, between and after the layers is in both, and no layer."""
    found = compared(made[target, "int8"], broken(target, "fire3/expand3x3"), tiny / "eval", bench=False)
    layers = [layer.name.replace("_", "/") for layer in found.layers]
    assert (layers[0], layers[-1]) == ("conv1", "conv10")
    assert found.first_layer_apart.replace("_", "/") == "fire3/expand3x3"
    across = compared(made["tflite", "int8"], made["onnx", "int8"], tiny / "eval", bench=False)
    assert set(layers) == {layer.name for layer in across.layers}


@pytest.mark.parametrize(("first", "second"), [("onnx", "tflite"), ("tflite", "tflite"), ("coreml", "onnx")])
def test_the_layer_at_which_two_files_part_is_named(made, tiny, broken, first, second):
    found = compared(made[first, "int8"], broken(second, "fire2/squeeze1x1"), tiny / "eval", bench=False)
    assert found.first_layer_apart == "fire2/squeeze1x1"
    assert found.accuracy.sqnr_db < 40


def test_figures_are_those_of_the_files_own_answers(made, tiny):
    """Agreement and SQNR counted by hand from the two sessions."""
    first, second = made["onnx", "fp32"], made["onnx", "int8"]
    found = compared(first, second, tiny / "eval")
    pixels = np.stack([load_pixels(file, open_network(tiny / "tiny.safetensors").graph.preprocess) for file in files(tiny)])
    one, other = (onnxruntime.open_session(artifact, device="cpu", threads=1).infer(pixels) for artifact in (first, second))
    assert found.flip_count == int((one.argmax(1) != other.argmax(1)).sum())
    assert found.accuracy.sqnr_db == pytest.approx(10 * np.log10(np.square(one).sum() / np.square(one - other).sum()), abs=1e-3)
    assert found.layers == ()  # equalization moved scales between the layers
    assert found.first_layer_apart is None
    assert found.first.latency is not None
    assert found.speedup.low <= found.speedup.value <= found.speedup.high


def files(tiny):
    return sorted((tiny / "eval").iterdir())


def test_images_that_change_their_class_are_listed(made, tiny, tmp_path):
    other = export(open_network(tiny / "other.safetensors").graph, "onnx", FP32, tmp_path, name="other")[0]
    found = compared(made["onnx", "fp32"], other, tiny / "eval", bench=False)
    assert 0 < found.flip_count == len(found.flips) == found.accuracy.count - round(8 * found.accuracy.top1_agreement.value)
    assert {flip.image for flip in found.flips} <= {file.name for file in files(tiny)}
    assert all(flip.first != flip.second and min(flip.first_margin, flip.second_margin) > 0 for flip in found.flips)
    assert SCHEMA.from_json(json.loads(json.dumps(to_json(found, "comparison")))) == found
    assert {flip.first_label for flip in found.flips} == {""}  # no names are known
    named = open_network(tiny / "other.safetensors", labels=tiny / "labels.txt").graph
    again = compared(made["onnx", "fp32"], export(named, "onnx", FP32, tmp_path, name="named")[0], tiny / "eval", bench=False)
    names = (tiny / "labels.txt").read_text().splitlines()
    told = [(names.index(flip.first_label), names.index(flip.second_label)) for flip in again.flips]
    assert told == [(flip.first, flip.second) for flip in found.flips]


def test_each_file_is_given_its_own_pixels(tiny, tmp_path):
    """Two exports of one network at other sizes: each gets the images as its sidecar says."""
    sizes = {crop: open_network(tiny / "tiny.safetensors", preprocess=PreprocessChoice(crop_px=crop)) for crop in (32, 36)}
    first, second = (export(net.graph, "onnx", FP32, tmp_path, name=f"net{crop}")[0] for crop, net in sizes.items())
    found = compared(first, second, tiny / "eval", bench=False)
    assert found.accuracy.count == 8
    assert 0 < found.accuracy.sqnr_db < 60


@pytest.mark.parametrize("count", [3, 33])  # of 33 the last one is a batch by itself
def test_images_that_are_alike_to_one_file_alone_are_refused(count, tiny, tmp_path):
    """The last image differs from the first one only where the smaller crop does not look."""
    images, noise = tmp_path / "images", np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), np.uint8)
    noise[-1] = noise[0]
    noise[-1, 2] = 255 - noise[0, 2]
    images.mkdir()
    for index, pixels in enumerate(noise):
        Image.fromarray(pixels).save(images / f"{index:02}.png")
    nets = [open_network(tiny / "tiny.safetensors", preprocess=PreprocessChoice(resize_px=40, crop_px=crop)) for crop in (32, 36)]
    first, second = (export(net.graph, "onnx", FP32, tmp_path, name=f"net{place}")[0] for place, net in enumerate(nets))
    with pytest.raises(BadInput, match="differently prepared images"):
        compared(first, second, images, bench=False)


def test_a_softmax_is_compared_as_probabilities(network, quantized, tiny, tmp_path):
    options = EmitOptions(softmax=True)
    first, second = (
        export(source, "onnx", scheme, tmp_path, name="soft", options=options)[0]
        for source, scheme in ((network.graph, FP32), (quantized, INT8))
    )
    found = compared(first, second, tiny / "eval", bench=False)
    assert found.accuracy.sqnr_db > 20
    assert 0 <= found.accuracy.kl < 0.1
    with pytest.raises(BadInput, match=r"ends in softmax and `net.fp32.onnx` in logits"):
        compared(first, export(network.graph, "onnx", FP32, tmp_path, name="net")[0], tiny / "eval")


def test_what_cannot_be_compared_is_refused(made, tiny, tmp_path):
    (tmp_path / "theirs.onnx").write_bytes(made["onnx", "fp32"].path.read_bytes())
    with pytest.raises(BadInput, match=r"neither `theirs.onnx` nor `theirs.onnx` has a sidecar"):
        compare_files(tmp_path / "theirs.onnx", tmp_path / "theirs.onnx", tiny / "eval")
    with pytest.raises(BadInput, match="runs here, not on a board"):
        compare_files(made["onnx", "int8"].path, made["onnx", "int8"].path, tiny / "eval", options=RunOptions(on="ssh://board"))


def test_two_files_of_one_name_are_told_apart(made, network, tiny, tmp_path):
    (tmp_path / "theirs").mkdir()
    soft = export(network.graph, "onnx", FP32, tmp_path / "theirs", name="net", options=EmitOptions(softmax=True))[0]
    with pytest.raises(BadInput, match=r"`theirs/net.fp32.onnx` ends in softmax and `[^`]+/net.fp32.onnx` in logits"):
        compared(soft, made["onnx", "fp32"], tiny / "eval")


def test_the_command(made, tiny, tmp_path, capsys, broken):
    Image.new("RGB", (40, 40)).save(tmp_path / "grey.png")
    files = [str(made["onnx", "int8"].path), str(broken("tflite", "conv1").path)]
    assert run(["compare", *files, "--eval", str(tiny / "eval"), "--no-bench"]) == 0
    out, err = capsys.readouterr()
    assert "A  net.int8.onnx (onnxruntime)" in out
    assert "B  broken.int8.tflite (litert)" in out
    assert "`conv1` is the first of" in out
    assert "Traceback" not in err
    assert run(["compare", *files, "--eval", str(tiny / "eval"), "--no-bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first_layer_apart"] == "conv1"
    assert run(["compare", *files, "--eval", str(tmp_path / "none")]) == 2


def test_why_layers_were_not_compared_is_told(made, tiny):
    found = compared(made["onnx", "fp32"], made["onnx", "int8"], tiny / "eval", bench=False)
    assert (found.layers, found.without_layers[:27]) == ((), "the layers were not compare")
    assert compared(made["onnx", "int8"], made["tflite", "int8"], tiny / "eval", bench=False).without_layers == ""
