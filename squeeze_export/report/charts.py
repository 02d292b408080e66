"""The drawings of a page, as inline SVG: estimates with their intervals, latency samples as strips with boxes.

Positions are computed here; `templates/charts.html` draws. Colours are classes of the style sheet, so a drawing has the page's dark
mode too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from squeeze_export.report.pages import draw
from squeeze_export.results import Interval

_MOST_SAMPLES = 200
"""Dots drawn in a row; more would only blur, and make the file large."""


@dataclass(frozen=True)
class IntervalRow:
    """One estimate.

    Attributes:
        label: what was measured.
        tag: empty, or how the figure was obtained, such as `emulated`; the dot is then hollow.
        interval: in the unit of the axis.
        value: the text to the right.
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


@dataclass(frozen=True)
class Axis:
    """Maps values from `start` to `end` to positions from `first_px` to `last_px`."""

    start: float
    end: float
    first_px: float = 250
    last_px: float = 830

    def px(self, value: float) -> float:
        return self.first_px + (self.last_px - self.first_px) * (value - self.start) / (self.end - self.start)


def interval_chart(rows: Sequence[IntervalRow], *, title: str, unit: str, marked: float) -> str:
    """A dot with a line for each row; the axis spans all bounds and `marked`.

    Args:
        rows: at least one.
        title: for screen readers.
        unit: of the axis.
        marked: where the dashed line is, such as no change.
    """
    ticks = ticks_over(min(marked, *(row.interval.low for row in rows)), max(marked, *(row.interval.high for row in rows)))
    return draw("intervals", rows, Axis(ticks[0], ticks[-1]), ticks, title, unit, marked)


def strip_chart(rows: Sequence[StripRow], *, title: str) -> str:
    """Every sample as a dot, over a box from the 25th to the 75th percentile with the median; the axis starts at 0 ms.

    The axis ends a little above the largest 95th percentile, and the row says how many samples are beyond it: an outlier must not
    squeeze everything else into a corner, nor be hidden.
    """
    axis = Axis(0.0, 1.1 * max(float(np.percentile(row.samples_ms, 95)) for row in rows))
    strips = []
    for row in rows:
        beyond = sum(sample > axis.end for sample in row.samples_ms)
        value = f"{row.value}, {beyond} beyond" if beyond else row.value
        box = [axis.px(float(edge)) for edge in np.percentile(row.samples_ms, [25, 50, 75])]
        # Steps of the golden ratio spread the dots evenly in height, and always in the same way.
        dots = [(axis.px(ms), place * 0.618034 % 1 * 12 - 6) for place, ms in enumerate(_spread(row.samples_ms)) if ms <= axis.end]
        strips.append((row, value, box, dots))
    return draw("strips", strips, axis, [tick for tick in ticks_over(axis.start, axis.end) if tick <= axis.end], title, "ms")


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
