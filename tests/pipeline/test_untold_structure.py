"""Networks that torchvision's values do not fit: what is told about them reaches the reference, and the files of every target.

Compared with torch's own outputs of the user's network, never with our reference.
"""

import numpy as np
import pytest
import torch_networks as own

from squeeze_export.core import CAFFE
from squeeze_export.graph.quantized import FP32
from squeeze_export.graph.run import FloatRunner
from squeeze_export.pipeline import PreprocessChoice, StructureChoice, export, open_network
from squeeze_export.registry import TARGETS
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named

SIDE_PX = 38
"""Both pools overhang at stride 2, so floor and ceil differ."""
COUNT = 24
CHOICE = PreprocessChoice(crop_px=SIDE_PX, resize_px=44)


def largest_difference(found, expected):
    """In shares of the largest logit."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def assert_same(found, expected):
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert largest_difference(found, expected) < 1e-4


@pytest.fixture(scope="module", params=list(own.CASES))
def case(request, tmp_path_factory):
    """A user's network: the checkpoint, the options that fit it, pixels, and torch's logits of them."""
    arguments, options = own.CASES[request.param]
    net = own.SqueezeNet(**arguments)
    path = own.saved(net, tmp_path_factory.mktemp("net") / "net.pth")
    pixels = own.pixels_of(COUNT, SIDE_PX)
    preprocess = CHOICE.applied_to(open_network(path).graph.preprocess)
    return path, options, pixels, own.torch_logits(net, pixels, preprocess)


def test_the_reference_is_the_users_network(case):
    path, options, pixels, expected = case
    network = open_network(path, preprocess=CHOICE, structure=StructureChoice(**options))
    assert_same(FloatRunner(network.graph)(pixels), expected)


def test_without_the_options_it_is_another_network(case):
    """The control: each of these options matters."""
    path, options, pixels, expected = case
    for name in options:
        less = StructureChoice(**{key: value for key, value in options.items() if key != name})
        network = open_network(path, preprocess=CHOICE, structure=less)
        assert largest_difference(FloatRunner(network.graph)(pixels), expected) > 1e-2


@pytest.mark.parametrize("target", TARGETS)
def test_fp32_files_are_the_users_network(case, target, tmp_path):
    path, options, pixels, expected = case
    network = open_network(path, preprocess=CHOICE, structure=StructureChoice(**options))
    artifact, _ = export(network.graph, target, FP32, tmp_path, name="net")
    session = runtime_named(target_named(target).RUNTIMES[0]).open_session(artifact, device="cpu", threads=1)
    assert_same(np.concatenate([session.infer(image[None]) for image in pixels]), expected)
    session.close()


def test_a_padded_conv1_of_a_bgr_network(tmp_path):
    net = own.SqueezeNet(padding=1)
    choice = PreprocessChoice(crop_px=SIDE_PX, channel_order="bgr", mean=CAFFE.mean, std=(2.0, 3.0, 4.0))
    network = open_network(own.saved(net, tmp_path / "net.pth"), preprocess=choice, structure=StructureChoice(conv1_pad=1))
    pixels = own.pixels_of(4, SIDE_PX)
    assert_same(FloatRunner(network.graph)(pixels), own.torch_logits(net, pixels, network.graph.preprocess))


@pytest.mark.parametrize(("mean", "first"), [((0.0, 0.0, 0.0), "conv1"), ((0.0, 0.0, 2.0), "normalize")])
def test_a_mean_of_zero_needs_no_layer_before_conv1(mean, first, tmp_path):
    net = own.SqueezeNet(padding=1)
    choice = PreprocessChoice(crop_px=SIDE_PX, mean=mean)
    network = open_network(own.saved(net, tmp_path / "net.pth"), preprocess=choice, structure=StructureChoice(conv1_pad=1))
    assert network.graph.convs[0].name == first
    pixels = own.pixels_of(4, SIDE_PX)
    assert_same(FloatRunner(network.graph)(pixels), own.torch_logits(net, pixels, network.graph.preprocess))
