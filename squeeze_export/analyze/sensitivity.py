"""Where the integers' error comes from, layer by layer, by running the network with parts of it in integers.

Each layer is tried in three ways: only its weights in integers, only its output, and everything except these two. The first two
measure what it adds to the error, the third what keeping it in float would gain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from squeeze_export.analyze.results import Effect, LayerSensitivity
from squeeze_export.analyze.simulation import Plan, Simulator, effects, full_plan
from squeeze_export.core import ByteArray, Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme
from squeeze_export.quant.equalize import twin
from squeeze_export.quant.ranges import scale_groups

WORST_COUNT = 3


@dataclass(frozen=True, eq=False)
class Subject:
    """What is analysed.

    Attributes:
        graph: the float graph in the table's coordinates (equalized channels).
        quantized: the table.
        simulator: of both.
        full: the plan with everything in integers.
        groups: layer -> the layers whose outputs share its output's scale, itself included, in the network's order.
    """

    graph: Graph
    quantized: QuantizedGraph
    simulator: Simulator
    full: Plan
    groups: Mapping[str, tuple[str, ...]]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers with weights or an own output in integers: convolutions and additions, in the network's order."""
        return tuple(node.name for node in self.graph.nodes if node.name in self.full.weights or node.name in self.full.outputs)


@dataclass(frozen=True)
class Sensitivity:
    """The error and its parts.

    Attributes:
        whole: everything in integers, simulated.
        weights_alone: all weights in integers, all activations in float.
        outputs_alone: the other way round.
        layers: in the network's order.
        worst: the `WORST_COUNT` layers with the largest shares, worst first; fewer if fewer have any.
    """

    whole: Effect
    weights_alone: Effect
    outputs_alone: Effect
    layers: tuple[LayerSensitivity, ...]
    worst: tuple[str, ...]


def check_scheme(scheme: Scheme) -> None:
    """Raises `BadInput` for a scheme whose activations are not 8-bit integers."""
    if not scheme.integer or scheme.activation_bits != 8:
        raise BadInput(f"`analyze` needs 8-bit activations, which the scheme `{scheme.name}` does not have", hint="a table of int8")


def subject_of(graph: Graph, quantized: QuantizedGraph) -> Subject:
    """Brings the float graph into the table's coordinates, and prepares both for simulation.

    Args:
        graph: the float graph that the table was made from.
        quantized: the table, with 8-bit activations.

    Raises:
        BadInput: another scheme, another network, or a table without its equalization factors.
    """
    check_scheme(quantized.scheme)
    equalized = twin(graph, quantized)
    full = full_plan(equalized, quantized)
    groups = scale_groups(equalized)
    members = {name: tuple(other for other in full.outputs if groups[other] == groups[name]) for name in full.outputs}
    return Subject(equalized, quantized, Simulator(equalized, quantized), full, members)


def spared(full: Plan, *, weights: Sequence[str] = (), outputs: Sequence[str] = ()) -> Plan:
    """Everything in integers except these."""
    return Plan(full.weights - set(weights), {name: q for name, q in full.outputs.items() if name not in outputs})


def sensitivity_of(subject: Subject, pixels: ByteArray, *, threads: int, progress: Progress = silent) -> Sensitivity:
    """Tries every layer in the three ways.

    Args:
        subject: from `subject_of`.
        pixels: (N, H, W, 3) uint8, N at least 1.
        threads: images in flight.
        progress: told of the images.
    """
    full = subject.full
    plans = [full, Plan(full.weights), Plan(outputs=full.outputs)]
    for name in subject.layers:
        if name in full.weights:
            plans.append(Plan(frozenset({name})))
        if name in full.outputs:
            plans.append(Plan(outputs={name: full.outputs[name]}))
        plans.append(spared(full, weights=[name], outputs=[name]))
    found = iter(effects(subject.simulator, full, plans, pixels, threads=threads, what="trying layers", progress=progress))
    whole, weights_alone, outputs_alone = next(found), next(found), next(found)
    layers = tuple(_layer(subject, name, whole, found) for name in subject.layers)
    ranked = sorted((layer for layer in layers if layer.share > 0), key=lambda layer: -layer.share)
    return Sensitivity(whole, weights_alone, outputs_alone, layers, tuple(layer.name for layer in ranked[:WORST_COUNT]))


def _layer(subject: Subject, name: str, whole: Effect, found: Iterator[Effect]) -> LayerSensitivity:
    weights = next(found) if name in subject.full.weights else None
    output = next(found) if name in subject.full.outputs else None
    kept = next(found)
    weights_share = _share(weights, whole) if weights else 0.0
    output_share = _share(output, whole) if output else 0.0
    gain_db = gain(kept, whole)
    return LayerSensitivity(name, subject.groups.get(name, ()), weights, output, kept, weights_share, output_share, gain_db)


def _share(part: Effect, whole: Effect) -> float:
    """The error power of a part over that of the whole; 0 if the part has none."""
    if part.sqnr_db == float("inf"):
        return 0.0
    return float(10 ** ((whole.sqnr_db - part.sqnr_db) / 10))


def gain(tried: Effect, whole: Effect) -> float:
    """The gain in SQNR, dB; 0 if both are equal, infinite ones too."""
    return 0.0 if tried.sqnr_db == whole.sqnr_db else tried.sqnr_db - whole.sqnr_db
