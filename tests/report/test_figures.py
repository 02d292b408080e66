"""What the drawings show: their rows and points, by hand where it can be."""

from __future__ import annotations

import dataclasses
import math

import pytest

from squeeze_export.core import Placement
from squeeze_export.report.charts import log_ticks, plane, svg
from squeeze_export.report.figures import (
    Intervals,
    LayerError,
    Plane,
    accuracy_figure,
    figures_of,
    history_figures,
    latency_figure,
    layer_figure,
    placement_figure,
    roofline_figure,
    size_figure,
)
from squeeze_export.results import Interval, Roofline


def names(report, **beside):
    return [figure.name for figure in figures_of(report, **beside)]


def test_a_drawing_stands_only_where_there_are_figures_for_it(report, flipped_report):
    assert names(report) == ["accuracy", "latency", "placement"]  # all files of one size, no roofline
    assert names(flipped_report) == ["accuracy", "size", "latency", "roofline", "placement"]
    assert names(dataclasses.replace(report, measurements=())) == []
    assert "layers" in names(report, layers=[LayerError("conv1", 0.1, 0.2)])


def test_size_against_the_change_of_top1_or_against_agreement(flipped_report, report):
    figure = size_figure(flipped_report)
    point = figure.points[0]
    assert (point.x, point.y, point.value, point.plain) == (1.269, Interval(-0.42, -1.3, 0.4), "1.27 MB, -0.42 pp", False)
    assert figure.points[1].plain
    assert figure.y_name == "top-1 against fp32, pp"
    row, *others = report.measurements
    unlabelled = dataclasses.replace(report, measurements=(dataclasses.replace(row, size_bytes=5_000_000), *others))
    assert size_figure(unlabelled).points[0].y == Interval(97.3, 96.0, pytest.approx(98.2))
    assert "agreement" in size_figure(unlabelled).y_name


def test_roofline_by_hand(flipped_report):
    # 300 million multiply-accumulates in 2.65 ms; 10 million values of one byte.
    figure = roofline_figure(flipped_report)
    (point,) = figure.points
    assert point.y.value == pytest.approx(300e6 / 2.65e-3 / 1e9)
    assert point.x == pytest.approx(30)
    slope, floats, integers = figure.lines
    assert all(y == pytest.approx(10 * x) for x, y in slope.points)
    assert [y for _, y in floats.points] == [50, 50]
    assert floats.points[0][0] == pytest.approx(7.5)  # where the slope is left of it: at the edge
    assert integers.points[0] == (20, 200)
    assert integers.name == "int8 200 GMAC/s"


@pytest.mark.parametrize(
    "roofs",
    [
        None,
        Roofline(0, 1, 1.0, {}),
        Roofline(1, 1, -1.0, {}),
        Roofline(1, 1, math.inf, {}),
        Roofline(1, 1, 1.0, {"int8": math.nan}),
    ],
)
def test_no_roofline_without_sound_roofs(flipped_report, roofs):
    assert roofline_figure(dataclasses.replace(flipped_report, roofline=roofs)) is None


def test_rows_with_more_threads_are_not_held_under_the_roofs_of_one_core(flipped_report):
    row = flipped_report.measurements[0]
    rows = (dataclasses.replace(row, latency=dataclasses.replace(row.latency, threads=2)),)
    assert roofline_figure(dataclasses.replace(flipped_report, measurements=rows)) is None


def test_operators_by_where_they_ran(report):
    row = report.measurements[0]
    placed = Placement(10, 6, 0.9, ("a", "b"), "a record", 8, ("MEAN a on cpu", "ADD b on cpu"))
    (bar,) = placement_figure([dataclasses.replace(row, placement=placed)]).rows
    assert bar.parts == (60, 20, 20)
    assert bar.value == "6 of 10 in integers, 2 elsewhere"
    odd = Placement(2, 5, 0.9, (), "a record", 8, ("a", "b", "c"))  # of a report that does not add up
    (bar,) = placement_figure([dataclasses.replace(row, placement=odd)]).rows
    assert (min(bar.parts), sum(bar.parts)) == (0, 100)


def test_layers_in_percent_of_the_whole_error():
    (bar,) = layer_figure([LayerError("conv1", 0.048, 0.2)]).rows
    assert bar.parts == pytest.approx((20, 4.8))
    assert bar.value == "24.8%"
    assert layer_figure([]) is None
    assert layer_figure([LayerError("x", math.nan, 1.0)]) is None


def test_history_follows_each_row(flipped_report):
    older = dataclasses.replace(flipped_report, created="2026-10-01T00:00:00+00:00")
    row = dataclasses.replace(older.measurements[0], size_bytes=1_500_000)
    older = dataclasses.replace(older, measurements=(row, *older.measurements[1:]))
    agreement, size, latency = history_figures([older, flipped_report])
    line = next(line for line in size.lines if line.name == "onnx int8, cpu")
    assert line.points == ((0, 1.5), (1, 1.269))
    assert size.x_words == ("2026-10-01", "2026-11-02")
    assert not any(line.name.startswith("onnx fp32") for line in size.lines)
    assert "a step here is no regression" in latency.note
    assert agreement.points[0].y.value == pytest.approx(97.3)
    assert history_figures([flipped_report]) == []


def test_a_history_spans_all_reports_where_only_one_was_timed(flipped_report):
    untimed = tuple(dataclasses.replace(row, latency=None) for row in flipped_report.measurements)
    older = dataclasses.replace(flipped_report, created="2026-10-01T00:00:00+00:00", measurements=untimed)
    *_, latency = history_figures([older, flipped_report])
    assert {point.x for point in latency.points} == {1}
    drawing = svg(latency)
    assert '<svg x="100.0%"' in drawing  # below the day of the newest
    assert '<svg x="0.0%"' not in drawing


def test_values_that_no_drawing_has_room_for_are_left_out(labelled_report):
    row = labelled_report.measurements[0]
    wild = [
        dataclasses.replace(row, accuracy=dataclasses.replace(row.accuracy, top1_delta_pp=Interval(value, value, value)))
        for value in (math.nan, math.inf, 1e300)
    ]
    report = dataclasses.replace(labelled_report, measurements=(row, *wild))
    assert len(accuracy_figure(report).rows) == 1
    assert accuracy_figure(dataclasses.replace(report, measurements=tuple(wild))) is None
    slow = dataclasses.replace(row, latency=dataclasses.replace(row.latency, samples_ns=(0, 2**62)))
    for figure in figures_of(dataclasses.replace(report, measurements=(slow, *wild))):
        assert "nan" not in svg(figure)
    empty = dataclasses.replace(row, latency=dataclasses.replace(row.latency, samples_ns=()))
    assert latency_figure([empty]) is None


def test_points_and_lines_are_where_they_belong():
    # 0 to 4 across 100% and 0 to 2 over 300 px.
    figure = Plane("n", "t", "", "x", "y", (point_at(1, 0.5), point_at(4, 2), point_at(0, 0)))
    drawing = plane(figure)
    assert '<svg x="25.0%" y="225.0" overflow="visible">' in drawing
    assert '<svg x="100.0%" y="0.0" overflow="visible">' in drawing
    assert 'aria-label="t. p: v; p: v; p: v."' in drawing


def point_at(x, y):
    from squeeze_export.report.figures import Point

    return Point("p", "", x, Interval(y, y, y), "v", 0)


def test_one_point_alone_is_drawn():
    assert "<path" in plane(Plane("n", "t", "", "x", "y", (point_at(1, 1),)))
    assert "<path" in plane(Plane("n", "t", "", "x", "y", (point_at(1, 1),), logarithmic=True))


def test_log_ticks():
    assert log_ticks(3, 40) == pytest.approx([1, 2, 5, 10, 20, 50, 100, 200, 500])
    assert log_ticks(1e-3, 1e3) == pytest.approx([10.0**power for power in range(-3, 4)])


def test_many_rows_are_told_as_far_as_someone_listens(labelled_report):
    row = labelled_report.measurements[0]
    rows = tuple(dataclasses.replace(row, device=f"d{index}") for index in range(50))
    figure = accuracy_figure(dataclasses.replace(labelled_report, measurements=rows))
    assert isinstance(figure, Intervals)
    assert "; and 10 more." in svg(figure)
