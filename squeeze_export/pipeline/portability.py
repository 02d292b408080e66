"""The portability check: int8 files on CPUs without VNNI, emulated; OpenVINO's files are also measured with AVX2 forced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Artifact, ByteArray, FloatArray, Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.graph.run import run_each
from squeeze_export.graph.saturation import SaturatingProducts, pair_count
from squeeze_export.measure.accuracy import compare
from squeeze_export.measure.difference import Gap, widened
from squeeze_export.pipeline.calibration import Calibration, read_calibration
from squeeze_export.pipeline.comparison import INTEGER_RUN, ComparedPart, has_steps
from squeeze_export.pipeline.export import read_artifact
from squeeze_export.pipeline.forced_avx2 import can_be_forced, run_on_avx2
from squeeze_export.pipeline.measuring import row_of
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.sessions import Entry, Outcome, RunOptions
from squeeze_export.pipeline.tables import check_table, is_written_from
from squeeze_export.pipeline.validation import validate_exported
from squeeze_export.results import Accuracy, Difference, Measurement, Report

RUNTIME = "int16 saturation"
KERNELS = "u8 x s8 products, summed in pairs in int16"
FORCED = "openvino, AVX2 forced"
LEAST_AGREEMENT = 0.99
FACTS = "portability"
"""Key of `Report.evaluation` that holds what saturated, and how far the emulated CPU is from the exact integers."""

_NAME = f"{RUNTIME} (emulated)"


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
    """`validate_files`, and what CPUs without VNNI would answer with the int8 files of `table`.

    Each such file gets a row that compares the emulated CPU with the fp32 reference; OpenVINO's files get one more, measured with
    AVX2 forced. The report also has their distances from the exact integers. All of it uses `emulated_images` images of the set.

    Args:
        files: exported files, each with its sidecar; at least one int8.
        network: the one they were made from.
        table: the table file that the int8 files were written from.
        eval_path: images; None takes the demo network's own, for the demo network.
        options: runtime, device, threads, images.
        skip_broken: leaves unreadable images out.
        progress: told of the images.

    Raises:
        BadInput: an int8 file of another table, no int8 file, files that give probabilities, and what `validate_files` raises.
        Refused: OpenVINO with AVX2 forced failed.
    """
    chosen = options or RunOptions()
    calibration = read_calibration(table)
    quantized = calibration.quantized
    artifacts = [read_artifact(path) for path in files]
    integer = [artifact for artifact in artifacts if artifact.scheme == quantized.scheme.name]
    _check(integer, calibration, table, network)
    products = SaturatingProducts(quantized)
    runners = (IntegerRunner(quantized), IntegerRunner(quantized, products))
    shown: list[tuple[ByteArray, NDArray[np.int64], FloatArray, FloatArray, FloatArray]] = []

    def emulate(part: ComparedPart) -> None:
        exact, saturated = (run_each(part.pool, runner, part.pixels) for runner in runners)
        shown.append((part.pixels, part.labels, part.reference, exact, saturated))
        progress("emulating a CPU without VNNI", sum(len(pixels) for pixels, *_ in shown), chosen.emulated_images)

    report = validate_exported(
        artifacts,
        network,
        eval_path,
        options=chosen,
        calibration=calibration,
        listeners=[emulate],
        skip_broken=skip_broken,
        progress=progress,
    )
    pixels, labels, reference, exact, saturated = (np.concatenate(parts) for parts in zip(*shown, strict=True))
    found, from_exact = compare(reference, saturated, labels), compare(exact, saturated)
    rows = [_emulated(artifact, found) for artifact in integer]
    differences = [_difference(quantized, INTEGER_RUN, exact, _NAME, saturated)]
    for artifact in integer:
        if artifact.target != "openvino" or chosen.device != "cpu":
            continue
        row = replace(row_of(Outcome(Entry(artifact, FORCED)), device_asked="cpu"), runtime=FORCED)
        if not can_be_forced():
            rows.append(replace(row, status="skipped", reason="this CPU is no x86"))
            continue
        logits, told = run_on_avx2(artifact.path, pixels, threads=chosen.threads)
        rows.append(replace(row, **told, accuracy=compare(reference, logits, labels)))
        name = f"{artifact.target} on {FORCED}"
        differences.append(_difference(quantized, INTEGER_RUN, exact, name, logits))
        differences.append(_difference(quantized, _NAME, saturated, name, logits))
    return replace(
        report,
        measurements=(*report.measurements, *rows),
        differences=tuple(differences),
        evaluation={**report.evaluation, FACTS: _facts(quantized, products.saturated, from_exact)},
        warnings=(*report.warnings, *_warnings(products.saturated, from_exact)),
    )


def _check(integer: Sequence[Artifact], calibration: Calibration, table: Path, network: Network) -> None:
    quantized = calibration.quantized
    if not integer:
        raise BadInput(f"none of the files is of the table's scheme `{quantized.scheme.name}`", hint="name an int8 file")
    if quantized.scheme.symmetric or quantized.scheme.activation_bits != 8 or quantized.scheme.weight_bits != 8:
        raise BadInput(f"the scheme `{quantized.scheme.name}` has no u8 x s8 products", hint="leave out --portability")
    for artifact in integer:
        if not is_written_from(artifact, calibration, network):
            raise BadInput(
                f"`{artifact.path.name}` was not written from the table `{table}`",
                hint="`calibrate` with the same images and --seed makes its table again",
            )
        if artifact.gives_probabilities:
            hint = f"export it without --{artifact.ending}"
            raise BadInput(f"`{artifact.path.name}` gives probabilities: logits are compared", hint=hint)
    check_table(calibration, table, network)
    if not has_steps(quantized):
        last = quantized.kept_float[-1]
        hint = f"calibrate without --keep-float {last}, or leave out --portability"
        raise BadInput(f"the table `{table}` keeps `{last}` in float, so its logits have no steps to compare", hint=hint)


def _emulated(artifact: Artifact, accuracy: Accuracy) -> Measurement:
    row = row_of(Outcome(Entry(artifact, RUNTIME), accuracy=accuracy), device_asked="cpu")
    return replace(row, runtime=RUNTIME, device="cpu", kernels=KERNELS, evidence="emulated")


def _difference(quantized: QuantizedGraph, first: str, left: FloatArray, second: str, right: FloatArray) -> Difference:
    gap = widened(Gap(), left, right)
    step = quantized.tensors[quantized.nodes[-1].inputs[0]].scale
    return Difference(first, second, gap.count, gap.largest / step, gap.same_top1 / gap.count)


def _facts(quantized: QuantizedGraph, counts: Mapping[str, int], from_exact: Accuracy) -> dict[str, Any]:
    return {
        "image_count": from_exact.count,
        "agreement_with_exact": from_exact.top1_agreement.value,
        "sqnr_with_exact_db": from_exact.sqnr_db,
        "pair_count": pair_count(quantized) * from_exact.count,
        "saturated_count": sum(counts.values()),
        "saturated_by_layer": dict(sorted(counts.items(), key=lambda item: -item[1])),
    }


def _warnings(counts: Mapping[str, int], from_exact: Accuracy) -> tuple[str, ...]:
    share = from_exact.top1_agreement.value
    if share >= LEAST_AGREEMENT:
        return ()
    worst, count = max(counts.items(), key=lambda item: item[1])
    return (
        f"on a CPU without VNNI {1 - share:.1%} of {from_exact.count} images get another top-1 class than from the exact integers"
        f" (emulated); most pairs of products saturate in `{worst}` ({count:,}): calibrate again with this tool, whose default"
        " (`FIRST_WEIGHT_LIMIT`) keeps the first layer's weights within 64",
    )
