"""The float run, tied to torch: its operators by hypothesis, the whole family, and the real networks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.core import CAFFE, TORCHVISION, Preprocess, TensorSpec
from squeeze_export.graph.build import build_graph, ceil_pads
from squeeze_export.graph.nodes import Add, Concat, Conv, GlobalAveragePool, Graph, MaxPool
from squeeze_export.graph.run import FloatRunner, convolve, max_pool, pad, weight_matrix
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.nets.architecture import FAMILY, Architecture, architecture, tensor_shapes
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.nets.modules import build_module, load_arrays


def he_tensors(arch: Architecture, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        key: rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }


def blobs(count: int, size_px: int, seed: int = 1) -> Any:
    """Random images of low frequency: of plain noise, all would give nearly the same logits."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), np.uint8)
    return coarse.repeat(-(-size_px // 5), 1).repeat(-(-size_px // 5), 2)[:, :size_px, :size_px]


def torch_logits(arch: Architecture, tensors: Any, pixels: Any, preprocess: Preprocess) -> Any:
    """torch's own modules on normalised pixels."""
    module = build_module(arch).eval()
    load_arrays(module, tensors)
    ordered = pixels[..., ::-1] if preprocess.channel_order == "bgr" else pixels
    normalised = ((ordered.astype(np.float64) - preprocess.mean) / preprocess.std).astype(np.float32)
    with torch.inference_mode():
        return module(torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())).numpy()


def sqnr_db(reference: Any, values: Any) -> float:
    return float(
        10 * np.log10(np.square(reference, dtype=np.float64).sum() / np.square(reference - values, dtype=np.float64).sum())
    )


def assert_same_network(expected: Any, found: Any) -> None:
    assert sqnr_db(expected, found) > 100
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize(
    ("name", "size_px", "preprocess"),
    list(zip(FAMILY, (66, 64, 71, 67), (CAFFE, TORCHVISION, TORCHVISION, CAFFE), strict=True)),
    ids=FAMILY,
)
def test_the_family_equals_torchs_modules(name: str, size_px: int, preprocess: Preprocess) -> None:
    arch, preprocess = architecture(name, class_count=12), replace(preprocess, crop_px=size_px)
    tensors, pixels = he_tensors(arch), blobs(3, size_px)
    expected = torch_logits(arch, tensors, pixels, preprocess)
    assert_same_network(expected, FloatRunner(build_graph(arch, tensors, preprocess))(pixels))


@pytest.mark.parametrize("name", ["squeezenet1_1.safetensors", "squeezenet1_0_deep_compression.net"])
def test_real_networks_equal_torchs_modules(name: str, assets: Path) -> None:
    checkpoint = read_checkpoint(assets / "weights" / name)
    files = sorted((assets / "images" / "calib").glob("*.jpg"))[:60:15]
    pixels = np.stack([load_pixels(file, checkpoint.preprocess) for file in files])
    expected = torch_logits(checkpoint.architecture, checkpoint.tensors, pixels, checkpoint.preprocess)
    graph = build_graph(checkpoint.architecture, checkpoint.tensors, checkpoint.preprocess)
    assert len(set(expected.argmax(axis=1))) > 1
    assert_same_network(expected, FloatRunner(graph)(pixels))


def test_one_layer_off_by_a_thousandth_is_noticed() -> None:
    """Negative control of `assert_same_network`."""
    arch = architecture("squeezenet1_1", class_count=12)
    preprocess, pixels, tensors = replace(TORCHVISION, crop_px=64), blobs(3, 64), he_tensors(arch)
    expected = torch_logits(arch, tensors, pixels, preprocess)
    tensors["features.6.expand3x3.weight"] *= 1.001
    with pytest.raises(AssertionError):
        assert_same_network(expected, FloatRunner(build_graph(arch, tensors, preprocess))(pixels))


def by_hand() -> Graph:
    """2 x 2 pixels; two filters, of which one is cut by its ReLU; joined, added to themselves, averaged."""
    weight = np.array([[1, 1, 1], [-1, 0, 0]], np.float32).reshape(2, 3, 1, 1)
    nodes = (
        Conv("a", "input", weight, np.array([1, 5], np.float32), (1, 1), (0, 0, 0, 0), True),
        MaxPool("m", "a", (1, 1), (1, 1), (0, 0, 0, 0)),
        Concat("c", ("a", "m")),
        Add("s", ("c", "c")),
        GlobalAveragePool("logits", "s"),
    )
    spec = TensorSpec("input", ("N", 2, 2, 3), "uint8", "NHWC", 1.0, 0)
    return Graph("hand", nodes, spec, TensorSpec("logits", ("N", 4), "float32", "NC"), CAFFE, (), "")


def test_a_graph_worked_by_hand() -> None:
    pixels = np.array([[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [0, 0, 0]]]], np.uint8)
    # a, channel 0: 7, 16, 25, 1; channel 1: 4, 1, 0 (cut), 5. Twice their means: 24.5 and 5.
    np.testing.assert_array_equal(FloatRunner(by_hand())(pixels), [[24.5, 5, 24.5, 5]])


def test_padding_never_wins_the_maximum_of_a_signed_tensor() -> None:
    """A pool behind a complex bypass: every value is below 0, and the padded corner sees one of them alone."""
    weight = np.array([-1, 0, 0], np.float32).reshape(1, 3, 1, 1)
    conv = Conv("a", "input", weight, np.zeros(1, np.float32), (1, 1), (0, 0, 0, 0), False)
    nodes = (conv, MaxPool("m", "a", (2, 2), (2, 2), (0, 0, 1, 1)), GlobalAveragePool("logits", "m"))
    spec = TensorSpec("input", ("N", 1, 1, 3), "uint8", "NHWC", 1.0, 0)
    graph = Graph("hand", nodes, spec, TensorSpec("logits", ("N", 1), "float32", "NC"), CAFFE, (), "")
    assert FloatRunner(graph)(np.full((1, 1, 1, 3), 7, np.uint8)).item() == -7


def test_a_tap_sees_every_tensor_once_an_image() -> None:
    arch = architecture("squeezenet1_0_complex_bypass", class_count=4)
    graph = build_graph(arch, he_tensors(arch), replace(TORCHVISION, crop_px=40))
    seen: list[tuple[str, tuple[int, ...]]] = []
    pixels = blobs(2, 40)
    logits = FloatRunner(graph)(pixels, lambda name, values: seen.append((name, values.shape)))
    shapes = {name: (1, *size) for name, size in graph.sizes.items() if name != "input"} | {"logits": (1, 4)}
    assert Counter(seen) == dict.fromkeys(shapes.items(), 2)
    np.testing.assert_array_equal(logits, FloatRunner(graph)(pixels))


def test_a_batch_is_its_images() -> None:
    arch = architecture("squeezenet1_1", class_count=4)
    run = FloatRunner(build_graph(arch, he_tensors(arch), replace(TORCHVISION, crop_px=40)))
    pixels = blobs(3, 40)
    np.testing.assert_array_equal(run(pixels), np.concatenate([run(image[None]) for image in pixels]))


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 2, 3\)"):
        FloatRunner(by_hand())(np.zeros((1, 3, 2, 3), np.uint8))


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 2), st.integers(5, 12), st.integers(5, 12)),
    st.tuples(st.integers(1, 5), st.integers(1, 4)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.integers(0, 2**32 - 1),
)
def test_convolve_is_torchs_conv2d(size: Any, channels: Any, kernel: Any, strides: Any, pads: Any, seed: int) -> None:
    """In float64, so that only a wrong sum can differ."""
    rng = np.random.default_rng(seed)
    values, weight = rng.normal(size=(*size, channels[0])), rng.normal(size=(channels[1], channels[0], *kernel))
    top, left, bottom, right = pads
    image = torch.nn.functional.pad(torch.from_numpy(values.transpose(0, 3, 1, 2).copy()), (left, right, top, bottom))
    expected = torch.conv2d(image, torch.from_numpy(weight), stride=strides).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(convolve(values, weight_matrix(weight), kernel, strides, pads), expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=40)
@given(
    st.tuples(st.integers(5, 12), st.integers(5, 12)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 2)] * 4),
)
def test_max_pool_is_torchs(size: Any, kernel: Any, strides: Any, pads: Any) -> None:
    values = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    top, left, bottom, right = pads
    image = torch.nn.functional.pad(torch.from_numpy(values.transpose(0, 3, 1, 2).copy()), (left, right, top, bottom), value=-9.0)
    expected = torch.nn.functional.max_pool2d(image, kernel, strides).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(max_pool(values, kernel, strides, pads, np.float32(-9)), expected)


def test_an_add_may_have_a_relu() -> None:
    """By hand: 1 - 4 is cut, 4 - 1 is not."""
    weight = np.array([[1, 0, 0], [0, 1, 0]], np.float32).reshape(2, 3, 1, 1)
    minus = -weight[::-1]
    zeros = np.zeros(2, np.float32)
    nodes = (
        Conv("a", "input", weight, zeros, (1, 1), (0, 0, 0, 0), True),
        Conv("b", "input", minus, zeros, (1, 1), (0, 0, 0, 0), False),
        Add("s", ("a", "b"), relu=True),
        GlobalAveragePool("logits", "s"),
    )
    spec = TensorSpec("input", ("N", 1, 1, 3), "uint8", "NHWC", 1.0, 0)
    graph = Graph("hand", nodes, spec, TensorSpec("logits", ("N", 2), "float32", "NC"), CAFFE, (), "")
    pixels = np.array([[[[1, 4, 0]]]], np.uint8)
    np.testing.assert_array_equal(FloatRunner(graph)(pixels), [[0, 3]])
    plain = replace(graph, nodes=(*nodes[:2], replace(nodes[2], relu=False), nodes[3]))
    np.testing.assert_array_equal(FloatRunner(plain)(pixels), [[-3, 3]])


def test_weight_matrix_by_hand() -> None:
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    matrix = weight_matrix(weight)
    assert matrix.shape == (12, 2)
    # Row (i, j, channel): rows of the kernel first, channels last.
    assert matrix[(1 * 2 + 0) * 3 + 2].tolist() == weight[:, 2, 1, 0].tolist()


@settings(max_examples=60)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_max_pool_with_ceil_pads_is_torchs_ceil_mode(size_px: int, seed: int) -> None:
    """Values below zero too: padding must never win."""
    values = np.random.default_rng(seed).normal(-1, 1, (2, size_px, size_px, 3)).astype(np.float32)
    pooled = torch.nn.MaxPool2d(3, 2, ceil_mode=True)(torch.from_numpy(values.transpose(0, 3, 1, 2).copy()))
    found = max_pool(values, (3, 3), (2, 2), ceil_pads(size_px, size_px), np.float32(-np.inf))
    np.testing.assert_array_equal(found, pooled.numpy().transpose(0, 2, 3, 1))


@settings(max_examples=40)
@given(st.integers(5, 14), st.integers(5, 14), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_max_pool_of_oblong_maps_is_torchs(height: int, width: int, kernel: int, stride: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(1, height, width, 2)).astype(np.float32)
    pooled = torch.max_pool2d(torch.from_numpy(values.transpose(0, 3, 1, 2).copy()), kernel, stride)
    found = max_pool(values, (kernel, kernel), (stride, stride), (0, 0, 0, 0), np.float32(-np.inf))
    np.testing.assert_array_equal(found, pooled.numpy().transpose(0, 2, 3, 1))


def test_pad_by_hand() -> None:
    padded = pad(np.ones((1, 1, 1, 1)), (1, 2, 0, 1), 9)
    assert padded[0, :, :, 0].tolist() == [[9, 9, 9, 9], [9, 9, 1, 9]]


def test_no_padding_copies_nothing() -> None:
    values = np.ones((1, 1, 1, 1))
    assert pad(values, (0, 0, 0, 0), 9) is values
