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
from squeeze_export.pipeline.export import keep_compiled
from squeeze_export.pipeline.job import Done, Job, carry_out
from squeeze_export.pipeline.measuring import Comparing, measured, row_of
from squeeze_export.pipeline.sessions import Entry, Outcome, RunOptions, check_device, kept
from squeeze_export.results import Measurement, Report
from squeeze_export.targets import target_named

ALIKE: Mapping[str, str] = {"ethosu": "litert-builtin"}
"""Compiler -> the runtime here whose arithmetic its chips are meant to have; the file that is compiled is compared on it.

Ethos-U: "Vela is tested by comparing the bit exact numerical behaviour of the Ethos-U optimised operators against that of the
corresponding TensorFlow Lite reference kernels" (README of ethos-u-vela 3.x, TensorFlow Support; that of 5.2 says nothing of it).
"""


@dataclass(frozen=True)
class _ForChip:
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
    where it is measured) latency where one of the compiler's runtimes opens the file. With several chips, one that fails
    becomes a failed row and leaves the others intact; a single one raises.

    Args:
        job: `targets` does not matter. `run.runtime` may name one of the compiler's runtimes or one of its format's, `run.device`
            is the chip's in the words of the compiler's runtime; where it has none, of the runtime of the file that is compiled.
        compiler: a key of `registry.COMPILERS`.
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
    done = carry_out(replace(job, targets=(module.TARGET,), run=base), progress, again=runs and job.validate)
    source = done.exported[0].files[-1]
    files = []
    for count, chip in enumerate(chosen):
        progress("compiling", count, len(chosen))
        files.append(_compiled(source, module, chip, chips_settings, alone=len(chosen) == 1))
    progress("compiling", len(chosen), len(chosen))
    if runs and own is not None:
        rows, warnings = _measured(files, job, compiler, own, done, progress)
    else:
        rows, warnings = [_row(file, job, module) for file in files], ()
    report = done.report
    return replace(
        report,
        tool_versions={**report.tool_versions, **tool_versions(module.PACKAGES)},
        measurements=(*report.measurements, *rows),
        warnings=tuple(dict.fromkeys((*report.warnings, *warnings))),
    )


def _run_options(job: Job, compiler: str, module: Compiler) -> tuple[RunOptions, RunOptions | None]:
    """How to run the file that is compiled, and the files; None where nothing here runs those.

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


def _compiled(source: Artifact, module: Compiler, chip: str, settings: Mapping[str, str], *, alone: bool) -> _ForChip:
    """`<network>.<scheme>.<chip><suffix>` and its sidecar beside the file that is compiled."""
    stem = source.path.name.removesuffix(target_named(module.TARGET).SUFFIX)
    try:
        with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
            compiled = module.compile_for(source, chip, settings, Path(folder))
        versions = {**source.provenance.get("versions", {}), **tool_versions(module.PACKAGES)}
        provenance = {"chip": chip, "settings": dict(compiled.settings), "versions": versions}
        path = source.path.with_name(f"{stem}.{chip}{module.SUFFIX}")
        return _ForChip(chip, keep_compiled(compiled.content, path, source, module.NAME, provenance), compiled)
    except SqueezeExportError as err:
        return _ForChip(chip, failure=kept(err, alone=alone))


def _measured(
    files: Sequence[_ForChip], job: Job, compiler: str, options: RunOptions, done: Done, progress: Progress
) -> tuple[list[Measurement], tuple[str, ...]]:
    """Opens the files with the compiler's runtime, compares them with the reference and times those that are no emulation."""
    runtime = options.runtime or ""
    entries = [Entry(file.artifact, runtime) for file in files if file.artifact is not None]
    comparing = Comparing(done.network, done.images) if done.images is not None else None
    found = measured(entries, options, comparing=comparing, bench=job.bench, alone=len(files) == 1, progress=progress)
    measured_rows = iter(found.rows)
    rows = []
    for file in files:
        if file.artifact is None:
            rows.append(_failed(file, job.scheme, compiler, runtime))
        else:
            row = next(measured_rows)
            rows.append(replace(row, facts={**_chip_facts(file), **row.facts}))
    return rows, found.warnings


def _row(file: _ForChip, job: Job, module: Compiler) -> Measurement:
    """What the compiler itself tells of a product that nothing here runs."""
    artifact, compiled = file.artifact, file.compiled
    if artifact is None or compiled is None:
        return _failed(file, job.scheme, module.NAME, _tool(module))
    row = row_of(Outcome(Entry(artifact, "")), device_asked=file.chip)
    if compiled.estimate is None and compiled.placement is None:
        return row
    return replace(
        row,
        runtime=_tool(module),
        device=file.chip,
        evidence="estimated",
        placement=compiled.placement,
        estimate=compiled.estimate,
    )


def _tool(module: Compiler) -> str:
    """What a table says made an estimate."""
    return module.PACKAGES[0] if module.PACKAGES else module.NAME


def _failed(file: _ForChip, scheme: str, compiler: str, runtime: str) -> Measurement:
    reason = file.failure.message if file.failure is not None else ""
    return Measurement(compiler, scheme, "", "", 0, runtime=runtime, device_asked=file.chip, status="failed", reason=reason)


def _chip_facts(file: _ForChip) -> dict[str, str]:
    """For a report: what a product was compiled for."""
    settings = file.compiled.settings if file.compiled is not None else {}
    return {"compiled_for": file.chip, **settings}
