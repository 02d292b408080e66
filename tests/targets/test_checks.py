"""What is refused before a file is written: the same of every target, in the same words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_onnx import noise, tiny

from squeeze_export.core import EmitOptions
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import FP32, INT8, INT8_NPU, SCHEMES, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.quant.recipes import quantize
from squeeze_export.registry import TARGETS
from squeeze_export.targets import check_carries, check_fits, target_named


@pytest.fixture(scope="module")
def quantized() -> QuantizedGraph:
    graph = tiny()
    return quantize(graph, noise(graph, 4), FloatRunner(graph), INT8)


@pytest.mark.parametrize("target", TARGETS)
def test_a_form_that_is_not_carried(target: str) -> None:
    module = target_named(target)
    assert {check_carries(target, scheme, EmitOptions()).NAME for scheme in module.SCHEMES} == {target}
    for scheme in {*SCHEMES, "int7"} - {*module.SCHEMES}:
        with pytest.raises(BadInput, match=f"{target} does not carry the scheme `{scheme}`") as caught:
            check_carries(target, scheme, EmitOptions())
        assert caught.value.hint == f"it carries: {', '.join(module.SCHEMES)}"
    with pytest.raises(BadInput, match="take no `int4` pixels"):
        check_carries(target, "fp32", EmitOptions(input_dtype="int4"))  # type: ignore[arg-type]
    for batch in (0, -1):
        with pytest.raises(BadInput, match=f"a batch of `{batch}` images"):
            check_carries(target, "fp32", EmitOptions(batch))


@pytest.mark.parametrize("target", [name for name in TARGETS if INT8_NPU.name in target_named(name).SCHEMES])
def test_logits_of_8_bits_are_no_probabilities(target: str) -> None:
    for options in (EmitOptions(softmax=True), EmitOptions(sigmoid=True)):
        with pytest.raises(BadInput, match="`int8-npu` gives logits of 8 bits") as caught:
            check_carries(target, INT8_NPU.name, options)
        assert caught.value.hint == f"leave out --{options.ending}, or --scheme int8"


def test_a_file_ends_in_one_way() -> None:
    with pytest.raises(BadInput, match="a softmax or in a sigmoid, not in both"):
        check_carries("onnx", "fp32", EmitOptions(softmax=True, sigmoid=True))


def test_a_network_that_does_not_fit_the_scheme(quantized: QuantizedGraph) -> None:
    check_fits(quantized, INT8)
    check_fits(tiny(), FP32)
    with pytest.raises(BadInput, match="the scheme `int8` needs a quantized graph"):
        check_fits(tiny(), INT8)
    with pytest.raises(BadInput, match="the scheme `fp32` needs a float graph"):
        check_fits(quantized, FP32)
    with pytest.raises(BadInput, match="of the scheme `int8-npu` is not written as `int8`") as caught:
        check_fits(replace(quantized, scheme=INT8_NPU), INT8)
    assert caught.value.hint == "--scheme int8-npu, or calibrate again"
