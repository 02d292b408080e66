"""The whole job: checkpoint -> graph -> quantized graph -> artifacts -> sessions -> measurements -> report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from squeeze_export.core import EmitOptions, Progress, silent
from squeeze_export.errors import BadInput, NotInstalled
from squeeze_export.files import make_folder
from squeeze_export.graph.quantized import FP32, Scheme, scheme_named
from squeeze_export.images.calibration import CalibrationSource, only_folder
from squeeze_export.measure.latency import pinned
from squeeze_export.measure.roofline import FEWEST_ROUNDS, roofline_of
from squeeze_export.nets.architecture import StructureChoice
from squeeze_export.pipeline.calibration import Calibration, calibrate, read_images, shift_warnings
from squeeze_export.pipeline.evaluation import Evaluation, check_top1, evaluation_images
from squeeze_export.pipeline.exporting import Exported, Order, check_installed, export_all, others_files
from squeeze_export.pipeline.measuring import Comparing, Measured, measured, row_of
from squeeze_export.pipeline.network import Network, PreprocessChoice, open_network
from squeeze_export.pipeline.pixels import pixel_warnings, wrong_pixels_unlabelled
from squeeze_export.pipeline.recipes import Recipe, check_recipe
from squeeze_export.pipeline.sessions import Entry, Outcome, RunOptions, entries_of, reached, runtime_for
from squeeze_export.pipeline.summary import report_of
from squeeze_export.pipeline.tables import given_table
from squeeze_export.pipeline.training import Training, check_apart, check_training
from squeeze_export.pipeline.vendor import Vendor, check_vendor, vendor_images
from squeeze_export.quant.mixed import check_keepable, check_mixed_scheme
from squeeze_export.results import Measurement, Report, Roofline
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import check_carries, target_named

NO_LABELS = {"labels": "none"}
"""What a report says of the network if the files name no classes."""


@dataclass(frozen=True)
class Job:
    """What to export, and what to find out about it.

    Attributes:
        targets: keys of `registry.TARGETS`.
        scheme: a key of `graph.quantized.SCHEMES`.
        weights: a checkpoint file, named weights, or None for the embedded demo network.
        calib: calibration images, one folder or several with weights; needed for integers unless `table` is given or the network
            is the demo network.
        table: a table file instead of calibration.
        eval: evaluation images; without them the calibration images serve, and the report says so.
        labels: a file of class names, in any form that `label_files` reads.
        classes: the same, of the names that folders of images go by, where these differ.
        preprocess: what the user changes of the checkpoint's.
        structure: what the user tells of what a state dict does not tell.
        like: a float ONNX file of the same network, which tells it.
        expect: as in `open_network`: the user's own logits, which the reference must give.
        expect_top1: the reference's top-1 on the labelled evaluation images as the user knows it, percent.
        checkpoint_key: which network of a checkpoint that holds several.
        recipe: how to quantize.
        training: for the recipe `qat`: on which images, and how.
        seed: for the sampled positions and the training.
        keep_float: layers to put back to float, in the schemes `MIXED_SCHEMES`. With a table, its checkpoint is needed too.
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
    classes: Path | None = None
    preprocess: PreprocessChoice = field(default_factory=PreprocessChoice)
    structure: StructureChoice = field(default_factory=StructureChoice)
    like: Path | None = None
    expect: Path | None = None
    expect_top1: float | None = None
    checkpoint_key: str | None = None
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


@dataclass(frozen=True, eq=False)
class Done:
    """What a job did.

    Attributes:
        report: what it found out.
        exported: what it wrote for each target.
        network: the checkpoint.
        images: that the files were compared on; None if they were not.
    """

    report: Report
    exported: tuple[Exported, ...]
    network: Network
    images: Evaluation | None


def nobody(network: Network) -> None:
    """Is told of a network that was opened, and does nothing."""


def run(job: Job, progress: Progress = silent, opened: Callable[[Network], None] = nobody) -> Report:
    """Exports to every target, validates and times the files, and reports.

    With several targets, one that fails becomes a failed row and leaves the others intact, and one whose packages are not installed
    a skipped row; a single one raises.

    Args:
        job: what to do.
        progress: told of everything.
        opened: told of the network before the long work begins, so that a user sees at once what was assumed about it.

    Raises:
        SqueezeExportError: whatever stops the job; see `errors` for the kinds.
    """
    return carry_out(job, progress, opened).report


def carry_out(job: Job, progress: Progress = silent, opened: Callable[[Network], None] = nobody, *, again: bool = False) -> Done:
    """`run`, for a caller that needs the network and the files too; `again` as in `evaluation_images`."""
    scheme = scheme_named(job.scheme)
    recipe = _check(job, scheme)
    network = open_network(
        job.weights,
        preprocess=job.preprocess,
        labels=job.labels,
        classes=job.classes,
        structure=job.structure,
        like=job.like,
        expect=job.expect,
        checkpoint_key=job.checkpoint_key,
        progress=progress,
    )
    opened(network)
    if job.table is None:
        check_keepable(network.graph, job.keep_float)
    if job.training is not None and job.eval is not None and job.validate:
        check_apart(network, job.training.images, job.eval)
    if job.expect_top1 is not None:
        check_top1(network, job.eval, job.expect_top1, skip_broken=job.skip_broken, progress=progress)
    make_folder(job.out)
    warnings: list[str] = []
    if job.options.softmax and network.class_count == 1:
        warnings.append("a softmax over one output gives 1 for every image: leave out --softmax")
    integers: Calibration | Vendor | None = None
    reference_known = True
    if job.table is not None:
        integers, reference_known = given_table(job.table, network, scheme=job.scheme, weights=job.weights, layers=job.keep_float)
    evaluation: Evaluation | None = None
    reading: dict[str, Any] = {"skip_broken": job.skip_broken, "progress": progress}
    if job.validate and not reference_known:
        warnings.append("not validated: the table was made from another checkpoint, name it with --weights")
    elif job.validate:
        evaluation = evaluation_images(network, job.eval, job.calib, again=again or recipe.labels, skip_broken=job.skip_broken)
        if evaluation is None:
            warnings.append("not validated: there are no images, give --eval DIR")
    if scheme.integer and integers is None:
        images = read_images(network, job.calib, **reading)
        if evaluation is not None and not evaluation.independent:
            evaluation = evaluation_images(network, None, images)  # so that no file is read again
        if recipe.maker == "vendor":
            on = (
                (evaluation or evaluation_images(network, job.eval, images, skip_broken=job.skip_broken)) if recipe.labels else None
            )
            integers = vendor_images(images, job.recipe, on)
            warnings += pixel_warnings(network, images.batch.pixels, progress=progress)
        else:
            integers = calibrate(
                network,
                images,
                scheme=scheme,
                recipe=recipe,
                training=job.training,
                seed=job.seed,
                keep_float=job.keep_float,
                **reading,
            )
        warnings += integers.warnings
    if not scheme.integer and evaluation is not None:
        warnings += wrong_pixels_unlabelled(network, evaluation, progress=progress)
    ours = integers if isinstance(integers, Calibration) else None
    name = str(ours.quantized.provenance.get("network", network.name)) if ours is not None else network.name
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
        needed = job.validate or job.bench
        written = ours.quantized if ours is not None else network.graph
        orders = [Order(written, scheme, job.out)]
        if reference_known and needed and scheme != FP32:
            orders.append(Order(network.graph, FP32, Path(folder)))
        vendor = integers if isinstance(integers, Vendor) else None
        origin = network.origin() if reference_known else {}
        stem = f"{name}.{job.recipe}.{scheme.name}" if vendor is not None else f"{name}.{scheme.name}"
        places = [job.out / f"{stem}{target_named(target).SUFFIX}" for target in job.targets]
        others = others_files(places, orders[0].network.checkpoint_sha256)
        exported = export_all(job.targets, orders, name=name, options=job.options, vendor=vendor, origin=origin, progress=progress)
        files = {artifact.path.name for each in exported for artifact in each.files}
        warnings += [
            f"`{name}` of another checkpoint was replaced: --out DIR keeps networks apart" for name in others if name in files
        ]
        entries = entries_of([artifact for each in exported for artifact in each.files], job.run, needed=needed)
        comparing = None
        if evaluation is not None:
            hashes = integers.image_hashes if integers is not None else ()
            comparing = Comparing(network, evaluation, hashes, table=ours.quantized if ours is not None else None)
        if comparing is None and not job.bench:
            found = Measured(tuple(row_of(Outcome(entry), device_asked=job.run.device) for entry in entries))
        else:
            alone = len(job.targets) == 1
            found = measured(entries, job.run, comparing=comparing, bench=job.bench, alone=alone, progress=progress)
    warnings += (*found.warnings, *shift_warnings(ours, evaluation))
    warnings = list(dict.fromkeys(warnings))  # where the calibration images serve twice
    facts = network.facts() if reference_known else {"name": name, "source": job.table.name if job.table else ""}
    report = report_of(
        _rows(exported, job.scheme, entries, found.rows),
        network=facts if written.labels or network.class_count == 1 else {**facts, **NO_LABELS},
        calibration=integers.facts() if integers is not None else None,
        evaluation=evaluation.facts if evaluation is not None else None,
        warnings=warnings,
        differences=found.differences,
        assumptions=network.assumptions if reference_known else (),
        images=found.images,
        roofline=_roofline(job, network, found.rows) if reference_known else None,
    )
    return Done(report, tuple(exported), network, evaluation)


def _roofline(job: Job, network: Network, rows: Sequence[Measurement]) -> Roofline | None:
    """Measured where files were timed on this machine, and for long enough."""
    if job.run.on is not None or job.run.rounds < FEWEST_ROUNDS or not any(row.latency is not None for row in rows):
        return None
    with pinned(job.run.cpus):
        return roofline_of(network.graph)


def _rows(
    exported: Sequence[Exported], scheme: str, entries: Sequence[Entry], rows: Sequence[Measurement]
) -> tuple[Measurement, ...]:
    """The rows of each target in turn. One that was not written has a row that tells why: it failed, or it was skipped because what
    writes it is not installed."""
    found: list[Measurement] = []
    for each in exported:
        if isinstance(each.failure, NotInstalled):
            reason = ": ".join(filter(None, (each.failure.message, each.failure.hint)))
            found.append(Measurement(each.target, scheme, "", "", 0, status="skipped", reason=reason))
        elif each.failure is not None:
            found.append(Measurement(each.target, scheme, "", "", 0, status="failed", reason=each.failure.message))
        found += [row for entry, row in zip(entries, rows, strict=True) if entry.artifact.target == each.target]
    return tuple(found)


def _check(job: Job, scheme: Scheme) -> Recipe:
    """Refuses, before any work is done, what is known to fail."""
    for target in job.targets:
        _check_target(target, job)
    check_installed(job.targets)
    recipe = check_recipe(job.recipe, scheme)
    if recipe.maker == "vendor":
        check_vendor(job.targets, job.recipe, job.scheme, job.options)
        only_folder(job.calib, f"the recipe `{job.recipe}`")
    check_training(recipe, job.training, scheme)
    if job.keep_float:
        check_mixed_scheme(scheme)
        if recipe.maker == "vendor":
            message = f"layers are kept in float in our integers; the recipe `{job.recipe}` makes its own"
            raise BadInput(message, hint="--recipe fast")
    if job.table is not None and recipe.maker != "ours":
        raise BadInput(f"a table holds our integers; the recipe `{job.recipe}` makes its own", hint="leave out --table")
    if job.run.on is None:
        with pinned(job.run.cpus):
            pass  # CPUs that are not there are refused
    elif job.validate or job.bench:
        with reached(job.run):
            pass  # before any work is done for it
    return recipe


def _check_target(target: str, job: Job) -> None:
    """Refuses a target that does not carry the scheme and form, or does not run here."""
    check_carries(target, job.scheme, job.options)
    name = runtime_for(target, job.run.runtime, needed=job.validate or job.bench)
    if len(job.targets) == 1 and (job.validate or job.bench) and job.run.on is None:
        runtime_named(name).check_device(job.run.device)
