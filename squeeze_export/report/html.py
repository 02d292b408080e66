"""A report as one self-contained page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from squeeze_export.files import write_text
from squeeze_export.report import tables, wording
from squeeze_export.report.charts import svg
from squeeze_export.report.figures import LayerError, figures_of
from squeeze_export.report.flips import MOST_SHOWN, flips_line, flips_of
from squeeze_export.report.pages import render
from squeeze_export.report.verdicts import TITLE, outcome_lines, verdict_lines, verdict_note
from squeeze_export.results import Measurement, Report

_MOST_NAMES = 12
"""Names listed in one place; the others are counted, and listed in report.json."""


@dataclass(frozen=True)
class Judgement:
    """A gate's result, in words.

    Attributes:
        state: of the whole.
        lines: state and sentence of each check, the failed ones first.
        created: when it was judged.
    """

    state: str
    lines: tuple[tuple[str, str], ...]
    created: str


@dataclass(frozen=True)
class Beside:
    """What a page shows that its report does not hold.

    Attributes:
        pictures: index of an image in `Report.images` -> a small JPEG.
        layers: of an analysis of the same network.
        history: older reports of the same network, oldest first.
        gate: its result; None if no gate judged this report.
    """

    pictures: Mapping[int, bytes] = field(default_factory=dict)
    layers: Sequence[LayerError] = ()
    history: Sequence[Report] = ()
    gate: Judgement | None = None


NOTHING_BESIDE = Beside()


def to_html(report: Report, beside: Beside = NOTHING_BESIDE) -> str:
    """The page: verdicts, the table, drawings, the images that flipped, each artifact, the machine, and the source of the images.

    Raises:
        BadInput: the answers in the report do not fit each other.
    """
    flips = flips_of(report)
    return render(
        "report/templates/report.html",
        report.network,
        report.warnings,
        report=report,
        summary=tables.summary(report.measurements),
        assumptions=report.assumptions,
        board=wording.board_line(report.measurements),
        busy=wording.busy_lines(report.measurements),
        outcomes=outcome_lines(report),
        gate=beside.gate,
        verdicts={"title": TITLE, "lines": verdict_lines(report), "note": verdict_note()},
        ratios={"title": wording.RATIOS, "lines": wording.ratio_lines(report), "note": wording.ratio_note()},
        estimates=tables.estimate_table(report.measurements),
        drawings=[(figure, svg(figure)) for figure in figures_of(report, beside.layers, beside.history)],
        flips=flips[:MOST_SHOWN],
        flips_line=flips_line(flips, report.images.hashes.count) if report.images is not None else "",
        pictures={index: _data_uri(picture) for index, picture in beside.pictures.items()},
        history=[*beside.history, report] if beside.history else [],
        differences=tables.difference_table(report),
        artifacts=_by_artifact(report.measurements),
        most_names=_MOST_NAMES,
    )


def write_html(report: Report, path: Path, beside: Beside = NOTHING_BESIDE) -> None:
    """Writes the page, whole or not at all.

    Raises:
        BadInput: the file cannot be written; as of `to_html`.
    """
    write_text(path, to_html(report, beside))


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def _by_artifact(measurements: Iterable[Measurement]) -> list[list[Measurement]]:
    """The rows of each file; the files in order of their first row."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault((measurement.artifact, measurement.sha256), []).append(measurement)
    return list(groups.values())
