"""What a quantizer works from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from squeeze_export.core import ByteArray, Progress, silent
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import Scheme
from squeeze_export.quant.observations import Observation


@dataclass(frozen=True, eq=False)
class Material:
    """A network, calibration images, and how to quantize the one with the others.

    Attributes:
        graph: the float graph.
        seen: what calibration observed of it.
        pixels: (N, H, W, 3) uint8, the calibration images.
        weights: N, how often each image counts.
        seed: of everything random.
        threads: cores to use.
        scheme: how the integers are to be carried.
        progress: told of the steps.
    """

    graph: Graph
    seen: Mapping[str, Observation]
    pixels: ByteArray
    weights: tuple[int, ...]
    seed: int
    threads: int
    scheme: Scheme
    progress: Progress = silent
