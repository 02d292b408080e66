"""The validation job: exported files against the fp32 reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from squeeze_export.core import Artifact, Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.images.distribution import Distribution, shift_warning
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
    calibration_hashes: Sequence[str] = (),
    summary: Distribution | None = None,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> Report:
    """Compares exported files with the reference.

    Args:
        files: exported files, each with its sidecar.
        network: the one they were made from.
        eval_path: images; None takes the demo network's own, for the demo network.
        options: runtime, device, threads.
        table: that some of the files were written from: refuses its calibration images, and warns where these are of another kind.
        calibration_hashes: without `table`: images that must not be among these.
        summary: without `table`: how the calibration images look.
        skip_broken: leaves unreadable images out.
        progress: told of the images.

    Raises:
        BadInput: a file that was not made from this checkpoint; no images; one of them is a calibration image; no such
            table, or one that is not of this network or of none of the files.
    """
    artifacts = [read_artifact(path) for path in files]
    if table is not None:
        calibration = table_behind(artifacts, network, table)
        calibration_hashes, summary = calibration.image_hashes, calibration.summary
    return validate_exported(
        artifacts,
        network,
        eval_path,
        options=options or RunOptions(),
        calibration_hashes=calibration_hashes,
        summary=summary,
        skip_broken=skip_broken,
        progress=progress,
    )


def validate_exported(
    artifacts: Sequence[Artifact],
    network: Network,
    eval_path: Path | None,
    *,
    options: RunOptions,
    calibration_hashes: Sequence[str] = (),
    summary: Distribution | None = None,
    listeners: Sequence[Listener] = (),
    skip_broken: bool = False,
    progress: Progress = silent,
) -> Report:
    """As `validate_files`, of files that `read_artifact` read; `listeners` are shown a part of the images."""
    for artifact in artifacts:
        if artifact.provenance.get("checkpoint_sha256") != network.graph.checkpoint_sha256:
            raise BadInput(
                f"`{artifact.path.name}` was not made from `{network.source}`", hint="name its checkpoint with --weights"
            )
    images = evaluation_images(network, eval_path, None, skip_broken=skip_broken, progress=progress)
    if images is None:
        raise BadInput("there are no images to validate on", hint="--eval DIR")
    if len({artifact.output.name == PROBABILITIES for artifact in artifacts}) > 1:
        raise BadInput("files with and without --softmax cannot be compared in one run")
    entries = entries_of(artifacts, options)
    comparing = Comparing(network, images, calibration_hashes, listeners=listeners)
    found = measured(entries, options, comparing=comparing)
    warnings = found.warnings + (shift_warning(summary, images.stream.statistics) if summary is not None else ())
    return report_of(found.rows, network=network.facts(), evaluation=images.facts, warnings=warnings)
