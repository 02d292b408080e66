"""The torch module is the graph, and the vendors' tools take its pools also where the last window overhangs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import EmitOptions
from squeeze_export.files import write_draft
from squeeze_export.graph.nodes import Add, Graph, MaxPool, Node
from squeeze_export.graph.quantized import FP32
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.torch_network import torch_network
from squeeze_export.peers import Source
from squeeze_export.registry import PEERS
from squeeze_export.targets import target_named
from tests.contract.conftest import VARIANTS, net
from tests.peers.conftest import Product, peer_module
from tests.peers.test_mean_outside import PREPROCESSES, drawn, small

OVERHANGING_PX = 37
"""conv1 makes 18 of it: the last window of the pool behind it reaches one pixel too far."""


def torch_logits(torch: Any, module: Any, pixels: Any) -> Any:
    with torch.no_grad():
        return module(torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))).numpy()


def graph_of(name: str) -> Graph:
    return small(PREPROCESSES["rgb"], OVERHANGING_PX) if name == "overhanging" else net(name).graph


@pytest.mark.parametrize("name", [*VARIANTS, "overhanging"])
def test_the_module_is_the_graph(name: str) -> None:
    torch, graph = pytest.importorskip("torch", reason="torch is not installed"), graph_of(name)
    pixels = drawn(OVERHANGING_PX) if name == "overhanging" else net(name).pixels
    np.testing.assert_allclose(torch_logits(torch, torch_network(graph), pixels), FloatRunner(graph)(pixels), rtol=1e-3, atol=1e-3)


def test_windows_pads_and_additions_of_every_form() -> None:
    torch, graph = pytest.importorskip("torch", reason="torch is not installed"), net("complex").graph

    def other(node: Node) -> Node:
        if isinstance(node, Add):
            return replace(node, relu=True)
        if isinstance(node, MaxPool):
            return replace(node, kernel=(3, 2), strides=(1, 2), pads=(1, 0, 0, 1))
        return replace(node, weight=node.weight[..., :2], strides=(2, 1), pads=(0, 2, 1, 0)) if node is graph.convs[0] else node

    changed = replace(graph, nodes=tuple(map(other, graph.nodes)))
    pixels = drawn(int(graph.input.shape[1]))
    found, expected = torch_logits(torch, torch_network(changed), pixels), FloatRunner(changed)(pixels)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(expected - FloatRunner(graph)(pixels)).max() > 0.01 * np.abs(expected).max()  # the change is one


def test_it_matters_how_a_pool_rounds() -> None:
    """Negative control."""
    torch, graph = pytest.importorskip("torch", reason="torch is not installed"), graph_of("overhanging")
    pixels, module = drawn(OVERHANGING_PX), torch_network(graph)
    module.get_submodule("pool1").ceil_mode = False
    found, expected = torch_logits(torch, module, pixels), FloatRunner(graph)(pixels)
    assert np.abs(found - expected).max() > 0.01 * np.abs(expected).max()


def sqnr_db(expected: Any, found: Any) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(expected - found).sum()))


@pytest.mark.parametrize("target", PEERS)
def test_a_product_with_overhanging_pools_answers_as_the_reference(target: str, tmp_path: Path) -> None:
    peer, module = peer_module(target), target_named(target)
    graph, pixels = graph_of("overhanging"), drawn(OVERHANGING_PX)
    assert any(any(node.pads) for node in graph.nodes if isinstance(node, MaxPool))
    plain, path = tmp_path / f"fp32{module.SUFFIX}", tmp_path / f"vendor{module.SUFFIX}"
    write_draft(plain, module.emit(graph, FP32, EmitOptions(), {}))
    content = peer.quantize(Source(graph, plain, pixels), "vendor")
    write_draft(path, content)
    expected, found = FloatRunner(graph)(pixels), Product(net(), target, content, path).logits(pixels)
    assert sqnr_db(expected, found) > 20
    # Negative control: another image's logits.
    assert sqnr_db(np.roll(expected, 1, axis=0), found) < 20
