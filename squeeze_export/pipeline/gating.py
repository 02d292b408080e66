"""The gate: a report, held to bounds, to a baseline and to files timed beside its own, becomes verdicts for a CI run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from squeeze_export.core import Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.files import make_folder, write_text
from squeeze_export.gate.baseline import BASELINE, BaselineChange, baseline_of, changes, check_same_network, read_baseline
from squeeze_export.gate.baseline import SCHEMA as BASELINE_SCHEMA
from squeeze_export.gate.bounds import WORDS, Bounds, bounds_of, read_bound
from squeeze_export.gate.checks import absolute_checks
from squeeze_export.gate.consistency import check_report
from squeeze_export.gate.regressions import regression_checks, version_changes
from squeeze_export.gate.results import SCHEMA as RESULT
from squeeze_export.gate.results import Check, GateResult, gate_result
from squeeze_export.gate.suggestion import suggested_settings
from squeeze_export.gate.timing import ROUNDS
from squeeze_export.pipeline.slowdown import DEFAULT_MAX_SLOWDOWN, slowdown_checks
from squeeze_export.results import SCHEMA as REPORT
from squeeze_export.results import Report, report_sha256

__all__ = [
    "BASELINE",
    "GATE",
    "ROUNDS",
    "WORDS",
    "Against",
    "BaselineChange",
    "Bounds",
    "GateResult",
    "bounds_of",
    "gate",
    "given_bounds",
    "network_name",
    "read_bound",
    "update_baseline",
    "write_result",
    "write_settings",
]

GATE = "gate.json"
_TIMED = "max-slowdown"


NO_IMAGES = "the baseline holds no images, so no answers are compared with it: make it of a report that was validated"


@dataclass(frozen=True)
class Against:
    """What a report is held to besides bounds.

    Attributes:
        baseline: a file that `update_baseline` wrote; None takes none.
        base: a folder of exported files, or a table, to time the report's files against; None times nothing.
        rounds: of that timing.
    """

    baseline: Path | None = None
    base: Path | None = None
    rounds: int = ROUNDS


def gate(report: Path, bounds: Bounds, against: Against | None = None, *, progress: Progress = silent) -> GateResult:
    """Holds a report to bounds, and to what it is compared with.

    Args:
        report: a `report.json`; its files are beside it.
        bounds: what passes.
        against: a baseline, and files to time against.
        progress: told of the timing.

    Raises:
        BadInput: no report, one that contradicts itself, or nothing to hold it to; no baseline, a damaged one or one of another
            network; nothing of the report can be timed against the base.
        NotInstalled: a bound needs scipy.
        Unavailable: a runtime or device for the timing is not here.
    """
    found, chosen = _read(report), against or Against()
    if not set(bounds.given) - {_TIMED} and chosen.baseline is None and chosen.base is None:
        hint = f"a bound such as --max-top1-drop 1, or a baseline: squeeze-export gate {report} --update"
        raise BadInput("there is nothing to hold the report to", hint=hint)
    assumptions: list[str] = []
    checks = absolute_checks(found, bounds)
    if chosen.baseline is not None:
        baseline = read_baseline(chosen.baseline)
        check_same_network(baseline, found, chosen.baseline)
        checks += regression_checks(found, baseline, bounds)
        assumptions += [NO_IMAGES] if baseline.images is None else []
        versions = version_changes(baseline.tool_versions, found.tool_versions)
        assumptions += [f"other tool versions than the baseline's: {versions}"] if versions else []
    if chosen.base is not None:
        most = DEFAULT_MAX_SLOWDOWN if bounds.max_slowdown is None else bounds.max_slowdown
        checks += slowdown_checks(found, report.parent, chosen.base, most, rounds=chosen.rounds, progress=progress)
    elif bounds.max_slowdown is not None:
        message = "needs files to time against, as stored times say nothing: --base DIR, or --base REF.table"
        checks += (Check(_TIMED, "", "skipped", message, "base", bound=bounds.max_slowdown, unit="%"),)
    judged = {"network": network_name(found), "report_sha256": report_sha256(found)}
    return gate_result(checks, **judged, created=_now(), assumptions=tuple(assumptions))


def update_baseline(report: Path, path: Path = BASELINE) -> tuple[tuple[BaselineChange, ...], tuple[str, ...]]:
    """Writes the baseline that a report makes, and gives what changed, and warnings.

    Args:
        report: a `report.json`.
        path: the baseline, which may be there already.

    Raises:
        BadInput: no report, one with a failed row, or another file stands there that is no baseline.
    """
    after = baseline_of(_read(report))
    before = read_baseline(path) if path.exists() else None
    BASELINE_SCHEMA.write(after, path)
    return changes(before, after), (NO_IMAGES,) if after.images is None else ()


def write_settings(report: Path, path: Path, baseline: Path = BASELINE) -> None:
    """Adds a commented `[gate]` table, which the report passes, to a settings file; the file is made if there is none.

    Raises:
        BadInput: no report; the file has such a table already, or cannot be written.
    """
    text = suggested_settings(_read(report), baseline.as_posix())
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, ValueError) as err:
        raise BadInput(f"`{path}` cannot be read: {err}") from err
    if any(line.strip().startswith("[gate") for line in before.splitlines()):
        raise BadInput(f"`{path}` has bounds of the gate already", hint="remove its table [gate], or edit it")
    write_text(path, f"{before.rstrip()}\n\n{text}" if before.strip() else text)


def _read(path: Path) -> Report:
    report = REPORT.read(path)
    try:
        check_report(report)
    except BadInput as err:
        raise BadInput(f"`{path}` contradicts itself: {err.message}", hint="make the report again") from err
    return report


def network_name(report: Report) -> str:
    """The network's name; empty if the report is of none, as one of `bench`."""
    return str(report.network.get("name", ""))


def write_result(result: GateResult, folder: Path) -> Path:
    """Writes `gate.json` into a folder, which is made if need be.

    Raises:
        BadInput: it cannot be written.
    """
    make_folder(folder)
    path = folder / GATE
    RESULT.write(result, path)
    return path


def given_bounds(values: Mapping[str, float | None]) -> Bounds:
    """Bounds from fields and values; those that are None bound nothing."""
    return Bounds(**{name: values[name] for name in (word.replace("-", "_") for word in WORDS)})


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
