"""The calibration curve: how good the integers are with fewer calibration images, so that a user knows whether there are enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import ByteArray, Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import INT8, QuantizedGraph, Scheme
from squeeze_export.graph.run import FloatRunner, one_blas_thread, run_each
from squeeze_export.images.calibration import BATCH, CalibrationSource
from squeeze_export.images.checks import MIN_CALIBRATION_COUNT, check_overlap
from squeeze_export.images.stream import usable_cores
from squeeze_export.measure.accuracy import Tally, accuracy_of, tally
from squeeze_export.measure.statistics import mean_difference, paired_difference
from squeeze_export.pipeline.calibration import (
    Calibration,
    check_scheme,
    fastest_run,
    provenance_of,
    read_images,
    shift_warnings,
)
from squeeze_export.pipeline.evaluation import Evaluation, evaluation_images
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.recipes import check_recipe
from squeeze_export.quant.material import Material
from squeeze_export.quant.observations import observe
from squeeze_export.quant.recipes import quantize_observed
from squeeze_export.results import Curve, CurvePoint, Interval

HELD_OUT_SHARE = 4
"""Without evaluation images, one in so many calibration images is held out of every part, to compare on."""


def part_counts(count: int) -> tuple[int, ...]:
    """16, 32, 64 ... below `count`, and `count` itself."""
    doubled = (MIN_CALIBRATION_COUNT << step for step in range(count))
    return (*takewhile(lambda size: size < count, doubled), count)


def calibration_curve(
    network: Network,
    calib: CalibrationSource | None = None,
    eval_path: Path | None = None,
    *,
    scheme: Scheme = INT8,
    recipe: str = "fast",
    seed: int = 0,
    threads: int | None = None,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> tuple[Calibration, Curve]:
    """Calibrates on all images, and on nested parts of them, in one pass over the images.

    The parts are the first 16, 32, 64 ... of the images in an order drawn from the seed. Without evaluation images (the demo
    network has its own), the last quarter of that order is in no part: all parts are compared on it. The returned calibration
    uses all images in any case.

    A part's integers differ from those of `calibrate` on the part alone only by the sampled positions, as with another seed; those
    of all images are the same to the byte.

    Args:
        network: from `open_network`.
        calib: as in `calibrate`.
        eval_path: images to compare on.
        scheme: an integer scheme.
        recipe: one of ours in `recipes.RECIPES`.
        seed: of the order, and of the sampled positions.
        threads: images in flight; None takes every usable core.
        skip_broken: leaves unreadable images out.
        progress: told of reading, calibrating, quantizing and comparing.

    Raises:
        BadInput: what `calibrate` raises; too few images for two parts; an evaluation image is a calibration image.
    """
    check_scheme(scheme)
    check_recipe(recipe, scheme, "ours")
    cores = threads or usable_cores()
    evaluation = None
    if eval_path is not None or (network.is_demo and not calib):
        evaluation = evaluation_images(network, eval_path, None, skip_broken=skip_broken)
    images = read_images(network, calib, threads=cores, skip_broken=skip_broken, progress=progress)
    count = len(images.weights)
    order = np.random.default_rng(seed).permutation(count)
    held_out = [] if evaluation is not None else sorted(order[count - count // HELD_OUT_SHARE :].tolist())
    counts = part_counts(count - len(held_out))
    if len(counts) < 2:
        less = f", `{len(held_out)}` of them held out to compare on," if held_out else ""
        raise BadInput(
            f"`{count}` calibration images{less} are too few for a curve: its smallest part has {MIN_CALIBRATION_COUNT}",
            hint="pass more to `--calib`" + (", or others to `--eval`" if held_out else ""),
        )
    parts = [sorted(order[:size].tolist()) for size in counts]
    run, runtime = fastest_run(network.graph)
    pixels, weights = images.batch.pixels, images.weights
    kept = observe(network.graph, run, pixels, seed=seed, threads=cores, weights=weights, parts=parts, progress=progress)
    quantized: list[QuantizedGraph] = []
    for done, part in enumerate([list(range(count)), *parts]):
        if done and len(part) == count:
            quantized.append(quantized[0])
        else:
            provenance = {} if done else provenance_of(images, network, runtime)  # the parts' integers are never written
            counted = tuple(weights[index] for index in part)
            material = Material(network.graph, kept.of(part), pixels[part], counted, seed, cores, scheme)
            quantized.append(quantize_observed(material, recipe=recipe, provenance=provenance))
        progress("quantizing", done + 1, len(parts) + 1)
    calibration = Calibration(quantized[0], images.batch.hashes, images.source, images.warnings)
    batches = _pixels(evaluation, pixels[held_out], images.batch.hashes)
    total = evaluation.image_count if evaluation is not None else len(held_out)
    runners = [IntegerRunner(graph) for graph in quantized[1:]]
    points = _points(FloatRunner(network.graph), runners, counts, batches, total, cores, progress)
    facts: dict[str, Any] = {
        "source": images.source,
        "image_count": len(held_out),
        "note": "calibration images that were held out of every part: give --eval DIR for images of your own choice",
    }
    if evaluation is not None:
        facts = {name: value for name, value in evaluation.facts.items() if name in facts}
    left_out = evaluation.warnings if evaluation is not None else ()
    calibration = replace(calibration, warnings=(*images.warnings, *left_out, *shift_warnings(calibration, evaluation)))
    return calibration, Curve(points, enough_count(points), seed, recipe, facts)


def enough_count(points: Sequence[CurvePoint]) -> int:
    """The smallest image count from which on every agreement interval reaches that of the last point; of a network with one output,
    from which on no error is shown to be above that of the last point.
    """
    found = points[-1].image_count
    for point in reversed(points):
        if point.error_to_largest is not None:
            if point.error_to_largest.low > 0:
                break
        elif point.agreement.high < points[-1].agreement.low:
            break
        found = point.image_count
    return found


def _pixels(evaluation: Evaluation | None, held_out: ByteArray, calibration_hashes: Sequence[str]) -> Iterator[ByteArray]:
    """The pixels to compare on, in batches: those of the evaluation images, else those held out."""
    if evaluation is None:
        yield from (held_out[start : start + BATCH] for start in range(0, len(held_out), BATCH))
        return
    for batch in evaluation.stream:
        check_overlap(calibration_hashes, batch.hashes, batch.files)
        yield batch.pixels


def _points(
    reference: FloatRunner,
    runners: Sequence[IntegerRunner],
    counts: Sequence[int],
    batches: Iterator[ByteArray],
    total: int,
    threads: int,
    progress: Progress,
) -> tuple[CurvePoint, ...]:
    """Runs the reference and every part's integers on the same pixels."""
    sums = [Tally()] * len(runners)
    same: list[list[NDArray[np.bool_]]] = [[] for _ in runners]
    done = 0
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for batch in batches:
            expected = run_each(pool, reference, batch)
            for index, runner in enumerate(runners):
                logits = run_each(pool, runner, batch)
                sums[index] = tally(sums[index], expected, logits)
                same[index].append(expected.argmax(axis=1) == logits.argmax(axis=1))
            done += len(batch)
            progress("comparing", done, total)
    agreeing = [np.concatenate(found) for found in same]
    points = []
    for size, found, agrees in zip(counts, map(accuracy_of, sums), agreeing, strict=True):
        lost, won = int((agreeing[-1] & ~agrees).sum()), int((agrees & ~agreeing[-1]).sum())
        pp = paired_difference(lost, won, len(agrees))
        difference = Interval(100 * pp.value, 100 * pp.low, 100 * pp.high)
        points.append(CurvePoint(size, found.top1_agreement, found.sqnr_db, difference, found.error))
    if points[0].error is None:
        return tuple(points)
    errors = [np.abs(np.subtract(*np.array(one.values).T)) for one in sums]
    against = [mean_difference(found, errors[-1]) for found in errors]
    return tuple(replace(point, error_to_largest=found) for point, found in zip(points, against, strict=True))
