"""The table that every command ends with, on a rich console: aligned text that reads the same without colour.

rich's own Table cannot let one cell run across the rest of a row, which a reason for failure needs, so rows are laid out here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from squeeze_export.report.differences import HEADER, difference_rows
from squeeze_export.report.estimates import HEADER as ESTIMATES
from squeeze_export.report.estimates import (
    LONG_COLUMNS,
    WORD_COLUMNS,
    estimate_note,
    estimate_rows,
    estimate_title,
    left_lines,
    p50,
)
from squeeze_export.report.verdicts import verdict_lines
from squeeze_export.report.wording import (
    NOTHING,
    accuracy_heading,
    accuracy_parts,
    board_line,
    decibel,
    device,
    evidence,
    outcome,
    scheme,
    size,
    speedup_parts,
)
from squeeze_export.results import Measurement, Report

Cell = tuple[str, ...]
"""The lines of one cell."""
Row = tuple[Cell, ...]

_NAME_COLUMNS = 3  # target, scheme, device: words, set to the left; the rest are figures, set to the right
_LEAST_REASON_WIDTH = 24
_STYLES = {"failed": "bold red", "skipped": "yellow"}


def print_table(report: Report, console: Console) -> None:
    """Prints one row per measurement: target, scheme, device, size, accuracy or agreement, SQNR, p50, speed-up; then the verdicts.

    Where a terminal is too narrow for one line a row, intervals go below their figures; where that is too wide still, schemes
    go below targets. Where the output is no terminal, each row is one line of whatever width, for grep and diff.
    """
    heading = accuracy_heading(report.measurements)
    header = _header(heading)
    rows = [_row(measurement, heading, report.measurements) for measurement in report.measurements]
    level, gap = 0, "  "
    if console.is_terminal and _total_width([header, *rows], level, gap) > console.width:
        gap = " "
        level = 1 if _total_width([header, *rows], 1, gap) <= console.width else 2
    widths = _widths([header, *rows], level)
    names = _NAME_COLUMNS - (level == 2)
    _print_lines(console, _lines(_shaped(header, level), widths, names, gap), "bold")
    for measurement, row in zip(report.measurements, rows, strict=True):
        cells = _shaped(row, level)
        if measurement.status == "ok":
            _print_lines(console, _lines(cells, widths, names, gap), "")
            continue
        room = console.width - sum(widths[:names]) - names * len(gap)
        reason = textwrap.wrap(outcome(measurement), max(room, _LEAST_REASON_WIDTH), break_on_hyphens=False)
        # The reason takes the room of all the figures.
        cells = (*cells[:names], tuple(reason) if console.is_terminal else (" ".join(reason),))
        _print_lines(console, _lines(cells, widths, len(cells), gap), _STYLES[measurement.status])
    board = board_line(report.measurements)
    if board:
        _print_lines(console, [""], "")
        _print_text(console, board)
    if report.verdicts:
        _print_verdicts(report, console)
    if any(measurement.estimate is not None for measurement in report.measurements):
        _print_estimates(report, console)
    if report.differences:
        _print_differences(report, console)


def _print_verdicts(report: Report, console: Console) -> None:
    _print_lines(console, [""], "")
    for line in verdict_lines(report):
        _print_text(console, line)


def _print_estimates(report: Report, console: Console) -> None:
    """Where a terminal is too narrow, what the chip is taken to be goes below its figures."""
    header, *rows = ([(cell,) for cell in row] for row in (ESTIMATES, *estimate_rows(report.measurements)))
    widths = [max(len(line) for cell in column for line in cell) for column in zip(header, *rows, strict=True)]
    narrow = console.is_terminal and sum(widths) + 2 * (len(widths) - 1) > console.width
    note = f"{estimate_title(report.measurements)}: {estimate_note()}."
    _print_lines(console, ["", *(textwrap.wrap(note, console.width) if console.is_terminal else [note])], "bold")
    for row in (header, *rows):
        style = "bold" if row is header else ""
        if not narrow:
            _print_lines(console, _lines(tuple(row), widths, WORD_COLUMNS, "  "), style)
            continue
        short = [index for index in range(len(row)) if index not in LONG_COLUMNS]
        _print_lines(console, _lines(tuple(row[index] for index in short), [widths[index] for index in short], 1, " "), style)
        _print_lines(console, [f"  {', '.join(row[index][0] for index in LONG_COLUMNS)}"], style)
    for line in left_lines(report.measurements):
        _print_text(console, line)


def _print_differences(report: Report, console: Console) -> None:
    header, *rows = ([(cell,) for cell in row] for row in (HEADER, *difference_rows(report.differences)))
    widths = [max(len(line) for cell in column for line in cell) for column in zip(header, *rows, strict=True)]
    _print_lines(console, ["", *_lines(tuple(header), widths, 2, "  ")], "bold")
    for row in rows:
        _print_lines(console, _lines(tuple(row), widths, 2, "  "), "")


def _print_text(console: Console, line: str) -> None:
    """A sentence, wrapped where it is read on a terminal."""
    wrapped = textwrap.wrap(line, console.width, subsequent_indent="  ", break_on_hyphens=False)
    _print_lines(console, wrapped if console.is_terminal else [line], "")


def _header(heading: str) -> Row:
    accuracy = ("top-1 or", "agreement") if " or " in heading else (heading,)
    return (("target",), ("scheme",), ("device",), ("size",), accuracy, ("SQNR",), ("p50",), ("speed-up",))


def _row(measurement: Measurement, heading: str, among: Sequence[Measurement]) -> Row:
    how = evidence(measurement)
    accuracy, latency = measurement.accuracy, measurement.latency
    return (
        (measurement.target,),
        (scheme(measurement),),
        (device(measurement, among), *([f"({how})"] if how else [])),
        (size(measurement.size_bytes),),
        tuple(part for part in accuracy_parts(accuracy, heading) if part),
        (decibel(accuracy.sqnr_db) if accuracy else NOTHING,),
        (p50(measurement),),
        tuple(part for part in speedup_parts(latency) if part),
    )


def _shaped(row: Row, level: int) -> Row:
    """Level 0: one line a cell. Level 1: a cell's parts below one another. Level 2: the scheme below the target as well."""
    if level == 0:
        return tuple((" ".join(cell),) for cell in row)
    return row if level == 1 else (row[0] + row[1], *row[2:])


def _widths(rows: Sequence[Row], level: int) -> list[int]:
    shaped = [_shaped(row, level) for row in rows]
    return [max(len(line) for cell in column for line in cell) for column in zip(*shaped, strict=True)]


def _total_width(rows: Sequence[Row], level: int, gap: str) -> int:
    widths = _widths(rows, level)
    return sum(widths) + len(gap) * (len(widths) - 1)


def _lines(cells: Row, widths: Sequence[int], left_count: int, gap: str) -> list[str]:
    """A row's lines: the first `left_count` cells set to the left, the others to the right."""
    lines = []
    for index in range(max(len(cell) for cell in cells)):
        pieces = [cell[index] if index < len(cell) else "" for cell in cells]
        padded = [
            piece.ljust(width) if column < left_count else piece.rjust(width)
            for column, (piece, width) in enumerate(zip(pieces, widths, strict=False))
        ]
        lines.append(gap.join(padded).rstrip())
    return lines


def _print_lines(console: Console, lines: Sequence[str], style: str) -> None:
    for line in lines:
        console.print(Text(line, style=style), soft_wrap=True)
