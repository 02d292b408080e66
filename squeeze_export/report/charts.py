"""The page's two drawings, as inline SVG: estimates with their intervals, and latency samples as strips with boxes. A third, the
calibration curve, is a file of its own.

All are drawn from plain rows. Colours are classes of the style sheet, so a drawing follows the page into the dark.
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
_CURVE_LEFT_PX = 80
_FILE_STYLE = """
svg { --ink: #1d2327; --soft: #5c6770; --line: #d9dee3; --page: #ffffff; --mark: #1f6fb2; }
@media (prefers-color-scheme: dark) { svg { --ink: #dfe4e8; --soft: #98a3ad; --line: #343b42; --page: #15191d; --mark: #6cb2eb; } }
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: var(--ink); }
.title { font-size: 16px; font-weight: 650; } .soft { fill: var(--soft); font-size: 12px; } .page { fill: var(--page); }
.grid { stroke: var(--line); } .mark { stroke: var(--mark); stroke-width: 2; } .dot { fill: var(--mark); }
.joined { fill: none; stroke: var(--mark); stroke-opacity: 0.5; stroke-width: 2; }
"""
"""The page's colours (`style.py`), for a drawing that stands alone."""


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


@dataclass(frozen=True)
class CurveRow:
    """What one number of calibration images gives.

    Attributes:
        image_count: the number.
        agreement: in percent.
        sqnr_db: dB; infinite ones are left out of the drawing.
    """

    image_count: int
    agreement: Interval
    sqnr_db: float


def curve_file(rows: Sequence[CurveRow], *, title: str, note: str) -> str:
    """An SVG file: agreement with its intervals above, SQNR below, against the number of images (logarithmic).

    Args:
        rows: at least two, by image count.
        title: above the drawing.
        note: below it: what was compared.
    """
    across = _Axis(math.log2(rows[0].image_count), math.log2(rows[-1].image_count), _CURVE_LEFT_PX, _WIDTH_PX - 40)
    xs = [across.x(math.log2(row.image_count)) for row in rows]
    parts = [f'<text class="title" x="20" y="28">{escape(title)}</text>']
    ticks = ticks_over(min(row.agreement.low for row in rows), max(row.agreement.high for row in rows))
    agreement = _Panel(ticks, 56, 236)
    parts.append(_panel(agreement, xs, "agreement, %"))
    parts.append(_path([(x, agreement.y(row.agreement.value)) for x, row in zip(xs, rows, strict=True)]))
    for x, row in zip(xs, rows, strict=True):
        interval = row.agreement
        parts.append(_line(x, agreement.y(interval.low), x, agreement.y(interval.high), "mark"))
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{agreement.y(interval.value):.1f}" r="4"/>')
    finite = [(x, row) for x, row in zip(xs, rows, strict=True) if math.isfinite(row.sqnr_db)]
    if finite:
        sqnr = _Panel(ticks_over(min(row.sqnr_db for _, row in finite), max(row.sqnr_db for _, row in finite)), 272, 392)
        parts.append(_panel(sqnr, xs, "SQNR, dB"))
        places = [(x, sqnr.y(row.sqnr_db)) for x, row in finite]
        parts.append(_path(places))
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places]
    parts += [
        f'<text class="soft" x="{x:.1f}" y="412" text-anchor="middle">{r.image_count}</text>' for x, r in zip(xs, rows, strict=True)
    ]
    parts.append(f'<text class="soft" x="{(xs[0] + xs[-1]) / 2:.1f}" y="432" text-anchor="middle">calibration images</text>')
    parts.append(f'<text class="soft" x="20" y="456">{escape(note)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH_PX} 468" role="img" aria-label="{escape(title)}">'
        f'<style>{_FILE_STYLE}</style><rect class="page" width="{_WIDTH_PX}" height="468"/>{"".join(parts)}</svg>\n'
    )


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
    """Maps a value between `start` and `end` to the drawing's x, px, between `left_px` and `right_px`."""

    start: float
    end: float
    left_px: float = _LABEL_PX
    right_px: float = _WIDTH_PX - _VALUE_PX

    def x(self, value: float) -> float:
        return self.left_px + (self.right_px - self.left_px) * (value - self.start) / (self.end - self.start)


@dataclass(frozen=True)
class _Panel:
    """Maps a value between the ticks to the drawing's y, px; the last tick is at the top."""

    ticks: Sequence[float]
    top_px: float
    bottom_px: float

    def y(self, value: float) -> float:
        first, last = self.ticks[0], self.ticks[-1]
        return self.bottom_px - (self.bottom_px - self.top_px) * (value - first) / (last - first)


def _panel(panel: _Panel, xs: Sequence[float], name: str) -> str:
    """The grid of one panel, its ticks' values and its name."""
    parts = [f'<text class="soft" x="20" y="{panel.top_px - 10:.1f}">{escape(name)}</text>']
    for tick in panel.ticks:
        y = panel.y(tick)
        parts.append(_line(xs[0], y, xs[-1], y, "grid"))
        parts.append(f'<text class="soft" x="{xs[0] - 12:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    return "".join(parts)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return f'<polyline class="joined" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'


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
