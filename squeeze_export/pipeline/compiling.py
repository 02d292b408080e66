"""Files for chips: the export job, then a compiler for every chip, then the chip's runtime where there is one here."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from squeeze_export.compilers import Compiled, Compiler, compiler_named
from squeeze_export.core import Artifact, Progress, silent
from squeeze_export.errors import BadInput, SqueezeExportError
from squeeze_export.measure.host import tool_versions
from squeeze_export.pipeline.evaluation import evaluation_images
from squeeze_export.pipeline.export import keep_compiled, read_artifact
from squeeze_export.pipeline.job import Job, run
from squeeze_export.pipeline.network import open_network
from squeeze_export.pipeline.sessions import Entry, Key, RunOptions, check_device, drop_unplaced, opened
from squeeze_export.pipeline.summary import measurement
from squeeze_export.pipeline.timing import time_sessions
from squeeze_export.pipeline.validation import validate
from squeeze_export.results import Accuracy, Latency, Measurement, Report
from squeeze_export.targets import target_named

ALIKE: Mapping[str, str] = {"ethosu": "litert-builtin"}
"""Compiler -> the runtime here whose arithmetic its chips are meant to have; the file that is compiled is compared on it.

Ethos-U: "Vela is tested by comparing the bit exact numerical behaviour of the Ethos-U optimised operators against that of the
corresponding TensorFlow Lite reference kernels" (README of ethos-u-vela 3.x, TensorFlow Support; that of 5.2 says nothing of it).
"""


@dataclass(frozen=True)
class _Product:
    """What was made for one chip, or why nothing was."""

    chip: str
    artifact: Artifact | None = None
    compiled: Compiled | None = None
    failure: SqueezeExportError | None = None


def run_compiled(
    job: Job, compiler: str, chips: Sequence[str], settings: Mapping[str, str] | None = None, progress: Progress = silent
) -> Report:
    """Does the job for the format that a compiler takes, and compiles what it made for every chip.

    The rows of the job come first, then one row a chip: an estimate where the compiler makes one; accuracy, placement and (only
    where it is measured) latency where one of the compiler's runtimes opens the product. With several chips, one that fails
    becomes a failed row and leaves the others intact; a single one raises.

    Args:
        job: `targets` does not matter. `run.runtime` may name one of the compiler's runtimes or one of its format's, `run.device`
            is the chip's in the words of the compiler's runtime; where it has none, of the runtime of the file that is compiled.
        compiler: a key of `compilers.COMPILERS`.
        chips: each of the compiler's `CHIPS`, or a name that it understands; empty takes its first.
        settings: name -> value of what the user chose; what is not there has its default.
        progress: told of everything.

    Raises:
        BadInput: a scheme that the compiler does not take, a chip or a setting that it does not know, and what `run` raises.
        Unavailable: the toolchain, the runtime or the device is not on this machine.
        Refused: the compiler failed at the only chip.
    """
    module = compiler_named(compiler)
    chosen = tuple(dict.fromkeys(chips)) or module.CHIPS[:1]
    chips_settings = dict(settings or {})
    if job.scheme not in module.SCHEMES:
        raise BadInput(f"{compiler} does not take the scheme `{job.scheme}`", hint=f"it takes: {', '.join(module.SCHEMES)}")
    for chip in chosen:
        module.check(chip, chips_settings)
    base, own = _run_options(job, compiler, module)
    runs = own is not None and (job.validate or job.bench)
    if own is not None and own.runtime is not None and runs:
        check_device(own.runtime, own.device)
    report = run(replace(job, targets=(module.TARGET,), run=base), progress)
    source = read_artifact(job.out / next(row.artifact for row in report.measurements if row.scheme == job.scheme))
    products = []
    for done, chip in enumerate(chosen):
        progress("compiling", done, len(chosen))
        products.append(_product(source, module, chip, chips_settings, alone=len(chosen) == 1))
    progress("compiling", len(chosen), len(chosen))
    if runs and own is not None:
        compared = job.validate and bool(report.evaluation)
        rows, warnings = _run(products, job, compiler, own, compared=compared, progress=progress)
    else:
        rows, warnings = [_row(product, job, module) for product in products], ()
    return replace(
        report,
        tool_versions={**report.tool_versions, **tool_versions(module.PACKAGES)},
        measurements=(*report.measurements, *rows),
        warnings=tuple(dict.fromkeys((*report.warnings, *warnings))),
    )


def _run_options(job: Job, compiler: str, module: Compiler) -> tuple[RunOptions, RunOptions | None]:
    """How to run the file that is compiled, and the products; None where nothing here runs those.

    Raises:
        BadInput: the runtime asked for opens neither.
    """
    asked = job.run.runtime
    if not module.RUNTIMES:
        return replace(job.run, runtime=asked or ALIKE.get(compiler)), None
    plain = target_named(module.TARGET).RUNTIMES
    if asked is not None and asked not in (*module.RUNTIMES, *plain):
        raise BadInput(f"the runtime `{asked}` does not open {compiler} files", hint=f"one of: {', '.join(module.RUNTIMES)}")
    base = asked if asked in plain and asked not in module.RUNTIMES else ALIKE.get(compiler)
    own = asked if asked in module.RUNTIMES else module.RUNTIMES[0]
    return replace(job.run, runtime=base, device="cpu"), replace(job.run, runtime=own)


def _product(source: Artifact, module: Compiler, chip: str, settings: Mapping[str, str], *, alone: bool) -> _Product:
    """`<network>.<scheme>.<chip><suffix>` and its sidecar beside the file that is compiled."""
    stem = source.path.name.removesuffix(target_named(module.TARGET).SUFFIX)
    try:
        with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
            compiled = module.compile_for(source, chip, settings, Path(folder))
        versions = {**source.provenance.get("versions", {}), **tool_versions(module.PACKAGES)}
        provenance = {"chip": chip, "settings": dict(compiled.settings), "versions": versions}
        path = source.path.with_name(f"{stem}.{chip}{module.SUFFIX}")
        return _Product(chip, keep_compiled(compiled.content, path, source, module.NAME, provenance), compiled)
    except SqueezeExportError as err:
        if alone:
            raise
        return _Product(chip, failure=err)


def _run(
    products: Sequence[_Product], job: Job, compiler: str, options: RunOptions, *, compared: bool, progress: Progress
) -> tuple[list[Measurement], tuple[str, ...]]:
    """Opens the products with the compiler's runtime, compares them with the reference and times those that are no emulation."""
    failures: dict[Key, SqueezeExportError] | None = {} if len(products) > 1 else None
    runtime = options.runtime or ""
    entries = [Entry(product.artifact, runtime) for product in products if product.artifact is not None]
    accuracies: Mapping[Key, Accuracy] = {}
    latencies: Mapping[Key, Latency] = {}
    warnings: tuple[str, ...] = ()
    with opened(entries, options, failures) as sessions:
        network = open_network(job.weights, preprocess=job.preprocess, labels=job.labels, bypass=job.bypass) if compared else None
        if network is not None and sessions:
            evaluation = evaluation_images(network, job.eval, job.calib, skip_broken=job.skip_broken, progress=progress)
            if evaluation is not None:
                accuracies, warnings = validate(
                    network,
                    sessions,
                    evaluation,
                    probabilities=job.options.softmax,
                    emulated_images=options.emulated_images,
                    failures=failures,
                )
        if job.bench:
            sound = [entry for entry in entries if entry.key not in (failures or {})]
            latencies = time_sessions(sound, sessions, {}, options, progress, failures)
        drop_unplaced(sessions, failures)
        rows = []
        for product in products:
            if product.artifact is None:
                rows.append(_failed(product, job.scheme, compiler, runtime))
                continue
            entry = Entry(product.artifact, runtime)
            row = measurement(
                entry,
                device_asked=options.device,
                session=sessions.get(entry.key),
                accuracy=accuracies.get(entry.key),
                latency=latencies.get(entry.key),
                failure=(failures or {}).get(entry.key),
            )
            rows.append(replace(row, facts={**_chip_facts(product), **row.facts}))
    return rows, warnings


def _row(product: _Product, job: Job, module: Compiler) -> Measurement:
    """What the compiler itself tells of a product that nothing here runs."""
    artifact, compiled = product.artifact, product.compiled
    if artifact is None or compiled is None:
        return _failed(product, job.scheme, module.NAME, module.PACKAGES[0])
    row = measurement(Entry(artifact, ""), device_asked=product.chip)
    if compiled.estimate is None and compiled.placement is None:
        return row
    return replace(
        row,
        runtime=module.PACKAGES[0],
        device=product.chip,
        evidence="estimated",
        placement=compiled.placement,
        estimate=compiled.estimate,
    )


def _failed(product: _Product, scheme: str, compiler: str, runtime: str) -> Measurement:
    reason = product.failure.message if product.failure is not None else ""
    return Measurement(compiler, scheme, "", "", 0, runtime=runtime, device_asked=product.chip, status="failed", reason=reason)


def _chip_facts(product: _Product) -> dict[str, str]:
    """For a report: what a product was compiled for."""
    settings = product.compiled.settings if product.compiled is not None else {}
    return {"compiled_for": product.chip, **settings}
