"""From tensors to graph: the fold into conv1, the wiring of every family member, ceil-mode pads, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.core import CAFFE, TORCHVISION, ChannelOrder, Preprocess
from squeeze_export.errors import BadInput
from squeeze_export.graph.build import build_graph, ceil_pads
from squeeze_export.graph.nodes import Add, Concat, Graph, MaxPool, output_px
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import FAMILY, Architecture, Fire, architecture, tensor_shapes
from squeeze_export.nets.modules import build_module, load_arrays

SMALL = Architecture("small", 4, 3, (Fire(2, 3, 5), Fire(2, 3, 5)), (0,), 6)


def random_tensors(arch: Architecture, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {key: rng.normal(0, 0.2, shape).astype(np.float32) for key, shape in tensor_shapes(arch).items()}


def small_graph(preprocess: Preprocess, tensors: dict[str, Any] | None = None) -> Graph:
    return build_graph(SMALL, tensors or random_tensors(SMALL), replace(preprocess, crop_px=40))


def unfolded_conv1(tensors: dict[str, Any], pixels: Any, preprocess: Preprocess) -> Any:
    """conv1 with its ReLU as it was trained: normalise in the network's channel order, then convolve. float64."""
    ordered = pixels[..., ::-1] if preprocess.channel_order == "bgr" else pixels
    normalised = (ordered.astype(np.float64) - preprocess.mean) / preprocess.std
    weight, bias = (torch.tensor(tensors[f"features.0.{part}"], dtype=torch.float64) for part in ("weight", "bias"))
    image = torch.tensor(normalised.transpose(0, 3, 1, 2).copy())
    return torch.relu(torch.conv2d(image, weight, bias, stride=2)).numpy().transpose(0, 2, 3, 1)


def folded_conv1(graph: Graph, pixels: Any) -> Any:
    seen: dict[str, Any] = {}
    FloatRunner(graph)(pixels, seen.__setitem__)
    return seen["conv1"]


@pytest.mark.parametrize("preprocess", [TORCHVISION, CAFFE], ids=["torchvision", "caffe"])
def test_folded_conv1_gives_what_the_unfolded_one_gives(preprocess: Preprocess) -> None:
    tensors = random_tensors(SMALL)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 40, 40, 3), np.uint8)
    expected = unfolded_conv1(tensors, pixels, preprocess)
    found = folded_conv1(small_graph(preprocess, tensors), pixels)
    assert 10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum()) > 120


@settings(max_examples=25)
@given(
    st.sampled_from(["rgb", "bgr"]),
    st.tuples(*[st.integers(0, 255).map(float)] * 3),
    st.tuples(*[st.sampled_from([0.5, 1.0, 2.0, 64.0])] * 3),
    st.integers(0, 2**32 - 1),
)
def test_folding_is_exact_where_float32_is(order: ChannelOrder, mean: Any, std: Any, seed: int) -> None:
    """Whole pixels and means, stds that are powers of two and weights in 64ths leave nothing to round."""
    rng = np.random.default_rng(seed)
    tensors = {key: (rng.integers(-64, 65, shape) / 64).astype(np.float32) for key, shape in tensor_shapes(SMALL).items()}
    preprocess = Preprocess(40, 40, "bilinear", order, mean, std)
    pixels = rng.integers(0, 256, (1, 40, 40, 3), np.uint8)
    expected = unfolded_conv1(tensors, pixels, preprocess)
    np.testing.assert_array_equal(folded_conv1(small_graph(preprocess, tensors), pixels), expected)


def test_fold_by_hand() -> None:
    tensors = random_tensors(SMALL)
    tensors["features.0.weight"] = np.zeros((4, 3, 3, 3), np.float32)
    tensors["features.0.weight"][0, :, 1, 1] = [6, 8, 10]  # blue, green, red
    tensors["features.0.bias"][0] = 100
    preprocess = Preprocess(40, 40, "bilinear", "bgr", (1.0, 2.0, 3.0), (2.0, 4.0, 5.0))
    conv1 = small_graph(preprocess, tensors).convs[0]
    assert conv1.weight[0, :, 1, 1].tolist() == [2, 2, 3]  # red / 5, green / 4, blue / 2
    assert conv1.bias[0] == 100 - (3 * 1 + 2 * 2 + 2 * 3)


def test_a_permuted_channel_order_is_noticed() -> None:
    """Negative control of the fold's tests."""
    tensors = random_tensors(SMALL)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 40, 40, 3), np.uint8)
    found = folded_conv1(small_graph(replace(CAFFE, channel_order="rgb"), tensors), pixels)
    assert np.abs(found - unfolded_conv1(tensors, pixels, CAFFE)).max() > 1


def test_only_conv1_is_folded() -> None:
    tensors = random_tensors(SMALL)
    squeeze = small_graph(CAFFE, tensors).convs[1]
    np.testing.assert_array_equal(squeeze.weight, tensors["features.3.squeeze.weight"])


@pytest.mark.parametrize("name", FAMILY)
def test_every_tensor_of_the_checkpoint_has_its_node(name: str) -> None:
    arch = architecture(name, class_count=7)
    graph = build_graph(arch, random_tensors(arch), replace(TORCHVISION, crop_px=64))
    assert len(graph.convs) * 2 == len(tensor_shapes(arch))
    assert sum(isinstance(node, Concat) for node in graph.nodes) == 8
    assert sum(isinstance(node, MaxPool) for node in graph.nodes) == 3
    assert sum(isinstance(node, Add) for node in graph.nodes) == {"none": 0, "simple": 4, "complex": 8}[arch.bypass]
    assert [conv.name for conv in graph.convs if not conv.relu] == [
        f"fire{i}/bypass1x1" for i in ((2, 4, 6, 8) if arch.bypass == "complex" else ())
    ]
    assert (graph.nodes[-1].name, graph.nodes[-1].inputs, graph.output.shape) == ("logits", ("conv10",), ("N", 7))


def test_the_order_of_version_1_1() -> None:
    arch = architecture("squeezenet1_1")
    graph = build_graph(arch, random_tensors(arch), TORCHVISION, checkpoint_sha256="c0")
    assert (graph.name, graph.checkpoint_sha256, graph.preprocess) == ("squeezenet1_1", "c0", TORCHVISION)
    fire = [f"fire2/{part}" for part in ("squeeze1x1", "expand1x1", "expand3x3", "concat")]
    assert [node.name for node in graph.nodes[:6]] == ["conv1", "pool1", *fire]
    assert [node.name for node in graph.nodes if isinstance(node, MaxPool)] == ["pool1", "pool3", "pool5"]
    assert graph.sizes["conv10"] == (13, 13, 1000)


def test_a_bypass_goes_around_its_module() -> None:
    arch = replace(SMALL, fires=(Fire(2, 3, 5, "complex"), Fire(2, 3, 5, "simple")), pools_after=())
    graph = build_graph(arch, random_tensors(arch), replace(CAFFE, crop_px=40))
    inputs = {node.name: node.inputs for node in graph.nodes}
    assert inputs["fire2/bypass1x1"] == ("pool1",)
    assert inputs["fire2/add"] == ("fire2/concat", "fire2/bypass1x1")
    assert inputs["fire3/add"] == ("fire3/concat", "fire2/add")


def test_padding_of_conv10_is_kept() -> None:
    arch = replace(SMALL, conv10_pad=1)
    graph = build_graph(arch, random_tensors(arch), replace(CAFFE, crop_px=40))
    height, width, _ = graph.sizes["pool2"]
    assert graph.sizes["conv10"] == (height + 2, width + 2, 6)


def test_an_oblong_input_pools_each_side_as_torch_does() -> None:
    tensors, preprocess = random_tensors(SMALL), replace(TORCHVISION, crop_px=41, width_px=56)
    graph = build_graph(SMALL, tensors, preprocess)
    sides = {"input": (41, 56), "conv1": (20, 27), "pool1": (10, 13), "pool2": (5, 6)}
    assert {name: graph.sizes[name][:2] for name in sides} == sides
    pixels = np.random.default_rng(1).integers(0, 256, (1, 41, 56, 3), np.uint8)
    module = build_module(SMALL).eval()
    load_arrays(module, tensors)
    with torch.no_grad():
        image = (torch.from_numpy(pixels).float() - torch.tensor(preprocess.mean)) / torch.tensor(preprocess.std)
        expected = module(image.permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(FloatRunner(graph)(pixels), expected, rtol=1e-3, atol=1e-4)


def test_grey_images_for_a_network_of_colour_are_refused() -> None:
    grey = replace(TORCHVISION, channel_order="gray", mean=(1.0,), std=(1.0,))
    with pytest.raises(BadInput, match="takes images of `3` channels, its preprocessing gives `1`"):
        small_graph(grey)


@given(st.integers(2, 300))
@settings(max_examples=60)
def test_ceil_pads_give_torchs_size(size_px: int) -> None:
    pooled = torch.nn.MaxPool2d(3, 2, ceil_mode=True)(torch.zeros(1, 1, size_px, size_px))
    pads = ceil_pads(size_px, size_px)
    assert output_px(size_px, 3, 2, pads[0] + pads[2]) == pooled.shape[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("classifier.1.bias"), "no tensor `classifier.1.bias`"),
        (lambda t: t.update(head=np.zeros(1, np.float32)), "`head` has no place"),
        (lambda t: t.update({"features.0.bias": np.zeros(3, np.float32)}), r"shape `3`.*needs `4`"),
        (lambda t: t["features.3.squeeze.weight"].fill(np.nan), "`features.3.squeeze.weight` holds values that are not finite"),
    ],
    ids=["missing", "superfluous", "misshapen", "nan"],
)
def test_tensors_that_do_not_fit_are_named(change: Any, message: str) -> None:
    tensors = random_tensors(SMALL)
    change(tensors)
    with pytest.raises(BadInput, match=message):
        small_graph(CAFFE, tensors)


@pytest.mark.parametrize("size_px", [0, 31, 2049])
def test_input_sizes_out_of_range_are_refused(size_px: int) -> None:
    with pytest.raises(BadInput, match=f"`{size_px}` px") as caught:
        build_graph(SMALL, random_tensors(SMALL), replace(CAFFE, crop_px=size_px))
    assert caught.value.hint == "see --crop"


def test_an_input_that_the_pools_shrink_to_nothing_is_refused() -> None:
    arch = replace(SMALL, fires=(Fire(2, 3, 5),) * 4, pools_after=(0, 1, 2, 3))
    with pytest.raises(BadInput, match="`32` px shrinks to nothing before pool4"):
        build_graph(arch, random_tensors(arch), replace(CAFFE, crop_px=32))


@pytest.mark.parametrize("name", FAMILY)
def test_the_smallest_input_gives_finite_logits(name: str) -> None:
    arch = architecture(name, class_count=3)
    graph = build_graph(arch, random_tensors(arch), replace(TORCHVISION, crop_px=32))
    assert np.isfinite(FloatRunner(graph)(np.full((1, 32, 32, 3), 128, np.uint8))).all()


def test_labels_must_be_one_a_class() -> None:
    with pytest.raises(BadInput, match="`2` labels for a network of `6` classes"):
        build_graph(SMALL, random_tensors(SMALL), replace(CAFFE, crop_px=40), labels=("a", "b"))
    labels = tuple("abcdef")
    assert build_graph(SMALL, random_tensors(SMALL), replace(CAFFE, crop_px=40), labels=labels).labels == labels
