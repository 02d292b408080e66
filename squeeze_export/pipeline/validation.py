"""The jobs that measure exported files: comparing them with the fp32 reference, and timing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from squeeze_export.core import Artifact, Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import StructureChoice, architecture_from_json
from squeeze_export.nets.assumptions import option_for
from squeeze_export.nets.safetensors_file import preprocess_from_json
from squeeze_export.pipeline.calibration import Calibration, shift_warnings
from squeeze_export.pipeline.evaluation import evaluation_images
from squeeze_export.pipeline.export import read_artifact
from squeeze_export.pipeline.measuring import PROBABILITIES, Comparing, Listener, measured
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.sessions import RunOptions, entries_of
from squeeze_export.pipeline.summary import report_of
from squeeze_export.pipeline.tables import table_behind
from squeeze_export.results import Report


def validate_files(
    files: Sequence[Path],
    network: Network,
    eval_path: Path | None = None,
    *,
    options: RunOptions | None = None,
    table: Path | None = None,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> Report:
    """Compares exported files with the reference.

    Args:
        files: exported files, each with its sidecar.
        network: the one they were made from.
        eval_path: images; None takes the demo network's own, for the demo network.
        options: runtime, device, threads.
        table: that some of the files were written from. Its calibration images are refused, and a warning says if these images
            are of another kind.
        skip_broken: leaves unreadable images out.
        progress: told of the images.

    Raises:
        BadInput: a file that was not made from this checkpoint; no images; one of them is a calibration image; no such
            table, or one that is not of this network or of none of the files.
    """
    artifacts = [read_artifact(path) for path in files]
    calibration = table_behind(artifacts, network, table) if table is not None else None
    chosen = options or RunOptions()
    return validate_exported(
        artifacts, network, eval_path, options=chosen, calibration=calibration, skip_broken=skip_broken, progress=progress
    )


def validate_exported(
    artifacts: Sequence[Artifact],
    network: Network,
    eval_path: Path | None,
    *,
    options: RunOptions,
    calibration: Calibration | None,
    listeners: Sequence[Listener] = (),
    skip_broken: bool,
    progress: Progress,
) -> Report:
    """As `validate_files`, of files that `read_artifact` read; `listeners` are shown a part of the images."""
    for artifact in artifacts:
        if artifact.provenance.get("checkpoint_sha256") != network.graph.checkpoint_sha256:
            raise BadInput(
                f"`{artifact.path.name}` was not made from `{network.source}`", hint="name its checkpoint with --weights"
            )
        _check_reading(artifact, network)
    images = evaluation_images(network, eval_path, None, skip_broken=skip_broken, progress=progress)
    if images is None:
        raise BadInput("there are no images to validate on", hint="--eval DIR")
    if len({artifact.output.name == PROBABILITIES for artifact in artifacts}) > 1:
        raise BadInput("files with and without --softmax cannot be compared in one run")
    hashes = calibration.image_hashes if calibration is not None else ()
    found = measured(entries_of(artifacts, options), options, comparing=Comparing(network, images, hashes, listeners=listeners))
    warnings = found.warnings + shift_warnings(calibration, images)
    return report_of(
        found.rows,
        network=network.facts(),
        evaluation=images.facts,
        warnings=warnings,
        assumptions=network.assumptions,
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


def bench_files(files: Sequence[Path], *, options: RunOptions | None = None, progress: Progress = silent) -> Report:
    """Times exported files in interleaved rounds; an fp32 file among them is the baseline of its target and checkpoint.

    Raises:
        BadInput: a file without its sidecar.
    """
    chosen = options or RunOptions()
    entries = entries_of([read_artifact(path) for path in files], chosen)
    return report_of(measured(entries, chosen, bench=True, progress=progress).rows)
