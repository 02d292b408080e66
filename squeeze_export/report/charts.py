"""The drawings of a page, as inline SVG.

Horizontal places are shares of the width, so a drawing keeps the size of its text on a phone and fills a desk's screen; vertical
places are pixels. They are computed here, and `templates/charts.html` draws. Colours are classes of the style sheet, so a drawing
has the page's dark mode too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from squeeze_export.report.figures import Bars, Figure, Intervals, Plane, Strips
from squeeze_export.report.pages import draw

_MOST_SAMPLES = 200
"""Dots drawn in a row; more would only blur, and make the file large."""
_MOST_TOLD = 40
"""Rows that the text for screen readers holds."""
PLANE_PX = 300
SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-4.5 -4.5h9v9h-9z",
    "M0 -6l5.5 10h-11z",
    "M0 -6.2l6.2 6.2l-6.2 6.2l-6.2 -6.2z",
    "M0 6l5.5 -10h-11z",
    "M-6 -2h4v-4h4v4h4v4h-4v4h-4v-4h-4z",
    "M-5 -5l5 2.5l5 -2.5l-2.5 5l2.5 5l-5 -2.5l-5 2.5l2.5 -5z",
    "M-3 -6h6l3 6l-3 6h-6l-3 -6z",
)
"""Markers around 0, told apart without colour."""


@dataclass(frozen=True)
class Axis:
    """Maps values from `start` to `end` to positions from `first` to `last`, in percent of the width or in pixels."""

    start: float
    end: float
    first: float = 0
    last: float = 100

    def at(self, value: float) -> float:
        return self.first + (self.last - self.first) * (value - self.start) / (self.end - self.start)


@dataclass(frozen=True)
class LogAxis:
    """The same for logarithms; all values are above 0."""

    start: float
    end: float
    first: float = 0
    last: float = 100

    def at(self, value: float) -> float:
        return Axis(math.log(self.start), math.log(self.end), self.first, self.last).at(math.log(value))


def svg(figure: Figure) -> str:
    """A figure as an SVG element, with a text for screen readers, and a legend where it needs one."""
    if isinstance(figure, Intervals):
        return interval_chart(figure)
    if isinstance(figure, Strips):
        return strip_chart(figure)
    return bar_chart(figure) if isinstance(figure, Bars) else plane(figure)


def interval_chart(figure: Intervals) -> str:
    """A dot with a line for each row; the axis spans all bounds and `marked`."""
    lows, highs = [row.interval.low for row in figure.rows], [row.interval.high for row in figure.rows]
    ticks = ticks_over(min(figure.marked, *lows), max(figure.marked, *highs))
    return draw("intervals", figure, Axis(ticks[0], ticks[-1]), ticks, told(figure))


def strip_chart(figure: Strips) -> str:
    """Every sample as a dot, over a box from the 25th to the 75th percentile with the median; the axis starts at 0 ms.

    The axis ends a little above the largest 95th percentile, and the row says how many samples are beyond it: an outlier must not
    squeeze everything else into a corner, nor be hidden.
    """
    axis = Axis(0.0, 1.1 * max(float(np.percentile(row.samples_ms, 95)) for row in figure.rows) or 1.0)
    strips = []
    for row in figure.rows:
        beyond = sum(sample > axis.end for sample in row.samples_ms)
        value = f"{row.value}, {beyond} beyond" if beyond else row.value
        box = [min(axis.at(float(edge)), 100.0) for edge in np.percentile(row.samples_ms, [25, 50, 75])]
        # Steps of the golden ratio spread the dots evenly in height, and always in the same way.
        dots = [(axis.at(ms), place * 0.618034 % 1 * 12 - 6) for place, ms in enumerate(_spread(row.samples_ms)) if ms <= axis.end]
        strips.append((row, value, box, dots))
    ticks = [tick for tick in ticks_over(axis.start, axis.end) if tick <= axis.end]
    return draw("strips", figure, strips, axis, ticks, told(figure))


def bar_chart(figure: Bars) -> str:
    """Bars of parts side by side, from 0."""
    ticks = ticks_over(0.0, max(sum(row.parts) for row in figure.rows))
    axis = Axis(ticks[0], ticks[-1])
    rows = [(row, [(axis.at(sum(row.parts[:i])), axis.at(part)) for i, part in enumerate(row.parts)]) for row in figure.rows]
    return draw("bars", figure, rows, axis, ticks, told(figure))


def plane(figure: Plane) -> str:
    """Points and lines; both axes span all of them."""
    xs = [point.x for point in figure.points] + [x for line in figure.lines for x, _ in line.points]
    ys = [bound for point in figure.points for bound in (point.y.low, point.y.high)]
    ys += [y for line in figure.lines for _, y in line.points]
    kind: type[Axis] | type[LogAxis] = LogAxis if figure.logarithmic else Axis
    if figure.logarithmic:
        x_ticks, y_ticks = log_ticks(min(xs), max(xs)), log_ticks(min(ys), max(ys))
        across, up = kind(min(xs) / 1.1, max(xs) * 1.1), kind(min(ys) / 1.3, max(ys) * 1.3, PLANE_PX, 0)
    else:
        x_ticks = ticks_over(0.0 if figure.from_zero else min(xs), max(xs))
        y_ticks = ticks_over(min(ys), max(ys))
        across = kind(*(figure.x_span or (x_ticks[0], x_ticks[-1])))
        up = kind(y_ticks[0], y_ticks[-1], PLANE_PX, 0)
    points = [
        (point, across.at(point.x), *(up.at(y) for y in (point.y.value, point.y.low, point.y.high))) for point in figure.points
    ]
    lines = [(line, [(across.at(x), up.at(y)) for x, y in line.points]) for line in figure.lines]
    x_marks = [(across.at(tick), tick) for tick in x_ticks if -0.01 <= across.at(tick) <= 100.01]
    y_marks = [(up.at(tick), tick) for tick in y_ticks if -0.01 <= up.at(tick) <= PLANE_PX + 0.01]
    return draw("plane", figure, points, lines, [] if figure.x_words else x_marks, y_marks, SHAPES, PLANE_PX, told(figure))


def told(figure: Figure) -> str:
    """The figure in words: its title, and each row with its value."""
    if isinstance(figure, Plane):
        rows = [(point.label, point.value) for point in figure.points] + [
            (line.name, "") for line in figure.lines if line.kind is None
        ]
    else:
        rows = [(f"{row.label} {row.tag}".rstrip(), row.value) for row in figure.rows]
    words = [f"{label}: {value}" if value else label for label, value in rows]
    more = [f"and {len(words) - _MOST_TOLD} more"] if len(words) > _MOST_TOLD else []
    return f"{figure.title}. {'; '.join(words[:_MOST_TOLD] + more)}."


def _spread(samples: Sequence[float]) -> Sequence[float]:
    """The samples to draw: all, or `_MOST_SAMPLES` taken evenly over the run."""
    if len(samples) <= _MOST_SAMPLES:
        return samples
    return [samples[index * len(samples) // _MOST_SAMPLES] for index in range(_MOST_SAMPLES)]


def ticks_over(low: float, high: float) -> list[float]:
    """Three to eight values, 1, 2 or 5 times a power of ten apart, the first not above `low`, the last not below `high`."""
    span = high - low or max(abs(high), 1.0) * 0.1
    step = next(
        step
        for exponent in range(math.floor(math.log10(span)) - 1, math.floor(math.log10(span)) + 2)
        for step in (10.0**exponent, 2 * 10.0**exponent, 5 * 10.0**exponent)
        if span / step <= 6
    )
    # The small tolerance keeps a bound that is a tick except for rounding from adding another.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from below `low` to above `high`; powers of ten alone where that would be many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(exponents) <= 4 else (1,)
    return [step * 10.0**exponent for exponent in exponents for step in steps]
