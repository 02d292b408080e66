"""The columns and rows of a report's tables, which the terminal, Markdown and the page lay out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from squeeze_export.report.wording import (
    NOTHING,
    accuracy_heading,
    accuracy_parts,
    decibel,
    device,
    evidence,
    milliseconds,
    one_line,
    outcome,
    percent,
    scheme,
    size,
    speedup_parts,
    steadiness,
)
from squeeze_export.results import Difference, Estimate, Measurement, Report, Status


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        kind: a `figure` is right-aligned; a `name` stays on one line; a `text` may be wrapped.
    """

    name: str
    kind: Literal["name", "text", "figure"] = "figure"


@dataclass(frozen=True)
class Table:
    """Columns and rows of plain cells.

    Attributes:
        columns: in order.
        rows: a cell for each column.
        title: above it.
        note: what the figures are, a sentence without its full stop.
    """

    columns: tuple[Column, ...]
    rows: Sequence[tuple[str, ...]]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class SummaryRow:
    """One measurement.

    Attributes:
        status: of the measurement.
        outcome: `failed: ...` or `skipped: ...`, shown instead of the figures; empty if there are figures.
        names: target, scheme, device.
        evidence: empty if measured, else `emulated` ...; shown with the device.
        figures: size, accuracy, SQNR, p50, speed-up, each with its interval (p50: `busy`, `unsteady`) or an empty string.
    """

    status: Status
    outcome: str
    names: tuple[str, str, str]
    evidence: str
    figures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Summary:
    """The table that every report begins with."""

    columns: tuple[Column, ...]
    rows: tuple[SummaryRow, ...]


def summary(measurements: Sequence[Measurement]) -> Summary:
    """One row per measurement: target, scheme, device, size, accuracy or agreement, SQNR, p50, speed-up."""
    heading = accuracy_heading(measurements)
    names = (Column(name, "name") for name in ("target", "scheme", "device"))
    figures = (Column(name) for name in ("size", heading, "SQNR", "p50", "speed-up"))
    return Summary((*names, *figures), tuple(_summary_row(row, heading, measurements) for row in measurements))


def _summary_row(row: Measurement, heading: str, among: Sequence[Measurement]) -> SummaryRow:
    figures = (
        (size(row.size_bytes), ""),
        accuracy_parts(row.accuracy, heading),
        (decibel(row.accuracy.sqnr_db) if row.accuracy else NOTHING, ""),
        (_p50(row), steadiness(row.latency)),
        speedup_parts(row.latency),
    )
    names = (row.target, scheme(row, among), device(row, among))
    return SummaryRow(row.status, "" if row.status == "ok" else outcome(row), names, evidence(row), figures)


def _p50(row: Measurement) -> str:
    """The median latency; for an estimated row the estimate, as its device cell says."""
    if row.latency is not None:
        return milliseconds(row.latency.p50_ms)
    return milliseconds(row.estimate.inference_ms) if row.estimate is not None else NOTHING


def difference_table(report: Report) -> Table | None:
    """The same integers in several files, a row for each pair; None if nothing was compared. One output has no agreement."""
    differences, classes = report.differences, report.network.get("class_count") != 1
    if not differences:
        return None
    counts = " or ".join(f"{count:,}" for count in sorted({d.count for d in differences}))
    return Table(
        (
            Column("the same integers in", "text"),
            Column("and in", "text"),
            *map(Column, ("logits apart", *(["agreement"] if classes else []), "first layer apart")),
        ),
        [
            (
                *(one_line(d.first), one_line(d.second), _steps(d.largest_steps)),
                *([percent(d.top1_agreement)] if classes else []),
                _first_layer(d),
            )
            for d in differences
        ],
        "The same integers, file by file",
        f"{counts} images; apart: the largest difference of a logit, in steps of the last convolution's scale; first layer: the "
        "first that makes of the same inputs something more than one step away from the exact integer run, on one image",
    )


def _steps(value: float) -> str:
    """`0`, `0.01 steps`, `1.3 steps`, `12 steps`; below a thousandth it is rounding of float32 sums, so 0."""
    if value < 0.001:
        return "0"
    return f"{value:.2f} steps" if value < 9.995 else f"{value:.0f} steps"


def _first_layer(difference: Difference) -> str:
    return NOTHING if difference.first_layer is None else one_line(difference.first_layer) or "none"


_SRAM = "sram"
_SYSTEM = ("system_config", "memory_mode", "optimise")


def estimate_table(measurements: Sequence[Measurement]) -> Table | None:
    """Compilers' estimates for chips that are not here, apart from everything measured; None if there are none."""
    found = [(row, row.estimate) for row in measurements if row.estimate is not None]
    if not found:
        return None
    tools = " and ".join(dict.fromkeys(one_line(estimate.tool) for _, estimate in found))
    return Table(
        (
            Column("accelerator", "name"),
            Column("system, memory mode, optimised for", "text"),
            *map(Column, ("clock", "cycles", "time", "SRAM", "other memory", "operators")),
        ),
        [_estimate_row(row, estimate) for row, estimate in found],
        f"Estimated by {tools}, not measured",
        "the compiler's own model of a chip that is not here, for one inference; no measurement, and figures of different "
        "systems are not to be compared; operators: of the file, how many run on the accelerator",
    )


def _estimate_row(row: Measurement, estimate: Estimate) -> tuple[str, ...]:
    others = {name: count for name, count in estimate.used_bytes.items() if name != _SRAM}
    placed = row.placement
    return (
        one_line(row.device),
        ", ".join(one_line(estimate.settings[name]) for name in _SYSTEM if name in estimate.settings) or NOTHING,
        f"{estimate.clock_mhz:,.0f} MHz",
        f"{estimate.cycles:,}",
        milliseconds(estimate.inference_ms),
        size(estimate.used_bytes.get(_SRAM, 0)),
        ", ".join(f"{size(count)} {_memory(name)}" for name, count in others.items()) or NOTHING,
        f"{placed.device_count} of {placed.operator_count}" if placed and placed.device_count is not None else NOTHING,
    )


def left_lines(measurements: Sequence[Measurement]) -> list[str]:
    """`ethos-u55-128: MEAN logits on the CPU: Unsupported opType`: operators that an accelerator does not run, and why."""
    left: dict[tuple[str, ...], list[str]] = {}
    for row in measurements:
        if row.estimate is not None and row.placement is not None and row.placement.fallbacks:
            left.setdefault(row.placement.fallbacks, []).append(one_line(row.device))
    return [f"{', '.join(devices)}: {one_line(name)}" for names, devices in left.items() for name in names]


def estimate_lines(estimate: Estimate) -> list[tuple[str, str]]:
    """Lines on one estimate, as name and text: the assumed chip, its memory, and the memory traffic."""
    settings = {name.replace("_", " "): value for name, value in estimate.settings.items() if name != "accelerator"}
    moved = {name: f" ({estimate.moved_gb_s[name]:.2f} GB/s)" for name in estimate.moved_bytes if name in estimate.moved_gb_s}
    lines = {
        "taken to be": ", ".join(f"{name} {value}" for name, value in settings.items()),
        "memory used": _memories(estimate.used_bytes, {}),
        "memory traffic": _memories(estimate.moved_bytes, moved),
    }
    return [(name, words) for name, words in lines.items() if words]


def operator_table(estimate: Estimate) -> Table:
    """The estimate of each operator: its cycles, their share of all, and the share of busy multipliers."""
    whole = estimate.cycles
    return Table(
        (*(Column(name, "text") for name in ("makes", "operator", "on")), *map(Column, ("cycles", "share", "busy"))),
        [
            (
                layer.name,
                layer.operator,
                layer.device,
                f"{layer.cycles:,}",
                percent(layer.cycles / whole) if whole and layer.cycles <= whole else NOTHING,
                percent(min(layer.mac_use, 1.0)) if layer.cycles else NOTHING,
            )
            for layer in estimate.layers
        ],
    )


def _memories(counts: Mapping[str, int], beside: Mapping[str, str]) -> str:
    return ", ".join(f"{_memory(name)} {size(count)}{beside.get(name, '')}" for name, count in counts.items())


def _memory(name: str) -> str:
    return name.upper() if name in (_SRAM, "dram") else one_line(name)
