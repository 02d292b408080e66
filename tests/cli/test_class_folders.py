"""Label files and class folders on the command line: which folder stands for which class, and which names go into the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

WNIDS = tuple(f"n0000000{index}" for index in range(5))
NAMES = ("ant", "bee, honeybee", "house cat", "dog", "eel")


@pytest.fixture
def val(squeeze, tiny: Path):
    """Makes a folder of images for each name, in the current folder."""

    def made(*folders: str) -> Path:
        for number, name in enumerate(folders):
            Path("val", name).mkdir(parents=True)
            shutil.copy(tiny / "eval" / f"{number:02}.png", Path("val", name))
        return Path("val")

    return made


@pytest.fixture
def compared(squeeze, tiny: Path):
    """Exports to ONNX and compares; gives the notes about classes, the report's evaluation, and the file's labels."""

    def run(*arguments: object):
        result = squeeze("onnx", "--weights", tiny / "tiny.safetensors", "--no-bench", *arguments)
        assert result.code == 0, result.err
        report = json.loads(Path("squeeze-export-out/report.json").read_text())
        sidecar = json.loads(Path("squeeze-export-out/squeezenet_custom.fp32.onnx.json").read_text())
        notes = [line for line in result.err.splitlines() if " is class " in line or "more of" in line]
        return notes, report["evaluation"], sidecar["labels"]

    return run


def test_wnid_folders_and_readable_names_from_one_file(val, compared):
    Path("synset_words.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in zip(WNIDS, NAMES, strict=True)))
    folder = val(WNIDS[2], "honeybee", "dog")
    notes, evaluation, labels = compared("--eval", folder, "--labels", "synset_words.txt")
    assert notes == [
        "`honeybee` is class 1 `bee, honeybee`, not letter for letter",
        "`n00000002` is class 2 `house cat`",
    ]
    assert labels == list(NAMES)
    assert evaluation["class_matches"] == [
        {"found": "honeybee", "class_index": 1, "label": "bee, honeybee", "exact": False, "image_count": 1},
        {"found": "dog", "class_index": 3, "label": "dog", "exact": True, "image_count": 1},
        {"found": "n00000002", "class_index": 2, "label": "house cat", "exact": True, "image_count": 1},
    ]
    page = Path("squeeze-export-out/report.html").read_text()
    assert "folder names, matched to the labels" in page
    assert "not letter" not in page
    assert "n00000002" not in page


def test_the_app_reads_other_names_than_the_folders_have(val, compared):
    Path("wnids.txt").write_text("\n".join(WNIDS))
    Path("app.json").write_text(json.dumps(NAMES))
    folder = val(WNIDS[4])
    notes, _, labels = compared("--eval", folder, "--labels", "app.json", "--classes", "wnids.txt")
    assert (notes, labels) == (["`n00000004` is class 4 `eel`"], list(NAMES))
    notes, evaluation, labels = compared("--eval", folder, "--classes", "wnids.txt")
    assert (notes, labels, evaluation["labelled"]) == ([], [], True)


def test_folders_that_have_the_names_of_their_classes_need_no_word(val, compared, tiny):
    notes, evaluation, _ = compared("--eval", val("dog", "ant"), "--labels", tiny / "labels.txt")
    assert notes == []
    assert [row["found"] for row in evaluation["class_matches"]] == ["ant", "dog"]


def test_folders_in_alphabetical_order_are_listed(val, compared):
    notes, _, _ = compared("--eval", val("0", "1", "10", "11", "2"))
    assert notes == ["`0` is class 0", "`1` is class 1", "`10` is class 2", "`11` is class 3", "`2` is class 4"]


def test_many_folders_are_cut_short(val, compared, monkeypatch):
    from squeeze_export.cli import console

    monkeypatch.setattr(console, "SHOWN_CLASSES", 2)
    notes, evaluation, _ = compared("--eval", val("0", "1", "10", "11", "2"))
    assert notes == ["`0` is class 0", "`1` is class 1", "and 3 more of 5 folders or labels: the report's JSON has all"]
    assert len(evaluation["class_matches"]) == 5


def test_json_goes_without_the_notes(val, squeeze, tiny):
    folder = val("0", "1", "10", "11", "2")
    result = squeeze("onnx", "--weights", tiny / "tiny.safetensors", "--no-bench", "--eval", folder, "--json")
    assert " is class " not in result.err
    assert [row["class_index"] for row in json.loads(result.out)["evaluation"]["class_matches"]] == [0, 1, 2, 3, 4]


def test_analyze_says_it_too(val, squeeze, net):
    result = squeeze("analyze", *net, "--eval", val("0", "1", "10", "11", "2"), "--images", 2)
    assert "`10` is class 2\n" in result.err


def test_a_list_of_paths_and_class_indices(val, compared):
    val("anything", "else")
    Path("val.txt").write_text("val/anything/00.png 3\nval/else/01.png 1\n")
    notes, evaluation, _ = compared("--eval", "val.txt")
    assert notes == []
    assert (evaluation["labelled"], evaluation["image_count"], "class_matches" in evaluation) == (True, 2, False)


def test_classes_of_another_count(val, squeeze, net):
    Path("four.txt").write_text("ant\nbee\ncat\ndog\n")
    result = squeeze("onnx", *net, "--classes", "four.txt")
    assert result.refusal()[0] == "`4` labels for a network of `5` classes"


def test_no_labels_are_said_once(squeeze, net, tiny):
    text = "no labels: the files tell a class by its index alone, `--labels FILE` gives them names\n"
    squeeze("calibrate", *net, "--labels", tiny / "labels.txt")
    table = Path("squeeze-export-out/squeezenet_custom.int8.table")
    options = ("--no-validate", "--no-bench")
    assert squeeze("onnx", *net[:2], *options).err.count(text) == 1
    report = json.loads(Path("squeeze-export-out/report.json").read_text())
    assert report["network"]["labels"] == "none"
    for named in (("--labels", tiny / "labels.txt"), ("--int8", "--table", table)):  # the table has kept its names
        assert text not in squeeze("onnx", *net[:2], *named, *options).err
        assert "labels" not in json.loads(Path("squeeze-export-out/report.json").read_text())["network"]
