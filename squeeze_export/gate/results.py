"""What the gate found: its checks, and the verdict that follows from them. `gate.json` holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from squeeze_export.documents import Schema
from squeeze_export.results import Interval

State = Literal["passed", "failed", "undecided", "skipped"]
Against = Literal["bound", "baseline", "base"]


@dataclass(frozen=True)
class Check:
    """One bound, or one comparison, of one file.

    Attributes:
        name: the word that sets it in options and settings: `max-top1-drop`.
        row: the file it is about, and where it ran: `net.int8.tflite, tflite on cpu`; empty if it is about the whole report.
        state: `skipped` where the report lacks what it needs, or nothing asked for it; `message` says which.
        message: one plain sentence, with the figures and their units.
        against: an absolute bound, the stored baseline, or files timed beside these.
        value: what was found, in `unit`; None for comparisons of hashes and names.
        bound: the largest or smallest that passes, in `unit`.
        interval: of `value` where it is an estimate; each limit holds by itself with at least 95% confidence.
        unit: `pp`, `dB`, `ms`, `bytes` ...; empty for plain numbers.
        needs: what would decide an undecided check: `about 1,900 more images`.
        cleared: an alert that fresh rounds did not confirm; then the state is `passed`.
    """

    name: str
    row: str
    state: State
    message: str
    against: Against = "bound"
    value: float | None = None
    bound: float | None = None
    interval: Interval | None = None
    unit: str = ""
    needs: str = ""
    cleared: bool = False


@dataclass(frozen=True)
class GateResult:
    """All checks of one run.

    Attributes:
        schema_version: of `gate.json`.
        state: `failed` if any check failed, else `undecided` if any is, else `passed`.
        checks: those that failed first.
        network: name of the network.
        created: UTC, ISO 8601.
        report_sha256: which report was judged: `results.report_sha256`.
        assumptions: what was assumed, one sentence each: noise tolerance taken from the A/A control, kernels, images.
    """

    schema_version: int
    state: State
    checks: tuple[Check, ...]
    network: str
    created: str
    report_sha256: str
    assumptions: tuple[str, ...] = ()


SCHEMA = Schema(GateResult, "gate result", 1, {})

_ORDER: tuple[State, ...] = ("failed", "undecided", "passed", "skipped")


def gate_result(
    checks: tuple[Check, ...], *, network: str, created: str, report_sha256: str = "", assumptions: tuple[str, ...] = ()
) -> GateResult:
    """The result, with its state and its checks in order."""
    ordered = tuple(sorted(checks, key=lambda check: _ORDER.index(check.state)))
    states = {check.state for check in checks}
    state: State = "failed" if "failed" in states else "undecided" if "undecided" in states else "passed"
    return GateResult(SCHEMA.version, state, ordered, network, created, report_sha256, assumptions)
