"""The jobs that measure exported files: comparing them with the fp32 reference, and timing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from squeeze_export.core import Artifact, Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.measure.statistics import bootstrap_ratio
from squeeze_export.nets.architecture import StructureChoice, architecture_from_json
from squeeze_export.nets.assumptions import option_for
from squeeze_export.nets.safetensors_file import preprocess_from_json
from squeeze_export.pipeline.calibration import Calibration, shift_warnings
from squeeze_export.pipeline.evaluation import evaluation_images
from squeeze_export.pipeline.foreign import open_files
from squeeze_export.pipeline.measuring import Comparing, Listener, measured
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.scale import Scale
from squeeze_export.pipeline.sessions import RunOptions, entries_of
from squeeze_export.pipeline.sidecar import opened_sidecar
from squeeze_export.pipeline.summary import report_of
from squeeze_export.pipeline.tables import table_behind
from squeeze_export.results import Measurement, Ratio, Report


def validate_files(
    files: Sequence[Path],
    network: Network,
    eval_path: Path | None = None,
    *,
    options: RunOptions | None = None,
    table: Path | None = None,
    scale: Scale | None = None,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> Report:
    """Compares exported files with the reference.

    Args:
        files: exported files, each with its sidecar; and other tools' files, which are taken to be of the same network and to take
            the same numbers.
        network: the one they were made from.
        eval_path: images; None takes the demo network's own, for the demo network.
        options: runtime, device, threads.
        table: that some of the files were written from. Its calibration images are refused, and a warning says if these images
            are of another kind.
        scale: how, where there are many images.
        skip_broken: leaves unreadable images out.
        progress: told of the images.

    Raises:
        BadInput: a file that was not made from this checkpoint; no images; one of them is a calibration image; no such
            table, or one that is not of this network or of none of the files.
    """
    chosen, how = options or RunOptions(), scale or Scale()
    how.check(chosen)
    artifacts, assumptions = open_files(files, network.graph.preprocess)
    calibration = table_behind(artifacts, network, table) if table is not None else None
    report = validate_exported(
        artifacts,
        network,
        eval_path,
        options=chosen,
        calibration=calibration,
        scale=how,
        skip_broken=skip_broken,
        progress=progress,
    )
    return replace(report, assumptions=(*report.assumptions, *assumptions))


def validate_exported(
    artifacts: Sequence[Artifact],
    network: Network,
    eval_path: Path | None,
    *,
    options: RunOptions,
    calibration: Calibration | None,
    listeners: Sequence[Listener] = (),
    scale: Scale | None = None,
    skip_broken: bool,
    progress: Progress,
) -> Report:
    """As `validate_files`, of files that `read_artifact` read; `listeners` are shown a part of the images."""
    for artifact in artifacts:
        if artifact.foreign is not None:
            _check_classes(artifact, network)
            continue
        if artifact.provenance.get("checkpoint_sha256") != network.graph.checkpoint_sha256:
            raise BadInput(
                f"`{artifact.path.name}` was not made from `{network.source}`", hint="name its checkpoint with --weights"
            )
        _check_reading(artifact, network)
    images = evaluation_images(network, eval_path, None, skip_broken=skip_broken)
    if images is None:
        raise BadInput("there are no images to validate on", hint="--eval DIR")
    if len({_function(artifact) for artifact in artifacts}) > 1:
        raise BadInput("files with and without --softmax or --sigmoid cannot be compared in one run")
    hashes = calibration.image_hashes if calibration is not None else ()
    comparing = Comparing(network, images, hashes, listeners=listeners, scale=scale or Scale())
    found = measured(entries_of(artifacts, options), options, comparing=comparing, progress=progress)
    warnings = found.warnings + shift_warnings(calibration, images)
    return report_of(
        found.rows,
        network=network.facts(),
        evaluation=images.facts,
        warnings=warnings,
        assumptions=network.assumptions,
        images=found.images,
    )


def _function(artifact: Artifact) -> str:
    return artifact.ending.removeprefix("log-")  # the softmax is taken from its logarithm


def _check_classes(artifact: Artifact, network: Network) -> None:
    given, count = artifact.output.shape[-1], network.class_count
    if isinstance(given, int) and given != count:
        raise BadInput(
            f"`{artifact.path.name}` gives `{given}` numbers, the reference `{network.source}` `{count}`",
            hint="name its checkpoint with --weights",
        )


def _check_reading(artifact: Artifact, network: Network) -> None:
    """Refuses a reference that has the file's tensors, but was told or assumed something else about them than the file was."""
    found = network.architecture
    made = architecture_from_json(artifact.provenance["architecture"]) if "architecture" in artifact.provenance else found
    if found is not None and made != found:
        names = [field.name for field in fields(StructureChoice) if getattr(made, field.name) != getattr(found, field.name)]
        options = " ".join(option_for(name, getattr(made, name)) for name in names)
        message = f"`{artifact.path.name}` was made from `{network.source}` as another network than this one"
        raise BadInput(message, hint=f"as at its export: {options}")
    here, stored = network.graph.preprocess, artifact.provenance.get("preprocess")
    there = here if stored is None else preprocess_from_json(stored)
    other = [field.name for field in fields(here) if getattr(here, field.name) != getattr(there, field.name)]
    if other:
        message = (
            f"`{artifact.path.name}` was made with other preprocessing than this: its {other[0]} is `{getattr(there, other[0])}`"
        )
        raise BadInput(message, hint="the options of the preprocessing as at its export")


def bench_files(
    files: Sequence[Path],
    *,
    options: RunOptions | None = None,
    crop_px: int | tuple[int, int] | None = None,
    like: Path | None = None,
    progress: Progress = silent,
) -> Report:
    """Times exported files in interleaved rounds.

    An fp32 file among them is the baseline of its target and checkpoint. Any other one is compared with the first that has its
    target, scheme and runtime, or else with the first of all.

    Args:
        files: exported files, each with its sidecar; and other tools' files, of one target each taken to be of one network.
        options: runtime, device, threads, rounds.
        crop_px: side of the input, or height and width, of other tools' files that leave it free.
        like: sidecar of a file of the same network, which tells it likewise.
        progress: told of the rounds.

    Raises:
        BadInput: a file of this tool without its sidecar, or of another that cannot be run.
    """
    chosen = options or RunOptions()
    if crop_px is None and like is not None:
        crop_px = opened_sidecar(like).preprocess.input_size[:2]
    entries = entries_of(open_files(files, None, crop_px=crop_px)[0], chosen)
    rows = measured(entries, chosen, bench=True, progress=progress).rows
    names = telling_names([entry.artifact.path for entry in entries])
    rows = tuple(replace(row, artifact=name) for row, name in zip(rows, names, strict=True))
    return replace(report_of(rows), ratios=_ratios(rows))


def telling_names(paths: Sequence[Path]) -> list[str]:
    """The file names; of files with the same name as many folders above them as tell them apart, as far as they were typed."""

    def tail(path: Path, length: int) -> tuple[str, ...]:
        return path.parts[-length:]

    names = []
    for path in paths:
        others = [other for other in paths if other != path]
        lengths = range(1, len(path.parts) + 1)
        length = next((n for n in lengths if tail(path, n) not in [tail(other, n) for other in others]), len(path.parts))
        names.append(Path(*tail(path, length)).as_posix())
    return names


def _ratios(rows: Sequence[Measurement]) -> tuple[Ratio, ...]:
    timed = [(row, row.latency) for row in rows if row.status == "ok" and row.latency is not None]

    def kind(row: Measurement) -> tuple[str, ...]:
        return row.target, row.scheme, row.runtime, row.device

    found = []
    for index, (row, latency) in enumerate(timed):
        earlier = timed[:index]
        alike = [other for other in earlier if kind(other[0]) == kind(row)]
        first, base = (alike or earlier or [(row, latency)])[0]
        told = not alike and (latency.speedup is not None or base.speedup is not None)  # int8 against its fp32
        if first is not row and not told and len(base.samples_ns) == len(latency.samples_ns):
            found.append(Ratio(row.name, first.name, bootstrap_ratio(base.samples_ns, latency.samples_ns)))
    return tuple(found)
