"""What a run says about what its checkpoint does not tell: one line on stderr, and the same in report, page and sidecar."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch_networks as own
from PIL import Image

from squeeze_export import demo
from squeeze_export.core import Preprocess
from squeeze_export.registry import TARGETS

OUT = Path("squeeze-export-out")
FILES_ONLY = ("--no-validate", "--no-bench")
SMALL = ("--crop", 38, "--mean", "0,0,0", "--std", "255,255,255", "--channel-order", "rgb")
LINE = (
    "assuming torchvision's SqueezeNet: conv1 3x3/2, conv1 pad 0, ReLU after conv10, ceil pools, conv10 pad 0, no bypass; "
    "torchvision's preprocessing: pixels RGB, mean 123.675,116.28,103.53, std 58.395,57.12,57.375, 256 -> 224, bilinear"
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A state dict."""
    return own.saved(own.SqueezeNet(), tmp_path_factory.mktemp("net") / "net.pth")


def told(result):
    return [line for line in result.err.splitlines() if line.startswith("assuming ")]


@pytest.mark.parametrize("command", [("inspect",), ("onnx", *FILES_ONLY)], ids=["inspect", "onnx"])
def test_one_line_says_what_was_assumed_and_why(command, bare, squeeze):
    result = squeeze(*command, "--weights", bare)
    assert (result.code, told(result)) == (0, [LINE])
    assert "assuming" not in result.out


def test_what_is_told_is_not_assumed(bare, squeeze):
    options = ("--conv1-stride", 1, "--conv1-pad", 1, "--pools", "floor", "--no-final-relu", "--conv10-pad", 1)
    result = squeeze("inspect", "--weights", bare, *options, *SMALL)
    line = "assuming torchvision's SqueezeNet: no bypass; torchvision's preprocessing: short side 43, bilinear"
    assert (result.code, told(result)) == (0, [line])


def test_everything_told_leaves_no_line(bare, squeeze):
    structure = ("--conv1-stride", 1, "--conv1-pad", 1, "--pools", "floor", "--no-final-relu", "--conv10-pad", 1)
    options = (*structure, "--bypass", "simple", *SMALL)
    result = squeeze("inspect", "--weights", bare, *options, "--resize", 38, "--interpolation", "bicubic")
    assert (result.code, result.err) == (0, "")


def test_nothing_is_assumed_about_the_demo_network_or_a_file_that_tells(squeeze, net):
    for weights in ((), net):
        result = squeeze("onnx", *weights, *FILES_ONLY)
        assert (result.code, told(result)) == (0, [])
        assert json.loads((OUT / "report.json").read_text())["assumptions"] == []


@pytest.mark.parametrize("command", ["onnx", "all"])
def test_report_page_and_sidecars_carry_it(command, bare, squeeze):
    result = squeeze(command, "--weights", bare, "--conv1-pad", 1, *SMALL, *FILES_ONLY)
    assert result.code == 0
    found = json.loads((OUT / "report.json").read_text())["assumptions"]
    assert {"subject": "conv1 stride", "value": "conv1 3x3/2", "why": "torchvision's SqueezeNet"} in found
    assert "conv1 padding" not in {assumption["subject"] for assumption in found}
    page = (OUT / "report.html").read_text()
    assert "assuming torchvision&#39;s SqueezeNet: conv1 3x3/2, ReLU after conv10" in page
    sidecars = list(OUT.glob("*.fp32.*.json"))
    assert len(sidecars) == (len(TARGETS) if command == "all" else 1)
    for sidecar in sidecars:
        provenance = json.loads(sidecar.read_text())["provenance"]
        assert provenance["assumptions"] == found
        assert provenance["architecture"]["conv1_pad"] == 1


def test_a_file_is_not_compared_with_another_reading_of_its_checkpoint(bare, squeeze, tiny):
    made = ("--no-final-relu", "--conv1-pad", 1)
    assert squeeze("onnx", "--weights", bare, *made, *SMALL, *FILES_ONLY).code == 0
    file = OUT / "squeezenet_custom.fp32.onnx"
    asked = ("validate", file, "--weights", bare, "--eval", tiny / "eval")
    result = squeeze(*asked, *SMALL)
    assert (result.code, result.refusal()[1]) == (2, "as at its export: --conv1-pad 1 --no-final-relu")
    result = squeeze(*asked, *SMALL, *made, "--bypass", "simple")
    assert (result.code, result.refusal()[1]) == (2, "as at its export: without --bypass")
    result = squeeze(*asked, *made, *SMALL[:2])
    assert (result.code, result.refusal()[1]) == (2, "the options of the preprocessing as at its export")
    assert "its mean is `(0.0, 0.0, 0.0)`" in result.refusal()[0]
    assert squeeze(*asked, *made, *SMALL).code == 0
    sidecar = Path(f"{file}.json")
    stored = json.loads(sidecar.read_text())
    del stored["provenance"]["preprocess"], stored["provenance"]["architecture"]
    sidecar.write_text(json.dumps(stored))
    assert squeeze(*asked, *SMALL).code == 0  # a sidecar that does not say how the checkpoint was read


def test_a_table_is_not_used_for_another_reading_of_its_checkpoint(bare, squeeze, tiny):
    made = ("--weights", bare, *SMALL)
    assert squeeze("calibrate", *made, "--calib", tiny / "calib", "--pools", "floor").code == 0
    table = ("--table", OUT / "squeezenet_custom.int8.table")
    result = squeeze("onnx", "--int8", *made, *table, *FILES_ONLY)
    assert result.code == 2
    assert "of a network with other layers" in result.refusal()[0]
    assert squeeze("onnx", "--int8", *made, *table, *FILES_ONLY, "--pools", "floor").code == 0


def test_analyze_tells_an_export_with_the_same_options(bare, squeeze, tiny):
    result = squeeze(
        "analyze",
        "--weights",
        bare,
        *SMALL,
        "--no-final-relu",
        "--calib",
        tiny / "calib",
        "--keep-float",
        1,
        "--no-bench",
        "--out",
        OUT,
    )
    assert result.code == 0
    assumed = json.loads((OUT / "analysis.json").read_text())["assumptions"]
    assert {"subject": "pools", "value": "ceil pools", "why": "torchvision's SqueezeNet"} in assumed
    assert "assuming torchvision&#39;s SqueezeNet: conv1 3x3/2" in (OUT / "analysis.html").read_text()
    line = next(line for line in result.err.splitlines() if line.startswith("export it: "))
    assert " --no-final-relu --" in line


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """24 images in folders by the class that a network with conv1 padding 1 gives them, and that network."""
    folder = tmp_path_factory.mktemp("labelled")
    net, pixels = own.SqueezeNet(padding=1, final_relu=False), own.pixels_of(24, 38)
    path = own.saved(net, folder / "net.pth")
    classes = own.torch_logits(net, pixels, Preprocess(38, 38, "bilinear", "rgb", (0.0,) * 3, (255.0,) * 3)).argmax(1)
    for index, (image, found) in enumerate(zip(pixels, classes, strict=True)):
        (folder / "val" / f"c{found}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "val" / f"c{found}" / f"{index}.png")
    (folder / "labels.txt").write_text("".join(f"c{index}\n" for index in range(10)))
    made = ("--weights", path, *SMALL, "--resize", 38, "--eval", folder / "val", "--labels", folder / "labels.txt")
    return made, ("--conv1-pad", 1, "--no-final-relu")


COMPARING = {"onnx": ("--no-bench",), "analyze": ("--images", 1), "calibrate": ()}


@pytest.mark.parametrize("command", list(COMPARING))
def test_a_reference_with_another_top1_than_expected_is_refused(command, labelled, squeeze, tiny):
    made, fitting = labelled
    asked = (command, *COMPARING[command], *made, *fitting, "--calib", tiny / "calib")
    assert squeeze(*asked, "--expect-top1", 100).code == 0
    result = squeeze(*asked, "--expect-top1", 80)
    assert result.code == 2
    message, hint = result.refusal()
    assert message.startswith("the fp32 reference is right on 100.0% of 24 labelled images (86.2% to 100.0%), not on `80%`")
    assert message.endswith("not on `80%`")
    assert "--expect FILE.npz" in hint
    assert result.out == ""


def test_a_top1_needs_labels(bare, squeeze, tiny):
    result = squeeze("onnx", "--weights", bare, *SMALL, "--eval", tiny / "eval", "--expect-top1", 50, "--no-bench")
    assert (result.code, result.refusal()[0]) == (2, "--expect-top1 needs labelled images to compare on")
    result = squeeze("onnx", "--weights", bare, *SMALL, "--expect-top1", 50, *FILES_ONLY)
    assert (result.code, result.refusal()[0]) == (2, "--expect-top1 needs labelled images to compare on")
    result = squeeze("onnx", "--weights", bare, *SMALL, "--expect-top1", 101, *FILES_ONLY)
    assert (result.code, result.refusal()[0]) == (2, "--expect-top1 `101` is no percentage")


def test_the_demo_network_has_its_own_images(squeeze):
    assert squeeze("onnx", "--expect-top1", 100 * demo.measured()["evaluation_images_top1"], *FILES_ONLY).code == 0


def test_an_expectation_and_a_graph_on_the_command_line(bare, squeeze, tmp_path):
    net = own.SqueezeNet()
    pixels = own.pixels_of(1, 38)
    wanted = own.torch_logits(net, pixels, Preprocess(38, 38, "bilinear", "rgb", (0.0,) * 3, (255.0,) * 3))
    np.savez(tmp_path / "e.npz", pixels=pixels, logits=wanted)
    asked = ("--weights", bare, *SMALL, "--resize", 38, "--expect", tmp_path / "e.npz")
    assert squeeze("onnx", *asked, *FILES_ONLY).code == 0
    result = squeeze("inspect", *asked, "--conv1-pad", 1)
    assert (result.code, result.refusal()[1]) == (2, "it would fit with --conv1-pad 0")
    result = squeeze("inspect", "--weights", bare, "--like", own.exported(net, tmp_path / "net.onnx", 38))
    scale = "mean 123.675,116.28,103.53, std 58.395,57.12,57.375"
    assert told(result) == [f"assuming torchvision's preprocessing: pixels RGB, {scale}, short side 43, bilinear"]
