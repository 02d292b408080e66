"""Where the error comes from: a planted fault is named first, its remedy is tried, and counts are right by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from squeeze_export.analyze import saturation as census
from squeeze_export.analyze.advice import WORTH_DB, advice_for
from squeeze_export.analyze.class_changes import class_change
from squeeze_export.analyze.results import RangeUse
from squeeze_export.analyze.saturation import Counter, TensorCount, range_uses
from squeeze_export.analyze.sensitivity import Sensitivity, Subject, sensitivity_of, subject_of
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import Quantization, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from tests.quantized_networks import changed, cut, drawn, net


def looked_at(quantized: QuantizedGraph) -> tuple[Subject, Sensitivity, dict[str, TensorCount]]:
    graph, _, pixels = drawn()
    subject = subject_of(graph, quantized)
    counter, counted = Counter(subject), {}
    for index, image in enumerate(pixels):
        for name, count in counter(image, f"{index}.jpg").tensors.items():
            counted[name] = counted[name] + count if name in counted else count
    return subject, sensitivity_of(subject, pixels, threads=2), counted


@pytest.mark.parametrize("name", ["fire4/squeeze1x1", "fire6/expand3x3"])
def test_a_planted_fault_is_named_first_with_its_remedy(name: str) -> None:
    graph, quantized, pixels = drawn()
    subject, sensitivity, counted = looked_at(cut(quantized, graph, name, 4))
    assert sensitivity.worst[0] in subject.groups[name]
    assert name in subject.groups[name]
    layers = {layer.name: layer for layer in sensitivity.layers}
    assert layers[sensitivity.worst[0]].gain_db > 3
    first, *others = advice_for(subject, sensitivity, counted, pixels, calibration_count=24, threads=2)
    assert (first.layer, first.cause) == (sensitivity.worst[0], "range too small")
    assert first.gain_db > 10
    few = [one for one in others if one.cause == "few calibration images"]
    assert [one.layer for one in few] == [""]  # 24 are few, and other ranges do help
    assert few[0].gain_db > 10
    use = next(use for use in range_uses(subject, counted) if use.name == sensitivity.worst[0])
    assert use.largest_share > 1.5
    assert use.clipped_high_share > 0
    assert use.clipped_image_count == 3
    assert set(use.most_clipped) == {"0.jpg", "1.jpg", "2.jpg"}


def test_the_table_itself_has_no_such_fault_and_its_advice_is_backed() -> None:
    graph, quantized, pixels = drawn()
    subject, sensitivity, counted = looked_at(quantized)
    assert len(sensitivity.worst) == 3
    assert len(sensitivity.layers) == len(graph.convs) == 26
    assert max(layer.share for layer in sensitivity.layers) < 0.9
    assert sensitivity.whole.sqnr_db < min(sensitivity.weights_alone.sqnr_db, sensitivity.outputs_alone.sqnr_db)
    advice = advice_for(subject, sensitivity, counted, pixels, calibration_count=200, threads=2)
    assert all(one.gain_db >= WORTH_DB for one in advice)
    assert advice[-1].layer == ""
    assert (
        advice[-1].gain_db == max(sensitivity.weights_alone.sqnr_db, sensitivity.outputs_alone.sqnr_db) - sensitivity.whole.sqnr_db
    )
    assert {one.layer for one in advice} <= {*sensitivity.worst, ""}
    again = advice_for(subject, sensitivity_of(subject, pixels, threads=1), counted, pixels, calibration_count=200, threads=1)
    assert again == advice


def test_too_wide_a_range_is_told_from_too_narrow_a_one() -> None:
    _, quantized, pixels = drawn()
    q = quantized.tensors["fire5/squeeze1x1"]
    coarse = replace(quantized, tensors={**quantized.tensors, "fire5/squeeze1x1": Quantization(q.scale * 16, q.zero_point)})
    nodes = tuple(
        replace(n, bias=np.rint(n.bias / 16).astype(np.int32)) if n.inputs == ("fire5/squeeze1x1",) else n for n in coarse.nodes
    )
    subject, sensitivity, counted = looked_at(replace(coarse, nodes=nodes))
    assert sensitivity.worst[0] == "fire5/squeeze1x1"
    first, *_ = advice_for(subject, sensitivity, counted, pixels, calibration_count=200, threads=2)
    assert (first.layer, first.cause) == ("fire5/squeeze1x1", "range too wide")
    assert range_uses(subject, counted)[subject.layers.index("fire5/squeeze1x1")].unused_levels > 200


def test_bad_weights_are_told_from_bad_ranges() -> None:
    _, quantized, pixels = drawn()
    conv = next(conv for conv in quantized.convs if conv.name == "fire6/expand3x3")
    rough = np.rint(conv.weight / 32) * 32
    subject, sensitivity, counted = looked_at(changed(quantized, conv.name, weight=rough.clip(-127, 127).astype(np.int8)))
    assert sensitivity.worst[0] == conv.name
    layer = next(layer for layer in sensitivity.layers if layer.name == conv.name)
    assert layer.weights_share > 10 * layer.output_share
    advice = advice_for(subject, sensitivity, counted, pixels, calibration_count=200, threads=2)
    causes = [one.cause for one in advice if one.layer == conv.name]
    assert causes == ["weights"]
    assert next(one for one in advice if one.layer == conv.name).gain_db > 3


def test_layers_and_groups_of_a_bypass_network() -> None:
    subject = subject_of(*net())
    additions = [node.name for node in subject.graph.nodes if type(node).__name__ == "Add"]
    assert set(additions) < set(subject.layers)
    found = sensitivity_of(subject, np.zeros((1, 48, 48, 3), np.uint8) + np.uint8(90), threads=1)
    for layer in found.layers:
        assert (layer.weights is None) == (layer.name in additions)
        assert layer.name in layer.scale_group


def test_a_scheme_of_16_bits_is_refused() -> None:
    with pytest.raises(BadInput, match="int16x8"):
        subject_of(*net("bypass", "int16x8"))


def one_channel(values: list[float], scale: float = 1.0, zero_point: int = 0) -> Any:
    return census._steps(np.asarray(values, np.float32).reshape(1, 1, -1, 1), Quantization(scale, zero_point))


def test_steps_by_hand() -> None:
    steps = one_channel([0.0, 0.4, 0.6, 254.6, 255.4, 255.6, 1e9, -0.4, -0.6])
    low, high = int(census._below(steps, 0).sum()), int(census._above(steps).sum())
    assert (low, high) == (1, 2)  # -0.6; 255.6 and 1e9: what rounds to the last step is inside
    assert int(steps.sum()) == 9
    signed = one_channel([-5.0, -5.6, 4.4, 126.0], scale=1.0, zero_point=5)
    assert int(census._below(signed, 0).sum()) == 1
    assert int(census._above(one_channel([10.0], 0.04)).sum()) == 0  # 250 steps
    assert int(census._above(one_channel([10.4], 0.04)).sum()) == 1  # 260


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


def test_flips_by_hand() -> None:
    reference = np.asarray([1.0, 3.0, 2.5], np.float32)
    assert class_change(reference, np.asarray([0.0, 2.0, 1.0], np.float32), "a", 1) is None
    flip = class_change(reference, np.asarray([1.0, 2.0, 2.25], np.float32), "a.jpg", None)
    assert flip is not None
    assert (flip.reference_class, flip.int8_class, flip.label, flip.file) == (1, 2, None, "a.jpg")
    assert (flip.reference_margin, flip.int8_margin, flip.margin_lost) == (0.5, -0.25, 0.75)
    assert (flip.reference_class_change, flip.int8_class_change) == (-1.0, -0.25)


def test_of_equal_logits_the_lowest_index_wins() -> None:
    assert class_change(np.asarray([1.0, 2.0], np.float32), np.asarray([2.0, 2.0], np.float32), "a", 0) is not None
    assert class_change(np.asarray([2.0, 1.0], np.float32), np.asarray([2.0, 2.0], np.float32), "a", 0) is None
