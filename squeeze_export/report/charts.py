"""The page's two drawings, as inline SVG: estimates with their intervals, and latency samples as strips with boxes.

Both are drawn from plain rows. Colours are classes of the style sheet, so a drawing follows the page into the dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from squeeze_export.results import Interval

_WIDTH_PX = 1000
_LABEL_PX = 250
_VALUE_PX = 170
_ROW_PX = 26
_AXIS_PX = 26
_MOST_SAMPLES = 200
"""Dots drawn a row: more are one blot, and a heavy file."""


@dataclass(frozen=True)
class IntervalRow:
    """One estimate.

    Attributes:
        label: what was measured.
        tag: `` or how the figure came about, such as `emulated`; the dot is then hollow.
        interval: in the axis' unit.
        value: the estimate in words, to the right.
    """

    label: str
    tag: str
    interval: Interval
    value: str


@dataclass(frozen=True)
class StripRow:
    """One session's samples, in ms; the other fields are as in `IntervalRow`."""

    label: str
    tag: str
    samples_ms: Sequence[float]
    value: str


def interval_chart(rows: Sequence[IntervalRow], *, title: str, unit: str, marked: float) -> str:
    """A dot and a line per row, over an axis in `unit` that reaches from the lowest bound to the highest and takes in `marked`.

    Args:
        rows: at least one.
        title: for readers that do not see the drawing.
        unit: at the axis.
        marked: the value of the dashed line, such as no change.
    """
    ticks = ticks_over(min(marked, *(row.interval.low for row in rows)), max(marked, *(row.interval.high for row in rows)))
    axis = _Axis(ticks[0], ticks[-1])
    parts = [_grid(axis, ticks, len(rows), unit), _line(axis.x(marked), 0, axis.x(marked), len(rows) * _ROW_PX, "zero")]
    for index, row in enumerate(rows):
        y = index * _ROW_PX + _ROW_PX / 2
        interval = row.interval
        parts += [
            _names(row.label, row.tag, row.value, y),
            f"<g><title>{escape(row.label)}: {escape(row.value)}</title>",
            _line(axis.x(interval.low), y, axis.x(interval.high), y, "mark"),
            f'<circle class="{"hollow" if row.tag else "dot"}" cx="{axis.x(interval.value):.1f}" cy="{y:.1f}" r="4"/></g>',
        ]
    return _svg(parts, len(rows), title)


def strip_chart(rows: Sequence[StripRow], *, title: str) -> str:
    """Every sample as a dot, over a box from the 25th to the 75th percentile with the median; the axis starts at 0 ms.

    The axis ends a little above the largest 95th percentile. Samples beyond it are counted in the row: one hiccup must not
    squeeze everything else into a corner, nor be hidden.
    """
    axis = _Axis(0.0, 1.1 * max(float(np.percentile(row.samples_ms, 95)) for row in rows))
    ticks = [tick for tick in ticks_over(axis.start, axis.end) if tick <= axis.end]
    parts = [_grid(axis, ticks, len(rows), "ms")]
    for index, row in enumerate(rows):
        y = index * _ROW_PX + _ROW_PX / 2
        low, median, high = (axis.x(float(value)) for value in np.percentile(row.samples_ms, [25, 50, 75]))
        beyond = sum(sample > axis.end for sample in row.samples_ms)
        value = f"{row.value}, {beyond} beyond" if beyond else row.value
        parts += [
            _names(row.label, row.tag, value, y),
            f"<g><title>{escape(row.label)}: {escape(value)}</title>",
            f'<rect class="box" x="{low:.1f}" y="{y - 7:.1f}" width="{max(high - low, 1):.1f}" height="14"/>',
            *(_sample(axis.x(sample), y, place) for place, sample in enumerate(_spread(row.samples_ms)) if sample <= axis.end),
            _line(median, y - 9, median, y + 9, "mark"),
            "</g>",
        ]
    return _svg(parts, len(rows), title)


def ticks_over(low: float, high: float) -> list[float]:
    """Three to eight values, 1, 2 or 5 times a power of ten apart, the first not above `low`, the last not below `high`."""
    span = high - low or max(abs(high), 1.0) * 0.1
    step = next(
        step
        for exponent in range(math.floor(math.log10(span)) - 1, math.floor(math.log10(span)) + 2)
        for step in (10.0**exponent, 2 * 10.0**exponent, 5 * 10.0**exponent)
        if span / step <= 6
    )
    # The small allowance keeps a bound that is a tick itself, but for rounding, from adding another.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class _Axis:
    """Maps a value between `start` and `end` to the drawing's x, px."""

    start: float
    end: float

    def x(self, value: float) -> float:
        room = _WIDTH_PX - _LABEL_PX - _VALUE_PX
        return _LABEL_PX + room * (value - self.start) / (self.end - self.start)


def _spread(samples: Sequence[float]) -> Sequence[float]:
    """All samples, or as many as are drawn, taken evenly over the run."""
    if len(samples) <= _MOST_SAMPLES:
        return samples
    return [samples[index * len(samples) // _MOST_SAMPLES] for index in range(_MOST_SAMPLES)]


def _sample(x: float, y: float, place: int) -> str:
    # Steps of the golden ratio spread the dots evenly in height, and the same for every reader.
    height = (place * 0.618034) % 1 * 12 - 6
    return f'<circle class="sample" cx="{x:.1f}" cy="{y + height:.1f}" r="1.6"/>'


def _grid(axis: _Axis, ticks: Sequence[float], row_count: int, unit: str) -> str:
    bottom = row_count * _ROW_PX
    parts = []
    for index, tick in enumerate(ticks):
        label = f"{tick:.6g} {unit}" if index == len(ticks) - 1 else f"{tick:.6g}"
        parts.append(_line(axis.x(tick), 0, axis.x(tick), bottom, "grid"))
        parts.append(f'<text class="soft" x="{axis.x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)


def _names(label: str, tag: str, value: str, y: float) -> str:
    tagged = f' <tspan class="tagged" dx="4">{escape(tag)}</tspan>' if tag else ""
    return (
        f'<text x="0" y="{y + 4:.1f}">{escape(label)}{tagged}</text>'
        f'<text x="{_WIDTH_PX - _VALUE_PX + 20}" y="{y + 4:.1f}">{escape(value)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _svg(parts: Sequence[str], row_count: int, title: str) -> str:
    height = row_count * _ROW_PX + _AXIS_PX
    return (
        f'<div class="wide"><svg viewBox="0 0 {_WIDTH_PX} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></div>"
    )
