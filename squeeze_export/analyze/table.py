"""An analysis on a rich console: aligned text that reads the same without colour."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from squeeze_export.analyze.mixed_words import KEPT, KEPT_HEADER, kept_lines, kept_note, kept_rows
from squeeze_export.analyze.results import Analysis
from squeeze_export.analyze.words import (
    FLIP_HEADER,
    LAYER_HEADER,
    flip_note,
    flip_rows,
    layer_note,
    layer_rows,
    summary_lines,
    worst_lines,
)

_WORDS = {"layer", "file", "reference", "int8", "network"}
"""Columns set to the left; the others are figures."""


def print_analysis(analysis: Analysis, console: Console) -> None:
    """Prints the summary, one row a layer (the worst in bold), what would mend the worst, the images that flip, and what layers in
    float win and cost."""
    for line in summary_lines(analysis):
        _print(console, line)
    _print(console, "")
    _print_rows(console, LAYER_HEADER, layer_rows(analysis), set(analysis.worst))
    _print(console, layer_note(analysis), "dim")
    for head, lines in worst_lines(analysis):
        _print(console, "")
        _print(console, head, "bold")
        for line in lines:
            _print(console, line, indent="  ")
    if analysis.flips:
        _print(console, "")
        _print_rows(console, FLIP_HEADER, flip_rows(analysis), set())
        _print(console, flip_note(analysis), "dim")
    if analysis.kept is not None:
        _print(console, "")
        _print(console, KEPT, "bold")
        for line in kept_lines(analysis.kept):
            _print(console, line, indent="  ")
        _print_rows(console, KEPT_HEADER, kept_rows(analysis.kept), set())
        _print(console, kept_note(analysis.kept), "dim")


def _print_rows(console: Console, header: tuple[str, ...], rows: Sequence[tuple[str, ...]], marked: set[str]) -> None:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if name in _WORDS else cell.rjust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ]
        style = "bold" if row is header or row[0] in marked else ""
        console.print(Text("  ".join(cells).rstrip(), style=style), soft_wrap=True)


def _print(console: Console, line: str, style: str = "", indent: str = "") -> None:
    """A line of prose, folded where there is a terminal to fold it for."""
    width = console.width if console.is_terminal else len(line) + len(indent) + 1
    folded = textwrap.wrap(line, width, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)
    for piece in folded or [""]:
        console.print(Text(piece, style=style), soft_wrap=True)
