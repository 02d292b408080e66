"""The analysis job: why the integers differ from the reference, and what would help."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from squeeze_export.analyze.advice import advice_for
from squeeze_export.analyze.class_changes import class_change
from squeeze_export.analyze.mixed_precision import Request, mixed_precision, ranking, request_of
from squeeze_export.analyze.results import Analysis, ClassChange, Effect, MixedPrecision, RankedLayer
from squeeze_export.analyze.saturation import Counter, TensorCount, range_uses
from squeeze_export.analyze.sensitivity import Subject, sensitivity_of, subject_of
from squeeze_export.core import ByteArray, FloatArray, Progress, silent
from squeeze_export.errors import BadInput, GateUndecided
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.graph.run import one_blas_thread, run_each
from squeeze_export.images.calibration import CalibrationSource
from squeeze_export.images.checks import check_overlap
from squeeze_export.images.manifest import UNKNOWN
from squeeze_export.images.stream import spread_evenly, usable_cores
from squeeze_export.measure.accuracy import Tally, accuracy_of, tally
from squeeze_export.measure.statistics import images_needed, least_drop_pp
from squeeze_export.pipeline.calibration import Calibration, calibrate, read_calibration, read_images, shift_warnings, write_table
from squeeze_export.pipeline.evaluation import Evaluation, evaluation_images
from squeeze_export.pipeline.float_cost import cost_of
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.sessions import RunOptions
from squeeze_export.pipeline.tables import check_table, is_of_another, replaced
from squeeze_export.quant.mixed import check_mixed_scheme
from squeeze_export.results import Accuracy

PART_COUNT = 32
"""Images on which every layer is tried."""


@dataclass(frozen=True, eq=False)
class _Counted:
    """What was counted on all images.

    Attributes:
        sums: of the exact integer run against the reference.
        reference: the float network's logits, (n, classes) float32, of each batch in turn.
        tensors: layer -> its output.
        flips: in the images' order.
        part: (P, H, W, 3) uint8: the images that the layers are tried on.
    """

    sums: Tally
    reference: tuple[FloatArray, ...]
    tensors: Mapping[str, TensorCount]
    flips: tuple[ClassChange, ...]
    part: ByteArray


def analyze(
    network: Network,
    calib: CalibrationSource | None = None,
    eval_path: Path | None = None,
    *,
    table: Path | None = None,
    recipe: str = "fast",
    seed: int = 0,
    images: int = PART_COUNT,
    keep_float: Sequence[str] | int = (),
    max_drop_pp: float | None = None,
    out: Path | None = None,
    rounds: int | None = RunOptions.rounds,
    threads: int | None = None,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> Analysis:
    """Finds where the integers' error comes from.

    Ranges, dead channels and flips are counted on all images, with the float network and the exact integer run; every layer is
    tried on a part of them, spread evenly. The same table and images give the same analysis.

    Args:
        network: from `open_network`.
        calib: as in `calibrate`; also the images to analyse on if there are no others.
        eval_path: images to analyse on.
        table: a table file instead of calibrating; of a scheme with 8-bit activations.
        recipe: as in `calibrate`; not used with a table.
        seed: likewise.
        images: on how many of them the layers are tried.
        keep_float: layers to put back to float, by name, or the first so many of `analyze.mixed_precision.ranking`.
        max_drop_pp: puts back as few layers of the ranking as keep the upper 95% bound of the drop within this, percentage
            points: the drop of top-1 if images are labelled, else of the agreement with the reference.
        out: an existing folder for the table with these layers in float; None writes none.
        rounds: timed inferences of the files that show what layers in float cost; None times nothing. If no layer is put back,
            nothing is exported or timed.
        threads: images in flight; None takes every usable core.
        skip_broken: leaves unreadable images out.
        progress: told of the steps.

    Raises:
        BadInput: what `calibrate` raises; a table of other weights, other preprocessing, another scheme or an older version; no
            images, or one of them is a calibration image; layers that do not exist or cannot be in float.
        GateUndecided: too few images to show a drop of at most `max_drop_pp`.
    """
    if images < 1:
        raise BadInput(f"the layers cannot be tried on `{images}` images", hint="--images 32")
    if rounds is not None and rounds < 1:
        raise BadInput(f"--rounds `{rounds}` is below 1", hint=f"--rounds {RunOptions.rounds}")
    request = request_of(network.graph, keep_float, max_drop_pp)
    cores = threads or usable_cores()
    evaluation = evaluation_images(network, eval_path, calib, again=bool(request), skip_broken=skip_broken)
    if evaluation is not None:
        _check_image_count(evaluation.image_count, request)
    if table is not None:
        calibration = read_calibration(table)
        check_table(calibration, table, network)
    else:
        read = read_images(network, calib, threads=cores, skip_broken=skip_broken, progress=progress)
        calibration = calibrate(network, read, recipe=recipe, seed=seed, threads=cores, progress=progress)
        if evaluation is not None and not evaluation.independent:
            evaluation = evaluation_images(network, None, read)  # so that no file is read again
    if request:
        check_mixed_scheme(calibration.quantized.scheme)
    path = _table_path(out, network, calibration, table) if request and out is not None else None
    subject = subject_of(network.graph, calibration.quantized)
    if evaluation is None:
        raise BadInput("there are no images to analyse on", hint="--eval DIR")
    counted = _count(subject, calibration, evaluation, images, cores, progress)
    accuracy = accuracy_of(counted.sums)
    _check_image_count(accuracy.labelled_count or accuracy.count, request)
    sensitivity = sensitivity_of(subject, counted.part, threads=cores, progress=progress)
    advice = advice_for(
        subject,
        sensitivity,
        counted.tensors,
        counted.part,
        calibration_count=len(calibration.image_hashes),
        threads=cores,
        progress=progress,
    )
    kept: MixedPrecision | None = None
    warnings = (*calibration.warnings, *evaluation.warnings, *shift_warnings(calibration, evaluation))
    if request:
        ranked: tuple[RankedLayer, ...] = ()
        if request.needs_ranking(accuracy):
            ranked = ranking(subject, sensitivity, counted.part, threads=cores, progress=progress)
        run = partial(_exact_run, evaluation, counted.reference, cores, progress)
        kept, mixed = mixed_precision(network.graph, calibration.quantized, request, ranked, accuracy, run)
        if kept.layers:
            kept = replace(kept, cost=cost_of(network.graph, calibration.quantized, mixed, rounds=rounds, progress=progress))
        if kept.layers and path is not None and kept.reached is not False:
            if is_of_another(path, network):
                warnings += (replaced(path),)
            write_table(replace(calibration, quantized=mixed), path)
            kept = replace(kept, table=path.name)
    return Analysis(
        network=network.facts(),
        calibration=calibration.facts(),
        evaluation=evaluation.facts,
        image_count=accuracy.count,
        part_count=len(counted.part),
        int8=Effect(accuracy.sqnr_db, accuracy.top1_agreement.value),
        whole=sensitivity.whole,
        weights_alone=sensitivity.weights_alone,
        outputs_alone=sensitivity.outputs_alone,
        layers=sensitivity.layers,
        tensors=range_uses(subject, counted.tensors),
        worst=sensitivity.worst,
        advice=advice,
        flips=tuple(sorted(counted.flips, key=lambda flip: (-flip.margin_lost, flip.file))),
        labels=network.graph.labels,
        warnings=tuple(dict.fromkeys(warnings)),
        kept=kept,
        assumptions=network.assumptions,
        error=accuracy.error,
    )


def _table_path(out: Path, network: Network, calibration: Calibration, table: Path | None) -> Path:
    """Where the table with layers in float goes: under the name that `calibrate` would give it."""
    path = out / f"{network.name}.{calibration.quantized.scheme.name}.table"
    if table is not None and path.exists() and path.samefile(table):
        raise BadInput(f"the table with layers in float would overwrite `{table}`", hint="another folder with --out")
    return path


def _check_image_count(count: int, request: Request) -> None:
    """Refuses a bound that so few images cannot show, even if none of them changes its class."""
    if request.max_drop_pp is None or count < 1:
        return
    least_pp = least_drop_pp(count)
    if least_pp > request.max_drop_pp:
        raise GateUndecided(
            f"`{count}` images cannot show a drop under {request.max_drop_pp:g} pp: if none changed its class, the 95% bound would"
            f" be {least_pp:.2f} pp",
            hint=f"--eval with at least {images_needed(request.max_drop_pp):,} images",
        )


def _exact_run(
    evaluation: Evaluation, reference: Sequence[FloatArray], threads: int, progress: Progress, quantized: QuantizedGraph
) -> Accuracy:
    """The accuracy of a table on all images; `reference` has their float logits, batch by batch."""
    runner, sums, total = IntegerRunner(quantized), Tally(), sum(map(len, reference))
    what = f"running with {len(quantized.kept_float)} convolutions in float"
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for batch, expected in zip(evaluation.stream, reference, strict=True):
            logits = run_each(pool, runner, batch.pixels)
            sums = tally(sums, expected, logits, batch.labels)
            progress(what, sums.count, total)
    return accuracy_of(sums)


def _count(
    subject: Subject, calibration: Calibration, evaluation: Evaluation, limit: int, cores: int, progress: Progress
) -> _Counted:
    """Counts on all images. Files are named relative to the deepest folder that holds all of them."""
    total, done = evaluation.image_count, 0
    folder = os.path.commonpath([os.path.abspath(file.parent) for file in evaluation.stream.image_set.files])
    counter = Counter(subject)
    sums, part = Tally(), []
    reference: list[FloatArray] = []
    tensors: dict[str, TensorCount] = {}
    flips: list[ClassChange] = []
    progress("comparing", done, total)
    with one_blas_thread(), ThreadPoolExecutor(cores) as pool:
        for batch in evaluation.stream:
            if evaluation.independent:
                check_overlap(calibration.image_hashes, batch.hashes, batch.files)
            files = [Path(os.path.abspath(file)).relative_to(folder).as_posix() for file in batch.files]
            part.append(batch.pixels[spread_evenly(done, len(files), total, limit)])
            done += len(files)
            counts = list(pool.map(counter, batch.pixels, files))
            reference.append(np.stack([count.reference for count in counts]))
            sums = tally(sums, reference[-1], np.stack([count.logits for count in counts]), batch.labels)
            for count, file, label in zip(counts, files, batch.labels, strict=True):
                flip = class_change(count.reference, count.logits, file, None if label == UNKNOWN else int(label))
                flips += [flip] if flip is not None else []
                for name, tensor in count.tensors.items():
                    tensors[name] = tensors[name] + tensor if name in tensors else tensor
            progress("comparing", done, total)
    progress("comparing", total, total)  # images that were left out included
    pixels = np.concatenate(part)
    if not len(pixels):  # all images of the part were broken
        raise BadInput("none of the images that the layers are tried on can be read", hint="more --images")
    return _Counted(sums, tuple(reference), tensors, tuple(flips), pixels)
