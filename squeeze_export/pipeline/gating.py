"""The gate: a report, held to bounds, becomes verdicts that a CI run can end with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from squeeze_export.errors import BadInput
from squeeze_export.gate.bounds import WORDS, Bounds, bounds_of, read_bound
from squeeze_export.gate.checks import absolute_checks
from squeeze_export.gate.results import SCHEMA as RESULT
from squeeze_export.gate.results import GateResult, gate_result
from squeeze_export.results import SCHEMA as REPORT
from squeeze_export.results import Report

__all__ = [
    "GATE",
    "WORDS",
    "Bounds",
    "GateResult",
    "bounds_of",
    "gate",
    "given_bounds",
    "network_name",
    "read_bound",
    "write_result",
]

GATE = "gate.json"


def gate(report: Path, bounds: Bounds) -> GateResult:
    """Holds a report to bounds.

    Args:
        report: a `report.json`.
        bounds: what passes.

    Raises:
        BadInput: no report, one that contradicts itself, or nothing to hold it to.
        NotInstalled: a bound needs scipy.
    """
    found = REPORT.read(report)
    if not bounds.given:
        raise BadInput("there is nothing to hold the report to", hint="a bound such as --max-top1-drop 1")
    try:
        checks = absolute_checks(found, bounds)
    except ValueError as err:
        raise BadInput(f"`{report}` contradicts itself: {err}", hint="make the report again") from err
    return gate_result(checks, network=network_name(found), created=datetime.now(timezone.utc).isoformat(timespec="seconds"))


def network_name(report: Report) -> str:
    """The network's name; empty if the report is of none, as one of `bench`."""
    return str(report.network.get("name", ""))


def write_result(result: GateResult, folder: Path) -> Path:
    """Writes `gate.json` into a folder.

    Raises:
        BadInput: it cannot be written.
    """
    path = folder / GATE
    RESULT.write(result, path)
    return path


def given_bounds(values: Mapping[str, float | None]) -> Bounds:
    """Bounds from fields and values; those that are None bound nothing."""
    return Bounds(**{name: values[name] for name in (word.replace("-", "_") for word in WORDS)})
