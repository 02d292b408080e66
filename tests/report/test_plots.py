"""The drawings as PNG files."""

from __future__ import annotations

import dataclasses
import io
import sys

import pytest
from PIL import Image

from squeeze_export.errors import NotInstalled
from squeeze_export.report.figures import LayerError, figures_of, roofline_figure
from squeeze_export.report.plots import plots_of


@pytest.fixture
def figures(flipped_report):
    """One of every kind."""
    older = dataclasses.replace(flipped_report, created="2026-10-01T00:00:00+00:00")
    return figures_of(flipped_report, layers=[LayerError("conv1", 0.1, 0.2)], history=[older])


def test_each_figure_is_a_picture_with_something_in_it(figures):
    found = plots_of(figures)
    assert list(found) == [figure.name for figure in figures]
    assert len(found) == 9
    for png in found.values():
        image = Image.open(io.BytesIO(png))
        assert image.format == "PNG"
        assert image.width >= 1000
        assert len(image.convert("L").getcolors()) > 20  # an empty page has one


def test_a_name_is_no_formula(labelled_report):
    row = dataclasses.replace(labelled_report.measurements[0], device="$\\frac{1}$ \\undefined $")
    assert plots_of(figures_of(dataclasses.replace(labelled_report, measurements=(row,))))


def test_the_ticks_of_a_roofline_are_numbers(flipped_report, monkeypatch):
    """Formulas are off, and matplotlib writes those of a logarithmic axis as formulas."""
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self.axes[0]))
    plots_of([roofline_figure(flipped_report)])
    for axis in (drawn[0].xaxis, drawn[0].yaxis):
        texts = [label.get_text() for label in axis.get_ticklabels()]
        assert len(texts) > 2
        assert [float(text) for text in texts] == pytest.approx(list(axis.get_ticklocs()))


def test_without_matplotlib(figures, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NotInstalled) as error:
        plots_of(figures)
    assert error.value.exit_code == 3
    assert error.value.hint == "pip install 'squeeze-export[report]'"
