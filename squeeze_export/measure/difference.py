"""How much two runs of the same integers differ, and from which layer on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from squeeze_export.core import ByteArray, FloatArray
from squeeze_export.graph.integer import IntegerRunner, Integers, Values
from squeeze_export.graph.nodes import GlobalAveragePool
from squeeze_export.graph.quantized import Quantization, Scheme

ROUNDING_STEPS = 1
"""Runtimes that round halves differently, or multiply in another order, differ by one step; two steps are an error."""
FLOAT_TOLERANCE = 5e-3
"""For a layer kept in float, as a share of its largest value: a runtime may compute it in bfloat16, whose values are 2^-8 apart."""


@dataclass(frozen=True)
class Gap:
    """The sums that compare two runs; `widened` adds a batch.

    Attributes:
        count: images so far.
        same_top1: images with the same top-1 class; of equal logits the lowest index counts.
        largest: largest difference of a logit.
    """

    count: int = 0
    same_top1: int = 0
    largest: float = 0.0


def widened(gap: Gap, first: FloatArray, second: FloatArray) -> Gap:
    """Adds a batch.

    Args:
        gap: of the batches before; `Gap()` to begin.
        first: (N, classes) float32 logits of one run.
        second: likewise of the other.
    """
    if not len(first):
        return gap
    same = int((first.argmax(axis=1) == second.argmax(axis=1)).sum())
    largest = float(np.abs(first.astype(np.float64) - second).max())
    return Gap(gap.count + len(first), gap.same_top1 + same, max(gap.largest, largest))


def first_layer_apart(runner: IntegerRunner, pixels: ByteArray, values: Mapping[str, FloatArray]) -> str:
    """The first layer of a file whose output differs from the integer run's.

    The integer run of each layer starts from the file's own inputs of that layer, so errors of earlier layers do not count.

    Args:
        runner: the integer run of the table that the file was written from.
        pixels: (1, H, W, 3) uint8: the image.
        values: node name -> (1, H, W, C) float32 real values: the outputs of the file's operators for that image.

    Returns:
        A node's name; empty if every layer is within `ROUNDING_STEPS` of the integer run, or in float within `FLOAT_TOLERANCE`.

    Raises:
        KeyError: a node's values are missing.
    """
    quantized = runner.quantized
    given: dict[str, Values] = {quantized.input.name: pixels}
    for node in quantized.nodes:
        if isinstance(node, GlobalAveragePool):
            break
        q, allowed = quantized.tensors.get(node.name), float(ROUNDING_STEPS)
        given[node.name] = values[node.name] if q is None else _integers(values[node.name], q, quantized.scheme)
        expected = runner.step(node, given).astype(np.float64)
        if q is None:
            allowed = FLOAT_TOLERANCE * float(np.abs(expected).max())
        if np.abs(given[node.name] - expected).max() > allowed:
            return node.name
    return ""


def _integers(real: FloatArray, q: Quantization, scheme: Scheme) -> Integers:
    rounded = np.clip(np.rint(real / np.float32(q.scale)) + q.zero_point, 0, scheme.levels)
    steps: Integers = rounded.astype(np.uint8 if scheme.activation_bits == 8 else np.uint16)
    return steps
