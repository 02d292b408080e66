"""Class names, and matching folders to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from squeeze_export.errors import BadInput
from squeeze_export.images import labels as labels_module
from squeeze_export.images.labels import LabelIndex, check_label_count, match_folders, read_labels
from squeeze_export.images.names import shown, shown_file


def write(folder: Path, content: bytes) -> Path:
    path = folder / "labels.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"cat\ndog\n", ("cat", "dog")),
        (b"cat\ndog", ("cat", "dog")),
        (b"cat\r\ndog\r\n", ("cat", "dog")),
        (b"\xef\xbb\xbfcat\n", ("cat",)),
        ("père\n犬, イヌ\n".encode(), ("père", "犬, イヌ")),
        (b" crane \ncrane\n", ("crane", "crane")),
    ],
    ids=["plain", "no last newline", "windows", "byte-order mark", "unicode", "duplicates and spaces"],
)
def test_read_labels(tmp_path: Path, content, names):
    assert read_labels(write(tmp_path, content)) == names


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "holds no labels"),
        (b"\n", "line `1` is empty"),
        (b"cat\n\ndog\n", "line `2` is empty"),
        (b"cat\n\n\n", "line `2` is empty"),
        (b"cat\ndo\x07g\n", r"line `2` holds control characters: `do\\x07g`"),
        (b"0\tcat\n", "line `1` holds control"),
        (b"cat\ndog\n\xff\xfe\n", "line `3` is not UTF-8"),
    ],
)
def test_bad_labels(tmp_path: Path, content, match):
    with pytest.raises(BadInput, match=match) as caught:
        read_labels(write(tmp_path, content))
    assert caught.value.hint


def test_labels_are_bounded_and_must_exist(tmp_path: Path, monkeypatch):
    with pytest.raises(BadInput, match="cannot be read \\(No such file"):
        read_labels(tmp_path / "none.txt")
    monkeypatch.setattr(labels_module, "MAX_LABELS_BYTES", 3)
    assert read_labels(write(tmp_path, b"cat")) == ("cat",)
    with pytest.raises(BadInput, match="larger than `3` bytes"):
        read_labels(write(tmp_path, b"cat\n"))


def test_label_count():
    check_label_count(("a", "b"), 2)
    with pytest.raises(BadInput, match="`2` labels for a network of `3` classes"):
        check_label_count(("a", "b"), 3)


def test_index_finds_exact_names_and_refuses_ambiguous_ones():
    index = LabelIndex(("tench", "crane", "crane"))
    assert index.find("tench") == 0
    assert index.find("Tench") is None
    with pytest.raises(BadInput, match="`crane` is the name of classes `1` and `2`") as caught:
        index.find("crane")
    assert "--labels" in str(caught.value.hint)


def test_folders_by_name_in_any_order():
    assert match_folders(["dog", "ant"], ["ant", "dog"], 3, ("dog", "cat", "ant")) == {"dog": 0, "ant": 2}


def test_folders_in_alphabetical_order_only_where_every_class_has_one():
    assert match_folders(["a", "c"], ["a", "b", "c"], 3, ()) == {"a": 0, "b": 1, "c": 2}
    with pytest.raises(BadInput, match="`1` folder cannot be matched to `3` classes"):
        match_folders(["a"], ["a"], 3, ())
    with pytest.raises(BadInput, match="`4` folders") as caught:
        match_folders(["a", "b", "c"], ["a", "b", "c", "notes"], 3, ())
    assert "--labels" in str(caught.value.hint)


def test_folders_that_are_no_class_are_named():
    with pytest.raises(BadInput, match="`2` of `3` folders are not among the labels, the first is `Cat`"):
        match_folders(["Cat", "dog", "eel"], ["Cat", "dog", "eel"], 2, ("cat", "dog"))
    with pytest.raises(BadInput, match="`1` labels for a network of `2`"):
        match_folders(["dog"], ["dog"], 2, ("dog",))
    with pytest.raises(BadInput, match="`crane` is the name of classes"):
        match_folders(["crane"], ["crane"], 2, ("crane", "crane"))


def test_an_ambiguous_name_harms_nobody_who_does_not_use_it():
    assert match_folders(["dog"], ["dog"], 3, ("crane", "dog", "crane")) == {"dog": 1}


def test_names_are_shown_on_one_line(tmp_path: Path):
    assert shown("père\n\x1b[31m\udcff") == "`père\\n\\x1b[31m\\udcff`"
    assert len(shown("x" * 1000)) < 200
    assert shown_file(tmp_path / "a" / "b.jpg", tmp_path) == "`a/b.jpg`"
    assert shown_file(tmp_path / "a.jpg", tmp_path / "other") == f"`{tmp_path / 'a.jpg'}`"


def test_imagenet(assets: Path):
    wnids = read_labels(assets / "images" / "imagenet_wnids.txt")
    names = read_labels(assets / "images" / "imagenet_classes.txt")
    assert len(wnids) == len(names) == 1000
    assert len(set(wnids)) == 1000
    assert len(set(names)) < 1000
    assert LabelIndex(wnids).find("n02012849") == 134
    with pytest.raises(BadInput, match="`crane` is the name of classes `134` and `517`"):
        LabelIndex(names).find("crane")
