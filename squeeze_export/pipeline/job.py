"""The whole job: checkpoint -> graph -> quantized graph -> artifacts -> sessions -> measurements -> report."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from squeeze_export.core import Artifact, EmitOptions, Progress, Session, silent
from squeeze_export.errors import BadInput, SqueezeExportError
from squeeze_export.files import make_folder
from squeeze_export.graph.quantized import FP32, Scheme, scheme_named
from squeeze_export.images.calibration import CalibrationImages, CalibrationSource, only_folder
from squeeze_export.measure.latency import pinned
from squeeze_export.nets.architecture import Bypass
from squeeze_export.pipeline.boards import gives_logits, unheard
from squeeze_export.pipeline.calibration import Calibration, calibrate, read_images, shift_warnings
from squeeze_export.pipeline.comparison import NO_STEPS, Comparison, has_steps
from squeeze_export.pipeline.evaluation import Evaluation, evaluation_images
from squeeze_export.pipeline.given_table import given_table
from squeeze_export.pipeline.network import Network, PreprocessChoice, open_network
from squeeze_export.pipeline.products import Plan, Product, make_products
from squeeze_export.pipeline.sessions import (
    Entry,
    Key,
    RunOptions,
    check_board,
    check_device,
    drop_unplaced,
    entries_of,
    opened,
    runtime_for,
)
from squeeze_export.pipeline.summary import measurement, report_of
from squeeze_export.pipeline.timing import time_sessions
from squeeze_export.pipeline.training import QAT, Training, check_apart, check_training
from squeeze_export.pipeline.validation import validate
from squeeze_export.pipeline.vendor import Vendor, check_vendor, needs_labels, vendor_images
from squeeze_export.quant.mixed import check_keepable, check_mixed_scheme
from squeeze_export.quant.recipes import RECIPES, check_recipe
from squeeze_export.results import Accuracy, Difference, Latency, Measurement, Report
from squeeze_export.targets import check_carries


@dataclass(frozen=True)
class Job:
    """What to export, and what to find out about it.

    Attributes:
        targets: keys of `targets.TARGETS`.
        scheme: a key of `graph.quantized.SCHEMES`.
        weights: a checkpoint file, named weights, or None for the embedded demo network.
        calib: calibration images, one folder or several with weights; needed for integers unless `table` is given or the network
            is the demo network.
        table: a table file instead of calibration.
        eval: evaluation images; without them the calibration images serve, and the report says so.
        labels: one class name or wnid a line.
        preprocess: what the user sets of it.
        bypass: needed for simple bypass checkpoints.
        recipe: how to quantize.
        training: of the recipe `qat`: on what images, and how.
        seed: of the sampled positions, and of the training.
        keep_float: layers to put back to float, of the schemes `MIXED_SCHEMES`; with a table it takes its checkpoint's weights.
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
    calib: CalibrationSource | None = None
    table: Path | None = None
    eval: Path | None = None
    labels: Path | None = None
    preprocess: PreprocessChoice = field(default_factory=PreprocessChoice)
    bypass: Bypass | None = None
    recipe: str = "fast"
    training: Training | None = None
    seed: int = 0
    keep_float: tuple[str, ...] = ()
    out: Path = Path("squeeze-export-out")
    options: EmitOptions = field(default_factory=EmitOptions)
    run: RunOptions = field(default_factory=RunOptions)
    validate: bool = True
    bench: bool = True
    skip_broken: bool = False

    @property
    def vendor(self) -> bool:
        """Whether the vendors' tools quantize."""
        return self.recipe not in RECIPES and self.recipe != QAT


def run(job: Job, progress: Progress = silent) -> Report:
    """Exports to every target, validates and times what was exported, and reports.

    With several targets, one that fails becomes a failed row and leaves the others intact; a single one raises.

    Raises:
        SqueezeExportError: whatever stops the job; see `errors` for the kinds.
    """
    scheme = scheme_named(job.scheme)
    for target in job.targets:
        _check_target(target, job)
    if job.vendor:
        check_vendor(job.targets, job.recipe, job.scheme, job.options)
        only_folder(job.calib, f"the recipe `{job.recipe}`")
    elif job.recipe != QAT:
        check_recipe(job.recipe, scheme)
    check_training(job.recipe, job.training, scheme)
    _check_kept(job, scheme)
    if job.table is not None and (job.vendor or job.training is not None):
        raise BadInput(f"a table holds our integers; the recipe `{job.recipe}` makes its own", hint="leave out --table")
    if job.run.on is None:
        with pinned(job.run.cpus):
            pass  # CPUs that are not there are refused before any work is done
    elif job.validate or job.bench:
        check_board(job.run)
    network = open_network(job.weights, preprocess=job.preprocess, labels=job.labels, bypass=job.bypass, progress=progress)
    if job.table is None:
        check_keepable(network.graph, job.keep_float)
    if job.training is not None and job.eval is not None and job.validate:
        check_apart(network, job.training.images, job.eval)
    make_folder(job.out)
    warnings: list[str] = []
    integers: Calibration | Vendor | None = None
    reference_known = True
    if job.table is not None:
        integers, reference_known = given_table(job.table, network, scheme=job.scheme, weights=job.weights, layers=job.keep_float)
    evaluation: Evaluation | None = None
    if job.validate and not reference_known:
        warnings.append("not validated: the table was made from another checkpoint, name it with --weights")
    elif job.validate:
        evaluation = evaluation_images(network, job.eval, job.calib, skip_broken=job.skip_broken, progress=progress)
        if evaluation is None:
            warnings.append("not validated: there are no images, give --eval DIR")
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
        if scheme.integer and integers is None:
            images = read_images(network, job.calib, skip_broken=job.skip_broken, progress=progress)
            if evaluation is not None and not evaluation.independent:
                evaluation = evaluation_images(network, None, images)  # so that no file is read again
            integers = _integers(job, network, scheme, images, evaluation, progress)
            warnings += integers.warnings
        name = network.name
        if isinstance(integers, Calibration):
            name = str(integers.quantized.provenance.get("network", name))
        runs = job.validate or job.bench
        baseline = Path(folder) if reference_known and runs else None
        products = make_products(job.targets, Plan(network, integers, scheme, name, job.out, job.options, baseline), progress)
        rows, differences, found = _measured(products, job, network, integers, evaluation, progress)
        if isinstance(integers, Calibration) and evaluation is not None and evaluation.independent:
            found += shift_warnings(integers, evaluation.stream.statistics)
    return report_of(
        rows,
        network=network.facts() if reference_known else {"name": name, "source": job.table.name if job.table else ""},
        calibration=integers.facts() if integers is not None else None,
        evaluation=evaluation.facts if evaluation is not None else None,
        warnings=(*warnings, *found),
        differences=differences,
    )


def _integers(
    job: Job, network: Network, scheme: Scheme, images: CalibrationImages, evaluation: Evaluation | None, progress: Progress
) -> Calibration | Vendor:
    """Ours, or what the vendors' tools make theirs from."""
    if job.vendor:
        labelled = None
        if needs_labels(job.targets, job.recipe):
            labelled = evaluation or evaluation_images(network, job.eval, images, skip_broken=job.skip_broken)
        return vendor_images(images, job.recipe, labelled)
    return calibrate(
        network,
        images,
        scheme=scheme,
        recipe=job.recipe,
        training=job.training,
        seed=job.seed,
        keep_float=job.keep_float,
        skip_broken=job.skip_broken,
        progress=progress,
    )


def _measured(
    products: Sequence[Product],
    job: Job,
    network: Network,
    integers: Calibration | Vendor | None,
    evaluation: Evaluation | None,
    progress: Progress,
) -> tuple[tuple[Measurement, ...], tuple[Difference, ...], tuple[str, ...]]:
    """The rows, the cross-target table, and warnings."""
    made = [artifact for p in products for artifact in (p.baseline, p.artifact) if artifact is not None]
    failures: dict[Key, SqueezeExportError] = {}
    if evaluation is None and not job.bench:
        return _rows(products, job, {}, failures, {}, {}), (), ()
    entries = _entries(made, job)
    integer_entries = [entry for entry in entries if entry.artifact.scheme == job.scheme]
    comparison: Comparison | None = None
    accuracies: Mapping[Key, Accuracy] = {}
    latencies: Mapping[Key, Latency] = {}
    warnings: tuple[str, ...] = ()
    if isinstance(integers, Calibration) and len(integer_entries) > 1 and not job.options.softmax:
        if has_steps(integers.quantized):
            comparison = Comparison(integers.quantized, integer_entries)
        elif evaluation is not None:
            warnings = (NO_STEPS,)
    kept = failures if len(job.targets) > 1 else None
    with opened(entries, job.run, kept) as sessions:
        if evaluation is not None:
            accuracies, found = validate(
                network,
                {key: session for key, session in sessions.items() if gives_logits(session)},
                evaluation,
                calibration_hashes=integers.image_hashes if integers is not None else (),
                probabilities=job.options.softmax,
                emulated_images=job.run.emulated_images,
                comparison=comparison,
                failures=kept,
            )
            warnings += found + unheard(sessions)
        if job.bench:
            baselines = {p.artifact.path: p.baseline.path for p in products if p.artifact and p.baseline}
            sound = [entry for entry in entries if entry.key not in failures]
            latencies = time_sessions(sound, sessions, baselines, job.run, progress, kept)
        drop_unplaced(sessions, kept)
        differences = comparison.differences(sessions) if comparison is not None and evaluation is not None else ()
        return _rows(products, job, sessions, failures, accuracies, latencies), differences, warnings


def _entries(artifacts: Sequence[Artifact], job: Job) -> list[Entry]:
    return entries_of(artifacts, job.run.runtime, on=job.run.on, device=job.run.device)


def _check_target(target: str, job: Job) -> None:
    """Refuses what can be known to fail before any work is done."""
    check_carries(target, job.scheme, job.options)
    name = runtime_for(target, job.run.runtime)
    if len(job.targets) == 1 and (job.validate or job.bench) and job.run.on is None:
        check_device(name, job.run.device)


def _check_kept(job: Job, scheme: Scheme) -> None:
    """Refuses layers in float where there are none, before any work is done."""
    if not job.keep_float:
        return
    check_mixed_scheme(scheme)
    if job.vendor:
        raise BadInput(f"layers are kept in float in our integers; the recipe `{job.recipe}` makes its own", hint="--recipe fast")


def _rows(
    products: Sequence[Product],
    job: Job,
    sessions: Mapping[Key, Session],
    failures: Mapping[Key, SqueezeExportError],
    accuracies: Mapping[Key, Accuracy],
    latencies: Mapping[Key, Latency],
) -> tuple[Measurement, ...]:
    rows = []
    for product in products:
        if product.failure is not None:
            reason = product.failure.message
            rows.append(Measurement(product.target, job.scheme, "", "", 0, status="failed", reason=reason))
        for artifact, audit in ((product.baseline, product.baseline_audit), (product.artifact, product.audit)):
            rows += [
                measurement(
                    entry,
                    device_asked=job.run.device,
                    session=sessions.get(entry.key),
                    accuracy=accuracies.get(entry.key),
                    latency=latencies.get(entry.key),
                    audit=audit,
                    failure=failures.get(entry.key),
                )
                for entry in (_entries([artifact], job) if artifact is not None else ())
            ]
    return tuple(rows)
