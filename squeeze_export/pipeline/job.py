"""The whole job: checkpoint -> graph -> quantized graph -> artifacts -> sessions -> measurements -> report."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from squeeze_export.core import Artifact, Audit, EmitOptions, Progress, Session, silent
from squeeze_export.errors import BadInput, SqueezeExportError
from squeeze_export.files import make_folder
from squeeze_export.graph.quantized import FP32, scheme_named
from squeeze_export.measure.latency import pinned
from squeeze_export.nets.architecture import Bypass
from squeeze_export.pipeline.calibration import Calibration, calibrate, read_calibration
from squeeze_export.pipeline.export import export
from squeeze_export.pipeline.network import Network, PreprocessChoice, open_network
from squeeze_export.pipeline.sessions import RunOptions, check_device, opened, runtime_for
from squeeze_export.pipeline.summary import measurement, report_of
from squeeze_export.pipeline.timing import time_sessions
from squeeze_export.pipeline.validation import Evaluation, evaluation_images, validate
from squeeze_export.results import Accuracy, Latency, Measurement, Report
from squeeze_export.targets import target_named


@dataclass(frozen=True)
class Job:
    """What to export, and what to find out about it.

    Attributes:
        targets: keys of `targets.TARGETS`.
        scheme: a key of `graph.quantized.SCHEMES`.
        weights: a checkpoint file, named weights, or None for the embedded demo network.
        calib: calibration images; needed for integers unless `table` is given or the network is the demo network.
        table: a table file instead of calibration.
        eval: evaluation images; without them the calibration images serve, and the report says so.
        labels: one class name or wnid a line.
        preprocess: what the user sets of it.
        bypass: needed for simple bypass checkpoints.
        recipe: how to quantize.
        seed: of the sampled positions.
        out: folder of the products; created.
        options: the files' outer form.
        run: runtime, device, threads, rounds.
        validate: whether to compare with the reference.
        bench: whether to time.
        skip_broken: leaves unreadable images out.
    """

    targets: tuple[str, ...]
    scheme: str = FP32.name
    weights: str | Path | None = None
    calib: Path | None = None
    table: Path | None = None
    eval: Path | None = None
    labels: Path | None = None
    preprocess: PreprocessChoice = field(default_factory=PreprocessChoice)
    bypass: Bypass | None = None
    recipe: str = "fast"
    seed: int = 0
    out: Path = Path("squeeze-export-out")
    options: EmitOptions = field(default_factory=EmitOptions)
    run: RunOptions = field(default_factory=RunOptions)
    validate: bool = True
    bench: bool = True
    skip_broken: bool = False


@dataclass(frozen=True)
class _Product:
    """An exported file, or why there is none; `baseline` is its fp32 version in a folder that will be removed."""

    target: str
    artifact: Artifact | None = None
    audit: Audit | None = None
    baseline: Artifact | None = None
    baseline_audit: Audit | None = None
    failure: SqueezeExportError | None = None


def run(job: Job, progress: Progress = silent) -> Report:
    """Exports to every target, validates and times what was exported, and reports.

    With several targets, one that fails becomes a failed row and leaves the others intact; a single one raises.

    Raises:
        SqueezeExportError: whatever stops the job; see `errors` for the kinds.
    """
    scheme = scheme_named(job.scheme)
    for target in job.targets:
        _check_target(target, job)
    with pinned(job.run.cpus):
        pass  # CPUs that are not there are refused before any work is done
    network = open_network(job.weights, preprocess=job.preprocess, labels=job.labels, bypass=job.bypass, progress=progress)
    make_folder(job.out)
    warnings: list[str] = []
    calibration, reference_known = (None, True) if job.table is None else _from_table(job.table, job, network)
    evaluation: Evaluation | None = None
    if job.validate and not reference_known:
        warnings.append("not validated: the table was made from another checkpoint, name it with --weights")
    elif job.validate:
        evaluation = evaluation_images(network, job.eval, job.calib, skip_broken=job.skip_broken, progress=progress)
        if evaluation is None:
            warnings.append("not validated: there are no images, give --eval DIR")
    if scheme.integer and calibration is None:
        calibration = calibrate(
            network,
            job.calib,
            scheme=scheme,
            recipe=job.recipe,
            seed=job.seed,
            skip_broken=job.skip_broken,
            progress=progress,
        )
        warnings += calibration.warnings
    name = network.name if calibration is None else str(calibration.quantized.provenance.get("network", network.name))
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
        products = [_export(target, job, network, calibration, name, Path(folder), reference_known) for target in job.targets]
        made = [artifact for p in products for artifact in (p.artifact, p.baseline) if artifact is not None]
        failures: dict[Path, SqueezeExportError] = {}
        sessions: Mapping[Path, Session] = {}
        accuracies: Mapping[Path, Accuracy] = {}
        latencies: Mapping[Path, Latency] = {}
        if evaluation is not None or job.bench:
            with opened(made, job.run, failures if len(job.targets) > 1 else None) as sessions:
                if evaluation is not None:
                    hashes = calibration.image_hashes if calibration is not None else ()
                    accuracies, found = validate(
                        network, sessions, evaluation, calibration_hashes=hashes, probabilities=job.options.softmax
                    )
                    warnings += found
                if job.bench:
                    baselines = {p.artifact.path: p.baseline.path for p in products if p.artifact and p.baseline}
                    latencies = time_sessions(made, sessions, baselines, job.run, progress)
        rows = _rows(products, job, sessions, failures, accuracies, latencies)
    return report_of(
        rows,
        network=network.facts() if reference_known else {"name": name, "source": job.table.name if job.table else ""},
        calibration=calibration.facts() if calibration is not None else None,
        evaluation=evaluation.facts if evaluation is not None else None,
        warnings=warnings,
    )


def _check_target(target: str, job: Job) -> None:
    """Refuses what can be known to fail before any work is done."""
    module = target_named(target)
    if job.scheme not in module.SCHEMES:
        raise BadInput(f"{target} does not carry the scheme `{job.scheme}`", hint=f"it carries: {', '.join(module.SCHEMES)}")
    name = runtime_for(target, job.run.runtime)
    if len(job.targets) == 1 and (job.validate or job.bench):
        check_device(name, job.run.device)


def _from_table(table: Path, job: Job, network: Network) -> tuple[Calibration, bool]:
    """The integers of a table, and whether `network` is the checkpoint that they came from."""
    calibration = read_calibration(table)
    quantized = calibration.quantized
    if quantized.scheme.name != job.scheme:
        raise BadInput(
            f"the table `{table}` is of scheme `{quantized.scheme.name}`, not `{job.scheme}`",
            hint=f"--scheme {quantized.scheme.name}, or leave out --table",
        )
    same = quantized.checkpoint_sha256 == network.graph.checkpoint_sha256
    if not same and job.weights is not None:
        raise BadInput(
            f"the table `{table}` was not made from `{network.source}`", hint="calibrate again, or name the right --weights"
        )
    if same and quantized.preprocess != network.graph.preprocess:
        raise BadInput(f"the table `{table}` was made with other preprocessing than was asked for", hint="calibrate again")
    if same and network.graph.labels and network.graph.labels != quantized.labels:
        calibration = replace(calibration, quantized=replace(quantized, labels=network.graph.labels))
    return calibration, same


def _export(
    target: str,
    job: Job,
    network: Network,
    calibration: Calibration | None,
    name: str,
    temporary: Path,
    reference_known: bool,
) -> _Product:
    scheme = scheme_named(job.scheme)
    try:
        source = network.graph if calibration is None else calibration.quantized
        artifact, audit = export(source, target, scheme, job.out, name=name, options=job.options)
        if scheme == FP32 or not reference_known or not (job.validate or job.bench):
            return _Product(target, artifact, audit)
        baseline, baseline_audit = export(network.graph, target, FP32, temporary, name=name, options=job.options)
        return _Product(target, artifact, audit, baseline, baseline_audit)
    except SqueezeExportError as err:
        if len(job.targets) == 1:
            raise
        return _Product(target, failure=err)


def _rows(
    products: Sequence[_Product],
    job: Job,
    sessions: Mapping[Path, Session],
    failures: Mapping[Path, SqueezeExportError],
    accuracies: Mapping[Path, Accuracy],
    latencies: Mapping[Path, Latency],
) -> tuple[Measurement, ...]:
    rows = []
    for product in products:
        if product.failure is not None:
            reason = product.failure.message
            rows.append(Measurement(product.target, job.scheme, "", "", 0, status="failed", reason=reason))
        for artifact, audit in ((product.baseline, product.baseline_audit), (product.artifact, product.audit)):
            if artifact is None:
                continue
            rows.append(
                measurement(
                    artifact,
                    device_asked=job.run.device,
                    session=sessions.get(artifact.path),
                    accuracy=accuracies.get(artifact.path),
                    latency=latencies.get(artifact.path),
                    audit=audit,
                    failure=failures.get(artifact.path),
                )
            )
    return tuple(rows)
