"""The images that flipped: which, in what order, in what words."""

from __future__ import annotations

import dataclasses

import pytest
from image_answers import answers, packed

from squeeze_export.errors import BadInput
from squeeze_export.report.flips import MOST_SHOWN, flip_table, flips_line, flips_of
from squeeze_export.report.html import to_html
from squeeze_export.report.markdown import to_markdown
from squeeze_export.results import ComparedImages, PackedNumbers, PackedText

ONE, TWO = "onnx int8, cpu", "onnx fp32, xnnpack"


def test_what_flipped_and_what_it_means(flipped_report):
    lost, won = flips_of(flipped_report)
    assert (lost.file, lost.label, lost.reference, lost.kind, lost.sha63) == ("b.jpg", "bee", "bee", "lost", 12)
    assert [(answer.name, answer.rows, answer.kind) for answer in lost.answers] == [
        ("cat", (ONE,), "lost"),
        ("dog", (TWO,), "lost"),
    ]
    assert (won.file, won.kind, [answer.name for answer in won.answers]) == ("c.jpg", "won", ["cat"])


def test_without_labels_or_names_classes_and_images_have_numbers(flipped_report):
    images = dataclasses.replace(flipped_report.images, labels=packed(-1, -1, -1, -1), names=None, class_names=None)
    first, second = flips_of(dataclasses.replace(flipped_report, images=images))
    assert (first.file, first.label, first.reference, first.kind) == ("image 2", "", "class 1", "changed")
    assert second.file == "image 3"


def test_files_of_one_answer_stand_together_and_those_of_most_files_first(flipped_report):
    rows = tuple(
        dataclasses.replace(flipped_report.measurements[0], device=f"d{index}", answers=answers(0, 3 if index else 2, 0, 1))
        for index in range(3)
    )
    (flip,) = flips_of(dataclasses.replace(flipped_report, measurements=rows))
    assert [(answer.name, len(answer.rows)) for answer in flip.answers] == [("dog", 2), ("cat", 1)]


def test_words(flipped_report):
    flips = flips_of(flipped_report)
    assert flips_line(flips, 4) == (
        "2 of 4 images have another top-1 class than the fp32 reference in at least one file, 1 lost, 1 won"
    )
    assert flips_line(flips * 20, 400).endswith(f"; the first {MOST_SHOWN} are shown")
    text = to_markdown(flipped_report)
    assert "| b.jpg | bee | bee | cat | lost | onnx int8, cpu |" in text
    page = to_html(flipped_report)
    assert page.count('<figure class="flip">') == 2
    assert '<span class="kind won">won</span> cat' in page


def test_nothing_flipped(flipped_report, report):
    same = tuple(dataclasses.replace(row, answers=answers(0, 1, 0, 1)) for row in flipped_report.measurements)
    unchanged = dataclasses.replace(flipped_report, measurements=same)
    assert flips_of(unchanged) == []
    assert flip_table(unchanged) is None
    assert flips_of(report) == []
    assert "flipped" not in to_html(unchanged) + to_html(report)


@pytest.mark.parametrize("field", ["labels", "reference", "names", "answers"])
def test_answers_that_do_not_fit_each_other_are_refused(flipped_report, field):
    if field == "answers":
        row = dataclasses.replace(flipped_report.measurements[0], answers=answers(1, 2))
        broken = dataclasses.replace(flipped_report, measurements=(row,))
    else:
        value = {"labels": packed(1), "reference": answers(1), "names": PackedText.of(["a"])}[field]
        broken = dataclasses.replace(flipped_report, images=dataclasses.replace(flipped_report.images, **{field: value}))
    with pytest.raises(BadInput, match="answers for `4` images"):
        to_html(broken)


def test_a_number_of_images_that_nobody_has_is_not_unpacked(flipped_report):
    vast = PackedNumbers(10**12, flipped_report.images.hashes.data)
    images = dataclasses.replace(flipped_report.images, hashes=vast)
    assert flips_of(dataclasses.replace(flipped_report, images=images)) == []
    with pytest.raises(BadInput, match="is said to be of 8,000,000,000,000 bytes"):
        vast.numbers()


def test_hostile_names_are_text(flipped_report):
    bad = "<script>alert(1)</script> [x](javascript:y) \u202e\x1b[2J"
    names = PackedText.of([bad] * 4)
    images = ComparedImages(
        *(getattr(flipped_report.images, name) for name in ("hashes", "labels", "reference")), names=names, class_names=names
    )
    hostile = dataclasses.replace(flipped_report, images=images)
    for text in (to_html(hostile), to_markdown(hostile)):
        assert "<script" not in text
        assert "&lt;script&gt;" in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "[x](javascript" not in to_markdown(hostile).replace("\\[x\\]", "")
