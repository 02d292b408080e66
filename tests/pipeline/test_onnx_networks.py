"""Networks out of ONNX files that are no members of the family: opened, exported, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from squeeze_export.core import CAFFE, TORCHVISION
from squeeze_export.errors import BadInput
from squeeze_export.graph.costs import node_costs, total
from squeeze_export.graph.nodes import Conv
from squeeze_export.graph.quantized import FP32
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.nets.modules import build_module, load_arrays
from squeeze_export.pipeline import CalibrationFolder, Job, PreprocessChoice, StructureChoice, open_network, run
from squeeze_export.pipeline.export import export
from tests.onnx_networks import Net, assert_same_network, exported, stirred, their_answers


def classifier(steps: Any = None, channels: int = 3) -> nn.Module:
    """BatchNorm behind the convolutions, a linear layer behind the mean, softmax."""

    def plain(net: Any, x: Any) -> Any:
        x = net.bn2(net.b(net.bn1(net.a(x)).relu())).relu()
        return net.fc(x.mean((2, 3))).softmax(1)

    torch.manual_seed(4)
    parts = {"a": nn.Conv2d(channels, 8, 3, 2, 1), "bn1": nn.BatchNorm2d(8), "b": nn.Conv2d(8, 8, 3), "bn2": nn.BatchNorm2d(8)}
    return stirred(Net(steps or plain, **parts, fc=nn.Linear(8, 5)))


def saved(folder: Path, module: nn.Module, shape: tuple[int, ...] = (3, 32, 32), **options: Any) -> Path:
    path = folder / "My net.onnx"
    onnx.save(exported(module, shape, **options), path)
    return path


def test_such_a_file_is_opened(tmp_path: Path) -> None:
    network = open_network(saved(tmp_path, classifier()))
    assert (network.name, network.architecture, network.class_count) == ("My_net", None, 5)
    assert [type(node).__name__ for node in network.graph.nodes] == ["Conv", "Conv", "Conv", "Conv", "GlobalAveragePool"]
    assert [node.name for node in network.graph.nodes] == ["normalize", "a", "b", "fc", "logits"]
    assert network.notes == (
        "Gemm `/fc/Gemm` becomes a 1x1 convolution before the global pool, which changes nothing: it is linear",
        "Softmax `/Softmax` at the end is left out: files give logits (--softmax puts it back)",
    )
    preprocess = network.graph.preprocess
    assert (preprocess.crop_px, preprocess.resize_px, preprocess.mean) == (32, 37, TORCHVISION.mean)
    assert [assumption.value for assumption in network.assumptions] == [
        "pixels RGB",
        "mean 123.675,116.28,103.53",
        "std 58.395,57.12,57.375",
        "short side 37",
        "bilinear",
    ]
    assert network.facts()["parameter_count"] == sum(c.weight.size + c.bias.size for c in network.graph.convs)


@pytest.mark.parametrize(
    ("mean", "std", "expected", "order", "scale"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), TORCHVISION.mean, "rgb", "0 to 1"),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), TORCHVISION.mean, "rgb", "0 to 255"),
        ((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), CAFFE.mean, "bgr", "0 to 255"),
        ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), (0.0, 0.0, 0.0), "rgb", "0 to 255"),
    ],
)
def test_what_a_file_does_to_its_pixels_is_its_preprocessing(
    mean: Any, std: Any, expected: Any, order: str, scale: str, tmp_path: Path
) -> None:
    def steps(net: Any, x: Any) -> Any:
        x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        return net.fc(net.a(x).relu().mean((2, 3)))

    path = saved(tmp_path, classifier(steps))
    found = open_network(path)
    assert found.graph.preprocess.mean == pytest.approx(expected, rel=1e-6)
    assert found.graph.preprocess.channel_order == order
    assert not {"mean", "std"} & {assumption.subject for assumption in found.assumptions}
    assert found.assumptions[0].value == f"pixels {scale} into the file"
    with pytest.raises(BadInput, match="normalizes its pixels itself"):
        open_network(path, preprocess=PreprocessChoice(mean=(1.0, 2.0, 3.0)))


def test_a_grey_image_has_one_value_each(tmp_path: Path) -> None:
    preprocess = open_network(saved(tmp_path, classifier(channels=1), (1, 28, 28))).graph.preprocess
    assert (preprocess.channel_order, preprocess.mean, preprocess.std, preprocess.resize_px) == ("gray", (127.5,), (127.5,), 32)


def test_what_does_not_fit_the_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, classifier())
    with pytest.raises(BadInput, match="takes images of `32x32` px, not `64x64`") as caught:
        open_network(path, preprocess=PreprocessChoice(crop_px=64))
    assert caught.value.hint == "leave out --crop, or export the network at that size"
    with pytest.raises(BadInput, match="tells its whole structure itself") as caught:
        open_network(path, structure=StructureChoice(conv1_pad=1))
    assert caught.value.hint == "leave out --conv1-pad 1"
    open_network(path, preprocess=PreprocessChoice(crop_px=32))
    free = saved(tmp_path, classifier(), dynamic_axes={"image": {0: "N", 2: "H", 3: "W"}})
    assert open_network(free, preprocess=PreprocessChoice(crop_px=(48, 64))).graph.input.shape == ("N", 48, 64, 3)


def test_the_reason_is_that_of_the_graph(tmp_path: Path) -> None:
    path = saved(tmp_path, classifier(lambda net, x: net.fc(nn.functional.leaky_relu(net.a(x)).mean((2, 3)))))
    with pytest.raises(BadInput, match=r"My net\.onnx` cannot be read: LeakyRelu `/LeakyRelu` is not among the operators that are"):
        open_network(path)


def test_weights_beside_the_file_count_for_its_hash(tmp_path: Path) -> None:
    model = exported(classifier(), (3, 32, 32))
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    before = open_network(path).graph
    data = bytearray((tmp_path / "net.onnx.data").read_bytes())
    data[3] ^= 1
    (tmp_path / "net.onnx.data").write_bytes(data)
    after = open_network(path).graph
    assert before.checkpoint_sha256 != after.checkpoint_sha256
    changed = [not np.array_equal(a.weight, b.weight) for a, b in zip(before.convs, after.convs, strict=True)]
    assert sum(changed) <= 1
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(BadInput, match=r"keeps its weights in `net\.onnx\.data`, which is not beside it"):
        open_network(path)


def test_it_goes_through_a_whole_job(tmp_path: Path, tiny: Path) -> None:
    path = saved(tmp_path, classifier())
    job = Job(
        targets=("onnx", "tflite"),
        scheme="int8",
        weights=path,
        calib=(CalibrationFolder(tiny / "calib"),),
        labels=tiny / "labels.txt",
        bench=False,
        out=tmp_path / "out",
    )
    report = run(job)
    assert [row.status for row in report.measurements] == ["ok"] * 4
    sidecar = json.loads((tmp_path / "out" / "My_net.int8.tflite.json").read_text())
    assert sidecar["provenance"]["assumptions"][0]["subject"] == "channel order"
    assert "architecture" not in sidecar["provenance"]


def test_inspect_lists_its_layers(tmp_path: Path) -> None:
    graph = open_network(saved(tmp_path, classifier())).graph
    rows = {row.name: row for row in node_costs(graph)}
    second = graph.convs[2]
    assert isinstance(second, Conv)
    assert rows["b"].output == (14, 14, 8)
    assert rows["b"].mac_count == 14 * 14 * 8 * 8 * 9
    assert rows["b"].bytes_read == 4 * (16 * 16 * 8 + 8 * 8 * 9 + 8)
    assert rows["logits"].mac_count == 0
    assert total(node_costs(graph)).parameter_count == sum(c.weight.size + c.bias.size for c in graph.convs)


def test_a_file_of_ours_reads_back(tmp_path: Path, tiny: Path) -> None:
    """Pixels in, (N, H, W, 3) uint8: nothing is left to assume about mean and std."""
    original = open_network(tiny / "tiny.safetensors").graph
    artifact, _ = export(original, "onnx", FP32, tmp_path, name="tiny")
    found = open_network(artifact.path)
    assert found.architecture is None
    assert found.graph.preprocess.mean == (0.0, 0.0, 0.0)
    assert found.graph.preprocess.std == (1.0, 1.0, 1.0)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(FloatRunner(found.graph)(pixels), FloatRunner(original)(pixels), rtol=1e-5, atol=1e-5)


def test_a_real_network_with_mean_std_and_softmax_inside(assets: Path, tmp_path: Path) -> None:
    """SqueezeNet 1.1 on 24 photographs: ONNX Runtime's own answers of the user's file."""
    checkpoint = read_checkpoint(assets / "weights" / "squeezenet1_1.pth")
    assert checkpoint.architecture is not None
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    module = build_module(checkpoint.architecture)
    load_arrays(module, checkpoint.tensors)
    net = Net(lambda n, x: n.net((x - mean) / std).softmax(1), net=module).eval()
    model = exported(net, (3, 224, 224))
    onnx.save(model, tmp_path / "net.onnx")
    network = open_network(tmp_path / "net.onnx")
    assert network.graph.preprocess.mean == pytest.approx(TORCHVISION.mean, rel=1e-6)
    files = sorted((assets / "images" / "calib").glob("*.jpg"))[:24]
    pixels = np.stack([load_pixels(file, network.graph.preprocess) for file in files])
    expected = their_answers(model, (pixels / 255).astype(np.float32).transpose(0, 3, 1, 2))
    logits = FloatRunner(network.graph)(pixels).astype(np.float64)
    answers = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert_same_network(answers / answers.sum(axis=1, keepdims=True), expected)
