"""The cross-target table: what is alike, and where a file that is not alike parts."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from squeeze_export.errors import Refused
from squeeze_export.graph.quantized import INT8
from squeeze_export.pipeline import RunOptions, export
from squeeze_export.pipeline.comparison import INTEGER_RUN, ComparedPart, Comparison
from squeeze_export.pipeline.sessions import entries_of, opened

FAST = RunOptions(rounds=2)
PIXELS = np.random.default_rng(3).integers(0, 256, (6, 32, 32, 3), np.uint8)


def compared(quantized, artifacts):
    entries = entries_of(artifacts, RunOptions())
    table = Comparison(quantized, entries)
    with opened(entries, FAST) as outcomes, ThreadPoolExecutor(2) as pool:
        for part in (PIXELS[:4], PIXELS[4:]):
            outputs = {outcome.entry.key: outcome.session.infer(part) for outcome in outcomes}
            table.add(ComparedPart(part, np.full(len(part), -1), np.zeros((len(part), 5), np.float32), outputs, pool))
        return table.differences(outcomes)


def test_the_same_integers_are_alike(quantized, made):
    found = compared(quantized, [made["onnx", "int8"], made["tflite", "int8"]])
    assert [(d.first, d.second) for d in found] == [
        (INTEGER_RUN, "onnx on onnxruntime"),
        (INTEGER_RUN, "tflite on litert"),
        ("onnx on onnxruntime", "tflite on litert"),
    ]
    assert [d.count for d in found] == [6, 6, 6]
    assert [d.top1_agreement for d in found] == [1, 1, 1]
    assert max(d.largest_steps for d in found) < 1e-3
    assert [d.first_layer for d in found] == ["", "", None]


@pytest.mark.parametrize("name", ["fire2/squeeze1x1", "conv10"])
@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_the_layer_that_differs_is_named(quantized, made, target, name, tmp_path):
    """The negative control: one layer's bias moved by three of its output's steps, in one of the files."""
    conv = next(conv for conv in quantized.convs if conv.name == name)
    steps = 3 * quantized.tensors[name].scale / (quantized.tensors[conv.input].scale * conv.weight_scale)
    wrong = replace(conv, bias=conv.bias + np.rint(steps).astype(np.int32))
    nodes = tuple(wrong if node is conv else node for node in quantized.nodes)
    other = "tflite" if target == "onnx" else "onnx"
    broken, _ = export(replace(quantized, nodes=nodes), target, INT8, tmp_path, name="broken")
    found = {d.second: d for d in compared(quantized, [made[other, "int8"], broken])[:2]}
    assert [found[key].first_layer for key in sorted(found)] == ([name, ""] if target == "onnx" else ["", name])
    assert max(d.largest_steps for d in found.values()) > 0.5


def test_a_runtime_that_cannot_show_its_values_leaves_the_layer_open(quantized, made, monkeypatch):
    def refuse(*_):
        raise Refused("no such tensor")

    monkeypatch.setattr("squeeze_export.runtimes.onnxruntime.inner_values", refuse)
    found = compared(quantized, [made["onnx", "int8"], made["tflite", "int8"]])
    assert [d.first_layer for d in found] == [None, "", None]


def test_a_file_that_is_emulated_is_called_so(quantized, made):
    found = compared(quantized, [made["onnx", "int8"], made["coreml", "int8"]])
    assert found[1].second == "coreml on coreml-evaluator (emulated)"
    assert found[1].largest_steps < 2
    assert found[2].second == "coreml on coreml-evaluator (emulated)"
