"""A report as one self-contained page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from squeeze_export.files import write_text
from squeeze_export.report import tables, wording
from squeeze_export.report.charts import IntervalRow, StripRow, interval_chart, strip_chart
from squeeze_export.report.pages import render
from squeeze_export.report.verdicts import TITLE, verdict_lines, verdict_note
from squeeze_export.report.wording import accuracy_heading, evidence, milliseconds, sentence
from squeeze_export.results import Interval, Measurement, Report

_MOST_NAMES = 12
"""Names listed in one place; the others are counted, and listed in report.json."""


def to_html(report: Report) -> str:
    """The page: the table, drawings of accuracy and latency, each artifact, the machine, and the source of the images."""
    return render(
        "report/templates/report.html",
        report.network,
        report.warnings,
        report=report,
        summary=tables.summary(report.measurements),
        assumptions=report.assumptions,
        board=wording.board_line(report.measurements),
        busy=wording.busy_lines(report.measurements),
        verdicts={"title": TITLE, "lines": verdict_lines(report), "note": verdict_note()},
        ratios={"title": wording.RATIOS, "lines": wording.ratio_lines(report), "note": wording.ratio_note()},
        estimates=tables.estimate_table(report.measurements),
        drawings=[*_accuracy_drawing(report), *_latency_drawing(report.measurements)],
        differences=tables.difference_table(report),
        artifacts=_by_artifact(report.measurements),
        most_names=_MOST_NAMES,
    )


def write_html(report: Report, path: Path) -> None:
    """Writes the page, whole or not at all.

    Raises:
        BadInput: the file cannot be written.
    """
    write_text(path, to_html(report))


def _label(measurement: Measurement, among: Sequence[Measurement]) -> str:
    return f"{measurement.target} {wording.scheme(measurement, among)}, {wording.device(measurement, among)}"


def _accuracy_drawing(report: Report) -> list[dict[str, str]]:
    """The change of top-1 if every compared row has labels, else the agreement."""
    rows = []
    heading = accuracy_heading(report.measurements)
    for measurement in report.measurements:
        accuracy = measurement.accuracy
        if accuracy is None or accuracy.error is not None:
            continue
        delta, share = accuracy.top1_delta_pp if heading == "top-1" else None, accuracy.top1_agreement
        interval = delta or Interval(100 * share.value, 100 * share.low, 100 * share.high)
        if delta:
            value = f"{wording.delta_pp(delta)} {wording.delta_range(delta)}"
        else:
            value = f"{wording.percent(share.value)} {wording.percent_range(share)}"
        rows.append(IntervalRow(_label(measurement, report.measurements), evidence(measurement), interval, value))
    if not rows:
        return []
    title, unit, marked = ("Top-1 against fp32", "pp", 0.0) if heading == "top-1" else ("Agreement with fp32", "%", 100.0)
    return [
        {
            "title": title,
            "note": sentence(wording.accuracy_note(report.measurements)),
            "caution": str(report.evaluation.get("note") or ""),
            "svg": interval_chart(rows, title=title, unit=unit, marked=marked),
        }
    ]


def _latency_drawing(measurements: Sequence[Measurement]) -> list[dict[str, str]]:
    rows = [
        StripRow(
            _label(measurement, measurements),
            evidence(measurement),
            [sample_ns / 1e6 for sample_ns in measurement.latency.samples_ns],
            milliseconds(measurement.latency.p50_ms),
        )
        for measurement in measurements
        if measurement.latency is not None
    ]
    if not rows:
        return []
    note = f"Each dot is an inference, the box the middle half, the line the median. Speed-up: {wording.timing_note(measurements)}."
    return [{"title": "Latency", "note": note, "caution": "", "svg": strip_chart(rows, title="latency")}]


def _by_artifact(measurements: Iterable[Measurement]) -> list[list[Measurement]]:
    """The rows of each file; the files in order of their first row."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault((measurement.artifact, measurement.sha256), []).append(measurement)
    return list(groups.values())
