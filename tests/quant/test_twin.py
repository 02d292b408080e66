"""The factors in a table, and the float network in its coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.errors import BadInput
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import INT8, SCHEMES, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.table import TABLE_VERSION, read_table, table_bytes
from squeeze_export.quant.equalize import twin
from tests.quantized_networks import changed, images, net, sqnr_db


@pytest.mark.parametrize("name", ["bypass", "squeezenet1_1"])
def test_it_computes_the_same_logits(name: str) -> None:
    graph, quantized = net(name)
    equalized = twin(graph, quantized)
    assert any((a.weight != b.weight).any() for a, b in zip(graph.convs, equalized.convs, strict=True))
    assert sqnr_db(FloatRunner(graph)(images()), FloatRunner(equalized)(images())) > 100


@pytest.mark.parametrize("scheme", [scheme.name for scheme in SCHEMES.values() if scheme.integer])
def test_the_integers_stand_for_its_weights(scheme: str) -> None:
    graph, quantized = net("bypass", scheme)
    equalized = twin(graph, quantized)
    near = [sqnr_db(f.weight, q.weight * q.weight_scale[:, None, None, None]) for f, q in _pairs(equalized, quantized)]
    far = [sqnr_db(f.weight, q.weight * q.weight_scale[:, None, None, None]) for f, q in _pairs(graph, quantized)]
    assert min(near) > 15
    assert min(near) > min(far) + 10  # negative control: the network as it was is no twin


def _pairs(graph: Graph, quantized: QuantizedGraph) -> Any:
    return zip(graph.convs, quantized.convs, strict=True)


def test_the_factors_survive_the_table(tmp_path: Path) -> None:
    _, quantized = net()
    (tmp_path / "a.table").write_bytes(table_bytes(quantized))
    for before, after in zip(quantized.convs, read_table(tmp_path / "a.table").convs, strict=True):
        assert before.factor is not None
        assert after.factor is not None
        assert before.factor.tobytes() == after.factor.tobytes()


def test_a_table_without_factors_reads_but_has_no_twin(tmp_path: Path) -> None:
    graph, quantized = net()
    for conv in quantized.convs:
        quantized = changed(quantized, conv.name, factor=None)
    (tmp_path / "old.table").write_bytes(table_bytes(quantized))
    old = read_table(tmp_path / "old.table")
    assert [conv.factor for conv in old.convs] == [None] * len(old.convs)
    with pytest.raises(BadInput, match="does not store its equalization factors") as refused:
        twin(graph, old)
    assert refused.value.hint == "calibrate again"


@pytest.mark.parametrize("wrong", ["shape", "dtype", "zero", "nan", "negative"])
def test_wrong_factors_are_refused(wrong: str, tmp_path: Path) -> None:
    _, quantized = net()
    factor = quantized.convs[1].factor
    assert factor is not None
    bad: dict[str, Any] = {
        "shape": factor[:-1],
        "dtype": factor.astype(np.float64),
        "zero": factor * 0,
        "nan": factor * np.float32(np.nan),
        "negative": -factor,
    }
    (tmp_path / "a.table").write_bytes(table_bytes(changed(quantized, quantized.convs[1].name, factor=bad[wrong])))
    with pytest.raises(BadInput, match="damaged"):
        read_table(tmp_path / "a.table")


def test_factors_that_contradict_each_other_are_refused() -> None:
    graph, quantized = net()
    bypass = next(conv for conv in quantized.convs if "bypass" in conv.name)
    assert bypass.factor is not None
    with pytest.raises(BadInput, match="adds channels of different factors"):
        twin(graph, changed(quantized, bypass.name, factor=bypass.factor * np.float32(2)))
    last = quantized.convs[-1]
    assert last.factor is not None
    with pytest.raises(BadInput, match="the logits have factors"):
        twin(graph, changed(quantized, last.name, factor=last.factor * np.float32(2)))


def test_another_network_is_refused() -> None:
    graph, _ = net("squeezenet1_1")
    _, quantized = net()
    with pytest.raises(BadInput, match="of another network"):
        twin(graph, quantized)


def test_the_first_version_had_none() -> None:
    assert TABLE_VERSION == 1  # a table without factors is still of this version
    assert INT8.integer
