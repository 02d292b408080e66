"""The report as one self-contained page: no script, no request, no framework, everything from elsewhere escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from squeeze_export.core import Audit, Placement
from squeeze_export.files import write_text
from squeeze_export.report.charts import IntervalRow, StripRow, interval_chart, strip_chart
from squeeze_export.report.differences import HEADER, TITLE, difference_note, difference_rows
from squeeze_export.report.estimates import estimate_entries, estimates_section, p50
from squeeze_export.report.page import facts_of, lines_of, page, text
from squeeze_export.report.verdicts import TITLE as VERDICTS
from squeeze_export.report.verdicts import verdict_lines, verdict_note
from squeeze_export.report.wording import (
    NOTHING,
    accuracy_heading,
    accuracy_note,
    accuracy_parts,
    board_line,
    decibel,
    delta_pp,
    delta_range,
    device,
    evidence,
    facts_line,
    joined,
    milliseconds,
    one_line,
    outcome,
    percent,
    percent_range,
    scheme,
    size,
    speedup_parts,
    timing_note,
)
from squeeze_export.results import Accuracy, Interval, Latency, Measurement, Report

_MOST_NAMES = 12
"""Names listed in one place; the rest are counted and stand in report.json."""


def to_html(report: Report) -> str:
    """The page: table, accuracy and latency drawn, then each artifact, then the machine and where the images came from."""
    name = str(report.network.get("name", "squeeze-export"))
    network = {key: value for key, value in report.network.items() if key != "name"}
    body = [
        f'<header><h1>{text(name)}</h1><p class="soft">{text(facts_line(network))}</p></header>',
        lines_of(report.warnings, "warnings"),
        _summary(report),
        _verdicts(report),
        estimates_section(report.measurements),
        _accuracy_drawing(report),
        _latency_drawing(report),
        _differences(report),
        "<h2>Artifacts</h2>",
        *(_artifact(rows) for rows in _by_artifact(report.measurements)),
        '<div class="columns">',
        facts_of("Evaluation", report.evaluation),
        facts_of("Calibration", report.calibration),
        facts_of("Host", report.host),
        facts_of("Versions", report.tool_versions),
        "</div>",
        f'<p class="soft">created {text(report.created)}, schema version {report.schema_version}</p>',
    ]
    return page(name, body)


def write_html(report: Report, path: Path) -> None:
    """Writes the page, whole or not at all.

    Raises:
        BadInput: the file cannot be written.
    """
    write_text(path, to_html(report))


def _tag(measurement: Measurement) -> str:
    how = evidence(measurement)
    return f' <span class="tag">{how}</span>' if how else ""


def _summary(report: Report) -> str:
    heading = accuracy_heading(report.measurements)
    names = "".join(f"<th>{name}</th>" for name in ("target", "scheme", "device"))
    figures = "".join(f'<th class="figure">{name}</th>' for name in ("size", heading, "SQNR", "p50", "speed-up"))
    rows = "".join(_summary_row(measurement, heading, report.measurements) for measurement in report.measurements)
    table = f'<div class="wide"><table><thead><tr>{names}{figures}</tr></thead><tbody>{rows}</tbody></table></div>'
    board = board_line(report.measurements)
    return f"<h2>Summary</h2>{table}" + (f'<p class="soft">{text(board)}.</p>' if board else "")


def _summary_row(measurement: Measurement, heading: str, among: Sequence[Measurement]) -> str:
    accuracy, latency = measurement.accuracy, measurement.latency
    words = (text(measurement.target), text(scheme(measurement)), text(device(measurement, among)) + _tag(measurement))
    cells = "".join(f'<td class="name">{word}</td>' for word in words)
    if measurement.status == "ok":
        figures = (
            size(measurement.size_bytes),
            _with_range(accuracy_parts(accuracy, heading)),
            decibel(accuracy.sqnr_db) if accuracy else NOTHING,
            p50(measurement),
            _with_range(speedup_parts(latency)),
        )
        cells += "".join(f'<td class="figure">{figure}</td>' for figure in figures)
    else:
        kind = "bad" if measurement.status == "failed" else "warn"
        reason = text(outcome(measurement)).replace(measurement.status, f'<span class="{kind}">{measurement.status}</span>', 1)
        cells += f'<td colspan="5">{reason}</td>'
    return f'<tr class="row-{measurement.status}">{cells}</tr>'


def _with_range(parts: tuple[str, str]) -> str:
    figure, bounds = parts
    return f'{figure}<span class="range">{bounds}</span>' if bounds else figure


def _verdicts(report: Report) -> str:
    if not report.verdicts:
        return ""
    items = "".join(f"<li>{text(line)}</li>" for line in verdict_lines(report))
    return f'<h2>{VERDICTS}</h2><ul class="verdicts">{items}</ul><p class="soft">{verdict_note()}.</p>'


def _label(measurement: Measurement, among: Sequence[Measurement]) -> str:
    return f"{measurement.target} {scheme(measurement)}, {device(measurement, among)}"


def _accuracy_drawing(report: Report) -> str:
    """Top-1 change where every compared row has labels, else agreement."""
    rows = []
    heading = accuracy_heading(report.measurements)
    for measurement in report.measurements:
        accuracy = measurement.accuracy
        if accuracy is None:
            continue
        delta = accuracy.top1_delta_pp if heading == "top-1" else None
        share = accuracy.top1_agreement
        interval = delta or Interval(100 * share.value, 100 * share.low, 100 * share.high)
        value = f"{delta_pp(delta)} {delta_range(delta)}" if delta else f"{percent(share.value)} {percent_range(share)}"
        rows.append(IntervalRow(_label(measurement, report.measurements), evidence(measurement), interval, value))
    if not rows:
        return ""
    title, unit, marked = ("Top-1 against fp32", "pp", 0.0) if heading == "top-1" else ("Agreement with fp32", "%", 100.0)
    note = accuracy_note(report.measurements)
    caution = str(report.evaluation.get("note") or "")
    caution = f' <span class="warn">{text(caution)}</span>' if caution else ""
    drawing = interval_chart(rows, title=title, unit=unit, marked=marked)
    return f'<h2>{title}</h2><p class="soft">{note[0].upper()}{note[1:]}.{caution}</p>{drawing}'


def _latency_drawing(report: Report) -> str:
    rows = [
        StripRow(
            _label(measurement, report.measurements),
            evidence(measurement),
            [sample_ns / 1e6 for sample_ns in measurement.latency.samples_ns],
            milliseconds(measurement.latency.p50_ms),
        )
        for measurement in report.measurements
        if measurement.latency is not None
    ]
    if not rows:
        return ""
    notes = f"Each dot is an inference, the box the middle half, the line the median. Speed-up: {timing_note(report.measurements)}."
    return f'<h2>Latency</h2><p class="soft">{notes}</p>{strip_chart(rows, title="latency")}'


def _differences(report: Report) -> str:
    if not report.differences:
        return ""
    header = "".join(f"<th>{name}</th>" for name in HEADER)
    rows = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in difference_rows(report.differences))
    note = difference_note(report.differences)
    return (
        f'<h2>{TITLE}</h2><p class="soft">{note[0].upper()}{note[1:]}.</p>'
        f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _by_artifact(measurements: Iterable[Measurement]) -> list[list[Measurement]]:
    """The rows of each file, in the order in which the files first appear."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault((measurement.artifact, measurement.sha256), []).append(measurement)
    return list(groups.values())


def _artifact(measurements: list[Measurement]) -> str:
    """One file, and under it each device that it ran on."""
    first = measurements[0]
    audit = next((measurement.audit for measurement in measurements if measurement.audit is not None), None)
    digest = f', sha256 <span class="code">{escape(first.sha256)}</span>' if first.sha256 else ""
    weight = f", {size(first.size_bytes)}" if first.size_bytes else ""
    facts = f'<p class="soft">{text(first.target)} {text(scheme(first))}{weight}{digest}</p>'
    entries = _audit(audit) if audit else []
    listed = "".join(f"<dt>{name}</dt><dd>{words}</dd>" for name, words in entries)
    for measurement in measurements:
        run, *details = _run(measurement)
        listed += f'<dt class="run">{run[0]}</dt><dd class="run">{run[1]}</dd>'
        listed += "".join(f"<dt>{name}</dt><dd>{words}</dd>" for name, words in details)
    return f'<section class="artifact"><h3>{text(first.artifact)}</h3>{facts}<dl>{listed}</dl></section>'


def _audit(audit: Audit) -> list[tuple[str, str]]:
    operators = ", ".join(f"{count} {name}" for name, count in audit.operators.items())
    weights = ", ".join(f"{dtype} {size(size_bytes)}" for dtype, size_bytes in audit.weight_bytes.items())
    entries = [("operators", text(operators)), ("in float", _names(audit.float_operators, "no operator"))]
    if audit.kept_float:
        entries.append(("kept in float", f"{_names(audit.kept_float, '')}, on request"))
    if audit.float_tensors:
        entries.append(("float tensors", _names(audit.float_tensors, "")))
    entries.append(("constants", text(weights) or NOTHING))
    if audit.violations:
        entries.append(('<span class="bad">violations</span>', "<br>".join(text(violation) for violation in audit.violations)))
    return entries


def _run(measurement: Measurement) -> list[tuple[str, str]]:
    """Name and value of each line on one run of the artifact; the first says where it ran."""
    where = ", ".join(part for part in (device(measurement), measurement.runtime, measurement.kernels) if part)
    verb = "asked for" if measurement.status != "ok" else "ran on" if measurement.estimate is None else "compiled for"
    lines = [(verb, text(where) + _tag(measurement))]
    if measurement.status != "ok":
        lines.append((measurement.status, text(measurement.reason) or NOTHING))
    if measurement.placement is not None:
        lines.append(("placement", _placement(measurement.placement)))
        if measurement.placement.fallbacks:
            lines.append(("fell back", _names(measurement.placement.fallbacks, "")))
        if measurement.placement.elsewhere != measurement.placement.fallbacks and measurement.placement.elsewhere:
            lines.append(("elsewhere", _names(measurement.placement.elsewhere, "")))
    if measurement.accuracy is not None:
        lines += _accuracy(measurement.accuracy)
    if measurement.latency is not None:
        lines.append(("latency", _latency(measurement.latency)))
    if measurement.estimate is not None:
        lines += estimate_entries(measurement.estimate)
    if measurement.facts:
        lines.append(("runtime's facts", text(facts_line(measurement.facts))))
    return lines


def _placement(placement: Placement) -> str:
    left = f": in float {_names(placement.float_operators, '')}" if placement.float_operators else ""
    return (
        f"{placement.integer_count} of {placement.operator_count} operators and {percent(placement.integer_mac_share)} of the "
        f"multiply-accumulates in integers{left} ({text(placement.source)})"
    )


def _accuracy(accuracy: Accuracy) -> list[tuple[str, str]]:
    agreement = (
        f"{percent(accuracy.top1_agreement.value)} {percent_range(accuracy.top1_agreement)}, "
        f"top-5 overlap {percent(accuracy.top5_agreement)}, SQNR {decibel(accuracy.sqnr_db)}, KL {accuracy.kl:.2g} nats, "
        f"{accuracy.count:,} images"
    )
    lines = [("agreement", agreement)]
    if accuracy.top1 is not None and accuracy.top5 is not None and accuracy.top1_delta_pp is not None:
        reference = f" (fp32 {percent(accuracy.reference_top1)})" if accuracy.reference_top1 is not None else ""
        change = f"{delta_pp(accuracy.top1_delta_pp)} {delta_range(accuracy.top1_delta_pp)}"
        top1 = (
            f"{percent(accuracy.top1)}{reference}, {change}, {accuracy.lost} lost, {accuracy.won} won, "
            f"top-5 {percent(accuracy.top5)}, {accuracy.labelled_count:,} labelled images"
        )
        lines.append(("top-1", top1))
    return lines


def _latency(latency: Latency) -> str:
    ratio = joined(speedup_parts(latency))
    threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
    return (
        f"p50 {milliseconds(latency.p50_ms)}, p90 {milliseconds(latency.p90_ms)}, p99 {milliseconds(latency.p99_ms)}"
        f"{'' if ratio == NOTHING else f', speed-up {ratio}'}, batch {latency.batch}, {threads}, "
        f"{len(latency.samples_ns):,} samples after {latency.warmup_count} to warm up"
    )


def _names(names: tuple[str, ...], none: str) -> str:
    shown = ", ".join(f"<code>{escape(one_line(name))}</code>" for name in names[:_MOST_NAMES])
    return f"{shown} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else shown or none
