"""Wrong pixels, noticed without labels."""

import dataclasses

import numpy as np
import pytest

from squeeze_export import demo
from squeeze_export.core import CAFFE, TORCHVISION
from squeeze_export.errors import Unavailable
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.pipeline import Job, PreprocessChoice, calibrate, open_network, run
from squeeze_export.pipeline import pixels as module
from squeeze_export.pipeline.calibration import read_images
from squeeze_export.pipeline.pixels import PixelValues, as_if, halfway, pixel_warnings, usual_pixels, watched_run, wrong_pixels

WRONG = {
    "bgr": PreprocessChoice(channel_order="bgr"),
    "caffe": PreprocessChoice(channel_order="bgr", mean=CAFFE.mean, std=CAFFE.std),
    "raw": PreprocessChoice(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}
OWN = "--channel-order rgb --mean 127.5,127.5,127.5 --std 127.5,127.5,127.5"


@pytest.fixture(scope="module")
def demo_images():
    """The demo network's calibration images; mean and channel order are not in their pixels."""
    return read_images(open_network()).batch.pixels


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_the_demo_networks_own_pixels_are_named(wrong, demo_images):
    (line,) = wrong_pixels(open_network(preprocess=wrong).graph, demo_images)
    assert f"clearly better with `{OWN}`" in line
    assert "32 calibration images" in line


def test_right_pixels_are_not_questioned(demo_images):
    graph = open_network().graph
    assert wrong_pixels(graph, demo_images) == ()
    assert all(wrong_pixels(graph, demo_images[start::5][:20]) == () for start in range(5))


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_the_demo_networks_pixels_are_known(wrong, assets):
    """Whatever the images show: photographs are not what it was trained for. With other pixels asked for, it may be warned of."""
    network = open_network()
    photographs = ImageStream(open_calibration(assets / "images" / "calib"), network.graph.preprocess).load()[0].pixels
    assert wrong_pixels(network.graph, photographs) != ()
    assert pixel_warnings(network, photographs) == ()
    own = ImageStream(open_calibration(demo.calibration_folder()), network.graph.preprocess).load()[0].pixels
    assert pixel_warnings(open_network(preprocess=wrong), own) != ()


def test_too_few_images_or_classes_tell_nothing(demo_images):
    graph = open_network(preprocess=WRONG["caffe"]).graph
    assert wrong_pixels(graph, demo_images[:15]) == ()
    assert wrong_pixels(graph, demo_images[:16]) != ()
    for count in (1, 2):
        few = dataclasses.replace(graph, output=dataclasses.replace(graph.output, shape=("N", count)))
        assert wrong_pixels(few, demo_images) == ()


def test_without_onnx_runtime_numpy_says_the_same(demo_images, monkeypatch):
    graph = open_network(preprocess=WRONG["bgr"]).graph
    with_it = wrong_pixels(graph, demo_images)
    monkeypatch.setattr(module, "tapped_run", missing)
    assert wrong_pixels(graph, demo_images) == with_it


def missing(*_):
    raise Unavailable("`onnxruntime` is not installed")


def test_what_is_seen_is_the_logits_and_the_channels_of_the_middle(demo_images, monkeypatch):
    graph = open_network().graph
    assert halfway(graph) == "fire5/concat"
    values, tensors = demo_images[:3].astype(np.float32), []
    logits = FloatRunner(graph)(values, lambda name, tensor: tensors.append(tensor) if name == halfway(graph) else None)
    means = np.concatenate([tensor.mean(axis=(1, 2)) for tensor in tensors])
    for seen in (watched_run(graph)(values), (monkeypatch.setattr(module, "tapped_run", missing), watched_run(graph)(values))[1]):
        np.testing.assert_allclose(seen.logits, logits, atol=1e-4 * np.abs(logits).max())
        np.testing.assert_allclose(seen.channels, means, atol=1e-4 * means.max())


def test_without_a_concatenation_the_convolution_in_the_middle_is_watched(tiny):
    graph = open_network(tiny / "tiny.safetensors").graph
    convs = graph.convs
    bare = dataclasses.replace(graph, nodes=convs[:3])
    assert halfway(bare) == convs[1].name


def test_progress_ends(demo_images):
    told = []
    wrong_pixels(open_network().graph, demo_images, progress=lambda what, done, total: told.append((done, total)))
    assert told[0][0] == 1
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
def test_a_float_export_looks_at_unlabelled_images(scheme, tmp_path):
    """Nothing is calibrated there; evaluation images, or calibration images in their place, are looked at."""
    job = Job(("onnx",), scheme, bench=False, out=tmp_path / "out", preprocess=WRONG["bgr"])
    (line,) = told(dataclasses.replace(job, eval=demo.calibration_folder()))
    assert f"on 32 evaluation images the fp32 reference fits clearly better with `{OWN}`" in line
    if scheme == "fp32":
        (line,) = told(dataclasses.replace(job, calib=demo.calibration_folder()))
        assert "on 32 calibration images" in line
        assert told(dataclasses.replace(job, eval=demo.evaluation_folder())) == []  # labelled: their top-1 tells more
        assert told(dataclasses.replace(job, eval=demo.calibration_folder(), validate=False)) == []  # and then none is read
        assert told(dataclasses.replace(job, eval=demo.calibration_folder(), preprocess=PreprocessChoice())) == []


def told(job):
    return [line for line in run(job).warnings if line.startswith("the pixels look wrong")]


def test_calibration_carries_the_warning_and_goes_on():
    calibration = calibrate(open_network(preprocess=WRONG["bgr"]))
    (line,) = calibration.warnings
    assert line.startswith("the pixels look wrong")
    assert calibration.quantized.scheme.name == "int8"


@pytest.mark.parametrize("assumed", [TORCHVISION, CAFFE, dataclasses.replace(TORCHVISION, mean=(1.0, 2.0, 3.0))])
def test_one_graph_sees_what_another_would(assumed, tiny):
    checkpoint = read_checkpoint(tiny / "tiny.safetensors")
    size = {"resize_px": 36, "crop_px": 32}
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    assumed = dataclasses.replace(assumed, **size)
    graph = build_graph(checkpoint.architecture, checkpoint.tensors, assumed)
    candidates = usual_pixels(assumed)
    for other in candidates:
        there = dataclasses.replace(assumed, channel_order=other.channel_order, mean=other.mean, std=other.std)
        expected = FloatRunner(build_graph(checkpoint.architecture, checkpoint.tensors, there))(pixels)
        got = FloatRunner(graph)(as_if(pixels, assumed, other))
        np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())
    swapped = FloatRunner(graph)(as_if(pixels[..., ::-1], assumed, candidates[0]))
    assert np.abs(swapped - FloatRunner(graph)(pixels)).max() > 0  # negative control


def test_the_assumed_one_comes_first_and_none_twice():
    for preprocess, count in ((TORCHVISION, 10), (CAFFE, 10), (dataclasses.replace(CAFFE, std=(58.0,) * 3), 12)):
        found = usual_pixels(preprocess)
        assert found[0] == PixelValues(preprocess.channel_order, preprocess.mean, preprocess.std)
        assert len(set(found)) == len(found) == count


def test_grey_pixels():
    grey = dataclasses.replace(CAFFE, channel_order="gray", mean=(0.0,), std=(255.0,))
    found = usual_pixels(grey)
    assert len(found) == 5
    assert str(found[0]) == "--mean 0 --std 255"
    seen = as_if(np.full((1, 2, 2, 1), 51, np.uint8), grey, PixelValues("gray", (0.0,), (51.0,)))
    assert np.array_equal(seen, np.full((1, 2, 2, 1), 255.0))


def test_the_authors_network_with_torchvisions_pixels(assets):
    """Its agreement is 97% and its true top-1 0.6%: nothing else tells."""
    graph = open_network(assets / "weights" / "squeezenet1_0.safetensors").graph
    files = open_calibration(assets / "images" / "calib")
    first = dataclasses.replace(files, files=files.files[:32])
    (line,) = wrong_pixels(graph, ImageStream(first, graph.preprocess).load()[0].pixels)
    assert "clearly better with `--channel-order bgr --mean 104,117,123 --std 1,1,1`" in line
