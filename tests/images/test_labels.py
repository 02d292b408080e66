"""Class names, and matching folders to them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from squeeze_export.errors import BadInput
from squeeze_export.images.label_files import read_labels
from squeeze_export.images.labels import ClassMatch, LabelIndex, Labels, check_label_count, match_folders
from squeeze_export.images.names import shown, shown_file

SYNSETS = Labels(
    ("tench, Tinca tinca", "great white shark, white shark", "crane", "crane", "maillot", "maillot, tank suit"),
    ("n01440764", "n01484850", "n02012849", "n03126707", "n03710637", "n03710721"),
)


def exactly(**classes: int) -> tuple[ClassMatch, ...]:
    return tuple(ClassMatch(name, index, exact=True) for name, index in classes.items())


def test_label_count():
    check_label_count(Labels(("a", "b")), 2)
    with pytest.raises(BadInput, match="`2` labels for a network of `3` classes"):
        check_label_count(Labels(("a", "b")), 3)


def test_index_finds_names_and_refuses_ambiguous_ones():
    index = LabelIndex(Labels(("tench", "crane", "crane")))
    assert index.find("tench") == ClassMatch("tench", 0, exact=True)
    assert index.find("tenc") is None
    with pytest.raises(BadInput, match="`crane` is the name of classes `1` and `2`") as caught:
        index.find("crane")
    assert "--labels" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["Hot_Dog", "hot-dog", "HOT  DOG", "hot dog ", "hot__dog"])
def test_case_spaces_underscores_and_hyphens_do_not_count_where_one_class_is_left(name):
    assert LabelIndex(Labels(("cat", "hot dog"))).find(name) == ClassMatch(name, 1, exact=False)
    assert LabelIndex(Labels(("cat", "hotdog"))).find(name) is None
    with pytest.raises(BadInput, match="is the name of classes `0` and `2`"):
        LabelIndex(Labels(("hot-dog", "cat", "hot_dog"))).find(name.replace("hot-dog", "Hot-dog"))


def test_the_very_name_comes_before_one_that_is_only_alike():
    index = LabelIndex(Labels(("hot-dog", "cat", "hot_dog")))
    assert index.find("hot_dog") == ClassMatch("hot_dog", 2, exact=True)


def test_accents_may_be_composed_or_not():
    composed = unicodedata.normalize("NFC", "père")
    apart = unicodedata.normalize("NFD", "père")
    assert composed != apart
    assert LabelIndex(Labels((composed,))).find(apart) == ClassMatch(apart, 0, exact=False)


@pytest.mark.parametrize(
    ("name", "found", "exact"),
    [
        ("n01484850", 1, True),
        ("N01484850", 1, False),
        ("great white shark, white shark", 1, True),
        ("great_white_shark", 1, False),
        ("White Shark", 1, False),
        ("Tinca_tinca", 0, False),
        ("n01440764-tench", 0, False),
        ("n01440764_anything", 0, False),
        ("n99999999-tench", None, False),
        ("shark", None, False),
        ("maillot", 4, True),
        ("tank suit", 5, False),
    ],
)
def test_wnids_and_wordnets_synonyms(name, found, exact):
    assert LabelIndex(SYNSETS).find(name) == (None if found is None else ClassMatch(name, found, exact))


def test_commas_mean_synonyms_only_beside_wnids():
    assert LabelIndex(Labels(("shoes, red", "hat"))).find("shoes") is None


def test_a_synonym_of_two_classes_is_refused():
    labels = Labels(("bathing suit, maillot", "tank suit, maillot"), ("n00000001", "n00000002"))
    with pytest.raises(BadInput, match="`maillot` is the name of classes `0` and `1`"):
        LabelIndex(labels).find("maillot")


def test_folders_by_name_in_any_order():
    assert match_folders(["dog", "ant"], ["ant", "dog"], 3, Labels(("dog", "cat", "ant"))) == exactly(dog=0, ant=2)


def test_folders_in_alphabetical_order_only_where_every_class_has_one():
    assert match_folders(["a", "c"], ["a", "b", "c"], 3, Labels()) == tuple(
        ClassMatch(name, index, exact=False) for index, name in enumerate("abc")
    )
    with pytest.raises(BadInput, match="`1` folder cannot be matched to `3` classes"):
        match_folders(["a"], ["a"], 3, Labels())
    with pytest.raises(BadInput, match="`4` folders") as caught:
        match_folders(["a", "b", "c"], ["a", "b", "c", "notes"], 3, Labels())
    assert "--labels" in str(caught.value.hint)


def test_folders_that_are_no_class_are_named():
    labels = Labels(("cat", "dog"))
    with pytest.raises(BadInput, match="`2` of `3` folders are not among the labels, the first is `cow`") as caught:
        match_folders(["cow", "dog", "eel"], ["cow", "dog", "eel"], 2, labels)
    assert "--classes" in str(caught.value.hint)
    with pytest.raises(BadInput, match="`1` labels for a network of `2`"):
        match_folders(["dog"], ["dog"], 2, Labels(("dog",)))
    with pytest.raises(BadInput, match="`crane` is the name of classes"):
        match_folders(["crane"], ["crane"], 2, Labels(("crane", "crane")))


@pytest.mark.parametrize("names", [("Cat", "cat"), ("cat", "n02121620")])
def test_two_folders_of_one_class_are_refused(names):
    labels = Labels(("cat", "dog"), ("n02121620", "n02084071"))
    with pytest.raises(BadInput, match=f"the folders `{names[0]}` and `{names[1]}` would both be class `0`"):
        match_folders(names, names, 2, labels)


def test_an_ambiguous_name_harms_nobody_who_does_not_use_it():
    assert match_folders(["dog"], ["dog"], 3, Labels(("crane", "dog", "crane"))) == exactly(dog=1)


def test_names_are_shown_on_one_line(tmp_path: Path):
    assert shown("père\n\x1b[31m\udcff") == "`père\\n\\x1b[31m\\udcff`"
    assert len(shown("x" * 1000)) < 200
    assert shown_file(tmp_path / "a" / "b.jpg", tmp_path) == "`a/b.jpg`"
    assert shown_file(tmp_path / "a.jpg", tmp_path / "other") == f"`{tmp_path / 'a.jpg'}`"


def test_imagenet(assets: Path):
    wnids = read_labels(assets / "images" / "imagenet_wnids.txt")
    names = read_labels(assets / "images" / "imagenet_classes.txt")
    assert LabelIndex(wnids).find("n02012849") == ClassMatch("n02012849", 134, exact=True)
    with pytest.raises(BadInput, match="`crane` is the name of classes `134` and `517`"):
        LabelIndex(names).find("crane")
    both = LabelIndex(Labels(names.names, wnids.names))
    assert both.find("n02012849") == ClassMatch("n02012849", 134, exact=True)
    assert both.find("Great_White_Shark") == ClassMatch("Great_White_Shark", 2, exact=False)
