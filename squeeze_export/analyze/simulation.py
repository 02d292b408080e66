"""Partly quantized runs: any of a network's weights and activations in a table's integers, the rest in float.

Integers are represented by their real values, so a run with everything quantized differs from the exact integer run
(graph/integer.py) only if a float32 sum falls on the other side of a rounding boundary.

A run can start from another run of the same image: layers with the same plan and the same inputs are not computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from squeeze_export.analyze.results import Effect
from squeeze_export.core import ByteArray, FloatArray, Progress
from squeeze_export.graph.nodes import Concat, Graph, MaxPool, Node
from squeeze_export.graph.quantized import Quantization, QuantizedGraph
from squeeze_export.graph.run import Layer, float_step, laid_out, one_blas_thread, weight_matrix
from squeeze_export.graph.weights import real_layer
from squeeze_export.results import sqnr_db


@dataclass(frozen=True)
class Plan:
    """Which parts of the network are in integers.

    Attributes:
        weights: convolutions with the table's weights and bias.
        outputs: node -> the quantization of its output; other outputs stay in float.
    """

    weights: frozenset[str] = frozenset()
    outputs: Mapping[str, Quantization] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Run:
    """A run of one image.

    Attributes:
        plan: what was quantized.
        values: tensor name -> (1, H, W, C) float32; (1, C) after the average pool.
    """

    plan: Plan
    values: Mapping[str, FloatArray]


class Simulator:
    """Runs plans. The weights are prepared once, for all images.

    Args:
        graph: the float graph in the table's coordinates (`equalize.twin`).
        quantized: the table, of a scheme with 8-bit activations.
    """

    def __init__(self, graph: Graph, quantized: QuantizedGraph) -> None:
        self.graph = graph
        self._levels = np.float32(quantized.scheme.levels)
        self._float, self._integer = laid_out(graph), dict[str, Layer]()
        for conv in quantized.convs:
            weight, bias = real_layer(conv, quantized.tensors[conv.input].scale)
            self._integer[conv.name] = weight_matrix(weight), bias

    def __call__(self, image: ByteArray, plan: Plan, start: Run | None = None) -> Run:
        """Runs one image.

        Args:
            image: (H, W, 3) uint8.
            plan: what to quantize.
            start: a run of the same image.
        """
        if start is None:
            values: dict[str, FloatArray] = {self.graph.input.name: image[None].astype(np.float32)}
        else:
            values = {self.graph.input.name: start.values[self.graph.input.name]}
        for node in self.graph.nodes:
            if start is not None and _same(node, plan, start, values):
                values[node.name] = start.values[node.name]
            else:
                values[node.name] = self._step(node, values, plan)
        return Run(plan, values)

    def logits(self, run: Run) -> FloatArray:
        """(classes,)."""
        logits: FloatArray = run.values[self.graph.output.name][0]
        return logits

    def _step(self, node: Node, values: Mapping[str, FloatArray], plan: Plan) -> FloatArray:
        result = float_step(node, values, self._integer if node.name in plan.weights else self._float)
        if node.name in plan.outputs:
            self._quantize(result, plan.outputs[node.name])
        return result

    def _quantize(self, values: FloatArray, q: Quantization) -> None:
        """Rounds real values, in place, to those that their integers represent."""
        zero = np.float32(q.zero_point)
        values /= np.float32(q.scale)
        np.rint(values, out=values)
        np.clip(values, -zero, self._levels - zero, out=values)
        values *= np.float32(q.scale)


def _same(node: Node, plan: Plan, start: Run, values: Mapping[str, FloatArray]) -> bool:
    """Whether the output of `node` is the same as in `start`."""
    before, name = start.plan, node.name
    if (name in plan.weights) != (name in before.weights) or plan.outputs.get(name) != before.outputs.get(name):
        return False
    return all(values[source] is start.values[source] for source in node.inputs)


def full_plan(graph: Graph, quantized: QuantizedGraph) -> Plan:
    """Everything in integers: every convolution, and every tensor at the node that computes it, not at those that only move it."""
    made = [node.name for node in graph.nodes if not isinstance(node, MaxPool | Concat)]
    return Plan(frozenset(conv.name for conv in graph.convs), {n: quantized.tensors[n] for n in made if n in quantized.tensors})


def effects(
    simulator: Simulator, full: Plan, plans: Sequence[Plan], pixels: ByteArray, *, threads: int, what: str, progress: Progress
) -> list[Effect]:
    """Runs every plan on every image and compares the logits with the float network's.

    Args:
        simulator: of the network.
        full: everything in integers; each plan starts from its run or from the float run, whichever is closer.
        plans: what to run.
        pixels: (N, H, W, 3) uint8, N at least 1.
        threads: images in flight.
        what: the name of this work for `progress`.
        progress: told of the images.

    Returns:
        An effect for each plan, in order.
    """
    near_full = [2 * _size(plan) > _size(full) for plan in plans]

    def one(image: ByteArray) -> tuple[float, NDArray[np.float64], NDArray[np.bool_]]:
        plain = simulator(image, Plan())
        whole = simulator(image, full, plain) if any(near_full) else plain
        reference = simulator.logits(plain).astype(np.float64)
        noise, same = np.zeros(len(plans)), np.zeros(len(plans), np.bool_)
        for index, plan in enumerate(plans):
            logits = simulator.logits(simulator(image, plan, whole if near_full[index] else plain))
            noise[index] = np.square(logits - reference).sum()
            same[index] = logits.argmax() == reference.argmax()
        return float(np.square(reference).sum()), noise, same

    signal, noise, same = 0.0, np.zeros(len(plans)), np.zeros(len(plans), np.int64)
    progress(what, 0, len(pixels))
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for done, (power, off, agreed) in enumerate(pool.map(one, pixels), 1):
            signal, noise, same = signal + power, noise + off, same + agreed
            progress(what, done, len(pixels))
    return [Effect(sqnr_db(signal, float(n)), float(s / len(pixels))) for n, s in zip(noise, same, strict=True)]


def _size(plan: Plan) -> int:
    return len(plan.weights) + len(plan.outputs)
