"""A report on a rich console: aligned text that reads the same without colour.

A reason for failure takes the rest of its row, which a cell of rich's own Table cannot, so rows are laid out here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.text import Text

from squeeze_export.report.tables import Column, Summary, SummaryRow, Table, difference_table, estimate_table, left_lines, summary
from squeeze_export.report.verdicts import verdict_lines
from squeeze_export.report.wording import board_line, busy_lines, ratio_lines
from squeeze_export.results import Report

Cell = tuple[str, ...]
"""The lines of one cell."""
Row = tuple[Cell, ...]

_LEAST_REASON_WIDTH = 24
_STYLES = {"failed": "bold red", "skipped": "yellow"}


def print_table(report: Report, console: Console) -> None:
    """Prints one row per measurement: target, scheme, device, size, accuracy or agreement, SQNR, p50, speed-up; then the verdicts,
    the estimates, and the same integers file by file.

    If a terminal is too narrow for one line per row, intervals go below their figures; if that is still too wide, schemes go below
    targets. If the output is no terminal, each row is one line of any width, for grep and diff.
    """
    _print_summary(summary(report.measurements), console)
    board, verdicts = board_line(report.measurements), verdict_lines(report)
    for lines in ([board] if board else [], busy_lines(report.measurements), verdicts, ratio_lines(report)):
        for index, line in enumerate(lines):
            if index == 0:
                console.print()
            print_line(line, console)
    estimates, differences = estimate_table(report.measurements), difference_table(report)
    if estimates is not None:
        console.print()
        note = f"{estimates.title}: {estimates.note}."
        _print_lines(textwrap.wrap(note, console.width) if console.is_terminal else [note], console, "bold")
        print_rows(estimates, console, below=(1, 6))
        for line in left_lines(report.measurements):
            print_line(line, console)
    if differences is not None:
        console.print()
        print_rows(differences, console, below=(1,))


def print_line(line: str, console: Console, style: str = "", indent: str = "") -> None:
    """Prints a line, wrapped if the output is a terminal."""
    width = console.width if console.is_terminal else len(line) + len(indent) + 1
    folded = textwrap.wrap(line, width, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)
    _print_lines(folded or [""], console, style)


def print_rows(table: Table, console: Console, *, bold: Collection[str] = (), below: Sequence[int] = ()) -> None:
    """Prints a table without its title and note.

    Args:
        table: what to print.
        console: where.
        bold: first cells of the rows to print in bold.
        below: columns that go below the others if a terminal is too narrow; the last ones only in rows that have no room for them.
    """
    header = tuple(column.name for column in table.columns)
    lines = [tuple((cell,) for cell in row) for row in (header, *table.rows)]
    widths = _widths(lines)
    narrow = below and console.is_terminal and sum(widths) + 2 * (len(widths) - 1) > console.width
    first = [index for index in range(len(widths)) if not (narrow and index in below)]
    columns = [table.columns[index] for index in first]
    reach = sum(widths[index] + 1 for index in first)
    last = narrow and max(first) < min(below)
    for number, row in enumerate(lines):
        style = "bold" if number == 0 or row[0][0] in bold else ""
        shown = _lines([row[index] for index in first], [widths[index] for index in first], columns, " " if narrow else "  ")
        rest = ", ".join(row[index][0] for index in below if row[index][0]) if narrow else ""
        if last and reach + len(rest) <= console.width:
            shown, rest = [shown[0].ljust(reach) + rest], ""
        _print_lines(shown, console, style)
        if rest:
            print_line(rest, console, indent="  ")


def _print_summary(found: Summary, console: Console) -> None:
    header = tuple(tuple(_heading_lines(column.name)) for column in found.columns)
    rows = [header, *map(_cells, found.rows)]
    level, gap = 0, "  "
    if console.is_terminal and _total_width(rows, level, gap) > console.width:
        gap = " "
        level = 1 if _total_width(rows, 1, gap) <= console.width else 2
    columns = found.columns[level == 2 :]
    names = sum(column.kind == "name" for column in columns)
    shaped = [_shaped(row, level) for row in rows]
    widths = _widths(shaped)
    _print_lines(_lines(shaped[0], widths, columns, gap), console, "bold")
    for row, cells in zip(found.rows, shaped[1:], strict=True):
        if not row.outcome:
            _print_lines(_lines(cells, widths, columns, gap), console)
            continue
        room = console.width - sum(widths[:names]) - names * len(gap)
        reason = textwrap.wrap(row.outcome, max(room, _LEAST_REASON_WIDTH), break_on_hyphens=False)
        # The reason takes the space of all figures.
        cells = (*cells[:names], tuple(reason) if console.is_terminal else (" ".join(reason),))
        _print_lines(_lines(cells, widths, [*columns[:names], Column("", "text")], gap), console, _STYLES[row.status])


def _heading_lines(name: str) -> Cell:
    return ("top-1 or", "agreement") if " or " in name else (name,)


def _cells(row: SummaryRow) -> Row:
    target, scheme, device = row.names
    where = (device, f"({row.evidence})") if row.evidence else (device,)
    return ((target,), (scheme,), where, *(tuple(filter(None, parts)) for parts in row.figures))


def _shaped(row: Row, level: int) -> Row:
    """Level 0: one line a cell. Level 1: a cell's parts below one another. Level 2: the scheme below the target as well."""
    if level == 0:
        return tuple((" ".join(cell),) for cell in row)
    return row if level == 1 else (row[0] + row[1], *row[2:])


def _widths(rows: Sequence[Row]) -> list[int]:
    return [max(len(line) for cell in column for line in cell) for column in zip(*rows, strict=True)]


def _total_width(rows: Sequence[Row], level: int, gap: str) -> int:
    widths = _widths([_shaped(row, level) for row in rows])
    return sum(widths) + len(gap) * (len(widths) - 1)


def _lines(cells: Sequence[Cell], widths: Sequence[int], columns: Sequence[Column], gap: str) -> list[str]:
    """The lines of a row; figures are right-aligned."""
    lines = []
    for index in range(max(len(cell) for cell in cells)):
        pieces = [cell[index] if index < len(cell) else "" for cell in cells]
        padded = [
            piece.rjust(width) if column.kind == "figure" else piece.ljust(width)
            for column, piece, width in zip(columns, pieces, widths, strict=False)
        ]
        lines.append(gap.join(padded).rstrip())
    return lines


def _print_lines(lines: Sequence[str], console: Console, style: str = "") -> None:
    for line in lines:
        console.print(Text(line, style=style), soft_wrap=True)
