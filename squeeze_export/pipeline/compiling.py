"""Files for chips: the export job, then the compiler for every chip, then the chip's runtime if this machine has one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from squeeze_export.compilers import Compiled, Compiler, compiler_named
from squeeze_export.core import Artifact, Progress, silent
from squeeze_export.errors import BadInput, SqueezeExportError, did_you_mean
from squeeze_export.measure.host import tool_versions
from squeeze_export.pipeline.export import keep_compiled
from squeeze_export.pipeline.job import Job, carry_out, nobody
from squeeze_export.pipeline.measuring import Comparing, measured, row_of
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.sessions import Entry, Outcome, RunOptions, kept
from squeeze_export.results import Measurement, Report
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named

ALIKE: Mapping[str, str] = {"ethosu": "litert-builtin"}
"""Compiler -> the runtime whose arithmetic its chips are meant to have; the file to be compiled is measured with it.

Ethos-U: "Vela is tested by comparing the bit exact numerical behaviour of the Ethos-U optimised operators against that of the
corresponding TensorFlow Lite reference kernels" (README of ethos-u-vela 3.x, TensorFlow Support; that of 5.2 says nothing of it).
"""


def run_compiled(
    job: Job,
    compiler: str,
    chips: Sequence[str],
    settings: Mapping[str, str] | None = None,
    progress: Progress = silent,
    opened: Callable[[Network], None] = nobody,
) -> Report:
    """Does the job for the format that a compiler takes, and compiles the file for every chip.

    The rows of the job come first, then one row for each chip: an estimate if the compiler makes one; accuracy, placement and (only
    if it is measured) latency if one of the compiler's runtimes opens the file. With several chips, one that fails
    becomes a failed row and leaves the others intact; a single one raises.

    Args:
        job: `targets` does not matter. `run.runtime` may name one of the compiler's runtimes or one of its format's, `run.device`
            is for the compiler's runtime, or if it has none, for the runtime of the file that is compiled.
        compiler: a key of `registry.COMPILERS`.
        chips: each of the compiler's `CHIPS`, or a name that it understands; empty takes its first.
        settings: name -> value, as the user chose; the others have their defaults.
        progress: told of everything.
        opened: as in `job.run`.

    Raises:
        BadInput: a scheme that the compiler does not take, a chip or a setting that it does not know, and what `run` raises.
        Unavailable: the toolchain, the runtime or the device is not on this machine.
        Refused: the compiler failed at the only chip.
    """
    module = compiler_named(compiler)
    chosen = tuple(dict.fromkeys(chips)) or module.CHIPS[:1]
    settings = settings or {}
    if job.scheme not in module.SCHEMES:
        raise BadInput(f"{compiler} does not take the scheme `{job.scheme}`", hint=f"it takes: {', '.join(module.SCHEMES)}")
    for chip in chosen:
        module.check(chip, settings)
    base, runtime = _runtimes(job, compiler, module)
    if runtime:
        runtime_named(runtime).check_device(job.run.device)
    done = carry_out(replace(job, targets=(module.TARGET,), run=base), progress, opened, again=bool(runtime) and job.validate)
    source = done.exported[0].files[-1]
    made: dict[str, tuple[Artifact, Compiled]] = {}
    failures: dict[str, SqueezeExportError] = {}
    for count, chip in enumerate(chosen):
        progress("compiling", count, len(chosen))
        try:
            made[chip] = _compiled(source, module, chip, settings)
        except SqueezeExportError as err:
            failures[chip] = kept(err, alone=len(chosen) == 1)
    progress("compiling", len(chosen), len(chosen))
    report, warnings = done.report, done.report.warnings
    tool = module.PACKAGES[0] if module.PACKAGES else module.NAME
    rows = {chip: _told(chip, *files, tool) for chip, files in made.items()}
    if runtime:
        tool = runtime
        entries, options = [Entry(artifact, runtime) for artifact, _ in made.values()], replace(job.run, runtime=runtime)
        comparing = Comparing(done.network, done.images) if done.images is not None else None
        found = measured(entries, options, comparing=comparing, bench=job.bench, alone=len(chosen) == 1, progress=progress)
        warnings += found.warnings
        for (chip, (_, compiled)), row in zip(made.items(), found.rows, strict=True):
            rows[chip] = replace(row, facts={"compiled_for": chip, **compiled.settings, **row.facts})
    for chip, failure in failures.items():
        failed = Measurement(compiler, job.scheme, "", "", 0, runtime=tool, device_asked=chip, status="failed")
        rows[chip] = replace(failed, reason=failure.message)
    return replace(
        report,
        tool_versions={**report.tool_versions, **tool_versions(module.PACKAGES)},
        measurements=(*report.measurements, *(rows[chip] for chip in chosen)),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _runtimes(job: Job, compiler: str, module: Compiler) -> tuple[RunOptions, str]:
    """How to run the file that is compiled, and the runtime for the compiled files; empty if there is none or none is needed.

    Raises:
        BadInput: the runtime asked for opens neither.
    """
    asked, known = job.run.runtime, module.RUNTIMES
    if not known:
        return replace(job.run, runtime=asked or ALIKE.get(compiler)), ""
    plain = target_named(module.TARGET).RUNTIMES
    if asked is not None and asked not in (*known, *plain):
        raise BadInput(f"the runtime `{asked}` does not open {compiler} files", hint=did_you_mean(asked, known))
    base = asked if asked in plain and asked not in known else ALIKE.get(compiler)
    own = asked if asked is not None and asked in known else known[0]
    return replace(job.run, runtime=base, device="cpu"), own if job.validate or job.bench else ""


def _compiled(source: Artifact, module: Compiler, chip: str, settings: Mapping[str, str]) -> tuple[Artifact, Compiled]:
    """Writes `<network>.<scheme>.<chip><suffix>` and its sidecar beside the file that is compiled."""
    stem = source.path.name.removesuffix(target_named(module.TARGET).SUFFIX)
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
        compiled = module.compile_for(source, chip, settings, Path(folder))
    versions = {**source.provenance.get("versions", {}), **tool_versions(module.PACKAGES)}
    provenance = {"chip": chip, "settings": dict(compiled.settings), "versions": versions}
    path = source.path.with_name(f"{stem}.{chip}{module.SUFFIX}")
    return keep_compiled(compiled.content, path, source, module.NAME, provenance), compiled


def _told(chip: str, artifact: Artifact, compiled: Compiled, tool: str) -> Measurement:
    """A row with what the compiler itself says about its product."""
    row = row_of(Outcome(Entry(artifact, "")), device_asked=chip)
    if compiled.estimate is None and compiled.placement is None:
        return row
    told = replace(row, runtime=tool, device=chip, evidence="estimated")
    return replace(told, placement=compiled.placement, estimate=compiled.estimate)
