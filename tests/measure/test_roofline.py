"""The roofline: the network's work by hand, the machine's roofs from a fake clock."""

from __future__ import annotations

import sys

import pytest

from squeeze_export.graph.costs import node_costs
from squeeze_export.measure.roofline import roofline_of
from squeeze_export.pipeline import open_network


@pytest.fixture(scope="module")
def graph(tiny):
    """The tiny network's."""
    return open_network(tiny / "tiny.safetensors").graph


class Clock:
    """Each try takes another time: 5, 4, 3, 2, 3, 4 ... ms, so the best takes 2."""

    def __init__(self):
        self.now, self.calls = 0, 0

    def __call__(self):
        self.calls += 1
        if self.calls % 2 == 0:
            self.now += 1_000_000 * (2 + abs(self.calls // 2 % 6 - 3))
        return self.now


def test_work_and_roofs(graph):
    found = roofline_of(graph, clock=Clock())
    costs = node_costs(graph)
    assert found.mac_count == sum(cost.mac_count for cost in costs)
    assert found.value_count == sum(cost.bytes_read + cost.bytes_written for cost in costs) / 4
    assert found.memory_gb_s == pytest.approx(2 * 2**26 / 2e6)  # read and written, in 2 ms
    assert found.gmac_s == pytest.approx({"float32": 512 * 1024 * 512 / 2e6, "int8": 512 * 1024 * 512 / 2e6})


def test_conv1_by_hand(graph):
    # 32 px, kernel 3, stride 2: 15 x 15 places, 8 filters of 3 x 3 x 3 weights.
    conv1 = node_costs(graph)[0]
    assert conv1.mac_count == 15 * 15 * 8 * 27
    assert conv1.bytes_read + conv1.bytes_written == 4 * (32 * 32 * 3 + 8 * 27 + 8 + 15 * 15 * 8)


def test_without_onnxruntime_there_is_no_integer_roof(graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert set(roofline_of(graph, clock=Clock()).gmac_s) == {"float32"}


def test_on_the_real_clock_the_roofs_are_those_of_a_machine(graph):
    found = roofline_of(graph)
    assert 0.1 < found.memory_gb_s < 10_000
    assert all(0.1 < rate < 100_000 for rate in found.gmac_s.values())
