"""Mixed precision: which layers to keep in float: by name, by number, or the fewest that keep the drop under a limit.

Layers are ranked by their gain, simulated on some images. Exact runs on all images, which the caller passes as a function, then
find how many of the ranking are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from squeeze_export.analyze.results import ExactEffect, MixedPrecision, RankedLayer, TriedCount
from squeeze_export.analyze.sensitivity import Sensitivity, Subject, gain, spared
from squeeze_export.analyze.simulation import Plan, effects
from squeeze_export.core import ByteArray, Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.quant.mixed import check_keepable, check_mixed_scheme, float_parts, keep_float
from squeeze_export.results import Accuracy

TRIED_ANEW = 0.9
"""Once the chosen layers have removed this share of the error's power, the other layers' gains are measured again beside them."""

Parts = tuple[frozenset[str], frozenset[str]]
"""Convolutions in float, and tensors that are not rounded."""


@dataclass(frozen=True)
class Request:
    """What to keep in float; at most one of the three is set.

    Attributes:
        layers: these layers.
        count: so many layers, the first of the ranking.
        max_drop_pp: as many of the ranking as it takes for the drop's upper bound to be at most this, percentage points.
    """

    layers: tuple[str, ...] = ()
    count: int | None = None
    max_drop_pp: float | None = None

    def __bool__(self) -> bool:
        return bool(self.layers) or self.count is not None or self.max_drop_pp is not None

    def needs_ranking(self, before: Accuracy) -> bool:
        """Whether a ranking is needed, given the accuracy with all layers in integers."""
        if self.max_drop_pp is not None:
            return exact_effect(before).drop_high_pp > self.max_drop_pp
        return self.count is not None


def request_of(graph: Graph, layers: Sequence[str] | int, max_drop_pp: float | None) -> Request:
    """Reads a request, and refuses one that cannot succeed before any work is done.

    Args:
        graph: the network.
        layers: names, or how many; empty if neither was requested.
        max_drop_pp: percentage points, above 0.

    Raises:
        BadInput: both at once, no such layer, a number out of range, a drop of a network with one output.
    """
    if max_drop_pp is not None:
        if layers:
            raise BadInput("--max-drop finds the layers itself", hint="leave out --keep-float, or --max-drop")
        if not 0 < max_drop_pp < 100:  # NaN neither
            raise BadInput(f"--max-drop `{max_drop_pp:g}` is outside 0 to 100 percentage points", hint="--max-drop 1")
        if graph.output.shape[1] == 1:
            raise BadInput("--max-drop is of the right classes, and the network has one output", hint="--keep-float 1, 2 ...")
        return Request(max_drop_pp=max_drop_pp)
    if isinstance(layers, int):
        if layers < 1:
            raise BadInput(f"--keep-float `{layers}` is neither a layer nor a number of layers", hint="--keep-float 1")
        return Request(count=layers)
    check_keepable(graph, layers)
    return Request(tuple(dict.fromkeys(layers)))


def ranking(
    subject: Subject, sensitivity: Sensitivity, pixels: ByteArray, *, threads: int, progress: Progress = silent
) -> tuple[RankedLayer, ...]:
    """Orders the layers by their gain.

    Each layer is tried together with whatever must then compute in float too. The first one is the layer that removes the largest
    share of the error's power per convolution in float. Each next one does so per further convolution, since a layer whose
    neighbours are in float already costs little. Whenever the chosen layers have removed most of the error, the others are tried
    again beside them.

    Args:
        subject: from `subject_of`.
        sensitivity: of these pixels. If two layers put the same parts in float, the one with the larger share is listed.
        pixels: (N, H, W, 3) uint8, N at least 1.
        threads: images in flight.
        progress: told of the images.

    Returns:
        The layers, each of which adds something to those before it, while a convolution is left in integers.
    """
    chosen: list[RankedLayer] = []
    names: list[str] = []
    gains: dict[str, float] = {}
    beside, won = 0, 0.0
    while left := _left(subject, sensitivity, names):
        if not chosen or won >= TRIED_ANEW:
            gains = _gains(subject, names, list(left), pixels, threads, progress)
            beside, won = len(chosen), 0.0
        before = float_parts(subject.graph, names)[0]
        name = max((name for name in left if name in gains), key=lambda name: power_won(gains[name]) / _cost(left[name], before))
        added = tuple(conv.name for conv in subject.graph.convs if conv.name in left[name][0] - before)
        chosen.append(RankedLayer(name, gains[name], beside, added))
        names.append(name)
        won += power_won(gains[name])
    return tuple(chosen)


def power_won(gain_db: float) -> float:
    """The share of the error's power that a gain removes: 1 is all of it, below 0 it adds some."""
    return float(1 - 10 ** (-gain_db / 10))


def _left(subject: Subject, sensitivity: Sensitivity, names: Collection[str]) -> dict[str, Parts]:
    """Layer -> its parts; only of layers that add something and leave something in integers."""
    convs, tensors = float_parts(subject.graph, names)
    found: dict[str, Parts] = {}
    for layer in sorted(sensitivity.layers, key=lambda layer: -layer.share):
        own = float_parts(subject.graph, [layer.name])
        adds = not (own[0] <= convs and own[1] <= tensors)
        if adds and len(own[0] | convs) < len(subject.graph.convs) and own not in found.values():
            found[layer.name] = own
    return found


def _gains(
    subject: Subject, names: list[str], left: list[str], pixels: ByteArray, threads: int, progress: Progress
) -> dict[str, float]:
    """The gain of each of the layers left, in dB, beside the named ones."""
    plans = [_plan(subject, names), *(_plan(subject, [*names, name]) for name in left)]
    what = f"trying layers in float beside {len(names)}"
    whole, *found = effects(subject.simulator, subject.full, plans, pixels, threads=threads, what=what, progress=progress)
    return {name: gain(effect, whole) for name, effect in zip(left, found, strict=True)}


def _plan(subject: Subject, names: Collection[str]) -> Plan:
    convs, tensors = float_parts(subject.graph, names)
    return spared(subject.full, weights=tuple(convs), outputs=tuple(tensors))


def _cost(own: Parts, before: frozenset[str]) -> int:
    """How many more convolutions compute in float; 1 for an addition that needs none."""
    return max(len(own[0] - before), 1)


def mixed_precision(
    graph: Graph,
    quantized: QuantizedGraph,
    request: Request,
    ranked: Sequence[RankedLayer],
    before: Accuracy,
    run: Callable[[QuantizedGraph], Accuracy],
) -> tuple[MixedPrecision, QuantizedGraph]:
    """Chooses the layers and runs the network with them in float; every figure is of an exact run.

    The fewest layers for a limit are found by bisection, as if each further layer lowered the drop: with them the limit holds, with
    one fewer it does not.

    Args:
        graph: the float graph that the table was made from.
        quantized: the table, all in integers.
        request: what is asked for.
        ranked: from `ranking`; empty where the request has no need of it.
        before: the exact run with all layers in integers.
        run: an exact run of a table on the same images.

    Returns:
        What is kept, and the table; where the bound is not reached, the one with the lowest upper bound.

    Raises:
        BadInput: more layers than the ranking has, a scheme without floats.
    """
    check_mixed_scheme(quantized.scheme)
    tried = {0: exact_effect(before)}
    named = request.layers or tuple(one.layer for one in ranked)

    def effect(count: int) -> ExactEffect:
        if count not in tried:
            tried[count] = exact_effect(run(keep_float(graph, quantized, named[:count])))
        return tried[count]

    reached: bool | None = None
    if request.max_drop_pp is not None:
        count, reached = fewest_layers(effect, len(named), request.max_drop_pp)
    else:
        count = len(named) if request.count is None else request.count
        if count > len(named):
            raise BadInput(
                f"`{count}` layers are too many: with the first `{len(named) + 1}` in float nothing would be left in integers",
                hint=f"--keep-float {len(named)}",
            )
    after = effect(count)
    mixed = keep_float(graph, quantized, named[:count])
    kept = MixedPrecision(
        max_drop_pp=request.max_drop_pp,
        reached=reached,
        drop_of="top-1" if before.labelled_count else "agreement",
        layers=named[:count],
        convs=mixed.kept_float,
        conv_count=len(graph.convs),
        before=tried[0],
        after=after,
        ranking=tuple(ranked),
        tried=tuple(TriedCount(number, tried[number]) for number in sorted(tried)) if reached is not None else (),
    )
    return kept, mixed


def exact_effect(accuracy: Accuracy) -> ExactEffect:
    """The drop is of top-1 if images are labelled, else of the agreement."""
    delta, agreement = accuracy.top1_delta_pp, accuracy.top1_agreement
    if delta is not None:
        drop = (-delta.value, -delta.high, -delta.low)
    else:
        drop = (100 * (1 - agreement.value), 100 * (1 - agreement.high), 100 * (1 - agreement.low))
    drop_pp, low_pp, high_pp = (value + 0.0 for value in drop)  # 0.0, not -0.0
    return ExactEffect(accuracy.sqnr_db, agreement.value, drop_pp, low_pp, high_pp, accuracy.error)


def fewest_layers(effect: Callable[[int], ExactEffect], most: int, max_drop_pp: float) -> tuple[int, bool]:
    """The smallest number of layers with which the limit holds, found by bisection.

    Args:
        effect: gives the effect of an exact run with so many layers in float.
        most: layers that could be in float.
        max_drop_pp: the limit of the drop's upper bound, percentage points.

    Returns:
        The number, and whether the limit holds; if no number that was tried meets it, the one with the lowest upper bound.
    """
    found = {0: effect(0).drop_high_pp}
    low, high = 0, most
    if found[0] <= max_drop_pp:
        return 0, True
    while high - low > 1:
        middle = (low + high) // 2
        found[middle] = effect(middle).drop_high_pp
        low, high = (low, middle) if found[middle] <= max_drop_pp else (middle, high)
    found[high] = effect(high).drop_high_pp
    if found[high] <= max_drop_pp:
        return high, True
    return min(found, key=lambda number: (found[number], number)), False
