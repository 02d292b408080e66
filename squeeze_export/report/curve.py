"""The calibration curve: as a table, in words, and as an SVG file."""

from __future__ import annotations

import math
from collections.abc import Sequence

from squeeze_export.report.charts import Axis, ticks_over
from squeeze_export.report.pages import fill
from squeeze_export.report.tables import Column, Table
from squeeze_export.report.wording import NOTHING, decibel, delta_pp, delta_range, percent, percent_range
from squeeze_export.results import Curve


def curve_table(curve: Curve) -> Table:
    """A row for each part of the calibration images."""
    if curve.points[0].error is not None:
        return _error_table(curve)
    rows = []
    for point in curve.points:
        agreement, delta = point.agreement, point.to_largest_pp
        last = (NOTHING, "") if point is curve.points[-1] else (delta_pp(delta), delta_range(delta))
        rows.append((f"{point.image_count}", percent(agreement.value), percent_range(agreement), decibel(point.sqnr_db), *last))
    return Table(tuple(map(Column, ("images", "agreement", "", "SQNR", "to the largest", ""))), rows)


def _error_table(curve: Curve) -> Table:
    """That of a network with one output."""
    rows = []
    for point in curve.points:
        error, against, last = point.error, point.error_to_largest, (NOTHING, "")
        assert error is not None
        if point is not curve.points[-1] and against is not None:
            last = f"{against.value:+.2g}", f"[{against.low:+.2g}, {against.high:+.2g}]"
        correlation = NOTHING if error.correlation is None else f"{error.correlation:.4f}"
        rows.append((f"{point.image_count}", f"{error.mean:.3g}", f"{error.p95:.3g}", correlation, decibel(point.sqnr_db), *last))
    return Table(tuple(map(Column, ("images", "error", "95% at most", "correlation", "SQNR", "to the largest", ""))), rows)


def curve_line(curve: Curve) -> str:
    """How many images are enough, as far as the intervals tell."""
    largest = curve.points[-1]
    enough = next(point for point in curve.points if point.image_count == curve.enough_count)
    reached = f"from {enough.image_count} images on" if enough is not largest else f"only with all {largest.image_count} images"
    sqnr = f"; SQNR there is {decibel(enough.sqnr_db)}, with all {decibel(largest.sqnr_db)}" if enough is not largest else ""
    if largest.error is not None and enough is largest:
        return f"The error with {curve.points[-2].image_count} images is shown to be above that with all {largest.image_count}."
    if largest.error is not None:
        return f"No error is shown to be above that of the largest part {reached}{sqnr}."
    return f"The agreement interval reaches that of the largest part {reached}{sqnr}."


def curve_note(curve: Curve) -> str:
    """What was compared, on which images."""
    about = curve.evaluation
    images = f"{about['image_count']} images of {about['source']}" + (f" ({about['note']})" if about.get("note") else "")
    error = curve.points[-1].error
    spread = "" if error is None else f"; the reference's output has a standard deviation of {error.spread:.3g}"
    drawn = f"parts drawn with seed {curve.seed}, recipe {curve.recipe}"
    return f"the exact integer run against the fp32 reference on {images}{spread}; {drawn}"


def curve_svg(curve: Curve, name: str, note: str) -> str:
    """An SVG file: agreement with its intervals above, SQNR below, against the number of calibration images (logarithmic).

    Of a network with one output, the mean error stands above.

    Args:
        curve: of at least two points; an infinite SQNR is left out.
        name: of the network, above the drawing.
        note: below it: what was compared.
    """
    counts = [point.image_count for point in curve.points]
    across = Axis(math.log2(counts[0]), math.log2(counts[-1]), 80, 960)
    xs = [across.at(math.log2(count)) for count in counts]
    errors = [point.error.mean for point in curve.points if point.error is not None]
    shares = [[100 * share for share in (p.agreement.value, p.agreement.low, p.agreement.high)] for p in curve.points]
    name_above, above = ("mean error", [[error] * 3 for error in errors]) if errors else ("agreement, %", shares)
    panels = [_panel(name_above, 56, 236, [(x, *values) for x, values in zip(xs, above, strict=True)])]
    finite = [(x, point.sqnr_db) for x, point in zip(xs, curve.points, strict=True) if math.isfinite(point.sqnr_db)]
    if finite:
        panels.append(_panel("SQNR, dB", 272, 392, [(x, value, value, value) for x, value in finite]))
    title = f"{name}: integers against fp32, by calibration images"
    labels = list(zip(xs, counts, strict=True))
    return fill("report/templates/curve.svg", title=title, note=note, panels=panels, labels=labels, left=xs[0], right=xs[-1])


def _panel(name: str, top_px: float, bottom_px: float, points: Sequence[tuple[float, ...]]) -> dict[str, object]:
    """The ticks and points of one panel with their positions; a point is x, value, low, high."""
    ticks = ticks_over(min(low for _, _, low, _ in points), max(high for _, _, _, high in points))
    up = Axis(ticks[0], ticks[-1], bottom_px, top_px)
    places = [(x, up.at(value), up.at(low), up.at(high)) for x, value, low, high in points]
    return {"name": name, "top": top_px, "ticks": [(tick, up.at(tick)) for tick in ticks], "points": places}
