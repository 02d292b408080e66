"""The integer run in the schemes beside int8, by hand: the pool in integers, and 16-bit activations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import CAFFE, TensorSpec
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Add, GlobalAveragePool, MaxPool, QuantizedConv, QuantizedNode
from squeeze_export.graph.quantized import INT8, INT8_NPU, INT16X8, Quantization, QuantizedGraph, Scheme

PIXELS = Quantization(1.0, 0)


def conv(weight: Any, scale: float, *, relu: bool = True, name: str = "a", bias: int = 0) -> QuantizedConv:
    steps = np.asarray(weight, np.int8).reshape(-1, 3, 1, 1)
    count = len(steps)
    return QuantizedConv(
        name, "input", steps, np.full(count, scale, np.float32), np.full(count, bias, np.int32), (1, 1), (0,) * 4, relu
    )


def graph_of(nodes: tuple[QuantizedNode, ...], scheme: Scheme, size: tuple[int, int], **tensors: Quantization) -> QuantizedGraph:
    source = TensorSpec("input", ("N", *size, 3), "uint8", "NHWC", 1.0, 0)
    result = TensorSpec("logits", ("N", 1), "float32", "NC")
    return QuantizedGraph("hand", nodes, source, result, {"input": PIXELS, **tensors}, scheme, CAFFE, (), {})


def reds(*values: int) -> Any:
    """An image one pixel high."""
    image = np.zeros((1, 1, len(values), 3), np.uint8)
    image[0, 0, :, 0] = values
    return image


def pooled(scheme: Scheme, *values: int, logits: Quantization | None = None) -> float:
    nodes: tuple[QuantizedNode, ...] = (conv([1, 0, 0], 1.0), GlobalAveragePool("logits", "a"))
    more = {} if logits is None else {"logits": logits}
    return float(IntegerRunner(graph_of(nodes, scheme, (1, len(values)), a=PIXELS, **more))(reds(*values)).item())


def test_an_integer_pool_rounds_its_mean_once() -> None:
    assert pooled(INT8, 1, 2) == 1.5
    step = Quantization(1.0, 0)
    assert [pooled(INT8_NPU, *pair, logits=step) for pair in ((1, 2), (2, 3), (2, 2))] == [2, 2, 2]  # halves to the even one
    assert pooled(INT8_NPU, 1, 2, logits=Quantization(0.5, 0)) == 1.5
    assert pooled(INT8_NPU, 7, 6, logits=Quantization(4.0, 3)) == 8  # 6.5 / 4 is 1.625, so 2 steps of 4


def test_an_integer_pool_saturates_at_both_ends() -> None:
    assert pooled(INT8_NPU, 200, 200, logits=Quantization(0.5, 55)) == 100  # 400 steps above 55: cut at 255
    nodes: tuple[QuantizedNode, ...] = (conv([-1, 0, 0], 1.0, relu=False), GlobalAveragePool("logits", "a"))
    tensors = {"a": Quantization(1.0, 200), "logits": Quantization(1.0, 10)}
    assert IntegerRunner(graph_of(nodes, INT8_NPU, (1, 1), **tensors))(reds(50)).item() == -10


def wide_run(scheme: Scheme, value: int, *, relu: bool, weight: int, scale: float) -> int:
    middle = scheme.middle
    nodes: tuple[QuantizedNode, ...] = (conv([weight, 0, 0], scale, relu=relu), GlobalAveragePool("logits", "a"))
    seen: dict[str, Any] = {}
    IntegerRunner(graph_of(nodes, scheme, (1, 1), a=Quantization(1.0, middle)))(reds(value), seen.__setitem__)
    assert seen["a"].dtype == np.uint16
    return int(seen["a"].item()) - middle


def test_16_bits_by_hand() -> None:
    assert wide_run(INT16X8, 200, relu=True, weight=100, scale=1.0) == 20_000
    assert wide_run(INT16X8, 200, relu=True, weight=-100, scale=1.0) == 0
    assert wide_run(INT16X8, 200, relu=False, weight=-100, scale=1.0) == -20_000
    assert wide_run(INT16X8, 255, relu=True, weight=127, scale=2.0) == 32_767
    assert wide_run(INT16X8, 255, relu=False, weight=-127, scale=2.0) == -32_768


def test_16_bits_need_more_than_float32() -> None:
    """16,777,217 is no float32: times 2^-9 it lies just above a half, which rounding to the even one would take down."""
    big = 2**24 + 2**8  # 32,768.5 steps of 2^9, below the end of the range
    quantized = graph_of(
        (conv([1, 0, 0], 1.0, bias=big, relu=False), GlobalAveragePool("logits", "a")),
        INT16X8,
        (1, 1),
        a=Quantization(1024.0, 32768),
    )
    seen: dict[str, Any] = {}
    IntegerRunner(quantized)(reds(1), seen.__setitem__)
    exact = (big + 1) / 1024
    assert int(seen["a"].item()) - 32768 == round(exact)


def test_a_wide_bypass_and_pool() -> None:
    nodes: tuple[QuantizedNode, ...] = (
        conv([100, 0, 0], 1.0, name="x"),
        conv([-50, 0, 0], 1.0, name="y", relu=False),
        Add("sum", ("x", "y")),
        MaxPool("most", "sum", (1, 1), (1, 1), (0, 0, 0, 1)),
        GlobalAveragePool("logits", "most"),
    )
    step = Quantization(1.0, 32768)
    sums = Quantization(2.0, 32768)
    quantized = graph_of(nodes, INT16X8, (1, 1), x=step, y=step, sum=sums, most=sums)
    seen: dict[str, Any] = {}
    IntegerRunner(quantized)(reds(100), seen.__setitem__)
    assert int(seen["sum"].item()) - 32768 == 2_500  # 10,000 - 5,000, in steps of 2
    assert seen["most"].astype(int).ravel().tolist() == [35_268, 0]  # padding is below everything


def test_levels_are_the_schemes() -> None:
    assert (INT8.levels, INT8.middle, INT16X8.levels, INT16X8.middle) == (255, 128, 65_535, 32_768)


@pytest.mark.parametrize("scheme", [INT8, INT16X8])
def test_a_wider_range_is_not_the_same_network(scheme: Scheme) -> None:
    """Negative control: the scheme alone changes the answer."""
    nodes: tuple[QuantizedNode, ...] = (conv([100, 0, 0], 1.0), GlobalAveragePool("logits", "a"))
    quantized = graph_of(nodes, scheme, (1, 1), a=PIXELS)
    other = replace(quantized, scheme=INT8 if scheme is INT16X8 else INT16X8)
    assert IntegerRunner(quantized)(reds(100)).item() != IntegerRunner(other)(reds(100)).item()
