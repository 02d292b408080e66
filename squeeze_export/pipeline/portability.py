"""The portability check: int8 files on CPUs without VNNI, emulated, and for OpenVINO's files measured with AVX2 forced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Artifact, Audit, ByteArray, FloatArray, Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.graph.saturation import SaturatingProducts, pair_count
from squeeze_export.images.checks import check_overlap
from squeeze_export.images.stream import spread_evenly, usable_cores
from squeeze_export.measure.accuracy import compare
from squeeze_export.measure.difference import Gap, widened
from squeeze_export.pipeline.calibration import Calibration, read_calibration
from squeeze_export.pipeline.comparison import INTEGER_RUN, has_steps
from squeeze_export.pipeline.evaluation import Evaluation, evaluation_images
from squeeze_export.pipeline.export import read_all_exported, read_artifact
from squeeze_export.pipeline.forced_avx2 import can_be_forced, run_on_avx2
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.sessions import Entry, RunOptions
from squeeze_export.pipeline.summary import measurement
from squeeze_export.pipeline.validation import PROBABILITIES, validate_files
from squeeze_export.results import Accuracy, Difference, Measurement, Report

RUNTIME = "int16 saturation"
KERNELS = "u8 x s8 products, summed in pairs in int16"
FORCED = "openvino, AVX2 forced"
LEAST_AGREEMENT = 0.99
FACTS = "portability"
"""Key of `Report.evaluation` that holds what saturated, and how far the emulated CPU is from the exact integers."""

_NAME = f"{RUNTIME} (emulated)"


@dataclass(frozen=True, eq=False)
class _Runs:
    """The same images, run in three ways.

    Attributes:
        pixels: (N, H, W, 3) uint8.
        labels: (N,) int64, -1 where unknown.
        reference: (N, classes) float32 logits of the fp32 reference.
        exact: likewise, of the exact integers.
        saturated: likewise, of the emulated CPU.
        counts: convolution -> pairs of products that saturated.
    """

    pixels: ByteArray
    labels: NDArray[np.int64]
    reference: FloatArray
    exact: FloatArray
    saturated: FloatArray
    counts: Mapping[str, int]


def validate_portability(
    files: Sequence[Path],
    network: Network,
    table: Path,
    eval_path: Path | None = None,
    *,
    options: RunOptions | None = None,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> Report:
    """`validate_files`, and for the int8 files of `table` what CPUs without VNNI would make of them.

    There are a row for each such file with the emulated CPU against the fp32 reference, one more for each of OpenVINO with AVX2
    forced (measured), and their distances from the exact integers. All rest on `emulated_images` images of the set.

    Args:
        files: exported files, each with its sidecar; at least one int8.
        network: the one they were made from.
        table: the table file that the int8 files were written from.
        eval_path: images; None takes the demo network's own, for the demo network.
        options: runtime, device, threads, images.
        skip_broken: leaves unreadable images out.
        progress: told of the images.

    Raises:
        BadInput: an int8 file of another table, no int8 file, files with a softmax, and what `validate_files` raises.
        Refused: OpenVINO with AVX2 forced failed.
    """
    chosen = options or RunOptions()
    calibration = read_calibration(table)
    artifacts, audits = read_all_exported(files)
    integer = [artifact for artifact in artifacts if artifact.scheme == calibration.quantized.scheme.name]
    _check(integer, calibration, table, network)
    if not has_steps(calibration.quantized):
        last = calibration.quantized.kept_float[-1]
        hint = f"calibrate without --keep-float {last}, or leave out --portability"
        raise BadInput(f"the table `{table}` keeps `{last}` in float, so its logits have no steps to compare", hint=hint)
    evaluation = evaluation_images(network, eval_path, None, skip_broken=skip_broken, progress=progress)
    if evaluation is None:
        raise BadInput("there are no images to validate on", hint="--eval DIR")
    report = validate_files(
        files,
        network,
        eval_path,
        options=chosen,
        calibration_hashes=calibration.image_hashes,
        summary=calibration.summary,
        skip_broken=skip_broken,
        progress=progress,
    )
    runs = _runs(network, calibration, evaluation, chosen.emulated_images, progress)
    quantized = calibration.quantized
    found = compare(runs.reference, runs.saturated, runs.labels)
    from_exact = compare(runs.exact, runs.saturated)
    rows = [_emulated(artifact, found, audits[artifact.path]) for artifact in integer]
    differences = [_difference(quantized, INTEGER_RUN, runs.exact, _NAME, runs.saturated)]
    for artifact in integer:
        if artifact.target == "openvino" and chosen.device == "cpu":
            row, logits = _forced(artifact, runs, chosen.threads)
            rows.append(replace(row, audit=audits[artifact.path]))
            if logits is not None:
                name = f"{artifact.target} on {FORCED}"
                differences.append(_difference(quantized, INTEGER_RUN, runs.exact, name, logits))
                differences.append(_difference(quantized, _NAME, runs.saturated, name, logits))
    return replace(
        report,
        measurements=(*report.measurements, *rows),
        differences=tuple(differences),
        evaluation={**report.evaluation, FACTS: _facts(quantized, runs, from_exact)},
        warnings=(*report.warnings, *_warnings(runs, from_exact)),
    )


def table_behind(files: Sequence[Path], network: Network, table: Path) -> Calibration:
    """Reads the table that exported files were written from.

    Args:
        files: exported files, each with its sidecar; at least one was written from the table.
        network: the one they were made from.
        table: the table file.

    Raises:
        BadInput: no table; none of the files was written from it; it is of other weights or other preprocessing.
    """
    calibration = read_calibration(table)
    if not any(_is_written_from(artifact, calibration.quantized, network) for artifact in map(read_artifact, files)):
        raise BadInput(f"none of the files was written from the table `{table}`", hint="leave out --table, or name theirs")
    _check_table(calibration, table, network)
    return calibration


def _is_written_from(artifact: Artifact, quantized: QuantizedGraph, network: Network) -> bool:
    # The labels are part of a table, and an export may put others in their place: the integers are the same ones.
    told = artifact.provenance.get("table_sha256")
    return any(told == replace(quantized, labels=labels).sha256 for labels in (quantized.labels, network.graph.labels, ()))


def _check(integer: Sequence[Artifact], calibration: Calibration, table: Path, network: Network) -> None:
    quantized = calibration.quantized
    if not integer:
        raise BadInput(f"none of the files is of the table's scheme `{quantized.scheme.name}`", hint="name an int8 file")
    if quantized.scheme.symmetric or quantized.scheme.activation_bits != 8 or quantized.scheme.weight_bits != 8:
        raise BadInput(f"the scheme `{quantized.scheme.name}` has no u8 x s8 products", hint="leave out --portability")
    for artifact in integer:
        if not _is_written_from(artifact, quantized, network):
            raise BadInput(
                f"`{artifact.path.name}` was not written from the table `{table}`",
                hint="`calibrate` with the same images and --seed makes its table again",
            )
        if artifact.output.name == PROBABILITIES:
            raise BadInput(f"`{artifact.path.name}` gives probabilities: logits are compared", hint="export it without --softmax")
    _check_table(calibration, table, network)


def _check_table(calibration: Calibration, table: Path, network: Network) -> None:
    quantized = calibration.quantized
    if quantized.checkpoint_sha256 != network.graph.checkpoint_sha256:
        raise BadInput(f"the table `{table}` was not made from `{network.source}`", hint="name its checkpoint with --weights")
    if quantized.preprocess != network.graph.preprocess:
        raise BadInput(f"the table `{table}` was made with other preprocessing than was asked for", hint="calibrate again")


def _runs(network: Network, calibration: Calibration, evaluation: Evaluation, limit: int, progress: Progress) -> _Runs:
    total, done = evaluation.image_count, 0
    products = SaturatingProducts(calibration.quantized)
    ways: tuple[Callable[[ByteArray], FloatArray], ...] = (
        FloatRunner(network.graph),
        IntegerRunner(calibration.quantized),
        IntegerRunner(calibration.quantized, products),
    )
    logits: tuple[list[FloatArray], ...] = ([], [], [])
    pixels, labels = [], []
    with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        for batch in evaluation.stream:
            if evaluation.independent:
                check_overlap(calibration.image_hashes, batch.hashes, batch.files)
            part = spread_evenly(done, len(batch.pixels), total, limit)
            done += len(batch.pixels)
            progress("emulating a CPU without VNNI", done, total)
            pixels.append(batch.pixels[part])
            labels.append(batch.labels[part])
            for run, found in zip(ways, logits, strict=True):
                found.extend(pool.map(run, pixels[-1][:, None]))
    reference, exact, saturated = (np.concatenate(found) for found in logits)
    return _Runs(np.concatenate(pixels), np.concatenate(labels), reference, exact, saturated, products.saturated)


def _emulated(artifact: Artifact, accuracy: Accuracy, audit: Audit | None) -> Measurement:
    row = measurement(Entry(artifact, RUNTIME), device_asked="cpu", accuracy=accuracy, audit=audit)
    return replace(row, runtime=RUNTIME, device="cpu", kernels=KERNELS, evidence="emulated")


def _forced(artifact: Artifact, runs: _Runs, threads: int) -> tuple[Measurement, FloatArray | None]:
    """OpenVINO's row, and its logits; None where this CPU cannot be held to AVX2."""
    row = replace(measurement(Entry(artifact, FORCED), device_asked="cpu"), runtime=FORCED)
    if not can_be_forced():
        return replace(row, status="skipped", reason="this CPU is no x86"), None
    forced = run_on_avx2(artifact.path, runs.pixels, threads=threads)
    accuracy = compare(runs.reference, forced.logits, runs.labels)
    row = replace(row, device=forced.device, kernels=forced.kernels, placement=forced.placement, accuracy=accuracy)
    return row, forced.logits


def _difference(quantized: QuantizedGraph, first: str, left: FloatArray, second: str, right: FloatArray) -> Difference:
    gap = widened(Gap(), left, right)
    step = quantized.tensors[quantized.nodes[-1].inputs[0]].scale
    return Difference(first, second, gap.count, gap.largest / step, gap.same_top1 / gap.count)


def _facts(quantized: QuantizedGraph, runs: _Runs, from_exact: Accuracy) -> dict[str, Any]:
    return {
        "image_count": from_exact.count,
        "agreement_with_exact": from_exact.top1_agreement.value,
        "sqnr_with_exact_db": from_exact.sqnr_db,
        "pair_count": pair_count(quantized) * from_exact.count,
        "saturated_count": sum(runs.counts.values()),
        "saturated_by_layer": dict(sorted(runs.counts.items(), key=lambda item: -item[1])),
    }


def _warnings(runs: _Runs, from_exact: Accuracy) -> tuple[str, ...]:
    share = from_exact.top1_agreement.value
    if share >= LEAST_AGREEMENT:
        return ()
    worst, count = max(runs.counts.items(), key=lambda item: item[1])
    return (
        f"on a CPU without VNNI {1 - share:.1%} of {from_exact.count} images get another top-1 class than from the exact integers"
        f" (emulated); most pairs of products saturate in `{worst}` ({count:,}): calibrate again with this tool, whose default"
        " (`FIRST_WEIGHT_LIMIT`) keeps the first layer's weights within 64",
    )
