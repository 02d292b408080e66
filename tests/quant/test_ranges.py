"""Scales: which tensors share one, that zero is exact, and where the search clips."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.core import CAFFE, TensorSpec
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Conv, GlobalAveragePool, Graph, signed_tensors
from squeeze_export.graph.quantized import INT8_NPU, INT8_SYMMETRIC, INT16X8, SCHEMES, Quantization, Scheme
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import FAMILY, Architecture, Bypass, Fire, tensor_shapes
from squeeze_export.quant.observations import Observation, observe
from squeeze_export.quant.ranges import (
    HEADROOM,
    SMALLEST_SHARE,
    WIDE_HEADROOM,
    fake_quantize,
    quantization_of,
    scale_groups,
    search_ranges,
    summable,
)
from squeeze_export.quant.recipes import quantize
from tests.contract.conftest import floats


@cache
def network(bypass: Bypass = "none") -> Graph:
    second: Bypass = "simple" if bypass != "none" else "none"
    arch = Architecture(
        "small", 4, 3, (Fire(2, 3, 5, "complex" if bypass == "complex" else "none"), Fire(3, 4, 4, second)), (0,), 6
    )
    rng = np.random.default_rng(0)
    tensors = {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in tensor_shapes(arch).items()}
    return build_graph(arch, tensors, replace(CAFFE, crop_px=40))


@cache
def searched(bypass: Bypass) -> tuple[dict[str, Observation], dict[str, Quantization]]:
    graph = network(bypass)
    pixels = np.random.default_rng(1).integers(0, 256, (6, 40, 40, 3), np.uint8)
    seen = observe(graph, FloatRunner(graph), pixels, seed=0, threads=1).of()
    return seen, search_ranges(graph, seen)


def together(graph: Graph, *names: str) -> bool:
    groups = scale_groups(graph)
    return len({groups[name] for name in names}) == 1


def test_a_pool_keeps_its_inputs_scale() -> None:
    assert together(network(), "conv1", "pool1")
    assert together(network(), "fire2/concat", "pool2")
    assert not together(network(), "input", "conv1")


def test_a_concat_has_one_scale() -> None:
    assert together(network(), "fire2/expand1x1", "fire2/expand3x3", "fire2/concat")
    assert not together(network(), "fire2/concat", "fire3/concat")


def test_an_add_of_relu_outputs_has_one_scale_for_both_and_another_for_the_sum() -> None:
    graph = network("simple")
    assert together(graph, "fire3/concat", "pool2", "fire2/concat")
    assert not together(graph, "fire3/concat", "fire3/add")


def test_a_signed_operand_keeps_its_own_scale() -> None:
    graph = network("complex")
    assert not together(graph, "fire2/concat", "fire2/bypass1x1")
    assert signed_tensors(graph.nodes) == {"fire2/bypass1x1", "fire2/add", "pool2", "fire3/add"}


def test_nothing_is_signed_without_a_complex_bypass() -> None:
    assert signed_tensors(network("simple").nodes) == set()
    graph = network("complex")
    clamped = replace(graph, nodes=tuple(replace(n, relu=True) if n.name == "fire2/add" else n for n in graph.nodes))
    assert signed_tensors(clamped.nodes) == {"fire2/bypass1x1"}


@pytest.mark.parametrize("name", FAMILY)
def test_every_tensor_of_the_family_is_in_a_group(name: str) -> None:
    arch = replace(FAMILY[name], class_count=3)
    tensors = {key: np.zeros(shape, np.float32) for key, shape in tensor_shapes(arch).items()}
    graph = build_graph(arch, tensors, CAFFE)
    assert set(scale_groups(graph)) == {"input", *(node.name for node in graph.nodes)}


@pytest.mark.parametrize("bypass", ["none", "simple", "complex"])
def test_one_scale_a_group_and_none_for_the_logits(bypass: Bypass) -> None:
    _, chosen = searched(bypass)
    groups = scale_groups(network(bypass))
    assert set(chosen) == set(groups) - {"logits"}
    for group in set(groups.values()):
        assert len({chosen[name] for name in chosen if groups[name] == group}) <= 1


def test_the_input_is_raw_pixels() -> None:
    assert searched("none")[1]["input"] == Quantization(1.0, 0)


@pytest.mark.parametrize("bypass", ["none", "simple", "complex"])
def test_ranges_cover_the_smallest_share_of_what_was_seen(bypass: Bypass) -> None:
    seen, chosen = searched(bypass)
    signed = signed_tensors(network(bypass).nodes)
    for name in set(seen) - {"logits"}:
        q = chosen[name]
        step = q.scale * (1 + 1e-6)
        assert (255 - q.zero_point) * step >= SMALLEST_SHARE * seen[name].highs.max() - step / 2
        assert q.zero_point * step >= SMALLEST_SHARE * -seen[name].lows.min() - step / 2
        assert (q.zero_point == 0) == (name not in signed)


def values_network() -> Graph:
    """One pointwise convolution that reads a tensor, so that its values can be chosen freely."""
    convs = [Conv(n, s, np.ones((1, c, 1, 1), np.float32), np.zeros(1, np.float32), (1, 1), (0,) * 4, True) for n, s, c in
             (("t", "input", 3), ("r", "t", 1))]  # fmt: skip
    spec = TensorSpec("input", ("N", 32, 32, 3), "uint8", "NHWC", 1.0, 0)
    return Graph(
        "one", (*convs, GlobalAveragePool("logits", "r")), spec, TensorSpec("logits", ("N", 1), "float32", "NC"), CAFFE, (), ""
    )


def observation(values: Any) -> Observation:
    samples = np.asarray(values, np.float32).reshape(-1, 1)
    low, high = samples.min(keepdims=True), samples.max(keepdims=True)
    return Observation(low, high, samples[:, None, None])


def search(values: Any) -> Quantization:
    """The quantization found for a tensor of these values."""
    pixels = Observation(np.zeros((1, 3), np.float32), np.full((1, 3), 255, np.float32), np.zeros((1, 1, 1, 3), np.float32))
    flat = observation([0.0, 1.0])
    return search_ranges(values_network(), {"input": pixels, "t": observation(values), "r": flat})["t"]


def covered(q: Quantization) -> float:
    return (255 - q.zero_point) * q.scale


def test_an_even_spread_is_not_clipped() -> None:
    assert covered(search(np.linspace(0, 10, 5000))) == pytest.approx(10, rel=0.01)


def test_a_heavy_tail_is_clipped_but_not_beyond_the_smallest_share() -> None:
    values = np.abs(np.random.default_rng(0).normal(0, 0.1, 500_000))
    values[0] = 10
    assert covered(search(values)) == pytest.approx(10 * SMALLEST_SHARE, rel=0.01)


def test_the_point_found_has_headroom() -> None:
    """Half-normal values: the best clip lies between the smallest share and all, and the range is that times the headroom."""
    values = np.abs(np.random.default_rng(0).normal(0, 1, 100_000))
    values = values[values < 3.2]
    values[0] = 3.2

    def error(high: float) -> float:
        return float(np.square(fake_quantize(values, quantization_of(0, high)) - values).sum())

    best = min(np.linspace(0.7, 1, 61), key=lambda share: error(3.2 * share))
    assert covered(search(values)) == pytest.approx(3.2 * min(1, best * HEADROOM), rel=0.05)


@pytest.mark.parametrize("scheme", [INT8_SYMMETRIC, INT16X8], ids=lambda scheme: scheme.name)
def test_symmetric_schemes_have_0_in_the_middle(scheme: Scheme) -> None:
    seen, _ = searched("complex")
    chosen = search_ranges(network("complex"), seen, scheme)
    assert chosen.pop("input") == Quantization(1.0, 0)
    assert {q.zero_point for q in chosen.values()} == {scheme.middle}
    most = scheme.levels - scheme.middle
    for name in set(seen) - {"logits", "input"}:
        reach = max(seen[name].highs.max(), -seen[name].lows.min())
        assert chosen[name].scale * most >= SMALLEST_SHARE * reach * (1 - 1e-6)
        if scheme is INT16X8:
            assert chosen[name].scale * most >= WIDE_HEADROOM * reach * (1 - 1e-6)


def test_integer_logits_cover_what_was_seen_and_a_tenth_more() -> None:
    seen, floats = searched("none")
    chosen = search_ranges(network("none"), seen, INT8_NPU)
    q = chosen["logits"]
    assert q.zero_point == 0
    assert q.scale * 255 == pytest.approx(HEADROOM * seen["logits"].highs.max(), rel=1e-6)
    assert q.scale < chosen["conv10"].scale  # the mean of a map is smaller than its largest value
    assert chosen["conv10"].scale <= floats["conv10"].scale  # without a float pool it needs no short scale


def test_symmetric_quantization_by_hand() -> None:
    assert quantization_of(0, 254, INT8_SYMMETRIC) == Quantization(2.0, 128)
    assert quantization_of(-254, 10, INT8_SYMMETRIC) == Quantization(2.0, 128)
    assert quantization_of(0, 0, INT8_SYMMETRIC) == Quantization(1.0, 128)
    assert quantization_of(0, 32767, INT16X8) == Quantization(1.0, 32768)
    values = np.array([-1e6, -3.0, 0.0, 2.9, 1e6])
    assert fake_quantize(values, Quantization(2.0, 128), INT8_SYMMETRIC).tolist() == [-256, -4, 0, 2, 254]


def test_a_summable_scale_keeps_as_many_bits_as_the_sum_leaves() -> None:
    assert summable(1.1, 169) == pytest.approx(1.1, rel=0.008)
    assert summable(1.1, 169, INT16X8) == 2.0  # one bit is left
    assert summable(1.0, 169, INT16X8) == 1.0


@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_a_dead_tensor_gets_a_scale(value: float) -> None:
    assert search(np.full(100, value)) == Quantization(1.0, 0)


def test_tiny_and_huge_tensors_get_finite_scales() -> None:
    for size in (1e-9, 1e9):
        assert covered(search(np.linspace(0, size, 5000))) == pytest.approx(size, rel=0.01)


def test_quantization_by_hand() -> None:
    assert quantization_of(0, 510) == Quantization(2.0, 0)
    assert quantization_of(-255, 255) == Quantization(2.0, 128)  # 127.5, to the even neighbour
    assert quantization_of(-255, 0) == Quantization(1.0, 255)


def test_fake_quantize_by_hand() -> None:
    values = np.array([-300, -1, -0.9, 0, 1, 3.1, 1000])
    # Steps of 2 around 5: halves go to the even integer, -10 and 500 are the ends.
    assert fake_quantize(values, Quantization(2.0, 5)).tolist() == [-10, 0, 0, 0, 0, 4, 500]


@settings(max_examples=100)
@given(st.floats(-1e6, 0), st.floats(0, 1e6), st.integers(0, 2**32 - 1))
def test_errors_stay_within_half_a_step_and_zero_is_exact(low: float, high: float, seed: int) -> None:
    if high - low < 1e-3:
        high = low + 1e-3 if low < -1e-3 else 1e-3
    q = quantization_of(low, max(high, 0))
    assert 0 <= q.zero_point <= 255
    assert float(np.float32(q.scale)) == q.scale > 0
    reach = (-q.zero_point * q.scale, (255 - q.zero_point) * q.scale)
    values = np.append(np.random.default_rng(seed).uniform(*reach, 50), 0.0)
    real = fake_quantize(values, q)
    assert np.abs(real - values).max() <= q.scale * 0.5001
    assert real[-1] == 0
    np.testing.assert_allclose(fake_quantize(real, q), real)
    assert reach[0] <= low + q.scale
    assert reach[1] >= high - q.scale


@pytest.mark.parametrize("scheme", ["int8", "int8-per-tensor", "int8-symmetric"])
def test_a_normalize_adds_no_error(scheme: str) -> None:
    graph, pixels, _ = floats("normalize")
    quantized = quantize(graph, pixels, FloatRunner(graph), SCHEMES[scheme])
    assert quantized.tensors["normalize"] == Quantization(1.0, 128)
    seen: dict[str, Any] = {}
    IntegerRunner(quantized)(pixels[:1], lambda name, values: seen.update({name: values}))
    np.testing.assert_array_equal(seen["normalize"][..., :3], pixels[:1])
    assert (seen["normalize"][..., 3] == 255).all()
