"""Files timed beside their base in one job, since milliseconds of another day or machine say nothing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from squeeze_export.core import Artifact, EmitOptions, Progress, Session, silent
from squeeze_export.errors import BadInput
from squeeze_export.gate.bounds import in_unit
from squeeze_export.gate.checks import judged_rows
from squeeze_export.gate.results import Check
from squeeze_export.gate.timing import FEWEST_ROUNDS, ROUNDS, Rounds, SlowdownDecided, decide_slowdown, timed_rounds
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.measure.host import cpu_times, other_load
from squeeze_export.pipeline.calibration import read_calibration
from squeeze_export.pipeline.export import export, read_artifact
from squeeze_export.pipeline.measuring import pixels_for
from squeeze_export.pipeline.sidecar_document import sidecar_path
from squeeze_export.results import Measurement, Report
from squeeze_export.runtimes import runtime_named

DEFAULT_MAX_SLOWDOWN = 5.0
"""Percent: what `--base` allows if no bound is given. The noise of the run is added to it."""

BUSY_CORES = 0.5
"""From so many cores on, what other processes took of the machine is told."""

OpenSession = Callable[[Artifact, Measurement], Session]


def open_session(artifact: Artifact, row: Measurement) -> Session:
    """Opens a file as the row of a report was run: runtime, device, threads."""
    threads = row.latency.threads if row.latency is not None else 1
    return runtime_named(row.runtime).open_session(artifact, device=row.device_asked, threads=threads)


def slowdown_checks(
    report: Report,
    folder: Path,
    base: Path,
    max_slowdown: float,
    *,
    rounds: int = ROUNDS,
    opener: OpenSession = open_session,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Progress = silent,
) -> tuple[Check, ...]:
    """Times the report's files beside files of a base; an alert is timed once more before it counts.

    Args:
        report: the judged rows of which are timed, on the runtime, device and threads that they have.
        folder: where the report and its files are.
        base: a folder of exported files, or a table that they are exported from first.
        max_slowdown: percent.
        rounds: of each measurement.
        opener: opens a file.
        clock: nanoseconds, monotonic.
        progress: told of the rounds of each file.

    Raises:
        BadInput: too few rounds; no such file, folder or table; a file that is not the report's; no file to compare with.
        Unavailable: a runtime or device is not here.
    """
    if rounds < FEWEST_ROUNDS:
        raise BadInput(f"--base-rounds `{rounds}` is below {FEWEST_ROUNDS}", hint=f"--base-rounds {ROUNDS}")
    checks: list[Check] = []
    pairs: list[tuple[Measurement, Artifact, Artifact]] = []
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as scratch:
        find = _from_folder(base) if base.is_dir() else _from_table(base, Path(scratch))
        for row in judged_rows(report):
            why = _why_not_timed(row)
            candidate = _candidate(row, folder) if not why else None
            found = find(candidate) if candidate is not None else None
            if candidate is None or found is None:
                why = why or f"`{base}` has no {row.target} file of the scheme `{row.scheme}`"
                checks.append(_check(row, Check("", "", "skipped", why), max_slowdown))
            else:
                pairs.append((row, candidate, found))
        if not pairs:
            raise BadInput(f"nothing of the report can be timed against `{base}`: {checks[0].message if checks else 'no rows'}")
        for row, candidate, found in pairs:
            loads: list[float] = []
            measure = _measure(row, candidate, found, loads, opener, clock, progress)
            check = _judged(decide_slowdown(measure, max_slowdown, rounds=rounds), max_slowdown)
            checks.append(_check(row, _with_load(check, loads), max_slowdown))
    return tuple(checks)


def _why_not_timed(row: Measurement) -> str:
    if row.status != "ok" or not row.runtime:
        return "it was not run"
    if row.evidence != "measured":
        return f"{row.evidence}: its times say nothing about a device"
    return "it ran on a board, and base and candidate are timed in this process" if row.facts.get("on") else ""


def _candidate(row: Measurement, folder: Path) -> Artifact:
    path = folder / row.artifact
    if not path.resolve().is_relative_to(folder.resolve()) or not path.exists():
        raise BadInput(f"`{row.artifact}` is not beside the report", hint=f"its files belong into `{folder}`")
    artifact = read_artifact(path)
    if artifact.sha256 != row.sha256:
        raise BadInput(f"`{path}` is not the file that the report is about (SHA-256 differs)", hint="make the report again")
    return artifact


def _from_folder(folder: Path) -> Callable[[Artifact], Artifact | None]:
    """Finds files by target and scheme; of several the one of the same name."""
    sidecars = sorted(folder.glob("*.json"))
    files = [read_artifact(path) for side in sidecars if (path := side.with_suffix("")).exists() and side == sidecar_path(path)]

    def find(candidate: Artifact) -> Artifact | None:
        alike = [file for file in files if (file.target, file.scheme) == (candidate.target, candidate.scheme)]
        named = [file for file in alike if file.path.name == candidate.path.name]
        if len(alike) > 1 and not named:
            raise BadInput(
                f"`{folder}` has {len(alike)} {candidate.target} files of the scheme `{candidate.scheme}`", hint="keep one"
            )
        return next(iter(named or alike), None)

    return find


def _from_table(table: Path, scratch: Path) -> Callable[[Artifact], Artifact | None]:
    """Exports a table to the target of a candidate, in its form."""
    quantized, number = read_calibration(table).quantized, count(1)

    def find(candidate: Artifact) -> Artifact | None:
        if candidate.scheme != quantized.scheme.name:
            return None
        batch = candidate.input.shape[0]
        form = EmitOptions(
            batch=batch if isinstance(batch, int) else "dynamic",
            input_dtype=candidate.input.dtype,  # type: ignore[arg-type]  # a file of ours has one of these
            softmax=candidate.ending == "softmax",
            sigmoid=candidate.ending == "sigmoid",
        )
        return export(
            quantized, candidate.target, scheme_named(candidate.scheme), scratch, name=f"base{next(number)}", options=form
        )[0]

    return find


def _measure(
    row: Measurement,
    candidate: Artifact,
    base: Artifact,
    loads: list[float],
    opener: OpenSession,
    clock: Callable[[], int],
    progress: Progress,
) -> Callable[[int], Rounds]:
    """Times fresh rounds, with sessions opened anew; `loads` gets what other processes took of the machine meanwhile."""
    steps = iter(("timing", "confirming"))

    def measure(rounds: int) -> Rounds:
        step = f"{next(steps)} {row.artifact}"
        with _opened((base, candidate, base), row, opener) as sessions:
            calls = [partial(session.infer, pixels_for(artifact)) for session, artifact in sessions]
            for call in calls:
                call()  # one that fails does so before the rounds
            before = cpu_times()
            found = timed_rounds(*calls, rounds=rounds, clock=clock, progress=lambda _, done, total: progress(step, done, total))
            load = other_load(before, cpu_times())
            loads.extend([] if load is None else [load])
            return found

    return measure


@contextmanager
def _opened(artifacts: Sequence[Artifact], row: Measurement, opener: OpenSession) -> Iterator[list[tuple[Session, Artifact]]]:
    with ExitStack() as stack:
        found = []
        for artifact in artifacts:
            session = opener(artifact, row)
            stack.callback(session.close)
            found.append((session, artifact))
        yield found


def _judged(found: SlowdownDecided, max_slowdown: float) -> Check:
    shown, control = found.slowdown, found.control
    message = (
        f"{_change(shown.value)} than the base in the same job [{shown.low:+.1f}, {shown.high:+.1f}], a second copy of the base "
        f"{_change(control.value)}; at most {in_unit(max_slowdown, '%')} slower passes, and the run's noise is added"
    )
    needs = ""
    if found.state == "undecided":
        needs = "more rounds (--base-rounds) on a quieter machine"
        if found.more_rounds is not None:
            needs = f"about {found.more_rounds:,} more rounds (--base-rounds)"
    if found.cleared:
        message = f"an alert that fresh rounds did not confirm: {message}"
    return Check("", "", found.state, message, value=shown.value, interval=shown, needs=needs, cleared=found.cleared)


def _with_load(check: Check, loads: Sequence[float]) -> Check:
    """Tells of other processes that were in the way."""
    if max(loads, default=0.0) < BUSY_CORES:
        return check
    return replace(check, message=f"{check.message}; other processes kept {max(loads):.1f} cores busy meanwhile")


def _change(percent: float) -> str:
    return f"{abs(percent):.1f}% {'slower' if percent >= 0 else 'faster'}"


def _check(row: Measurement, check: Check, max_slowdown: float) -> Check:
    return replace(check, name="max-slowdown", row=row.label, against="base", bound=max_slowdown, unit="%")
