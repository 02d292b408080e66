"""The report as GitHub Markdown: the table and, under it, what its figures rest on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from squeeze_export.files import write_text
from squeeze_export.report.differences import HEADER, TITLE, difference_note, difference_rows
from squeeze_export.report.estimates import HEADER as ESTIMATES
from squeeze_export.report.estimates import WORD_COLUMNS, estimate_note, estimate_rows, estimate_title, left_lines, p50
from squeeze_export.report.verdicts import TITLE as VERDICTS
from squeeze_export.report.verdicts import verdict_lines, verdict_note
from squeeze_export.report.wording import (
    NOTHING,
    accuracy_heading,
    accuracy_note,
    accuracy_parts,
    board_line,
    decibel,
    device,
    evidence,
    facts_line,
    host_line,
    joined,
    one_line,
    outcome,
    scheme,
    size,
    speedup_parts,
    timing_note,
)
from squeeze_export.results import Measurement, Report

_SPECIAL = re.compile(r"([\\*{}\[\]|~$]|(?<!\w)_|_(?!\w))")
"""What GitHub reads as markup inside a line; an underscore inside a word is none."""


def to_markdown(report: Report) -> str:
    """A table of all measurements, and a list: warnings, what the figures mean, evaluation, calibration, host, versions."""
    measurements = report.measurements
    heading = accuracy_heading(measurements)
    lines = [
        f"### {_text(str(report.network.get('name', 'squeeze-export')))}",
        "",
        f"| target | scheme | device | size | {heading} | SQNR | p50 | speed-up |",
        "|:--|:--|:--|--:|--:|--:|--:|--:|",
        *(_row(measurement, heading, measurements) for measurement in measurements),
        "",
        *_verdicts(report),
        *_estimates(report),
        *_differences(report),
        *(f"- **warning:** {_text(warning)}" for warning in report.warnings),
    ]
    notes = {
        heading: accuracy_note(measurements),
        "speed-up": timing_note(measurements),
        "network": facts_line(report.network),
        "evaluation": facts_line(report.evaluation),
        "calibration": facts_line(report.calibration),
        "device": board_line(measurements),
        "host": host_line(report),
        "versions": facts_line(report.tool_versions),
        "created": report.created,
    }
    lines += [f"- {name}: {_text(note)}" for name, note in notes.items() if note]
    return "\n".join(lines) + "\n"


def write_markdown(report: Report, path: Path) -> None:
    """Writes the Markdown, whole or not at all.

    Raises:
        BadInput: the file cannot be written.
    """
    write_text(path, to_markdown(report))


def _verdicts(report: Report) -> list[str]:
    if not report.verdicts:
        return []
    lines = [f"- {_text(line)}" for line in verdict_lines(report)]
    return [f"**{VERDICTS}**", "", *lines, "", f"{verdict_note()}.", ""]


def _estimates(report: Report) -> list[str]:
    rows = estimate_rows(report.measurements)
    if not rows:
        return []
    note = estimate_note()
    left = [f"- {_text(line)}" for line in left_lines(report.measurements)]
    rule = "|".join([":--"] * WORD_COLUMNS + ["--:"] * (len(ESTIMATES) - WORD_COLUMNS))
    return [
        f"**{_text(estimate_title(report.measurements))}**",
        "",
        f"| {' | '.join(ESTIMATES)} |",
        f"|{rule}|",
        *(f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows),
        "",
        f"{note[0].upper()}{note[1:]}.",
        "",
        *left,
        *([""] if left else []),
    ]


def _differences(report: Report) -> list[str]:
    if not report.differences:
        return []
    rows = [f"| {' | '.join(_text(cell) for cell in row)} |" for row in difference_rows(report.differences)]
    note = difference_note(report.differences)
    return [
        f"**{TITLE}**",
        "",
        f"| {' | '.join(HEADER)} |",
        "|:--|:--|--:|--:|:--|",
        *rows,
        "",
        f"{note[0].upper()}{note[1:]}.",
        "",
    ]


def _row(measurement: Measurement, heading: str, among: Sequence[Measurement]) -> str:
    how = evidence(measurement)
    accuracy, latency = measurement.accuracy, measurement.latency
    cells = [
        _text(measurement.target),
        _text(scheme(measurement)),
        _text(device(measurement, among)) + (f" *({how})*" if how else ""),
        size(measurement.size_bytes),
    ]
    if measurement.status == "ok":
        cells += [
            joined(accuracy_parts(accuracy, heading)),
            decibel(accuracy.sqnr_db) if accuracy else NOTHING,
            p50(measurement),
            joined(speedup_parts(latency)),
        ]
    else:
        cells += [_text(outcome(measurement)), NOTHING, NOTHING, NOTHING]
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """Text from elsewhere as plain words: no HTML, no link, no new cell; only balanced backticks still make code."""
    pieces = one_line(text).split("`")
    if len(pieces) % 2 == 0:
        return _plain(one_line(text).replace("`", "'"))
    # GitHub splits cells before it looks for code, hence the backslash inside code as well.
    return "".join(f"`{piece.replace('|', chr(92) + '|')}`" if index % 2 else _plain(piece) for index, piece in enumerate(pieces))


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
