"""Golden outputs: the formula by hand, and the answers of the exact runs."""

from dataclasses import replace

import numpy as np
import pytest

from squeeze_export.core import CAFFE
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.golden import golden, golden_logits, golden_pixels, pixels_sha256
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import FP32, INT8, INT8_NPU, scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.quant.recipes import quantize


@pytest.fixture(scope="module")
def graph():
    arch = Architecture("small", 4, 3, (Fire(2, 3, 5), Fire(2, 3, 5)), (0,), 6)
    draw = np.random.default_rng(0)
    tensors = {key: draw.normal(0, 0.3, shape).astype(np.float32) for key, shape in tensor_shapes(arch).items()}
    return build_graph(arch, tensors, replace(CAFFE, resize_px=36, crop_px=34, width_px=40), labels=(), checkpoint_sha256="c0")


def quantized(graph, scheme):
    pixels = np.random.default_rng(1).integers(0, 256, (16, 34, 40, 3), np.uint8)
    return quantize(graph, pixels, FloatRunner(graph), scheme_named(scheme))


def test_the_formula_by_hand():
    height, width = 5, 7
    pixels = golden_pixels((height, width, 3))
    assert (pixels.shape, pixels.dtype) == ((2, height, width, 3), np.uint8)
    for k, y, x, c in ((0, 0, 0, 0), (0, 4, 6, 2), (1, 2, 5, 1), (1, 4, 0, 2)):
        n = 256 * y * (k + 1) // height + 256 * x * (k + 2) // width + 85 * c
        wave = 255 - abs(2 * (n % 256) - 255)
        chirp = (x * x * (k + 3) + y * y * (k + 5) + x * y + 97 * c) % 256
        assert pixels[k, y, x, c] == (3 * wave + chirp) // 4


def test_the_pixels_never_change():
    """A sidecar keeps their hash: another formula needs another schema version."""
    assert pixels_sha256(golden_pixels((224, 224, 3))).startswith("9a2ae07f82a51b83")
    assert pixels_sha256(golden_pixels((5, 7, 1))).startswith("a04dbbd38531ebba")


def test_an_integer_file_answers_as_the_integer_run(graph):
    table = quantized(graph, "int8")
    told = golden(table, INT8)
    np.testing.assert_array_equal(golden_logits(told), IntegerRunner(table)(golden_pixels((34, 40, 3))))
    assert (told.reference, told.tolerance) == ("integer run", table.tensors["conv10"].scale)
    table = quantized(graph, "int8-npu")
    assert golden(table, INT8_NPU).tolerance == max(table.tensors[name].scale for name in ("conv10", "logits"))


def test_a_float_file_answers_as_the_reference(graph):
    told = golden(graph, FP32)
    reference = FloatRunner(graph)(golden_pixels((34, 40, 3)))
    np.testing.assert_allclose(golden_logits(told), reference, rtol=1e-4, atol=1e-5)
    assert told.reference == "float run"
    assert told.tolerance == pytest.approx(0.001 * np.abs(reference).max(), rel=1e-3)
    assert golden(graph, scheme_named("fp16")).tolerance == pytest.approx(20 * told.tolerance)


@pytest.mark.parametrize(
    "logits", ["?", "", "AAA=", "AACAfwAAgH8=", "AAAAAAAAAAAAAAAA"], ids=["text", "none", "cut", "inf", "three"]
)
def test_damaged_logits(logits, graph):
    with pytest.raises(ValueError, match="golden logits"):
        golden_logits(replace(golden(graph, FP32), logits=logits))
