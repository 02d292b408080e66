"""Where the error comes from: a planted fault is named first, its remedy is tried, and causes are told apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from squeeze_export.analyze.advice import WORTH_DB, advice_for
from squeeze_export.analyze.saturation import Counter, TensorCount, range_uses
from squeeze_export.analyze.sensitivity import Sensitivity, Subject, sensitivity_of, subject_of
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import Quantization, QuantizedGraph
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
