"""The drawings of a report as PNG files, by matplotlib: for slides and papers. The page does not need it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

from squeeze_export.core import require
from squeeze_export.report.charts import log_ticks
from squeeze_export.report.figures import BarRow, Bars, Figure, IntervalRow, Intervals, Plane, StripRow, Strips

_MARK, _SOFT, _LINE, _WARN = "#1f6fb2", "#5c6770", "#d9dee3", "#8a5a00"
_MARKERS = "os^Dv*Xh"
_INCHES = 9
_DPI = 150
_MOST_ROWS = 60
"""Rows of one drawing; a report from elsewhere may have any number."""
# Text of a stranger's report is no formula, and a font that every machine has.
_STYLE = {"text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "", "axes.edgecolor": _LINE}


def plots_of(figures: Iterable[Figure]) -> dict[str, bytes]:
    """A PNG for each figure, by its name.

    Raises:
        NotInstalled: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "report")
    drawing = require("matplotlib.figure", "report")
    with matplotlib.rc_context(_STYLE):
        return {figure.name: _png(figure, drawing) for figure in figures}


def _png(figure: Figure, drawing: Any) -> bytes:
    rows = 9 if isinstance(figure, Plane) else min(len(figure.rows), _MOST_ROWS)
    paper = drawing.Figure(figsize=(_INCHES, 1.3 + 0.42 * rows), layout="constrained")
    axes = paper.subplots()
    axes.set_title(figure.title, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    if isinstance(figure, Plane):
        _draw_plane(figure, axes)
    else:
        _draw_rows(figure, axes)
    file = io.BytesIO()
    # The version would make other bytes of the same drawing.
    paper.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def _draw_rows(figure: Intervals | Strips | Bars, axes: Any) -> None:
    rows: Sequence[IntervalRow | StripRow | BarRow] = figure.rows[:_MOST_ROWS]
    for place, row in enumerate(rows):
        face = "white" if row.tag else _MARK
        if isinstance(figure, Intervals):
            found = figure.rows[place].interval
            axes.plot([found.low, found.high], [place, place], color=_MARK, linewidth=2)
            axes.plot([found.value], [place], "o", color=_MARK, markerfacecolor=face)
        elif isinstance(figure, Strips):
            samples = figure.rows[place].samples_ms
            box = {"facecolor": "#d2e2f0", "edgecolor": _MARK}
            axes.boxplot(
                [samples],
                positions=[place],
                orientation="horizontal",
                widths=0.5,
                patch_artist=True,
                boxprops=box,
                medianprops={"color": _MARK, "linewidth": 2},
                showfliers=False,
            )
            heights = [place + (index * 0.618034 % 1 - 0.5) * 0.4 for index in range(len(samples))]
            axes.scatter(samples, heights, s=2, color=_MARK, alpha=0.4, zorder=3)
        else:
            _draw_bar(figure, place, axes)
    if isinstance(figure, Intervals):
        axes.axvline(figure.marked, color=_SOFT, linewidth=1, linestyle="--")
    if isinstance(figure, Strips):
        axes.set_xlim(left=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [f"{row.label}{f' ({row.tag})' if row.tag else ''}\n{row.value}" for row in rows])
    axes.set_xlabel("ms" if isinstance(figure, Strips) else figure.unit)
    if isinstance(figure, Bars):
        axes.legend(figure.parts, loc="lower right", fontsize=8)


def _draw_bar(figure: Bars, place: int, axes: Any) -> None:
    start = 0.0
    for part, (face, edge) in zip(figure.rows[place].parts, ((_MARK, _MARK), ("#d2e2f0", _MARK), ("#fff6e0", _WARN)), strict=False):
        axes.barh([place], [part], left=start, height=0.5, facecolor=face, edgecolor=edge)
        start += part


def _draw_plane(figure: Plane, axes: Any) -> None:
    if figure.logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
    for line in figure.lines:
        xs, ys = zip(*line.points, strict=True)
        if line.kind is None:
            axes.plot(xs, ys, color=_SOFT, linewidth=1.5)
            # A slope is named at its lower end, a level at its right one.
            end, away, side = (-1, (0, 4), "right") if ys[0] == ys[-1] else (0, (6, -8), "left")
            place = {"xy": (xs[end], ys[end]), "xytext": away, "textcoords": "offset points", "ha": side}
            axes.annotate(line.name, **place, fontsize=8, color=_SOFT)
        else:
            axes.plot(xs, ys, color=_MARK, alpha=0.5, linewidth=1.5, marker=_MARKERS[line.kind % len(_MARKERS)], label=line.name)
    for point in figure.points if figure.x_words is None else ():
        color, marker = (_SOFT if point.plain else _MARK), _MARKERS[point.kind % len(_MARKERS)]
        face = "white" if point.tag else color
        label = f"{point.label}{f' ({point.tag})' if point.tag else ''}: {point.value}"
        axes.plot([point.x, point.x], [point.y.low, point.y.high], color=color, linewidth=1.5)
        axes.plot([point.x], [point.y.value], marker, color=color, markerfacecolor=face, label=label)
    if figure.x_words is not None and figure.x_span is not None:
        axes.set_xticks(figure.x_span, figure.x_words)
    if figure.from_zero:
        axes.set_xlim(left=0)
    if figure.logarithmic:
        axes.minorticks_off()
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = [tick for tick in log_ticks(low, high) if low <= tick <= high]
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])  # matplotlib's own are formulas, which are off
    axes.set_xlabel(figure.x_name)
    axes.set_ylabel(figure.y_name)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, fontsize=8, frameon=False)
