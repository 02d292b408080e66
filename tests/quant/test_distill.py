"""Distillation: what runs is what is written, scales learn, worse results are thrown away, the same seed gives the same table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from squeeze_export.graph import trainable
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import SCHEMES, Quantization, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.torch_network import torch_network
from squeeze_export.quant import distill as module
from squeeze_export.quant.distill import DISTILLATION, distill, growths_of
from squeeze_export.quant.material import Material
from squeeze_export.quant.recipes import quantize
from tests.quantized_networks import changed, images, net, sqnr_db

torch = pytest.importorskip("torch")

COUNT = 32


@pytest.fixture(autouse=True)
def few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPDATES", 12)


def many() -> Any:
    return images(COUNT)


def distilled(start: QuantizedGraph, graph: Graph, **changes: Any) -> QuantizedGraph:
    return distill(start, replace(Material(graph, {}, many(), (1,) * COUNT, 0, 1, start.scheme), **changes))


def squeezed(start: QuantizedGraph, graph: Graph, name: str, by: float) -> QuantizedGraph:
    """The table with one tensor's range made so much smaller; biases that stand on it follow."""
    tensors = dict(start.tensors)
    tensors[name] = Quantization(float(np.float32(tensors[name].scale / by)), tensors[name].zero_point)
    result = replace(start, tensors=tensors)
    for conv in start.convs:
        if conv.input == name:
            result = changed(result, conv.name, bias=np.rint(conv.bias * by).astype(np.int32))
    return result


@pytest.mark.parametrize("scheme", ["int8", "int8-symmetric", "int8-per-tensor"])
def test_grown_scales_run_as_the_table_that_is_written(scheme: str) -> None:
    graph, quantized = net("bypass", scheme)
    shadows, growths = trainable.shadows_of(quantized), growths_of(quantized, graph)
    with torch.no_grad():
        for index, growth in enumerate(dict.fromkeys(growths.values())):
            growth.fill_(0.1 * (-1) ** index)
        logits = trainable.integer_logits(quantized, shadows, trainable.to_tensor(images()), growths).numpy()
    written = trainable.integers_of(quantized, shadows, growths)
    assert written.tensors != quantized.tensors
    # A product on a rounding boundary may fall on the other side: the scales that are written are rounded to float32.
    assert sqnr_db(logits, IntegerRunner(written)(images())) > 50


def test_a_scale_group_grows_as_one_and_sums_stay_exact() -> None:
    graph, quantized = net("bypass")
    growths = growths_of(quantized, graph)
    assert growths["fire2/concat"] is growths["fire2/expand1x1"]
    assert not {graph.input.name, "conv10"} & set(growths)


def test_the_gradient_of_a_scale_points_down() -> None:
    graph, start = net("bypass")
    tight = squeezed(start, graph, "fire2/squeeze1x1", 3)
    shadows, growths = trainable.shadows_of(tight), growths_of(tight, graph)
    pixels = trainable.to_tensor(images())
    expected = torch_network(graph)(pixels)
    (trainable.integer_logits(tight, shadows, pixels, growths) - expected).square().sum().backward()
    assert growths["fire2/squeeze1x1"].grad < 0  # a larger scale would lower the error


def test_a_range_that_is_too_small_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCALE_RATE", 0.1)
    graph, start = net("bypass")
    tight = squeezed(start, graph, "fire2/squeeze1x1", 2)
    before, after = tight.tensors["fire2/squeeze1x1"].scale, distilled(tight, graph).tensors["fire2/squeeze1x1"].scale
    assert after > 1.2 * before
    reference = FloatRunner(graph)(many())
    errors = [sqnr_db(reference, IntegerRunner(table)(many())) for table in (tight, distilled(tight, graph))]
    assert errors[1] > errors[0] + 3


def test_what_does_harm_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHIFT_RATE", 1000.0)
    graph, start = net("bypass")
    found = distilled(start, graph)
    assert (found.nodes, found.tensors) == (start.nodes, start.tensors)
    told = found.provenance[DISTILLATION]
    assert not told["kept"]
    assert told["error_after"] > told["error_before"] > 0
    assert told["held_out_count"] == COUNT // module.HELD_OUT


def test_too_few_images_to_hold_any_out() -> None:
    graph, start = net("bypass")
    few = module.FEWEST_IMAGES - 1
    found = distilled(start, graph, pixels=many()[:few], weights=(1,) * few)
    assert (found.nodes, found.tensors) == (start.nodes, start.tensors)
    assert found.provenance[DISTILLATION] == {"kept": False, "held_out_count": 0, "error_before": 0.0, "error_after": 0.0}


def test_an_image_that_counts_more_counts_in_the_updates_and_in_what_is_held_out() -> None:
    graph, start = net("bypass")
    tight = squeezed(start, graph, "fire2/squeeze1x1", 2)
    plain, heavy = (distilled(tight, graph, weights=(1,) * 16 + (n,) * 16) for n in (1, 5))
    assert any((a.bias != b.bias).any() for a, b in zip(plain.convs, heavy.convs, strict=True))
    assert plain.provenance[DISTILLATION]["error_before"] != heavy.provenance[DISTILLATION]["error_before"]


@pytest.mark.parametrize(("scheme", "distills"), [("int8", True), ("int8-npu", True), ("int16x8", False)])
def test_the_recipe_distills_8_bit_activations(scheme: str, distills: bool) -> None:
    graph, _ = net("bypass")
    heard = set()
    settings: Any = {"recipe": "best", "progress": lambda what, done, total: heard.add(what)}
    table = quantize(graph, many(), FloatRunner(graph), SCHEMES[scheme], **settings)
    assert ("distilling" in heard) == distills == (DISTILLATION in table.provenance)
    if distills:
        told = table.provenance[DISTILLATION]
        assert told["held_out_count"] == 2
        assert told["kept"] == (told["error_after"] < told["error_before"])


def test_the_same_seed_gives_the_same_table() -> None:
    graph, start = net("bypass")
    tight = squeezed(start, graph, "fire2/squeeze1x1", 2)
    first, second, other = (replace(distilled(tight, graph, seed=seed), provenance={}).sha256 for seed in (0, 0, 1))
    assert first == second != other


def test_weights_stay_and_progress_hears_of_every_update() -> None:
    heard = []
    graph, start = net("bypass")
    tight = squeezed(start, graph, "fire2/squeeze1x1", 2)
    made = distilled(tight, graph, progress=lambda what, done, total: heard.append((what, done, total)))
    assert heard == [("distilling", done, 12) for done in range(13)]
    assert any((a.bias != b.bias).any() for a, b in zip(made.convs, tight.convs, strict=True))
    for before, after in zip(tight.convs, made.convs, strict=True):
        np.testing.assert_array_equal(after.weight, before.weight)
        np.testing.assert_array_equal(after.weight_scale, before.weight_scale)
