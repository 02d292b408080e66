"""TensorFlow's converter: which padding has a word there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from squeeze_export.errors import Refused
from squeeze_export.graph.nodes import MaxPool
from squeeze_export.peers import tensorflow
from tests.contract.conftest import net


def test_a_pool_that_tensorflow_has_no_word_for_is_refused() -> None:
    graph = net().graph
    pool = next(node for node in graph.nodes if isinstance(node, MaxPool))
    assert tensorflow._padding(None, replace(pool, pads=(0, 0, 0, 0)), "source", graph) == ("source", "VALID")
    with pytest.raises(Refused, match=f"`{pool.name}`"):
        tensorflow._padding(None, replace(pool, pads=(1, 0, 0, 2)), "source", graph)
