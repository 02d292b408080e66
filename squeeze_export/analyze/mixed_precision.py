"""Which layers to put back to float first: those that take most of the error away for each convolution that leaves the integers."""

from __future__ import annotations

from collections.abc import Collection

from squeeze_export.analyze.results import Ranked
from squeeze_export.analyze.sensitivity import Shares, Subject, gain, spared
from squeeze_export.analyze.simulation import Plan, effects
from squeeze_export.core import ByteArray, Progress, silent
from squeeze_export.quant.mixed import float_parts

TRIED_ANEW = 0.9
"""Once the chosen layers have taken this share of the error's power away, what the others win of it says little of what is left."""

Parts = tuple[frozenset[str], frozenset[str]]
"""Convolutions in float, and tensors that are not rounded."""


def ranking(
    subject: Subject, shares: Shares, pixels: ByteArray, *, threads: int, progress: Progress = silent
) -> tuple[Ranked, ...]:
    """Orders the layers by what they win.

    Each layer is tried with whatever then computes in float beside it. The first is the one that takes the largest share of the
    error's power away for each convolution in float; then, in turn, the one that does so for each further one, because a layer
    whose neighbours are in float already is cheap. Whenever the chosen ones have taken most of the error away, the others are
    tried again beside them.

    Args:
        subject: from `analysis.subject_of`.
        shares: of these pixels: of layers that come to the same, the one with more of the error gives its name.
        pixels: (N, H, W, 3) uint8, N at least 1.
        threads: images in flight.
        progress: told of the images.

    Returns:
        as long as a convolution is left in integers; no layer that adds nothing to those before it.
    """
    chosen: list[Ranked] = []
    names: list[str] = []
    gains: dict[str, float] = {}
    beside, won = 0, 0.0
    while left := _left(subject, shares, names):
        if not chosen or won >= TRIED_ANEW:
            gains = _gains(subject, names, list(left), pixels, threads, progress)
            beside, won = len(chosen), 0.0
        before = _parts(subject, names)[0]
        name = max((name for name in left if name in gains), key=lambda name: power_won(gains[name]) / _cost(left[name], before))
        added = tuple(conv.name for conv in subject.graph.convs if conv.name in left[name][0] - before)
        chosen.append(Ranked(name, gains[name], beside, added))
        names.append(name)
        won += power_won(gains[name])
    return tuple(chosen)


def power_won(gain_db: float) -> float:
    """The share of the error's power that a gain takes away: 1 where all, below 0 where it adds some."""
    return float(1 - 10 ** (-gain_db / 10))


def _left(subject: Subject, shares: Shares, names: Collection[str]) -> dict[str, Parts]:
    """Layer -> its parts, of those that add something and leave something in integers."""
    convs, tensors = _parts(subject, names)
    found: dict[str, Parts] = {}
    for layer in sorted(shares.layers, key=lambda layer: -layer.share):
        own = _parts(subject, [layer.name])
        adds = not (own[0] <= convs and own[1] <= tensors)
        if adds and len(own[0] | convs) < len(subject.graph.convs) and own not in found.values():
            found[layer.name] = own
    return found


def _gains(
    subject: Subject, names: list[str], left: list[str], pixels: ByteArray, threads: int, progress: Progress
) -> dict[str, float]:
    """dB won by each of the layers left, beside the named ones."""
    plans = [_plan(subject, names), *(_plan(subject, [*names, name]) for name in left)]
    what = f"trying layers in float beside {len(names)}"
    whole, *found = effects(subject.simulator, subject.full, plans, pixels, threads=threads, what=what, progress=progress)
    return {name: gain(effect, whole) for name, effect in zip(left, found, strict=True)}


def _plan(subject: Subject, names: Collection[str]) -> Plan:
    convs, tensors = _parts(subject, names)
    return spared(subject.full, weights=tuple(convs), outputs=tuple(tensors))


def _parts(subject: Subject, names: Collection[str]) -> Parts:
    return float_parts(subject.graph, names)


def _cost(own: Parts, before: frozenset[str]) -> int:
    """How many more convolutions are in float; 1 of an addition that takes none along."""
    return max(len(own[0] - before), 1)
