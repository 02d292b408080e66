"""The two sides of a roofline: what an inference asks for, and what one core of this machine gives at best."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from squeeze_export.core import require
from squeeze_export.errors import SqueezeExportError
from squeeze_export.graph.costs import BYTES, node_costs, total
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.run import one_blas_thread
from squeeze_export.results import Roofline

FEWEST_ROUNDS = 20
"""A job that times less than this is not worth the time that the roofs take."""
_TRIES = 12
_COPIED_BYTES = 2**26
"""More than a core's share of any cache."""
_ROWS, _DEPTH, _COLUMNS = 512, 1024, 512


def roofline_of(graph: Graph, *, clock: Callable[[], int] = time.perf_counter_ns) -> Roofline:
    """Counts the network's work, and measures what one core gives: about a quarter of a second.

    Every roof is the best of a dozen tries, since whatever else runs can only lower it.

    Args:
        graph: the fp32 network; its integers have the same operators.
        clock: nanoseconds, monotonic.
    """
    cost = total(node_costs(graph))
    with one_blas_thread():
        memory = 2 * _COPIED_BYTES / _best_ns(_copy(), clock)  # bytes a nanosecond are 10^9 bytes a second
        rates = {name: _ROWS * _DEPTH * _COLUMNS / _best_ns(product, clock) for name, product in _products().items()}
    return Roofline(cost.mac_count, (cost.bytes_read + cost.bytes_written) // BYTES, memory, rates)


def _best_ns(work: Callable[[], object], clock: Callable[[], int]) -> int:
    work()
    times = []
    for _ in range(_TRIES):
        start_ns = clock()
        work()
        times.append(clock() - start_ns)
    return max(min(times), 1)


def _copy() -> Callable[[], object]:
    source = np.ones(_COPIED_BYTES, np.uint8)
    target = np.empty_like(source)
    return lambda: np.copyto(target, source)


def _products() -> dict[str, Callable[[], object]]:
    """float32 by numpy; uint8 times int8 by ONNX Runtime where it is installed."""
    left, right = np.ones((_ROWS, _DEPTH), np.float32), np.ones((_DEPTH, _COLUMNS), np.float32)
    products: dict[str, Callable[[], object]] = {"float32": lambda: left @ right}
    try:
        session = _integer_product()
    except SqueezeExportError:  # the line is then missing, like the package
        return products
    pixels = {"a": left.astype(np.uint8)}
    return products | {"int8": lambda: session.run(None, pixels)}


def _integer_product() -> Any:
    onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", kinds.UINT8, (_ROWS, _DEPTH))],
        [helper.make_tensor_value_info("c", kinds.INT32, (_ROWS, _COLUMNS))],
        [onnx.numpy_helper.from_array(np.ones((_DEPTH, _COLUMNS), np.int8), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
