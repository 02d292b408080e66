"""Layers kept in float: by name, by number, or the fewest that keep the drop under a bound; what that wins, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from squeeze_export.analyze.results import ExactEffect, Kept, Ranked, Tried
from squeeze_export.core import FloatArray, Progress
from squeeze_export.errors import BadInput, GateUndecided
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.graph.run import one_blas_thread
from squeeze_export.measure.accuracy import Tally, accuracy_of, tally
from squeeze_export.measure.statistics import wilson
from squeeze_export.pipeline.evaluation import Evaluation
from squeeze_export.quant.mixed import check_keepable, check_mixed_scheme, keep_float
from squeeze_export.results import Accuracy


@dataclass(frozen=True)
class Wish:
    """What is asked for; one of the three at most.

    Attributes:
        layers: by name.
        count: the first of the ranking.
        max_drop_pp: as many of them as it takes for the drop's upper bound to be at most this, percentage points.
    """

    layers: tuple[str, ...] = ()
    count: int | None = None
    max_drop_pp: float | None = None

    def __bool__(self) -> bool:
        return bool(self.layers) or self.count is not None or self.max_drop_pp is not None

    def needs_ranking(self, before: Accuracy) -> bool:
        """Whether it does where all layers in integers have this accuracy."""
        if self.max_drop_pp is not None:
            return exact_effect(before).drop_high_pp > self.max_drop_pp
        return self.count is not None


@dataclass(frozen=True, eq=False)
class Trial:
    """What exact runs are made with.

    Attributes:
        graph: the float graph that the table was made from.
        quantized: the table, all in integers.
        evaluation: all images.
        reference: their float logits, in the stream's order: one (n, classes) float32 array a batch.
        before: the exact run with all layers in integers.
        threads: images in flight.
        progress: told of the images.
    """

    graph: Graph
    quantized: QuantizedGraph
    evaluation: Evaluation
    reference: Sequence[FloatArray]
    before: Accuracy
    threads: int
    progress: Progress


def wish_of(graph: Graph, layers: Sequence[str] | int, max_drop_pp: float | None) -> Wish:
    """Reads what is asked for, and refuses what can be known to fail before any work is done.

    Args:
        graph: the network.
        layers: names, or how many; empty where neither is asked for.
        max_drop_pp: percentage points, above 0.

    Raises:
        BadInput: both at once, no such layer, a number out of range.
    """
    if max_drop_pp is not None:
        if layers:
            raise BadInput("--max-drop finds the layers itself", hint="leave out --keep-float, or --max-drop")
        if not 0 < max_drop_pp < 100:  # NaN neither
            raise BadInput(f"--max-drop `{max_drop_pp:g}` is outside 0 to 100 percentage points", hint="--max-drop 1")
        return Wish(max_drop_pp=max_drop_pp)
    if isinstance(layers, int):
        if layers < 1:
            raise BadInput(f"--keep-float `{layers}` is no layer and no number of layers", hint="--keep-float 1")
        return Wish(count=layers)
    check_keepable(graph, layers)
    return Wish(tuple(dict.fromkeys(layers)))


def check_image_count(count: int, wish: Wish) -> None:
    """Refuses a bound that so few images could not show if not one of them changed its class.

    Raises:
        GateUndecided: they could not.
    """
    if wish.max_drop_pp is None or count < 1:
        return
    least_pp = least_bound_pp(count)
    if least_pp > wish.max_drop_pp:
        raise GateUndecided(
            f"`{count}` images cannot show a drop under {wish.max_drop_pp:g} pp: if none changed its class, the 95% bound would be"
            f" {least_pp:.2f} pp",
            hint=f"--eval with at least {images_needed(wish.max_drop_pp):,} images",
        )


def least_bound_pp(count: int) -> float:
    """The upper 95% bound of the drop where no image changes its class, percentage points.

    With no discordant pair Tango's interval of a paired difference ends where Wilson's of an agreement does, at z^2 / (n + z^2).
    """
    return 100 * (1 - wilson(count, count).low)


def images_needed(max_drop_pp: float) -> int:
    """How many images have a `least_bound_pp` of at most this."""
    share = least_bound_pp(1) / 100
    count = math.ceil(share / (1 - share) * (100 / max_drop_pp - 1))
    return count if least_bound_pp(count) <= max_drop_pp else count + 1


def keep(trial: Trial, wish: Wish, ranking: Sequence[Ranked]) -> tuple[Kept, QuantizedGraph]:
    """Chooses the layers and runs the network with them in float: every figure is of an exact run.

    The fewest for a bound are searched in halves, as if each further layer lowered the drop: with those that are found the bound
    holds, with one fewer it does not.

    Args:
        trial: what to run.
        wish: what is asked for.
        ranking: of `quant.ranking`; empty where `wish` has no need of it.

    Returns:
        What is kept, and the table; where the bound is not reached, the one with the lowest upper bound.

    Raises:
        BadInput: more layers than the ranking has, a scheme without floats.
    """
    check_mixed_scheme(trial.quantized.scheme)
    before = exact_effect(trial.before)
    tried = {0: before}
    named = wish.layers or tuple(one.layer for one in ranking)

    def run(count: int) -> ExactEffect:
        if count not in tried:
            tried[count] = _run(trial, keep_float(trial.graph, trial.quantized, named[:count]))
        return tried[count]

    reached: bool | None = None
    if wish.max_drop_pp is not None:
        count, reached = _fewest(run, len(named), wish.max_drop_pp)
    else:
        count = len(named) if wish.count is None else wish.count
        if count > len(named):
            raise BadInput(
                f"`{count}` layers are too many: with the first `{len(named) + 1}` in float nothing would be left in integers",
                hint=f"--keep-float {len(named)}",
            )
    after = run(count)
    mixed = keep_float(trial.graph, trial.quantized, named[:count])
    kept = Kept(
        max_drop_pp=wish.max_drop_pp,
        reached=reached,
        drop_of="top-1" if trial.before.labelled_count else "agreement",
        layers=named[:count],
        convs=mixed.kept_float,
        conv_count=len(trial.graph.convs),
        before=before,
        after=after,
        ranking=tuple(ranking),
        tried=tuple(Tried(number, tried[number]) for number in sorted(tried)) if reached is not None else (),
    )
    return kept, mixed


def exact_effect(accuracy: Accuracy) -> ExactEffect:
    """The drop is of top-1 where images are labelled, else of the agreement."""
    delta, agreement = accuracy.top1_delta_pp, accuracy.top1_agreement
    if delta is not None:
        drop = (-delta.value, -delta.high, -delta.low)
    else:
        drop = (100 * (1 - agreement.value), 100 * (1 - agreement.high), 100 * (1 - agreement.low))
    return ExactEffect(accuracy.sqnr_db, agreement.value, *(value + 0.0 for value in drop))  # 0.0, not -0.0


def _fewest(run: Callable[[int], ExactEffect], most: int, max_drop_pp: float) -> tuple[int, bool]:
    """The smallest number of layers with which the bound holds, and whether it does."""
    found = {0: run(0).drop_high_pp}
    low, high = 0, most
    if found[0] <= max_drop_pp:
        return 0, True
    while high - low > 1:
        middle = (low + high) // 2
        found[middle] = run(middle).drop_high_pp
        low, high = (low, middle) if found[middle] <= max_drop_pp else (middle, high)
    found[high] = run(high).drop_high_pp
    if found[high] <= max_drop_pp:
        return high, True
    return min(found, key=lambda number: (found[number], number)), False


def _run(trial: Trial, quantized: QuantizedGraph) -> ExactEffect:
    """A table on all images."""
    runner, sums, total = IntegerRunner(quantized), Tally(), sum(map(len, trial.reference))
    what = f"running with {len(quantized.kept_float)} convolutions in float"
    with one_blas_thread(), ThreadPoolExecutor(trial.threads) as pool:
        for batch, expected in zip(trial.evaluation.stream, trial.reference, strict=True):
            logits = np.concatenate(list(pool.map(runner, np.split(batch.pixels, len(batch.pixels)))))
            sums = tally(sums, expected, logits, batch.labels)
            trial.progress(what, sums.count, total)
    return exact_effect(accuracy_of(sums))
