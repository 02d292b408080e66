"""Equalization: exact in float whatever the factors, tied where tensors meet, and harmless where channels are dead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.core import CAFFE, TensorSpec
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import Concat, Conv, GlobalAveragePool, Graph, MaxPool, Node
from squeeze_export.graph.quantized import INT8, INT16X8, Scheme
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import FAMILY, Architecture, Fire, architecture, fire_modules, tensor_shapes
from squeeze_export.quant.equalize import SMALLEST_SHARE, channel_factors, channel_groups, equalize, rescale, with_concat_inputs
from squeeze_export.quant.observations import observe

SMALL = Architecture("small", 4, 3, (Fire(2, 3, 5, "complex"), Fire(3, 4, 4, "simple")), (0,), 6, 1)
CUSTOM = Architecture(
    "custom", 8, 5, fire_modules(count=3, base_e=12, incr_e=6, freq=2, pct3x3=0.3, squeeze_ratio=0.4, bypass="complex"), (1,), 5
)


def he_tensors(arch: Architecture, seed: int = 0) -> dict[str, Any]:
    """Random weights whose output channels differ in size by a factor of thousands, as trained ones do."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for key, shape in tensor_shapes(arch).items():
        loudness = np.exp(rng.normal(0, 1, shape[0])).reshape(-1, *[1] * (len(shape) - 1))
        tensors[key] = (loudness * rng.normal(0, (1 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape)).astype(
            np.float32
        )
    return tensors


def graph_of(arch: Architecture, size_px: int = 40, tensors: dict[str, Any] | None = None) -> Graph:
    return build_graph(arch, tensors or he_tensors(arch), replace(CAFFE, crop_px=size_px))


def images(size_px: int, count: int = 4) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, size_px, size_px, 3), np.uint8)


def seen_of(graph: Graph, pixels: Any) -> Any:
    return observe(graph, FloatRunner(graph), pixels, seed=0, threads=1).of()


def sqnr_db(reference: Any, values: Any) -> float:
    noise = np.square(reference.astype(np.float64) - values).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / noise)) if noise else float("inf")


def equalized_by_its_own(graph, seen, scheme=INT8):
    return equalize(graph, seen, channel_factors(graph, seen, scheme))


@pytest.mark.parametrize("scheme", [INT8, INT16X8], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("arch", [*(architecture(name, class_count=9) for name in FAMILY), CUSTOM], ids=lambda arch: arch.name)
def test_equalization_is_exact_in_float(arch: Architecture, scheme: Scheme) -> None:
    graph, pixels = graph_of(arch, 48), images(48)
    equalized, _ = equalized_by_its_own(graph, seen_of(graph, pixels), scheme)
    assert (equalized.convs[0].weight != graph.convs[0].weight).any()
    assert sqnr_db(FloatRunner(graph)(pixels), FloatRunner(equalized)(pixels)) > 110


@cache
def small() -> tuple[Graph, Any, Any]:
    graph, pixels = graph_of(SMALL), images(40, 2)
    return graph, pixels, FloatRunner(graph)(pixels)


def group_factors(graph: Graph, rng: Any) -> dict[str, Any]:
    """One random vector a group, handed on to the concatenated parts."""
    factors = {}
    for group in channel_groups(graph):
        vector = np.exp(rng.uniform(-3, 3, graph.sizes[group[0]][2])).astype(np.float32)
        factors |= dict.fromkeys(group, vector)
    return with_concat_inputs(graph, factors)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_any_factors_change_nothing(seed: int) -> None:
    graph, pixels, expected = small()
    changed = rescale(graph, group_factors(graph, np.random.default_rng(seed)))
    assert sqnr_db(expected, FloatRunner(changed)(pixels)) > 110


@settings(max_examples=20)
@given(st.integers(-3, 3), st.integers(0, 2**32 - 1))
def test_powers_of_two_change_not_one_bit(limit: int, seed: int) -> None:
    graph, pixels, expected = small()
    factors = group_factors(graph, np.random.default_rng(seed))
    whole = {name: np.exp2(np.rint(np.log2(vector) * abs(limit))).astype(np.float32) for name, vector in factors.items()}
    np.testing.assert_array_equal(FloatRunner(rescale(graph, whole))(pixels), expected)


def test_factors_that_are_not_tied_do_change_the_answer() -> None:
    """Negative control: an Add whose operands have different factors."""
    graph, pixels, expected = small()
    factors = group_factors(graph, np.random.default_rng(0))
    factors["fire2/bypass1x1"] = factors["fire2/bypass1x1"] * 2
    assert sqnr_db(expected, FloatRunner(rescale(graph, factors))(pixels)) < 40


def test_no_factors_no_change() -> None:
    graph, _, _ = small()
    for before, after in zip(graph.convs, rescale(graph, {}).convs, strict=True):
        np.testing.assert_array_equal(before.weight, after.weight)


def test_pool_concat_and_add_tie_their_tensors() -> None:
    graph, _, _ = small()
    assert {frozenset(group) for group in channel_groups(graph)} == {
        frozenset({"conv1", "pool1"}),
        frozenset({"fire2/squeeze1x1"}),
        frozenset({"fire3/squeeze1x1"}),
        # fire3 goes around itself with what fire2 made: both Adds, the pool between them and both Concats are one.
        frozenset({"fire2/concat", "fire2/bypass1x1", "fire2/add", "pool2", "fire3/concat", "fire3/add"}),
    }


def test_the_inputs_of_a_concat_share_its_factors() -> None:
    graph, _, _ = small()
    factors = group_factors(graph, np.random.default_rng(0))
    for name, first, count in [("fire2", 3, 5), ("fire3", 4, 4)]:
        joined = factors[f"{name}/concat"]
        assert joined.shape == (first + count,)
        np.testing.assert_array_equal(factors[f"{name}/expand1x1"], joined[:first])
        np.testing.assert_array_equal(factors[f"{name}/expand3x3"], joined[first:])


@pytest.mark.parametrize("arch", [*FAMILY.values(), CUSTOM], ids=lambda arch: arch.name)
def test_every_tensor_has_one_place(arch: Architecture) -> None:
    graph = graph_of(replace(arch, class_count=4), 64)
    groups = channel_groups(graph)
    parts = {name for node in graph.nodes if isinstance(node, Concat) for name in node.inputs}
    places = [name for group in groups for name in group]
    assert sorted(places) == sorted({node.name for node in graph.nodes} - parts - {"conv10", "logits"})
    assert set(group_factors(graph, np.random.default_rng(0))) == {node.name for node in graph.nodes} - {"conv10", "logits"}
    for group in groups:
        assert len({graph.sizes[name][2] for name in group}) == 1


def drawn_convs() -> Callable[[str, str, int, int], Conv]:
    """Makes random convolutions: name, source, channels out and in."""
    draw = np.random.default_rng(5)

    def conv(name: str, source: str, out_channels: int, in_channels: int) -> Conv:
        weight = draw.normal(0, 0.5, (out_channels, in_channels, 3, 3)).astype(np.float32)
        return Conv(name, source, weight, draw.normal(0, 0.5, out_channels).astype(np.float32), (1, 1), (1, 1, 1, 1), True)

    return conv


def joins(nodes: Sequence[Node]) -> Graph:
    taken = TensorSpec("input", ("N", 24, 24, 3), "uint8", "NHWC", 1.0, 0)
    return Graph("joined", tuple(nodes), taken, TensorSpec("logits", ("N", 5), "float32", "NC"), CAFFE, (), "")


def joined_twice() -> Graph:
    """Concats of what another Concat reads too, and of a pool: the input of each is tied to more than one."""
    conv = drawn_convs()
    nodes = (
        conv("first", "input", 4, 3),
        conv("a", "first", 3, 4),
        MaxPool("pool", "a", (3, 3), (1, 1), (1, 1, 1, 1)),
        Concat("pooled", ("a", "pool")),
        conv("b", "pooled", 5, 6),
        Concat("dense", ("pooled", "b")),
        conv("free", "dense", 6, 11),
        conv("c", "free", 4, 6),
        conv("d", "free", 4, 6),
        Concat("plain", ("c", "d")),
        conv("conv10", "plain", 5, 8),
        GlobalAveragePool("logits", "conv10"),
    )
    return joins(nodes)


@pytest.mark.parametrize("scheme", [INT8, INT16X8], ids=lambda scheme: scheme.name)
def test_a_concat_of_concats_hands_its_factors_on(scheme: Scheme) -> None:
    conv = drawn_convs()
    nodes = (
        conv("a", "input", 3, 3),
        conv("b", "input", 4, 3),
        Concat("inner", ("a", "b")),
        conv("c", "inner", 5, 7),
        Concat("outer", ("inner", "c")),
        MaxPool("pool", "outer", (3, 3), (2, 2), (0, 0, 0, 0)),
        conv("conv10", "pool", 5, 12),
        GlobalAveragePool("logits", "conv10"),
    )
    graph, pixels = joins(nodes), images(24)
    assert {frozenset(group) for group in channel_groups(graph)} == {frozenset({"outer", "pool"})}
    seen = seen_of(graph, pixels)
    factors = channel_factors(graph, seen, scheme)
    assert set(factors) == {"a", "b", "c", "inner", "outer", "pool"}
    np.testing.assert_array_equal(np.concatenate([factors[name] for name in ("a", "b", "c")]), factors["pool"])
    equalized, _ = equalized_by_its_own(graph, seen, scheme)
    assert sqnr_db(FloatRunner(graph)(pixels), FloatRunner(equalized)(pixels)) > 110
    assert np.ptp(factors["pool"]) > 0.1


@pytest.mark.parametrize("scheme", [INT8, INT16X8], ids=lambda scheme: scheme.name)
def test_a_tensor_of_two_concats_keeps_its_scale(scheme: Scheme) -> None:
    graph, pixels = joined_twice(), images(24)
    assert {frozenset(group) for group in channel_groups(graph)} == {
        frozenset({"first"}),
        frozenset({"free"}),
        frozenset({"plain"}),
    }
    equalized, _ = equalized_by_its_own(graph, seen_of(graph, pixels), scheme)
    assert sqnr_db(FloatRunner(graph)(pixels), FloatRunner(equalized)(pixels)) > 110
    assert (equalized.convs[-1].weight != graph.convs[-1].weight).any()


def test_observations_are_those_of_the_equalized_graph() -> None:
    graph, pixels, _ = small()
    equalized, carried = equalized_by_its_own(graph, seen_of(graph, pixels))
    for name, again in seen_of(equalized, pixels).items():
        np.testing.assert_allclose(carried[name].highs, again.highs, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(carried[name].patches, again.patches, rtol=1e-3, atol=1e-3)


def test_ranges_come_closer_together() -> None:
    graph, pixels, _ = small()
    before = seen_of(graph, pixels)
    _, after = equalized_by_its_own(graph, before)

    def spread(found: Any) -> float:
        loudest = found["pool1"].highs.max(axis=0)
        return float(loudest.max() / loudest[loudest > 0].min())

    assert spread(after) < spread(before) ** 0.7


def test_factors_have_a_geometric_mean_of_1() -> None:
    graph, pixels, _ = small()
    equalized, _ = equalized_by_its_own(graph, seen_of(graph, pixels))
    ratio = graph.convs[0].weight[:, 0, 1, 1] / equalized.convs[0].weight[:, 0, 1, 1]
    assert np.exp(np.log(ratio).mean()) == pytest.approx(1, rel=1e-4)


def dead(tensors: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Filters 0 of some layers, cut off."""
    for key in keys:
        tensors[f"{key}.weight"][0] = 0
        tensors[f"{key}.bias"][0] = -1
    return tensors


def test_dead_channels_stay_finite_and_do_not_become_loud() -> None:
    graph = graph_of(SMALL, tensors=dead(he_tensors(SMALL), "features.0", "features.3.squeeze"))
    equalized, carried = equalized_by_its_own(graph, seen_of(graph, images(40)))
    for conv in equalized.convs:
        assert np.isfinite(conv.weight).all()
        assert np.isfinite(conv.bias).all()
    assert all(np.isfinite(observation.patches).all() for observation in carried.values())
    factors = graph.convs[0].bias / equalized.convs[0].bias
    assert factors[0] == pytest.approx(factors.max() * SMALLEST_SHARE**0.5, rel=1e-3)


def test_a_dead_tensor_keeps_its_weights() -> None:
    tensors = he_tensors(SMALL)
    tensors["features.3.squeeze.weight"][:] = 0
    tensors["features.3.squeeze.bias"][:] = -1
    graph = graph_of(SMALL, tensors=tensors)
    equalized, carried = equalized_by_its_own(graph, seen_of(graph, images(40)))
    np.testing.assert_array_equal(equalized.convs[1].bias, graph.convs[1].bias)
    assert all(np.isfinite(observation.highs).all() for observation in carried.values())


def test_with_16_bit_activations_a_column_of_small_weights_is_made_larger() -> None:
    """Rounding error is a share of the filter's largest weight: at no cost to it, a small column fills more of the steps."""
    plain = Architecture("plain", 4, 3, (Fire(2, 3, 5),), (0,), 6)
    tensors = he_tensors(plain)
    tensors["classifier.1.weight"][:, 2] /= 50
    graph = graph_of(plain, tensors=tensors)
    equalized, _ = equalized_by_its_own(graph, {}, INT16X8)

    def share(network: Graph) -> float:
        (conv,) = (conv for conv in network.convs if conv.name == "conv10")
        relative = np.abs(conv.weight) / np.abs(conv.weight).max(axis=(1, 2, 3), keepdims=True)
        return float(relative[:, 2].max())

    assert share(graph) < 0.1
    assert share(equalized) > 0.5


def test_columns_of_zeros_are_left_alone() -> None:
    tensors = he_tensors(SMALL)
    tensors["features.3.squeeze.weight"][:, 2] = 0
    tensors["classifier.1.weight"][:] = 0
    graph = graph_of(SMALL, tensors=tensors)
    equalized, _ = equalized_by_its_own(graph, {}, INT16X8)
    assert all(np.isfinite(conv.weight).all() for conv in equalized.convs)
