"""The images that files put into another class than the fp32 reference, from the answers that a report holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from squeeze_export.errors import BadInput
from squeeze_export.report.tables import Column, Table
from squeeze_export.report.wording import NOTHING, device, one_line, scheme
from squeeze_export.results import MOST_IMAGES, NOT_RUN, UNLABELLED, ComparedImages, Measurement, Report

MOST_SHOWN = 24
"""Flips that a page or a text shows; the others are counted."""

Kind = Literal["lost", "won", "changed"]


@dataclass(frozen=True)
class Answer:
    """A class that some files gave instead of the reference's.

    Attributes:
        name: of the class; its index where it has none.
        rows: which files, as `row_name` gives them.
        kind: what it means for the label.
    """

    name: str
    rows: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True)
class FlippedImage:
    """An image that at least one file put into another class than the reference.

    Attributes:
        index: of the image in `Report.images`.
        file: its name, as it is; its number, from 1, where names are not known.
        label: name of its class; empty without a label.
        reference: name of the class that the reference gave.
        answers: the others, those of most files first.
        sha63: first 63 bits of the file's SHA-256.
    """

    index: int
    file: str
    label: str
    reference: str
    answers: tuple[Answer, ...]
    sha63: int

    @property
    def kind(self) -> Kind:
        """`lost` if any file lost it, else `won` if any won it."""
        kinds = {answer.kind for answer in self.answers}
        return "lost" if "lost" in kinds else "won" if "won" in kinds else "changed"


def row_name(measurement: Measurement, among: Sequence[Measurement]) -> str:
    """`onnx int8, cpu`."""
    return one_line(f"{measurement.target} {scheme(measurement, among)}, {device(measurement, among)}")


def flips_of(report: Report) -> list[FlippedImage]:
    """Every flip: those that lost a right answer first, then by the number of files that changed their answer.

    Raises:
        BadInput: the answers in the report do not fit each other, or are damaged.
    """
    images = report.images
    if images is None or images.hashes.count > MOST_IMAGES:
        return []
    hashes, labels, reference = (packed.numbers() for packed in (images.hashes, images.labels, images.reference.top1))
    given: dict[str, NDArray[np.int64]] = {}
    for row in report.measurements:
        if row.answers is not None:
            _check_count(row.answers.top1.count, len(hashes))
            given.setdefault(row_name(row, report.measurements), row.answers.top1.numbers())
    _check_count(len(labels), len(hashes))
    _check_count(len(reference), len(hashes))
    if not given:
        return []
    answers = np.stack(list(given.values()))
    changed = (answers != reference) & (answers != NOT_RUN)
    files, classes = _file_names(images), _class_names(images)
    found = []
    for index in np.flatnonzero(changed.any(axis=0)).tolist():
        expected, label = int(reference[index]), int(labels[index])
        rows: dict[int, list[str]] = {}
        for name, answer in zip(np.array(list(given), object)[changed[:, index]], answers[changed[:, index], index], strict=True):
            rows.setdefault(int(answer), []).append(name)
        found.append(
            FlippedImage(
                index,
                files[index] if files else f"image {index + 1:,}",
                _class(label, classes) if label != UNLABELLED else "",
                _class(expected, classes),
                tuple(
                    Answer(_class(answer, classes), tuple(names), _kind(label, expected, answer))
                    for answer, names in sorted(rows.items(), key=lambda item: -len(item[1]))
                ),
                int(hashes[index]),
            )
        )
    order = ("lost", "won", "changed")
    return sorted(found, key=lambda flip: (order.index(flip.kind), -sum(len(answer.rows) for answer in flip.answers)))


def flips_line(flips: Sequence[FlippedImage], image_count: int) -> str:
    """How many images flipped in any file, and how many of them are shown, in one sentence without its full stop."""
    shown = f"; the first {MOST_SHOWN} are shown" if len(flips) > MOST_SHOWN else ""
    kinds = {kind: sum(flip.kind == kind for flip in flips) for kind in ("lost", "won")}
    told = "".join(f", {count} {kind}" for kind, count in kinds.items() if count)
    head = f"{len(flips):,} of {image_count:,} images have another top-1 class than the fp32 reference in at least one file"
    return f"{head}{told}{shown}"


def flip_table(report: Report) -> Table | None:
    """The first `MOST_SHOWN` flips as a table, a row for each answer; None if there are none."""
    flips = flips_of(report)
    if not flips or report.images is None:
        return None
    rows = [
        (one_line(flip.file), flip.label or NOTHING, flip.reference, answer.name, answer.kind, "; ".join(answer.rows))
        for flip in flips[:MOST_SHOWN]
        for answer in flip.answers
    ]
    columns = tuple(Column(name, "text") for name in ("image", "label", "fp32", "answer", "", "of"))
    return Table(columns, rows, "Images that flipped", flips_line(flips, report.images.hashes.count))


def _check_count(count: int, wanted: int) -> None:
    if count != wanted:
        raise BadInput(f"the report holds `{count}` answers for `{wanted}` images")


def _file_names(images: ComparedImages) -> tuple[str, ...]:
    if images.names is None:
        return ()
    _check_count(images.names.count, images.hashes.count)
    return images.names.texts()


def _class_names(images: ComparedImages) -> tuple[str, ...]:
    if images.class_names is None or images.class_names.count > MOST_IMAGES:
        return ()
    return images.class_names.texts()


def _class(index: int, names: Sequence[str]) -> str:
    return one_line(names[index]) if 0 <= index < len(names) else f"class {index}"


def _kind(label: int, reference: int, answer: int) -> Kind:
    if label == reference:
        return "lost"
    return "won" if label == answer else "changed"
