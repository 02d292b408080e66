"""What the drawings of a report show: rows, points and lines, and their axes. The page draws them as SVG, `plots.py` as PNG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from squeeze_export.report import wording
from squeeze_export.report.flips import row_name
from squeeze_export.report.wording import accuracy_heading, evidence, milliseconds, percent, sentence, size
from squeeze_export.results import Interval, Measurement, Report, Roofline

_BYTES = {"fp32": 4, "fp16": 2, "int8": 1, "int8-npu": 1, "int8-per-tensor": 1, "int8-symmetric": 1}
"""Of a weight or activation; other schemes have weights and activations of two kinds, and no place on a roofline."""
_MOST_LINES = 8
"""In a history; a ninth could not be told from the others."""


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
class BarRow:
    """One bar; the other fields are as in `IntervalRow`.

    Attributes:
        parts: their lengths, side by side from 0, in the unit of the axis; none is below 0.
    """

    label: str
    tag: str
    parts: tuple[float, ...]
    value: str


@dataclass(frozen=True)
class Point:
    """A point of a plane; the other fields are as in `IntervalRow`.

    Attributes:
        x: where it is.
        y: likewise, with its bounds.
        kind: which marker; equal for points that belong together.
        plain: whether it is fp32, to be told from the rest.
    """

    label: str
    tag: str
    x: float
    y: Interval
    value: str
    kind: int
    plain: bool = False


@dataclass(frozen=True)
class Line:
    """A named line through points (x, y); `kind` is the marker of its points, None for a limit without points."""

    name: str
    points: tuple[tuple[float, float], ...]
    kind: int | None = None


@dataclass(frozen=True)
class Intervals:
    """Estimates below each other; `marked` is where the dashed line is, such as no change."""

    name: str
    title: str
    note: str
    unit: str
    rows: tuple[IntervalRow, ...]
    marked: float
    caution: str = ""


@dataclass(frozen=True)
class Strips:
    """Samples below each other."""

    name: str
    title: str
    note: str
    rows: tuple[StripRow, ...]
    caution: str = ""


@dataclass(frozen=True)
class Bars:
    """Bars below each other; `parts` names the parts of a bar."""

    name: str
    title: str
    note: str
    unit: str
    parts: tuple[str, ...]
    rows: tuple[BarRow, ...]
    caution: str = ""


@dataclass(frozen=True)
class Plane:
    """Points and lines over two axes.

    Attributes:
        x_name: of the horizontal axis, with its unit.
        y_name: of the vertical one.
        logarithmic: both axes.
        x_words: words at the ends of the horizontal axis instead of numbers.
        x_span: of the horizontal axis, from the first word to the last; None spans the points and lines.
        from_zero: whether the horizontal axis begins at 0.
    """

    name: str
    title: str
    note: str
    x_name: str
    y_name: str
    points: tuple[Point, ...]
    lines: tuple[Line, ...] = ()
    logarithmic: bool = False
    x_words: tuple[str, str] | None = None
    x_span: tuple[float, float] | None = None
    from_zero: bool = False
    caution: str = ""


Figure: TypeAlias = Intervals | Strips | Bars | Plane


@dataclass(frozen=True)
class LayerError:
    """A layer's shares of the integers' error, as `analysis.json` has them.

    Attributes:
        name: of the layer.
        weights_share: power of the error that its weights alone make, over the whole error's.
        output_share: of its output in 8 bits.
    """

    name: str
    weights_share: float
    output_share: float


def figures_of(report: Report, layers: Sequence[LayerError] = (), history: Sequence[Report] = ()) -> list[Figure]:
    """Every drawing that the report has figures for, in the order of the page.

    Args:
        report: of which.
        layers: of an analysis of the same network.
        history: older reports of the same network, oldest first.
    """
    found = [
        accuracy_figure(report),
        size_figure(report),
        latency_figure(report.measurements),
        layer_figure(layers),
        roofline_figure(report),
        placement_figure(report.measurements),
    ]
    return [figure for figure in found if figure is not None] + history_figures([*history, report] if history else [])


def accuracy_figure(report: Report) -> Intervals | None:
    """The change of top-1 if every compared row has labels, else the agreement."""
    rows = []
    heading = accuracy_heading(report.measurements)
    for measurement in report.measurements:
        accuracy = measurement.accuracy
        if accuracy is None or accuracy.error is not None:
            continue
        delta, share = accuracy.top1_delta_pp if heading == "top-1" else None, accuracy.top1_agreement
        interval = delta or Interval(100 * share.value, 100 * share.low, 100 * share.high)
        if delta:
            value = f"{wording.delta_pp(delta)} {wording.delta_range(delta)}"
        else:
            value = f"{percent(share.value)} {wording.percent_range(share)}"
        if _drawable(interval.value, interval.low, interval.high):
            rows.append(IntervalRow(row_name(measurement, report.measurements), evidence(measurement), interval, value))
    if not rows:
        return None
    title, unit, marked = ("Top-1 against fp32", "pp", 0.0) if heading == "top-1" else ("Agreement with fp32", "%", 100.0)
    note, caution = sentence(wording.accuracy_note(report.measurements)), str(report.evaluation.get("note") or "")
    return Intervals("accuracy", title, note, unit, tuple(rows), marked, caution)


def size_figure(report: Report) -> Plane | None:
    """Size against the change of top-1, or against agreement if not every row has labels; None if all files are of one size."""
    heading, points = accuracy_heading(report.measurements), []
    kinds = _kinds(report.measurements)
    for row in report.measurements:
        accuracy = row.accuracy
        if accuracy is None or accuracy.error is not None or row.size_bytes == 0:
            continue
        share, delta = accuracy.top1_agreement, accuracy.top1_delta_pp if heading == "top-1" else None
        y = delta or Interval(100 * share.value, 100 * share.low, 100 * share.high)
        value = f"{size(row.size_bytes)}, {wording.delta_pp(delta) if delta else percent(share.value)}"
        if _drawable(y.value, y.low, y.high):
            points.append(_point(row, report, row.size_bytes / 1e6, y, value, kinds))
    if len({point.x for point in points}) < 2:
        return None
    y_name = "top-1 against fp32, pp" if heading == "top-1" else "agreement with fp32, %"
    fewer = wording.emulated_note(report.measurements)
    note = f"Further left is smaller, further up is better; the line is the 95% interval.{f' {sentence(fewer)}' if fewer else ''}"
    return Plane("size", "Size against accuracy", note, "size of the file, MB", y_name, tuple(points), from_zero=True)


def latency_figure(measurements: Sequence[Measurement]) -> Strips | None:
    """The samples of every session that was timed."""
    rows = [
        StripRow(
            row_name(measurement, measurements),
            evidence(measurement),
            [sample_ns / 1e6 for sample_ns in measurement.latency.samples_ns],
            f"{milliseconds(measurement.latency.p50_ms)}, p99 {milliseconds(measurement.latency.p99_ms)}",
        )
        for measurement in measurements
        if measurement.latency is not None and measurement.latency.samples_ns
    ]
    if not rows:
        return None
    note = f"Each dot is an inference, the box the middle half, the line the median. Speed-up: {wording.timing_note(measurements)}."
    return Strips("latency", "Latency", note, tuple(rows), " ".join(map(sentence, wording.busy_lines(measurements))))


def layer_figure(layers: Sequence[LayerError]) -> Bars | None:
    """Each layer's shares of the error."""
    drawn = [layer for layer in layers if _drawable(layer.output_share, layer.weights_share)]
    if not drawn:
        return None
    rows = tuple(
        BarRow(wording.one_line(layer.name), "", shares, f"{100 * sum(shares):.3g}%")
        for layer in drawn
        for shares in [(max(layer.output_share, 0.0), max(layer.weights_share, 0.0))]
    )
    rows = tuple(BarRow(row.label, row.tag, tuple(100 * part for part in row.parts), row.value) for row in rows)
    note = (
        "The error that a layer makes alone, of the whole error; errors may add up or cancel. From the analysis beside the report."
    )
    return Bars("layers", "Error by layer", note, "%", ("its output in 8 bits", "its weights"), rows)


def roofline_figure(report: Report) -> Plane | None:
    """Multiply-accumulates a second against those per byte, under what one core of the machine gives at best."""
    roofs = report.roofline
    if roofs is None or min(work := (roofs.mac_count, roofs.value_count, roofs.memory_gb_s, *roofs.gmac_s.values())) <= 0:
        return None
    if not _drawable(*work):
        return None
    kinds, points = _kinds(report.measurements), []
    for row in report.measurements:
        if row.latency is None or row.scheme not in _BYTES or row.latency.threads != 1 or not 0 < row.latency.p50_ms < math.inf:
            continue
        rate = roofs.mac_count * row.latency.batch / (row.latency.p50_ms * 1e6)
        x = roofs.mac_count / (roofs.value_count * _BYTES[row.scheme])
        points.append(_point(row, report, x, Interval(rate, rate, rate), f"{rate:.3g} GMAC/s", kinds))
    if not points:
        return None
    note = (
        f"{roofs.mac_count / 1e6:,.4g} million multiply-accumulates an inference, one thread. The lines are what one core of this "
        "machine gave at best: copying memory, and large matrix products by numpy (float32) and ONNX Runtime (int8). Bytes are "
        "counted as if nothing stayed in a cache."
    )
    x_name = "multiply-accumulates per byte"
    lines = _roofs(roofs, [point.x for point in points])
    return Plane("roofline", "Roofline", note, x_name, "GMAC/s", tuple(points), lines, logarithmic=True)


def _roofs(roofs: Roofline, xs: Sequence[float]) -> tuple[Line, ...]:
    """The slope of the memory, up to the highest roof, and a level for each type of number."""
    left, right = min(xs) / 4, max(xs) * 4
    highest = max(roofs.gmac_s.values(), default=max(xs) * roofs.memory_gb_s)
    corner = min(max(highest / roofs.memory_gb_s, left * 1.01), right)
    slope = Line(f"memory {roofs.memory_gb_s:.3g} GB/s", ((left, left * roofs.memory_gb_s), (corner, corner * roofs.memory_gb_s)))
    levels = (
        Line(
            f"{wording.one_line(name)} {rate:.3g} GMAC/s", ((min(max(rate / roofs.memory_gb_s, left), right), rate), (right, rate))
        )
        for name, rate in roofs.gmac_s.items()
    )
    return slope, *levels


def placement_figure(measurements: Sequence[Measurement]) -> Bars | None:
    """Where the operators of each row ran, and in what numbers."""
    rows = []
    for row in measurements:
        placed = row.placement
        if placed is None or placed.operator_count <= 0:
            continue
        away = min(len(placed.elsewhere), placed.operator_count)
        whole = min(max(placed.integer_count, 0), placed.operator_count - away)
        rest = placed.operator_count - away - whole
        parts = tuple(100 * count / placed.operator_count for count in (whole, rest, away))
        value = f"{whole} of {placed.operator_count} in integers" + (f", {away} elsewhere" if away else "")
        rows.append(BarRow(row_name(row, measurements), evidence(row), parts, value))
    if not rows:
        return None
    note = (
        "Operators as the runtime runs them, after its own fusions; each file's section below names those in float and elsewhere."
    )
    names = ("in integers", "in float", "on another device than asked for")
    return Bars("placement", "Where the operators ran", note, "%", names, tuple(rows))


def history_figures(reports: Sequence[Report]) -> list[Figure]:
    """Accuracy, size and latency of each row over the reports, oldest first; fp32 rows only where a report has no others."""
    if len(reports) < 2:
        return []
    found = []
    for name, title, y_name, note, value in _HISTORIES:
        lines = _lines(reports, value)
        if not lines:
            continue
        points = tuple(
            Point(line.name, "", x, Interval(y, y, y), f"{y:.4g}", line.kind)
            for line in lines[:_MOST_LINES]
            for x, y in line.points
            if line.kind is not None
        )
        left_out = f" {len(lines) - _MOST_LINES} more rows are left out." if len(lines) > _MOST_LINES else ""
        words, span = (_day(reports[0]), _day(reports[-1])), (0.0, len(reports) - 1.0)  # also where only some have such a figure
        drawn = tuple(lines[:_MOST_LINES])
        found.append(Plane(name, title, note + left_out, "report", y_name, points, drawn, x_words=words, x_span=span))
    return list(found)


def _lines(reports: Sequence[Report], value: Callable[[Measurement], float | None]) -> list[Line]:
    points: dict[str, list[tuple[float, float]]] = {}
    for place, report in enumerate(reports):
        rows = [row for row in report.measurements if row.scheme != "fp32"] or list(report.measurements)
        for row in rows:
            found = value(row)
            if found is not None and _drawable(found):
                points.setdefault(row_name(row, report.measurements), []).append((float(place), found))
    return [Line(name, tuple(places), kind) for kind, (name, places) in enumerate(points.items())]


def _accuracy_value(row: Measurement) -> float | None:
    return None if row.accuracy is None or row.accuracy.error is not None else 100 * row.accuracy.top1_agreement.value


def _size_value(row: Measurement) -> float | None:
    return row.size_bytes / 1e6 or None


def _latency_value(row: Measurement) -> float | None:
    return None if row.latency is None else row.latency.p50_ms


_HISTORIES = (
    (
        "history-agreement",
        "Agreement with fp32, report by report",
        "agreement, %",
        "Share of images with the top-1 class of the fp32 reference of the same report.",
        _accuracy_value,
    ),
    ("history-size", "Size, report by report", "MB", "Of the file.", _size_value),
    (
        "history-latency",
        "Latency, report by report",
        "p50, ms",
        "Measured at other times, perhaps on other machines, so a step here is no regression: a gate times two files side by side.",
        _latency_value,
    ),
)


def _day(report: Report) -> str:
    return wording.one_line(report.created)[:10] or "undated"


def _drawable(*values: float) -> bool:
    """Whether a drawing has room for the values; a report from elsewhere may hold any."""
    return all(abs(value) < 1e12 for value in values)  # not so of NaN


def _kinds(measurements: Sequence[Measurement]) -> Mapping[str, int]:
    """A marker for each target."""
    return {target: kind for kind, target in enumerate(dict.fromkeys(row.target for row in measurements))}


def _point(row: Measurement, report: Report, x: float, y: Interval, value: str, kinds: Mapping[str, int]) -> Point:
    name = row_name(row, report.measurements)
    return Point(name, evidence(row), x, y, value, kinds[row.target], row.scheme == "fp32")
