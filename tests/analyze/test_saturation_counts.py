"""How outputs fill their ranges: counts that are right by hand, and those of real images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from squeeze_export.analyze.results import RangeUse
from squeeze_export.analyze.saturation import Counter, TensorCount, clipped_counts, range_uses, step_counts
from squeeze_export.analyze.sensitivity import Subject, subject_of
from squeeze_export.graph.quantized import Quantization
from squeeze_export.graph.run import FloatRunner
from tests.quantized_networks import changed, cut, drawn


def one_channel(values: list[float], scale: float = 1.0, zero_point: int = 0) -> Any:
    return step_counts(np.asarray(values, np.float32).reshape(1, 1, -1, 1), Quantization(scale, zero_point))


def test_steps_by_hand() -> None:
    steps = one_channel([0.0, 0.4, 0.6, 254.6, 255.4, 255.6, 1e9, -0.4, -0.6])
    assert clipped_counts(steps, 0) == (1, 2)  # -0.6; 255.6 and 1e9: what rounds to the last step is inside
    assert int(steps.sum()) == 9
    signed = one_channel([-5.0, -5.6, 4.4, 126.0], scale=1.0, zero_point=5)
    assert clipped_counts(signed, 0) == (1, 0)
    assert clipped_counts(one_channel([10.0], 0.04), 0)[1] == 0  # 250 steps
    assert clipped_counts(one_channel([10.4], 0.04), 0)[1] == 1  # 260


def test_dead_channels_and_empty_filters() -> None:
    graph, quantized, pixels = drawn()
    name = "fire3/squeeze1x1"
    nodes = []
    for node in graph.nodes:
        if node.name == name:
            weight, bias = node.weight.copy(), node.bias.copy()
            weight[2], bias[2] = 0, -1  # no weights, and below 0
            bias[5] = -1e6  # never above 0
            node = replace(node, weight=weight, bias=bias)
        nodes.append(node)
    conv = next(conv for conv in quantized.convs if conv.name == name)
    integers = conv.weight.copy()
    integers[[2, 7]] = 0
    subject = subject_of(replace(graph, nodes=tuple(nodes)), changed(quantized, name, weight=integers))
    counted = Counter(subject)(pixels[0], "a.jpg").tensors
    use = use_of(subject, counted, name)
    assert {2, 5} <= set(use.dead_channels)
    assert (use.zero_filters, use.lost_filters) == ((2,), (7,))
    assert use_of(subject, counted, "fire2/squeeze1x1").zero_filters == ()


def use_of(subject: Subject, counted: dict[str, TensorCount], name: str) -> RangeUse:
    return next(use for use in range_uses(subject, counted) if use.name == name)


def test_counts_agree_with_the_values() -> None:
    graph, quantized, pixels = drawn()
    subject = subject_of(graph, cut(quantized, graph, "conv1", 4))
    counted = Counter(subject)
    total = counted(pixels[0], "a.jpg").tensors["conv1"] + counted(pixels[1], "b.jpg").tensors["conv1"]
    values: list[Any] = []
    FloatRunner(subject.graph)(pixels[:2], lambda name, v: values.append(v.copy()) if name == "conv1" else None)
    q = subject.full.outputs["conv1"]
    high = 255 * q.scale
    use = use_of(subject, {"conv1": total}, "conv1")
    clipped = [int((np.rint(v / np.float32(q.scale)) > 255).sum()) for v in values]
    assert use.clipped_high_share == pytest.approx(sum(clipped) / (2 * values[0].size))
    assert use.most_clipped == {name: n for n, name in sorted(zip(clipped, ("a.jpg", "b.jpg"), strict=True), reverse=True) if n}
    assert use.largest_share == pytest.approx(max(v.max() for v in values) / high)
    assert use.mean_largest_share == pytest.approx(np.mean([v.max() for v in values]) / high)
    assert use.p999_share == pytest.approx(np.quantile(np.stack(values), 0.999, method="inverted_cdf") / high, abs=1 / 255)
