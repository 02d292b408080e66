"""The cross-target table: files of several formats that hold the same integers, against the integer run and each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Artifact, ByteArray, FloatArray, Progress, Session, silent
from squeeze_export.errors import SqueezeExportError
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.graph.run import run_each
from squeeze_export.measure.difference import Gap, first_layer_apart, widened
from squeeze_export.pipeline.sessions import Entry, Key, Outcome
from squeeze_export.registry import RUNTIMES
from squeeze_export.results import Difference
from squeeze_export.runtimes import runtime_named

INTEGER_RUN = "integer run"
NO_STEPS = "the files are not compared with each other: with the last convolution in float their logits have no steps to count in"


def has_steps(quantized: QuantizedGraph) -> bool:
    """Whether the logits are made of integers, so that differences can be counted in their steps."""
    return quantized.nodes[-1].inputs[0] in quantized.tensors


@dataclass(frozen=True, eq=False)
class ComparedPart:
    """The images of a batch that emulated devices run too, and their logits.

    Attributes:
        pixels: (N, H, W, 3) uint8.
        labels: (N,) int64, -1 where unknown.
        reference: (N, classes) float32 logits of the fp32 reference.
        outputs: the same of every session.
        pool: runs images side by side.
    """

    pixels: ByteArray
    labels: NDArray[np.int64]
    reference: FloatArray
    outputs: Mapping[Key, FloatArray]
    pool: Executor


class Comparison:
    """Collects, batch by batch, how far the integer files of a job are apart.

    Args:
        quantized: the table, one that `has_steps`.
        entries: those of the job that were written from it; the others are not compared.
    """

    def __init__(self, quantized: QuantizedGraph, entries: Sequence[Entry]) -> None:
        self._runner = IntegerRunner(quantized)
        self._entries = list(entries)
        self._gaps: dict[tuple[Key | None, Key], Gap] = {}
        self._image: ByteArray | None = None

    def add(self, part: ComparedPart) -> None:
        """Adds images; outputs of other entries are ignored."""
        pixels, outputs = part.pixels, part.outputs
        exact = run_each(part.pool, self._runner, pixels)
        logits: dict[Key | None, FloatArray] = {None: exact}
        logits |= {entry.key: outputs[entry.key] for entry in self._entries if entry.key in outputs}
        for first, second in combinations(logits, 2):
            if second is not None:
                gap = self._gaps.get((first, second), Gap())
                self._gaps[first, second] = widened(gap, logits[first], logits[second])
        if self._image is None:
            self._image = pixels[:1].copy()

    def differences(self, outcomes: Sequence[Outcome], progress: Progress = silent) -> tuple[Difference, ...]:
        """The table: every file against the integer run, then the files against each other.

        Args:
            outcomes: with the sessions that gave the outputs; the name of one that emulates says so.
            progress: told of the files whose layers were compared.
        """
        sessions = {outcome.entry.key: outcome.session for outcome in outcomes if outcome.session is not None}
        quantized = self._runner.quantized
        step = quantized.tensors[quantized.nodes[-1].inputs[0]].scale
        names = {entry.key: _name(entry, sessions[entry.key]) for entry in self._entries if entry.key in sessions}
        first_layers: dict[Key, str | None] = {}
        for entry in (entry for entry in self._entries if entry.key in names):
            progress("comparing layers", len(first_layers), len(names))
            first_layers[entry.key] = self._first_layer(entry.artifact, sessions[entry.key])
        progress("comparing layers", len(names), len(names))
        return tuple(
            Difference(
                INTEGER_RUN if first is None else names[first],
                names[second],
                gap.count,
                gap.largest / step,
                gap.same_top1 / gap.count,
                first_layers[second] if first is None else None,
            )
            for (first, second), gap in sorted(self._gaps.items(), key=lambda item: item[0][0] is not None)
            if (first is None or first in names) and second in names
        )

    def _first_layer(self, artifact: Artifact, session: Session) -> str | None:
        """On one image; None if the runtime cannot show its inner values, or ran elsewhere than on the CPU."""
        assert self._image is not None
        if session.device != "cpu" or session.runtime not in RUNTIMES:
            return None
        names = [node.name for node in self._runner.quantized.nodes[:-1]]
        try:
            values = runtime_named(session.runtime).inner_values(artifact, names, self._image)
        except SqueezeExportError:
            return None
        return first_layer_apart(self._runner, self._image, values)


def _name(entry: Entry, session: Session) -> str:
    how = "" if session.evidence == "measured" else f" ({session.evidence})"
    where = session.runtime if session.device == "cpu" else f"{session.runtime}, {session.device}"
    return f"{entry.artifact.target} on {where}{how}"
