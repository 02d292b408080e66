"""The report as GitHub Markdown: the tables, and below them what the figures are based on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from squeeze_export.report.flips import flip_table
from squeeze_export.report.tables import Column, SummaryRow, Table, difference_table, estimate_table, left_lines, summary
from squeeze_export.report.verdicts import TITLE as VERDICTS
from squeeze_export.report.verdicts import verdict_lines, verdict_note
from squeeze_export.report.wording import (
    NOTHING,
    RATIOS,
    accuracy_heading,
    accuracy_note,
    assumption_line,
    board_line,
    busy_lines,
    facts_line,
    host_line,
    joined,
    one_line,
    ratio_lines,
    ratio_note,
    sentence,
    timing_note,
)
from squeeze_export.results import Report

_SPECIAL = re.compile(r"([\\*{}\[\]|~$]|(?<!\w)_|_(?!\w))")
"""What GitHub reads as markup within a line; an underscore within a word is plain text."""

_LINKED = re.compile(r"(?<=@)|(?<=#)(?=\d)|(?<=:)(?=//)|(?<=www)(?=\.)", re.IGNORECASE)
"""Where a space without width keeps GitHub from making a link, and from notifying whoever is named."""


def to_markdown(report: Report) -> str:
    """A table of all measurements, verdicts, estimates, differences, the images that flipped, and a list: warnings, what the
    figures mean, evaluation, calibration, host, versions.

    Raises:
        BadInput: the answers in the report do not fit each other.
    """
    measurements, ratios = report.measurements, ratio_lines(report)
    found, verdicts = summary(measurements), verdict_lines(report)
    lines = [
        f"### {markdown_text(str(report.network.get('name', 'squeeze-export')))}",
        "",
        *_table(found.columns, map(_cells, found.rows)),
        "",
        *([f"**{VERDICTS}**", "", *_bullets(verdicts), "", sentence(verdict_note()), ""] if verdicts else []),
        *([f"**{RATIOS}**", "", *_bullets(ratios), "", sentence(ratio_note()), ""] if ratios else []),
        *_section(estimate_table(measurements), left_lines(measurements)),
        *_section(difference_table(report)),
        *_section(flip_table(report)),
        *(f"- **warning:** {markdown_text(warning)}" for warning in report.warnings),
    ]
    notes = {
        accuracy_heading(measurements): accuracy_note(measurements),
        "speed-up": timing_note(measurements),
        "p50": "; ".join(busy_lines(measurements)),
        "network": facts_line(report.network),
        "assumed": assumption_line(report.assumptions).removeprefix("assuming "),
        "evaluation": facts_line(report.evaluation),
        "calibration": facts_line(report.calibration),
        "device": board_line(measurements),
        "host": host_line(report),
        "versions": facts_line(report.tool_versions),
        "created": report.created,
    }
    lines += [f"- {name}: {markdown_text(note)}" for name, note in notes.items() if note]
    return "\n".join(lines) + "\n"


def _section(table: Table | None, lines: Sequence[str] = ()) -> list[str]:
    """A table with its title and note, and lines below it; nothing without a table."""
    if table is None:
        return []
    rows = _table(table.columns, (map(markdown_text, row) for row in table.rows))
    return [
        f"**{markdown_text(table.title)}**",
        "",
        *rows,
        "",
        sentence(table.note),
        "",
        *_bullets(lines),
        *([""] if lines else []),
    ]


def _table(columns: Sequence[Column], rows: Iterable[Iterable[str]]) -> list[str]:
    rule = "|".join("--:" if column.kind == "figure" else ":--" for column in columns)
    header = " | ".join(column.name for column in columns)
    return [f"| {header} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]


def _bullets(lines: Sequence[str]) -> list[str]:
    return [f"- {markdown_text(line)}" for line in lines]


def _cells(row: SummaryRow) -> list[str]:
    """The cells of a row; if it has no figures, the reason takes the place of the accuracy."""
    target, scheme, device = map(markdown_text, row.names)
    names = [target, scheme, device + (f" *({row.evidence})*" if row.evidence else "")]
    figures = [joined(parts) for parts in row.figures]
    return [*names, figures[0], markdown_text(row.outcome), NOTHING, NOTHING, NOTHING] if row.outcome else [*names, *figures]


def markdown_text(text: str) -> str:
    """Escapes text from elsewhere: no HTML, no link, no new cell, nobody notified. Only backticks in pairs still make code."""
    pieces = one_line(text).split("`")
    if len(pieces) % 2 == 0:
        return _plain(one_line(text).replace("`", "'"))
    # GitHub splits cells before it looks for code, so code needs the backslash too.
    return "".join(f"`{piece.replace('|', chr(92) + '|')}`" if index % 2 else _plain(piece) for index, piece in enumerate(pieces))


def _plain(text: str) -> str:
    escaped = _SPECIAL.sub(r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LINKED.sub("&#8203;", escaped)
