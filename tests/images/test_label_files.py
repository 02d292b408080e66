"""Files of class names, in every form that is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from squeeze_export.errors import BadInput
from squeeze_export.images import label_files
from squeeze_export.images.label_files import read_labels
from squeeze_export.images.labels import Labels

TENCH = ("tench, Tinca tinca", "goldfish, Carassius auratus")
WNIDS = ("n01440764", "n01443537")


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "labels.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
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
def test_one_name_a_line(tmp_path: Path, content, names):
    assert read_labels(write(tmp_path, content)) == Labels(names)


@pytest.mark.parametrize(
    "content",
    [
        "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n",
        "n01440764\ttench, Tinca tinca\nn01443537\tgoldfish, Carassius auratus\n",
        'wnid,name\nn01440764,"tench, Tinca tinca"\nn01443537,"goldfish, Carassius auratus"\n',
        "1 n01443537 goldfish, Carassius auratus\n0 n01440764 tench, Tinca tinca\n",
        'index,wnid,name\n1,n01443537,"goldfish, Carassius auratus"\n0,n01440764,"tench, Tinca tinca"\n',
        "n01440764 0 tench, Tinca tinca\nn01443537 1 goldfish, Carassius auratus\n",
        json.dumps({str(index): list(pair) for index, pair in enumerate(zip(WNIDS, TENCH, strict=True))}),
        json.dumps([list(pair) for pair in zip(WNIDS, TENCH, strict=True)], indent=1),
    ],
    ids=["synset_words.txt", "tabs", "CSV", "index first", "CSV with index", "index second", "Keras", "JSON pairs"],
)
def test_names_with_wnids(tmp_path: Path, content):
    assert read_labels(write(tmp_path, content)) == Labels(TENCH, WNIDS)


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(WNIDS),
        "1 n01443537\n0 n01440764",
        "n01443537 1\nn01440764 0",
        json.dumps(WNIDS),
        json.dumps({"n01443537": 1, "n01440764": 0}),
    ],
    ids=["lines", "index first", "index last", "JSON", "class_to_idx"],
)
def test_wnids_alone_are_names_too(tmp_path: Path, content):
    assert read_labels(write(tmp_path, content)) == Labels(WNIDS, WNIDS)


@pytest.mark.parametrize(
    "content",
    [
        "0 hot dog\n2 3 of hearts\n1 a, b\n",
        "0: hot dog\n1: a, b\n2: 3 of hearts",
        '0,hot dog\n1,"a, b"\n2,3 of hearts\n',
        'class_id;class_name\n2;3 of hearts\n1;"a, b"\n0;hot dog\n',
        '"index","name"\n0,"hot dog"\n1,"a, b"\n2,"3 of hearts"\n',
        "0\thot dog\n1\ta, b\n2\t3 of hearts\n",
        "hot dog 0\na, b 1\n3 of hearts 2\n",
        '3 of hearts,2\nhot dog,0\n"a, b",1\n',
        "name,index\nhot dog,0\n'a, b',1\n3 of hearts,2\n",
        "{0: 'hot dog',\n 1: \"a, b\",\n 2: '3 of hearts'}\n",
        '{\n0: "hot dog",\n1: "a, b",\n2: "3 of hearts",\n}',
        '["hot dog", "a, b", "3 of hearts"]',
        '\n{"2": "3 of hearts", "0": "hot dog", "1": "a, b"}',
        '{"3 of hearts": 2, "hot dog": 0, "a, b": 1}',
        '{"model_type": "x", "id2label": {"0": "hot dog", "1": "a, b", "2": "3 of hearts"}, "label2id": {"hot dog": 0}}',
        '{"version": 3, "labels": ["hot dog", "a, b", "3 of hearts"]}',
    ],
)
def test_names_with_indices_in_any_order(tmp_path: Path, content):
    assert read_labels(write(tmp_path, content)) == Labels(("hot dog", "a, b", "3 of hearts"))


@pytest.mark.parametrize(
    "names",
    [
        ("5 euro", "10 euro", "20 euro"),
        ("1 cent", "2 cent"),
        ("zone 0", "zone 1", "zone 2"),
        ("type 1", "type 2"),
        ("Boeing 737", "Boeing 747", "A320"),
        ("0", "1", "2"),
        ("tench, Tinca tinca", "n0144"),
        ("{brace", "cat"),
        ("[unknown]", "cat"),
        ("jack-o'-lantern", "'quoted'"),
        ("name", "index"),
    ],
)
def test_numbers_and_signs_that_belong_to_the_names(tmp_path: Path, names):
    assert read_labels(write(tmp_path, "\n".join(names))) == Labels(names)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "holds no labels"),
        (b"[]", "holds no labels"),
        (b"\n", "line `1` is empty"),
        (b"cat\n\ndog\n", "line `2` is empty"),
        (b"cat\n\n\n", "line `2` is empty"),
        (b"cat\ndo\x07g\n", r"line `2` holds control characters: `do\\x07g`"),
        (b"cat\tfish\ndog\n", "line `1` holds control"),
        (b"cat\ndog\n\xff\xfe\n", "line `3` is not UTF-8"),
        (
            b"n01440764 tench\nn01443537 goldfish\nn0148436 shark\n",
            "line `3` is not of the form `wnid name`, as most are: `n0148436 s",
        ),
        (b"0 cat\n1 dog\nant\n", "line `3` is not of the form `index name`, as most are: `ant`"),
        (b"cat 0\ndog 1\nant\n", "line `3` is not of the form `name index`"),
        (b"0 cat\n1 dog\n1 ant\n", "line `3`: class `1` is already on line `2`"),
        (b"index,name\n0,cat\n2,dog\n", "line `3`: class `2`, but there is no class `1` among `2`"),
        (b"1 cat\n2 dog\n3 ant\n", "numbers its `3` classes from 1"),
        (b"n02119789 1 kit_fox\nn02100735 2 English_setter\n", "from 1 \\(`wnid index name`\\)"),
        (b"cat,1\ndog,2\n", "from 1 \\(`name index`\\)"),
        (b'["cat",\n"dog"\n', "line `3` is not JSON"),
        (b'["cat", 3]', "entry `2` is neither a name nor a pair of wnid and name: `3`"),
        (b'[["n01440764", "tench", 1]]', "entry `1` is neither"),
        (b'["cat", ""]', "entry `2` is empty"),
        (b'["cat", "a\\u0000b"]', "entry `2` holds control"),
        (b'{"cat": 0, "dog": 0}', "entry `2`: class `0` is already on entry `1`"),
        (b'{"cat": 0, "dog": 2}', "entry `2`: class `2`, but there is no class `1`"),
        (b'{"cat": -1, "dog": 0}', "no class `1`"),
        (b'{"cat": 0, "dog": true}', "`dog` has `True` where a class index"),
        (b'{"0": "cat", "x": "dog"}', "`0` has `cat` where a class index"),
        (b'{"0": "cat", "0": "dog"}', "the key `0` is there twice"),
        (b'{"0": "cat", "1": NaN}', "entry `2` is neither"),
        (b'{"0": ' + b"[" * 100_000, "is not a JSON file of labels|is not JSON"),
    ],
)
def test_damaged_lists_are_named_by_line_or_entry(tmp_path: Path, content, match):
    with pytest.raises(BadInput, match=match) as caught:
        read_labels(write(tmp_path, content))
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_label_files_are_bounded_and_must_exist(tmp_path: Path, monkeypatch):
    with pytest.raises(BadInput, match="cannot be read \\(No such file"):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(BadInput, match="line `2` is longer than `1,000` characters"):
        read_labels(write(tmp_path, f"cat\n{'x' * 1001}"))
    monkeypatch.setattr(label_files, "MAX_LABEL_COUNT", 2)
    for content in ("a\nb\nc", '["a", "b", "c"]'):
        with pytest.raises(BadInput, match="more than `2` labels"):
            read_labels(write(tmp_path, content))
    monkeypatch.setattr(label_files, "MAX_LABELS_BYTES", 3)
    assert read_labels(write(tmp_path, b"cat")) == Labels(("cat",))
    with pytest.raises(BadInput, match="larger than `3` bytes"):
        read_labels(write(tmp_path, b"cat\n"))


@pytest.mark.parametrize("line", [" " * 500_000 + "x", "7" * 500_000, ", " * 250_000 + "0", "n01440764" + "\t" * 500_000])
def test_a_hostile_line_costs_no_time(tmp_path: Path, line):
    with pytest.raises(BadInput, match=r"longer than|control characters"):
        read_labels(write(tmp_path, f"{line}y\ncat{line}"))


def test_every_form_of_imagenets_thousand_gives_the_same_classes(tmp_path: Path, assets: Path):
    names = read_labels(assets / "images" / "imagenet_classes.txt").names
    wnids = read_labels(assets / "images" / "imagenet_wnids.txt")
    assert wnids == Labels(wnids.names, wnids.names)
    assert len(set(wnids.names)) == len(names) == 1000
    assert len(set(names)) < 1000  # two cranes, two maillots
    pairs = list(enumerate(zip(wnids.names, names, strict=True)))
    for content in (
        "".join(f"{wnid} {name}\n" for _, (wnid, name) in pairs),
        "".join(f"{index} {wnid} {name}\n" for index, (wnid, name) in reversed(pairs)),
        json.dumps({str(index): pair for index, pair in pairs}),
    ):
        assert read_labels(write(tmp_path, content)) == Labels(names, wnids.names)
    for content in (
        "\n".join(names),
        "".join(f"{name} {index}\n" for index, (_, name) in reversed(pairs)),
        "{" + ",\n ".join(f"{index}: {name!r}" for index, (_, name) in pairs) + "}",
        json.dumps(names),
        json.dumps({str(index): name for index, (_, name) in pairs}),
    ):
        assert read_labels(write(tmp_path, content)) == Labels(names)
